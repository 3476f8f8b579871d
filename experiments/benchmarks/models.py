"""Measures every encoder with every head: training speed, parameters and memory; for some, sampling speed.

    python -m experiments.benchmarks.models

Prints one table for 36 nodes and one for 207, both with windows of 24 steps: training steps per second
(forward, backward, optimiser), parameters, and the peak memory that training takes. Times are medians over
rounds in which each model takes one step in turn, so that other work on the machine slows all of them alike.
Memory is the growth of a process' peak from before the model is made to after two training steps, each model
in a fresh process. The last table has the sampled paths per second of all encoders with one head and of all
heads with one encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from experiments.benchmarks.harness import (
    HIDDEN,
    STEPS,
    arguments,
    in_a_fresh_process,
    interleaved,
    random_problem,
)
from tsgen.data.series import SeriesBatch
from tsgen.encoders import AttentionEncoder, ConvolutionEncoder, Encoder, GraphGRUEncoder, WindowEncoder
from tsgen.heads import GaussianHead, Head, MixtureHead, MixtureNADEHead
from tsgen.heads.likelihood import masked_nll
from tsgen.models import AutoregressiveModel

ENCODERS: dict[str, Callable[..., Encoder]] = {
    "linear window, 2 slices": partial(WindowEncoder, order=2, layers=0),
    "window, 6 slices": partial(WindowEncoder, order=6, hidden=HIDDEN),
    "convolution, 16 slices": partial(ConvolutionEncoder, hidden=HIDDEN, layers=4),
    "GRU": partial(GraphGRUEncoder, hidden=HIDDEN),
    "attention, 2 blocks": partial(AttentionEncoder, hidden=HIDDEN),
}
HEADS: dict[str, Callable[..., Head]] = {
    "Gaussian": GaussianHead,
    "mixture": partial(MixtureHead, components=5),
    "NADE": partial(MixtureNADEHead, components=5, over="slice"),
}
SIZES = {36: (32, 20), 207: (16, 10)}
"""For each number of nodes: windows in a batch, and paths drawn of each window."""


def build(nodes: int, encoder: str, messages: bool, head: str) -> tuple[AutoregressiveModel, SeriesBatch]:
    """Returns a model of the table and a batch for it."""
    template, batch = random_problem(nodes, *SIZES[nodes])
    chosen = ENCODERS[encoder] if messages else partial(ENCODERS[encoder], convolution=None)
    return AutoregressiveModel(template.spec, chosen, HEADS[head], sampler=template.sampler), batch


def training_step(model: AutoregressiveModel, batch: SeriesBatch) -> Callable[[], None]:
    """Returns a function that takes one training step."""
    optimizer = model.configure_optimizers()

    def step() -> None:
        masked_nll(model(batch), batch.values, batch.target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def train_twice(nodes: int, encoder: str, messages: bool, head: str) -> None:
    """Takes two training steps: the second one also has the memory of the optimiser."""
    step = training_step(*build(nodes, encoder, messages, head))
    step()
    step()


def matrix(nodes: int, repeats: int) -> None:
    """Prints the table of all encoders and heads."""
    rows = [(encoder, messages) for encoder in ENCODERS for messages in (True, False)]
    cells = [(*row, head) for row in rows for head in HEADS]
    memory = {cell: in_a_fresh_process(train_twice, nodes, *cell).growth for cell in cells}
    built = {cell: build(nodes, *cell) for cell in cells}
    seconds = dict(
        zip(cells, interleaved([training_step(*built[cell]) for cell in cells], repeats), strict=True)
    )
    print(f"\n{nodes} nodes, batches of {SIZES[nodes][0]} windows of {STEPS} steps: ", end="")
    print("steps/s · parameters · MiB\n")
    print(f"| encoder | messages | {' | '.join(HEADS)} |")
    print("|" + " --- |" * (2 + len(HEADS)))
    for encoder, messages in rows:
        shown = []
        for head in HEADS:
            cell = (encoder, messages, head)
            count = sum(parameter.numel() for parameter in built[cell][0].parameters())
            shown.append(f"{1 / seconds[cell]:.1f} · {count:,} · {memory[cell]:,.0f}")
        print(f"| {encoder} | {'yes' if messages else 'no'} | {' | '.join(shown)} |", flush=True)


def paths(repeats: int) -> None:
    """Prints the sampled paths per second of some of the models."""
    cells = [(encoder, "Gaussian") for encoder in ENCODERS] + [("GRU", head) for head in list(HEADS)[1:]]
    print("\nsampled paths per second, with messages\n")
    print(f"| encoder | head | {' | '.join(f'{nodes} nodes' for nodes in SIZES)} |")
    print("|" + " --- |" * (2 + len(SIZES)))
    speeds = []
    for nodes, (windows, samples) in SIZES.items():
        models = [build(nodes, encoder, True, head) for encoder, head in cells]
        works = [partial(model.sampler, model, batch) for model, batch in models]
        speeds.append([windows * samples / seconds for seconds in interleaved(works, repeats)])
    for (encoder, head), *row in zip(cells, *speeds, strict=True):
        print(f"| {encoder} | {head} | {' | '.join(f'{speed:,.0f}' for speed in row)} |")


def main() -> None:
    """Prints all tables."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--repeats", type=int, default=5, help="rounds that the training times are medians of"
    )
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, states of {HIDDEN} numbers")
    for nodes in SIZES:
        matrix(nodes, options.repeats)
    paths(repeats=3)


if __name__ == "__main__":
    main()

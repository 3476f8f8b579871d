r"""Compares the encoders at growing context, on data whose best prediction from any context is known.

    python -m experiments.benchmarks.encoders

The process is, on a graph of 6 nodes, with B the shift by one step and P the mean over in-neighbours,

.. math:: (1 - 0.2 B - 0.45 P B) (1 - 0.6 B^7) (1 - 0.6 B^{48}) (1 - 0.6 B^{192}) \, x_t = \epsilon_t,

an autoregression of order 248 whose four factors act on four time scales. A context of 1, 8, 64 and 256
slices covers one, two, three and all of them. The autocovariances (sums over the responses to the noise,
truncated where these are below rounding) give the best one-step prediction from the last p slices alone, with
which the encoders at context p are compared.

Prints, for each encoder and context, the NLL on unseen steps and the exact one, training steps per second,
peak memory, and the spread of training over three seeds; writes docs/images/encoders.png. Every model takes
the same number of steps, with the same number of slices in each. The window and the convolution read p
slices; the attention gets windows of p + 1 steps; the recurrence reads the whole past, and its gradients go
back p steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, Int64
from matplotlib.figure import Figure
from torch import Tensor

from experiments.benchmarks.harness import arguments, in_a_fresh_process, interleaved
from experiments.figures import IMAGES
from tsgen.data.series import GraphSeries, SeriesBatch, SeriesSpec
from tsgen.encoders import AttentionEncoder, ConvolutionEncoder, Encoder, GraphGRUEncoder, WindowEncoder
from tsgen.encoders.propagation import Propagation
from tsgen.figures import BLUE, INK, PALE, STYLE, VERMILLION
from tsgen.heads import GaussianHead
from tsgen.heads.likelihood import masked_nll
from tsgen.models import AutoregressiveModel
from tsgen.simulate.examples import geometric_graph

IMAGE = IMAGES / "encoders.png"
NODES, OWN, COUPLING, SEASON = 6, 0.2, 0.45, 0.6
SEASONS = (7, 48, 192)
CONTEXTS = (1, 8, 64, 256)
TRAIN, BURN_IN = 6000, 12_000
BLOCKS, BLOCK, GAP = 32, 32, 256
"""Scored steps: after the training steps, the last 32 of every 256, 32 times."""
WINDOW, SLICES, STEPS, HIDDEN, SEEDS = 288, 864, 200, 32, 3
COLOURS = {"window": BLUE, "convolution": "#009E73", "GRU": VERMILLION, "attention": "#CC79A7"}


# ------------------------------------------------------------------------------------------------- exact laws


def respond(noise: Float[Tensor, "time nodes *paths"]) -> Float[Tensor, "time nodes *paths"]:
    """Returns the response of the process to given noise, starting from zero."""
    x = noise.clone()
    for season in SEASONS:
        for start in range(season, len(x), season):
            now = x[start : start + season]
            now += SEASON * x[start - season : start - season + len(now)]
    step = OWN * torch.eye(NODES) + COUPLING * Propagation(geometric_graph(NODES, 0)).mean
    step = step.to(x.dtype)
    for t in range(1, len(x)):
        x[t] += step @ x[t - 1]
    return x


def autocovariance(lags: int) -> Float[Tensor, "lags+1 nodes nodes"]:
    """Returns the covariance of a slice with the slices 0, 1, ... steps before it."""
    impulse = torch.zeros(BURN_IN, NODES, NODES, dtype=torch.float64)
    impulse[0] = torch.eye(NODES)
    response = respond(impulse)
    return torch.stack(
        [torch.einsum("jab,jcb->ac", response[h:], response[: BURN_IN - h]) for h in range(lags + 1)]
    )


def best(gamma: Float[Tensor, "_ nodes nodes"], p: int) -> tuple[Tensor, Tensor]:
    """Returns the best prediction from p slices: weights, latest slice first, and error variance by node."""
    both_ways = torch.cat([gamma[1 : p + 1].flip(0).mT, gamma[: p + 1]])  # lags -p, ..., p
    i = torch.arange(p)
    past = both_ways[i - i[:, None] + p].transpose(1, 2).reshape(p * NODES, p * NODES)
    cross = gamma[1 : p + 1].transpose(0, 1).reshape(NODES, p * NODES)
    weights = torch.cholesky_solve(cross.mT, torch.linalg.cholesky(past)).mT
    return weights.unflatten(1, (p, NODES)), (gamma[0] - weights @ cross.mT).diagonal()


def target_steps() -> Int64[Tensor, "blocks steps"]:
    """Returns the scored steps, spread widely because the process has a memory of hundreds of steps."""
    return TRAIN + GAP * torch.arange(1, BLOCKS + 1)[:, None] - BLOCK + torch.arange(BLOCK)


def exact_nll(
    values: Float[Tensor, "time nodes"], gamma: Tensor, p: int
) -> tuple[float, Float[np.ndarray, " blocks"]]:
    """Returns the NLL of the best prediction from p slices in nats per entry: expected, and in each block."""
    weights, variance = best(gamma, p)
    expected = 0.5 * (2 * math.pi * math.e * variance).log().mean()
    past = values[target_steps()[..., None] - torch.arange(1, p + 1)]  # [block, step, lag, node]
    law = torch.distributions.Normal(torch.einsum("btlu,vlu->btv", past, weights), variance.sqrt())
    return float(expected), -law.log_prob(values[target_steps()]).mean(dim=(1, 2)).numpy()


# ------------------------------------------------------------------------------------------------- the models


class Entry(NamedTuple):
    """An encoder at some context.

    Attributes:
        encoder: Factory of the encoder.
        window: Length of a window, in steps.
        targets: Steps at the end of a window that are scored.
        truncated_steps: Steps after which gradients are cut; None to cut nowhere.
    """

    encoder: Callable[..., Encoder]
    window: int = WINDOW
    targets: int = BLOCK
    truncated_steps: int | None = None


def entry(name: str, p: int) -> Entry:
    """Returns an encoder at a context of p slices."""
    if name == "window":
        return Entry(partial(WindowEncoder, order=p, hidden=HIDDEN))
    if name == "convolution":
        return Entry(partial(ConvolutionEncoder, hidden=HIDDEN, layers=int(math.log2(p))))
    if name == "GRU":
        return Entry(partial(GraphGRUEncoder, hidden=HIDDEN), truncated_steps=p)
    return Entry(partial(AttentionEncoder, hidden=HIDDEN), window=p + 1, targets=1)


# a convolution reads at least 2 slices
ENTRIES = [(name, p) for name in COLOURS for p in CONTEXTS if (name, p) != ("convolution", 1)]


def simulated() -> GraphSeries:
    """Returns the series, in units of the noise."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(BURN_IN + TRAIN + BLOCKS * GAP, NODES, dtype=torch.float64, generator=generator)
    values = respond(noise)[BURN_IN:, :, None].float()
    return GraphSeries(values, torch.ones_like(values, dtype=torch.bool), geometric_graph(NODES, 0))


def cut(series: GraphSeries, starts: Tensor, window: int, targets: int) -> SeriesBatch:
    """Returns windows of a series with everything visible and the last steps scored."""
    position = starts[:, None] + torch.arange(window)
    values = series.values[position]
    everything = torch.ones_like(values, dtype=torch.bool)
    target = everything.clone()
    target[:, : window - targets] = False
    return SeriesBatch(values, everything, target, series.graph, position)


class Training:
    """The training of one model, one step at a time."""

    def __init__(self, series: GraphSeries, name: str, p: int, seed: int) -> None:
        torch.manual_seed(seed)
        spec = SeriesSpec.of(series, [slice(0, TRAIN)])
        self.series, self.entry, self.norms = series, entry(name, p), list[float]()
        self.model = AutoregressiveModel(
            spec, self.entry.encoder, GaussianHead, truncated_steps=self.entry.truncated_steps
        ).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=0.0)
        # warm-up: with a thousand inputs the full learning rate is too large for the first steps
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=5e-3, total_steps=STEPS, cycle_momentum=False
        )

    def step(self) -> None:
        """Takes one training step on random windows."""
        window = self.entry.window
        starts = torch.randint(TRAIN - window + 1, (SLICES // window,))
        batch = cut(self.series, starts, window, window)
        masked_nll(self.model(batch), batch.values, batch.target).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.norms.append(float(norm))

    @torch.no_grad()
    def nll(self) -> Float[np.ndarray, " blocks"]:
        """Returns the NLL of each block, in nats per entry, each step given the context of the encoder."""
        window, each = self.entry.window, self.entry.targets
        starts = target_steps().view(-1, each)[:, -1] + 1 - window
        self.model.eval()
        sums = [
            self.model.log_prob(cut(self.series, some, window, each)).double().sum(dim=(1, 2, 3))
            for some in starts.split(64 * WINDOW // window)
        ]
        return -torch.cat(sums).view(BLOCKS, -1).sum(dim=1).numpy() / (BLOCK * NODES)


class Outcome(NamedTuple):
    """The result of one run.

    Attributes:
        nll: The NLL of each block, in nats per entry.
        spike: The largest gradient norm over the median one, in the second half of training.
    """

    nll: np.ndarray
    spike: float


def runs(name: str, p: int) -> list[Outcome]:
    """Trains one model per seed."""
    series, outcomes = simulated(), []
    for seed in range(SEEDS):
        training = Training(series, name, p, seed)
        for _ in range(STEPS):
            training.step()
        late = np.array(training.norms[STEPS // 2 :])
        outcomes.append(Outcome(training.nll(), float(late.max() / np.median(late))))
    return outcomes


# ---------------------------------------------------------------------------------------------------- results


def draw(
    exact: dict[int, np.ndarray],
    outcomes: dict[tuple[str, int], list[Outcome]],
    speed: dict[tuple[str, int], float],
) -> None:
    """Draws the NLL above that of the noise, and the training speed, against the context."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
        floor = exact[CONTEXTS[-1]].mean()
        left.plot(
            CONTEXTS, [exact[p].mean() - floor for p in CONTEXTS], "s--", color=INK, lw=1, ms=4, label="exact"
        )
        for name, colour in COLOURS.items():
            contexts = [p for p in CONTEXTS if (name, p) in outcomes]
            nll = np.array([[run.nll.mean() - floor for run in outcomes[name, p]] for p in contexts])
            middle = np.median(nll, axis=1)
            spread = np.abs(np.stack([nll.min(axis=1), nll.max(axis=1)]) - middle)
            left.errorbar(contexts, middle, spread, color=colour, marker="o", ms=4, lw=1.5, label=name)
            right.plot(contexts, [speed[name, p] for p in contexts], "o-", color=colour, ms=4, lw=1.5)
        for ax in (left, right):
            ax.set_xscale("log", base=2)
            ax.set_xticks(CONTEXTS, labels=[str(p) for p in CONTEXTS])
            ax.minorticks_off()
            ax.set_xlabel("context p [slices]")
            ax.grid(axis="y", color=PALE, lw=0.5)
        left.set(ylim=(0, None), ylabel="NLL above that of the noise [nats per entry]")
        left.set_title("One step ahead on unseen data: median and range of three seeds")
        right.set_yscale("log")
        right.set(ylabel="training steps per second", title="Speed")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
        figure.savefig(IMAGE, dpi=100)
    print(f"\nwrote {IMAGE}")


def row(runs: list[Outcome], exact: Float[np.ndarray, " blocks"]) -> list[str]:
    """Returns the cells of the table for the runs of one encoder at one context."""
    median = sorted(runs, key=lambda run: run.nll.mean())[len(runs) // 2]
    all_nll = [run.nll.mean() for run in runs]
    above = median.nll - exact
    error = above.std(ddof=1) / len(above) ** 0.5
    return [
        f"{median.nll.mean():.3f}",
        f"{min(all_nll):.3f} to {max(all_nll):.3f}",
        f"{above.mean():+.3f} ± {error:.3f}",
        f"{max(run.spike for run in runs):.1f}",
    ]


def main() -> None:
    """Trains and times all encoders, prints the tables and draws the figure."""
    arguments(__doc__).parse_args()
    series, gamma = simulated(), autocovariance(max(CONTEXTS))
    values = series.values[..., 0].double()
    exact = {p: exact_nll(values, gamma, p) for p in CONTEXTS}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; {STEPS} steps of {SLICES:,} slices")
    print("\n| context | exact NLL, expected | on the test steps |\n| --- | --- | --- |")
    for p, (expected, blocks) in exact.items():
        print(f"| {p} | {expected:.3f} | {blocks.mean():.3f} |")
    trainings = {key: Training(series, *key, seed=0) for key in ENTRIES}
    seconds = interleaved([training.step for training in trainings.values()], 5)
    speed = {key: 1 / step_seconds for key, step_seconds in zip(trainings, seconds, strict=True)}
    del trainings
    titles = ["encoder", "context", "NLL, median", f"range of {SEEDS} seeds", "above exact"]
    titles += ["largest / median gradient", "steps/s", "peak MiB"]
    print(f"\n| {' | '.join(titles)} |\n|{' --- |' * len(titles)}")
    outcomes = {}
    for name, p in ENTRIES:
        measured = in_a_fresh_process(runs, name, p)
        outcomes[name, p] = measured.result
        cells = [name, str(p), *row(measured.result, exact[p][1])]
        print(f"| {' | '.join(cells)} | {speed[name, p]:.1f} | {measured.growth:,.0f} |", flush=True)
    draw({p: blocks for p, (_, blocks) in exact.items()}, outcomes, speed)


if __name__ == "__main__":
    main()

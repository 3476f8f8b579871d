"""Measures what each head and each transform costs, as multiples of a mixture of Gaussians on real values.

    python -m experiments.benchmarks.heads

A training step is forward, loss, backward and the optimiser's step of an autoregressive model on windows of
24 steps; drawing is a sampler's whole pass over the same windows. Both have the benchmarks' usual encoder.
Heads take turns, so that other work on the machine slows all of them alike, and the medians are compared.
Uses one thread of one process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.harness import STEPS, arguments, timed
from tsgen.data.detection import fit_transforms
from tsgen.data.series import GraphSeries, SeriesBatch, SeriesSpec
from tsgen.data.support import Support
from tsgen.data.transforms import names_for
from tsgen.encoders import GraphGRUEncoder
from tsgen.heads import (
    GaussianHead,
    Head,
    MixtureHead,
    NegativeBinomialHead,
    PoissonHead,
    StudentTHead,
    ZeroInflatedHead,
)
from tsgen.models import AutoregressiveModel
from tsgen.sampling import Ancestral
from tsgen.simulate.examples import geometric_graph

NODES, WINDOWS, SAMPLES, HIDDEN = 36, 16, 10, 64
SUPPORTS = ("real", "positive", "non_negative", "counts", "interval(0, 100)", "interval[0, 100]")
HEADS: dict[str, tuple[Callable[..., Head], str]] = {
    "GaussianHead": (GaussianHead, "real"),
    "StudentTHead": (StudentTHead, "real"),
    "StudentTHead, 3 components": (partial(StudentTHead, components=3), "real"),
    "StudentTHead of rain": (StudentTHead, "non_negative"),
    "ZeroInflatedHead": (ZeroInflatedHead, "non_negative"),
    "PoissonHead": (PoissonHead, "counts"),
    "NegativeBinomialHead": (NegativeBinomialHead, "counts"),
    "ZeroInflatedHead of PoissonHead": (partial(ZeroInflatedHead, head=PoissonHead), "counts"),
}


def values_of(text: str) -> Tensor:
    """Returns values of a support for one node after another."""
    generator, support = torch.Generator().manual_seed(0), Support.parse(text)
    z = torch.randn(STEPS + WINDOWS, NODES, 1, generator=generator)
    if text == "real":
        return z
    x = torch.where(z > 0, z.exp(), 0) if support.atoms[0] else z.exp()
    x = torch.poisson(x, generator) if support.step else x
    return (25 * x if support.high < torch.inf else x).clamp(*support.ends)


def problem(head: Callable[..., Head], text: str, transform: str | None) -> tuple[Any, SeriesBatch]:
    """Returns a model with random weights, and windows of which a third is hidden."""
    values = values_of(text)
    series = GraphSeries(values, torch.ones_like(values, dtype=torch.bool), geometric_graph(NODES, 0))
    spec = SeriesSpec.of(series, None, fit_transforms(series, None, text, transform))
    position = torch.arange(STEPS) + torch.arange(WINDOWS)[:, None]
    context = torch.rand(WINDOWS, STEPS, NODES, 1, generator=torch.Generator().manual_seed(1)) > 1 / 3
    batch = SeriesBatch(values[position], context, torch.ones_like(context), series.graph, position)
    torch.manual_seed(0)
    encoder = partial(GraphGRUEncoder, hidden=HIDDEN)
    return AutoregressiveModel(spec, encoder, head, sampler=Ancestral(SAMPLES)), batch


def works(head: Callable[..., Head], text: str, transform: str | None) -> list[Callable[[], object]]:
    """Returns functions that take a training step, and that draw."""
    model, batch = problem(head, text, transform)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    stream = torch.arange(WINDOWS)

    def train() -> None:
        optimizer.zero_grad()
        model.objective.loss(model, batch, stream, 0).backward()
        optimizer.step()

    def draw() -> None:
        with torch.no_grad():
            model.sampler(model, batch)

    return [train, draw]


def main() -> None:
    """Prints the ratios."""
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="rounds of which the median is taken")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, tuple[Callable[..., Head], str, str | None]] = {
        "MixtureHead, real": (MixtureHead, "real", None)
    }
    for text in SUPPORTS:
        for name in names_for(Support.parse(text)):
            rows[f"MixtureHead, {text}, {name}"] = (MixtureHead, text, name)
    rows |= {f"{name}, {text}": (head, text, None) for name, (head, text) in HEADS.items()}
    base = works(*rows["MixtureHead, real"])
    print("| head | training step | drawing |\n| --- | --- | --- |")
    for name, row in rows.items():
        seconds = timed([*base, *works(*row)], options.repeats)
        ratios = [sorted(seconds[:, k + 2] / seconds[:, k])[options.repeats // 2] for k in (0, 1)]
        print(f"| {name} | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()

"""What revealing entries in groups buys: joint samples of an any-order model, against the number of groups.

    python -m experiments.benchmarks.groups runs/aqi36_any_order FOLDER

RUN is the folder of a run of ``aqi36_any_order``, FOLDER that of the data. The test windows are drawn once
for each number of groups, everything else alike. One group draws each entry from its own law, independently
of all others. Printed and drawn, to ``docs/images/groups.png``:

* how often the central 90 % interval of the network's hourly mean (over the scored entries of an hour, of the
  hours that have at least ten) covers its truth;
* the energy score of a window, less that of one group, with a 95 % interval over windows;
* MAE and CRPS of single entries, less those of one group, with 95 % intervals: they should not suffer.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from datamodules import AirQualityDataModule
from tsgen.data.series import SeriesBatch
from tsgen.evaluation.bootstrap import WindowBootstrap
from tsgen.figures import BLUE, GREY, INK, PALE, STYLE, VERMILLION
from tsgen.metrics import crps, empirical_quantiles, energy_score
from tsgen.metrics.ensemble import central_interval
from tsgen.models import DensityModel, load
from tsgen.sampling import AnyOrder

IMAGE = Path("docs/images/groups.png")
GROUPS = (1, 2, 4, 6, 12, 24)
FEWEST = 10
"""Scored entries that an hour must have for its mean to count."""


class Result(NamedTuple):
    """What one number of groups gives.

    Attributes:
        covered: Whether the interval of the network's mean covers it, for each window and hour that counts,
            and how many of those a window has.
        energy: The energy score of each window.
        errors: Sums over each window's scored entries of the absolute error of the median and of the CRPS.
        seconds: Processor time of the draws.
    """

    covered: tuple[np.ndarray, np.ndarray]
    energy: np.ndarray
    errors: dict[str, np.ndarray]
    seconds: float


def network_means(
    samples: Float[Tensor, "samples batch time nodes channels"], batch: SeriesBatch
) -> tuple[Float[Tensor, "samples batch time"], Float[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
    """Means over the scored entries of each hour, of the draws and of the truth, and which hours count."""
    scored, count = batch.hidden, batch.hidden.sum(dim=(2, 3))
    drawn = torch.where(scored, samples, 0).sum(dim=(3, 4)) / count.clamp(min=1)
    truth = torch.where(scored, batch.values, 0).sum(dim=(2, 3)) / count.clamp(min=1)
    return drawn, truth, count >= FEWEST


def judge(model: DensityModel, batch: SeriesBatch, sampler: AnyOrder) -> Result:
    """Draws the windows and scores them."""
    begun = time.process_time()
    samples = sampler(model, batch).values
    seconds = time.process_time() - begun
    drawn, truth, counts = network_means(samples, batch)
    low, high = central_interval(drawn.sort(dim=0).values, 0.9)
    covered = ((low <= truth) & (truth <= high) & counts).sum(dim=1)
    median = empirical_quantiles(samples.sort(dim=0).values, torch.tensor([0.5]))[0]
    values = torch.where(batch.hidden, batch.values, 0)
    entries = {"MAE": (median - values).abs(), "CRPS": crps(samples, values)}
    sums = {name: torch.where(batch.hidden, x, 0).sum(dim=(1, 2, 3)) for name, x in entries.items()}
    return Result(
        (covered.double().numpy(), counts.sum(dim=1).double().numpy()),
        energy_score(samples, batch.values, batch.hidden).double().numpy(),
        {name: total.double().numpy() for name, total in sums.items()},
        seconds,
    )


def with_interval(total: np.ndarray, weight: np.ndarray) -> tuple[float, float, float]:
    """A ratio of two sums over windows, and the ends of its 95 % interval."""
    bootstrap = WindowBootstrap(len(total))
    interval = bootstrap.interval(total.sum() / weight.sum(), bootstrap.ratios(total, weight), weight)
    assert interval is not None  # there are 82 windows
    return float(total.sum() / weight.sum()), *interval


def table(results: dict[int, Result], batch: SeriesBatch) -> dict[int, dict[str, tuple[float, float, float]]]:
    """Coverage, and the differences to one group, each with its interval."""
    weight = batch.hidden.sum(dim=(1, 2, 3)).double().numpy()
    scored = (weight > 0).astype(float)
    first, rows = results[min(results)], {}
    for groups, result in results.items():
        row = {"coverage": with_interval(*result.covered)}
        row["energy"] = with_interval(np.nan_to_num(result.energy - first.energy), scored)
        for name, total in result.errors.items():
            row[name] = with_interval(total - first.errors[name], weight)
        rows[groups] = row
    return rows


def show(
    rows: dict[int, dict[str, tuple[float, float, float]]], results: dict[int, Result], batch: SeriesBatch
) -> None:
    """Prints the table."""
    first, weight = results[min(results)], batch.hidden.sum().item()
    print(
        f"one group: energy score {np.nanmean(first.energy):.2f}, "
        f"MAE {first.errors['MAE'].sum() / weight:.3f}, CRPS {first.errors['CRPS'].sum() / weight:.3f}; "
        f"{int(first.covered[1].sum())} hours\n"
    )
    print("| groups | covered by 90 % | energy score | MAE | CRPS | CPU-seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for groups, row in rows.items():
        value, low, high = row["coverage"]
        cells = [f"{value:.1%} ({low:.1%} to {high:.1%})"]
        for name, digits in (("energy", 2), ("MAE", 3), ("CRPS", 3)):
            value, low, high = (f"{x:+.{digits}f}" for x in row[name])
            cells.append(f"{value} ({low} to {high})")
        print(f"| {groups} | {' | '.join(cells)} | {results[groups].seconds:.0f} |")


def draw(rows: dict[int, dict[str, tuple[float, float, float]]]) -> None:
    """Draws coverage and energy score against the number of groups."""
    groups = list(rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for ax, name, color in ((left, "coverage", BLUE), (right, "energy", VERMILLION)):
            value, low, high = np.array([rows[g][name] for g in groups]).T
            ax.fill_between(groups, low, high, color=color, alpha=0.2, lw=0)
            ax.plot(groups, value, color=color, lw=1.4, marker="o", ms=4)
            ax.set(xscale="log", xlabel="groups")
            ax.set_xticks(groups, [str(g) for g in groups])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.grid(axis="y", color=PALE, lw=0.5)
            ax.tick_params(colors=GREY)
        left.axhline(0.9, color=INK, lw=1.2, ls=(0, (4, 2)))
        left.set(ylabel="covered", title="90 % interval of the network's hourly mean")
        right.axhline(0, color=INK, lw=1.2, ls=(0, (4, 2)))
        right.set(ylabel="µg/m³", title="Energy score, less that of one group")
        figure.savefig(IMAGE, dpi=100)
    print(f"\nwrote {IMAGE}")


def main() -> None:
    """Draws, scores, prints and plots."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a run of aqi36_any_order")
    parser.add_argument("root", help="the folder of the data")
    parser.add_argument("--samples", type=int, default=20, help="draws of each window")
    parser.add_argument("--groups", type=int, nargs="+", default=list(GROUPS), help="numbers of groups")
    parser.add_argument("--order", default="random", choices=("random", "confidence", "time"))
    options = parser.parse_args()
    model = load(options.run / "checkpoints/best.ckpt")
    dataset = AirQualityDataModule(root=options.root).dataset("test")
    batch = dataset.__getitems__([(0, number) for number in range(len(dataset))])
    results = {}
    for groups in options.groups:
        sampler = AnyOrder(options.samples, groups, order=options.order)
        results[groups] = judge(model, batch, sampler)
        print(f"{groups} groups: {results[groups].seconds:.0f} CPU-seconds", flush=True)
    rows = table(results, batch)
    show(rows, results, batch)
    draw(rows)


if __name__ == "__main__":
    main()

"""Measures the quality of joint samples of an any-order model for several numbers of groups.

    python -m experiments.benchmarks.groups runs/aqi36_any_order FOLDER

The first argument is the folder of a run of ``aqi36_any_order``, FOLDER that of the data. The test windows
are drawn once for each number of groups, with everything else equal. One group draws each entry from its own
law, independently of all others. Prints, and draws to ``docs/images/groups.png``:

* the coverage of the central 90 % interval of the network's hourly mean (over the hidden entries of an hour,
  for the hours that have at least ten);
* the energy score of a window minus that of one group, with a 95 % interval over windows;
* MAE and CRPS of single entries minus those of one group, with 95 % intervals: they should not get worse.
"""

from __future__ import annotations

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
from experiments.benchmarks.harness import all_windows, arguments
from experiments.figures import IMAGES
from tsgen.data.series import SeriesBatch
from tsgen.evaluation.bootstrap import Ratio, WindowBootstrap
from tsgen.figures import BLUE, GREY, INK, PALE, STYLE, VERMILLION
from tsgen.metrics import crps, empirical_quantiles, energy_score
from tsgen.metrics.ensemble import central_interval
from tsgen.models import AnyOrderModel, load
from tsgen.sampling import AnyOrder

IMAGE = IMAGES / "groups.png"
GROUPS = (1, 2, 4, 6, 12, 24)
MIN_ENTRIES = 10
"""The minimum number of hidden entries of an hour whose mean counts."""


class Result(NamedTuple):
    """The scores for one number of groups.

    Attributes:
        covered: For each window, the number of hours whose interval covers the network's mean, and the number
            of hours that count.
        energy: The energy score of each window.
        errors: Sums over each window's hidden entries of the absolute error of the median and of the CRPS.
        seconds: CPU-seconds of the draws.
    """

    covered: tuple[np.ndarray, np.ndarray]
    energy: np.ndarray
    errors: dict[str, np.ndarray]
    seconds: float


def network_means(
    samples: Float[Tensor, "samples batch time nodes channels"], batch: SeriesBatch
) -> tuple[Float[Tensor, "samples batch time"], Float[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
    """Returns the hourly means over hidden entries of draws and of truth, and a mask of hours that count."""
    hidden, count = batch.hidden, batch.hidden.sum(dim=(2, 3))
    drawn = torch.where(hidden, samples, 0).sum(dim=(3, 4)) / count.clamp(min=1)
    truth = torch.where(hidden, batch.values, 0).sum(dim=(2, 3)) / count.clamp(min=1)
    return drawn, truth, count >= MIN_ENTRIES


def score(model: AnyOrderModel, batch: SeriesBatch, sampler: AnyOrder) -> Result:
    """Draws the windows and returns their scores."""
    start = time.process_time()
    samples = sampler(model, batch).values
    seconds = time.process_time() - start
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
    """Returns the ratio of two sums over windows, and the ends of its 95 % interval."""
    ratio = Ratio(total, weight)
    interval = WindowBootstrap(len(total)).interval(ratio)
    assert interval is not None  # there are 82 windows
    return ratio.score, *interval


Row = dict[str, tuple[float, float, float]]
"""For each score its value and the ends of its 95 % interval."""


def table(results: dict[int, Result], batch: SeriesBatch) -> dict[int, Row]:
    """Returns, for each number of groups, the coverage and the differences to one group, with intervals."""
    weight = batch.hidden.sum(dim=(1, 2, 3)).double().numpy()
    any_hidden = (weight > 0).astype(float)
    first, rows = results[min(results)], {}
    for groups, result in results.items():
        row = {"coverage": with_interval(*result.covered)}
        row["energy"] = with_interval(np.nan_to_num(result.energy - first.energy), any_hidden)
        for name, total in result.errors.items():
            row[name] = with_interval(total - first.errors[name], weight)
        rows[groups] = row
    return rows


def show(rows: dict[int, Row], results: dict[int, Result], batch: SeriesBatch) -> None:
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
            value, low, high = row[name]
            cells.append(f"{value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})")
        print(f"| {groups} | {' | '.join(cells)} | {results[groups].seconds:.0f} |")


def draw(rows: dict[int, Row]) -> None:
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
        right.set(ylabel="µg/m³", title="Energy score minus that of one group")
        figure.savefig(IMAGE, dpi=100)
    print(f"\nwrote {IMAGE}")


def main() -> None:
    """Draws the windows, prints the table and draws the figure."""
    parser = arguments(__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run of aqi36_any_order")
    parser.add_argument("root", help="the folder of the data")
    parser.add_argument("--samples", type=int, default=20, help="draws of each window")
    parser.add_argument("--groups", type=int, nargs="+", default=list(GROUPS), help="numbers of groups")
    parser.add_argument("--order", default="random", choices=("random", "confidence", "time"))
    options = parser.parse_args()
    model = load(options.run / "checkpoints/best.ckpt")
    if not isinstance(model, AnyOrderModel):
        parser.error(f"the run must be that of an AnyOrderModel; got {type(model).__name__}.")
    batch = all_windows(AirQualityDataModule(root=options.root), "test")
    results = {}
    for groups in options.groups:
        sampler = AnyOrder(options.samples, groups, order=options.order)
        results[groups] = score(model, batch, sampler)
        print(f"{groups} groups: {results[groups].seconds:.0f} CPU-seconds", flush=True)
    rows = table(results, batch)
    show(rows, results, batch)
    draw(rows)


if __name__ == "__main__":
    main()

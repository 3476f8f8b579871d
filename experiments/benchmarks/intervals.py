r"""Measures how often bootstrap intervals cover the truth, and how often equally good runs are separated.

    python -m experiments.benchmarks.intervals

Prints two tables for docs/scores.md. The first has the share of 4,000 simulations in which the interval
covers the true mean of W windows, whose scores are an AR(1) with correlation :math:`\rho`, for a bootstrap of
single windows and one of blocks. The second compares, 400 times, two equally good sets of results for 34
windows: the share of rows whose interval excludes zero, the share of comparisons that name a winner, and the
share of comparisons with any row whose interval excludes zero.

Everything is seeded.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from experiments.benchmarks.harness import arguments
from tsgen.evaluation.bootstrap import WindowBootstrap
from tsgen.evaluation.comparison import compare

SIMULATIONS, COMPARISONS = 4000, 400
WINDOWS, CORRELATIONS = (20, 34, 82, 300), (0.0, 0.2, 0.5)
ENTRY = ("window", "step", "node", "channel")


def chain(random: np.random.Generator, correlation: float, *shape: int) -> np.ndarray:
    """Returns AR(1) paths of variance one along the last axis."""
    x = random.standard_normal(shape)
    for t in range(1, shape[-1]):
        x[..., t] = correlation * x[..., t - 1] + np.sqrt(1 - correlation**2) * x[..., t]
    return x


def covered(windows: int, correlation: float, block: int | None) -> float:
    """Returns the share of simulations in which the interval covers the mean."""
    drawn, weight, hits = WindowBootstrap(windows, block=block), np.ones(windows), 0
    for x in chain(np.random.default_rng(0), correlation, SIMULATIONS, windows):
        span = drawn.interval(x.mean(), drawn.ratios(x, weight), weight)
        assert span is not None
        hits += span[0] <= 0 <= span[1]
    return hits / SIMULATIONS


def evaluation(random: np.random.Generator, correlation: float, windows: int = 34) -> xr.Dataset:
    """Returns a simulated evaluation whose windows differ in difficulty.

    The masks and the law of the errors are always the same.
    """
    shape = (windows, 24, 3, 1)
    masks = np.random.default_rng(1)
    target = masks.random(shape) < 0.4
    gap = np.where(target, masks.choice([1, 3, 10, 40], shape), 0)
    difficulty = 1 + 0.2 * chain(random, correlation, windows)[:, None, None, None]
    error = np.where(target, difficulty * abs(random.standard_normal(shape)), np.nan)
    by_window = np.nanmean(error, axis=(1, 2, 3))
    return xr.Dataset(
        {
            "truth": (ENTRY, np.ones(shape)),
            "context": (ENTRY, ~target),
            "target": (ENTRY, target),
            "absolute_error": (ENTRY, error),
            "crps": (ENTRY, error * 0.7),
            "nll": (ENTRY, np.log(np.maximum(error, 1e-6))),
            "covered_90": (ENTRY, error < 1.6),
            "gap_length": (ENTRY, gap),
            "energy_score": ("window", by_window * 5),
            "variogram_score": ("window", 1 + 0.2 * chain(random, correlation, windows)),
        },
        coords={
            "node": list("abc"),
            "channel": ["x"],
            "time": (ENTRY[:2], np.arange(windows * 24).reshape(windows, 24)),
        },
    )


def false_positives(correlation: float) -> tuple[float, float, float]:
    """Returns three shares of false findings in comparisons of equally good evaluations.

    They are the share of rows whose interval excludes zero, the share of comparisons that name a winner, and
    the share of comparisons with any row whose interval excludes zero.
    """
    random = np.random.default_rng(0)
    excluded: list[bool] = []
    with_winner: list[bool] = []
    with_any: list[bool] = []
    for _ in range(COMPARISONS):
        rows = compare(evaluation(random, correlation), evaluation(random, correlation))
        outside = [row.interval is not None and not row.interval[0] <= 0 <= row.interval[1] for row in rows]
        excluded += outside
        with_winner.append(any(row.better for row in rows))
        with_any.append(any(outside))
    return float(np.mean(excluded)), float(np.mean(with_winner)), float(np.mean(with_any))


def main() -> None:
    """Prints both tables."""
    arguments(__doc__).parse_args()
    print("| W |", " | ".join(f"rho = {c:g}" for c in CORRELATIONS), "|")
    for windows in WINDOWS:
        cells = [
            f"{100 * covered(windows, c, 1):.0f} / {100 * covered(windows, c, None):.0f} %"
            for c in CORRELATIONS
        ]
        print("|", " | ".join([str(windows), *cells]), "|", flush=True)
    for c in CORRELATIONS:
        shares = " | ".join(f"{100 * share:.1f} %" for share in false_positives(c))
        print(f"| {c:g} | {shares} |", flush=True)


if __name__ == "__main__":
    main()

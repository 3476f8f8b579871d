r"""Measures how often bootstrap intervals cover the truth, and how often equally good runs are separated.

    python -m experiments.benchmarks.intervals

Prints the tables of docs/scores.md. The first three have the share of 4,000 simulations in which the 95 %
interval covers the true score of W windows:

* *scores* of independent windows, whose errors are normal, exponential or log-normal(1), and whose weights
  are equal, uniform on 1, ..., 20 or log-normal(1);
* *comparisons*: the difference of two scores, of which one is 20 % worse or both are equal, with the same
  difficulty of each window, and the skill 1 - a / b; the RMSE, if a window's mean square is log-normal(1);
* scores of *dependent* windows: an AR(1) with correlation :math:`\rho`, as it is (normal) or its exponential
  (log-normal), for equal weights.

The last table compares, 400 times, two sets of results for 34 windows: the share of rows whose own interval
excludes zero, of comparisons that would name a better run without adjustment, and of comparisons that name
one. In its last rows the second set is better by a share of the errors.

Everything is seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.special import log_ndtr

from experiments.benchmarks.harness import arguments
from tsgen.evaluation.bootstrap import Ratio, WindowBootstrap
from tsgen.evaluation.comparison import compare

SIMULATIONS, COMPARISONS, RESAMPLES = 4000, 400, 999
WINDOWS, CORRELATIONS = (20, 34, 82, 200), (0.2, 0.5, 0.8)
ENTRY = ("window", "step", "node", "channel")


def chain(random: np.random.Generator, correlation: float, *shape: int) -> np.ndarray:
    """Returns AR(1) paths of variance one along the last axis."""
    x = random.standard_normal(shape)
    for t in range(1, shape[-1]):
        x[..., t] = correlation * x[..., t - 1] + np.sqrt(1 - correlation**2) * x[..., t]
    return x


def log_normal(z: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """Returns log-normal numbers of mean one."""
    return np.exp(sigma * z - sigma**2 / 2)


ERRORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "normal": lambda z: 1 + z / 3,
    "exponential": lambda z: -log_ndtr(-z),
    "log-normal": log_normal,
}
"""Errors of mean one, from standard normal numbers."""

WEIGHTS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "equal": lambda random, shape: np.ones(shape),
    "1 to 20": lambda random, shape: random.integers(1, 21, shape).astype(float),
    "log-normal": lambda random, shape: log_normal(random.standard_normal(shape)),
}


class Case(NamedTuple):
    """Simulated scores, and their true value.

    Attributes:
        truth: The true score, or difference or logarithm of the quotient of two.
        totals: The contribution of each window to one numerator or two, in each simulation.
        weight: The contribution to the denominator.
        rooted: Whether the score is the root of the ratio.
        log: Whether two scores are compared by the logarithm of their quotient.
    """

    truth: float
    totals: list[np.ndarray]
    weight: np.ndarray
    rooted: bool = False
    log: bool = False


def score(windows: int, errors: str, weights: str, correlation: float = 0.0) -> Case:
    """Returns the mean of errors."""
    random, shape = np.random.default_rng(2000 + windows), (SIMULATIONS, windows)
    weight = WEIGHTS[weights](random, shape)
    return Case(1, [weight * ERRORS[errors](chain(random, correlation, *shape))], weight)


def comparisons(windows: int, weights: str) -> Iterator[tuple[str, Case]]:
    """Iterates over the names and cases of comparisons."""
    random, shape = np.random.default_rng(3000 + windows), (SIMULATIONS, windows)
    weight = WEIGHTS[weights](random, shape)
    difficulty = weight * log_normal(random.standard_normal(shape), 0.8)
    a, b = (difficulty * log_normal(random.standard_normal(shape), 0.6) for _ in range(2))
    normal = weight * random.standard_normal(shape)
    yield "normal", Case(0, [weight + normal, weight], weight)
    yield "equal", Case(0, [a, b], weight)
    yield "20 % worse", Case(0.2, [1.2 * a, b], weight)
    yield "skill", Case(float(np.log(1.2)), [1.2 * a, b], weight, log=True)
    yield "RMSE", Case(1, [weight * log_normal(random.standard_normal(shape))], weight, rooted=True)


def covered(case: Case, block: int | None = None) -> float:
    """Returns the share of simulations in which the interval covers the truth."""
    bootstrap, hits = WindowBootstrap(case.weight.shape[1], RESAMPLES, block), 0
    for weight, *totals in zip(case.weight, *case.totals, strict=True):
        first, *others = (Ratio(total, weight, case.rooted) for total in totals)
        if others:
            estimate = bootstrap.estimate(first, others[0], log=case.log)
            interval = estimate and estimate.interval(bootstrap.level)
        else:
            interval = bootstrap.interval(first)
        assert interval is not None  # there are at least 20 windows
        hits += interval[0] <= case.truth <= interval[1]
    return hits / len(case.weight)


def print_row(*cells: str) -> None:
    """Prints a row of a table."""
    print("|", " | ".join(cells), "|", flush=True)


def percent(share: float) -> str:
    """Returns a share in percent."""
    return f"{100 * share:.1f} %"


def evaluation(
    random: np.random.Generator, correlation: float, windows: int = 34, better: float = 0.0
) -> xr.Dataset:
    """Returns a simulated evaluation whose windows differ in difficulty.

    The masks and the law of the errors are always the same; errors are smaller by a share ``better``.
    """
    shape = (windows, 24, 3, 1)
    masks = np.random.default_rng(1)
    target = masks.random(shape) < 0.4
    gap = np.where(target, masks.choice([1, 3, 10, 40], shape), 0)
    difficulty = 1 + 0.2 * chain(random, correlation, windows)[:, None, None, None]
    error = np.where(target, (1 - better) * difficulty * abs(random.standard_normal(shape)), np.nan)
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
            "variogram_score": ("window", (1 - better) * (1 + 0.2 * chain(random, correlation, windows))),
        },
        coords={
            "node": list("abc"),
            "channel": ["x"],
            "time": (ENTRY[:2], np.arange(windows * 24).reshape(windows, 24)),
        },
    )


def findings(correlation: float, better: float = 0.0) -> tuple[float, float, float]:
    """Returns three shares of findings in comparisons.

    They are the share of rows whose own interval excludes zero, the share of comparisons in which a row that
    may name a winner has such an interval, and the share of comparisons that name a winner.

    Args:
        correlation: The correlation of neighbouring windows.
        better: The share by which the errors of the second evaluation are smaller.
    """
    random, bootstrap = np.random.default_rng(0), WindowBootstrap(34, RESAMPLES)
    excluded: list[bool] = []
    unadjusted: list[bool] = []
    named: list[bool] = []
    for _ in range(COMPARISONS):
        a, b = evaluation(random, correlation), evaluation(random, correlation, better=better)
        rows = compare(a, b, bootstrap)
        outside = [row.interval is not None and not row.interval[0] <= 0 <= row.interval[1] for row in rows]
        excluded += outside
        unadjusted.append(
            any(out and row.adjusted is not None for out, row in zip(outside, rows, strict=True))
        )
        named.append(any(row.better for row in rows))
    return float(np.mean(excluded)), float(np.mean(unadjusted)), float(np.mean(named))


def main() -> None:
    """Prints the tables."""
    arguments(__doc__).parse_args()
    print_row("errors", "weights", *(f"W = {windows}" for windows in WINDOWS))
    for errors in ERRORS:
        for weights in WEIGHTS:
            cells = [percent(covered(score(windows, errors, weights))) for windows in WINDOWS]
            print_row(errors, weights, *cells)
    for weights in WEIGHTS:
        columns = [
            {name: percent(covered(case)) for name, case in comparisons(windows, weights)}
            for windows in WINDOWS
        ]
        for name in columns[0]:
            print_row(name, weights, *(column[name] for column in columns))
    for errors in ("normal", "log-normal"):
        for correlation in CORRELATIONS:
            cells = [percent(covered(score(windows, errors, "equal", correlation))) for windows in WINDOWS]
            print_row(errors, f"rho = {correlation:g}", *cells)
    for correlation, better in ((0, 0), (0.2, 0), (0.5, 0), (0, 0.05), (0, 0.1), (0, 0.2)):
        print_row(f"{correlation:g}", percent(better), *map(percent, findings(correlation, better)))


if __name__ == "__main__":
    main()

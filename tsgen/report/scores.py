"""The scores on pages: headings, best values and definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Score(NamedTuple):
    """A score that pages show.

    Attributes:
        heading: The heading of its column.
        best: Its best value; None if there is none, as for a width.
        meaning: Its definition.
    """

    heading: str
    best: float | None
    meaning: str


SCORES = {
    "mae": Score("MAE", 0.0, "mean absolute error of the median of the samples"),
    "rmse": Score("RMSE", 0.0, "root of the mean squared error of the median"),
    "mre": Score("MRE", 0.0, "sum of absolute errors divided by the sum of absolute truths"),
    "crps": Score(
        "CRPS",
        0.0,
        "continuous ranked probability score: the absolute error generalised to a distribution",
    ),
    "crps_quantile": Score(
        "CRPS, normalised", 0.0, "CRPS from 19 quantiles, divided by the mean absolute truth"
    ),
    "nll": Score("NLL", -math.inf, "negative log-likelihood of the truth, in nats per scored entry"),
    "coverage_50": Score(
        "50 % coverage", 0.5, "share of truths inside the central 50 % interval: best at 50 %"
    ),
    "coverage_90": Score(
        "90 % coverage", 0.9, "share of truths inside the central 90 % interval: best at 90 %"
    ),
    "width_50": Score(
        "50 % width", None, "mean width of the 50 % interval: narrower is better if coverage is right"
    ),
    "width_90": Score("90 % width", None, "mean width of the 90 % interval"),
    "from_exact": Score(
        "from exact",
        0.0,
        "root mean squared distance of the median to the exact posterior mean, in standard deviations of that"
        " posterior",
    ),
}
PERCENT = {"mre", "coverage_50", "coverage_90"}
"""The scores that are shown as percentages."""


def best(key: str, values: Sequence[float]) -> set[int]:
    """Returns the indices of the values that are nearest to the score's best value.

    The result is empty if the score has no best value or fewer than two values are known.
    """
    ideal = SCORES[key].best
    known = [i for i, v in enumerate(values) if not math.isnan(v)]
    if ideal is None or len(known) < 2:
        return set()
    distance = {i: values[i] if math.isinf(ideal) else abs(values[i] - ideal) for i in known}
    return {i for i in known if distance[i] == min(distance.values())}

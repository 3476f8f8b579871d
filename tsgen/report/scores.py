"""The scores that pages show: what they are called, what is best, what they mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

SCORES = {  # key: heading, what is best (None: nothing by itself), what it means
    "mae": ("MAE", 0.0, "mean absolute error of the median of the samples"),
    "rmse": ("RMSE", 0.0, "root of the mean squared error of the median"),
    "mre": ("MRE", 0.0, "sum of absolute errors over the sum of absolute truths"),
    "crps": ("CRPS", 0.0, "continuous ranked probability score: the absolute error of a whole distribution"),
    "crps_quantile": ("CRPS, normalised", 0.0, "from 19 quantiles, over the mean absolute truth"),
    "nll": ("NLL", -math.inf, "negative log-likelihood of the truth, in nats per scored entry"),
    "coverage_50": ("50 % coverage", 0.5, "share of truths inside the central 50 % interval: best at 50 %"),
    "coverage_90": ("90 % coverage", 0.9, "share of truths inside the central 90 % interval: best at 90 %"),
    "width_50": ("50 % width", None, "mean width of the 50 % interval: narrow is good if coverage is right"),
    "width_90": ("90 % width", None, "mean width of the 90 % interval"),
    "from_exact": (
        "from exact",
        0.0,
        "root mean squared distance of the median to the exact posterior mean, in its standard deviations",
    ),
}
PERCENT = {"mre", "coverage_50", "coverage_90", "share_missing"}


def best(key: str, values: Sequence[float]) -> set[int]:
    """Which of the values show as the best: those nearest to what the score's best is."""
    ideal = SCORES[key][1]
    known = [i for i, v in enumerate(values) if not math.isnan(v)]
    if ideal is None or len(known) < 2:
        return set()
    distance = {i: values[i] if math.isinf(ideal) else abs(values[i] - ideal) for i in known}
    return {i for i in known if distance[i] == min(distance.values())}

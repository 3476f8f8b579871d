"""The values that a channel can take: any, positive, zero or positive, counts, or those of an interval."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

NAMES = {
    "real": (-math.inf, math.inf, "()", 0.0),
    "positive": (0.0, math.inf, "()", 0.0),
    "non_negative": (0.0, math.inf, "[)", 0.0),
    "counts": (0.0, math.inf, "[)", 1.0),
}
"""Lower end, upper end, brackets and step of the supports that have a name."""

ADVICE = (
    "It must be real, positive, non_negative, counts, interval(a, b) without or interval[a, b] with atoms at "
    "its ends, and may be followed by ', step 0.1' and ', limit 0.5'"
)

SMALL_COUNT = 30
"""Whole numbers are counts if their median is at most this; above it, they are taken as rounded values."""

FAR = 3.0
"""Positive values are bounded by zero only if it is closer to their median than this many deviations."""

SKEWED = 0.5
"""Positive values are bounded by zero only if their skewness exceeds this."""


@dataclass(frozen=True)
class Support:
    """The values that a channel can take.

    Args:
        low: The lower end.
        high: The upper end.
        atoms: Whether the lower and the upper end are values themselves, with a positive probability.
        step: The difference between adjacent values, whose laws are probabilities; 0 for a continuum.
        limit: A detection limit: a value of at most this means that the truth is at most this.

    Raises:
        ValueError: If the numbers contradict each other.
    """

    low: float = -math.inf
    high: float = math.inf
    atoms: tuple[bool, bool] = (False, False)
    step: float = 0.0
    limit: float | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be below high; they are {self.low:g} and {self.high:g}.")
        if math.isfinite(self.low) and math.isfinite(self.high) and self.atoms[0] != self.atoms[1]:
            raise ValueError("an interval must have atoms at both ends, [a, b], or at none, (a, b).")
        if not 0 <= self.step < math.inf:
            raise ValueError(f"step must be a number of at least 0; it is {self.step:g}.")
        if self.limit is not None and not self.low < self.limit < self.high:
            raise ValueError(f"limit must lie between {self.low:g} and {self.high:g}; it is {self.limit:g}.")

    @classmethod
    def parse(cls, text: str) -> Support:
        """Returns the support that a text names, such as ``non_negative`` or ``interval[0, 100], step 1``.

        Args:
            text: The text.

        Raises:
            ValueError: If the text names none.
        """
        number = r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*"
        ends = re.fullmatch(rf"\s*interval([(\[]){number},{number}([)\]])(.*)", text)
        named = re.fullmatch(r"\s*([a-z_]+)\s*(.*)", text)
        try:
            if ends:
                left, low, high, right, rest = ends.groups()
                step, atoms, bounds = 0.0, _atoms(left + right), (float(low), float(high))
            elif named and named[1] in NAMES:
                *pair, brackets, step = NAMES[named[1]]
                atoms, bounds, rest = _atoms(brackets), (pair[0], pair[1]), named[2]
            else:
                raise ValueError(f"{text!r:.60} names no support. {ADVICE}.")
            options = re.fullmatch(rf"\s*(?:,\s*step{number})?(?:,\s*limit{number})?", rest)
            if not options:
                raise ValueError(f"{text!r:.60} names no support: {rest.strip()!r:.40}. {ADVICE}.")
            limit = None if options[2] is None else float(options[2])
            return cls(*bounds, atoms, float(options[1] or step), limit)
        except ValueError as error:
            raise ValueError(f"support: {error}") from error

    def __str__(self) -> str:
        kind = (self.low, self.high, self.atoms)
        names = {step: name for name, (*pair, ends, step) in NAMES.items() if (*pair, _atoms(ends)) == kind}
        step = self.step if self.step in names else 0.0
        ends = f"{'(['[self.atoms[0]]}{self.low:g}, {self.high:g}{')]'[self.atoms[1]]}"
        text = names.get(step, f"interval{ends}")
        text += f", step {self.step:g}" if self.step != step else ""
        return text + ("" if self.limit is None else f", limit {self.limit:g}")

    @property
    def is_real(self) -> bool:
        """Whether every real number is a value, and no value has a positive probability."""
        return self == Support()

    @property
    def has_atoms(self) -> bool:
        """Whether some values have a positive probability."""
        return any(self.atoms) or self.step > 0 or self.limit is not None

    def outside(self, values: Float[Tensor, "*entries"]) -> Bool[Tensor, "*entries"]:
        """Returns which values lie outside the support.

        Args:
            values: Values; NaN lies inside.
        """
        low = values < self.low if self.atoms[0] else values <= self.low
        high = values > self.high if self.atoms[1] else values >= self.high
        outside = low & (values < math.inf) | high & (values > -math.inf)
        if math.isinf(self.low):
            outside = high & math.isfinite(self.high)
        elif math.isinf(self.high):
            outside = low
        if self.step:
            origin = self.low if math.isfinite(self.low) else 0.0
            steps = (values - origin) / self.step
            # values written with few decimals are multiples to within their rounding
            outside = outside | ((steps - steps.round()).abs() > 1e-3 + 1e-6 * steps.abs())
        return outside & ~values.isnan()


def _atoms(brackets: str) -> tuple[bool, bool]:
    """Returns whether the ends between brackets are values."""
    return brackets[0] == "[", brackets[1] == "]"


REAL = Support()
"""Every real number."""


class Detected(NamedTuple):
    """A support that was read off values.

    Attributes:
        support: The support.
        reason: What the values showed.
    """

    support: Support
    reason: str


def detect(values: Float[Tensor, "values"]) -> Detected:
    """Returns the support that values show.

    A support is detected only if it matters: values far from zero, such as pressures, are real numbers.

    Args:
        values: The observed values of a channel, at least one.
    """
    count, lowest = len(values), float(values.min())
    if lowest < 0:
        return Detected(REAL, f"the lowest of {count:,} values is {lowest:.6g}")
    zeros = float((values == 0).double().mean())
    whole = bool((values == values.round()).all())
    median = float(values.median())
    if whole and len(values.unique()) > 2 and median <= SMALL_COUNT and (zeros > 0 or median <= 10):
        return Detected(
            Support.parse("counts"),
            f"all of {count:,} values are whole, from {lowest:.6g}, median {median:.6g}",
        )
    if zeros >= 0.001:
        return Detected(
            Support.parse("non_negative"), f"{zeros:.1%} of {count:,} values are zero and none is negative"
        )
    deviation = float(values.std(correction=0))
    standard = (values - values.mean()) / max(deviation, 1e-300)
    skewness = float(standard.pow(3).mean()) if deviation else 0.0
    # a few zeros are taken as values below the resolution, and keep an atom of their own
    name = "non_negative" if zeros else "positive"
    if deviation and median < FAR * deviation and skewness > SKEWED:
        return Detected(
            Support.parse(name),
            f"none of {count:,} values is negative, and zero is near: median {median:.4g}, deviation "
            f"{deviation:.4g}, skewness {skewness:.2g}",
        )
    return Detected(REAL, f"{count:,} values are far from zero, or not skewed")

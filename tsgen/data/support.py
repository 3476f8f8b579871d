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
        steps = (self.high - self.low) / self.step if self.step else math.inf
        if math.isfinite(steps) and (abs(steps - round(steps)) > 1e-6 * steps or round(steps) < 2):
            raise ValueError(
                f"an interval must hold a whole number of steps, at least 2; {self.low:g} to {self.high:g} "
                f"are {steps:.6g} steps of {self.step:g}."
            )

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
        ends = f"{'(['[self.atoms[0]]}{_text(self.low)}, {_text(self.high)}{')]'[self.atoms[1]]}"
        text = names.get(step, f"interval{ends}")
        text += f", step {_text(self.step)}" if self.step != step else ""
        return text + ("" if self.limit is None else f", limit {_text(self.limit)}")

    @property
    def is_real(self) -> bool:
        """Whether every real number is a value, and no value has a positive probability."""
        return self == Support()

    @property
    def has_atoms(self) -> bool:
        """Whether some values have a positive probability."""
        return any(self.atoms) or self.step > 0 or self.limit is not None

    @property
    def start(self) -> float:
        """A multiple of the step: the lower end, or zero without one."""
        return self.low if math.isfinite(self.low) else 0.0

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value that a draw takes.

        A draw keeps a distance from an end that is no value: a step, or what float32 can tell from it.
        """
        length = self.high - self.low
        low, high = (
            end if atom or math.isinf(end) else end + sign * (self.step or _gap(end, length))
            for end, atom, sign in ((self.low, self.atoms[0], 1), (self.high, self.atoms[1], -1))
        )
        return low, high

    def nearest(self, numbers: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
        """Returns the multiples of the step that are nearest to some numbers.

        Args:
            numbers: The numbers.
        """
        count = ((numbers - self.start) / self.step).round()
        per_unit = round(1 / self.step)
        # 3 / 10 is the number that 0.3 is read as, 3 * 0.1 is not
        exact = per_unit > 1 and abs(per_unit * self.step - 1) < 1e-9
        return self.start + (count / per_unit if exact else count * self.step)

    def rounding(self, values: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
        """Returns how far values may be from a multiple of the step, in steps.

        Args:
            values: Values that were written with few decimals and stored in float32.
        """
        return (1e-3 + 2.0**-23 * values.abs() / self.step).clamp(max=0.5)

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
            steps = (values - self.start) / self.step
            outside = outside | ((steps - steps.round()).abs() > self.rounding(values))
        return outside & ~values.isnan()


OPEN = 1e-9
"""Draws keep this distance from an end that is no value, as a share of an interval's length."""

SMALLEST = 1e-30
"""The smallest positive draw."""


def _gap(end: float, length: float) -> float:
    """Returns the distance that draws keep from an end that is no value."""
    # two units in the last place of float32, in which draws are stored
    return max(2.0**-22 * abs(end), OPEN * length if math.isfinite(length) else SMALLEST)


def _text(number: float) -> str:
    """Returns the shortest text of a number that loses no digit."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number).removesuffix(".0")


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

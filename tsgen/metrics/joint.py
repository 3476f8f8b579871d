r"""Scores of joint laws, over all hidden entries of a window together.

For draws :math:`x_1, .., x_S` of the hidden entries of a window with truth y there are:

* the fair energy score, the CRPS of vectors,

  .. math:: \frac1S \sum_i \|x_i - y\| - \frac{1}{2 S (S - 1)} \sum_{i,j} \|x_i - x_j\|.

  It judges the whole joint law, but is not very sensitive to wrong dependence between entries;
* the fair variogram score of order p, which is sensitive to dependence: the mean over pairs (a, b) of entries
  of

  .. math:: \Bigl(|y_a - y_b|^p - \frac1S \sum_i |x_{ia} - x_{ib}|^p\Bigr)^2 - \frac{s_{ab}^2}{S},

  with :math:`s_{ab}^2` the variance of :math:`|x_{ia} - x_{ib}|^p` over the draws. It is insensitive to a
  common shift of all entries.

The expectations of both do not depend on the number of samples. Several channels are combined in their own
units, without rescaling.

References:
    Strictly proper scoring rules, prediction, and estimation (Gneiting & Raftery, 2007);
    Variogram-based proper scoring rules for probabilistic forecasts of multivariate quantities (Scheuerer &
        Hamill, 2015).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tsgen.argument_types import check_shapes
from tsgen.metrics.mean import Mean

NUMBERS_AT_ONCE = 2**22
"""Numbers in the windows whose distances are computed at a time, over all samples: 32 MiB in float64."""

PAIRED = 32
"""Entries on each side that an entry is paired with: slices of up to 65 entries have all pairs, and larger
slices cost no more per entry."""


@check_shapes
def energy_score(
    samples: Float[Tensor, "samples batch time nodes channels"],
    truth: Float[Tensor, "batch time nodes channels"],
    mask: Bool[Tensor, "batch time nodes channels"],
) -> Float[Tensor, "batch"]:
    """Returns the fair energy score of each window, in data units; NaN where nothing is scored.

    For a single draw it is the norm of its error.

    Args:
        samples: Draws, in data units.
        truth: The true values; anything outside the mask.
        mask: Which entries are scored.
    """
    portion = max(1, NUMBERS_AT_ONCE // samples[:, 0].numel())
    portions = zip(samples.split(portion, dim=1), truth.split(portion), mask.split(portion), strict=True)
    score = torch.cat([_energy(*tensors) for tensors in portions])
    return torch.where(mask.flatten(1).any(dim=1), score, torch.nan).to(samples.dtype)


def _energy(samples: Tensor, truth: Tensor, mask: Tensor) -> Float[Tensor, "batch"]:
    # distances come from inner products: float64, and errors rather than values, limit the cancellation
    errors = torch.where(mask, samples.double() - truth, 0).flatten(2).movedim(0, 1)
    size, error = len(samples), errors.norm(dim=-1).mean(dim=1)
    if size == 1:
        return error
    distance = torch.cdist(errors, errors, compute_mode="use_mm_for_euclid_dist")
    # the diagonal is left out, as a draw's distance to itself is only zero up to rounding
    return error - distance.triu(diagonal=1).sum(dim=(1, 2)) / (size * (size - 1))


@check_shapes
def variogram_score(
    samples: Float[Tensor, "samples batch time nodes channels"],
    truth: Float[Tensor, "batch time nodes channels"],
    mask: Bool[Tensor, "batch time nodes channels"],
    order: float = 0.5,
) -> Float[Tensor, "batch"]:
    """Returns the fair variogram score of each window, in data units to the power 2p; NaN where no pair is
    scored.

    Pairs lie within a slice, as a graph model describes the dependence of its entries. With up to 65 scored
    entries all pairs count; with more, each entry is paired with the 32 before and the 32 after it, in a
    circle.

    Args:
        samples: Draws, in data units.
        truth: The true values; anything outside the mask.
        mask: Which entries are scored.
        order: The power p of the differences.
    """
    x, y = samples[:, mask], truth[mask]
    window, step = mask.nonzero()[:, :2].T
    number = window * mask.shape[1] + step  # the number of each entry's slice; entries are sorted by slice
    size = torch.bincount(number, minlength=mask.shape[0] * mask.shape[1])
    start = (size.cumsum(dim=0) - size)[number]
    size, place = size[number], torch.arange(len(number), device=mask.device) - start
    total, pairs = y.new_zeros(2, len(mask), dtype=torch.float64)
    for k in range(1, min(PAIRED, int(size.max()) // 2 if len(size) else 0) + 1):
        # the entry opposite on the circle is reached from both sides, but its pair counts once
        first = ((2 * k < size) | ((2 * k == size) & (place < k))).nonzero()[:, 0]
        second = start[first] + (place[first] + k) % size[first]
        score = _variogram(x[:, first] - x[:, second], y[first] - y[second], order)
        total.index_add_(0, window[first], score.double())
        pairs.index_add_(0, window[first], torch.ones_like(score, dtype=torch.float64))
    return (total / pairs).to(samples.dtype)


def _variogram(
    drawn: Float[Tensor, "samples pairs"], true: Float[Tensor, "pairs"], order: float
) -> Float[Tensor, "pairs"]:
    """Returns the score of each pair, given the differences between its entries."""
    powers = drawn.abs() ** order
    biased = (true.abs() ** order - powers.mean(dim=0)).square()
    return biased if len(drawn) == 1 else biased - powers.var(dim=0) / len(drawn)


@check_shapes
class EnergyScore(Mean):
    """Mean fair energy score of the windows with scored entries, in data units."""

    higher_is_better = False

    @check_shapes
    def update(
        self,
        samples: Float[Tensor, "samples batch time nodes channels"],
        truth: Float[Tensor, "batch time nodes channels"],
        mask: Bool[Tensor, "batch time nodes channels"],
    ) -> None:
        """Adds windows.

        Args:
            samples: Draws, in data units.
            truth: The true values; anything outside the mask.
            mask: Which entries are scored.
        """
        score, scored = energy_score(samples, truth, mask), mask.flatten(1).any(dim=1)
        self._add(score[scored], scored)


@check_shapes
class VariogramScore(Mean):
    """Mean fair variogram score of the windows with scored pairs, in data units to the power 2p.

    Args:
        order: The power p of the differences.

    Raises:
        ValueError: If the order is not positive.
    """

    higher_is_better = False

    def __init__(self, order: float = 0.5) -> None:
        super().__init__()
        if order <= 0:
            raise ValueError(f"order must be positive; it is {order}.")
        self.order = order

    @check_shapes
    def update(
        self,
        samples: Float[Tensor, "samples batch time nodes channels"],
        truth: Float[Tensor, "batch time nodes channels"],
        mask: Bool[Tensor, "batch time nodes channels"],
    ) -> None:
        """Adds windows.

        Args:
            samples: Draws, in data units.
            truth: The true values; anything outside the mask.
            mask: Which entries are scored.
        """
        score = variogram_score(samples, truth, mask, self.order)
        paired = (mask.sum(dim=(2, 3)) > 1).any(dim=1)
        self._add(score[paired], paired)

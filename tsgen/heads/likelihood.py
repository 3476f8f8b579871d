r"""The masked negative log-likelihood,

.. math:: L = -\sum_{(t,v,c) \in \text{target}} \log p(x_{tvc}) \, / \, |\text{target}|,

where both sums run over all processes before the division: the mean of the processes' own means differs from
it when the processes hold different numbers of observed entries. The same is true of the batches that
gradients are accumulated over; :meth:`~tsgen.models.neural.NeuralModel.training_step` weights those.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.distributions import Distribution


def masked_log_prob(
    law: Distribution,
    values: Float[Tensor, "*entries"],
    mask: Bool[Tensor, "*entries"],
    fill: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "*entries"]:
    """Returns the log-density of each entry in nats, zero outside the mask.

    Args:
        law: One law per entry, in data units.
        values: Values in data units. Entries outside the mask may be anything, NaN included.
        mask: The entries that count.
        fill: A value inside the support of each entry, which the density is evaluated at outside the mask; it
            broadcasts to the entries. Models pass the mean of each node's data, ``units.loc``. By default the
            mean of each law, which must then be finite: a Cauchy law has none, and NaN would reach the
            gradient.
    """
    # fill first: where() alone leaves NaN in the gradient
    filled = torch.where(mask, values, law.mean.detach() if fill is None else fill)
    return torch.where(mask, law.log_prob(filled), 0)


def per_entry(total: Float[Tensor, ""], mask: Bool[Tensor, "*entries"]) -> Float[Tensor, ""]:
    """Returns a sum over masked entries as a mean over those of all processes, for data-parallel training.

    Every process returns ``its sum * processes / all processes' count``. Data-parallel training averages the
    gradients of the processes, and this average is then the gradient of the loss over all entries.

    Args:
        total: The sum of this process.
        mask: The entries summed over.
    """
    processes = torch.distributed.get_world_size() if _distributed() else 1
    return total * processes / count(mask).clamp(min=1)


def count(mask: Bool[Tensor, "*entries"]) -> Int64[Tensor, ""]:
    """Returns the number of entries in the masks of all processes.

    Args:
        mask: The mask of this process.
    """
    # integers: a sum in half precision is inexact, or overflows
    total = mask.sum()
    if _distributed():
        torch.distributed.all_reduce(total)
    return total


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def masked_nll(
    law: Distribution,
    values: Float[Tensor, "*entries"],
    mask: Bool[Tensor, "*entries"],
    fill: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, ""]:
    """Returns the masked negative log-likelihood in nats per entry, scaled for data-parallel training.

    Args:
        law: One law per entry, in data units.
        values: Values in data units. Entries outside the mask may be anything, NaN included.
        mask: The entries that count.
        fill: A value inside the support of each entry, as in :func:`masked_log_prob`.
    """
    return per_entry(-masked_log_prob(law, values, mask, fill).sum(), mask)

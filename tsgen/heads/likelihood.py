r"""The masked negative log-likelihood,

.. math:: L = -\sum_{(t,v,c) \in \text{target}} \log p(x_{tvc}) \, / \, |\text{target}|,

where both sums run over all processes before the division: if the processes have different numbers of target
entries, the mean of their own means is a different number. The same holds for the batches over which
gradients are accumulated; :meth:`~tsgen.models.neural.NeuralModel.training_step` weights those.
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
        values: Values in data units. Entries outside the mask may have any value, including NaN.
        mask: The entries that count.
        fill: Values at which the density is evaluated outside the mask. They must lie in the support, and
            they broadcast to the entries. Models pass the centre of each node's units, ``units.centre``. If
            not given, it is the mean of each law, which must then be finite: the mean of a Cauchy law is
            NaN, and NaN would reach the gradient.
    """
    # fill first: where() alone leaves NaN in the gradient
    filled = torch.where(mask, values, law.mean.detach() if fill is None else fill)
    return torch.where(mask, law.log_prob(filled), 0)


def per_entry(total: Float[Tensor, ""], mask: Bool[Tensor, "*entries"]) -> Float[Tensor, ""]:
    """Divides a masked sum by the number of masked entries of all processes, for data-parallel training.

    Each process returns ``its sum * processes / all processes' count``. Data-parallel training averages the
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
        values: Values in data units. Entries outside the mask may have any value, including NaN.
        mask: The entries that count.
        fill: Values in the support, as in :func:`masked_log_prob`.
    """
    return per_entry(-masked_log_prob(law, values, mask, fill).sum(), mask)

r"""The masked negative log-likelihood,

.. math:: L = -\sum_{(t,v,c) \in \text{target}} \log p(x_{tvc}) \, / \, |\text{target}|,

the two sums taken over all processes before the division: the mean of each process' own mean is another
number where processes hold different numbers of observed entries. The same holds of the batches that
gradients are accumulated over: :meth:`~tsgen.models.neural.NeuralModel.training_step` weighs them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.distributions import Distribution


def masked_log_prob(
    law: Distribution, values: Float[Tensor, "*entries"], mask: Bool[Tensor, "*entries"]
) -> Float[Tensor, "*entries"]:
    """The log-density of each entry in nats, zero outside the mask.

    Args:
        law: One density an entry, in data units.
        values: Their values in data units; anything, NaN included, outside the mask.
        mask: Which entries count.
    """
    # fill first: where() alone leaves NaN in the gradient
    filled = torch.where(mask, values, law.mean.detach())
    return torch.where(mask, law.log_prob(filled), 0)


def per_entry(total: Float[Tensor, ""], mask: Bool[Tensor, "*entries"]) -> Float[Tensor, ""]:
    """A sum over the entries of a mask as a mean over those of all processes, for data-parallel training.

    Every process returns ``its sum * processes / all processes' count``: the mean that data-parallel training
    takes of the gradients is then the gradient of the loss over all entries.

    Args:
        total: This process' sum.
        mask: The entries that it was taken over.
    """
    processes = torch.distributed.get_world_size() if _among_others() else 1
    return total * processes / count(mask).clamp(min=1)


def count(mask: Bool[Tensor, "*entries"]) -> Int64[Tensor, ""]:
    """How many entries the masks of all processes hold.

    Args:
        mask: That of this process.
    """
    # whole numbers: a sum in half precision is off, or overflows
    total = mask.sum()
    if _among_others():
        torch.distributed.all_reduce(total)
    return total


def _among_others() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def masked_nll(
    law: Distribution, values: Float[Tensor, "*entries"], mask: Bool[Tensor, "*entries"]
) -> Float[Tensor, ""]:
    """The masked negative log-likelihood in nats an entry, scaled for data-parallel training.

    Args:
        law: One density an entry, in data units.
        values: Their values in data units; anything, NaN included, outside the mask.
        mask: Which entries count.
    """
    return per_entry(-masked_log_prob(law, values, mask).sum(), mask)

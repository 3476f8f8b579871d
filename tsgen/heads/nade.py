r"""The entries of a slice as one joint law: a neural autoregressive density estimator (NADE).

Any joint density is a product of conditional ones, :math:`p(x) = \prod_i p(x_i \mid x_{<i})`. Here each
factor is a mixture of Gaussians, and all factors are computed from one running sum of messages. With
:math:`m_i = 1` if entry i is in the context and 0 otherwise,

.. math::
    e_1 = 0, \qquad e_{i+1} = e_i + m_i (W_i (x_i - M_i h) + A_i)

is the sum of the messages that entry i + 1 receives from the entries before it; one more entry costs one
addition. The message of an entry is affine in its deviation from :math:`M_i h`, the value that the state h of
its own node predicts, because the other entries may not read that state. An entry outside the context sends
nothing; the missing :math:`A_i` shows that it is absent. The logits, means and log-scales of entry i are

.. math::
    P_i h + S_i e_i + V_i \, \mathrm{act}(a_i) + b_i, \qquad a_i = U h + c + e_i.

With M = 0 the hidden layer is that of the original: :math:`a_1 = U h + c` and :math:`a_{i+1} = a_i + m_i (W_i
x_i + A_i)`. The affine part beside it reaches linear-Gaussian laws exactly. U and c are shared by all
entries. If the entries belong to several nodes, each starts from the state of its own node, and all share e.

Messages, means and scales are in standard units.

References:
    RNADE: the real-valued neural autoregressive density-estimator (Uria, Murray & Larochelle, 2013). A deep
    and tractable density estimator (Uria, Murray & Larochelle, 2014), for any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, MixtureSameFamily
from torch.nn import functional

from tsgen.argument_types import check_arguments
from tsgen.data.series import Sizes, Units
from tsgen.heads.base import Head
from tsgen.heads.in_data_units import InDataUnits
from tsgen.heads.mixture import initial_numbers, mixture_law, mixture_quantile

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": functional.silu, "tanh": torch.tanh}


class EntryLinear(nn.Module):
    """An affine map for each entry.

    Args:
        entries: Number of entries.
        in_features: Size of an entry's input.
        out_features: Size of its output.
    """

    def __init__(self, entries: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(entries, in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(entries, out_features))
        nn.init.uniform_(self.weight, -(in_features**-0.5), in_features**-0.5)

    def forward(self, x: Float[Tensor, "*rows entries in"]) -> Float[Tensor, "*rows entries out"]:
        """Applies every entry's map to its input."""
        return torch.einsum("...ei,eio->...eo", x, self.weight) + self.bias

    def of(self, entry: int, x: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        """Applies the map of one entry."""
        return x @ self.weight[entry] + self.bias[entry]


@check_arguments
class MixtureNADEHead(Head):
    r"""Mixtures of K Gaussians whose parameters depend on the state and on other entries of the slice.

    ``order`` decides which other entries the law of an entry is conditional on:

    * ``"given"`` or a list: the context entries before it, in the order of the indices or of the list.
    * ``"any"``: for an entry outside the context, ALL context entries, before and after it; for an entry in
      the context, the context entries of a lower index. One set of weights serves every choice of context. It
      has to be trained with many of them, by hiding random entries (:mod:`tsgen.data.masks`).

    Entries are drawn one after another, each given the context entries and the draws before it in the order;
    with ``"any"``, each is given the whole context and the draws before it.

    Args:
        hidden: Size of a node's state.
        sizes: Numbers of nodes, channels and covariates of a slice.
        components: The number K of Gaussians.
        width: Size of the messages between entries, and of the hidden layer.
        order: The other entries that the law of an entry is conditional on, as above; a list contains the
            entries' indices in their order.
        over: The entries that are modelled jointly: the ``"channels"`` of each node, with weights that all
            nodes share, or the whole ``"slice"``, nodes and channels, with weights for each entry. Entry
            (v, c) of a slice has the index v * channels + c.
        activation: Activation of the hidden layer. ``"none"`` removes the layer: the parameters are then
            affine in the state and the other entries. With K = 1 and a ``width`` of at least the number of
            entries less one, this contains every Gaussian law of a whole slice: a mean affine in each node's
            state, any covariance.
        scale: Whether a component's log-scale depends on the state and the other entries as its mean does
            (``"state"``), or is one learned number per entry (``"entry"``): the conditional laws of a
            Gaussian have such scales.

    Raises:
        ValueError: If ``components`` or ``width`` is below 1, a string is none of the above, ``order`` is not
            a permutation of the entries, or there is only one entry.

    References:
        RNADE: the real-valued neural autoregressive density-estimator (Uria, Murray & Larochelle, 2013); A
        deep and tractable density estimator (Uria, Murray & Larochelle, 2014).
    """

    uniforms_per_entry = 2
    has_cdf = has_icdf = closed_crps = follows_support = True
    place: Tensor
    sequence: Tensor

    def __init__(
        self,
        hidden: int,
        sizes: Sizes,
        components: int = 3,
        width: int = 64,
        order: Literal["given", "any"] | list[int] = "given",
        over: Literal["channels", "slice"] = "channels",
        activation: Literal["silu", "tanh", "none"] = "silu",
        scale: Literal["state", "entry"] = "state",
    ) -> None:
        super().__init__(hidden, sizes)
        initial = initial_numbers(components)
        if width < 1:
            raise ValueError(f"width must be at least 1; it is {width}.")
        if over not in ("channels", "slice"):
            raise ValueError(f"over must be 'channels' or 'slice'; it is {over!r}.")
        if activation not in (*ACTIVATIONS, "none"):
            raise ValueError(f"activation must be 'silu', 'tanh' or 'none'; it is {activation!r}.")
        if scale not in ("state", "entry"):
            raise ValueError(f"scale must be 'state' or 'entry'; it is {scale!r}.")
        self.components, self.width, self.of_nodes = components, width, over == "slice"
        self.joint_entries = sizes.channels if over == "channels" else sizes.nodes * sizes.channels
        if self.joint_entries < 2:
            instead = "MixtureHead" if sizes.nodes == 1 else "MixtureHead, or over='slice'"
            raise ValueError(f"a NADE over {over!r} needs at least 2 entries; there is 1. Use {instead}.")
        self.context_first = order == "any"
        self.order = _order(order, self.joint_entries)
        self.activation = ACTIVATIONS.get(activation)
        if self.activation is not None:
            self.start = nn.Linear(hidden, width)
        self.expected = nn.Parameter(torch.zeros(self.joint_entries, hidden))
        self.telling = EntryLinear(self.joint_entries, 1, width)
        layers = 1 if self.activation is None else 2
        kinds = 3 if scale == "state" else 2
        self.numbers = EntryLinear(self.joint_entries, hidden + layers * width, kinds * components)
        self.log_scale = nn.Parameter(initial[2].repeat(self.joint_entries, 1)) if scale == "entry" else None
        with torch.no_grad():
            # the sum of the messages of a whole slice then has the size of one entry
            self.telling.weight.mul_((3 / self.joint_entries) ** 0.5)
            self.numbers.bias.copy_(initial[:kinds].flatten().expand(self.joint_entries, -1))
        sequence = torch.tensor(self.order)
        self.register_buffer("sequence", sequence, persistent=False)
        self.register_buffer("place", sequence.argsort(), persistent=False)

    @property
    def num_parameters_per_entry(self) -> int:
        """3 K (hidden + 2 width + 1) for its law, or 3 K (hidden + width + 1) without a hidden layer, and
        2 width + hidden for its message. With ``scale="entry"``, K of the 3 K maps are single numbers. The
        width (hidden + 1) numbers U and c of the hidden layer are shared by all entries and not counted."""
        own = [self.expected, *self.telling.parameters(), *self.numbers.parameters()]
        own += [] if self.log_scale is None else [self.log_scale]
        return sum(parameter[0].numel() for parameter in own)

    def forward(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Distribution:
        """Returns the law of each entry given the context entries that ``order`` allows, in data units."""
        states = self._states(h)
        messages = self._messages(states, values, context, units)
        received = self._received(messages)
        if self.context_first:
            total = messages.sum(dim=-2, keepdim=True)
            received = torch.where(self._joint(context)[..., None], received, total)
        return self._laws(states, received, units)

    def proposal(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Distribution:
        """Returns the laws from which :meth:`draw` took the entries outside the context, in data units."""
        states, everything = self._states(h), torch.ones_like(context)
        messages, of_context = (self._messages(states, values, mask, units) for mask in (everything, context))
        if not self.context_first:
            return self._laws(states, self._received(messages), units)
        received = of_context.sum(dim=-2, keepdim=True) + self._received(messages - of_context)
        return self._laws(states, received, units)

    def quantile(
        self, law: InDataUnits, uniforms: Float[Tensor, "*entry uniforms"]
    ) -> Float[Tensor, "*entry"]:
        """Turns two uniform numbers per entry into a draw, by
        :func:`~tsgen.heads.mixture.mixture_quantile`."""
        return law.units.unstandardise(mixture_quantile(law.law, uniforms))

    def draw(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        uniforms: Float[Tensor, "batch time nodes channels uniforms"],
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Float[Tensor, "batch time nodes channels"]:
        """Draws the entries outside the context one after another, in data units.

        The sum of the messages is carried along, so that a slice of D entries takes D steps of equal cost.
        """
        states, noise = self._states(h), self._joint(uniforms)
        x, joint_context = self._joint(_standard(values, context, units)), self._joint(context)
        # an entry that is in the context in every row needs no law
        drawn_somewhere = (~joint_context).flatten(0, -2).any(dim=0).tolist()
        received = self._messages(states, values, context, units).sum(dim=-2)
        if not self.context_first:
            received = torch.zeros_like(received)
        entries, drawn = list(x.unbind(-1)), list(x.unbind(-1))
        for i in self.order:
            if drawn_somewhere[i]:
                numbers = self.numbers.of(i, self._features(states[..., i, :], received))
                scales = None if self.log_scale is None else self.log_scale[i]
                draw = mixture_quantile(self._law(numbers, scales), noise[..., i, :])
                # not what is read of the draw: zero rain must stay zero
                drawn[i] = torch.where(joint_context[..., i], entries[i], draw)
                entries[i] = torch.where(joint_context[..., i], entries[i], self._settled(draw, i, units))
            deviation = entries[i] - states[..., i, :] @ self.expected[i]
            message = self.telling.of(i, deviation[..., None])
            # in any order the messages of the context are in the sum from the start
            received = received + (
                torch.where(joint_context[..., i, None], 0, message) if self.context_first else message
            )
        result = units.unstandardise(torch.stack(drawn, dim=-1).reshape(values.shape))
        return torch.where(context, values, result.to(values.dtype))

    def _settled(self, draw: Tensor, entry: int, units: Units) -> Tensor:
        """Returns draws of an entry in standard units as they will be read: those of the drawn values."""
        if units.transforms is None:
            return draw
        transform = units.transforms.channels[entry % self.sizes.channels]
        loc, scale = (self._joint(x.expand(*draw.shape[:2], -1, -1))[..., entry] for x in units[:2])
        image = transform.forward(transform.inverse(loc + scale * draw))
        return ((image - loc) / scale).to(units.precision)

    def _joint(self, x: Tensor) -> Tensor:
        """Reshapes ``[batch, time, nodes, channels, ...]`` to ``[batch, time, groups, entries, ...]``, where
        a group is modelled jointly: the channels of a node, or the slice."""
        return x.reshape(*x.shape[:2], -1, self.joint_entries, *x.shape[4:])

    def _states(self, h: Float[Tensor, "batch time nodes hidden"]) -> Tensor:
        """Returns the state of each entry's node, ``[batch, time, groups, entries, hidden]``."""
        return self._joint(h[..., None, :].expand(*h.shape[:3], self.sizes.channels, -1))

    def _messages(
        self,
        states: Float[Tensor, "batch time groups entries hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
    ) -> Float[Tensor, "batch time groups entries width"]:
        """Returns the message of each entry to the others, zero outside the context."""
        deviation = self._joint(_standard(values, context, units)) - torch.einsum(
            "...ei,ei->...e", states, self.expected
        )
        return torch.where(self._joint(context)[..., None], self.telling(deviation[..., None]), 0)

    def _received(
        self, messages: Float[Tensor, "batch time groups entries width"]
    ) -> Float[Tensor, "batch time groups entries width"]:
        """Returns the sum of the messages of all entries before each entry in the order."""
        # shifted, not subtracted: an entry's own value must not leave even a rounding error
        sums = functional.pad(messages[..., self.sequence, :], (0, 0, 1, -1)).cumsum(dim=-2)
        return sums[..., self.place, :]

    def _laws(self, states: Tensor, received: Tensor, units: Units) -> InDataUnits:
        """Returns the law of each entry of the slices, given its state and the messages it has received."""
        numbers = self.numbers(self._features(states, received))
        scales = None if self.log_scale is None else self.log_scale.unflatten(0, (-1, self.sizes.channels))
        by_entry = numbers.flatten(2, 3).unflatten(2, (-1, self.sizes.channels))
        return InDataUnits(self._law(by_entry, scales), units)

    def _features(
        self, states: Float[Tensor, "*entry hidden"], received: Float[Tensor, "*entry width"]
    ) -> Float[Tensor, "*entry features"]:
        """Returns the features that the parameters of an entry's law are affine in."""
        features = [states, received]
        if self.activation is not None:
            features.append(self.activation(self.start(states) + received))
        return torch.cat(features, dim=-1)

    def _law(self, numbers: Float[Tensor, "*entry numbers"], log_scale: Tensor | None) -> MixtureSameFamily:
        """Returns the mixtures with the given numbers per entry, in standard units."""
        each = numbers.unflatten(-1, (-1, self.components))
        if log_scale is not None:
            each = torch.cat([each, log_scale[..., None, :].expand(*each.shape[:-2], 1, -1)], dim=-2)
        return mixture_law(each)


def _order(order: Literal["given", "any"] | list[int], entries: int) -> list[int]:
    """Returns the entries' indices in their order."""
    if order in ("given", "any"):
        return list(range(entries))
    if isinstance(order, str) or sorted(order) != list(range(entries)):
        raise ValueError(
            f"order must be 'given', 'any' or a permutation of 0 to {entries - 1}; it is {order!r}."
        )
    return list(order)


def _standard(
    values: Float[Tensor, "batch time nodes channels"],
    context: Bool[Tensor, "batch time nodes channels"],
    units: Units,
) -> Float[Tensor, "batch time nodes channels"]:
    """Returns the values in the context in standard units, zero elsewhere."""
    # fill first: where() alone leaves NaN in the gradient
    return units.standardise(torch.where(context, values, units.centre))

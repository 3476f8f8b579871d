r"""Models of any entry given any set of other entries.

.. math:: p(x_{tvc} \mid x_O), \qquad O \text{ any set of entries of the window, before and after } t.

A single network handles every set O. It is trained by hiding random sets of entries and scoring the hidden
ones. Entries drawn one after another, each given the context and all earlier draws, are then draws from the
posterior.

References:
    A deep and tractable density estimator (Uria, Murray & Larochelle, 2014);
    Autoregressive diffusion models (Hoogeboom et al., 2022).
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tsgen.argument_types import check_arguments
from tsgen.data.detection import AUTO, fit_transforms, transforms_of_windows
from tsgen.data.interpolation import Nearest
from tsgen.data.moments import RunningMoments
from tsgen.data.series import Series, SeriesBatch, SeriesSpec, Sizes, Units
from tsgen.data.transforms import Transform, Transforms
from tsgen.encoders import ConvolutionEncoder, Encoder
from tsgen.encoders.propagation import Propagation
from tsgen.exact.shrinkage import ITERATIONS
from tsgen.heads import Head, MixtureHead
from tsgen.models.density import OptimizerFactory, SchedulerFactory
from tsgen.models.initial_weights import start_from
from tsgen.models.linear_posterior import Linear, LinearPosterior
from tsgen.models.neural import NeuralModel
from tsgen.objectives import MaskedNLL, Objective
from tsgen.sampling import AnyOrder, Sampler
from tsgen.sampling.any_order import order_of_entries
from tsgen.sampling.base import TENSORS_PER_PASS, draws_per_portion

INTERPOLATION_FEATURES = 5
"""How many more numbers per entry the encoder reads with ``units="interpolation"``; see ``features``."""

LINEAR_FEATURES = 5
"""How many more numbers per entry than these the encoder reads with ``units="linear"``."""

FEATURES = {
    "node": 0,
    "interpolation": INTERPOLATION_FEATURES,
    "linear": INTERPOLATION_FEATURES + LINEAR_FEATURES,
}

SMALLEST_DEVIATION = 0.01
"""The scale of an entry with ``units="linear"``, in deviations of its node, at least."""

WIDEST = 2.0
"""The largest mean and scale of a component with ``units="linear"``, in deviations of its node."""

FAR = 8.0
"""Features in posterior deviations are limited to this size."""

FITTED_STEPS = 72
"""The length of the windows to which the linear process is fitted, in steps, at most."""

FITTED_ENTRIES = 2**21
"""The number of entries to which the linear process is fitted, at most, in windows spread over the series."""

TRAINING_ITERATIONS = 1
"""Iterations of EM in each step of a training in which the model adapts to every batch."""

REACH = 24.0
"""Initial value of the range rho, in steps."""


@check_arguments
class AnyOrderModel(NeuralModel):
    r"""An encoder of the whole window, past and future, and a head for its hidden entries.

    Only hidden entries are scored. In training, the data module's ``thinning`` hides random sets of entries,
    at a rate that is itself drawn between 0 and 1 so that the model learns from every fraction of visible
    entries. The model reads the remaining ones.

    Args:
        spec: Sizes, units and graph of the data.
        encoder: Makes the encoder from the size of a node's input; a two-way ConvolutionEncoder if not given.
        head: Makes the head from the size of a node's state and the sizes of a slice.
        optimizer: Makes the optimiser from the parameters; AdamW with a rate of 0.002 if not given.
        scheduler: Makes the learning-rate schedule from the optimiser; it steps once per epoch. None keeps
            the rate constant.
        sampler: How unknown entries are drawn in test and prediction.
        objective: The loss that training minimises.
        node_embedding: Size of the learned embedding of each node; 0 for a model that runs on other graphs
            too.
        units: The standard units in which the head works. ``node``: mean and standard deviation of the node
            and channel. ``interpolation``: units of each entry, from the visible entries of its node and
            channel. The location is the straight line in time between the nearest visible values. The scale
            is :math:`\sigma \sqrt{1 - e^{-v / \rho}}`, where :math:`\sigma` is the node's standard deviation,
            v the variance of a random walk between those values (see :mod:`tsgen.data.interpolation`) and
            :math:`\rho` a learned number of steps. In short gaps the scale grows with the square root of the
            gap length; where nothing is visible it is the node's standard deviation. The encoder also reads
            the line, the distances to its ends, and the mean and fraction of the visible entries of the
            slice. ``linear``: the mean and deviation of each entry given all visible entries of the window
            under a linear-Gaussian process of the whole network, fitted to the training data
            (:mod:`tsgen.models.linear_posterior`). On linear-Gaussian data the law is thus nearly exact
            before any training. The encoder also reads what it reads with ``interpolation``, this mean and
            deviation, the line's distance from the mean, and how surprising each visible entry is given all
            others.
        adapts: Take units and linear process from the visible entries of whatever the model is given: of each
            batch in training, of the series in :func:`tsgen.impute`. The weights then belong to no data set.
            Needs ``units="linear"`` and no ``node_embedding``.
        init: Weights with which training starts, for a model with their encoder, head and units:
            ``pretrained`` for those in the package, or a file of weights or the checkpoint of a run. Inputs
            that they do not read (the embedding of nodes, covariates, further channels) have no influence at
            first. A saved model does not need them again.

    Attributes:
        support: The values that the channels of the data to which a model adapts can take; read off the data
            unless set.

    Raises:
        ValueError: If the encoder is causal, ``units`` is unknown, or building blocks are incompatible with
            each other or with ``init``; in training, if the data hides nothing.
    """

    def __init__(
        self,
        spec: SeriesSpec,
        encoder: Callable[[int], Encoder] | None = None,
        head: Callable[[int, Sizes], Head] = MixtureHead,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        sampler: Sampler = AnyOrder(),
        objective: Objective = MaskedNLL(),
        node_embedding: int = 0,
        units: Literal["node", "interpolation", "linear"] = "node",
        adapts: bool = False,
        init: str | None = None,
    ) -> None:
        super().__init__(
            spec,
            encoder or partial(ConvolutionEncoder, causal=False),
            head,
            optimizer,
            scheduler,
            sampler,
            objective,
            node_embedding,
            numbers_per_entry=2 + FEATURES[units],
            units=units,
            adapts=adapts,
        )
        self.of_entries, self.adapts = units == "interpolation", adapts
        self.linear: LinearPosterior | None = None
        self._last: tuple[list[Any], Linear] | None = None
        if units == "linear":
            self.linear = LinearPosterior(spec.graph, len(spec.channels), persistent=not adapts)
            # at first the laws are those of the head's bias, in units of the linear posterior
            last = getattr(getattr(self.head, "head", self.head), "linear", None)  # of a ConditionalHead, too
            if isinstance(last, nn.Linear):
                nn.init.zeros_(last.weight)
        if adapts:
            self._check_adaptable()
            for name in ("loc", "scale"):
                # the units are those of the data at hand, not of any training data
                self.register_buffer(name, getattr(self, name), persistent=False)
        if self.head.joint_entries > 1:
            raise ValueError(
                "an any-order model needs a head for single entries, since its sampler draws them jointly in "
                f"groups; {type(self.head).__name__} models {self.head.joint_entries} entries jointly. Use a "
                "GaussianHead or a MixtureHead."
            )
        if self.of_entries:
            self.log_reach = nn.Parameter(torch.full((len(self.spec.channels),), math.log(REACH)))
        if self.encoder.causal:
            raise ValueError(
                "an any-order model needs an encoder that reads past and future; "
                f"{type(self.encoder).__name__} is causal. Set causal: false, or wrap it in a "
                "BidirectionalEncoder."
            )
        self.check_building_blocks()
        self.support: str | Mapping[str, str] = AUTO
        if init is not None:
            start_from(self, init)

    def encode(
        self,
        batch: SeriesBatch,
        x: Float[Tensor, "batch time nodes channels"],
        context: Float[Tensor, "batch time nodes channels"],
    ) -> Float[Tensor, "batch time nodes hidden"]:
        """Returns the encoder's output at each slice, given all visible entries of the window."""
        h, _ = self.encoder(self.features(batch, x, context), Propagation(batch.graph))
        return h

    def units(self, batch: SeriesBatch) -> Units:
        """Returns the location and scale that define standard units for each entry of a batch."""
        node = self.units_of_nodes(batch)
        if self.linear is not None:
            law = self._linear_law(batch)
            scale = node.scale * law.deviation.clamp(min=SMALLEST_DEVIATION)
            # the head corrects a law that may be very narrow, and must not leave the range of the node
            widest = WIDEST * node.scale / scale
            loc = node.loc + node.scale * law.mean
            return Units(loc, scale, batch.nodes, self.precision, widest, self.transforms)
        if not self.of_entries:
            return node
        nearest = Nearest.of(batch.context)
        loc = nearest.line(node.image(batch.values), node.loc)
        # lower bound: a visible entry is its own nearest one; its law is never scored, but needs a positive
        # scale. Upper bound: infinity, where nothing is visible, would give no valid gradient
        steps = nearest.walked().clamp(min=0.5, max=1e6).to(self.precision)
        scale = node.scale * (-torch.expm1(-steps / self.log_reach.exp())).sqrt()
        return Units(loc, scale, batch.nodes, self.precision, transforms=self.transforms)

    def _linear_law(self, batch: SeriesBatch) -> Linear:
        """Returns the linear posterior of a batch, computed once for features and units."""
        assert self.linear is not None
        units = self.units_of_nodes(batch)
        values = torch.where(batch.context, (units.image(batch.values) - units.loc) / units.scale, 0)
        # by content: windows may be changed in place, and other weights may be loaded
        read = [self.linear.spaces(), values, batch.context, batch.nodes]
        if self._last is None or not all(map(_same, self._last[0], read)):
            read[2] = batch.context.clone()
            self._last = read, self.linear(values, batch.context, batch.nodes)
        return self._last[1]

    def features(
        self, batch: SeriesBatch, x: Tensor, context: Tensor
    ) -> Float[Tensor, "batch time nodes features"]:
        """Returns the encoder's input at each step.

        With ``units="interpolation"`` this adds, per entry, the line between the nearest visible values, the
        logarithms of one plus the distances to its ends, and the mean and the fraction of the slice's visible
        entries. With ``units="linear"`` it adds these and, per entry, mean and log-deviation of the linear
        posterior, the distances of the line and of the lowest value with a probability of its own from its
        mean, in deviations, and the surprise of visible entries.
        """
        features = super().features(batch, x, context)
        if not self.of_entries and self.linear is None:
            return features
        nearest, length = Nearest.of(batch.context), x.shape[1]
        since, until = (d.clamp(max=length).log1p().to(x.dtype) for d in nearest.distances())
        line = nearest.line(x, torch.zeros_like(x[0, 0]))
        share = context.mean(dim=2, keepdim=True)
        mean = x.mean(dim=2, keepdim=True) / share.clamp(min=0.5 / x.shape[2])
        more = [line, since, until, mean.expand_as(x), share.expand_as(x)]
        if self.linear is not None:
            law = self._linear_law(batch)
            deviation = law.deviation.clamp(min=SMALLEST_DEVIATION)
            apart = torch.where(batch.context, 0, (line - law.mean) / deviation).clamp(-FAR, FAR)
            more += [law.mean, deviation.log(), apart, law.surprise.clamp(-FAR, FAR)]
            more.append(_lowest(self.units_of_nodes(batch), law.mean, deviation))
        return torch.cat([features, *(x.to(features.dtype) for x in more)], dim=-1)

    def _check_adaptable(self) -> None:
        """Raises ``ValueError`` unless no parameter belongs to single nodes and units are linear."""
        if self.linear is None:
            raise ValueError('adapts needs units "linear", which are taken from the data at hand.')
        if self.knows_its_nodes:
            raise ValueError(
                "a model that adapts must have no parameters of single nodes: set node_embedding to 0, and "
                "use a head without scales of nodes."
            )

    @check_arguments
    def adapted(
        self,
        data: Series | SeriesBatch,
        support: str | Mapping[str, str] | None = None,
        channels_of: Series | SeriesBatch | None = None,
    ) -> AnyOrderModel:
        """Returns a model with the same weights that belongs to other data: its units and linear process.

        Only what is visible is read: the observed entries of a series, the context of windows. The weights
        are shared, not copied.

        Args:
            data: The series or windows that the model is to run on.
            support: The values that channels can take (:func:`tsgen.data.fit_transforms`); those of
                :attr:`support` if not given.
            channels_of: The data before its channels became nodes
                (:func:`tsgen.data.channels.channels_as_nodes`), each of which has a support.

        Raises:
            ValueError: If the model does not adapt, the data has other channels or covariates, or values lie
                outside the support.
        """
        if not self.adapts:
            raise ValueError(
                "the model must be one that adapts (adapts=True); this one belongs to its training data. Use "
                "tsgen.load(checkpoint, spec=...)."
            )
        new = self._for_spec(_spec_of(self.spec, data))
        channels = data if channels_of is None else channels_of
        support = self.support if support is None else support
        if isinstance(channels, Series):
            found = fit_transforms(channels, None, support)
        else:
            alike = channels_of is None
            names = self.spec.channels if alike else [str(c) for c in range(channels.values.shape[-1])]
            found = transforms_of_windows(channels, names, support)
        new._set_transforms(found, on_nodes=channels_of is not None)
        if isinstance(data, Series):
            new._adapt(data, [slice(0, len(data))])
        else:
            new._fit_to_windows(data, ITERATIONS)
        new.adapts = False
        return new

    def _for_spec(self, spec: SeriesSpec) -> AnyOrderModel:
        """Returns a model with the same weights and a linear process to be fitted."""
        new = copy.copy(self)
        new._buffers, new._modules, new._last = dict(self._buffers), dict(self._modules), None
        new.spec = spec
        new.linear = LinearPosterior(spec.graph, len(spec.channels), persistent=False).to(self.device)
        return new

    def fit_units(self, series: Series, stretches: Sequence[slice]) -> None:
        """Fits the linear process to the observed entries of some stretches; if the model adapts, units too.

        Args:
            series: The series.
            stretches: The stretches.
        """
        if self.adapts:
            self._set_transforms(fit_transforms(series, stretches, self.support))
            self._adapt(series, stretches)
            return
        batch = series.windows(*_fitted_windows(series, stretches))
        self._fit_linear(batch, ITERATIONS)

    def _adapt(self, series: Series, stretches: Sequence[slice]) -> None:
        """Takes units and linear process from the observed entries of a series."""
        moments = RunningMoments()
        for chunk in series.chunks(stretches):
            moments.add(self.node_units.image(chunk.values), chunk.observed)
        self._set_units(*moments.shrunk())
        self._fit_linear(series.windows(*_fitted_windows(series, stretches)), ITERATIONS)

    def _fit_to_windows(self, batch: SeriesBatch, iterations: int) -> None:
        """Takes units and linear process from the visible entries of windows."""
        moments = RunningMoments()
        images = self.node_units.image(batch.values.to(self.loc.device))
        moments.add(images.flatten(0, 1), batch.context.flatten(0, 1))
        self._set_units(*moments.shrunk())
        self._fit_linear(batch, iterations)

    def _set_transforms(self, channels: Sequence[Transform], on_nodes: bool = False) -> None:
        real = all(channel.is_identity for channel in channels)
        follow = self.head.follows_support and not real
        self.transforms = Transforms(channels, on_nodes) if follow else None

    def _fit_linear(self, batch: SeriesBatch, iterations: int) -> None:
        assert self.linear is not None
        values = (self.node_units.image(batch.values.to(self.loc.device)) - self.loc) / self.scale
        self.linear.fit(values, batch.context.to(self.loc.device), batch.graph, iterations)
        self._last = None

    def _set_units(self, loc: Tensor, scale: Tensor) -> None:
        for name, numbers in (("loc", loc), ("scale", scale)):
            self.register_buffer(name, numbers.to(self.device, torch.float64), persistent=False)

    def at_hand(self, batch: SeriesBatch) -> tuple[NeuralModel, SeriesBatch]:
        """Returns the model and the batch with which a loss is computed.

        A model that adapts does so to the context of all windows, and the windows without target are then
        left out. Values that are real numbers are in standard units, so that losses on different networks are
        comparable.
        """
        if not self.adapts:
            return self, batch
        new = self._for_spec(_spec_of(self.spec, batch))
        new._set_transforms(transforms_of_windows(batch, self.spec.channels))
        new._fit_to_windows(batch, TRAINING_ITERATIONS)
        scored = batch.target.flatten(1).any(dim=1)
        batch = batch._of_each(lambda x: x if scored.all() else x[scored])
        if new.transforms is None:
            values = torch.where(batch.context | batch.target, (batch.values - new.loc) / new.scale, 0)
            batch = batch._changed(values=values)
            new._set_units(torch.zeros_like(new.loc), torch.ones_like(new.scale))
        return new, batch

    def setup(self, stage: str) -> None:
        """Checks building blocks and data; fits the linear process to the data unless it is fitted."""
        super().setup(stage)
        split = getattr(getattr(self.own_trainer, "datamodule", None), "split", None)
        if self.linear is not None and split is not None and not self.linear.fitted:
            self.fit_units(split.series, split.train)

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` unless the model can be used with the data, which must hide some entries.

        Without hidden entries there would be nothing to learn or to score.
        """
        super().check_data(data, stage)
        if stage == "fit" and getattr(data, "thinning", self) is None and not self.adapts:
            raise ValueError(
                "an any-order model learns from hidden entries; data.thinning is null and hides none. "
                "Set it to a pattern, such as tsgen.data.PointMask with rate: [0.0, 1.0]."
            )
        if stage != "predict" and getattr(data, "horizon", None) == 0:
            raise ValueError(
                "an any-order model is scored on hidden entries; data.horizon is 0 and hides none. "
                "Set it to null, or to a number of steps."
            )

    @check_arguments
    def target(self, batch: SeriesBatch) -> Bool[Tensor, "batch time nodes channels"]:
        """Returns the hidden target entries; visible ones are inputs of the model and are not scored."""
        return batch.hidden

    def drawn_law(self, batch: SeriesBatch) -> torch.distributions.Distribution | None:
        """Returns the law of each hidden entry given all visible ones if draws are independent.

        With several groups it returns None: entries of later groups follow mixtures of laws over earlier
        draws.
        """
        return None if self.sampler.joint else self(batch)

    @check_arguments
    def slices(self, batch: SeriesBatch) -> torch.distributions.Distribution:
        """Raises ``ValueError``: this model does not factorise over time.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "an AnyOrderModel has no law of a slice given the slices before it; use an AutoregressiveModel "
            "or a GraphVAR, or compare joint densities by log_likelihood."
        )

    @check_arguments
    def log_likelihood(self, batch: SeriesBatch) -> Float[Tensor, "batch"]:
        """Returns the joint log-density of the visible entries of each window, in nats.

        The density is that of the chain rule: each visible entry is scored given those before it, in a random
        order that depends on the window's position alone. A model that is not exact has a different density
        for each order; random orders are those that it was trained for. The number of forward passes of a
        window equals its number of visible entries.
        """
        rows = (batch.rows(slice(window, window + 1)) for window in range(len(batch.values)))
        return torch.cat([self._chain_rule(row) for row in rows])

    def _chain_rule(self, row: SeriesBatch) -> Float[Tensor, "1"]:
        """Returns the joint log-density of one window by the chain rule."""
        order = order_of_entries(row)
        total = self.loc.new_zeros(1)
        width = TENSORS_PER_PASS * self.encoder.hidden * self.precision.itemsize
        for some in order[row.context].split(draws_per_portion(row.context[..., 0].numel() * width)):
            rows, current = row.repeat(len(some)), some.view(-1, 1, 1, 1)
            rows = rows._changed(context=rows.context & (order < current), target=order == current)
            total = total + self.log_prob(rows).sum()
        return total


def _same(one: Any, other: Any) -> bool:
    """Returns whether two objects are one, or tensors with the same numbers."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one is other


def _lowest(units: Units, mean: Tensor, deviation: Tensor) -> Tensor:
    """Returns where the lowest value with a probability of its own ends, in deviations from a mean."""
    if units.transforms is None:
        return torch.full_like(mean, -FAR)
    edge = (units.transforms.lowest(units.loc) - units.loc) / units.scale
    return ((edge - mean) / deviation).clamp(-FAR, FAR)


def _spec_of(spec: SeriesSpec, data: Series | SeriesBatch) -> SeriesSpec:
    """Returns a spec of other data, its units to be fitted, for a model with this spec."""
    if isinstance(data, Series):
        nodes, channels, covariates = list(data.nodes), list(data.channels), data.sizes.covariates
    else:
        nodes, channels = [str(node) for node in range(data.values.shape[2])], spec.channels
        channels = channels if len(channels) == data.values.shape[-1] else [""] * data.values.shape[-1]
        covariates = 0 if data.covariates is None else data.covariates.shape[-1]
    if len(channels) != len(spec.channels) or covariates != spec.num_covariates:
        raise ValueError(
            f"the data must have {len(spec.channels)} channels and {spec.num_covariates} covariates, as in "
            f"the model's training; it has {len(channels)} and {covariates}."
        )
    return dataclasses.replace(
        spec,
        loc=torch.zeros(len(nodes), len(channels)),
        scale=torch.ones(len(nodes), len(channels)),
        edge_index=data.graph.edge_index,
        edge_weight=data.graph.edge_weight,
        nodes=nodes,
        channels=channels,
    )


def _fitted_windows(series: Series, stretches: Sequence[slice]) -> tuple[Tensor, int]:
    """Returns the first steps and the length of the windows to which a linear process is fitted.

    The windows cover the stretches if these have at most :data:`FITTED_ENTRIES` entries; else they are spread
    over them.
    """
    ends = [stretch.indices(len(series))[:2] for stretch in stretches]
    longest = max(stop - start for start, stop in ends)
    length = max(1, min(FITTED_STEPS, longest if longest < 2 * FITTED_STEPS else FITTED_STEPS))
    if longest <= FITTED_STEPS and longest >= 8:
        length = longest // 2  # two windows, so that options can be chosen
    starts = [
        torch.arange(start, stop - length + 1, length) for start, stop in ends if stop - start >= length
    ]
    last = [torch.tensor([stop - length]) for start, stop in ends if stop - start >= length]
    every = torch.cat([*starts, *last]).unique()
    nodes, channels, _ = series.sizes
    most = max(2, FITTED_ENTRIES // (length * nodes * channels))
    if len(every) > most:
        every = every[torch.linspace(0, len(every) - 1, most).long()]
    return every, length

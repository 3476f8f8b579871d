r"""Training several steps ahead.

Starting at a random step, the model reads only its own draws for K steps, and the true values are scored by
the law that these paths imply. With M paths :math:`x^m` from the visible past :math:`x_{<s}`, an entry
:math:`x_{s+k}^v` is scored by

.. math::
    \hat p(x_{s+k}^v) = \frac1M \sum_m p(x_{s+k}^v \mid x^m_{s..s+k-1}, x_{<s}), \qquad k = 0, .., K - 1.

Entries that a head models jointly (see :class:`~tsgen.heads.MixtureNADEHead`) are scored jointly: the mean is
then taken over their joint densities, and needs more paths.

Gradients pass through the paths, since a draw is a differentiable function of uniform numbers and of the law.
The mean over paths is inside the logarithm: as M grows, each entry is scored by the model's own law k + 1
steps ahead, which is a proper score. With few paths the score is improper: by Jensen's inequality :math:`E
\log \hat p \le \log p`, with a gap proportional to 1/M that shrinks as the paths become more alike, so that a
model is rewarded for forgetting the past. With one path of an AR(1) with coefficient :math:`\phi` and
standard deviation :math:`\sigma`, the loss of the second step has the derivatives :math:`\phi` and
:math:`-\phi^2 / \sigma` at the true law of the data: training moves away from it, towards a smaller
coefficient and a wider noise.

References:
    Multi-step estimation for forecasting (Clements & Hendry, 1996);
    How (not) to train your generative model (Huszár, 2015), for one path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tsgen.argument_types import check_shapes
from tsgen.counter_random import streams, uniforms
from tsgen.data.series import SeriesBatch, check_stream
from tsgen.encoders.base import map_state
from tsgen.encoders.propagation import Propagation
from tsgen.heads.likelihood import masked_log_prob, per_entry
from tsgen.objectives.base import Objective
from tsgen.protocols import EncoderModel, ForwardModel, check_forward

STARTS, PATHS = 1, 2
"""Stream keys that keep the random numbers of start steps and of paths distinct."""


@check_shapes
@dataclass(frozen=True)
class Rollout(Objective[ForwardModel]):
    """The masked negative log-likelihood of K steps along the model's own paths and of all steps before.

    The paths start at a random step. The steps before it are scored one step ahead, given the true values.

    Args:
        steps: The number K of steps, limited to the length of a window; 1 scores one step ahead, as
            :class:`~tsgen.objectives.MaskedNLL` does.
        paths: The number M of paths per window.

    Raises:
        ValueError: If a number is below 1.
    """

    steps: int = 6
    paths: int = 8

    def __post_init__(self) -> None:
        for name, number in (("steps", self.steps), ("paths", self.paths)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1; it is {number}.")

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model is autoregressive."""
        check_forward(type(self).__name__, model, "Use tsgen.objectives.MaskedNLL.")

    def loss(
        self, model: ForwardModel, batch: SeriesBatch, stream: Int64[Tensor, "batch"], step: int
    ) -> Float[Tensor, ""]:
        """Returns the negative log-likelihood in nats per entry of the steps up to the end of the paths."""
        check_stream(batch, stream)
        start, end = self._path_range(batch.values.shape[1], step)
        batch = batch.steps(slice(0, end))
        before, state, score = None, None, batch.values.new_zeros(())
        if start:
            past = batch.steps(slice(0, start))
            x, context = model.inputs(past)
            h, state = model.read(past, x, context)
            law = model.predict(past, h, past.context)
            loc = model.units_of_nodes(past).centre
            score = masked_log_prob(law, past.values, model.target(past), loc).sum()
            before = x[:, -1:], context[:, -1:]
        future = batch.steps(slice(start, None))
        score = score + self._log_prob_ahead(model, future, before, state, stream)
        return per_entry(-score, model.target(batch))

    def target(
        self, model: EncoderModel, batch: SeriesBatch, step: int
    ) -> Bool[Tensor, "batch _ nodes channels"]:
        """Returns the target entries of the steps up to the end of the paths."""
        _, end = self._path_range(batch.values.shape[1], step)
        return model.target(batch.steps(slice(0, end)))

    def _path_range(self, length: int, step: int) -> tuple[int, int]:
        """Returns the step at which the paths start, and the step after their end."""
        ahead = min(self.steps, length)
        # one start step for all windows, the same on every process
        fraction = float(uniforms(streams(STARTS, torch.tensor(step)), (1,)))
        start = int(fraction * (length - ahead + 1))
        return start, start + ahead

    def _log_prob_ahead(
        self,
        model: ForwardModel,
        batch: SeriesBatch,
        before: tuple[Tensor, Tensor] | None,
        state: Any,
        stream: Int64[Tensor, "batch"],
    ) -> Float[Tensor, ""]:
        """Returns the sum of the log-densities of the target entries along the paths."""
        path = torch.arange(self.paths, device=stream.device)
        stream = streams(PATHS, stream, path[:, None]).flatten()
        rows, units, propagation = batch.repeat(self.paths), model.units(batch), Propagation(batch.graph)
        state = map_state(self._repeat_rows, state)
        before = None if before is None else (self._repeat_rows(before[0]), self._repeat_rows(before[1]))
        shape = (*rows.values.shape[2:], model.head.uniforms_per_entry)
        scores = []
        for k in range(rows.values.shape[1]):
            now = rows.steps(slice(k, k + 1))
            h, state = model.advance(now, before, propagation, state)
            law = model.predict(now, h, now.context)
            loc = model.units_of_nodes(now).centre
            score = masked_log_prob(law, now.values, model.target(now), loc)
            joint = score.reshape(self.paths, -1, model.head.joint_entries).sum(dim=-1)
            scores.append((joint.logsumexp(dim=0) - math.log(self.paths)).sum())
            noise = uniforms(stream, (1, *shape), start=k * math.prod(shape), dtype=units.precision)
            drawn = model.draw(now, h, torch.zeros_like(now.context), noise)
            before = units.standardise(drawn), torch.ones_like(drawn)
        return torch.stack(scores).sum()

    def _repeat_rows(self, x: Tensor) -> Tensor:
        return x.repeat(self.paths, *[1] * (x.dim() - 1))

r"""Training several steps ahead.

From a random step on the model is fed nothing but its own draws, for K steps, and the truth is scored by the
law that these paths imply: with M paths :math:`x^m` from the visible past :math:`x_{<s}`,

.. math:: \hat p(x_{s+k}) = \frac1M \sum_m p(x_{s+k} \mid x^m_{s..s+k-1}, x_{<s}), \qquad k = 0, .., K - 1.

Gradients go through the paths, since a draw is a differentiable function of uniform numbers and of the law
(of a mixture: given the component). The mean over paths stands inside the logarithm: as M grows, the score of
each step is that of the model's true law k steps ahead, a proper one. With one path it is the score of a
single draw, which is independent of the truth, and the law of the data is not its optimum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tsgen.counter_random import streams, uniforms
from tsgen.encoders.base import map_state
from tsgen.likelihood import masked_log_prob, per_entry
from tsgen.objectives.base import Objective, check_forward
from tsgen.propagation import Propagation
from tsgen.series import SeriesBatch

if TYPE_CHECKING:
    from tsgen.models.autoregressive import AutoregressiveModel


STARTS, PATHS = 1, 2
"""Set the random streams of the two apart."""


@dataclass(frozen=True)
class Rollout(Objective):
    """The masked negative log-likelihood of K steps after a random one, along the model's own paths, and of
    all steps before.

    Args:
        steps: The number K of steps; 1 scores one step ahead, as :class:`MaskedNLL` does.
        paths: The number M of paths of each window.

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
        """Raises ``ValueError`` unless the model goes forward slice by slice."""
        check_forward(self, model)

    def loss(
        self, model: AutoregressiveModel, batch: SeriesBatch, stream: Int64[Tensor, "batch"], step: int
    ) -> Float[Tensor, ""]:
        """The negative log-likelihood in nats an entry, up to the end of the paths."""
        ahead = min(self.steps, batch.values.shape[1])
        # one start for all windows, the same on every process
        place = float(uniforms(streams(STARTS, torch.tensor(step)), ()))
        start = int(place * (batch.values.shape[1] - ahead + 1))
        batch = batch.steps(slice(0, start + ahead))
        before, state, score = None, None, batch.values.new_zeros(())
        if start:
            past = batch.steps(slice(0, start))
            x, seen = model.visible(past)
            h, state = model.read(past, x, seen)
            law = model.predict(past, h, past.context)
            score = masked_log_prob(law, past.values, model.scored(past)).sum()
            before = x[:, -1:], seen[:, -1:]
        future = batch.steps(slice(start, None))
        score = score + self._ahead(model, future, before, state, stream)
        return per_entry(-score, model.scored(batch))

    def _ahead(
        self,
        model: AutoregressiveModel,
        batch: SeriesBatch,
        before: tuple[Tensor, Tensor] | None,
        state: Any,
        stream: Int64[Tensor, "batch"],
    ) -> Float[Tensor, ""]:
        """The sum of the log-densities of the steps after the truth ends."""
        path = torch.arange(self.paths, device=stream.device)
        stream = streams(PATHS, stream, path[:, None]).flatten()
        rows, units, propagation = batch.repeat(self.paths), model.units(batch), Propagation(batch.graph)
        state = map_state(self._repeated, state)
        before = None if before is None else (self._repeated(before[0]), self._repeated(before[1]))
        shape = (*rows.values.shape[2:], model.head.uniforms_per_entry)
        scores = []
        for k in range(rows.values.shape[1]):
            now = rows.steps(slice(k, k + 1))
            nothing = torch.zeros_like(now.context)
            h, state = model.advance(now, before, propagation, state)
            score = masked_log_prob(model.predict(now, h, nothing), now.values, model.scored(now))
            mean = score.unflatten(0, (self.paths, -1)).logsumexp(dim=0) - math.log(self.paths)
            scores.append(torch.where(model.scored(batch.steps(slice(k, k + 1))), mean, 0).sum())
            noise = uniforms(stream, (1, *shape), start=k * math.prod(shape), dtype=units.loc.dtype)
            drawn = model.draw(now, h, nothing, noise)
            before = units.standardise(drawn), torch.ones_like(drawn)
        return torch.stack(scores).sum()

    def _repeated(self, x: Tensor) -> Tensor:
        return x.repeat(self.paths, *[1] * (x.dim() - 1))

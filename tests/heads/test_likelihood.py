"""A mean that does not exist reaches no gradient: every objective and sampler with Cauchy laws."""

import math

import pytest
import torch
from conftest import ENCODERS, TWO_WAY_ENCODERS, make_model
from torch.distributions import Cauchy, Normal

from tsgen.counter_random import streams
from tsgen.heads import Head
from tsgen.heads.base import positive
from tsgen.heads.likelihood import masked_log_prob, masked_nll
from tsgen.objectives import MaskedNLL, ParticleBound, Rollout, ScheduledSampling
from tsgen.sampling.particles import particle_filter
from tsgen.training.gradient_flow import gradient_norms


class Meanless(Cauchy):
    """A Cauchy law that notices who asks for its mean: transformed laws raise the same error."""

    @property
    def mean(self):
        raise NotImplementedError


class CauchyHead(Head):
    """Laws that have neither mean nor variance."""

    uniforms_per_entry = 1
    has_mean, has_cdf, has_icdf = False, True, True

    def __init__(self, hidden, sizes):
        super().__init__(hidden, sizes)
        self.linear = torch.nn.Linear(hidden, 2 * sizes.channels)

    @property
    def num_parameters_per_entry(self):
        return 2 * (self.hidden + 1)

    def forward(self, h, values, context, units, covariates=None):
        loc, log_scale = self.linear(h).unflatten(-1, (-1, 2)).unbind(-1)
        return Meanless(units.unstandardise(loc), units.scale * positive(log_scale), validate_args=False)

    def quantile(self, law, uniforms):
        return law.loc + law.scale * torch.tan(math.pi * (uniforms[..., 0] - 0.5))


OBJECTIVES = {
    "nll": MaskedNLL(),
    "noise": MaskedNLL(input_noise=0.1),
    "scheduled": ScheduledSampling(),
    "rollout": Rollout(steps=3, paths=2),
    "bound": ParticleBound(particles=3),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_finite_without_a_mean(name, series, batch):
    model, objective = make_model(series, head=CauchyHead), OBJECTIVES[name]
    objective.check(model)
    hidden = ~(batch.context | batch.target)
    assert hidden.any() and batch.values[hidden].isnan().any()
    loss = objective.loss(model, batch, streams(0, torch.arange(3)), 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in model.parameters())
    log_prob = objective.log_prob(model, batch)
    assert torch.isfinite(log_prob).all() and (log_prob[~batch.target] == 0).all()


@pytest.mark.parametrize("encoder", ["gru", "two-way gru"])
def test_scores_and_draws_are_finite_without_a_mean(encoder, series, batch):
    model = make_model(series, (ENCODERS | TWO_WAY_ENCODERS)[encoder], CauchyHead)
    for log_prob in (model.log_prob(batch), model.log_likelihood(batch)):
        model.zero_grad()
        log_prob.sum().backward()
        assert torch.isfinite(log_prob).all()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert torch.isfinite(model.sampler(model, batch).values).all()
    if encoder == "gru":
        filtered = particle_filter(model, batch, 20, streams(0, torch.arange(3)))
        assert torch.isfinite(filtered.log_evidence).all()
        assert torch.isfinite(gradient_norms(model, batch)).all()


def test_the_fill_changes_no_number_where_the_mean_exists():
    values = torch.tensor([1.0, torch.nan, 3.0, 5.0])
    mask = torch.tensor([True, False, True, False])
    found = []
    for fill in (None, torch.tensor(2.0), torch.tensor([9.0, -9.0, 0.0, 1.0])):
        loc, scale = torch.zeros(4, requires_grad=True), torch.ones(4, requires_grad=True)
        log_prob = masked_log_prob(Normal(loc, scale), values, mask, fill)
        assert torch.equal(masked_nll(Normal(loc, scale), values, mask, fill), -log_prob.sum() / 2)
        found.append([log_prob.detach(), *torch.autograd.grad(log_prob.sum(), (loc, scale))])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))

"""Simulation-based calibration: uniform where a sampler is right, and not where a mistake is planted."""

import dataclasses
import math
from functools import partial

import pytest
import torch
from conftest import directed_graph
from scipy import stats

from tsgen.data.series import Samples, SeriesBatch, SeriesSpec
from tsgen.encoders import WindowEncoder
from tsgen.encoders.propagation import Propagation
from tsgen.evaluation.calibration import (
    QUANTITIES,
    RankTest,
    ecdf_envelope,
    ecdf_p_value,
    simulated,
    simulation_based_calibration,
)
from tsgen.exact.linear import Start, VARProcess
from tsgen.heads import GaussianHead
from tsgen.models import AutoregressiveModel, GraphVAR
from tsgen.report.calibration_figures import rank_figure
from tsgen.sampling import SMC, Ancestral, Exact, Sampler

NODES, TIME, DRAWS, SD = 4, 8, 99, 0.7
LAGS = ((0.5, 0.4), (-0.3, 0.25))
"""At lags 1 and 2, what a node takes of itself and of its neighbours' mean, in standard units."""

GRAPH = directed_graph(NODES)
LOC, SCALE = 5 + torch.arange(NODES).double(), 1 + torch.arange(NODES).double() / 2
SPEC = SeriesSpec(
    loc=LOC[:, None],
    scale=SCALE[:, None],
    edge_index=GRAPH.edge_index,
    edge_weight=GRAPH.edge_weight,
    num_covariates=0,
    nodes=[str(v) for v in range(NODES)],
    channels=["x"],
)


def process(sd: float = SD) -> VARProcess:
    """A VAR(2) on the graph: before its windows lie zeros, in standard units."""
    unit, heard = torch.eye(NODES).double(), Propagation(GRAPH).mean.to_dense().double()
    zero, noise = torch.zeros(NODES).double(), sd**2 * unit
    start = Start(torch.cat([zero + 0.2, zero]), torch.block_diag(noise, 0 * unit))
    lags = torch.stack([own * unit + coupling * heard for own, coupling in LAGS])
    return VARProcess(lags, zero + 0.2, noise, start).in_units(LOC, SCALE)


def autoregressive(sd: float = SD) -> AutoregressiveModel:
    """A model whose weights make it that process."""
    encoder, head = partial(WindowEncoder, order=2, layers=0), partial(GaussianHead, scale="node")
    model = AutoregressiveModel(SPEC, encoder, head, sampler=Ancestral(DRAWS)).double()
    with torch.no_grad():
        (convolution,) = (m for m in model.encoder.modules() if type(m).__name__ == "GraphConvolution")
        convolution.linear.weight.copy_(torch.eye(2))
        # of each lag: the value, its flag, and both as heard
        weights = [[own, 0, coupling, 0] for own, coupling in LAGS]
        model.head.linear.weight.copy_(torch.tensor(weights).flatten()[None])
        model.head.linear.bias.fill_(0.2)
        model.head.log_scale.fill_(math.log(sd - 1e-3))
    return model.eval()


def linear(sd: float = SD) -> GraphVAR:
    """The process as a model that knows its posterior."""
    model = GraphVAR(SPEC, order=2, sampler=Exact(DRAWS))
    model.process = process(sd)
    return model


def windows(task: str, count: int = 600) -> SeriesBatch:
    """Windows of which the end, or three in ten entries at random, is hidden."""
    context = torch.rand(count, TIME, NODES, 1, generator=torch.Generator().manual_seed(1)) >= 0.3
    if task == "forecast":
        context = (torch.arange(TIME) < 4)[:, None, None].expand_as(context).clone()
    position = TIME * torch.arange(count)[:, None] + torch.arange(TIME)
    return SeriesBatch(torch.zeros(context.shape).double(), context, ~context, GRAPH, position)


RIGHT = {
    "exact, gaps": (linear, Exact(DRAWS, seed=5), "gaps"),
    "exact, forecast": (linear, Exact(DRAWS, seed=5), "forecast"),
    "ancestral, forecast": (autoregressive, Ancestral(DRAWS, seed=5), "forecast"),
    # enough particles for the few draws to have hardly an ancestor in common
    "smc, gaps": (autoregressive, SMC(DRAWS, 1000, seed=5), "gaps"),
}
"""A model of the process, a sampler that is right for it, and what is hidden."""


@pytest.mark.filterwarnings("ignore::tsgen.sampling.DegeneracyWarning")  # of some of 600 windows
@pytest.mark.parametrize("case", RIGHT)
def test_ranks_are_uniform_where_a_sampler_is_right(case):
    model, sampler, task = RIGHT[case]
    found = simulation_based_calibration(model(), windows(task), truth=process(), sampler=sampler, seed=1)
    assert found.quantities == tuple(QUANTITIES)
    assert found.ranks.shape == (len(QUANTITIES), 600)
    assert found.uniform(0.01), found.p_values


def test_noise_that_is_too_small_is_found():
    for model, task in ((linear, "gaps"), (autoregressive, "forecast")):
        found = simulation_based_calibration(model(0.8 * SD), windows(task), truth=process())
        assert min(found.adjusted.values()) < 1e-4 and not found.uniform()
        # the truth lies among the draws' extremes too often
        outer = (found.ranks[0] < 10) | (found.ranks[0] >= 90)
        assert outer.double().mean() > 0.25


def test_draws_that_ignore_the_future_are_found():
    """Of its own windows a model's forward draws are right only where nothing is visible later."""
    model = autoregressive()
    assert simulation_based_calibration(model, windows("forecast")).uniform()
    found = simulation_based_calibration(model, windows("gaps"))
    assert found.p_values["log-density"] < 1e-4 and found.p_values["roughness"] < 1e-4


@dataclasses.dataclass(frozen=True)
class Prior(Sampler):
    """Draws as if nothing were visible."""

    num_samples: int = DRAWS
    seed: int = 0

    def check(self, model):
        """Goes with all."""

    def __call__(self, model, batch):
        nothing = dataclasses.replace(batch, context=torch.zeros_like(batch.context))
        drawn = Exact(self.num_samples, self.seed)(model, nothing).values
        return Samples(torch.where(batch.context, batch.values, drawn), "posterior")


def test_draws_that_ignore_what_is_visible_are_found_by_what_joins_the_two():
    found = simulation_based_calibration(linear(), windows("gaps"), sampler=Prior())
    assert min(found.p_values[name] for name in ("entry", "mean", "energy")) > 0.01
    assert max(found.p_values[name] for name in ("roughness", "log-density")) < 1e-4


@dataclasses.dataclass(frozen=True)
class Marginals(Sampler):
    """Draws each entry from its own posterior, independently of the others."""

    num_samples: int = DRAWS
    seed: int = 0

    def check(self, model):
        """Goes with all."""

    def __call__(self, model, batch):
        drawn = Exact(self.num_samples, self.seed)(model, batch).values
        order = torch.rand(drawn.shape, generator=torch.Generator().manual_seed(0)).argsort(dim=0)
        return Samples(drawn.gather(0, order), "posterior")


def test_right_marginals_with_a_wrong_joint_law_are_found():
    found = simulation_based_calibration(linear(), windows("gaps"), sampler=Marginals())
    assert found.p_values["entry"] > 0.01
    assert found.p_values["log-density"] < 1e-4


def test_results_depend_on_neither_batch_nor_positions():
    model, some = linear(), windows("gaps", 12)
    together = simulation_based_calibration(model, some, seed=3)
    moved = dataclasses.replace(some, position=torch.zeros_like(some.position))
    assert torch.equal(together.ranks, simulation_based_calibration(model, moved, seed=3).ranks)
    assert not torch.equal(together.ranks, simulation_based_calibration(model, some, seed=4).ranks)
    values = simulated(model, some).values
    assert len(values.flatten(1).unique(dim=0)) == 12


def test_the_truth_is_none_of_the_draws():
    """Drawn in the same way and from the same seed it would be the first of them."""
    model, some = autoregressive(), windows("forecast", 5)
    batch = simulated(model, some, seed=0)
    drawn = Ancestral(DRAWS, seed=0)(model, batch).values
    assert not (drawn[:, batch.hidden] == batch.values[batch.hidden]).any()


def test_windows_are_worked_on_in_portions(monkeypatch):
    model, some = linear(), windows("gaps", 10)
    whole = simulation_based_calibration(model, some)
    monkeypatch.setattr("tsgen.evaluation.calibration.NUMBERS_AT_ONCE", 3 * DRAWS * TIME * NODES)
    monkeypatch.setattr("tsgen.sampling.base.MAX_BYTES_PER_PORTION", 200_000)
    assert torch.equal(whole.ranks, simulation_based_calibration(model, some).ranks)


def test_ties_are_broken_at_random():
    """A constant quantity says nothing, and its ranks are uniform."""
    constant = {"constant": lambda model, batch, values: values.new_zeros(values.shape[:2])}
    found = simulation_based_calibration(linear(), windows("gaps"), quantities=constant)
    assert found.uniform() and found.ranks.max() > 95 and found.ranks.min() < 4


def test_what_cannot_be_ranked_is_refused(as_a_user):
    some = windows("gaps", 4)
    some.context[2] = True
    with pytest.raises(ValueError, match="1 of 4 have none"):
        simulation_based_calibration(linear(), some)
    nan = {"bad": lambda model, batch, values: values.new_full(values.shape[:2], torch.nan)}
    with pytest.raises(ValueError, match="'bad' must be a number"):
        simulation_based_calibration(linear(), windows("gaps", 4), quantities=nan)
    with pytest.raises(ValueError, match="needs a GraphVAR, whose posterior has a closed form; got"):
        simulation_based_calibration(autoregressive(), some, sampler=Exact(DRAWS))
    with pytest.raises(ValueError, match=r"in 0\.\.9"):
        ecdf_p_value(torch.tensor([10]), 9)
    with pytest.raises(ValueError, match="between 0 and 1"):
        ecdf_envelope(10, 9, 1.0)


# ------------------------------------------------------------------------------------ the test of uniformity


@pytest.mark.parametrize(("num_ranks", "num_draws", "points"), [(3, 4, 100), (6, 2, 100), (3, 9, 3)])
def test_p_values_are_exact(monkeypatch, num_ranks, num_draws, points):
    """Over all ranks there are, those with a p-value of at most p have the probability p."""
    monkeypatch.setattr("tsgen.evaluation.calibration.MAX_POINTS", points)
    every = torch.cartesian_prod(*[torch.arange(num_draws + 1)] * num_ranks)
    distinct, times = every.sort(dim=1).values.unique(dim=0, return_counts=True)  # their order is nothing
    p = torch.tensor([ecdf_p_value(ranks, num_draws) for ranks in distinct]).double()
    assert len(p.unique()) > 3
    for value in p:
        reached = float(times[p <= value + 1e-9].sum() / len(every))
        assert reached == pytest.approx(float(value), abs=1e-6)


def test_one_count_is_a_binomial_test():
    """With one draw there is one place, and the test is that of a fair coin."""
    for ones in (50, 60, 75, 100):
        ranks = torch.cat([torch.zeros(100 - ones), torch.ones(ones)]).long()
        assert ecdf_p_value(ranks, 1) == pytest.approx(stats.binomtest(ones, 100).pvalue, rel=1e-6)


def test_the_envelope_holds_its_level_simultaneously():
    num_ranks, num_draws = 100, 49
    envelope = ecdf_envelope(num_ranks, num_draws, 0.95)
    drawn = torch.randint(num_draws + 1, (4000, num_ranks), generator=torch.Generator().manual_seed(0))
    share = (drawn[:, None] < envelope.points[:, None] * (num_draws + 1) - 1e-9).double().mean(dim=2)
    inside = ((share >= envelope.low - 1e-9) & (share <= envelope.high + 1e-9)).all(dim=1).double().mean()
    assert abs(float(inside) - 0.95) < 5 * (0.95 * 0.05 / 4000) ** 0.5
    # a test at the same level says no just where the envelope is left
    p = torch.tensor([ecdf_p_value(ranks, num_draws) for ranks in drawn[:60]])
    left = ((share < envelope.low - 1e-9) | (share > envelope.high + 1e-9)).any(dim=1)[:60]
    assert ((p <= 0.05) == left).double().mean() > 0.95


def test_p_values_are_adjusted_by_holm():
    ranks = torch.zeros(3, 1, dtype=torch.int64)
    found = RankTest(("a", "b", "c"), ranks, 9)
    found.__dict__["p_values"] = {"a": 0.02, "b": 0.01, "c": 0.9}
    assert found.adjusted == pytest.approx({"a": 0.04, "b": 0.03, "c": 0.9})
    assert found.uniform(0.03) and not found.uniform(0.04)


def test_figures_show_every_quantity():
    found = simulation_based_calibration(linear(), windows("gaps", 60))
    figure = rank_figure(found)
    assert len(figure.axes) == 2 * len(QUANTITIES)
    figure.canvas.draw()

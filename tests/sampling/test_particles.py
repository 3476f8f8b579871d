"""The particle filter against what is known exactly: an AR(3) with holes, a VAR on a graph, quadrature."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import HEADS as EVERY_HEAD
from conftest import directed_graph, make_batch, make_model, make_series
from lightning import Trainer, seed_everything
from torch.distributions import Normal

from tsgen.counter_random import streams
from tsgen.data.graphs import from_edges
from tsgen.data.masks import PointMask
from tsgen.data.series import SeriesBatch, SeriesSpec, Sizes
from tsgen.datamodules import SyntheticDataModule
from tsgen.encoders import GraphGRUEncoder
from tsgen.encoders.propagation import Propagation
from tsgen.encoders.window import WindowEncoder
from tsgen.exact.ar import ARProcess
from tsgen.exact.kalman import StateSpace, kalman_filter, simulate
from tsgen.exact.linear import Start, VARProcess
from tsgen.heads import ConditionalHead, GaussianHead, Head, MixtureHead, MixtureNADEHead
from tsgen.heads.likelihood import masked_log_prob
from tsgen.models import AnyOrderModel, AutoregressiveModel
from tsgen.objectives import MaskedNLL, ParticleBound
from tsgen.sampling import SMC, Ancestral
from tsgen.sampling.particles import ParticleFilter, effective_size, particle_filter, systematic

PRESIDENTS = json.loads((Path(__file__).parents[1] / "references.json").read_text())["presidents"]
QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}
BOUND_OF_ONE_PATH = -421.6073572440523  # in closed form, from ../shared/references


def make_spec(graph, loc, scale) -> SeriesSpec:
    nodes, channels = loc.shape
    return SeriesSpec(
        loc=loc,
        scale=scale,
        edge_index=graph.edge_index,
        edge_weight=graph.edge_weight,
        num_covariates=0,
        nodes=[str(v) for v in range(nodes)],
        channels=[str(c) for c in range(channels)],
    )


def windows_of(values, context, target, graph) -> SeriesBatch:
    batch, time = values.shape[:2]
    position = torch.arange(time) + time * torch.arange(batch)[:, None]
    return SeriesBatch(values, context, target, graph, position)


def numbers(count: int, seed: int = 0):
    """Random streams."""
    return streams(seed, torch.arange(count))


def z_score(draws, expected: float) -> float:
    return float((draws.mean() - expected) / (draws.std() / len(draws) ** 0.5))


# ------------------------------------------------------------------------------------ a series with holes


class FromTheStart(Head):
    """The law of a stationary autoregression given as many of the values before it as there are: the flags of
    the window encoder tell."""

    uniforms_per_entry = 1
    num_parameters_per_entry = 0

    def __init__(self, hidden, sizes, process):
        super().__init__(hidden, sizes)
        gamma, p = process.autocovariance(process.order), process.order
        self.coefficients = torch.zeros(p + 1, p, dtype=torch.float64)
        self.variance = gamma[:1].repeat(p + 1)
        for k in range(1, p + 1):
            lag = torch.arange(k)
            self.coefficients[k, :k] = torch.linalg.solve(gamma[(lag[:, None] - lag).abs()], gamma[1 : k + 1])
            self.variance[k] -= self.coefficients[k, :k] @ gamma[1 : k + 1]

    def forward(self, h, values, context, units, covariates=None):
        x, context = h[..., 0::2], h[..., 1::2].sum(dim=-1).long()
        mean = (self.coefficients[context] * x).sum(dim=-1, keepdim=True)
        return Normal(units.loc + units.scale * mean, units.scale * self.variance[context].sqrt()[..., None])

    def quantile(self, law, uniforms):
        return law.mean + law.stddev * torch.special.ndtri(uniforms[..., 0])


def presidents(copies: int):
    """A model of the exact law, the series as many times over, and the likelihood."""
    phi, mean = torch.tensor(PRESIDENTS["phi"], dtype=torch.float64), PRESIDENTS["mean"]
    process = ARProcess(phi, mean * (1 - phi.sum()), PRESIDENTS["noise_variance"])
    graph = from_edges([], [], [], num_nodes=1)
    spec = make_spec(graph, torch.full((1, 1), mean), torch.ones(1, 1))
    model = AutoregressiveModel(
        spec,
        partial(WindowEncoder, order=3, layers=0, convolution=None),
        partial(FromTheStart, process=process),
    ).double()
    model.loc.fill_(mean)  # not rounded to float32
    values = torch.tensor([x if x is not None else math.nan for x in PRESIDENTS["values"]]).double()
    assert float(process.log_prob(values)) == pytest.approx(PRESIDENTS["log_likelihood"], abs=1e-6)
    values = values[None, :, None, None].expand(copies, -1, -1, -1)
    return model, windows_of(values, ~values.isnan(), ~values.isnan(), graph), PRESIDENTS["log_likelihood"]


def presidents_evidence(copies: int, particles: int, seed: int = 0, **options):
    model, batch, _ = presidents(copies)
    with torch.no_grad():
        stream = numbers(copies, seed)
        return particle_filter(model, batch, particles, stream, predictive=False, **options).log_evidence


def test_one_path_bounds_as_the_closed_form_says():
    assert abs(z_score(presidents_evidence(3000, 1), BOUND_OF_ONE_PATH)) < 4


def test_a_thousand_paths_find_the_likelihood():
    found = presidents_evidence(10, 1000)
    assert float(found.mean()) == pytest.approx(PRESIDENTS["log_likelihood"], abs=0.3)


@pytest.mark.parametrize("ess_threshold", [0.0, 0.5, 1.0])
def test_the_evidence_is_unbiased(ess_threshold):
    found = presidents_evidence(600, 30, seed=1, ess_threshold=ess_threshold)
    ratio = (found - PRESIDENTS["log_likelihood"]).exp()
    assert abs(z_score(ratio, 1.0)) < 5
    assert float(ratio.std()) < 2  # otherwise the score says nothing


def test_the_bound_tightens_as_paths_are_added():
    means = [float(presidents_evidence(300, k).mean()) for k in (1, 4, 16, 64)]
    assert means == sorted(means)
    assert means[-1] < PRESIDENTS["log_likelihood"]


# ------------------------------------------------------------------------------------ a process on a graph

COEFFICIENTS = ((0.5, 0.4), (-0.3, 0.25))
"""At lags 1 and 2, what a node takes of itself and of its neighbours' mean, in standard units."""

NODES = 4


def ring(nodes: int):
    """A directed graph with unequal weights."""
    return directed_graph(nodes) if nodes > 2 else from_edges([0, 1], [1, 0], [0.5, 1.0], num_nodes=nodes)


def linear_model(nodes: int = NODES, sd: float = 0.7, coefficients=COEFFICIENTS, objective=MaskedNLL()):
    """A model whose weights make it a VAR(2) on the graph, and that process: before its windows lie zeros."""
    graph = ring(nodes)
    loc, scale = 5 + torch.arange(nodes).double(), 1 + torch.arange(nodes).double() / 2
    model = AutoregressiveModel(
        make_spec(graph, loc[:, None], scale[:, None]),
        partial(WindowEncoder, order=2, layers=0),
        partial(GaussianHead, scale="node"),
        objective=objective,
    ).double()
    with torch.no_grad():
        (convolution,) = (m for m in model.encoder.modules() if type(m).__name__ == "GraphConvolution")
        convolution.linear.weight.copy_(torch.eye(2))
        # of each lag: the value, its flag, and both as heard
        lags = [[own, 0, coupling, 0] for own, coupling in coefficients]
        model.head.linear.weight.copy_(torch.tensor(lags).flatten()[None])
        model.head.linear.bias.fill_(0.2)
        model.head.log_scale.fill_(math.log(sd - 1e-3))
    unit, mean = torch.eye(nodes).double(), Propagation(graph).mean.to_dense().double()
    zero, noise = torch.zeros(nodes).double(), sd**2 * unit
    process = VARProcess(
        torch.stack([own * unit + coupling * mean for own, coupling in coefficients]),
        zero + 0.2,
        noise,
        Start(torch.cat([zero + 0.2, zero]), torch.block_diag(noise, 0 * unit)),
    )
    return model.eval(), process.in_units(loc, scale)


def with_holes(process, windows: int, time: int, missing: float = 0.3, seed: int = 0):
    """Windows of the process; what is missing is scored, and so is what is not."""
    state, graph = process.state_space(), ring(process.num_nodes)
    values = simulate(state, time, numbers(windows, seed))[..., None]
    random = torch.Generator().manual_seed(seed)
    context = torch.rand(values.shape, generator=random) >= missing
    return windows_of(values, context, torch.ones_like(context), graph)


def test_held_out_entries_are_predicted_as_by_the_kalman_filter():
    """Whether visible or not, a scored entry is given the slices before it alone."""
    model, process = linear_model()
    batch, runs = with_holes(process, 3, 12), 20
    exact = masked_log_prob(process.predictive(batch), batch.values, batch.target)
    rows = batch.repeat(runs)
    with torch.no_grad():
        found = particle_filter(model, rows, 1000, numbers(len(rows.values)))
    ratio = (found.log_prob.unflatten(0, (runs, -1)) - exact).exp()
    error = ratio.std(dim=0) / runs**0.5
    assert ((ratio.mean(dim=0) - 1).abs() < 5 * error + 1e-6).all()  # edge weights are float32
    assert float(error.max()) < 0.05
    exact = process.log_prob(batch.values[..., 0], batch.context[..., 0])
    evidence = found.log_evidence.unflatten(0, (runs, -1))
    assert all(abs(z_score((x - p).exp(), 1.0)) < 5 for x, p in zip(evidence.T, exact, strict=True))


def test_what_is_hidden_and_not_scored_changes_nothing():
    model, process = linear_model()
    batch = with_holes(process, 3, 8)
    batch.target = batch.context.clone()
    clean = filter_with_gradient(model, batch)
    batch.values = batch.values.where(batch.context, torch.nan)
    poisoned = filter_with_gradient(model, batch)
    for a, b in zip(clean, poisoned, strict=True):
        assert torch.equal(a, b) and a.isfinite().all()


def filter_with_gradient(model, batch, particles=8, ess_threshold=0.9):
    found = particle_filter(model, batch, particles, streams(0, batch.position[:, 0]), ess_threshold)
    total = found.log_evidence.sum() + found.log_prob.sum()
    return [found.log_evidence, found.log_prob, *torch.autograd.grad(total, list(model.parameters()))]


def test_a_window_is_filtered_alike_in_every_batch():
    model, process = linear_model()
    batch = with_holes(process, 4, 10)
    batch.context[1], batch.context[2] = True, False  # one window whole, one all missing
    stream = numbers(4)
    together = particle_filter(model, batch, 16, stream, 0.7)
    for i in range(4):
        alone = particle_filter(model, batch.rows(slice(i, i + 1)), 16, stream[i : i + 1], 0.7)
        for a, b in zip(vars(alone).values(), vars(together).values(), strict=True):
            torch.testing.assert_close(a[0], b[i], atol=1e-9, rtol=1e-9)
    poor = together.ess[0] < 0.7 * 16
    assert poor.any() and not poor.all()
    torch.testing.assert_close(together.ess[1:3], torch.full((2, 10), 16.0).double())
    assert together.log_evidence[2].item() == pytest.approx(0, abs=1e-9)
    exact = process.log_prob(batch.values[1:2, ..., 0], batch.context[1:2, ..., 0])
    assert together.log_evidence[1].item() == pytest.approx(float(exact), abs=1e-4)


def test_every_path_is_a_draw_of_its_own():
    model, process = linear_model()
    batch = with_holes(process, 2, 5, missing=1.0)
    moves = ParticleFilter(model, batch, 6, numbers(2))
    paths = moves.start()
    step = moves.draw(paths, 0)
    paths = moves.extend(paths, step)
    later = moves.draw(paths, 1)
    drawn = torch.stack([step.values, later.values]).flatten()
    assert len(drawn.unique()) == len(drawn)


def test_paths_go_on_from_their_ancestors():
    """The states and slices of a window's paths are chosen among its own, all by the same choice."""
    model, process = linear_model()
    batch = with_holes(process, 3, 5, missing=0.5)
    moves = ParticleFilter(model, batch, 4, numbers(3))
    step = moves.draw(moves.start(), 0)
    ancestors = torch.tensor([[3, 0, 1], [3, 1, 1], [0, 2, 2], [2, 3, 3]])
    paths = moves.extend(moves.start(), step, ancestors[..., None])
    slices, standard = paths.before[0], model.units(batch).standardise(step.values)
    for k in range(4):
        for w in range(3):
            assert torch.equal(slices[3 * k + w], standard[3 * ancestors[k, w] + w])
            assert torch.equal(paths.state[3 * k + w], step.state[3 * ancestors[k, w] + w])


# ------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("particles", [1, 5])
def test_gradients_are_those_of_finite_differences(particles):
    """Without resampling the bound is a smooth function of the parameters, its random numbers given."""
    objective = ParticleBound(particles, ess_threshold=0.0)
    model, process = linear_model(objective=objective)
    batch, stream, parameters = with_holes(process, 3, 12), numbers(3), list(model.parameters())
    gradients = torch.autograd.grad(objective.loss(model, batch, stream, 0), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        for i in range(0, parameter.numel(), 3):
            sides = []
            for shift in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter.view(-1)[i] += shift
                    sides.append(float(objective.loss(model, batch, stream, 0)))
                    parameter.view(-1)[i] -= shift
            assert float(gradient.view(-1)[i]) == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-6)


@pytest.mark.parametrize("ess_threshold", [0.0, 1.0])
def test_the_gradient_of_the_evidence_is_unbiased(ess_threshold):
    """Past resampling too: by what a node takes of itself, and by the deviation of the noise."""
    model, process = linear_model(2)
    batch, sd, shift = with_holes(process, 1, 6, missing=0.5, seed=3), 0.7, 1e-5
    values, context = batch.values[..., 0], batch.context[..., 0]

    def log_prob(own: float = 0.0, scale: float = 0.0):
        (first, coupling), last = COEFFICIENTS
        moved = ((first + own, coupling), last)
        return float(linear_model(2, sd + scale, moved)[1].log_prob(values, context))

    by_own = (log_prob(own=shift) - log_prob(own=-shift)) / (2 * shift)
    by_scale = (log_prob(scale=shift) - log_prob(scale=-shift)) / (2 * shift) * (sd - 1e-3)
    rows, found = batch.repeat(60), []
    for group in range(60):
        stream = numbers(60, seed=group)
        evidence = particle_filter(model, rows, 8, stream, ess_threshold, predictive=False).log_evidence
        by = torch.autograd.grad((evidence - log_prob()).exp().mean(), model.parameters(), allow_unused=True)
        by = dict(zip(dict(model.named_parameters()), by, strict=True))
        found.append(torch.stack([by["head.linear.weight"][0, 0], by["head.log_scale"].sum()]))
    found = torch.stack(found)
    assert abs(z_score(found[:, 0], by_own)) < 5
    assert abs(z_score(found[:, 1], by_scale)) < 5


# ------------------------------------------------------------------------------------ every head


HEADS = {
    "gaussian": ((2, 1), GaussianHead),
    "mixture": ((2, 1), partial(MixtureHead, components=2)),
    "nade channels": ((2, 2), partial(MixtureNADEHead, width=5, components=2)),
    "nade slice": ((2, 1), partial(MixtureNADEHead, width=5, over="slice")),
    "nade shuffled": ((2, 1), partial(MixtureNADEHead, width=5, over="slice", order=[1, 0])),
    "nade any": ((2, 1), partial(MixtureNADEHead, width=5, over="slice", order="any")),
}


def small_model(name: str, encoder=partial(GraphGRUEncoder, hidden=5)):
    """Two nodes, weights at random."""
    torch.manual_seed(0)
    sizes, head = HEADS[name]
    graph = ring(2)
    spec = make_spec(graph, torch.randn(sizes), 1 + torch.rand(sizes))
    model = AutoregressiveModel(spec, encoder, head).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def small_windows(model, time: int):
    values = model.loc + model.scale * torch.randn(1, time, *model.loc.shape, dtype=torch.float64)
    whole = torch.ones(values.shape, dtype=torch.bool)
    return windows_of(values, whole, whole, model.spec.graph)


def over(batch, model, t: int, entry: tuple[int, int], points: int = 4001):
    """The window with one entry moved over a fine grid, and the logarithm of the grid's step."""
    v, c = entry
    grid = model.loc[v, c] + model.scale[v, c] * torch.linspace(-20, 20, points, dtype=torch.float64)
    rows = batch.repeat(points)
    rows.values[:, t, v, c] = grid
    return rows, float((grid[1] - grid[0]).log())


@pytest.mark.parametrize("entry", [0, 1])
@pytest.mark.parametrize("name", HEADS)
def test_the_evidence_is_that_of_quadrature(name, entry):
    """One entry missing: the likelihood is an integral over one number."""
    model = small_model(name)
    batch, t, (v, c) = small_windows(model, 4), 1, (entry, 0)
    with torch.no_grad():
        rows, step = over(batch, model, t, (v, c))
        exact = float(model.log_likelihood(rows).logsumexp(dim=0)) + step
        rows = batch.repeat(1000)
        rows.context[:, t, v, c] = False
        rows.values[:, t, v, c] = torch.nan
        rows.target = rows.context
        found = particle_filter(model, rows, 8, numbers(1000)).log_evidence
    ratio = (found - exact).exp()
    assert abs(z_score(ratio, 1.0)) < 5
    assert 1e-4 < float(ratio.std()) < 2


@pytest.mark.parametrize("name", EVERY_HEAD)
def test_the_evidence_is_the_integral_of_the_joint_density(name):
    """Two of the eight entries of a slice missing: the likelihood is an integral over two numbers."""
    series = make_series(steps=20, nodes=4)
    model = make_model(series, partial(WindowEncoder, order=2, hidden=4), EVERY_HEAD[name]).double()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = make_batch(series, 1, 3)
    whole = torch.ones_like(batch.context)
    batch = batch._changed(values=batch.values.double(), covariates=batch.covariates.double())
    values = Ancestral(1, seed=5)(model, batch.blank()).values[0]
    batch = batch._changed(values=values, context=whole, target=whole)
    grid = torch.linspace(-10, 10, 161, dtype=torch.float64)
    pairs = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        rows = batch.repeat(len(pairs))
        for (v, c), number in zip(((0, 1), (1, 0)), pairs.T, strict=True):
            rows.values[:, 1, v, c] = model.loc[v, c] + model.scale[v, c] * number
        step = ((grid[1] - grid[0]) ** 2 * model.scale[0, 1] * model.scale[1, 0]).log()
        exact = model.log_likelihood(rows).logsumexp(dim=0) + step
    hidden = whole.clone()
    hidden[:, 1, 0, 1] = hidden[:, 1, 1, 0] = False
    found = SMC(1, 32)(model, batch._changed(context=hidden).repeat(500)).log_evidence
    ratio = (found - exact).exp()
    assert abs(z_score(ratio, 1.0)) < 5
    assert 1e-4 < float(ratio.std()) < 2


@pytest.mark.parametrize("name", EVERY_HEAD)
def test_every_head_is_filtered_in_the_precision_of_its_network(name):
    series = make_series(steps=20, nodes=4)
    model = make_model(series, partial(WindowEncoder, order=2, hidden=4), EVERY_HEAD[name])
    assert SMC(2, 8)(model, make_batch(series, 2, 3)).log_evidence.isfinite().all()


@pytest.mark.parametrize("entry", [(0, 0), (-1, -1)])
@pytest.mark.parametrize("name", HEADS)
def test_a_scored_entry_is_given_nothing_of_its_slice(name, entry):
    """Its density is the joint one with the other entry of its slice, or of its node, integrated out."""
    model = small_model(name)
    batch, t, (v, c) = small_windows(model, 2), 1, entry
    other = (v, -1 - c) if name == "nade channels" else (-1 - v, c)
    with torch.no_grad():
        rows, step = over(batch, model, t, other)
        law = model.predict(rows, model.encode(rows, *model.inputs(rows)), rows.context)
        density = law.log_prob(rows.values)[:, t]
        exact = float((density[:, v, c] + density[:, *other]).logsumexp(dim=0)) + step
        rows = batch.repeat(30)
        rows.values[15:, t, *other] += 3
        found = particle_filter(model, rows, 500, numbers(30)).log_prob[:, t, v, c]
    ratio = (found - exact).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / 30**0.5 + 1e-4
    again = particle_filter(model, rows, 500, numbers(15).repeat(2)).log_prob[:, t, v, c]
    torch.testing.assert_close(again[:15], again[15:], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_one_law_a_step_where_entries_are_not_given_each_other(name):
    """The same as by drawing anew for each purpose, gradients included, from one pass through the head."""
    model = small_model(name)
    batch = small_windows(model, 6)
    batch.context, batch.target = torch.rand(2, *batch.values.shape) < 0.5
    passes = []
    model.head.register_forward_hook(lambda *_: passes.append(1))
    lean = filter_with_gradient(model, batch)
    assert len(passes) == 6
    model.head.joint_entries = 2
    thorough = filter_with_gradient(model, batch)
    assert len(passes) == 6 + 4 * 6
    torch.testing.assert_close(lean, thorough, atol=1e-12, rtol=1e-12)


def test_heads_say_whether_what_is_known_comes_first():
    assert small_model("nade any").head.context_first
    assert not any(small_model(name).head.context_first for name in HEADS if name != "nade any")
    given_covariates = ConditionalHead(5, Sizes(2, 1, 3), HEADS["nade any"][1])
    assert given_covariates.context_first


# ------------------------------------------------------------------------------------ resampling


def test_systematic_resampling_is_unbiased_and_within_one():
    random = torch.Generator().manual_seed(0)
    log_weight = torch.randn(7, 20000, generator=random, dtype=torch.float64)[:, :1].expand(-1, 20000) * 1.5
    log_weight = log_weight - log_weight.logsumexp(dim=0)
    ancestors = systematic(log_weight, torch.rand(20000, generator=random, dtype=torch.float64))
    counts = torch.stack([(ancestors == k).sum(dim=0) for k in range(7)]).double()
    expected = 7 * log_weight.exp()
    assert ((counts - expected).abs() < 1).all()
    error = counts.std(dim=1) / 20000**0.5
    assert ((counts.mean(dim=1) - expected[:, 0]).abs() < 5 * error + 1e-12).all()


def test_systematic_resampling_never_takes_what_has_no_weight():
    """Not at the ends either, where rounding leaves the sum of the weights a little off one."""
    weight = torch.tensor([0.0, 0.3, 0.3, 0.0, 0.4, 0.0])
    ends = torch.tensor([2.0**-24, 0.5, 1 - 2.0**-24])
    for sum_of_all in (1 - 3e-7, 1.0, 1 + 3e-7):
        log_weight = (weight * sum_of_all).log()[:, None].expand(-1, 3)
        chosen = systematic(log_weight, ends)
        assert set(chosen.flatten().tolist()) == {1, 2, 4}
    even = torch.full((1000, 3), -math.log(1000))
    assert ((systematic(even, ends) - torch.arange(1000)[:, None]).abs() <= 1).all()
    one = torch.zeros(1, 3)
    assert (systematic(one, ends) == 0).all()


def test_the_effective_size_counts_paths():
    weight = torch.tensor([[0.25, 1.0, 0.5], [0.25, 0.0, 0.5], [0.25, 0.0, 0.0], [0.25, 0.0, 0.0]])
    torch.testing.assert_close(effective_size(weight.log()), torch.tensor([4.0, 1.0, 2.0]))


# ------------------------------------------------------------------------------------ training


def test_the_bound_trains_with_lightning():
    data = SyntheticDataModule(num_nodes=4, steps=240, window=8, batch_size=32, missing=PointMask(0.4))
    seed_everything(1)
    model = AutoregressiveModel(
        data.spec, partial(GraphGRUEncoder, hidden=6), GaussianHead, objective=ParticleBound(3)
    )
    before = {name: p.clone() for name, p in model.named_parameters()}
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, **QUIET)
    trainer.fit(model, data)
    assert math.isfinite(float(trainer.callback_metrics["val/nll"]))
    assert math.isfinite(float(trainer.callback_metrics["train/loss"]))
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())


def test_the_bound_is_a_mean_over_what_is_visible():
    objective = ParticleBound(4)
    model, process = linear_model(objective=objective)
    batch, stream = with_holes(process, 3, 6), numbers(3)
    found = particle_filter(model, batch, 4, stream)
    loss = objective.loss(model, batch, stream, 0)
    assert float(loss) == pytest.approx(float(-found.log_evidence.sum() / batch.context.sum()))
    scored = objective.log_prob(model, batch)
    assert scored.shape == batch.values.shape
    assert torch.equal(scored, objective.log_prob(model, batch))


def test_training_finds_the_likeliest_process():
    """An AR(1) half of whose values are missing, from a start far off: within half a standard error of
    the exact maximum."""
    windows, graph = 30, from_edges([], [], [], num_nodes=1)
    values = ARProcess([0.8], 0.5, 1.0).sample(20, windows)[..., None, None]
    context = torch.rand(values.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    batch, objective = windows_of(values, context, context, graph), ParticleBound(32)
    model = AutoregressiveModel(
        make_spec(graph, torch.zeros(1, 1), torch.ones(1, 1)),
        partial(WindowEncoder, order=1, layers=0, convolution=None),
        partial(GaussianHead, scale="node"),
        objective=objective,
    ).double()
    weight = model.head.linear.weight
    with torch.no_grad():
        weight.copy_(torch.tensor([[-0.3, 0.0]]))
    weight.register_hook(lambda gradient: gradient * torch.tensor([[1, 0]]))  # no flag: one intercept
    optimizer = torch.optim.Adam(model.parameters(), lr=0.15, betas=(0.6, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
    for step in range(60):
        optimizer.zero_grad()
        objective.loss(model, batch, numbers(windows, seed=step), step).backward()
        optimizer.step()
        schedule.step()
    found = torch.cat([weight[0, :1], model.head.linear.bias, model.head.log_scale[0]]).detach()
    exact, error = likeliest(batch)
    assert ((found - exact).abs() < error / 2).all()


def likeliest(batch):
    """Coefficient, intercept and log-scale of the exact maximum, and their standard errors."""

    def loss(parameters):
        own, intercept, log_scale = parameters.unbind()
        transition, offset, noise = (
            own.view(1, 1),
            intercept.view(1),
            (1e-3 + log_scale.exp()).view(1, 1) ** 2,
        )
        # before a window lie zeros
        space = StateSpace(transition, offset, noise, offset, noise, 1)
        return -kalman_filter(space, batch.values[..., 0], batch.context[..., 0]).log_likelihood.sum()

    parameters = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(parameters)
        value.backward()
        return value

    optimizer.step(closure)
    found = parameters.detach()
    information = torch.autograd.functional.hessian(loss, found)
    return found, information.inverse().diagonal().sqrt()


def test_users_mistakes_are_named(as_a_user):
    with pytest.raises(ValueError, match="particles must be at least 1; it is 0"):
        ParticleBound(0)
    with pytest.raises(ValueError, match="ess_threshold must lie in"):
        ParticleBound(2, 1.5)
    model, process = linear_model()
    with pytest.raises(ValueError, match="particles must be at least 1"):
        particle_filter(model, with_holes(process, 1, 3), 0, numbers(1))
    with pytest.raises(ValueError, match="ParticleBound needs an autoregressive model; got AnyOrderModel"):
        AnyOrderModel(model.spec, objective=ParticleBound())

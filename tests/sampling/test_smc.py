"""Sequential Monte Carlo against what is known exactly: an AR(3) with holes, VARs on graphs, quadrature.

The evidence of the AR(3), and the bound of a single path, are held to their exact values in test_particles.
"""

import dataclasses
import math
import warnings
from functools import partial

import pytest
import torch
from conftest import ENCODERS, make_batch, make_model, make_series
from test_particles import (
    COEFFICIENTS,
    HEADS,
    PRESIDENTS,
    linear_model,
    make_spec,
    numbers,
    over,
    presidents,
    small_model,
    small_windows,
    windows_of,
    with_holes,
    z_score,
)
from torch_geometric.data import Data

from tsgen import load
from tsgen.cli.main import main
from tsgen.counter_random import streams, uniforms
from tsgen.encoders import GraphGRUEncoder
from tsgen.encoders.window import WindowEncoder
from tsgen.exact.kalman import kalman_filter, simulate
from tsgen.exact.linear import Start, VARProcess
from tsgen.heads import GaussianHead
from tsgen.models import AnyOrderModel, AutoregressiveModel, GraphVAR
from tsgen.sampling import SMC, Ancestral, DegeneracyWarning
from tsgen.sampling.particles import ParticleFilter, Paths, choose, particle_filter
from tsgen.sampling.smc import _path_sizes

pytestmark = pytest.mark.filterwarnings("ignore::tsgen.sampling.DegeneracyWarning")

WAYS = {
    "genealogy": SMC(20, 600),
    "never resampled": SMC(20, 600, ess_threshold=0.0),
    "backward": SMC(6, 150, paths="backward"),
    "sweeps": SMC(6, 40, sweeps=4),
    "sweeps backward": SMC(4, 40, paths="backward", sweeps=3),
}


def scores(draws, mean, sd):
    """z-scores of means and variances, from the spread over independent runs.

    Args:
        draws: [samples, runs, entries].
        mean: The exact means, [entries].
        sd: The exact standard deviations.
    """
    error = (draws - mean) / sd
    each = torch.cat([error.mean(dim=0), error.square().mean(dim=0) - 1], dim=1)
    return each.mean(dim=0) / (each.std(dim=0) / len(each) ** 0.5)


def runs_of(batch, runs: int):
    """A window as many times over, at places of its own, so that the copies' draws are independent."""
    rows = batch.repeat(runs)
    rows.position, rows.replicate = rows.position + 1000 * torch.arange(runs)[:, None], None
    return rows


def holes(batch):
    return (~batch.context[0]).nonzero(as_tuple=True)


# ------------------------------------------------------------------------------------ a series with holes

MISSING = PRESIDENTS["missing"]


@pytest.mark.parametrize("way", ["genealogy", "backward", "sweeps", "sweeps backward"])
def test_missing_presidents_have_their_published_posterior(way):
    model, batch, _ = presidents(30)
    missing = MISSING
    if way != "genealogy":  # the first ones hear no more of the rest, three slices on: cheaper and the same
        batch, missing = batch.steps(slice(0, 36)), MISSING[:4]
    drawn = WAYS[way](model, batch)
    mean, sd = (
        torch.tensor(PRESIDENTS[name][: len(missing)]).double()
        for name in ("posterior_mean", "posterior_scale")
    )
    assert drawn.conditioning == "posterior"
    assert scores(drawn.values[:, :, missing, 0, 0], mean, sd).abs().max() < 5


def test_ancestral_draws_of_missing_presidents_have_the_filtering_law():
    """Whatever a missing one hears of, nothing visible lies between the two: the filtering law itself."""
    model, batch, _ = presidents(400)
    phi, mean = torch.tensor(PRESIDENTS["phi"]).double(), PRESIDENTS["mean"]
    noise = torch.tensor([[PRESIDENTS["noise_variance"]]]).double()
    process = VARProcess(phi[:, None, None], mean * (1 - phi.sum())[None], noise)
    law = kalman_filter(process.state_space(), batch.values[:1, ..., 0], batch.context[:1, ..., 0])
    drawn = Ancestral(20)(model, batch).values[:, :, MISSING, 0, 0]
    sd = law.covariance[0, MISSING, 0, 0].sqrt()
    assert scores(drawn, law.mean[0, MISSING, 0], sd).abs().max() < 5
    # which is another than the posterior
    posterior = torch.tensor(PRESIDENTS["posterior_mean"]).double()
    assert scores(drawn, posterior, sd).abs().max() > 20


# ------------------------------------------------------------------------------------ a process on a graph


@pytest.fixture(scope="module")
def network():
    """A VAR(2) of 12 nodes, 40 % missing, and its exact posterior."""
    model, process = linear_model(12)
    batch = with_holes(process, 1, 6, missing=0.4)
    exact = process.posterior(batch)
    where = holes(batch)
    return model, process, batch, exact.mean[0][where], exact.stddev[0][where]


@pytest.mark.parametrize("way", WAYS)
def test_paths_have_the_exact_posterior(way, network):
    """Means and deviations of entries, and, for all that lies between them, the density of whole paths."""
    model, process, batch, mean, sd = network
    sampler = WAYS[way]
    if not sampler.sweeps:
        sampler = dataclasses.replace(sampler, particles=2 * sampler.particles)
    drawn = sampler(model, runs_of(batch, 30)).values
    assert torch.equal(
        drawn[..., 0][:, :, batch.context[0, ..., 0]],
        drawn[:1, :1, ..., 0][:, :, batch.context[0, ..., 0]].expand(*drawn.shape[:2], -1),
    )
    entries = torch.stack([path[:, *holes(batch)] for path in drawn])
    assert scores(entries, mean, sd).abs().max() < 5
    exact = process.log_prob(process.impute(batch, 4000).values[:, 0, ..., 0])
    found = process.log_prob(drawn[..., 0].flatten(0, 1)).view(drawn.shape[:2]).mean(dim=0)
    error = (found.var() / len(found) + exact.var() / len(exact)).sqrt()
    assert abs(float((found.mean() - exact.mean()) / error)) < 5


@pytest.mark.parametrize("paths", ["genealogy", "backward"])
@pytest.mark.parametrize(("particles", "threshold"), [(2, 1.0), (3, 0.0), (5, 0.8)])
def test_sweeps_leave_the_posterior_as_it_is(paths, particles, threshold):
    """With the fewest particles, from exact draws: nothing is left to convergence."""
    model, process = linear_model(2)
    batch = with_holes(process, 1, 5, missing=0.6, seed=2)
    posterior = process.posterior(batch)
    mean, sd = (x[0][holes(batch)] for x in (posterior.mean, posterior.stddev))
    rows, sampler = runs_of(batch, 10_000), SMC(1, particles, ess_threshold=threshold, paths=paths, sweeps=3)
    exact = process.impute(batch, 10_000, seed=5).values.movedim(0, 1)
    drawn, renewed = sampler._sweep(model, rows, exact, numbers(10_000, seed=9))
    assert scores(drawn[:, :, *holes(batch)], mean, sd).abs().max() < 5
    assert float(renewed.mean()) > 0.1
    before, after = (process.log_prob(x[0, ..., 0]) for x in (exact, drawn))
    assert abs(z_score(after - before, 0.0)) < 5


def test_the_evidence_of_a_network_is_unbiased(network):
    model, process, batch, *_ = network
    found = SMC(1, 300)(model, runs_of(batch, 120)).log_evidence
    ratio = (found - process.log_prob(batch.values[..., 0], batch.context[..., 0])).exp()
    assert abs(z_score(ratio, 1.0)) < 5
    assert 0.01 < float(ratio.std()) < 2  # otherwise the score says nothing


def test_one_block_is_the_plain_filter(network):
    model, _, batch, *_ = network
    rows = runs_of(batch, 5)
    drawn = SMC(7, 50, seed=3)(model, rows)
    plain = particle_filter(model, rows, 50, streams(3, rows.position[:, 0]), predictive=False)
    assert torch.equal(drawn.log_evidence, plain.log_evidence)
    assert torch.equal(drawn.ess, plain.ess / 50)
    block = torch.zeros(12, dtype=torch.int64)
    told = particle_filter(model, rows, 50, streams(3, rows.position[:, 0]), predictive=False, block=block)
    # the sum over a block's nodes may run in another order
    torch.testing.assert_close(told.log_evidence, plain.log_evidence, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------ every head


@pytest.mark.parametrize("paths", ["genealogy", "backward"])
@pytest.mark.parametrize("name", HEADS)
def test_sweeps_leave_the_posterior_of_quadrature_as_it_is(name, paths):
    """One entry missing, three slices before the end: its law is a table of one number."""
    model = small_model(name, partial(WindowEncoder, order=2, hidden=5))
    batch, sampler, runs = small_windows(model, 4), SMC(1, 30, paths=paths, sweeps=2), 400
    with torch.no_grad():
        rows, _ = over(batch, model, 1, (0, 0))
        weight = model.log_likelihood(rows).softmax(dim=0)
        grid = rows.values[:, 1, 0, 0]
        mean = weight @ grid
        sd = (weight @ (grid - mean) ** 2).sqrt()
        exact = batch.values.repeat(runs, 1, 1, 1)
        exact[:, 1, 0, 0] = grid[choose(weight.log()[:, None], uniforms(numbers(1), (runs,)).T)[:, 0]]
        rows = runs_of(batch, runs)
        rows.context[:, 1, 0, 0], rows.values[:, 1, 0, 0] = False, torch.nan
        rows.target = rows.context
        drawn, renewed = sampler._sweep(model, rows, exact[None], numbers(runs, seed=4))
    assert float(renewed[:, 1].mean()) > 0.05
    assert scores(drawn[:, :, 1, 0, 0, None], mean[None], sd[None]).abs().max() < 5


@pytest.mark.parametrize("name", HEADS)
def test_what_is_drawn_at_a_step_changes_no_weight_of_it(name):
    """The proposal is the locally optimal one, but for a NADE, whose entries follow in an order."""
    model = small_model(name)
    batch = small_windows(model, 2)
    batch.context[:, :, 0, 0] = False
    first = ParticleFilter(model, batch, 6, numbers(1))
    paths = first.extend(first.start(), first.draw(first.start(), 0))
    one, other = (ParticleFilter(model, batch, 6, numbers(1, seed)).draw(paths, 1) for seed in (1, 2))
    assert (one.values != other.values)[:, 0, 0, 0].all()
    as_optimal = torch.allclose(one.log_factor, other.log_factor, atol=1e-12)
    assert as_optimal != (name.startswith("nade") and name != "nade shuffled")


# ------------------------------------------------------------------------------------ blocks


def apart(nodes: int = 6):
    """Nodes that hear of nobody, as a model and as a process."""
    graph = Data(edge_index=torch.empty(2, 0, dtype=torch.int64), edge_weight=torch.empty(0), num_nodes=nodes)
    zero, one = torch.zeros(nodes, 1).double(), torch.ones(nodes, 1).double()
    model = AutoregressiveModel(
        make_spec(graph, zero, one),
        partial(WindowEncoder, order=2, layers=0),
        partial(GaussianHead, scale="node"),
    ).double()
    with torch.no_grad():
        lags = [[own, 0, 0.5, 0] for own, _ in COEFFICIENTS]
        model.head.linear.weight.copy_(torch.tensor(lags).flatten()[None])
        model.head.linear.bias.fill_(0.2)
        model.head.log_scale.fill_(math.log(0.7 - 1e-3))
    unit, none = torch.eye(nodes).double(), torch.zeros(nodes).double()
    process = VARProcess(
        torch.stack([own * unit for own, _ in COEFFICIENTS]),
        none + 0.2,
        0.49 * unit,
        Start(torch.cat([none + 0.2, none]), torch.block_diag(0.49 * unit, 0 * unit)),
    )
    values = simulate(process.state_space(), 10, numbers(1))[..., None]
    context = torch.rand(values.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    return model.eval(), process, windows_of(values, context, context, graph)


def test_without_edges_every_block_is_the_filter_of_its_node():
    """The law of every path, and an evidence that is the product of unbiased ones."""
    model, process, batch = apart()
    exact, rows = process.posterior(batch), runs_of(batch, 200)
    drawn = SMC(20, 60, blocks=6)(model, rows)
    where = holes(batch)
    entries = torch.stack([path[:, *where] for path in drawn.values])
    assert scores(entries, exact.mean[0][where], exact.stddev[0][where]).abs().max() < 5
    assert drawn.log_evidence is None
    stream = streams(0, rows.position[:, 0])
    by_node = particle_filter(model, rows, 60, stream, predictive=False, block=torch.arange(6))
    ratio = (by_node.log_evidence - process.log_prob(batch.values[..., 0], batch.context[..., 0])).exp()
    assert abs(z_score(ratio, 1.0)) < 5 and float(ratio.std()) < 2
    plain = particle_filter(model, rows, 60, stream, predictive=False)
    assert plain.log_evidence.std() > 1.3 * by_node.log_evidence.std()


def test_without_edges_the_densities_of_blocks_are_those_of_their_own_filters():
    """Scored entries, too, are weighed by the paths of their own block alone."""
    model, process, batch = apart()
    batch.target = torch.ones_like(batch.context)
    exact = process.predictive(batch).log_prob(batch.values)
    rows = batch.repeat(60)
    found = particle_filter(model, rows, 200, numbers(60), block=torch.arange(6)).log_prob
    ratio = (found - exact).exp()
    error = ratio.std(dim=0) / 60**0.5
    assert ((ratio.mean(dim=0) - 1).abs() < 5 * error + 1e-6).all()
    assert float(error.max()) < 0.05


@pytest.mark.parametrize("name", ENCODERS)
def test_blocks_go_on_from_ancestors_of_their_own(name):
    series = make_series()
    model, batch = make_model(series, ENCODERS[name]), make_batch(series, batch=2, window=6)
    block = torch.tensor([0, 1, 0, 1, 2])
    plain, blocks = (ParticleFilter(model, batch, 4, numbers(2), b) for b in (None, block))
    number = torch.arange(4)[:, None, None]
    ancestors = (number * torch.tensor([1, 3]) + 1)[..., None].squeeze(1) % 4  # [4, 2 windows, 1]
    with torch.no_grad():
        paths, step = plain.start(), None
        for t in range(3):
            step = plain.draw(paths, t)
            paths = plain.extend(paths, step)
        # all blocks by one choice: as one block
        same = [
            f.extend(paths, step, a) for f, a in ((plain, ancestors), (blocks, ancestors.expand(-1, -1, 3)))
        ]
        after = [
            model.advance(batch.steps(slice(3, 4)).repeat(4), p.before, plain.propagation, p.state)[0]
            for p in same
        ]
        assert torch.equal(*after)
        # each by its own
        own = torch.stack([(ancestors[..., 0] + b) % 4 for b in range(3)], dim=-1)
        mixed = blocks.extend(paths, step, own)
        pure = [plain.extend(paths, step, own[..., b : b + 1]) for b in range(3)]
        for v in range(5):
            assert torch.equal(mixed.before[0][:, :, v], pure[block[v]].before[0][:, :, v])
        if not name.endswith("alone"):
            return

        # what a node by itself says next is what it said on its block's path
        def told(p: Paths):
            now = batch.steps(slice(3, 4)).repeat(4)
            return model.advance(now, p.before, plain.propagation, p.state)[0]

        for v in range(5):
            torch.testing.assert_close(told(mixed)[:, :, v], told(pure[block[v]])[:, :, v])
        assert not torch.allclose(told(mixed), told(pure[0]))


def test_blocks_stay_healthy_where_one_filter_collapses():
    """A network of 60 nodes: the paths of a block carry on, and their mean is nearer to the exact one."""
    model, process = linear_model(60, coefficients=((0.6, 0.1), (-0.3, 0.1)))
    batch = with_holes(process, 8, 10, missing=0.4)
    exact, unknown = process.posterior(batch), ~batch.context
    unknown[:, :-1] = False  # nothing comes after: the filtering law
    plain, blocks = (SMC(200, 200, blocks=b)(model, batch) for b in (1, 30))

    def error(drawn):
        return ((drawn.values.mean(dim=0) - exact.mean) / exact.stddev)[unknown].square().mean().sqrt()

    assert plain.ess.amin() < 0.02 < 0.1 < blocks.ess.amin()
    assert error(blocks) < 0.5 * error(plain)


# ------------------------------------------------------------------------------------ as a sampler


@pytest.mark.parametrize("way", WAYS)
def test_a_window_is_drawn_alike_in_every_batch_and_in_portions(way, monkeypatch):
    model, process = linear_model()
    sampler = dataclasses.replace(WAYS[way], num_samples=4, particles=16, sweeps=2 * bool(WAYS[way].sweeps))
    batch = with_holes(process, 3, 5)
    whole = sampler(model, batch)
    alone = sampler(model, batch.rows(slice(2, 3)))
    torch.testing.assert_close(alone.values, whole.values[:, 2:3], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(alone.log_evidence, whole.log_evidence[2:3], atol=1e-9, rtol=1e-9)
    monkeypatch.setattr("tsgen.sampling.base.MAX_BYTES_PER_PORTION", 200_000)
    torch.testing.assert_close(sampler(model, batch).values, whole.values, atol=1e-9, rtol=1e-9)
    other = dataclasses.replace(sampler, seed=1)(model, batch).values
    assert not torch.equal(other, whole.values)
    hidden = batch._changed(values=batch.values.where(batch.context, torch.nan))
    assert torch.equal(sampler(model, hidden).values, sampler(model, batch).values)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_is_sampled_with_blocks_and_sweeps(name):
    series = make_series()
    model, batch = make_model(series, ENCODERS[name]), make_batch(series, batch=2, window=6)
    for options in ({"blocks": 2}, {"sweeps": 1}):
        drawn = SMC(3, 8, **options)(model, batch)
        assert drawn.values.isfinite().all() and drawn.ess.shape == (2, 6)
        assert torch.equal(drawn.values[:, batch.context], batch.values[batch.context].expand(3, -1))
        assert (drawn.ess > 0).all() and (drawn.ess <= 1 + 1e-6).all()
    if model.encoder.receptive_field is not None:
        assert SMC(3, 8, paths="backward")(model, batch).values.isfinite().all()


def test_sweeps_set_draws_apart():
    """From one particle's ancestors come all draws of a beginning; every draw's own filter renews it."""
    model, process = linear_model(2)
    batch = with_holes(process, 1, 40, missing=0.5)
    batch.context[:, 0, 0] = False
    few, many = (SMC(20, 20, sweeps=n)(model, batch).values[:, 0, 0, 0, 0].unique().numel() for n in (0, 8))
    assert few < 5 and many > 10


def test_draws_are_spread_evenly_over_the_weights():
    """Nothing was visible at the last step: as many draws as particles are the particles, each once."""
    model, process = linear_model()
    batch = with_holes(process, 2, 5)
    batch.context[:] = False
    drawn = SMC(32, 32)(model, batch).values
    assert len(drawn[:, 0].flatten(1).unique(dim=0)) == 32
    torch.testing.assert_close(SMC(4, 32)(model, batch).ess, torch.ones(2, 5).double())


def test_the_particles_that_paths_go_through_are_counted():
    model, process = linear_model()
    batch, sampler = with_holes(process, 3, 6), SMC(5, 64, ess_threshold=0.0)
    kept = sampler._run_filter(ParticleFilter(model, batch, 64, numbers(3)), 0.0)
    torch.testing.assert_close(_path_sizes(kept), kept.ess[:, -1:].expand(-1, 6))
    often = sampler._run_filter(ParticleFilter(model, batch, 64, numbers(3)), 1.0)
    sizes = _path_sizes(often)
    assert (sizes.diff(dim=1) >= -1e-9).all() and (sizes[:, 0] < 0.5 * sizes[:, -1]).all()
    torch.testing.assert_close(sizes[:, -1], often.ess[:, -1])


def warned(sampler, model, batch):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sampler(model, batch)
    return [str(w.message) for w in caught if issubclass(w.category, DegeneracyWarning)]


def test_poor_particles_are_told_of_once():
    model, process = linear_model(6)
    batch = with_holes(process, 2, 6, missing=0.4)
    assert not warned(SMC(5, 1000), model, batch)
    (poor,) = warned(SMC(5, 20), model, batch)
    assert "with 20 particles fewer than 10 effective particles" in poor
    assert "more particles, paths: backward, sweeps, blocks, or an AnyOrderModel" in poor
    (poor,) = warned(SMC(5, 3, sweeps=1), model, batch)
    assert "the sweeps leave some unknown entries unchanged" in poor
    assert not warned(SMC(5, 30, paths="backward", sweeps=3), model, batch)
    # a long window, every step of it healthy: few ancestors are left of its beginning
    model, process = linear_model(2)
    batch = with_holes(process, 1, 100, missing=0.5)
    assert float(SMC(1, 100)(model, batch).ess.amin()) > 0.1
    assert warned(SMC(5, 100), model, batch)
    assert not warned(SMC(5, 100, paths="backward"), model, batch)
    whole = batch._changed(context=torch.ones_like(batch.context))
    for particles in (5, 7, 10, 100):  # nothing is unknown, whatever rounding makes of equal weights
        assert not warned(SMC(5, particles), model.float(), whole._changed(values=whole.values.float()))


def test_users_mistakes_are_named(as_a_user, series):
    for options, told in (
        ({"particles": 1}, "particles must be at least 2; it is 1"),
        (
            {"num_samples": 21, "particles": 20},
            "num_samples must be at most particles, 20",
        ),
        ({"sweeps": -1}, "sweeps must be at least 0"),
        ({"blocks": 0}, "blocks must be at least 1"),
        ({"ess_threshold": 2.0}, r"ess_threshold must lie in 0\.\.1; it is 2"),
        ({"paths": "forward"}, "paths must be 'genealogy' or 'backward'; it is 'forward'"),
        ({"blocks": 2, "sweeps": 1}, "blocks must be 1 for sweeps"),
        ({"blocks": 2, "paths": "backward"}, "blocks must be 1 for sweeps and for backward simulation"),
    ):
        with pytest.raises(ValueError, match=told):
            SMC(**options)
    spec = make_model(series).spec
    for kind in (AnyOrderModel, GraphVAR):
        with pytest.raises(ValueError, match=rf"needs an autoregressive model; got {kind.__name__}"):
            kind(make_model(make_series(covariates=0)).spec, sampler=SMC())
    with pytest.raises(ValueError, match="finite receptive field; GraphGRUEncoder reads all the past"):
        AutoregressiveModel(spec, sampler=SMC(paths="backward"))
    with pytest.raises(ValueError, match=r"blocks must lie in 1\.\.5, the number of nodes; it is 6"):
        AutoregressiveModel(spec, sampler=SMC(blocks=6))
    with pytest.raises(ValueError, match="nodes are independent given the past; MixtureNADEHead"):
        AutoregressiveModel(spec, head=partial(HEADS["nade slice"][1]), sampler=SMC(blocks=2))

    class Joint(GraphGRUEncoder):
        node_axis = None

    with pytest.raises(ValueError, match=r"axis of nodes .*; Joint has none"):
        AutoregressiveModel(spec, partial(Joint), sampler=SMC(blocks=2))


def test_the_command_line_tests_with_another_sampler(tmp_path):
    common = ["--config", "demo", "--runs", str(tmp_path), "--data.steps", "300", "--trainer.logger", "false"]
    common += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    common += ["--model.encoder.hidden", "4", "--data.num_nodes", "5"]
    assert main(["fit", *common]) == 0
    sampler = ["--model.sampler", "tsgen.sampling.SMC", "--model.sampler.particles", "20"]
    assert main(["test", *common, *sampler, "--model.sampler.num_samples", "5"]) == 0
    model = load(tmp_path / "demo/checkpoints/best.ckpt")
    assert isinstance(model.sampler, Ancestral)
    report = (tmp_path / "demo/scores.json").read_text()
    assert '"conditioning": "posterior"' in report


def test_a_visible_value_that_no_particle_can_give_is_named():
    series = make_series(covariates=0)
    model = make_model(series)
    batch = make_batch(series)
    batch.values[1, 2, 3, 1], batch.context[1, 2, 3, 1] = 1e20, True
    for sampler in (SMC(num_samples=4, particles=10), SMC(num_samples=4, particles=10, blocks=2)):
        with pytest.raises(ValueError, match=r"none of the 10 particles.*1e\+20 at node 3, step 13"):
            sampler(model, batch)

"""The model of any entry given any others: sampler and joint density on an exact law, and what it learns."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from conftest import HEADS, TWO_WAY_ENCODERS, make_model, make_series
from conftest import make_batch as windows_of
from dense_var import autocovariances, given, make_batch, make_var
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from experiments.benchmarks.any_order import SHARES, errors, hidden_windows, make_data, train
from tsgen.data.masks import PointMask
from tsgen.data.series import SeriesBatch, SeriesSpec
from tsgen.datamodules import SimulatedDataModule, SyntheticDataModule
from tsgen.exact.linear import VARProcess
from tsgen.heads import GaussianHead, MixtureHead
from tsgen.heads.base import SCALE_FLOOR
from tsgen.models import AnyOrderModel, GraphVAR
from tsgen.sampling import AnyOrder
from tsgen.simulate import NetworkPrior, geometric_graph, linear_process

DRAWS = 5000
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}


class ExactModel(AnyOrderModel):
    """A model whose every law is the exact one: the state is its mean and log-scale."""

    def __init__(self, process: VARProcess, sampler: AnyOrder) -> None:
        nodes = process.num_nodes
        edges = torch.tensor([[0, 1], [1, 2]]), torch.ones(2)
        units = torch.full((nodes, 1), -3.0), torch.full((nodes, 1), 5.0)
        super().__init__(SeriesSpec(*units, *edges, 0, list("abcdefghijkl")[:nodes], ["x"]), sampler=sampler)
        self.head = GaussianHead(2, self.spec.sizes)
        torch.nn.init.eye_(self.head.linear.weight)
        self.process, self.passes = process, 0
        self.double().requires_grad_(False)

    def encode(self, batch, x, context):
        self.passes += 1
        law, units = self.process.posterior(batch), self.units(batch)
        scale = (law.stddev / units.scale - SCALE_FLOOR).clamp(min=1e-12)
        return torch.cat([units.standardise(law.mean), scale.log()], dim=-1)


def exact(order: int = 2, windows: int = 1, steps: int = 4, **sampler):
    """The model of an exact law and windows with about half of their entries visible (of the first: 4)."""
    process, batch = make_var(order), make_batch(windows, steps)
    batch.context[0, 1:3] = False
    return ExactModel(process, AnyOrder(**sampler)), batch


def posterior(model: ExactModel, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of the unknown entries of the first window, by dense conditioning."""
    known = batch.context[0].flatten().numpy()
    law = autocovariances(model.process, batch.values.shape[1])
    mean, covariance = given(law, known, batch.values[0].flatten().numpy())
    return torch.from_numpy(mean[~known]), torch.from_numpy(covariance[np.ix_(~known, ~known)])


def moments(samples: torch.Tensor, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of the draws of the unknown entries of the first window."""
    drawn = samples[:, 0][:, ~batch.context[0]]
    return drawn.mean(dim=0), drawn.T.cov()


def z_scores(found, mean, covariance, draws=DRAWS) -> tuple[torch.Tensor, torch.Tensor]:
    """How far moments of Gaussian draws are from theirs, in standard errors."""
    variance = covariance.diagonal()
    of_mean = (found[0] - mean) / (variance / draws).sqrt()
    error = ((variance[:, None] * variance + covariance**2) / draws).sqrt()
    return of_mean, (found[1] - covariance) / error


def test_as_many_groups_as_unknown_entries_draw_from_the_joint_posterior():
    model, batch = exact(num_samples=DRAWS, groups=8, seed=1)
    assert int((~batch.context).sum()) == 8
    mean, covariance = posterior(model, batch)
    samples = model.sampler(model, batch)
    assert samples.conditioning == "posterior"
    for z in z_scores(moments(samples.values, batch), mean, covariance):
        assert z.abs().max() < 5
    assert torch.equal(samples.values[:, batch.context], batch.values[batch.context].expand(DRAWS, -1))


def test_one_group_draws_each_entry_from_its_own_posterior():
    model, batch = exact(num_samples=DRAWS, groups=1, seed=2)
    mean, covariance = posterior(model, batch)
    found = moments(model.sampler(model, batch).values, batch)
    for z in z_scores(found, mean, covariance.diagonal().diag()):
        assert z.abs().max() < 5
    # the joint posterior is another law
    assert z_scores(found, mean, covariance)[1].abs().max() > 10
    law = model(batch)
    torch.testing.assert_close(law.mean[0][~batch.context[0]], mean)
    torch.testing.assert_close(law.variance[0][~batch.context[0]], covariance.diagonal())


def test_groups_in_between_keep_the_marginals():
    model, batch = exact(num_samples=DRAWS, groups=2, seed=3)
    mean, covariance = posterior(model, batch)
    found = moments(model.sampler(model, batch).values, batch)
    of_mean, of_covariance = z_scores(found, mean, covariance)
    assert of_mean.abs().max() < 5 and of_covariance.diagonal().abs().max() < 5
    # part of each correlation comes through: pairs are revealed one after the other about half of the time
    share = (found[1] * covariance).sum() - (found[1].diagonal() * covariance.diagonal()).sum()
    share = share / (covariance.square().sum() - covariance.diagonal().square().sum())
    assert 0.3 < share < 0.8


@pytest.mark.parametrize("groups", [1, 3, 100])
def test_draws_do_not_depend_on_the_batch(groups):
    model, batch = exact(windows=5, num_samples=4, groups=groups, seed=4)
    batch.context[3] = True  # nothing to draw
    batch.context[4] = False  # everything
    batch = batch._changed(values=batch.values.nan_to_num(1.0))
    whole = model.sampler(model, batch).values
    assert torch.isfinite(whole).all() and not torch.equal(whole[0], whole[1])
    for window in range(5):
        alone = model.sampler(model, batch.rows(slice(window, window + 1))).values
        context = batch.context[window]
        torch.testing.assert_close(alone[:, 0][:, ~context], whole[:, window][:, ~context])
        assert window == 3 or torch.equal(
            alone[:, 0][:, context], batch.values[window][context].expand(4, -1)
        )
    other = dataclasses.replace(model.sampler, seed=5)
    assert not torch.equal(other(model, batch).values, whole)


def test_a_pass_for_each_group_and_no_more(monkeypatch):
    model, batch = exact(windows=2, num_samples=6, groups=1)
    unknown = (~batch.context).flatten(1).sum(dim=1)
    for groups in (1, 2, 100):
        sampler = dataclasses.replace(model.sampler, groups=groups)
        later = unknown.clamp(max=groups) - 1
        one_draw, whole = sampler.bytes_per_draw(model, batch), sampler(model, batch).values
        # all of both windows at once; all of one; a third of one: never a pass for each sample alone
        for at_once, passes in (
            (12, 1 + later.max()),
            (6, (1 + later).sum()),
            (2, 3 * (1 + later).sum()),
        ):
            monkeypatch.setattr("tsgen.sampling.base.MAX_BYTES_PER_PORTION", at_once * one_draw)
            model.passes = 0
            torch.testing.assert_close(sampler(model, batch).values, whole)
            assert model.passes == passes, (groups, at_once)


@pytest.mark.parametrize("n", [1, 2, 9, 64, 250])
def test_groups_grow_and_as_many_as_entries_are_single_ones(n):
    for groups in (1, 2, 6, n, n + 7):
        known = AnyOrder(groups=groups)._drawn_counts(torch.tensor([n, 0, n]))
        sizes = known[0].diff(prepend=torch.tensor([0]))
        assert torch.equal(known[0], known[2]) and (known[1] == 0).all()
        assert len(sizes) == min(groups, n) and sizes.sum() == n and (sizes >= 1).all()
        assert (sizes.diff()[:-1] >= -1).all() and sizes[-1] == sizes.max()  # rounded down, each
        if groups >= n:
            assert (sizes == 1).all()
    assert AnyOrder(groups=6)._drawn_counts(torch.tensor([250])).tolist() == [[2, 6, 15, 39, 99, 250]]


def test_even_groups_are_equal_shares():
    known = AnyOrder(groups=3, sizes="even")._drawn_counts(torch.tensor([8, 2, 0, 9]))
    assert known.tolist() == [[3, 6, 8], [1, 2, 2], [0, 0, 0], [3, 6, 9]]


@pytest.mark.parametrize("order", ["random", "confidence", "time"])
def test_entries_are_revealed_in_order(order, monkeypatch):
    model, batch = exact()
    model.sampler = AnyOrder(4000, groups=4, order=order, sizes="even")
    context = []
    monkeypatch.setattr(
        model, "encode", lambda b, x, s: (context.append(b.context), type(model).encode(model, b, x, s))[1]
    )
    model.sampler(model, batch)
    first, unknown = context[1] & ~batch.context, ~batch.context[0]
    assert (first.sum(dim=(1, 2, 3)) == 2).all()
    share = first[:, unknown].double().mean(dim=0)
    if order == "random":
        # every entry is as often among the first as any other
        assert ((share - 0.25).abs() < 5 * (0.25 * 0.75 / 4000) ** 0.5).all()
    elif order == "confidence":
        scale = (model(batch).stddev[0] / model.scale)[unknown]
        assert torch.equal(share == 1, scale <= scale.sort().values[1]) and set(share.tolist()) == {0, 1}
        # the next two are the surest given those
        again = model(batch._changed(values=model.sampler(model, batch).values[0], context=context[1][:1]))
        scale = (again.stddev[0] / model.scale).masked_fill(context[1][0], torch.inf)
        assert set(scale.flatten().argsort()[:2].tolist()) == set(
            (context[2][0] & ~context[1][0]).flatten().nonzero()[:, 0].tolist()
        )
    else:
        step = unknown.nonzero()[:, 0]
        assert (share[step > step.sort().values[1]] == 0).all() and share.sum() == pytest.approx(2)
        assert ((share > 0) == (step <= step.sort().values[1])).all()


class DenseModel(ExactModel):
    """As above, by dense conditioning of the whole window: quick where every draw has its own pattern."""

    def encode(self, batch, x, context):
        mean, covariance = map(torch.from_numpy, autocovariances(self.process, x.shape[1]))
        unknown = ~batch.context.flatten(1)
        precision = covariance.inverse()
        known = torch.where(unknown, 0, batch.values.flatten(1) - mean)
        system = torch.where(
            unknown[:, :, None] & unknown[:, None], precision, torch.eye(len(mean)).to(precision)
        )
        factor = torch.linalg.cholesky(system)
        pull = torch.where(unknown, -known @ precision, 0)[..., None]
        mean = torch.where(unknown, mean + torch.cholesky_solve(pull, factor)[..., 0], known + mean)
        variance = torch.cholesky_inverse(factor).diagonal(dim1=1, dim2=2)
        units = self.units(batch)
        mean, deviation = (a.view(x.shape) for a in (mean, variance.sqrt()))
        scale = (deviation / units.scale - SCALE_FLOOR).clamp(min=1e-12)
        return torch.cat([units.standardise(mean), scale.log()], dim=-1)


@pytest.fixture(scope="module")
def network():
    """A VAR(2) on a directed graph of 12 nodes, 40 % of a window missing, and its exact posterior."""
    process, draws = linear_process(geometric_graph(12, 0), 0), 2000
    values = process.simulate(60, 1)[None, -3:, :, None]
    context = torch.rand(values.shape, generator=torch.Generator().manual_seed(2)) > 0.4
    model = DenseModel(process, AnyOrder(draws, groups=36, seed=3))
    batch = SeriesBatch(
        values.masked_fill(~context, torch.nan),
        context,
        torch.zeros_like(context),
        model.spec.graph,
        torch.arange(3)[None],
    )
    torch.testing.assert_close(
        model(batch).mean[~context], process.posterior(batch).mean[~context], atol=1e-8, rtol=1e-8
    )
    return model, batch, posterior(model, batch)


@pytest.mark.parametrize("order", ["random", "confidence", "time"])
def test_any_order_of_single_entries_is_the_joint_posterior_of_a_network(network, order):
    model, batch, law = network
    sampler = dataclasses.replace(model.sampler, order=order)
    for z in z_scores(moments(sampler(model, batch).values, batch), *law, draws=sampler.num_samples):
        assert z.abs().max() < 5


def test_one_group_of_a_network_has_its_deviations_and_none_of_its_covariances(network):
    model, batch, (mean, covariance) = network
    found = moments(dataclasses.replace(model.sampler, groups=1)(model, batch).values, batch)
    of_mean, of_covariance = z_scores(found, mean, covariance, draws=model.sampler.num_samples)
    assert of_mean.abs().max() < 5 and of_covariance.diagonal().abs().max() < 5
    assert of_covariance.abs().max() > 10
    few = moments(dataclasses.replace(model.sampler, groups=4)(model, batch).values, batch)
    apart = [(x[1] - covariance).square().sum() for x in (found, few)]
    assert apart[1] < apart[0]


def test_the_joint_density_is_that_of_the_entries_one_after_another(monkeypatch):
    model, batch = exact(windows=4, steps=5)
    batch.context[2] = False
    expected = model.process.log_prob(batch.values[..., 0], batch.context[..., 0])
    torch.testing.assert_close(model.log_likelihood(batch), expected, atol=1e-8, rtol=1e-8)
    assert float(model.log_likelihood(batch)[2]) == 0
    monkeypatch.setattr("tsgen.sampling.base.MAX_BYTES_PER_PORTION", 2 * 15 * 12 * 64 * 8)
    torch.testing.assert_close(model.log_likelihood(batch), expected, atol=1e-8, rtol=1e-8)


def test_only_what_is_hidden_is_scored():
    model, batch = exact(windows=3)
    values = batch.values.nan_to_num(2.0)
    both = batch._changed(values=values, target=torch.ones_like(batch.target))
    hidden_only = both._changed(target=~batch.context)
    assert torch.equal(model.log_prob(both), model.log_prob(hidden_only))
    assert (model.log_prob(both)[batch.context] == 0).all()


def test_what_hides_nothing_is_refused():
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
    for options, told in (
        ({}, "learns from hidden entries; data.thinning is null"),
        ({"thinning": PointMask((0.0, 1.0)), "horizon": 0}, "scored on hidden entries; data.horizon is 0"),
    ):
        data = SyntheticDataModule(num_nodes=4, steps=200, window=12, **options)
        with pytest.raises(ValueError, match=told):
            trainer.fit(AnyOrderModel(data.spec), data)
    data = SyntheticDataModule(num_nodes=4, steps=200, window=12)
    Trainer(limit_test_batches=1, **QUIET).test(
        AnyOrderModel(data.spec, sampler=AnyOrder(2)), data, verbose=False
    )


def test_the_sampler_refuses_what_it_cannot_draw_from():
    series = make_series(covariates=0)
    spec = make_model(series).spec
    with pytest.raises(ValueError, match="needs an AnyOrderModel; got GraphVAR"):
        GraphVAR(spec, sampler=AnyOrder())
    with pytest.raises(ValueError, match="groups must be at least 1; it is 0"):
        AnyOrder(groups=0)


def test_options_that_are_none_are_refused(as_a_user):
    with pytest.raises(ValueError, match="sizes must be 'even' or 'growing'; it is 'odd'"):
        AnyOrder(sizes="odd")
    with pytest.raises(ValueError, match="order must be 'random', 'confidence', 'time' or 'window'; it is"):
        AnyOrder(order="space")


@pytest.mark.slow
def test_training_comes_near_the_exact_posterior():
    """Laws of hidden entries, on one core in half a minute; experiments.benchmarks.any_order takes longer and
    comes within 5 %. To see the past alone, or the node alone, would be several times as far off."""
    data = make_data(nodes=3, window=6, windows=50_000)
    model = train(data, steps=1500, hidden=24, layers=2, lr=1e-2)
    for share in SHARES:
        batch = hidden_windows(data, PointMask(share))
        with torch.no_grad():
            found = errors(model(batch), data.exact, batch)
        assert found.mean < 0.13 and found.deviation < 0.06, (share, found)
        assert -3 * found.gap_error < found.gap < 0.04, (share, found)
        assert errors(data.exact.predictive(batch), data.exact, batch).mean > 0.3


def linear_model(series, adapts: bool = False, seed: int | None = None):
    """A model in linear units; with a seed, one whose network changes the laws."""
    with torch.random.fork_rng():
        torch.manual_seed(seed or 0)
        model = AnyOrderModel(SeriesSpec.of(series), TWO_WAY, GaussianHead, units="linear", adapts=adapts)
        if seed is not None:
            torch.nn.init.normal_(model.head.linear.weight, std=0.3)
    return model.eval()


TWO_WAY = TWO_WAY_ENCODERS["two-way graph attention"]


def simulated_series(nodes: int = 8, steps: int = 4000):
    """A linear process on a graph, a fifth of a series of it missing, and windows with hidden entries."""
    data = SyntheticDataModule(num_nodes=nodes, steps=steps, missing=PointMask(0.2), window=12)
    process, series = data.exact, data.split.series
    values = process.simulate(40 * 12, 5).unflatten(0, (-1, 12))[..., None].float()
    context = torch.rand(values.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    position = torch.arange(480).view(40, 12)
    return process, series, SeriesBatch(values, context, ~context, series.graph, position)


def test_in_linear_units_the_law_is_that_of_the_fitted_process_before_any_training():
    process, series, batch = simulated_series()
    model = linear_model(series)
    model.fit_units(series, [slice(0, len(series))])
    linear = model.linear
    fitted = VARProcess(linear.coefficients[0], torch.zeros(8), linear.covariance[0])
    expected = fitted.in_units(model.loc[:, 0], model.scale[:, 0]).posterior(batch)
    with torch.no_grad():
        law = model(batch)
    hidden, scale = ~batch.context, model.scale
    assert ((law.mean - expected.mean) / scale)[hidden].abs().max() < 1e-5
    # the head's own scale is 1 and its floor
    ratio = (law.stddev / expected.stddev)[hidden]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1 + SCALE_FLOOR), atol=1e-5, rtol=0)
    # with as much data it is close to the exact one of the true process
    exact = process.posterior(batch)
    excess = (exact.log_prob(batch.values) - law.log_prob(batch.values))[hidden].mean()
    assert 0 < excess < 0.05
    assert ((law.mean - exact.mean) / exact.stddev)[hidden].square().mean().sqrt() < 0.25
    # features are those of the batch at hand, whatever came before
    torch.testing.assert_close(model(batch.rows(slice(3, 5))).mean, law.mean[3:5], atol=1e-4, rtol=1e-6)


def shuffled(data, order):
    """A series or windows with nodes in another order, and their graph."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    graph = data.graph.clone()
    graph.edge_index, graph.pos = place[graph.edge_index], None
    if isinstance(data, SeriesBatch):
        fields = {name: getattr(data, name)[:, :, order] for name in ("values", "context", "target")}
        return dataclasses.replace(data, graph=graph, **fields)
    names = [data.nodes[v] for v in order]
    fields = {name: getattr(data, name)[:, order] for name in ("values", "observed")}
    return dataclasses.replace(data, graph=graph, nodes=names, **fields)


@pytest.mark.parametrize("kind", ["series", "batch"])
def test_a_model_adapts_to_any_units_and_order_of_nodes(kind):
    _, series, batch = simulated_series(steps=600)
    data = series if kind == "series" else batch
    model = linear_model(make_series(nodes=3, channels=1, covariates=0), adapts=True, seed=3)
    keys = {name: x.shape for name, x in model.state_dict().items()}
    other = linear_model(series, adapts=True).state_dict()
    assert keys == {name: x.shape for name, x in other.items()}, "whatever the network"
    hidden = ~batch.context
    with torch.no_grad():
        law = model.adapted(data)(batch)
        untrained = linear_model(series, adapts=True).adapted(data)(batch)
        assert ((law.mean - untrained.mean) / untrained.stddev)[hidden].abs().mean() > 0.05
        for a, b in ((2.5, -40.0), (0.01, 3.0)):
            moved = model.adapted(dataclasses.replace(data, values=a * data.values + b))
            found = moved(dataclasses.replace(batch, values=a * batch.values + b))
            error = (found.mean - (a * law.mean + b)) / (a * law.stddev)
            assert error[hidden].abs().max() < 0.02
            assert (found.stddev / (a * law.stddev) - 1)[hidden].abs().max() < 0.02
        order = torch.tensor([5, 2, 7, 0, 1, 3, 6, 4])
        found = model.adapted(shuffled(data, order))(shuffled(batch, order))
    error = (found.mean - law.mean[:, :, order]) / law.stddev[:, :, order]
    assert error[hidden[:, :, order]].abs().max() < 0.02
    # the model itself is as before, and the weights are shared
    assert {name: x.shape for name, x in model.state_dict().items()} == keys and model.adapts
    adapted = model.adapted(data)
    assert adapted.head.linear.weight is model.head.linear.weight
    assert torch.equal(adapted.spec.edge_index, data.graph.edge_index) and not adapted.adapts


def linear_copy(model):
    """A model with the same weights that has seen no windows."""
    other = AnyOrderModel(model.spec, TWO_WAY, GaussianHead, units="linear").eval()
    other.load_state_dict(model.state_dict())
    return other


def test_laws_are_those_of_the_windows_and_weights_at_hand():
    _, series, batch = simulated_series(steps=600)
    model = linear_model(series)
    model.fit_units(series, [slice(0, 300)])
    with torch.no_grad():
        model.loc.zero_()
        batch.values[:, 2], batch.context[:, 2] = 0.0, True  # in standard units, too
        for step in (6, 2):
            before = model(batch).mean
            batch.context[:, step] = False
            fresh = linear_copy(model)(batch).mean
            assert not torch.allclose(before, fresh)
            torch.testing.assert_close(model(batch).mean, fresh)
        other = linear_model(series)
        other.fit_units(series, [slice(300, 600)])
        expected = other(batch).mean
        model.load_state_dict(other.state_dict())
        torch.testing.assert_close(model(batch).mean, expected)


def test_what_cannot_adapt_is_refused():
    series = make_series(channels=1, covariates=0)
    spec = SeriesSpec.of(series)
    for units in ("node", "interpolation"):
        with pytest.raises(ValueError, match='adapts needs units "linear"'):
            AnyOrderModel(spec, units=units, adapts=True)
    for options in ({"node_embedding": 2}, {"head": partial(GaussianHead, scale="node")}):
        with pytest.raises(ValueError, match="no parameters of single nodes"):
            AnyOrderModel(spec, units="linear", adapts=True, **options)
    with pytest.raises(ValueError, match="one that adapts"):
        AnyOrderModel(spec, units="linear").adapted(series)
    model = AnyOrderModel(spec, units="linear", adapts=True)
    with pytest.raises(ValueError, match=r"1 channels and 0 covariates, .* it has 2 and 3"):
        model.adapted(make_series())


def test_a_training_on_simulated_networks_resumes_with_the_same_draws(tmp_path):
    def small():
        prior = NetworkPrior(nodes=(2, 6), steps=(8,), channels=(1, 1), windows=6)
        data = SimulatedDataModule(prior, steps_per_epoch=2, val_draws=1, context=2, window=8)
        seed_everything(1, verbose=False)
        head = partial(MixtureHead, components=2)
        return AnyOrderModel(data.spec, TWO_WAY, head, units="linear", adapts=True), data

    options = {"enable_checkpointing": False, **QUIET}
    straight, data = small()
    Trainer(max_epochs=3, **options).fit(straight, data)
    first, data = small()
    before = {name: x.clone() for name, x in first.state_dict().items()}
    checkpoint = ModelCheckpoint(tmp_path, filename="two")
    Trainer(max_epochs=2, callbacks=[checkpoint], **QUIET).fit(first, data)
    second, data = small()
    Trainer(max_epochs=3, **options).fit(second, data, ckpt_path=tmp_path / "two.ckpt", weights_only=True)
    assert any(not torch.equal(x, before[name]) for name, x in first.state_dict().items())
    for (name, a), b in zip(straight.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(first.head.linear.weight, second.head.linear.weight)


@pytest.mark.parametrize("name", HEADS)
def test_linear_units_go_with_every_head_of_single_entries(name):
    series, units = make_series(), {"units": "linear"}
    if "nade" in name:
        with pytest.raises(ValueError, match="needs a head for single entries"):
            AnyOrderModel(SeriesSpec.of(series), TWO_WAY, HEADS[name], **units)
        return
    model = AnyOrderModel(SeriesSpec.of(series), TWO_WAY, HEADS[name], **units).eval()
    model.fit_units(series, [slice(0, 60)])
    batch = windows_of(series)
    with torch.no_grad():
        law, linear = model(batch), model.units(batch)
    # before any training the mean is that of the linear posterior
    error = ((law.mean - linear.loc) / linear.scale)[batch.hidden]
    assert error.abs().max() < (0.05 if "mixture" in name or name == "conditional" else 1e-4)

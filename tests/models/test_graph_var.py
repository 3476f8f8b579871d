"""The linear-Gaussian model as a model: fitted by the trainer, saved, sampled, scored like any other."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import directed_graph, make_batch, make_model, make_series
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from statsmodels.datasets import macrodata
from statsmodels.tsa.api import VAR
from statsmodels.tsa.statespace.varmax import VARMAX
from torch.utils.data import DataLoader

from tsgen import load
from tsgen.data.masks import PointMask
from tsgen.data.series import GraphSeries, SeriesBatch, SeriesSpec
from tsgen.datamodules import SyntheticDataModule
from tsgen.exact.linear import VARProcess
from tsgen.heads.likelihood import masked_log_prob
from tsgen.models import GraphVAR
from tsgen.sampling import Ancestral, Exact

REFERENCES = json.loads((Path(__file__).parents[1] / "references.json").read_text("utf-8"))
QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "logger": False,
}


@pytest.fixture(scope="module")
def growth() -> torch.Tensor:
    """Log growth of investment, income and consumption in West Germany, 1960 to 1978 (Lütkepohl, 2005)."""
    return torch.tensor(REFERENCES["germany"]["levels"], dtype=torch.float64).log().diff(dim=0)[:75]


@pytest.mark.parametrize(
    ("noise", "order", "expected"),
    [(v["noise"], v["order"], v["log_likelihood"]) for v in REFERENCES["germany"]["fits"]],
)
def test_least_squares_reaches_the_published_likelihood(growth, noise, order, expected):
    fit = VARProcess.fit(growth, order, noise=noise)
    assert fit.converged
    assert float(fit.process.conditional_log_prob(growth[None])) == pytest.approx(expected, abs=1e-8)


def test_a_restricted_fit_with_full_noise_is_the_restricted_maximum(growth):
    """Generalised least squares: no free coefficient, and no change of the noise, makes it likelier."""
    support = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 1]]).bool()
    fit = VARProcess.fit(growth, 2, support, "full")
    process = fit.process
    assert fit.converged
    assert (process.coefficients[:, ~support] == 0).all() and (process.coefficients[:, support] != 0).all()
    coefficients = process.coefficients.clone().requires_grad_()
    intercept, factor = (
        x.clone().requires_grad_() for x in (process.intercept, torch.linalg.cholesky(process.covariance))
    )
    past = [growth[2 - k : 75 - k] for k in (1, 2)]
    mean = intercept + sum(x @ a.mT for x, a in zip(past, coefficients, strict=True))
    law = torch.distributions.MultivariateNormal(mean, scale_tril=factor.tril())
    log_prob = law.log_prob(growth[2:]).sum()
    assert float(log_prob.detach()) == pytest.approx(
        float(process.conditional_log_prob(growth[None])), abs=1e-8
    )
    gradients = torch.autograd.grad(log_prob, (coefficients, intercept, factor))
    assert (gradients[0][:, support] * 0.01).abs().max() < 1e-3
    assert (gradients[1] * 0.01).abs().max() < 1e-3
    assert (gradients[2].tril() * 0.01).abs().max() < 1e-3
    free = VARProcess.fit(growth, 2, noise="full").process.conditional_log_prob(growth[None])
    assert log_prob < free


@pytest.mark.parametrize("noise", ["full", "diagonal"])
def test_em_climbs(growth, noise):
    """With holes after the first slices the likelihood never falls."""
    holes = torch.rand(growth.shape, generator=torch.Generator().manual_seed(0)) < 0.2
    holes[:2] = False
    values = growth.where(~holes, torch.nan)
    process = VARProcess.fit(values, 2, noise=noise, iterations=500, tolerance=1e-10)
    assert process.converged
    loc, scale = growth.mean(dim=0), growth.std(dim=0)
    standard = ((values - loc) / scale)[None]
    reached, climbing = [], VARProcess.white_noise(2, torch.zeros(3).double(), torch.ones(3).double())
    everything = torch.ones(3, 3, dtype=torch.bool)
    for _ in range(15):
        moments = climbing.expectation(standard, ~holes[None])
        # the stationary start moves with the parameters: what EM climbs is the density given the first slices
        start = climbing.log_prob(torch.nan_to_num(standard[:, :2]), ~holes[None, :2])
        reached.append(float(moments.log_likelihood - start))
        climbing = climbing.maximisation(moments, everything, noise)
    assert (np.diff(reached) > -1e-9).all()
    assert reached[-1] > reached[0] + 5


def test_a_fit_of_a_series_that_grows_without_bound_starts_anywhere_in_the_data():
    growing = torch.cumsum(torch.ones(80, 2).double(), dim=0) + 0.1 * torch.randn(
        80, 2, generator=torch.Generator().manual_seed(0)
    )
    growing = 1.05 ** torch.arange(80)[:, None] * growing
    process = VARProcess.fit(growing, 1).process
    assert process.radius >= 1
    assert process.start is not None
    assert torch.isfinite(process.log_prob(growing[None])).all()
    with pytest.raises(ValueError, match="or pass start"):
        VARProcess(process.coefficients, process.intercept, process.covariance)


@pytest.mark.parametrize(
    ("values", "order", "message"),
    [
        (torch.zeros(20, 2), 0, "order must be at least 1"),
        (torch.randn(3, 2), 2, "needs more than 3 steps"),
        (torch.randn(8, 3), 2, "needs at least 12 steps"),
        (torch.randn(40, 1).repeat(1, 2), 1, "linearly independent"),
        (torch.ones(20, 2), 1, "node 0 is"),
        (torch.full((20, 2), torch.inf), 1, "infinite"),
        (torch.full((20, 2), torch.nan), 1, "observed at least twice"),
    ],
)
def test_what_cannot_be_fitted_is_refused(values, order, message):
    with pytest.raises(ValueError, match=message):
        VARProcess.fit(values, order)


def test_units_change_nothing_but_the_units(growth):
    loc, scale = torch.tensor([5.0, -3.0, 1e6]).double(), torch.tensor([1e-6, 1.0, 1e4]).double()
    process = VARProcess.fit(growth, 2).process
    there = process.in_units(loc, scale)
    jacobian = scale.log().sum() * 73
    moved = (loc + scale * growth)[None]
    torch.testing.assert_close(
        there.conditional_log_prob(moved), process.conditional_log_prob(growth[None]) - jacobian
    )
    torch.testing.assert_close(there.log_prob(moved), process.log_prob(growth[None]) - scale.log().sum() * 75)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    data = SyntheticDataModule(num_nodes=8, steps=2000, window=24, stride=22, missing=PointMask(0.2))
    model = GraphVAR(data.spec, order=2)
    checkpoint = ModelCheckpoint(tmp_path_factory.mktemp("var"), filename="best", monitor="val/nll")
    Trainer(max_epochs=12, callbacks=[checkpoint], **QUIET).fit(model, data)
    return model, data, Path(checkpoint.best_model_path)


def whole(data, stage="test"):
    dataset = data.dataset(stage)
    return dataset.__getitems__([(0, i) for i in range(len(dataset))])


def test_the_trainer_fits_it_close_to_the_law(trained):
    model, data, _ = trained
    batch = whole(data)
    ours = model.log_likelihood(batch)
    exact = data.exact.log_prob(batch.values.flatten(2), batch.context.flatten(2))
    lost = (exact - ours) / batch.context.sum(dim=(1, 2, 3))
    error = float(lost.std() / len(lost) ** 0.5)
    assert -error < float(lost.mean()) < 0.02
    assert (model.process.coefficients[:, ~model.support] == 0).all()


def test_without_holes_one_epoch_is_least_squares():
    data = SyntheticDataModule(num_nodes=5, steps=300, window=210, missing=PointMask(0.0))
    model = GraphVAR(data.spec, order=1)
    Trainer(max_epochs=1, enable_checkpointing=False, limit_val_batches=0, **QUIET).fit(model, data)
    series = data.split.series.values[:210, :, 0]
    expected = VARProcess.fit(series, 1, model.support, "diagonal").process
    torch.testing.assert_close(model.process.coefficients, expected.coefficients, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.process.covariance, expected.covariance, atol=1e-6, rtol=1e-5)


def test_a_process_once_read_does_not_change(growth):
    graph = directed_graph(3)
    values = growth[:, :, None]
    series = GraphSeries(values, torch.ones_like(values, dtype=torch.bool), graph)
    model = GraphVAR(SeriesSpec.of(series))
    before = model.process
    model.process = VARProcess.fit(growth, 1).process
    assert (before.coefficients == 0).all() and model.process.coefficients.abs().sum() > 0


def test_a_checkpoint_rebuilds_it(trained):
    _, data, path = trained
    loaded = load(path)
    batch = whole(data)
    assert isinstance(loaded, GraphVAR) and loaded.order == 2
    assert loaded.coefficients.dtype == torch.float64
    assert loaded.coefficients.abs().sum() > 0
    torch.testing.assert_close(load(path).sampler(loaded, batch).values, loaded.sampler(loaded, batch).values)


def test_samples_follow_the_posterior_and_scores_its_density(trained):
    model, data, _ = trained
    batch = whole(data).rows(slice(0, 3))
    samples = Exact(num_samples=4000)(model, batch)
    assert samples.conditioning == "posterior"
    law = model.posterior(batch)
    hidden = ~batch.context
    z = (samples.values.mean(dim=0) - law.mean)[hidden] / (law.stddev[hidden] / 4000**0.5)
    assert z.abs().max() < 5
    assert torch.equal(samples.values[0][batch.context], batch.values[batch.context])
    scored = model.test_log_prob(batch)
    assert torch.equal(scored, masked_log_prob(law, batch.values, batch.target))
    assert scored.sum() > model.log_prob(batch).sum()


def test_channels_of_a_node_hear_each_other():
    series = make_series(channels=2, covariates=0)
    model = GraphVAR(SeriesSpec.of(series))
    assert model.support.shape == (10, 10)
    source, target = series.graph.edge_index
    for u in range(5):
        for v in range(5):
            hears = u == v or bool(((source == u) & (target == v)).any())
            assert bool(model.support[2 * v : 2 * v + 2, 2 * u : 2 * u + 2].all()) == hears
    law = model(make_batch(series))
    assert law.batch_shape == (3, 10, 5, 2)
    torch.testing.assert_close(law.mean, model.loc.expand(3, 10, 5, 2), atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(law.stddev, model.scale.expand(3, 10, 5, 2), atol=1e-3, rtol=1e-4)


def test_slices_sum_to_the_joint_density(trained):
    model, data, _ = trained
    values = data.split.series.values[:48].reshape(2, 24, 8, 1)
    values = torch.nan_to_num(values, nan=20.0)
    everything = torch.ones_like(values, dtype=torch.bool)
    position = torch.arange(48).reshape(2, 24)
    batch = SeriesBatch(values, everything, everything, data.split.series.graph, position)
    law = model.slices(batch)
    torch.testing.assert_close(
        law.log_prob(values.flatten(2).double()).sum(dim=1), model.log_likelihood(batch)
    )


def test_a_fit_by_several_processes_is_refused(monkeypatch):
    data = SyntheticDataModule(num_nodes=5, steps=300)
    model = GraphVAR(data.spec)
    monkeypatch.setattr(GraphVAR, "trainer", SimpleNamespace(world_size=2, datamodule=data))
    with pytest.raises(ValueError, match=r"Set trainer\.devices to 1"):
        model.setup("fit")
    model.setup("test")


def test_wrong_combinations_are_refused(series, as_a_user):
    spec = SeriesSpec.of(series)
    with pytest.raises(ValueError, match="reads no covariates"):
        GraphVAR(spec)
    plain = make_series(covariates=0)
    spec = SeriesSpec.of(plain)
    with pytest.raises(ValueError, match=r"Use .* Exact for a GraphVAR"):
        GraphVAR(spec, sampler=Ancestral())
    with pytest.raises(ValueError, match=r"Use tsgen\.sampling\.Ancestral"):
        type(make_model(plain))(spec, sampler=Exact())
    for options, message in (({"order": 0}, "order"), ({"noise": "some"}, "noise must be")):
        with pytest.raises(ValueError, match=message):
            GraphVAR(spec, **options)
    with pytest.raises(ValueError, match="num_samples"):
        Exact(0)
    short = VARProcess.white_noise(3, torch.zeros(2).double(), torch.ones(2).double())
    with pytest.raises(ValueError, match="longer than the order"):
        short.expectation(torch.zeros(1, 3, 2), torch.ones(1, 3, 2, dtype=torch.bool))


def test_a_series_on_the_graph_is_needed():
    graph = directed_graph()
    values = torch.randn(30, 5, 1, generator=torch.Generator().manual_seed(0))
    series = GraphSeries(values, torch.ones_like(values, dtype=torch.bool), graph)
    other = partial(GraphVAR, SeriesSpec.of(series))
    with pytest.raises(ValueError, match="entries in a slice"):
        other()(make_batch(make_series(covariates=0)))


@pytest.mark.parametrize("noise", ["diagonal", "full"])
def test_an_epoch_is_one_iteration_over_all_its_batches(noise, tmp_path):
    """Two epochs of several batches equal two iterations over all windows; the logged loss is theirs."""
    data = SyntheticDataModule(num_nodes=5, steps=300, window=20, stride=13, batch_size=6)
    model = GraphVAR(data.spec, order=1, noise=noise)
    logger = CSVLogger(tmp_path, name="", version="")
    options = QUIET | {"logger": logger, "log_every_n_steps": 1, "limit_val_batches": 0}
    Trainer(max_epochs=2, enable_checkpointing=False, **options).fit(model, data)
    dataset = data.dataset("train")
    everything = dataset.__getitems__([(0, i) for i in range(len(dataset))])
    assert len(dataset) > 2 * data.batch_size
    values, context = everything.values.flatten(2).double(), everything.target.flatten(2)
    process = GraphVAR(data.spec, order=1, noise=noise).process
    for _ in range(2):
        process = process.maximisation(process.expectation(values, context), model.support, noise)
    torch.testing.assert_close(model.process.coefficients, process.coefficients, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(model.process.covariance, process.covariance, atol=1e-6, rtol=1e-6)
    assert bool((process.covariance - torch.diag(process.covariance.diagonal())).any()) == (noise == "full")
    white = GraphVAR(data.spec, order=1, noise=noise)
    first = data.train_dataloader()
    batch = next(iter(first))
    logged = pd.read_csv(tmp_path / "metrics.csv")["train/nll"].dropna().iloc[0]
    expected = -float(white.log_likelihood(batch).sum() / batch.context.sum())
    assert logged == pytest.approx(expected, rel=1e-5)


def test_a_model_without_a_stationary_law_keeps_its_start(tmp_path):
    graph = directed_graph()
    generator = torch.Generator().manual_seed(0)
    steps = torch.arange(120.0)[:, None, None]
    values = (1.03**steps) * (10 + torch.randn(120, 5, 1, generator=generator))
    series = GraphSeries(values, torch.ones_like(values, dtype=torch.bool), graph)
    spec = SeriesSpec.of(series)
    model = GraphVAR(spec, order=1)
    model.process = VARProcess.fit(values[..., 0], 1, model.support, "diagonal").process
    assert model.process.radius >= 1 and model.process.start is not None
    path = tmp_path / "growing.ckpt"
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, path)
    batch = make_batch(series)
    assert torch.equal(load(path).log_likelihood(batch), model.log_likelihood(batch))
    loc, scale = torch.arange(5.0).double(), torch.arange(1.0, 6.0).double()
    moved = model.process.in_units(loc, scale)
    there = (loc + scale * values[None, :20, :, 0]).double()
    here = model.process.log_prob(values[None, :20, :, 0].double())
    torch.testing.assert_close(moved.log_prob(there), here - 20 * scale.log().sum())
    start = model.process.start
    past = values[:-1, :, 0].double()
    torch.testing.assert_close(start.mean, past.mean(dim=0), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "bf16-mixed"])
def test_it_computes_in_float64_whatever_the_precision(precision, trained):
    _, data, _ = trained
    found = []
    for chosen in ("32-true", precision):
        model = GraphVAR(data.spec)
        trainer = Trainer(max_epochs=1, enable_checkpointing=False, precision=chosen, **QUIET)
        trainer.fit(model, data)
        found.append([*model.state_dict().values(), trainer.test(model, data, verbose=False)[0]["test/nll"]])
    assert all(a == b if isinstance(a, float) else torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.fixture(scope="module")
def economy() -> torch.Tensor:
    """Growth of US consumption and investment, quarterly (statsmodels' macrodata)."""
    table = macrodata.load_pandas().data[["realcons", "realinv"]]
    return 100 * torch.from_numpy(table.to_numpy()).log().diff(dim=0)


def test_least_squares_equals_statsmodels(economy):
    theirs = VAR(economy.numpy()).fit(2, trend="c")
    process = VARProcess.fit(economy, 2).process
    np.testing.assert_allclose(process.coefficients, theirs.coefs, atol=1e-9)
    np.testing.assert_allclose(process.intercept, theirs.intercept, atol=1e-9)
    np.testing.assert_allclose(process.covariance, theirs.sigma_u_mle, atol=1e-9)


def test_em_reaches_the_maximum_of_statsmodels(economy):
    """Their numerical maximum of the exact likelihood, with holes, is hardly higher."""
    holes = torch.rand(economy.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    holes[:1] = False
    values = economy.where(~holes, torch.nan)
    process = VARProcess.fit(values, 1).process
    model = VARMAX(values.numpy(), order=(1, 0), trend="c")
    factor = torch.linalg.cholesky(process.covariance)[torch.tril_indices(2, 2).unbind()]
    ours = torch.cat([process.intercept, process.coefficients.flatten(), factor]).numpy()
    exact = float(process.log_prob(values[None]))
    assert float(model.loglike(ours)) == pytest.approx(exact, abs=1e-6)
    best = model.fit(ours, disp=False, maxiter=200)
    # EM leaves out the stationary law of the first slice: a difference of the order of one slice's density
    assert exact <= best.llf + 1e-6
    assert exact > best.llf - 0.1


@pytest.mark.parametrize("noise", ["diagonal", "full"])
def test_a_stuck_sensor_is_named(noise):
    series = make_series(steps=120, covariates=0)
    series.values[:, 3] = torch.where(series.observed[:, 3], 5.0, torch.nan)
    model = GraphVAR(SeriesSpec.of(series), noise=noise)
    position = torch.arange(10) + 10 * torch.arange(11)[:, None]
    batch = series.windows(position[:, 0], 10)
    batch = batch._changed(target=batch.context)
    trainer = Trainer(max_epochs=2, **QUIET)
    with pytest.raises(ValueError, match=r"those of 3 are constant.*stuck sensor"):
        trainer.fit(model, DataLoader([batch], batch_size=None))


def test_a_node_without_values_is_not_taken_for_a_stuck_sensor():
    series = make_series(steps=120, covariates=0)
    series.observed[:, 3] = False
    batch = series.windows(10 * torch.arange(11), 10)
    loader = DataLoader([batch._changed(target=batch.context)], batch_size=None)
    model = GraphVAR(SeriesSpec.of(series), noise="diagonal")
    Trainer(max_epochs=1, enable_checkpointing=False, **QUIET).fit(model, loader)
    assert torch.isfinite(model.coefficients).all()

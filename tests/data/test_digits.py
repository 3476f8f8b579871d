"""No digit of the data is lost: what is read comes back, and its size and offset change nothing."""

import dataclasses
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import ENCODERS, NADE, TWO_WAY_ENCODERS, directed_graph, make_batch, make_model, make_series
from lightning import Trainer, seed_everything
from torch.distributions import Categorical, MixtureSameFamily, Normal, kl_divergence

import tsgen
from tsgen import AnyOrder, GraphVAR
from tsgen.counter_random import streams
from tsgen.data.moments import RunningMoments
from tsgen.data.series import GraphSeries, SeriesSpec, Units
from tsgen.data.stored_series import StoredSeries
from tsgen.datamodules import FilesDataModule
from tsgen.encoders import WindowEncoder
from tsgen.heads import GaussianHead, InDataUnits, MixtureHead
from tsgen.inference import SeriesPrediction
from tsgen.metrics import RMSE, entries, has_closed_crps, law_crps, scores, variogram_score
from tsgen.models import AnyOrderModel, AutoregressiveModel, load
from tsgen.objectives import MaskedNLL, Rollout
from tsgen.sampling import SMC, Ancestral, Exact

QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "logger": False,
}
READINGS = 123_456_789.5 + 0.25 * np.arange(48)
SCALES = {"strain": (0.0, 1e-21), "huge": (0.0, 1e25), "meter": (2e8, 1.0)}


# --------------------------------------------------------------------------------------------- what is read


def long_table() -> pd.DataFrame:
    """24 steps of two nodes; the covariate is as large as the readings."""
    return pd.DataFrame(
        {
            "time": np.repeat(np.arange(24), 2),
            "node": ["a", "b"] * 24,
            "meter": READINGS,
            "count": READINGS + 0.125,
        }
    )


def readings_of(kind: str, folder) -> GraphSeries | StoredSeries:
    """The readings, read by one of the readers."""
    edges = folder / "edges.csv"
    edges.write_text("source,target\na,b\nb,a\n")
    table, there = long_table(), {"edges": edges}
    known = {"value_columns": ["meter"], "covariate_columns": ["count"]}
    if kind == "csv":
        table.to_csv(folder / "x.csv", index=False)
        return FilesDataModule(folder / "x.csv", **there, **known).split.series
    if kind == "parquet":
        table.to_parquet(folder / "x.parquet")
        return FilesDataModule(folder / "x.parquet", **there, **known).split.series
    if kind == "wide":
        wide = table.pivot(index="time", columns="node", values="meter")
        wide.to_csv(folder / "meter.csv")
        return FilesDataModule(folder / "meter.csv", layout="wide", **there).split.series
    data = xr.Dataset(
        {
            "values": (("time", "node", "channel"), READINGS.reshape(24, 2, 1)),
            "covariates": (("time", "node", "covariate"), READINGS.reshape(24, 2, 1) + 0.125),
            "edge_source": ("edge", [0, 1]),
            "edge_target": ("edge", [1, 0]),
            "position": (("node", "axis"), [[10.123456789, 50.0], [11.0, 51.0]]),
        },
        coords={"time": np.arange(24), "node": ["a", "b"], "channel": ["meter"], "covariate": ["count"]},
    )
    if kind == "xarray":
        return GraphSeries.from_xarray(data)
    data.to_netcdf(folder / "x.nc")
    if kind == "stored":
        return StoredSeries(folder / "x.nc")
    return FilesDataModule(folder / "x.nc").split.series


@pytest.mark.parametrize("kind", ["csv", "parquet", "wide", "xarray", "netcdf", "stored"])
def test_readings_come_back_bit_for_bit(kind, tmp_path):
    series = readings_of(kind, tmp_path)
    assert series.dtype == torch.float64
    assert np.array_equal(series.values.numpy().ravel(), READINGS)
    if kind != "wide":
        assert np.array_equal(series.covariates.numpy().ravel(), READINGS + 0.125)
    again = GraphSeries.from_xarray(series.to_xarray())
    assert np.array_equal(again.values.numpy().ravel(), READINGS)
    if kind in ("xarray", "netcdf", "stored"):
        assert float(again.graph.pos[0, 0]) == 10.123456789
    observed = torch.arange(48).view(24, 2, 1) % 5 != 0
    hidden = series.with_observed(observed)
    model = AutoregressiveModel(SeriesSpec.of(series), partial(WindowEncoder, order=2, hidden=4))
    path = tmp_path / "imputation.nc"
    with tsgen.impute(model, hidden, 3, window=8, path=path) as found:
        values = found["imputation"].values
    assert values.dtype == np.float64
    truth = np.broadcast_to(READINGS.reshape(24, 2, 1), values.shape)
    assert np.array_equal(values[:, observed], truth[:, observed])
    assert (np.abs(values - READINGS.mean()) < 1000).all() and (values[:, ~observed] % 0.25 != 0).any()
    batch = hidden.windows(torch.tensor([0, 8]), 8)
    for samples in (tsgen.impute(model, batch, 2), model.predict_step(batch, 0)):
        kept = samples.values[:, batch.context]
        assert torch.equal(kept, batch.values[batch.context].expand_as(kept))


@pytest.mark.parametrize("dtype", ["f4", ">f4", "f2", "i4", "i8", "f8"])
def test_every_type_keeps_its_digits(dtype, tmp_path):
    values = np.arange(48).reshape(24, 2).astype(dtype)
    data = xr.Dataset({"values": (("time", "node"), values)}, {"time": np.arange(24), "node": ["a", "b"]})
    data = data.assign(edge_source=("edge", [0]), edge_target=("edge", [1]))
    series = [GraphSeries.from_xarray(data)]
    if dtype != "f2":
        data.to_netcdf(tmp_path / "x.nc")
        series += [StoredSeries(tmp_path / "x.nc"), FilesDataModule(tmp_path / "x.nc").split.series]
    for each in series:
        assert each.dtype == (torch.float32 if "f" in dtype and dtype != "f8" else torch.float64)
        assert np.array_equal(each.values[..., 0].numpy(), values)
    series[0].values[0] = 7
    assert data["values"].values[0, 0] == 0  # a copy


@pytest.mark.parametrize("value", [3.5e38, -1e300, math.inf])
def test_what_has_no_square_is_refused(value, tmp_path):
    values = torch.zeros(9, 5, 1, dtype=torch.float64)
    values[3, 2] = value
    with pytest.raises(ValueError, match="below 3e38 in magnitude"):
        GraphSeries(values, torch.ones(9, 5, 1, dtype=torch.bool), directed_graph())
    (tmp_path / "x.csv").write_text(f"time,a,b\n0,1,2\n1,{value},3\n")
    (tmp_path / "edges.csv").write_text("source,target\na,b\n")
    data = FilesDataModule(tmp_path / "x.csv", edges=tmp_path / "edges.csv", layout="wide")
    with pytest.raises(ValueError, match=r"x\.csv, .*infinite or beyond 3e38"):
        _ = data.split


# ------------------------------------------------------------------------------------------------ its units


@pytest.mark.parametrize("chunk", [7, 1000])
@pytest.mark.parametrize(("loc", "scale"), [(2e8, 1), (1e12, 1), (0, 1e-21), (0, 1e25), (-3, 1e-9)])
def test_moments_lose_no_digits(loc, scale, chunk):
    z = torch.randn(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = loc + scale * z
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    mask[:20, 1] = False
    moments = RunningMoments()
    for numbers, counted in zip(x.split(chunk), mask.split(chunk), strict=True):
        moments.add(numbers.where(counted, torch.nan), counted)
    for c in range(3):
        shifted = [float(v) - loc for v in x[mask[:, c], c]]  # exact
        mean = math.fsum(shifted) / len(shifted)
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in shifted) / len(shifted))
        assert abs(float(moments.mean[c]) - (loc + mean)) <= 4e-16 * abs(loc) + 1e-13 * scale
        assert float(moments.deviation[c]) == pytest.approx(deviation, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, 2e8, 1e25, 1e-21, -7.3])
def test_only_what_is_constant_is_constant(value, dtype):
    values = torch.full((101, 5, 1), value, dtype=dtype)
    series = GraphSeries(values, torch.ones_like(values, dtype=torch.bool), directed_graph())
    assert (SeriesSpec.of(series).scale == 1).all()
    values[::2] = torch.nextafter(values[::2], torch.full_like(values[::2], math.inf))
    assert (SeriesSpec.of(series).scale == 1).all()  # differs by rounding alone
    values[::2] *= 1 + 100 * torch.finfo(dtype).eps
    expected = values.double().flatten(1).std(dim=0, correction=0)
    torch.testing.assert_close(SeriesSpec.of(series).scale[:, 0], expected, rtol=1e-3, atol=0)


def test_a_meter_is_not_constant():
    values = 2e8 + torch.arange(200).remainder(2).double().mul(2).sub(1)[:, None, None].repeat(1, 5, 1)
    series = GraphSeries(values, torch.ones_like(values, dtype=torch.bool), directed_graph(), values + 1)
    spec = SeriesSpec.of(series)
    torch.testing.assert_close(spec.loc, torch.full_like(spec.loc, 2e8), rtol=0, atol=1e-6)
    torch.testing.assert_close(spec.scale, torch.ones_like(spec.scale))
    torch.testing.assert_close(spec.covariate_scale, torch.ones_like(spec.covariate_scale))


# ------------------------------------------------------------------------------ the same model on other units


def moved(series: GraphSeries, loc: float, scale: float) -> GraphSeries:
    """The series of loc + scale * x, covariates included."""
    covariates = None if series.covariates is None else loc + scale * series.covariates.double()
    return dataclasses.replace(series, values=loc + scale * series.values.double(), covariates=covariates)


def auto(spec, head, sampler):
    objective = MaskedNLL(crps_weight=0.1)
    return AutoregressiveModel(spec, ENCODERS["gru"], head, sampler=sampler, objective=objective)


def any_order(spec, units):
    encoder = TWO_WAY_ENCODERS["two-way gru"]
    return AnyOrderModel(spec, encoder, MixtureHead, sampler=AnyOrder(20, 3), units=units)


MODELS = {
    "gaussian": partial(auto, head=GaussianHead, sampler=Ancestral(20)),
    "nade": partial(auto, head=partial(NADE, over="slice"), sampler=Ancestral(20)),
    "nade any": partial(auto, head=partial(NADE, order="any"), sampler=Ancestral(20)),
    "smc": partial(auto, head=GaussianHead, sampler=SMC(20, 60)),
    "rollout": lambda spec: AutoregressiveModel(spec, ENCODERS["gru"], objective=Rollout(3, 2)),
    "any order": partial(any_order, units="node"),
    "interpolation": partial(any_order, units="interpolation"),
}


def results(make, series, loc: float = 0.0, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Losses of five steps, then densities, draws and scores, all of them in standard units."""
    series = moved(series, loc, scale)
    batch = make_batch(series)
    torch.manual_seed(5)
    model = make(SeriesSpec.of(series))
    optimizer, found = torch.optim.SGD(model.parameters(), lr=0.01), {"loss": []}
    for step in range(5):
        loss = model.objective.loss(model, batch, streams(0, torch.arange(3)), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found["loss"].append(loss.detach())
    found = {"loss": torch.stack(found["loss"]).double() - math.log(scale)}
    with torch.no_grad():
        model.eval()
        found["density"] = model.log_prob(batch) - math.log(scale) * -model.target(batch).double()
        found["evidence"] = model.log_likelihood(batch) + math.log(scale) * batch.context.sum(dim=(1, 2, 3))
        samples = model.sampler(model, batch)
        found["draws"] = (samples.values - loc) / scale
        found["context"] = samples.values[:, batch.context] == batch.values[batch.context]
        if samples.log_evidence is not None:
            found["smc"] = samples.log_evidence + math.log(scale) * batch.context.sum(dim=(1, 2, 3))
        law = model(batch)
        found["law"] = torch.stack([(law.mean - loc) / scale, law.stddev / scale])
        found["law crps"] = law_crps(law, batch.values.where(batch.target, loc)) / scale
        collection = scores()
        collection.update(*entries(samples.values, batch))
        by_name = collection.compute()
        for name in ("mae", "rmse", "crps", "width_90", "interval_90"):
            found[name] = by_name[name].double() / scale
        found["coverage"] = by_name["coverage_90"]
        found["variogram"] = variogram_score(samples.values, batch.values, batch.hidden) / scale
    return found


@pytest.fixture(scope="module")
def standard():
    """A series of size 1 in float64, and the results of every model on it."""
    series = make_series(80)
    series = dataclasses.replace(series, values=(series.values.double() - 50) / 7)
    return series, {name: results(make, series) for name, make in MODELS.items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", SCALES)
def test_size_and_offset_change_nothing(name, size, standard):
    series, expected = standard
    found = results(MODELS[name], series, *SCALES[size])
    for key, numbers in expected[name].items():
        # three groups, each given the draws before: a network in float32 amplifies the last digit
        near = 1e-4 if (name, key) == ("interpolation", "draws") else 1e-5
        torch.testing.assert_close(
            found[key], numbers, rtol=near, atol=near, equal_nan=True, msg=lambda m, k=key: f"{k}: {m}"
        )
    assert found["context"].all()


@pytest.mark.parametrize("size", SCALES)
def test_nor_for_a_linear_model(size):
    """GraphVAR, fitted by EM and drawn from by the exact sampler."""
    loc, scale = SCALES[size]
    series = make_series(80, channels=1, covariates=0)
    series = dataclasses.replace(series, values=(series.values.double() - 50) / 7)
    found = []
    for a, b in ((0.0, 1.0), (loc, scale)):
        there = moved(series, a, b)
        batch = make_batch(there)
        model = GraphVAR(SeriesSpec.of(there), order=2, sampler=Exact(20))
        for _ in range(3):
            observed = batch._changed(target=batch.context | batch.target)
            model._expect(observed.values.flatten(2), observed.target.flatten(2))
            model._maximise()
        law, jacobian = model.posterior(batch), math.log(b) * batch.context.sum(dim=(1, 2, 3))
        found.append(
            [
                (law.mean - a) / b,
                law.stddev / b,
                (model.sampler(model, batch).values - a) / b,
                model.log_likelihood(batch) + jacobian,
                model.test_log_prob(batch) + math.log(b) * batch.target,
            ]
        )
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_a_file_in_float32_may_hold_strains():
    """The scores of draws in float32: squares of 1e-21 are zero there."""
    x, y = torch.randn(50, 40), torch.randn(40)
    for scale in (1e-21, 1e25):
        one, other = RMSE(), RMSE()
        one.update(x, y), other.update(scale * x, scale * y)
        assert float(other.compute()) / scale == pytest.approx(float(one.compute()), rel=1e-5)


# ------------------------------------------------------------------------------------------------- its laws


def mixture(loc, scale):
    component = Normal(loc + scale * torch.tensor([-1.0, 2.0]).double(), scale * torch.tensor([0.5, 1.0]))
    return MixtureSameFamily(Categorical(probs=torch.tensor([0.3, 0.7]).double()), component)


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (-40.0, 7.0)])
@pytest.mark.parametrize("kind", ["normal", "mixture"])
def test_a_law_in_data_units_is_the_law_of_the_units(kind, loc, scale):
    units = Units(torch.tensor(loc).double(), torch.tensor(scale).double())
    if kind == "normal":
        base, direct = Normal(0.5, torch.tensor(2.0).double()), Normal(loc + 0.5 * scale, 2 * units.scale)
    else:
        base, direct = mixture(0.0, torch.tensor(1.0).double()), mixture(loc, units.scale)
    law = InDataUnits(base, units)
    x = loc + scale * torch.linspace(-3, 3, 13, dtype=torch.float64)
    for name in ("mean", "variance", "stddev"):
        torch.testing.assert_close(getattr(law, name), getattr(direct, name).double())
    for name in ("log_prob", "cdf"):
        torch.testing.assert_close(getattr(law, name)(x), getattr(direct, name)(x))
    assert has_closed_crps(law)
    torch.testing.assert_close(law_crps(law, x), law_crps(direct, x))
    torch.manual_seed(0)
    drawn = law.sample((20_000,))
    assert abs(float(drawn.mean() - law.mean)) < 5 * float(law.stddev) / 20_000**0.5
    if kind == "normal":
        torch.testing.assert_close(law.entropy(), direct.entropy())
        level = torch.tensor(0.3).double()
        torch.testing.assert_close(law.icdf(level), direct.icdf(level))
        assert law.has_rsample and law.rsample((2,)).shape == (2,)


# -------------------------------------------------------------------------------------------- half precision


@pytest.mark.parametrize("change", ["bfloat16", "half", "to", "float", "double"])
def test_units_are_never_rounded(change, series):
    far = dataclasses.replace(series, values=series.values.double() + 2e8)
    model = make_model(far)
    before = {name: x.clone() for name, x in model.named_buffers() if "loc" in name or "scale" in name}
    model.val_nll.update(torch.ones(1000), torch.ones(1000, dtype=torch.bool))
    (model.to(torch.bfloat16) if change == "to" else getattr(model, change)())
    assert len(before) == 4
    assert all(torch.equal(dict(model.named_buffers())[name], x) for name, x in before.items())
    assert all(p.dtype in (torch.float32, torch.float64) for p in model.head.parameters())
    model.val_nll.update(torch.ones(1000), torch.ones(1000, dtype=torch.bool))
    assert float(model.val_nll.compute()) == -1 and float(model.val_nll.weight) == 2000
    batch = make_batch(far)
    assert torch.isfinite(model.log_prob(batch)).all()
    assert torch.isfinite(model.sampler(model, batch).values).all()


def meter(tmp_path, loc: float = 2e8) -> FilesDataModule:
    """A meter at 2e8 with a swing of 1, in a file."""
    random = np.random.default_rng(0)
    swing = np.sin(np.arange(300) / 5)[:, None] + 0.3 * random.standard_normal((300, 3))
    table = pd.DataFrame(loc + swing, columns=["a", "b", "c"]).rename_axis("time")
    table.to_csv(tmp_path / f"meter{loc:g}.csv")
    (tmp_path / "edges.csv").write_text("source,target\na,b\nb,c\nc,a\n")
    edges = tmp_path / "edges.csv"
    return FilesDataModule(
        tmp_path / f"meter{loc:g}.csv", edges=edges, layout="wide", window=12, batch_size=8, seed=1
    )


def trained_on(data, precision: str):
    seed_everything(3)
    sampler = Ancestral(20)
    model = AutoregressiveModel(data.spec, ENCODERS["gru"], GaussianHead, sampler=sampler)
    trainer = Trainer(max_epochs=2, precision=precision, enable_checkpointing=False, **QUIET)
    trainer.fit(model, data)
    found = trainer.test(model, data, verbose=False)[0]
    return model, {name: found[f"test/{name}"] for name in ("nll", "crps", "mae", "rmse", "coverage_90")}


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """A meter at 2e8, and its scores in full precision."""
    data = meter(tmp_path_factory.mktemp("far"))
    return data, trained_on(data, "32-true")[1]


def test_a_meter_trains_and_scores_as_data_of_size_one(far, tmp_path):
    _, found = far
    _, one = trained_on(meter(tmp_path, 0.0), "32-true")
    assert one["crps"] > 0.1 and one["coverage_90"] < 1
    assert found == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_what_trains_also_tests_and_predicts(precision, far, tmp_path):
    data, full = far
    model, found = trained_on(data, precision)
    assert found == pytest.approx(full, rel=0.1, abs=0.1)
    assert model.loc.dtype == torch.float64 and torch.equal(model.loc, data.spec.loc)
    trainer = Trainer(precision=precision, **QUIET)
    path = tmp_path / "out.nc"
    trainer.predict(SeriesPrediction(model, data, path), return_predictions=False)
    with xr.open_dataset(path) as drawn:
        values, observed = drawn["imputation"].values, drawn["observed"].values.astype(bool)
        steps = drawn["time"].values
    assert np.isfinite(values).all()
    truth = data.split.series.values.numpy()[steps]
    assert np.array_equal(values[:, observed], np.broadcast_to(truth, values.shape)[:, observed])
    torch.save(
        {"hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()}, tmp_path / "x.ckpt"
    )
    loaded = load(tmp_path / "x.ckpt")
    assert torch.equal(loaded.loc, data.spec.loc) and loaded.precision == torch.float32


def test_training_in_float16_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="must not be 16-true in training") as error:
        trained_on(meter(tmp_path), "16-true")
    assert "\n" not in str(error.value)


def test_old_checkpoints_hold_their_units_in_float32(series, tmp_path):
    model = make_model(series)
    state = {k: x.float() if "loc" in k or "scale" in k else x for k, x in model.state_dict().items()}
    torch.save({"hyper_parameters": dict(model.hparams), "state_dict": state}, tmp_path / "old.ckpt")
    loaded, batch = load(tmp_path / "old.ckpt"), make_batch(series)
    assert loaded.loc.dtype == torch.float64 and torch.equal(loaded.loc.float(), state["loc"])
    torch.testing.assert_close(loaded.log_prob(batch), model.log_prob(batch), rtol=1e-5, atol=1e-5)


def test_a_device_without_float64_is_refused_in_one_line(series):
    """Apple's GPUs, by what torch raises for them."""

    def to_mps(x):
        if x.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support"
            )
        return x

    def broken(x):
        raise TypeError("something else")

    with pytest.raises(
        ValueError, match=r"device must support; Apple's GPUs \(mps\) do not. Use the CPU"
    ) as error:
        make_model(series)._apply(to_mps)
    assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match="something else"):
        make_model(series)._apply(broken)


def test_a_wild_value_of_one_node_leaves_the_units_of_the_others(series):
    values = series.values.double()
    values[7, 1] = 1e25
    observed = series.observed.clone()
    observed[7, 1] = True
    wild = dataclasses.replace(series, values=values, observed=observed)
    torch.testing.assert_close(SeriesSpec.of(wild).scale[[0, 2]], SeriesSpec.of(series).scale[[0, 2]])


def test_the_divergence_of_laws_in_data_units_is_that_of_the_laws():
    sizes = torch.tensor([[5.0, 2.0], [1.0, 4.0]]).double()[..., None]
    units = [Units(*pair) for pair in sizes]
    p, q = Normal(torch.tensor([0.5]), torch.tensor([2.0])), Normal(torch.tensor([-1.0]), torch.tensor([3.0]))
    same = kl_divergence(InDataUnits(p, units[0]), InDataUnits(q, units[0]))
    torch.testing.assert_close(same, kl_divergence(p, q))
    other = kl_divergence(InDataUnits(p, units[0]), InDataUnits(q, units[1]))
    in_data = Normal(torch.tensor([6.0]).double(), 4.0), Normal(torch.tensor([-3.0]).double(), 12.0)
    torch.testing.assert_close(other, kl_divergence(*in_data))
    assert InDataUnits(p, units[0]).expand((3, 1)).sample((2,)).shape == (2, 3, 1)

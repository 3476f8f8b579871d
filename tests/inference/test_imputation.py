"""One call for what is unknown, and long series drawn window by window as if they had been drawn at once."""

import dataclasses
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import ENCODERS, HEADS, TWO_WAY_ENCODERS, make_batch, make_model, make_series
from dense_var import autocovariances, make_var
from dense_var import given as condition
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer
from torch_geometric.data import Data

import tsgen
from tsgen import forecast, generate, impute
from tsgen.cli.main import main
from tsgen.data.fingerprint import fingerprint
from tsgen.data.series import GraphSeries, SeriesSpec
from tsgen.data.tiles import Tiles
from tsgen.datamodules import SyntheticDataModule
from tsgen.encoders import WindowEncoder
from tsgen.heads import GaussianHead
from tsgen.inference import SeriesPrediction
from tsgen.inference.stitching import SeriesImputation
from tsgen.models import AutoregressiveModel, GraphVAR
from tsgen.sampling import SMC, Ancestral, AnyOrder, Exact, Sampler
from tsgen.storage.parts import Parts

DRAWS = 3000


# --------------------------------------------------------------------------------------------------- windows


@given(st.lists(st.integers(8, 60), min_size=1, max_size=4), st.integers(2, 8), st.data())
def test_every_step_is_kept_once_and_windows_share_what_they_should(lengths, window, data):
    overlap = data.draw(st.integers(0, window - 1))
    lookahead = data.draw(st.integers(0, overlap // 2))
    bounds = np.cumsum([0, *lengths]).tolist()
    stretches = [slice(a, b) for a, b in pairwise(bounds)]
    tiles = Tiles.over(stretches, window, overlap)
    kept = tiles.kept(lookahead)
    assert [t for start in tiles.starts for t in range(kept[start].start, kept[start].stop)] == [
        *range(bounds[-1])
    ]
    for start, steps in kept.items():
        assert start <= steps.start and steps.stop <= start + window
        if start in tiles.before:
            assert tiles.before[start] + window - start >= overlap
            # what it is told was drawn by the one before, and is at least what is not lookahead
            assert steps.start - start >= overlap - lookahead
    for size, world in ((1, 1), (3, 1), (2, 2)):
        batches = [list(tiles.batches(size, rank, world)) for rank in range(world)]
        drawn = [number for few in batches for batch in few for number in batch]
        assert sorted(drawn) == list(range(len(tiles.starts)))
        for few in batches:
            done: set[int] = set()
            for batch in few:
                assert 0 < len(batch) <= size
                if overlap:
                    starts = {tiles.starts[number] for number in batch}
                    assert {tiles.before[s] for s in starts if s in tiles.before} <= done
                    done |= starts


def test_an_overlap_of_a_window_is_refused():
    with pytest.raises(ValueError, match=r"overlap must lie in 0..5, below the length of a window; it is 6"):
        Tiles.over([slice(0, 20)], 6, 6)


# ------------------------------------------------------------------------------------------------ exact laws


def linear(steps: int = 40, share: float = 0.4, order: int = 2):
    """A graph VAR on a directed chain and a series of it with holes, in float64."""
    graph = Data(edge_index=torch.tensor([[0, 1], [1, 2]]), num_nodes=3)
    process = make_var(order)
    values = process.simulate(steps, seed=4)[..., None]
    observed = torch.rand(values.shape, generator=torch.Generator().manual_seed(5)) < share
    time = np.datetime64("2024-01-01T00") + np.arange(steps) * np.timedelta64(1, "h")
    series = GraphSeries(
        values.masked_fill(~observed, torch.nan),
        observed,
        graph,
        time=time,
        nodes=list("abc"),
        channels=["flow"],
        units=["m³/s"],
    )
    model = GraphVAR(SeriesSpec.of(series), order, sampler=Exact(DRAWS, 6))
    model.process = process
    return model, series


def law_of(model: GraphVAR, series: GraphSeries) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of all entries given those observed, by dense conditioning."""
    known = series.observed.flatten().numpy()
    law = autocovariances(model.process, len(series.values))
    mean, covariance = condition(law, known, series.values.flatten().numpy())
    return torch.from_numpy(mean), torch.from_numpy(covariance)


def z_scores(drawn, mean, covariance) -> tuple[torch.Tensor, torch.Tensor]:
    """How far moments of Gaussian draws [samples, entries] are from theirs, in standard errors."""
    variance, count = covariance.diagonal(), len(drawn)
    of_mean = (drawn.mean(dim=0) - mean) / (variance / count).sqrt()
    error = ((variance[:, None] * variance + covariance**2) / count).sqrt()
    return of_mean, (drawn.T.cov() - covariance) / error


def unknown_draws(result: xr.Dataset, series: GraphSeries) -> torch.Tensor:
    return torch.from_numpy(result["imputation"].values)[:, ~series.observed]


def test_stitched_draws_are_those_of_the_whole_series():
    model, series = linear(share=0.25)
    mean, covariance = law_of(model, series)
    open_ = ~series.observed.flatten()
    exact = mean[open_], covariance[open_][:, open_]
    result = impute(model, series, window=20, overlap=14)
    assert result.attrs["joint"] == "over each stretch" and result.attrs["conditioning"] == "posterior"
    for z in z_scores(unknown_draws(result, series), *exact):
        assert z.abs().max() < 5
    # windows by themselves: neither the marginals near a border nor what they have in common
    step = torch.arange(40)[:, None, None].expand(series.observed.shape)[~series.observed]
    apart = impute(model, series, window=20, overlap=0)
    of_mean, of_covariance = z_scores(unknown_draws(apart, series), *exact)
    across = (step[:, None] < 20) & (step >= 20)
    assert of_covariance[across].abs().max() > 10 and of_mean.abs().max() > 10
    assert apart.attrs["joint"] == "within each window"


def test_history_without_lookahead_is_not_enough_for_a_posterior(monkeypatch):
    """What the halves of an overlap are for: with all of it history, what is visible beyond is missed."""
    model, series = linear()
    mean, covariance = law_of(model, series)
    open_ = ~series.observed.flatten()
    monkeypatch.setattr(Exact, "conditioning", "filtering")
    result = impute(model, series, window=20, overlap=14)
    of_mean, _ = z_scores(unknown_draws(result, series), mean[open_], covariance[open_][:, open_])
    assert of_mean.abs().max() > 10


def test_stitched_forward_draws_are_those_of_one_window():
    """A model that looks back on 2 steps needs to be told no more than these."""
    _, series = linear(24)
    torch.manual_seed(0)
    model = AutoregressiveModel(
        SeriesSpec.of(series),
        partial(WindowEncoder, order=2, layers=0),
        GaussianHead,
        sampler=Ancestral(DRAWS, 1),
    ).double()
    whole = unknown_draws(impute(model, series), series)
    two = {
        overlap: unknown_draws(impute(model, series, seed=2, window=8, overlap=overlap), series)
        for overlap in (2, 1)
    }
    of_mean = {
        k: (x.mean(dim=0) - whole.mean(dim=0)) / ((x.var(dim=0) + whole.var(dim=0)) / DRAWS).sqrt()
        for k, x in two.items()
    }
    of_covariance = {
        k: (x.T.cov() - whole.T.cov())
        / (2 * (x.var(dim=0)[:, None] * x.var(dim=0) + x.T.cov() ** 2) / DRAWS).sqrt()
        for k, x in two.items()
    }
    assert of_mean[2].abs().max() < 5 and of_covariance[2].abs().max() < 5
    assert max(of_mean[1].abs().max(), of_covariance[1].abs().max()) > 10


def test_a_forecast_of_a_series_is_the_law_of_its_next_steps():
    model, series = linear(30)
    drawn = forecast(model, series, 5)
    longer = dataclasses.replace(
        series,
        values=torch.cat([series.values, torch.full((5, 3, 1), torch.nan, dtype=torch.float64)]),
        observed=torch.cat([series.observed, torch.zeros(5, 3, 1, dtype=torch.bool)]),
        time=(),
    )
    mean, covariance = law_of(model, longer)
    draws = torch.from_numpy(drawn["imputation"].values).flatten(1)
    for z in z_scores(draws, mean[-15:], covariance[-15:, -15:]):
        assert z.abs().max() < 5
    assert drawn["time"].values[0] == series.time[-1] + np.timedelta64(1, "h")
    assert not drawn["observed"].any() and dict(drawn.sizes)["time"] == 5
    # in windows too short for it at once
    short = torch.from_numpy(forecast(model, series, 9, window=8)["imputation"].values).flatten(1)
    longer = dataclasses.replace(
        longer,
        values=torch.cat([longer.values, longer.values[-4:]]),
        observed=torch.cat([longer.observed, longer.observed[-4:]]),
        time=(),
    )
    mean, covariance = law_of(model, longer)
    # the first window has two steps of the past; of the stationary law little is left to know
    assert short.shape == (DRAWS, 27) and torch.isfinite(short).all()
    assert z_scores(short[:, -3:], mean[-3:], covariance[-3:, -3:])[1].abs().max() < 5


def test_a_forecast_longer_than_a_window_does_not_forget_the_past():
    """Shorter windows than an overlap, and samplers that cannot go on, see the past all the same."""
    model, series = linear(30, order=1)
    for window, horizon in ((2, 3), (3, 4)):
        drawn = forecast(model, series, horizon, window=window)["imputation"].values[:, -1, :, 0]
        wide = forecast(model, series, horizon, window=30)["imputation"].values[:, -1, :, 0]
        ratio = drawn.var(axis=0) / wide.var(axis=0)
        assert (abs(np.log(ratio)) < 5 * (4 / DRAWS) ** 0.5).all(), ratio
    own = Jointly(model.sampler)
    far = forecast(model, series, 12, method=own, window=8)
    assert far.attrs["window"] == 20  # eight steps of the past and the forecast, as one window
    whole = forecast(model, series, 12, window=20)
    assert abs(far["imputation"].mean() - whole["imputation"].mean()) < 0.2


def test_a_sampler_of_ones_own_need_not_be_a_dataclass():
    class Own(Sampler):
        num_samples, seed, conditioning = 3, 0, "posterior"

        def check(self, model):
            """Goes with any model."""

        def __call__(self, model, batch):
            return dataclasses.replace(model.sampler, num_samples=3)(model, batch)

    model, series = linear(20)
    assert impute(model, series, method=Own())["imputation"].sizes["time"] == 20
    with pytest.raises(
        ValueError, match=r"num_samples can be set only for a sampler that is a dataclass; got Own\."
    ):
        impute(model, series, 5, method=Own())


def test_what_is_drawn_entry_by_entry_is_said_to_be_and_is_no_generation(series, batch):
    model = make_model(series, TWO_WAY_ENCODERS["two-way recurrence"])
    alone, together = AnyOrder(2, groups=1), AnyOrder(2, groups=3)
    assert impute(model, series, method=alone).attrs["joint"] == "single entries"
    assert impute(model, series, method=together).attrs["joint"] == "over each stretch"
    for data in (series, batch):
        with pytest.raises(ValueError, match="must be drawn jointly; AnyOrder with one group"):
            generate(model, data, method=alone)
        generate(model, data, method=together)


def test_a_node_that_was_never_observed_is_sensed_by_its_neighbours():
    model, series = linear(24, share=0.9)
    observed = series.observed.clone()
    observed[:, 1] = False
    blind = series.with_observed(observed)
    mean, covariance = law_of(model, blind)
    drawn = torch.from_numpy(impute(model, blind)["imputation"].sel(node="b").values)[..., 0]
    entries = torch.arange(24) * 3 + 1
    for z in z_scores(drawn, mean[entries], covariance[entries][:, entries]):
        assert z.abs().max() < 5
    assert (covariance[entries, entries] < 0.9 * law_of(model, _nothing(series))[1][entries, entries]).all()


def _nothing(series: GraphSeries) -> GraphSeries:
    return series.with_observed(torch.zeros_like(series.observed))


def test_generation_is_the_law_before_anything_is_seen():
    model, series = linear(24)
    mean, covariance = law_of(model, _nothing(series))
    for drawn in (generate(model, 24), generate(model, series)):
        assert not drawn["observed"].any()
        for z in z_scores(torch.from_numpy(drawn["imputation"].values).flatten(1).double(), mean, covariance):
            assert z.abs().max() < 5


def test_generation_heeds_covariates():
    series = make_series(40)
    model = make_model(series, head=HEADS["conditional"], samples=300)
    same = dataclasses.replace(
        series, values=torch.full_like(series.values, torch.nan), observed=~series.observed & False
    )
    other = dataclasses.replace(same, covariates=series.covariates + 3)
    a, b, c = (generate(model, s, window=20)["imputation"] for s in (series, same, other))
    assert np.array_equal(a, b) and np.isfinite(a).all()
    assert abs(float(a.mean() - c.mean())) > 1
    with pytest.raises(ValueError, match=r"reads 3 covariates; a number of steps has none. Give a series"):
        generate(model, 10)


# --------------------------------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("kind", ["ancestral", "any_order", "exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_series_comes_back_whole_with_its_labels(kind, dtype, tmp_path):
    if kind == "exact":
        model, series = linear()
        series = dataclasses.replace(series, values=series.values.to(dtype))
    else:
        series = make_series(40)
        series = dataclasses.replace(series, values=series.values.to(dtype), units=["m", "s"])
        encoder = TWO_WAY_ENCODERS["two-way recurrence"] if kind == "any_order" else ENCODERS["gru"]
        model = make_model(series, encoder)
    model.train()
    result = impute(model, series, 3, kind, seed=9, window=12, path=tmp_path / "out.nc")
    assert model.training and not list(tmp_path.glob("*.parts"))
    assert result["imputation"].dims == ("sample", "time", "node", "channel")
    assert result["imputation"].shape == (3, *series.values.shape)
    values, observed = result["imputation"].values, series.observed.numpy()
    assert values.dtype == series.values.numpy().dtype and np.isfinite(values).all()
    assert np.array_equal(result["observed"].values.astype(bool), observed)
    assert np.array_equal(values[:, observed], np.tile(series.values.numpy()[observed], (3, 1)))
    assert (np.ptp(values[:, ~observed], axis=0) > 0).all()
    for name, labels in (("time", series.time), ("node", series.nodes), ("channel", series.channels)):
        assert np.array_equal(result[name].values, labels)
    assert result["unit"].values.tolist() == list(series.units)
    expected = {"seed": 9, "window": 12, "overlap": 3, "conditioning": model.sampler.conditioning}
    assert {key: result.attrs[key] for key in expected} == expected
    assert result.attrs["model"] == type(model).__name__
    assert result.attrs["method"] == type(model.sampler).__name__
    result.close()
    in_memory = impute(model, series, 3, kind, seed=9, window=12)
    assert np.array_equal(in_memory["imputation"], values)


def test_windows_come_back_as_samples(series, batch):
    model = make_model(series)
    samples = impute(model, batch, 4)
    assert torch.equal(samples.values, dataclasses.replace(model.sampler, num_samples=4)(model, batch).values)
    assert not torch.equal(impute(model, batch, 4, seed=1).values, samples.values)
    assert torch.equal(impute(model, batch, method=Ancestral(4, 7)).values, samples.values)
    ahead = forecast(model, batch, 4, 6).values
    past = batch.context & (torch.arange(10) < 6)[:, None, None]
    assert torch.equal(ahead[:, past], batch.values[past].expand(6, -1)) and torch.isfinite(ahead).all()
    assert (ahead.std(dim=0)[~past] > 0).all()
    anew = generate(model, batch, 6).values
    assert (anew.std(dim=0) > 0).all()


def test_the_model_remembers_the_window_that_it_was_trained_on(tmp_path):
    data = SyntheticDataModule(num_nodes=4, steps=100, window=10, batch_size=4)
    model = AutoregressiveModel(data.spec, partial(WindowEncoder, order=2, hidden=4))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(max_steps=1, limit_val_batches=0, default_root_dir=tmp_path, accelerator="cpu", **quiet)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = tsgen.load(tmp_path / "model.ckpt")
    assert loaded.window == model.window == 10
    assert impute(loaded, data.split.series, 2).attrs["window"] == 10
    assert impute(loaded, data.split.series, 2, window=1000).attrs["window"] == 100
    fresh = AutoregressiveModel(data.spec)
    assert fresh.window is None and impute(fresh, data.split.series, 2).attrs["window"] == 100


def mistakes():
    series = make_series()
    model, batch = make_model(series), make_batch(series)
    plain = make_series(covariates=0)
    other = make_series(nodes=6)
    turned = Data(
        edge_index=series.graph.edge_index.flip(0), edge_weight=series.graph.edge_weight, num_nodes=5
    )
    later = torch.zeros(4, 5, 3)
    return {
        "other nodes": (lambda: impute(model, other), "made for other data: its nodes are 5"),
        "no covariates": (lambda: impute(model, plain), "reads 3 covariates, the data has 0"),
        "other graph": (lambda: impute(model, dataclasses.replace(series, graph=turned)), "other edges"),
        "windows of another graph": (lambda: impute(model, batch._changed(graph=turned)), "other edges"),
        "windows of other nodes": (
            lambda: impute(model, make_batch(other)),
            r"\(5, 2, 3\); they have \(6, 2",
        ),
        "no such method": (lambda: impute(model, batch, method="gibbs"), "one of ancestral, .*it is 'gibbs'"),
        "not this method": (lambda: impute(model, batch, method="exact"), "; got AutoregressiveModel"),
        "no samples": (lambda: impute(model, batch, 0), "num_samples must be at least 1; it is 0"),
        "a window of windows": (lambda: impute(model, batch, window=3), "are for a series; windows were"),
        "no window": (lambda: impute(model, series, window=0), "window must be at least 1; it is 0"),
        "wide overlap": (lambda: impute(model, series, window=8, overlap=8), r"overlap must lie in 0..7"),
        "half a step": (lambda: forecast(model, series, 2.5), "horizon must be int; got 2.5"),
        "a dataset": (
            lambda: impute(model, series.to_xarray()),
            "got Dataset. GraphSeries.from_xarray makes a series",
        ),
        "no horizon": (lambda: forecast(model, series, 0), "horizon must be at least 1; it is 0"),
        "long horizon": (lambda: forecast(model, batch, 10), "horizon must be below the 10 steps"),
        "no future": (lambda: forecast(model, series, 4), "covariates of the 4 new steps must be given"),
        "another future": (lambda: forecast(model, series, 5, covariates=later), r"must be .*\[5, 5, 3\]"),
        "not a number": (
            lambda: generate(model, True),
            r"data must be int \| SeriesBatch \| Series; got True",
        ),
        "no steps": (lambda: generate(model, 0), "at least 1 step to generate; data is 0"),
    }


@pytest.mark.parametrize("case", mistakes())
def test_a_mistake_is_one_line(case, as_a_user):
    call, told = mistakes()[case]
    with pytest.raises(ValueError, match=told) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_forecast_reads_the_covariates_that_it_is_given():
    series = make_series(30)
    model = make_model(series, samples=200)
    later = torch.zeros(4, 5, 3)
    here, there = (forecast(model, series, 4, covariates=x, window=12) for x in (later, later.numpy() + 3))
    assert here.sizes["time"] == 4 and abs(float((here["imputation"] - there["imputation"]).mean())) > 0.1


# ------------------------------------------------------------------------------------------------ interrupted


class Killed(BaseException):
    pass


@pytest.fixture
def killer(monkeypatch):
    """Counts the windows that are drawn, and kills after so many batches of them."""
    state = {"batches": 0, "after": None}
    drawn = SeriesImputation._drawn

    def counted(self, model, batch, starts, numbers):
        if state["batches"] == state["after"]:
            raise Killed
        state["batches"] += 1
        state["held"] = [path.name for path in self.parts.folder.glob("*.lock")]
        return drawn(self, model, batch, starts, numbers)

    monkeypatch.setattr(SeriesImputation, "_drawn", counted)
    return state


def same(a: xr.Dataset, b: xr.Dataset) -> bool:
    return a["imputation"].values.tobytes() == b["imputation"].values.tobytes() and a.attrs == b.attrs


@pytest.mark.parametrize("kind", ["ancestral", "any_order"])
def test_an_interrupted_call_goes_on_and_ends_in_the_same_bits(kind, tmp_path, killer):
    series = make_series(80)
    encoder = TWO_WAY_ENCODERS["two-way recurrence"] if kind == "any_order" else ENCODERS["gru"]
    model, path = make_model(series, encoder), tmp_path / "out.nc"
    straight = impute(model, series, 6, window=12, overlap=5)
    windows = killer["batches"]
    assert windows == 11
    killer |= {"batches": 0, "after": 4}
    with pytest.raises(Killed):
        impute(model, series, 6, window=12, overlap=5, path=path)
    assert not path.exists() and len(list(tmp_path.glob("out.nc.parts/part-*"))) == 4
    assert killer["held"] == ["process-0.lock"] and not list(tmp_path.glob("out.nc.parts/*.lock"))
    unfinished = tmp_path / "out.nc.parts" / "part-0000000028.npz.elsewhere-1-0a.unfinished"
    unfinished.write_bytes(b"half of a window")
    killer |= {"batches": 0, "after": None}
    assert same(impute(model, series, 6, window=12, overlap=5, path=path), straight)
    assert killer["batches"] == windows - 4 and not (tmp_path / "out.nc.parts").exists()


def test_results_of_similar_names_are_kept_apart(tmp_path, killer):
    series = make_series(60)
    model, options = make_model(series, TWO_WAY_ENCODERS["two-way gru"]), {"window": 12, "overlap": 4}
    killer |= {"batches": 0, "after": 2}
    with pytest.raises(Killed):
        impute(model, series, 2, **options, path=tmp_path / "rain.2023")
    killer["after"] = None
    impute(model, series, 2, **options, path=tmp_path / "rain.2024")
    assert len(list((tmp_path / "rain.2023.parts").glob("part-*"))) == 2


@pytest.mark.parametrize("change", ["seed", "overlap", "weights", "data", "groups"])
def test_what_was_drawn_with_other_options_is_not_gone_on_from(change, tmp_path, killer):
    series = make_series(60)
    model, path = make_model(series, TWO_WAY_ENCODERS["two-way gru"]), tmp_path / "out.nc"
    options = {"window": 12, "overlap": 4, "seed": 1}
    killer["after"] = 3
    with pytest.raises(Killed):
        impute(model, series, 2, **options, path=path)
    killer |= {"batches": 0, "after": None}
    if change == "weights":
        next(model.parameters()).data[0] += 0.1
    elif change == "data":
        values = series.values.clone()
        values[series.observed.nonzero()[-1].unbind()] += 1
        series = dataclasses.replace(series, values=values)
    elif change == "groups":
        model.sampler = dataclasses.replace(model.sampler, groups=3)
    else:
        options[change] += 1
    result = impute(model, series, 2, **options, path=path)
    assert killer["batches"] == len(Tiles.over([slice(0, 60)], 12, options["overlap"]).starts)
    assert same(result, impute(model, series, 2, **options))


def test_stretches_are_drawn_side_by_side_and_by_any_processes(tmp_path):
    """Each window once, whoever draws it; the numbers are those of one stretch at a time."""
    model, series = linear(60)
    sampler, stretches = dataclasses.replace(model.sampler, num_samples=5), [slice(0, 24), slice(30, 60)]
    tiles, results = Tiles.over(stretches, 10, 4), []
    for size, world in ((1, 1), (2, 1), (4, 2)):
        path = tmp_path / f"{size}.{world}"
        several = [SeriesImputation(sampler, series, tiles, path, rank, world) for rank in range(world)]
        parts = several[0].parts
        stitched, dealt = several[0], []
        assert stitched.begin(model) == 0
        for one in several:
            for numbers in one.batches(size):
                one.draw(model, series.windows(torch.tensor(tiles.starts)[numbers], 10))
                dealt += numbers
        assert sorted(dealt) == [*range(len(tiles.starts))]
        assert stitched.begin(model) == len(tiles.starts)
        results.append(torch.stack([torch.from_numpy(part["values"]) for part in parts]))
        assert stitched.begin(model, "bf16-mixed") == 0 and not parts.names()
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_one_stretch_is_drawn_by_many_processes_sample_by_sample(tmp_path):
    """Each sample of each window once, whoever draws it, and whoever was killed before."""
    model, series = linear(40)
    sampler, tiles = dataclasses.replace(model.sampler, num_samples=5), Tiles.over([slice(0, 40)], 10, 4)
    starts = torch.tensor(tiles.starts)

    def work(folder: str, world: int, stops: list[int] | None = None) -> SeriesImputation:
        several = [
            SeriesImputation(sampler, series, tiles, tmp_path / folder, r, world) for r in range(world)
        ]
        several[0].begin(model)
        for one, stop in zip(several, stops or [None] * world, strict=True):
            for numbers in [*one.batches(4)][:stop]:
                one.draw(model, series.windows(starts[numbers], 10))
        assert sorted(n for one in several for n in one.numbers) == [*range(5)]
        several[0].refresh()
        return several[0]

    def drawn(stitched: SeriesImputation) -> np.ndarray:
        return np.stack([stitched.read(start, range(5))[0] for start in tiles.starts])

    alone = drawn(work("1", 1))
    for world in (2, 5):
        np.testing.assert_allclose(drawn(work(str(world), world)), alone, rtol=1e-9, atol=1e-9)
    cut = work("cut", 2, [3, 6])
    with pytest.raises(RuntimeError, match="from step 18 must be drawn once; of 5 there are 3"):
        drawn(cut)
    before = {name: cut.parts[name]["values"].tobytes() for name in cut.parts.names()}
    assert cut.begin(model) == 3 and len(before) == 9
    on = work("cut", 3)
    np.testing.assert_allclose(drawn(on), alone, rtol=1e-9, atol=1e-9)
    assert all(on.parts[name]["values"].tobytes() == kept for name, kept in before.items())
    samples = [tuple(map(int, name.split("-"))) for name in on.parts.names()]
    assert sum(end - first for _, first, end in samples) == 5 * len(starts)
    twice = work("twice", 1)
    first = twice.parts[twice.parts.names()[0]]
    twice.parts.write("0000000000-000001-000002", first | {"values": first["values"][1:2]})
    twice.refresh()
    with pytest.raises(RuntimeError, match="from step 0 must be drawn once; of 5 there are 6"):
        drawn(twice)


def test_more_processes_than_anything_to_deal_are_refused(tmp_path):
    model, series = linear(60)
    few = dataclasses.replace(model.sampler, num_samples=2)
    for sampler, told in ((few, "Exact draws 2 samples"), (Jointly(few), "Jointly draws 2 samples")):
        with pytest.raises(
            ValueError, match=f"3 processes need .*1 stretches of 1 windows, and {told}. Use"
        ) as e:
            SeriesImputation(sampler, series, Tiles.over([slice(0, 10)], 10, 4), tmp_path / "out.nc", 0, 3)
        assert len(str(e.value)) < 300


class Jointly(Sampler):
    """Draws all samples of a window in one computation, by another sampler."""

    conditioning = "posterior"

    def __init__(self, sampler):
        self.sampler, self.num_samples, self.seed = sampler, sampler.num_samples, sampler.seed

    def check(self, model):
        self.sampler.check(model)

    def __call__(self, model, batch):
        return self.sampler(model, batch)


def broken_prediction(folder: Path, killer) -> tuple:
    """A model, a series, and the file of a prediction that was killed after three of its windows."""
    model, series = linear(60)
    killer |= {"batches": 0, "after": 3}
    with pytest.raises(Killed):
        impute(model, series, 4, overlap=4, window=12, path=folder / "imputation.nc")
    killer |= {"batches": 0, "after": None}
    return model, series, folder / "imputation.nc"


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "shorter contents"])
def test_a_damaged_part_is_named_and_drawn_anew(how, tmp_path, killer, capsys):
    model, series, path = broken_prediction(tmp_path, killer)
    part = sorted(path.with_name("imputation.nc.parts").glob("part-*.npz"))[1]
    content = bytearray(part.read_bytes())
    if how == "flipped":
        content[len(content) // 3] ^= 1
    elif how == "shorter contents":  # the first entry's comment swallows the second: zipfile is content
        content[content.find(b"PK\x01\x02") + 32] ^= 0x80
    part.write_bytes(content[: {"cut": len(content) // 2, "empty": 0}.get(how)])
    result = impute(model, series, 4, overlap=4, window=12, path=path)
    told = capsys.readouterr().out
    assert told.startswith(f"Warning: {part} was damaged (") and told.endswith("); it is drawn again.\n")
    assert len(told.splitlines()) == 1
    assert same(result, impute(model, series, 4, overlap=4, window=12))
    assert not path.with_name("imputation.nc.parts").exists()


def test_every_byte_of_a_part_counts_or_means_nothing(tmp_path):
    parts = Parts(tmp_path)
    parts.write("a", {"values": np.arange(6.0).reshape(1, 6), "observed": np.eye(2, dtype=bool)})
    whole, (path,) = parts["a"], tmp_path.iterdir()
    content, seen = path.read_bytes(), 0
    for at in range(len(content)):
        for changed in (bytes([content[at] ^ 0xFF]), bytes([content[at] ^ 1]), b""):  # wrong, or the end
            path.write_bytes(content[:at] + changed + (content[at + 1 :] if changed else b""))
            if parts.remove_damaged("values", "observed"):
                seen += 1
                assert not path.exists()
            else:
                assert all(np.array_equal(array, whole[name]) for name, array in parts["a"].items())
    assert seen > len(content)


def test_parts_that_another_process_writes_are_left_alone(tmp_path, killer):
    """One of a killed command may still be at work."""
    model, series, path = broken_prediction(tmp_path, killer)
    folder = path.with_name("imputation.nc.parts")
    script = (
        "import sys; from pathlib import Path; from tsgen.storage.parts import Parts\n"
        "parts = Parts(Path(sys.argv[1])); parts.lock(1); print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", script, str(folder)]
    other = subprocess.Popen(words, cwd=Path(__file__).parents[2], stdin=-1, stdout=-1, text=True)
    assert other.stdout.readline() == "held\n"
    before = {part: part.stat().st_mtime_ns for part in folder.iterdir()}
    told = rf"parts is still in use by an earlier command \(process {other.pid}\); wait for it, or end"
    for options in ({}, {"overlap": 3}):  # it goes on, or begins anew
        with pytest.raises(ValueError, match=told):
            impute(model, series, 4, **({"overlap": 4, "window": 12} | options), path=path)
    assert {part: part.stat().st_mtime_ns for part in folder.iterdir()} == before
    other.kill()
    other.communicate()
    result = impute(model, series, 4, overlap=4, window=12, path=path)
    assert same(result, impute(model, series, 4, overlap=4, window=12)) and not folder.exists()


def test_a_command_that_begins_while_another_is_hashed_keeps_its_parts(tmp_path, killer, monkeypatch):
    model, series, path = broken_prediction(tmp_path, killer)
    other = Parts.beside(path)

    def slowly(*made_of):
        other.lock(1)
        return fingerprint(*made_of)

    monkeypatch.setattr("tsgen.inference.stitching.fingerprint", slowly)
    before = other.names()
    with pytest.raises(ValueError, match="still in use by an earlier command"):
        impute(model, series, 4, overlap=3, window=12, path=path)
    assert other.names() == before and len(before) == 3
    other.release()


def test_the_lock_of_a_command_that_begins_after_the_end_of_another_stays(tmp_path):
    model, series = linear(20)
    first, second = (
        SeriesImputation(Exact(2), series, Tiles.over([slice(0, 20)], 10), tmp_path / "out.nc", rank)
        for rank in range(2)
    )
    first.begin(model)
    first.lock()
    for numbers in first.batches(4):
        first.draw(model, series.windows(torch.tensor(first.tiles.starts)[numbers], 10))
    first.finish("GraphVAR")
    again = Parts.beside(tmp_path / "out.nc")
    with pytest.raises(ValueError, match="still in use"):  # until it is released, and not only until the end
        again.lock()
    first.release()
    assert not again.folder.exists()
    second.lock()
    with pytest.raises(ValueError, match="still in use"):
        again.check_free()
    second.release()
    assert not again.folder.exists()


def test_a_trainer_that_would_divide_the_windows_again_is_refused(tmp_path):
    data = SyntheticDataModule(num_nodes=4, steps=40, window=10)
    model = AutoregressiveModel(data.spec, partial(WindowEncoder, hidden=4), sampler=Ancestral(2))
    prediction = SeriesPrediction(model, data, tmp_path / "out.nc")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    several = Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", **quiet)
    prediction.trainer = several
    with pytest.raises(ValueError, match=r"Pass Trainer\(use_distributed_sampler=False\)"):
        prediction.setup("predict")
    with pytest.raises(ValueError, match=r"its own data; predict was given a datamodule. Leave it out"):
        Trainer(accelerator="cpu", **quiet).predict(prediction, datamodule=data)


def test_a_prediction_is_repeated_and_takes_the_weights_of_a_checkpoint(tmp_path):
    data = SyntheticDataModule(num_nodes=4, steps=40, window=10, batch_size=4)

    def fresh():
        return AutoregressiveModel(data.spec, partial(WindowEncoder, hidden=4), sampler=Ancestral(2))

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer, model = Trainer(accelerator="cpu", **quiet), fresh()
    torch.save({"state_dict": model.state_dict(), "pytorch-lightning_version": "2.0.0"}, tmp_path / "a.ckpt")
    results = []
    for predicted, checkpoint in ((model, None), (model, None), (fresh(), tmp_path / "a.ckpt")):
        prediction = SeriesPrediction(predicted, data, tmp_path / "out.nc")
        trainer.predict(prediction, ckpt_path=checkpoint, return_predictions=False)
        results.append(xr.load_dataset(tmp_path / "out.nc"))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "out.nc"]
    assert same(results[0], results[1]) and same(results[0], results[2])


@pytest.mark.parametrize("package", [tsgen, torch])
def test_parts_of_other_versions_are_not_mixed_with_new_ones(package, tmp_path, killer, monkeypatch):
    model, series, path = broken_prediction(tmp_path, killer)
    nothing = torch.nn.Module()
    data = fingerprint(nothing, series)
    monkeypatch.setattr(package, "__version__", "0.0.0")
    impute(model, series, 4, overlap=4, window=12, path=path)
    assert killer["batches"] == len(Tiles.over([slice(0, 60)], 12, 4).starts)
    assert fingerprint(nothing, series) == data


def test_a_sampler_that_cannot_go_on_draws_windows_by_themselves_and_keeps_their_middles(tmp_path):
    model, series = linear(60)
    stitched = SeriesImputation(
        Jointly(dataclasses.replace(model.sampler, num_samples=4)),
        series,
        Tiles.over([slice(0, 60)], 12, 6),
        tmp_path / "out.nc",
    )
    assert not stitched.continued
    windows = series.windows(torch.tensor(stitched.tiles.starts), 12)
    drawn = stitched.draw(model, windows).values
    torch.testing.assert_close(drawn, stitched.sampler(model, windows).values)
    assert stitched.kept.pop(6) == slice(9, 15)
    with pytest.raises(RuntimeError, match="every step must be written once; 6 were not"):
        stitched.finish("GraphVAR")
    assert not (tmp_path / "out.nc").exists()


def test_predict_goes_on_where_it_was_killed(tmp_path, killer, capsys, monkeypatch):
    begun, begin = [], SeriesImputation.begin
    monkeypatch.setattr(
        SeriesImputation,
        "begin",
        lambda self, model, *options: (begun.append(options), begin(self, model, *options))[1],
    )
    common = ["--config", "demo", "--runs", str(tmp_path), "--data.steps", "300", "--data.num_nodes", "6"]
    common += ["--trainer.logger", "false", "--trainer.max_epochs", "1", "--model.encoder.hidden", "4"]
    common += ["--trainer.enable_progress_bar", "false", "--model.sampler.num_samples", "3"]
    assert main(["fit", *common]) == 0
    path = tmp_path / "demo/imputation.nc"
    assert main(["predict", *common]) == 0
    straight = xr.load_dataset(path)
    assert straight.attrs["overlap"] == 6 and killer["batches"] == 17
    path.unlink()
    killer |= {"batches": 0, "after": 5}
    with pytest.raises(Killed):
        main(["predict", *common])
    assert not path.exists()
    # while it draws, and no longer
    assert killer["held"] == ["process-0.lock"]
    assert not [*path.with_name("imputation.nc.parts").glob("*.lock")]
    killer |= {"batches": 0, "after": None}
    capsys.readouterr()
    assert main(["predict", *common, "--data.batch_size", "3"]) == 0
    assert "5 of 17 windows were drawn before" in capsys.readouterr().out
    assert killer["batches"] == 12 and same(xr.load_dataset(path), straight)
    # the horizon and the precision are options of the draws
    assert begun == [(None, "32-true")] * 3
    capsys.readouterr()
    for option in ("limit_predict_batches=0", "limit_predict_batches=1", "fast_dev_run=true"):
        assert main(["predict", *common, f"--trainer.{option}"]) == 2
        told = capsys.readouterr().err
        assert "tsgen: a prediction must draw every window; " in told and len(told.splitlines()) == 1
    assert same(xr.load_dataset(path), straight) and not path.with_name("imputation.nc.parts").exists()
    # what a user of Python gets from the same checkpoint is the same
    loaded = tsgen.load(tmp_path / "demo/checkpoints/best.ckpt")
    assert loaded.window == 24
    series = SyntheticDataModule(steps=300, num_nodes=6).split.series
    again = impute(loaded, series, 3)
    np.testing.assert_allclose(again["imputation"], straight["imputation"], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:with 30 particles")
def test_the_effective_sample_sizes_of_a_series_are_kept(tmp_path):
    series = make_series(steps=24, covariates=0)
    model = make_model(series)
    drawn = impute(model, series, method=SMC(3, 30, seed=2), window=8, overlap=0)
    windows = series.windows(torch.tensor([0, 8, 16]), 8)
    ess = SMC(3, 30, seed=2)(model, windows).ess
    assert drawn.attrs["smallest_ess"] == pytest.approx(float(ess.min()), rel=1e-5)
    assert drawn.attrs["median_ess"] == pytest.approx(float(np.median(ess)), rel=1e-5)
    assert "smallest_ess" not in impute(model, series, 3, window=8).attrs


@pytest.mark.filterwarnings("ignore:with 30 particles")
def test_parts_with_effective_sample_sizes_are_not_taken_for_damaged(tmp_path, killer, capsys, monkeypatch):
    monkeypatch.setattr("tsgen.inference.imputation.WINDOWS_AT_ONCE", 1)
    series, sampler = make_series(steps=24, covariates=0), SMC(3, 30, seed=2)
    model, path = make_model(series), tmp_path / "imputation.nc"
    killer |= {"batches": 0, "after": 2}
    with pytest.raises(Killed):
        impute(model, series, method=sampler, window=8, overlap=0, path=path)
    killer |= {"batches": 0, "after": None}
    resumed = impute(model, series, method=sampler, window=8, overlap=0, path=path)
    assert "damaged" not in capsys.readouterr().out
    straight = impute(model, series, method=sampler, window=8, overlap=0)
    assert same(resumed, straight) and resumed.attrs["smallest_ess"] == straight.attrs["smallest_ess"]


def test_impute_waits_for_no_other_process(monkeypatch):
    """One process of several may impute, in a callback of the first process."""
    series = make_series(covariates=0)
    monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
    monkeypatch.setattr("torchmetrics.metric.gather_all_tensors", lambda *_: pytest.fail("it waits"))
    impute(make_model(series), make_batch(series))


def test_windows_may_be_drawn_independently():
    series = make_series(steps=40, channels=1)
    model = make_model(series, TWO_WAY_ENCODERS["two-way gru"], samples=4)
    options = {"window": 10, "overlap": 6, "method": AnyOrder(4, groups=3)}
    apart, together = (impute(model, series, continued=continued, **options) for continued in (False, True))
    assert (apart.attrs["joint"], together.attrs["joint"]) == ("within each window", "over each stretch")
    # the middle of a window is kept, from the draws of that window alone
    windows = AnyOrder(4, groups=3)(model, series.windows(torch.tensor([12]), 10)).values
    kept = apart["imputation"].values[:, 15:19]
    np.testing.assert_allclose(
        kept, np.where(series.observed[15:19], series.values[15:19], windows[:, 0, 3:7])
    )

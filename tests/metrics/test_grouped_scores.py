"""Scores by groups of entries: against the same thing computed entry by entry, and in a run's table."""

import itertools
import json
import math
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import TWO_WAY_ENCODERS, make_batch, make_model
from lightning import Trainer

from tsgen.data.interpolation import GAPS, Nearest
from tsgen.data.series import Samples
from tsgen.datamodules import SyntheticDataModule
from tsgen.encoders import GraphGRUEncoder
from tsgen.evaluation.baselines import BASELINES
from tsgen.evaluation.table import Evaluation, as_dataset, summarise
from tsgen.heads import GaussianHead
from tsgen.heads.likelihood import masked_log_prob
from tsgen.metrics import Coverage, GroupedScores, crps, entry_scores, groupings, law_crps
from tsgen.metrics.rounding import rounded
from tsgen.models import AutoregressiveModel
from tsgen.sampling import Ancestral, AnyOrder

SHAPE, HORIZON = (6, 10, 3, 2), 4
"""Windows, steps, nodes, channels."""


def answers(samples: int = 9):
    """Draws, truth with NaN where nothing is scored, the mask and log-densities."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(1, 5, SHAPE[1])[:, None, None]
    drawn = 20 + spread * torch.randn(samples, *SHAPE, generator=generator)
    truth = 20 + spread * torch.randn(SHAPE, generator=generator)
    mask = torch.rand(SHAPE, generator=generator) < 0.7
    log_prob = torch.where(mask, torch.randn(SHAPE, generator=generator) - spread, 0)
    return drawn, torch.where(mask, truth, torch.nan), mask, log_prob


def by_definition(drawn, truth, mask, log_prob, step: int) -> dict[str, float]:
    """The scores of one step, entry by entry."""
    x, y, density = drawn[:, :, step].double(), truth[:, step].double(), log_prob[:, step].double()
    found: dict[str, list[float]] = {"mae": [], "crps": [], "nll": []}
    for place in mask[:, step].nonzero().tolist():
        draws, value = x[(slice(None), *place)], y[tuple(place)]
        pairs = (draws[:, None] - draws).abs().sum() / (2 * len(draws) * (len(draws) - 1))
        found["mae"].append(float((draws.quantile(0.5) - value).abs()))
        found["crps"].append(float((draws - value).abs().mean() - pairs))
        found["nll"].append(-float(density[tuple(place)]))
    return {name: sum(scores) / len(scores) for name, scores in found.items()}


def update(metric, drawn, truth, mask, log_prob=None):
    """Adds windows to the scores by lead time."""
    group = (torch.arange(SHAPE[1]) - (SHAPE[1] - HORIZON)).clamp(min=-1)[:, None, None].expand(truth.shape)
    density = None if log_prob is None else log_prob[mask]
    metric.update(entry_scores(drawn[:, mask], truth[mask], density), group[mask])


def by_lead_time(*windows) -> GroupedScores:
    metric = GroupedScores([{"lead": lead} for lead in range(1, HORIZON + 1)])
    for few in windows:
        update(metric, *few)
    return metric


@pytest.mark.parametrize("samples", [1, 2, 9, 10])
def test_each_group_has_the_scores_of_its_entries(samples):
    drawn, truth, mask, log_prob = answers(max(samples, 2))
    drawn = drawn[:samples]
    # windows in two batches of unequal size
    pieces = [(drawn[:, few], truth[few], mask[few], log_prob[few]) for few in (slice(0, 5), slice(5, 6))]
    metric = by_lead_time(*pieces)
    table = metric.table()
    assert [row["lead"] for row in table] == [1, 2, 3, 4]
    for lead, row in enumerate(table):
        if samples == 1:
            assert row["crps"] == row["mae"]
            continue
        expected = by_definition(drawn, truth, mask, log_prob, SHAPE[1] - HORIZON + lead)
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    computed = metric.compute()
    assert computed.dtype == torch.float64 and computed.shape == (HORIZON, 5)


def test_coverage_of_all_groups_together_is_the_scores():
    drawn, truth, mask, _ = answers(20)
    whole = Coverage(0.9)
    whole.update(drawn[:, mask], truth[mask])
    single = GroupedScores([{"all": True}])
    single.update(entry_scores(drawn[:, mask], truth[mask]), torch.zeros(int(mask.sum()), dtype=torch.long))
    assert single.table()[0]["coverage_90"] == pytest.approx(float(whole.compute()), abs=1e-6)


def test_what_is_in_no_group_changes_nothing():
    drawn, truth, mask, log_prob = answers()
    tables = []
    for poison in (torch.nan, 1e9):
        early = torch.arange(SHAPE[1]) < SHAPE[1] - HORIZON
        spoilt = [torch.where(early[:, None, None], poison, x) for x in (drawn, truth, log_prob)]
        tables.append(by_lead_time((spoilt[0], spoilt[1], mask, spoilt[2])).table())
    assert tables[0] == tables[1]


def test_small_scores_keep_their_digits():
    """Fluxes of 1e-7 are not zero."""
    drawn, truth, mask, _ = answers()
    single = GroupedScores([{"all": True}])
    group = torch.zeros(int(mask.sum()), dtype=torch.long)
    single.update(entry_scores(1e-7 * drawn[:, mask], 1e-7 * truth[mask]), group)
    row, (mae, crps, *_) = single.table()[0], single.compute()[0].tolist()
    assert 0 < mae < 1e-5
    assert (row["mae"], row["crps"]) == pytest.approx((mae, crps), rel=1e-5)
    assert rounded(1234567.8) == 1234570 and str(rounded(math.nan)) == "nan"


NOTHING = {"entries": 0, "mae": None, "crps": None, "nll": None, "coverage_90": None}


def test_a_group_without_entries_has_no_scores():
    drawn, truth, mask, log_prob = answers(19)
    mask[:, -2] = False
    table = by_lead_time((drawn, truth, mask, log_prob)).table()
    assert table[2] == {"lead": 3} | NOTHING
    assert all(None not in row.values() for row in table[:2] + table[3:])
    json.dumps(table, allow_nan=False)
    assert by_lead_time().table() == [{"lead": lead} | NOTHING for lead in (1, 2, 3, 4)]


def test_an_answer_without_a_density_has_no_nll():
    drawn, truth, mask, log_prob = answers()
    assert all(row["nll"] is None and row["crps"] > 0 for row in by_lead_time((drawn, truth, mask)).table())
    # of a mixture of both, the mean is over what has one
    both = by_lead_time((drawn, truth, mask), (drawn, truth, mask, log_prob))
    for mixed, one in zip(both.table(), by_lead_time((drawn, truth, mask, log_prob)).table(), strict=True):
        assert mixed.pop("entries") == 2 * one.pop("entries") and mixed == one


def test_processes_are_added_up():
    drawn, truth, mask, log_prob = answers(19)
    whole = by_lead_time((drawn, truth, mask, log_prob))
    parts = [
        by_lead_time((drawn[:, few], truth[few], mask[few], log_prob[few]))
        for few in (slice(0, 5), slice(5, 6))
    ]
    parts[0].merge_state(parts[1])
    torch.testing.assert_close(parts[0].compute(), whole.compute())
    whole.reset()
    assert whole.compute()[:, :4].isnan().all()


def group_of(key: str, batch, series, horizon: int = 0):
    (grouping,) = (g for g in groupings(series, horizon) if g.key == key)
    return grouping, grouping.of(batch)


def test_the_gap_of_an_entry_is_its_run_of_hidden_steps(series):
    batch = make_batch(series, window=40, batch=2, hide=0.8)
    batch.context[0, :, 1] = False
    grouping, group = group_of("by_gap_length", batch, series)
    length = Nearest.of(batch.context).gap
    seen = set()
    for w, v, c in np.ndindex(2, 5, 2):
        t = 0
        for visible, run in itertools.groupby(batch.context[w, :, v, c].tolist()):
            steps = len(list(run))
            assert (length[w, t : t + steps, v, c] == (0 if visible else steps)).all()
            (number,) = set(group[w, t : t + steps, v, c].tolist())
            t += steps
            assert visible == (number == -1)
            if not visible:
                label = grouping.labels[number]["gap"]
                low, high = {"1": (1, 1), "2-5": (2, 5), "6-24": (6, 24), "> 24": (25, 40)}[label]
                assert low <= steps <= high
                seen.add(label)
    assert seen == set(GAPS)


def test_the_borders_of_gaps_are_the_labels(series):
    context = torch.ones(1, 60, 5, 2, dtype=torch.bool)
    for node, length in enumerate((1, 2, 5, 6, 24)):
        context[0, 3 : 3 + length, node, 0] = False
    context[0, 3:28, 0, 1] = False
    batch = make_batch(series, batch=1, window=60)._changed(context=context)
    grouping, group = group_of("by_gap_length", batch, series)
    found = [grouping.labels[int(i)]["gap"] for i in (*group[0, 3, :, 0], group[0, 3, 0, 1])]
    assert found == ["1", "2-5", "2-5", "6-24", "6-24", "> 24"]


def test_the_share_missing_is_that_of_the_window(series):
    batch = make_batch(series, batch=3, window=10)
    context = torch.zeros_like(batch.context)
    for window, visible in enumerate((100, 60, 0)):  # of 100 entries
        context[window].view(-1)[:visible] = True
    grouping, group = group_of("by_share_missing", batch._changed(context=context), series)
    assert [grouping.labels[int(i)]["share"] for i in group[:, 4, 2, 1]] == ["0-20 %", "40-60 %", "80-100 %"]
    assert (group == group[:, :1, :1, :1]).all()


def test_nodes_channels_and_lead_times_are_told_apart(series):
    batch = make_batch(series)
    for key, axis, labels in (("by_node", 2, series.nodes), ("by_channel", 3, series.channels)):
        grouping, group = group_of(key, batch, series)
        assert [next(iter(label.values())) for label in grouping.labels] == list(labels)
        index = torch.arange(batch.values.shape[axis]).view(-1, *[1] * (3 - axis))
        assert (group == index).all()
    grouping, group = group_of("by_lead_time", batch, series, horizon=4)
    assert [label["lead"] for label in grouping.labels] == [1, 2, 3, 4]
    assert group[0, :, 0, 0].tolist() == [-1] * 6 + [0, 1, 2, 3]


# ------------------------------------------------------------------------------------------------- in a run


def evaluated(
    folder, horizon: int | None, process: str = "linear", **options
) -> tuple[dict, SyntheticDataModule]:
    """What the test of an untrained model leaves behind."""
    sizes = {"num_nodes": 5, "steps": 800, "test": 0.6, "window": 12, "batch_size": 7}
    data = SyntheticDataModule(process=process, horizon=horizon, **sizes)
    torch.manual_seed(1)
    encoder = partial(GraphGRUEncoder, hidden=4)
    model = AutoregressiveModel(data.spec, encoder, GaussianHead, sampler=Ancestral(40))
    evaluation = Evaluation(
        folder, data.split.series, "run", data.split.train, data.exact, data.horizon, **options
    )
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False}
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[evaluation], **quiet)
    trainer.test(model, data, verbose=False)
    return json.loads((folder / "scores.json").read_text("utf-8")), data


def test_the_table_of_a_forecast_has_scores_by_lead_time(tmp_path):
    table, _ = evaluated(tmp_path, HORIZON)
    with xr.open_dataset(tmp_path / "evaluation.nc") as windows:
        windows = windows.load()
    assert not windows["target"][:, :-HORIZON].any()
    last, over = windows.isel(step=slice(-HORIZON, None)), ("window", "node", "channel")
    error = abs(last["quantiles"].sel(quantile=0.5) - last["truth"]).where(last["target"])
    count = last["target"].sum(over).values
    curves = {key: [row[key] for row in table["by_lead_time"]] for key in ("lead", "mae", "crps", "nll")}
    assert curves["lead"] == [1, 2, 3, 4]
    np.testing.assert_allclose(curves["mae"], error.mean(over), rtol=1e-5)
    np.testing.assert_allclose(curves["crps"], last["crps"].where(last["target"]).mean(over), rtol=1e-5)
    # all leads together are the table's own row
    for key in ("mae", "crps", "nll"):
        assert np.average(curves[key], weights=count) == pytest.approx(table["rows"][0][key], rel=1e-5)


def test_the_exact_law_has_its_own_scores_by_lead_time(tmp_path):
    table, data = evaluated(tmp_path, HORIZON)
    dataset = data.dataset("test")
    batch = dataset.__getitems__([(0, i) for i in range(len(dataset))])
    law = data.exact.predictive(batch)
    density = -masked_log_prob(law, batch.values, batch.hidden).double()
    expected = density.sum(dim=(0, 2, 3)) / batch.hidden.sum(dim=(0, 2, 3))
    exact = {key: [row[key] for row in table["by_lead_time_exact"]] for key in ("mae", "crps", "nll")}
    np.testing.assert_allclose(exact["nll"], expected[-HORIZON:], rtol=1e-4)
    # an error grows with the steps ahead, and an untrained model is worse at each of them
    for key, curve in exact.items():
        assert curve == sorted(curve), key
        assert all(ours[key] > best for ours, best in zip(table["by_lead_time"], curve, strict=True)), key


@pytest.mark.parametrize("horizon", [None, 0])
def test_without_a_forecast_there_are_no_lead_times(horizon, tmp_path):
    table, _ = evaluated(tmp_path, horizon)
    assert table["rows"] and not {"by_lead_time", "by_lead_time_exact"} & table.keys()


def test_every_table_has_all_entries_and_the_mean_of_its_row(tmp_path):
    table, _ = evaluated(tmp_path, None)
    row = table["rows"][0]
    for key in ("by_node", "by_channel", "by_gap_length", "by_share_missing"):
        groups = [group for group in table[key] if group["entries"]]
        count = [group["entries"] for group in groups]
        assert sum(count) == table["entries"], key
        for score in ("mae", "crps", "nll", "coverage_90"):
            mean = np.average([group[score] for group in groups], weights=count)
            assert mean == pytest.approx(row[score], rel=1e-5), (key, score)
    assert [row["gap"] for row in table["by_gap_length"]] == list(GAPS)
    bins = table["rank_histogram"]
    assert sum(bins["counts"]) == table["entries"] and len(bins["counts"]) == len(bins["ranks"]) == 20
    assert sum(bins["ranks"]) == table["num_samples"] + 1


def test_the_table_scores_thresholds_and_says_the_measure_of_its_nll(tmp_path, capsys):
    table, _ = evaluated(tmp_path, None, "poisson", exceedance=[3.0])
    (row,) = table["exceedance"]
    with xr.open_dataset(tmp_path / "evaluation.nc") as windows:
        truth = windows["truth"].where(windows["target"]).values
    truth = truth[np.isfinite(truth)]
    assert row["entries"] == table["entries"] == len(truth)
    assert row["frequency"] == pytest.approx((truth > 3).mean(), rel=1e-5)
    assert [level["level"] for level in table["quantile_scores"]][3] == 0.5
    assert 2 * table["quantile_scores"][3]["score"] == pytest.approx(table["rows"][0]["mae"], rel=1e-3)
    measures = {row["name"]: row.get("measure") for row in table["rows"]}
    assert table["rows"][0]["measure"] == measures["exact filtering"] == "probability"
    assert measures["climatology"] is None
    printed = capsys.readouterr().out
    assert "NLL (probability)" in printed and "> 3" in printed and "left out: climatology" in printed


def test_the_evaluation_holds_what_comparisons_need(tmp_path):
    table, _ = evaluated(tmp_path, None)
    with xr.open_dataset(tmp_path / "evaluation.nc") as windows:
        windows = windows.load()
    row = table["rows"][0]
    scored = windows["target"]
    for variable, score in (("crps", "crps"), ("nll", "nll"), ("covered_90", "coverage_90")):
        mean = float(windows[variable].where(scored).mean())
        assert mean == pytest.approx(row[score], rel=1e-5), variable
    for score in ("energy_score", "variogram_score"):
        assert windows[score].dims == ("window",)
        assert float(windows[score].mean()) == pytest.approx(row[score], rel=1e-5)
    assert windows["gap_length"].dtype == np.int32
    assert ((windows["gap_length"] > 0) == scored).all() and not windows["nll"].where(~scored).notnull().any()
    assert [row["name"] for row in table["rows"][1:-2]] == list(BASELINES)
    for row in table["rows"][1:-2]:
        of_law = windows.sel(baseline=row["name"])
        for variable, score in (("error", "mae"), ("crps", "crps"), ("nll", "nll")):
            found = of_law[f"baseline_{variable}"]
            assert found.dtype == np.float32 and (found.isnull().values == ~scored.values).all(), variable
            assert float(found.mean()) == pytest.approx(row[score], rel=1e-5), (row["name"], score)
        covered = float(of_law["baseline_covered_90"].where(scored).mean())
        # the interval of 40 draws is that of the law but for their noise
        assert covered == pytest.approx(row["coverage_90"], abs=0.02) and row["interval_90"] > 0
        # independent draws of each entry have no joint law
        assert row["energy_score"] is None and row["crps"] == row["crps_law"] < row["mae"]
    filtering, posterior = table["rows"][-2:]
    assert filtering["energy_score"] is None and posterior["energy_score"] < table["rows"][0]["energy_score"]
    # the law's own score is that of its draws, but for their noise
    for exact in (filtering, posterior):
        assert exact["crps_law"] == pytest.approx(exact["crps"], rel=0.02)
    assert table["rows"][0]["crps_law"] is None  # the draws of a filtering model follow no law in closed form


def test_without_densities_and_baselines_the_figures_still_have_their_windows(series, batch):
    values = batch.values.nan_to_num()
    drawn = torch.where(batch.context, values, values + torch.randn(7, *values.shape))
    plain = as_dataset(summarise(Samples(drawn, "filtering"), batch), series, conditioning="filtering")
    assert plain["nll"].isnull().all() and plain["quantiles"].dims == ("quantile", *plain["truth"].dims)
    assert not {"ess", "baseline_error"} & set(plain.variables)
    ess = torch.rand(drawn.shape[1:3])
    weighted = as_dataset(summarise(Samples(drawn, "posterior", ess), batch), series)
    assert weighted["ess"].dims == ("window", "step")
    np.testing.assert_array_equal(weighted["ess"], ess)


@torch.no_grad()
def test_only_a_law_that_draws_follow_is_scored_in_closed_form(series):
    batch = make_batch(series)
    model = make_model(series, TWO_WAY_ENCODERS["two-way recurrence"])
    assert model.sampler.groups == 2 and model.drawn_law(batch) is None
    model.sampler = AnyOrder(2000, 1)
    law, samples = model.drawn_law(batch), model.sampler(model, batch).values
    drawn, truth = samples[:, batch.hidden].double(), batch.values[batch.hidden]
    z = (drawn.mean(dim=0) - law.mean[batch.hidden]) / (drawn.std(dim=0) / 2000**0.5)
    assert z.abs().max() < 5
    exact, sampled = law_crps(law, batch.values.nan_to_num())[batch.hidden], crps(drawn.float(), truth)
    assert float(sampled.mean()) == pytest.approx(float(exact.mean()), rel=0.02)
    assert make_model(series).drawn_law(batch) is None


def test_the_table_says_who_wins_and_warns_of_a_better_baseline(tmp_path, capsys):
    table, _ = evaluated(tmp_path, None)  # an untrained model
    shown = capsys.readouterr().out
    rows = {row["name"]: row for row in table["rows"]}
    best = min(BASELINES, key=lambda name: rows[name]["crps"])
    assert best == "Gaussian regression"
    assert f"Lowest CRPS: {best} ({rows[best]['crps']:.4g})." in shown
    (first,), model = table["baselines"], table["rows"][0]
    assert first == (
        f"Warning: {best} has a lower CRPS than the model ({rows[best]['crps']:.4g} < {model['crps']:.4g}): "
        "it also uses later observations, as a posterior sampler or an AnyOrderModel would."
    )
    assert first in " ".join(shown.split())
    # in a forecast nothing is observed later
    (first,) = evaluated(tmp_path, HORIZON)[0]["baselines"]
    assert first.endswith("train longer, or choose another model.")

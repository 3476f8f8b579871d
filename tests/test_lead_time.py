"""Scores by lead time: each against the same thing computed step by step, and in a run's table."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from lightning import Trainer

from datamodules import SyntheticDataModule
from tsgen.encoders import GraphGRUEncoder
from tsgen.evaluation import Evaluation
from tsgen.heads import GaussianHead
from tsgen.likelihood import masked_log_prob
from tsgen.metrics import LeadTimeScores
from tsgen.models import AutoregressiveModel
from tsgen.sampling import Ancestral

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


@pytest.mark.parametrize("samples", [1, 2, 9, 10])
def test_each_lead_time_has_the_scores_of_its_step(samples):
    drawn, truth, mask, log_prob = answers(max(samples, 2))
    drawn = drawn[:samples]
    metric = LeadTimeScores(HORIZON)
    # windows in two batches of unequal size
    for few in (slice(0, 5), slice(5, 6)):
        metric.update(drawn[:, few], truth[few], mask[few], log_prob[few])
    table = metric.table()
    assert [row["lead"] for row in table] == [1, 2, 3, 4]
    for lead, row in enumerate(table):
        if samples == 1:
            assert row["crps"] == row["mae"]
            continue
        expected = by_definition(drawn, truth, mask, log_prob, SHAPE[1] - HORIZON + lead)
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=2e-6)
    computed = metric.compute()
    assert computed.dtype == torch.float64 and computed.shape == (HORIZON, 4)


def test_what_comes_before_the_horizon_changes_nothing():
    drawn, truth, mask, log_prob = answers()
    tables = []
    for poison in (torch.nan, 1e9):
        early = torch.arange(SHAPE[1]) < SHAPE[1] - HORIZON
        spoilt = [torch.where(early[:, None, None], poison, x) for x in (drawn, truth, log_prob)]
        metric = LeadTimeScores(HORIZON)
        metric.update(spoilt[0], spoilt[1], mask, spoilt[2])
        tables.append(metric.table())
    assert tables[0] == tables[1]


def test_a_step_without_entries_has_no_scores():
    drawn, truth, mask, log_prob = answers()
    mask[:, -2] = False
    metric = LeadTimeScores(HORIZON)
    metric.update(drawn, truth, mask, log_prob)
    table = metric.table()
    assert table[2] == {"lead": 3, "entries": 0, "mae": None, "crps": None, "nll": None}
    assert all(None not in row.values() for row in table[:2] + table[3:])
    json.dumps(table, allow_nan=False)
    assert LeadTimeScores(2).table() == [
        {"lead": lead, "entries": 0, "mae": None, "crps": None, "nll": None} for lead in (1, 2)
    ]


def test_an_answer_without_a_density_has_no_nll():
    drawn, truth, mask, log_prob = answers()
    metric = LeadTimeScores(HORIZON)
    metric.update(drawn, truth, mask)
    assert all(row["nll"] is None and row["crps"] > 0 for row in metric.table())
    # of a mixture of both, the mean is over what has one
    metric.update(drawn, truth, mask, log_prob)
    other = LeadTimeScores(HORIZON)
    other.update(drawn, truth, mask, log_prob)
    for mixed, one in zip(metric.table(), other.table(), strict=True):
        assert mixed.pop("entries") == 2 * one.pop("entries") and mixed == one


def test_processes_are_added_up():
    drawn, truth, mask, log_prob = answers()
    whole, parts = LeadTimeScores(HORIZON), [LeadTimeScores(HORIZON) for _ in range(2)]
    whole.update(drawn, truth, mask, log_prob)
    for part, few in zip(parts, (slice(0, 5), slice(5, 6)), strict=True):
        part.update(drawn[:, few], truth[few], mask[few], log_prob[few])
    parts[0].merge_state(parts[1])
    torch.testing.assert_close(parts[0].compute(), whole.compute())
    whole.reset()
    assert whole.compute()[:, :3].isnan().all()


# ------------------------------------------------------------------------------------------------- in a run


def evaluated(folder, horizon: int | None) -> tuple[dict, SyntheticDataModule]:
    """What the test of an untrained model leaves behind."""
    data = SyntheticDataModule(num_nodes=5, steps=800, test=0.6, window=12, batch_size=7, horizon=horizon)
    torch.manual_seed(1)
    encoder = partial(GraphGRUEncoder, hidden=4)
    model = AutoregressiveModel(data.spec, encoder, GaussianHead, sampler=Ancestral(40))
    evaluation = Evaluation(folder, data.split.series, "run", data.exact, data.horizon)
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

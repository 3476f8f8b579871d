"""The check on the data at hand: what it hides, and whether it finds a better and a worse model."""

from dataclasses import replace
from functools import partial

import pytest
import torch

import tsgen
from tsgen.datamodules import SyntheticDataModule
from tsgen.evaluation.baselines import BASELINES, fit_baselines
from tsgen.evaluation.selfcheck import hide_part, self_check, who_wins
from tsgen.metrics import law_crps
from tsgen.models import GraphVAR


@pytest.fixture(scope="module")
def data():
    return SyntheticDataModule(num_nodes=6, steps=1500, window=24, batch_size=8)


@pytest.fixture(scope="module")
def series(data):
    """The series without a node for 60 steps, and seven times without all nodes for 5."""
    observed = data.split.series.observed.clone()
    observed[200:260, 2] = False
    for first in range(100, 1500, 200):
        observed[first : first + 5] = False
    return data.split.series.with_observed(observed)


def drawn_exactly(data, visible, bias: float = 0.0, spread: float = 1.0):
    """Draws from the posterior of the process, with its mean shifted and its deviation stretched."""
    batch = visible.windows(torch.zeros(1, dtype=torch.int64), len(visible))
    law = data.exact.posterior(batch)
    noise = torch.randn(100, *law.mean.shape, generator=torch.Generator().manual_seed(0))
    return (law.mean + law.stddev * (bias + spread * noise))[:, 0].to(visible.dtype)


def test_a_tenth_is_hidden_in_gaps_of_the_series_and_singly(series):
    hidden = hide_part(series)
    share = float(hidden.sum() / series.observed.sum())
    assert share == pytest.approx(0.1, abs=0.015)
    assert not (hidden & ~series.observed).any()
    assert torch.equal(hide_part(series), hidden) and not torch.equal(hide_part(series, seed=1), hidden)
    # shared outages are replayed, which single entries would not give
    assert hidden.all(dim=1).any()
    runs = hidden[:, :, 0].to(torch.uint8)
    gaps = torch.stack([runs[i : len(runs) - 9 + i] for i in range(10)]).all(dim=0)
    assert gaps.any()
    assert (series.observed & ~hidden).any(dim=0).all()
    half = hide_part(series, 0.5)
    assert float(half.sum() / series.observed.sum()) == pytest.approx(0.5, abs=0.02)


def test_the_exact_posterior_wins_and_is_calibrated(data, series):
    check = self_check(series, partial(drawn_exactly, data))
    assert list(check.scores) == ["model", *BASELINES] and check.remarks == []
    assert check.best == "model" and check.warnings == []
    assert check.scores["model"]["coverage_90"] == pytest.approx(0.9, abs=0.04)
    counts, expected = (
        torch.tensor(check.rank_histogram["counts"]),
        torch.tensor(check.rank_histogram["ranks"]),
    )
    expected = expected * check.entries / expected.sum()
    assert counts.sum() == check.entries
    assert float(((counts - expected) ** 2 / expected).sum()) < 60  # 19 degrees of freedom


def test_a_biased_model_loses_and_a_narrow_one_is_not_trusted(data, series):
    check = self_check(series, lambda visible: drawn_exactly(data, visible, bias=3.0))
    assert check.best == "Gaussian regression" and check.excess["Gaussian regression"] > 5
    first = check.warnings[0]
    assert first.startswith("Gaussian regression has a lower CRPS than the model on ")
    assert f"{check.entries:,} hidden entries (" in first and " < " in first
    narrow = self_check(series, lambda visible: drawn_exactly(data, visible, spread=0.3))
    assert any("they are too narrow" in warning for warning in narrow.warnings)


def test_scores_are_those_of_the_same_hidden_entries(data, series):
    hidden = hide_part(series)
    visible = series.with_observed(series.observed & ~hidden)
    draws = drawn_exactly(data, visible)
    check = who_wins(series, hidden, draws)
    truth = series.values[hidden]
    error = (draws[:, hidden].median(dim=0).values - truth).abs()
    assert check.entries == len(truth)
    assert check.scores["model"]["mae"] == pytest.approx(float(error.mean()), rel=0.02)
    batch = visible.windows(torch.zeros(1, dtype=torch.int64), len(series))
    for name, baseline in fit_baselines(visible)[0].items():
        crps = law_crps(baseline.law(batch), series.values[None].double())[0][hidden]
        assert check.scores[name]["crps"] == pytest.approx(float(crps.mean()), rel=1e-5), name


def test_a_model_of_the_library_is_checked(data):
    series = data.split.series.chunk(slice(0, 300))
    model = GraphVAR(data.spec, order=data.exact.order)
    model.process = data.exact
    check = self_check(series, partial(tsgen.impute, model.eval(), num_samples=30))
    assert check.best == "model" and check.scores["model"]["coverage_90"] > 0.8


def test_channels_count_alike(data, series):
    values = torch.cat([series.values, 1e4 * series.values.flip(0)], dim=-1)
    observed = torch.cat([series.observed, series.observed.flip(0)], dim=-1)
    both = replace(series, values=values, observed=observed, channels=["a", "b"], units=["", ""])
    hidden = hide_part(both)
    draws = torch.where(hidden, torch.nan, both.values).expand(20, *both.values.shape).clone()
    # perfect in the channel of large numbers, useless in the other: the raw CRPS sees only the first
    draws[..., 1] = values[..., 1]
    draws[..., 0] = 1e3
    check = who_wins(both, hidden, draws)
    assert check.scores["model"]["crps"] < check.scores["climatology"]["crps"]
    assert check.best != "model" and check.warnings


def test_mistakes_are_named(data, series):
    draws = torch.zeros(3, *series.values.shape)
    with pytest.raises(ValueError, match="share must lie between 0 and 1; it is 2"):
        hide_part(series, 2.0)
    with pytest.raises(ValueError, match="all of them observed; it has 0"):
        who_wins(series, torch.zeros_like(series.observed), draws)
    with pytest.raises(ValueError, match="of which 1133 were not observed"):
        who_wins(series, ~series.observed, draws)
    with pytest.raises(ValueError, match="must have the shape of the series"):
        who_wins(series, hide_part(series), draws[:, 1:])
    few = series.chunk(slice(0, 1))
    with pytest.raises(ValueError, match="enough observed entries to hide some; it has 4"):
        hide_part(few)

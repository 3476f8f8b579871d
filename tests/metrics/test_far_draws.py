"""Draws far outside the observed range are counted and reported; those of a right model are not."""

import pytest
import torch
from conftest import make_batch, make_series

import tsgen
from tsgen.data.series import SeriesSpec, Units
from tsgen.exact.linear import VARProcess
from tsgen.inference.imputation import FarDrawsWarning
from tsgen.metrics import FarDraws
from tsgen.models import GraphVAR


def far_draws(observed, draws, unknown=None):
    units = Units(observed.mean(dim=0), observed.std(dim=0))
    metric = FarDraws(units)
    metric.observe(observed, torch.ones_like(observed, dtype=torch.bool))
    half = len(draws) // 2
    unknown = torch.ones(draws.shape[1:], dtype=torch.bool) if unknown is None else unknown
    for part in (draws[:half], draws[half:]):
        metric.update(part, unknown)
    return metric


LAWS = {
    "gaussian": lambda *shape: torch.randn(shape),
    "student 3": lambda *shape: torch.distributions.StudentT(3.0).sample(shape),
    "log-normal": lambda *shape: (1.5 * torch.randn(shape)).exp(),
    "exponential": lambda *shape: torch.distributions.Exponential(1.0).sample(shape),
}


@pytest.mark.parametrize("law", LAWS)
def test_draws_of_the_law_of_the_data_are_not_reported(law):
    torch.manual_seed(0)
    for _ in range(5):
        metric = far_draws(LAWS[law](1000, 20, 1), LAWS[law](100, 300, 20, 1))
        assert metric.warning([str(n) for n in range(20)], ["x"]) is None


def test_far_draws_are_counted_and_the_furthest_is_named():
    observed = torch.linspace(0, 10, 1000)[:, None, None].expand(-1, 3, 2).clone()
    draws = torch.full((100, 50, 3, 2), 5.0)
    draws[:3, :, 1, 1] = -11.0  # one width below is -10
    draws[0, 0, 1, 1] = -631876.0
    draws[:, :, 2, 0] = 20.0  # not further than the range is wide
    unknown = torch.ones(50, 3, 2, dtype=torch.bool)
    unknown[40:] = False
    metric = far_draws(observed, draws, unknown)
    assert metric.compute().reported.tolist() == [[False, False], [False, True], [False, False]]
    assert metric.warning(["a", "b\x1b[2J", "c"], ["o3", "pm10"]) == (
        "120 of 4,000 draws at 1 of 3 nodes lie further outside the observed range than it is wide; the "
        "furthest is -631,876, at pm10 of node b\ufffd[2J, where 0 to 10 was observed. Do not trust these "
        "draws: the model is undertrained, has diverged, or extrapolates."
    )


def test_a_single_path_that_explodes_is_reported():
    torch.manual_seed(0)
    draws = torch.randn(100, 300, 4, 1)
    draws[7, 100:103, 2] = 1e4
    metric = far_draws(torch.randn(1000, 4, 1), draws)
    assert metric.compute().reported.flatten().tolist() == [False, False, True, False]


def test_a_short_or_constant_record_has_a_range_too():
    units = Units(torch.zeros(2, 1), torch.ones(2, 1))
    metric = FarDraws(units)
    metric.observe(torch.zeros(1, 2, 1), torch.tensor([[[True], [False]]]))
    metric.update(3 * torch.randn(100, 50, 2, 1), torch.ones(50, 2, 1, dtype=torch.bool))
    assert metric.warning(["a", "b"], ["x"]) is None


def test_impute_warns_and_the_file_says_it(tmp_path):
    series = make_series(covariates=0)
    model = GraphVAR(SeriesSpec.of(series))
    entries = model.loc.numel()
    model.process = VARProcess.white_noise(1, model.loc.flatten() + 1e5, model.scale.flatten())
    with pytest.warns(FarDrawsWarning, match=f"at {len(series.nodes)} of {len(series.nodes)} nodes"):
        tsgen.impute(model, make_batch(series), num_samples=5)
    with pytest.warns(FarDrawsWarning) as caught:
        data = tsgen.impute(model, series, num_samples=5, path=tmp_path / "imputation.nc")
    assert data.attrs["far_draws"] == str(caught[0].message)
    missing = int((~series.observed).sum())
    assert data.attrs["far_draws"].startswith(f"{5 * missing:,} of {5 * missing:,} draws")
    assert entries == 10


def test_the_only_node_of_a_series_is_named():
    metric = far_draws(torch.zeros(10, 1, 1), torch.tensor([0.0, 500.0]).view(2, 1, 1, 1))
    assert "the furthest is 500, at node v" in metric.warning(["v"], ["c"])

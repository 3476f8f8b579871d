"""The prior over networks: addresses, laws and the promises of a draw."""

import re
from dataclasses import is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tsgen.exact.kalman import kalman_filter, smooth
from tsgen.simulate import Gaps, NetworkPrior, components, measurements
from tsgen.simulate.measurements import Faults

PAGE = Path(__file__).parents[2] / "docs" / "simulate.md"

GOLDEN = [[1.31049042, 1.31049042, 0.593489583, 60.0], [8.40731475, 8.40731475, 0.268305016, 0.0]]


def test_a_draw_depends_on_its_address_alone():
    prior = NetworkPrior()
    first, other_number, other_seed = prior.draw(0, 7), prior.draw(0, 8), prior.draw(1, 7)
    again = NetworkPrior().draw(0, 7)
    for name in ("series", "values", "visible"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert torch.equal(first.graph.edge_weight, again.graph.edge_weight)
    for other in (other_number, other_seed):
        assert first.series.shape != other.series.shape or not torch.equal(first.series, other.series)


def test_the_numbers_of_an_address_do_not_change():
    # weights trained from these draws are rebuilt from them
    sums = [
        [float(x.double().abs().mean()) for x in (s.series, s.values, s.visible, s.graph.edge_weight.sum())]
        for s in (NetworkPrior(linear_gaussian=linear).draw(3, 2) for linear in (False, True))
    ]
    np.testing.assert_allclose(sums, GOLDEN, rtol=1e-5)


def test_draws_are_finite_within_bounds_and_hide_something():
    for number in range(60):
        draw = NetworkPrior().draw(1, number)
        windows, _, nodes, channels = draw.series.shape
        assert windows >= 2 and 1 <= nodes <= 200 and channels <= 3
        assert windows <= 2 or draw.series.numel() <= 12_000
        assert draw.series.isfinite().all() and draw.values.isfinite().all()
        assert 0.01 < draw.visible.float().mean() < 0.99
        # faults are visible, and never scored
        assert torch.equal(draw.values[~draw.visible], draw.series[~draw.visible])
        assert draw.law is None


def test_windows_may_be_consecutive():
    jumps = []
    for consecutive in (0.0, 1.0):
        prior = NetworkPrior(consecutive=consecutive, linear_gaussian=True, nodes=(5, 5), steps=(24,))
        draws = [prior.draw(0, number) for number in range(30)]
        standard = [(d.series - d.series.mean((0, 1))) / d.series.std((0, 1)) for d in draws]
        jumps.append(np.median([float((x[1:, 0] - x[:-1, -1]).abs().mean()) for x in standard]))
    assert jumps[1] < 0.8 * jumps[0]


@pytest.mark.parametrize("number", range(4))
def test_the_law_of_a_linear_draw_is_that_of_its_series(number):
    count = 10_000
    prior = NetworkPrior(
        linear_gaussian=True, nodes=(2, 6), steps=(4,), windows=count, entries=10**9, consecutive=0.0
    )
    draw = prior.draw(3, number)
    law, nodes = draw.law, draw.law.observed_size
    covariance = law.initial_covariance
    stationary = law.transition @ covariance @ law.transition.T + law.noise_covariance
    torch.testing.assert_close(stationary, covariance)
    torch.testing.assert_close(law.transition @ law.initial_mean + law.offset, law.initial_mean)
    series = draw.series[..., 0].double()
    scale = covariance.diagonal()[:nodes].sqrt()
    mean = (series[:, 3].mean(0) - law.initial_mean[:nodes]) / scale
    assert (mean.abs() * count**0.5 < 5).all()
    centred = series - law.initial_mean[:nodes]
    for lag, power in ((0, torch.eye(len(covariance)).double()), (2, law.transition @ law.transition)):
        expected = (power @ covariance)[:nodes, :nodes]
        error = (centred[:, 3].T @ centred[:, 3 - lag] / count - expected) / scale / scale[:, None]
        assert (error.abs() * count**0.5 < 5 * 2**0.5).all(), lag


def test_the_exact_posterior_of_linear_draws_is_calibrated():
    z = []
    for number in range(12):
        draw = NetworkPrior(linear_gaussian=True, nodes=(4, 12), steps=(12,)).draw(5, number)
        values, context = draw.values[..., 0].double(), draw.visible[..., 0]
        assert kalman_filter(draw.law, values, context).log_likelihood.isfinite().all()
        smoothed = smooth(draw.law, values, context)
        error = (values - smoothed.mean) / smoothed.variance.sqrt()
        # one hidden entry per window: entries of a window are dependent
        rows, columns = torch.where((~context).flatten(1).any(1))[0], (~context).flatten(1).int().argmax(1)
        z.append(error.flatten(1)[rows, columns[rows]])
    z = torch.cat(z)
    assert abs(z.mean()) * len(z) ** 0.5 < 5
    assert abs(z.square().mean() - 1) * (len(z) / 2) ** 0.5 < 5


def test_gaps_of_one_kind_are_of_that_kind():
    none = dict.fromkeys(Gaps.__dataclass_fields__, 0.0)
    forecast = NetworkPrior(gaps=Gaps(**none | {"forecast": 1.0}), steps=(36,), nodes=(8, 8), channels=(1, 1))
    hidden = ~forecast.draw(0, 3).visible
    once = hidden.int().diff(dim=1).clamp(max=0).abs().sum()
    assert hidden.any() and once == 0, "a forecast never ends before the window does"
    silent = NetworkPrior(gaps=Gaps(**none | {"silent": 1.0}), steps=(36,), nodes=(8, 8), channels=(1, 1))
    hidden = ~silent.draw(0, 3).visible
    assert hidden.any() and (hidden.all(1) == hidden.any(1)).all()


def test_faults_change_visible_entries_of_some_nodes():
    rng = np.random.default_rng(0)
    values, visible = rng.standard_normal((8, 36, 20, 1)), rng.random((8, 36, 20, 1)) < 0.7
    changed = Faults(share=0.3).corrupt(rng, values, visible) != values
    assert changed.any() and not (changed & ~visible).any()
    assert 0 < changed.any(axis=(0, 1, 3)).mean() < 0.6


def test_mistakes_are_named():
    for options, what in (
        ({"nodes": (5, 2)}, "nodes"),
        ({"steps": ()}, "steps"),
        ({"entries": 0}, "entries"),
        ({"faults": 1.5}, "faults"),
        ({"channels": (2, 2), "linear_gaussian": True}, "channels"),
    ):
        with pytest.raises(ValueError, match=what):
            NetworkPrior(**options)
    with pytest.raises(ValueError, match="at least 0"):
        NetworkPrior().draw(-1, 0)


def test_the_examples_of_the_page_run():
    names: dict = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    exec("\n".join(blocks), names)
    assert names["x"].shape == (8, 48, 20) and names["batch"].target.all()
    assert abs(float(names["z"].square().mean()) - 1) < 0.3 and len(names["z"]) > 300


UNNAMED = ("Kernel", "Unchanged")


def test_the_page_names_every_component():
    page = PAGE.read_text("utf-8")
    for module in (components, measurements):
        for name, item in vars(module).items():
            if is_dataclass(item) and item.__module__ == module.__name__ and name not in UNNAMED:
                assert f"`{name}`" in page, name

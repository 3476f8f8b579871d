"""Supports of channels: their texts, what lies outside, and what values show."""

import logging
import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import directed_graph

from tsgen.data.detection import fit_transforms
from tsgen.data.series import GraphSeries
from tsgen.data.support import Support, detect

TEXTS = [
    *("real", "positive", "non_negative", "counts", "interval(0, 1)", "interval[-1.5, 2e-05]"),
    *("non_negative, step 0.1", "real, step 0.01", "positive, limit 0.5", "counts, limit 3"),
    *("interval[0, 100], step 5, limit 20", "interval(0, 1234567)", "positive, limit 0.123456789"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_support_is_read_back_from_its_text(text):
    support = Support.parse(text)
    assert str(support) == text and Support.parse(str(support)) == support


def test_the_ends_are_values_or_not():
    assert Support.parse("interval[0, 10]").atoms == (True, True)
    assert Support.parse(" interval( 0,10 ) ").atoms == (False, False)
    assert Support.parse("counts") == Support(0.0, float("inf"), (True, False), 1.0)
    assert Support.parse("non_negative").has_atoms and not Support.parse("positive").has_atoms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rain", "'rain' names no support. It must be real, positive"),
        ("interval(0)", "names no support"),
        ("interval(2, 1)", "low must be below high; they are 2 and 1"),
        ("interval[0, 1)", "atoms at both ends"),
        ("positive, limit 0", "limit must lie between 0 and inf; it is 0"),
        ("interval(0, 1), limit 2", "limit must lie between 0 and 1; it is 2"),
        ("positive, stop 2", "names no support: ', stop 2'"),
        ("interval[0, 1], step 0.3", "whole number of steps, at least 2; 0 to 1 are 3.33333 steps of 0.3"),
        ("interval(0, 1), step 1", "are 1 steps of 1"),
        ("interval(1.2.3, 4)", "could not convert"),
    ],
)
def test_a_text_that_names_no_support_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=r"^support: ") as error:
        Support.parse(text)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("real", [-1e30, 0.0], []),
        ("positive", [1e-30, 5.0], [0.0, -1.0]),
        ("non_negative", [0.0, 5.0], [-1e-9]),
        ("counts", [0.0, 7.0, 1e6], [-1.0, 0.5]),
        ("interval(0, 1)", [0.5], [0.0, 1.0, 2.0]),
        ("interval[0, 1]", [0.0, 1.0, 0.3], [-0.1, 1.1]),
        ("real, step 0.1", [-0.3, 0.0, 12345.6, float(np.float32(12345.6))], [0.05, 12345.65]),
        ("interval[0.5, 2.5], step 0.5", [0.5, 1.0, 2.5], [0.75, 3.0]),
    ],
)
def test_values_outside_a_support_are_found(text, inside, outside):
    values = torch.tensor([*inside, *outside, torch.nan], dtype=torch.float64)
    assert Support.parse(text).outside(values).tolist() == [False] * len(inside) + [True] * len(outside) + [
        False
    ]


def skewed(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).exp()


@pytest.mark.parametrize(
    ("values", "support"),
    [
        (skewed(500) - 0.5, "real"),
        (1000 + 5 * skewed(500), "real"),
        (skewed(500), "positive"),
        (torch.where(torch.arange(500) % 3 == 0, 0, skewed(500)), "non_negative"),
        (torch.poisson(2 * skewed(500), torch.Generator().manual_seed(1)), "counts"),
        (100 + torch.arange(500.0), "real"),
        (torch.arange(500) % 2.0, "non_negative"),
        (torch.full((5,), 3.0), "real"),
    ],
)
def test_a_support_is_detected(values, support):
    found, reason = detect(values.double())
    assert str(found) == support and reason


def rain_series(rows: int = 80) -> GraphSeries:
    """Rain on three nodes, and a temperature."""
    rain = torch.where(torch.arange(rows)[:, None] % 3 == 0, skewed(rows, 3), 0)
    both = torch.stack([rain, 280 + skewed(rows, 3)], dim=-1)
    hours = pd.date_range("2024-01-01", periods=rows, freq="h")
    return GraphSeries(
        *(both, torch.ones_like(both, dtype=torch.bool), directed_graph(3)),
        time=hours,
        nodes=["a", "b", "c"],
        channels=["rain", "temperature"],
    )


def test_detected_supports_are_told_with_the_reason(caplog):
    with caplog.at_level(logging.INFO):
        rain, temperature = fit_transforms(rain_series())
    assert (rain.support, rain.name, temperature.support) == ("non_negative", "yeo_johnson", "real")
    (line,) = caplog.messages
    assert line.startswith("rain: values are taken as non_negative, since 66.2% of 240 values are zero")


def test_a_value_outside_its_support_is_named_with_node_time_and_step(caplog):
    series = rain_series()
    series.values[70, 1, 0] = -2.5
    place = r"node b has -2.5 \(at 2024-01-03.22:00:00.*, step 70\)"
    message = rf"values of rain must be non_negative, as data.support says; {place}. Set data.support"
    with pytest.raises(ValueError, match=message) as error:
        fit_transforms(series, [slice(0, 60)], {"rain": "non_negative"})
    assert "\n" not in str(error.value)
    # what the training split alone shows is given up
    with caplog.at_level(logging.INFO):
        assert fit_transforms(series, [slice(0, 60)])[0].is_identity
    assert re.search(rf"real after all, not as non_negative, since {place}", caplog.messages[-1])
    # what was not observed does not count
    series.observed[70, 1, 0] = False
    assert fit_transforms(series, [slice(0, 60)])[0].support == "non_negative"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"support": {"snow": "counts"}},
            "support must name channels of the data, rain, temperature; got 'snow'",
        ),
        ({"transform": {"snow": "log"}}, "transform must name channels"),
        ({"support": "raining"}, "support: 'raining' names no support"),
        (
            {"support": {"rain": "non_negative"}, "transform": "log"},
            "transform of rain: .* of non_negative values",
        ),
        ({"transform": "cube"}, "data.transform of rain: a transform must be one of identity"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit_transforms(rain_series(), **options)


def test_large_graphs_are_read_in_part(monkeypatch):
    monkeypatch.setattr("tsgen.data.detection.VALUES", 60)
    seen = []
    monkeypatch.setattr(
        "tsgen.data.detection.fit_transform",
        lambda support, values, *_: (
            seen.append(len(values)) or __import__("tsgen").data.transforms.Transform()
        ),
    )
    fit_transforms(rain_series(), support="real")
    assert seen == [10, 10]

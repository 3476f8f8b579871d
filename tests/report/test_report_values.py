"""The report's section on values."""

import re

import numpy as np
import pytest
import xarray as xr

from tsgen.report import write_report
from tsgen.report.values import read_values, value_sections


def rain(steps=400, nodes=5, samples=20, support="non_negative", zeros=(0.7, 0.4)) -> xr.Dataset:
    """Measured values of which 70 % are zero, and draws of which 40 % are."""
    random = np.random.default_rng(0)
    shape = (steps, nodes, 1)
    observed = random.random(shape) < 0.5

    def drawn(share, *size):
        return np.where(random.random(size) < share, 0.0, random.gamma(0.5, 8.0, size))

    values = np.where(observed, drawn(zeros[0], *shape), drawn(zeros[1], samples, *shape))
    axes = ("time", "node", "channel")
    return xr.Dataset(
        {"imputation": (("sample", *axes), values.astype("f4")), "observed": (axes, observed)},
        coords={
            "time": np.datetime64("2020-01-01", "ns") + np.arange(steps) * np.timedelta64(1, "D"),
            "node": [f"s{v}" for v in range(nodes)],
            "channel": ["rain"],
            "unit": ("channel", ["mm"]),
        },
        attrs={"model": "AnyOrderModel", "conditioning": "posterior", "seed": 0, "support": support},
    )


def test_shares_of_zeros_and_quantiles_are_those_of_the_file():
    data = rain()
    [section] = value_sections(data)
    observed = data["observed"].values[..., 0]
    values = data["imputation"].values[..., 0]
    measured, drawn = values[0][observed], values[:, ~observed].ravel()
    shares = [f"{100 * (x == 0).mean():.1f} %" for x in (measured, drawn)]
    [sentence] = section["frequent"]
    assert sentence == f"{shares[0]} of the measured and {shares[1]} of the drawn values are exactly 0."
    assert section["support"] == "non_negative" and section["name"] == "rain [mm]"
    assert section["headings"][0] == "lowest" and section["headings"][5] == "75 %"
    for row, expected in zip(section["rows"], (measured, drawn), strict=True):
        assert float(row.cells[1 + 5]) == pytest.approx(np.quantile(expected, 0.75), abs=0.006)
        assert float(row.cells[-1]) == pytest.approx(expected.max(), abs=0.006)


def test_a_large_file_is_read_in_part():
    data = rain(steps=5000, nodes=2)
    every, some = read_values(data, 0), read_values(data, 0, most=20_000)
    for whole, part in zip(every, some, strict=True):
        assert len(part) < 0.2 * len(whole)
        assert (part == 0).mean() == pytest.approx((whole == 0).mean(), abs=0.05)
    # from all of the series
    late = data.assign(imputation=data["imputation"].where(np.arange(5000)[:, None, None] < 4000, 1e6))
    assert (read_values(late, 0, most=20_000)[0] == 1e6).mean() == pytest.approx(0.2, abs=0.05)


def test_the_page_compares_values(tmp_path):
    rain(support="interval[0, 40]").to_netcdf(tmp_path / "imputation.nc")
    page = write_report(tmp_path).read_text("utf-8")
    assert "<h3>Values</h3>" in page and "taken as interval[0, 40]" in page
    assert re.search(r"\d\d\.\d % of the measured and \d\d\.\d % of the drawn values are exactly 0\.", page)


@pytest.mark.parametrize("hide", ["everything", "nothing"])
def test_a_file_with_nothing_to_compare(tmp_path, hide):
    data = rain()
    data["observed"][:] = hide == "nothing"
    data.to_netcdf(tmp_path / "imputation.nc")
    assert "<h3>Values</h3>" not in write_report(tmp_path).read_text("utf-8")

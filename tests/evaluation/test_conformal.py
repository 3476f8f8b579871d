"""Conformal intervals: the guarantee over many repetitions, its limits, and what comes of datasets."""

import math

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from tsgen.cli.main import main
from tsgen.evaluation.conformal import ConformalIntervals, conformal, conformal_quantile, gap_length

AXES = ("window", "step", "node", "channel")
QUANTILES = [0.05, 0.25, 0.5, 0.75, 0.95]


def evaluation(
    windows=400, steps=12, nodes=3, seed=0, scale=0.6, long_scale=None, dependence=0.0
) -> xr.Dataset:
    """Truths of each node's own scale, and quantiles of a model whose scale is off: by one factor in gaps of
    one step, by another in one of 6."""
    random, shape = np.random.default_rng(seed), (windows, steps, nodes, 1)
    context = np.ones(shape, dtype=bool)
    context[:, 2] = context[:, 5:11] = False
    noise = np.sqrt(1 - dependence) * random.normal(size=shape)
    noise += np.sqrt(dependence) * random.normal(size=(windows, 1, 1, 1))
    unit = np.array([1.0, 3.0, 10.0])[:nodes, None]
    claimed = np.full(shape, scale) * unit
    claimed[:, 5:11] *= (long_scale or scale) / scale
    quantiles = stats.norm.ppf(QUANTILES)[:, None, None, None, None] * claimed
    truth = 50 + unit * noise
    data = {
        "truth": (AXES, truth),
        "context": (AXES, context),
        "target": (AXES, ~context),
        "quantiles": (("quantile", *AXES), np.where(context, truth, 50 + quantiles)),
    }
    return xr.Dataset(
        data, {"quantile": QUANTILES}, {"model": "M", "conditioning": "posterior", "num_samples": 100}
    )


def z_of(coverage: float, level: float, *counts: int) -> float:
    """Of a binomial share, when the interval too is from so many entries."""
    return (coverage - level) / math.sqrt(level * (1 - level) * sum(1 / count for count in counts))


def test_a_mis_scaled_model_covers_after_and_not_before():
    adjusted, rows = conformal(evaluation(seed=1), evaluation(seed=2))
    count = int(evaluation()["target"].sum())
    for row in (row for row in rows if row["entries"]):
        assert abs(z_of(row["coverage_before"], 2 * stats.norm.cdf(0.6 * 1.64485) - 1, row["entries"])) < 5
        assert row["coverage_before"] < 0.7
        assert abs(z_of(row["coverage_after"], 0.9, row["entries"], row["entries"])) < 5
        assert row["width_after"] / row["width_before"] == pytest.approx(1 / 0.6, rel=0.05)
    assert rows[-1]["gaps"] == "all" and rows[-1]["entries"] == count == sum(r["entries"] for r in rows[:-1])
    assert adjusted.attrs["conformal_level"] == 0.9


def test_a_model_that_is_too_wide_is_narrowed():
    _, rows = conformal(evaluation(seed=1, scale=2.0), evaluation(seed=2, scale=2.0), level=0.5)
    assert rows[-1]["coverage_before"] > 0.8
    assert abs(z_of(rows[-1]["coverage_after"], 0.5, rows[-1]["entries"], rows[-1]["entries"])) < 5


def test_each_length_of_gaps_is_covered_where_each_is_off_by_its_own():
    off = dict(scale=1.2, long_scale=0.4)
    validation, test = evaluation(seed=1, **off), evaluation(seed=2, **off)
    _, together = conformal(validation, test, gaps=(1,))
    _, apart = conformal(validation, test, gaps=(1, 2, 6, 25))
    assert [row["gaps"] for row in together] == ["all"]
    assert [row["gaps"] for row in apart] == [
        "1 step",
        "2 to 5 steps",
        "6 to 24 steps",
        "over 24 steps",
        "all",
    ]
    assert [row["entries"] for row in apart] == [1200, 0, 7200, 0, 8400]
    for row in (apart[0], apart[2]):
        assert abs(z_of(row["coverage_after"], 0.9, row["entries"], row["entries"])) < 5
    # one adjustment for all is right for neither
    adjusted = ConformalIntervals.fit(validation, gaps=(1,))(test)
    inside = (adjusted["lower"] <= adjusted["truth"]) & (adjusted["truth"] <= adjusted["upper"])
    assert float(inside[:, 2].mean()) > 0.99 and float(inside[:, 5:11].mean()) < 0.9
    assert adjusted["gap"][0, :, 0, 0].values.tolist() == [0, 0, 1, 0, 0, 6, 6, 6, 6, 6, 6, 0]


def test_widths_suit_nodes_of_every_scale():
    """In data units one adjustment serves no node; in widths it serves all."""
    validation, test = evaluation(seed=1), evaluation(seed=2)
    for relative, right in ((True, True), (False, False)):
        adjusted, _ = conformal(validation, test, relative=relative)
        inside = (adjusted["lower"] <= adjusted["truth"]) & (adjusted["truth"] <= adjusted["upper"])
        by_node = inside.where(adjusted["target"]).mean(("window", "step", "channel")).values
        assert (max(abs(by_node - 0.9)) < 0.03) == right


# ------------------------------------------------------------------------------ the finite-sample guarantee


@pytest.mark.parametrize(("count", "level"), [(9, 0.9), (30, 0.9), (30, 0.5), (100, 0.9)])
def test_coverage_is_as_guaranteed_on_average(count, level):
    """At least the level, and by at most 1 / (n + 1) more: in fact ceil((n + 1) level) / (n + 1)."""
    drawn = np.random.default_rng(0).normal(size=(5000, count + 1)) ** 3
    covered = np.mean([row[-1] <= conformal_quantile(row[:-1], level) for row in drawn])
    exact = math.ceil((count + 1) * level) / (count + 1)
    assert level <= exact <= level + 1 / (count + 1)
    assert abs(z_of(covered, exact, len(drawn)) if exact < 1 else covered - 1) < 5


def repetitions(unit: str, windows: int = 12, times: int = 3000) -> float:
    """How often a random entry of a new window is covered, entries of a window being nearly alike and windows
    of very different size."""
    random, covered = np.random.default_rng(1), []
    for _ in range(times):
        sizes = random.choice([1, 5, 60], windows + 1)
        window = np.repeat(np.arange(windows + 1), sizes)
        # large windows are hard ones
        score = (random.normal(size=windows + 1) * np.sqrt(sizes))[window] + 0.01 * random.normal(
            size=len(window)
        )
        known = window < windows
        by = window[known] if unit == "window" else None
        new = random.choice(score[~known])
        covered.append(new <= conformal_quantile(score[known], 0.9, by))
    return float(np.mean(covered))


def test_windows_are_covered_whatever_the_dependence_inside_them():
    covered = repetitions("window")
    assert z_of(covered, 0.9, 3000) > -5
    assert z_of(covered, 0.9 + 1 / 13, 3000) < 5
    # with entries as the unit a guarantee is claimed that does not hold
    alike = [
        np.repeat(row, 50)[:-49] for row in np.random.default_rng(2).normal(size=(3000, 13))
    ]  # 12 windows of 50 equal entries, and a new one
    claimed = np.mean([row[-1] <= conformal_quantile(row[:-1], 0.9) for row in alike])
    honest = np.mean([row[-1] <= conformal_quantile(row[:-1], 0.9, np.arange(600) // 50) for row in alike])
    assert z_of(claimed, 0.9, 3000) < -5
    assert z_of(honest, 12 / 13, 3000) == pytest.approx(0, abs=5)


def test_quantiles_of_windows_are_those_of_their_weights():
    """Against the definition: each of K windows weighs 1 / (K + 1), shared by its entries."""
    random = np.random.default_rng(3)
    for _ in range(200):
        window = random.integers(0, random.integers(1, 15), 40)
        score, level = random.normal(size=40).round(1), float(random.choice([0.3, 0.5, 0.8, 0.9]))
        names, sizes = np.unique(window, return_counts=True)
        weight = 1 / (len(names) + 1) / sizes[np.searchsorted(names, window)]
        enough = [s for s in np.unique(score) if weight[score <= s].sum() >= level - 1e-9]
        assert conformal_quantile(score, level, window) == (enough[0] if enough else math.inf)


# ------------------------------------------------------------------------------------ datasets


def test_too_few_windows_promise_nothing():
    adjusted, rows = conformal(evaluation(8), evaluation(5))
    assert np.isinf(adjusted["upper"].where(adjusted["target"], np.inf)).all()
    assert rows[-1]["coverage_after"] == 1 and rows[-1]["width_after"] == math.inf
    _, rows = conformal(evaluation(8), evaluation(5), unit="entry")
    assert rows[-1]["width_after"] < math.inf


def test_visible_entries_have_no_interval_and_odd_intervals_come_out_whole():
    validation, test = evaluation(seed=1, scale=100.0), evaluation(seed=2, scale=100.0)
    test["quantiles"][:, 0, 2] = test["quantiles"][2, 0, 2]  # no width
    adjusted, _ = conformal(validation, test, level=0.5, relative=False)
    assert adjusted["lower"].where(test["context"]).isnull().all()
    hidden = ~test["context"]
    assert (adjusted["lower"] <= adjusted["upper"]).where(hidden, True).all()
    assert adjusted["lower"].where(hidden, 0).notnull().all()
    relative, _ = conformal(evaluation(8), test, gaps=(1,))
    assert np.isinf(relative["upper"][0, 2]).all()


def test_gaps_are_counted_within_a_window():
    context = np.array([[0, 1, 0, 0, 1, 0, 0, 0], [0] * 8, [1] * 8], dtype=bool)[..., None, None]
    expected = [[1, 0, 2, 2, 0, 3, 3, 3], [8] * 8, [0] * 8]
    assert gap_length(context)[..., 0, 0].tolist() == expected


def test_mistakes_are_refused(as_a_user):
    data = evaluation(20)
    with pytest.raises(ValueError, match=r"quantiles for, 0\.5, 0\.9; it is 0\.8"):
        conformal(data, data, level=0.8)
    with pytest.raises(ValueError, match="gaps must increase from 1"):
        conformal(data, data, gaps=(2, 6))
    with pytest.raises(ValueError, match="unit must be 'window' or 'entry'"):
        conformal(data, data, unit="node")
    with pytest.raises(ValueError, match="conditioning is posterior and filtering"):
        conformal(data, data.assign_attrs(conditioning="filtering"))
    with pytest.raises(ValueError, match="hidden entries; it has none"):
        conformal(data.assign(target=data["target"] & False), data)
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal_quantile(np.ones(3), 1.0)
    with pytest.raises(ValueError, match="1 of them are NaN"):
        conformal_quantile(np.array([np.nan, 1.0]), 0.9)


def dated(data: xr.Dataset, start: int) -> xr.Dataset:
    shape = data.sizes["window"], data.sizes["step"]
    return data.assign_coords(time=(AXES[:2], start + np.arange(shape[0] * shape[1]).reshape(shape)))


def test_the_two_must_be_of_the_same_questions(as_a_user):
    data = evaluation(20).assign_coords(node=["a", "b", "c"], channel=["x"])
    first, second = dated(data, 0), dated(data, 20 * data.sizes["step"])
    conformal(first, second)
    with pytest.raises(ValueError, match="must score different times; they share"):
        conformal(first, first)
    with pytest.raises(ValueError, match="must have the same nodes"):
        conformal(first, second.assign_coords(node=["a", "b", "d"]))
    with pytest.raises(ValueError, match="must have the same channels"):
        conformal(first, second.assign_coords(channel=["y"]))
    with pytest.raises(ValueError, match="horizon is None and 3"):
        conformal(first, second.assign_attrs(horizon=3))
    # steps of which nothing is scored may be the history of both
    together = dated(data, 20 * data.sizes["step"] - 2)
    hidden = data["target"].values.any(axis=(0, 2, 3))
    assert not hidden[:2].any()
    conformal(first, together)


def written(data: xr.Dataset, start: int, path) -> None:
    """As a test leaves it."""
    nodes, masked = data.sizes["node"], data["target"].values
    data = dated(data, start).assign_coords(
        node=[f"{v}" for v in range(nodes)], channel=["x"], unit=("channel", ["K"])
    )
    edges = {f"edge_{end}": ("edge", np.array([0])) for end in ("source", "target", "weight")}
    entry = {"rank": (AXES, np.where(masked, 0, -1)), "crps": (AXES, np.where(masked, 1.0, np.nan))}
    data.assign(edges | entry | {"share_missing": ("node", np.zeros(nodes))}).to_netcdf(path)


@pytest.mark.parametrize("mistake", ["junk", "no quantiles"])
def test_a_file_that_is_not_a_tests_is_one_line(mistake, tmp_path, capsys):
    (tmp_path / "val").mkdir()
    written(evaluation(40, seed=1), 0, tmp_path / "val" / "evaluation.nc")
    path = tmp_path / "evaluation.nc"
    if mistake == "junk":
        path.write_text("no netCDF")
    else:
        evaluation(40).drop_vars("quantiles").to_netcdf(path)
    assert main(["conformal", str(tmp_path)]) == 2
    shown = capsys.readouterr().err.strip()
    assert str(path) in shown and len(shown.splitlines()) == 1


def test_the_command_adjusts_a_run(tmp_path, capsys):
    assert main(["conformal", str(tmp_path)]) == 2
    assert "--data.test_on val" in capsys.readouterr().err
    (tmp_path / "val").mkdir()
    written(evaluation(40, seed=1), 0, tmp_path / "val" / "evaluation.nc")
    assert main(["conformal", str(tmp_path)]) == 2
    written(evaluation(40, seed=2), 10_000, tmp_path / "evaluation.nc")
    assert main(["conformal", str(tmp_path), "--level", "0.5", "--unit", "entry"]) == 0
    assert "6 to 24 steps" in capsys.readouterr().out
    adjusted = xr.load_dataset(tmp_path / "conformal.nc")
    assert adjusted["lower"].dims == AXES and adjusted.attrs["conformal_level"] == 0.5
    for wrong in ([], [str(tmp_path), "--level", "x"], [str(tmp_path), "--unit", "node"]):
        assert main(["conformal", *wrong]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert main(["conformal", str(tmp_path), "--level", "0.7"]) == 2

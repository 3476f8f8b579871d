"""Confidence intervals over windows, and two answers held against each other."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from matplotlib.figure import Figure

from experiments.benchmarks import intervals as simulation
from experiments.benchmarks.intervals import Case
from tsgen.cli import compare as command
from tsgen.cli.main import main
from tsgen.evaluation import bootstrap
from tsgen.evaluation.bootstrap import MIN_WINDOWS, Ratio, WindowBootstrap, student_quantile
from tsgen.evaluation.comparison import adjust, baseline, compare, difference, intervals
from tsgen.evaluation.holm import holm

ENTRY = ("window", "step", "node", "channel")


# ------------------------------------------------------------------------------------------------- bootstrap


def test_the_standard_error_is_that_of_scipys_resamples():
    random = np.random.default_rng(0)
    weight = random.integers(1, 20, 400).astype(float)
    total = weight * random.gamma(2, size=400)
    reference = scipy.stats.bootstrap(
        (total, weight),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(1),
    )
    ratio = total.sum() / weight.sum()
    drawn = WindowBootstrap(400, resamples=999, block=1)
    found = drawn.estimate(Ratio(total, weight))
    assert found.value == pytest.approx(ratio)
    assert found.error == pytest.approx(reference.standard_error, rel=0.05)
    logarithm = drawn.estimate(Ratio(total, weight), log=True)
    assert logarithm.value == pytest.approx(np.log(ratio))
    assert logarithm.error == pytest.approx(found.error / ratio)
    root = drawn.estimate(Ratio(total, weight, rooted=True))
    assert root.value == pytest.approx(ratio**0.5)
    assert root.error == pytest.approx(found.error / ratio**0.5 / 2)
    low, high = drawn.interval(Ratio(total, weight))
    assert drawn.interval(Ratio(total, weight, rooted=True)) == pytest.approx((low**0.5, high**0.5))


def test_an_interval_of_many_windows_is_that_of_the_normal_distribution():
    x = np.random.default_rng(0).standard_normal(5000)
    found = WindowBootstrap(5000, block=1).estimate(Ratio(x, np.ones(5000)))
    reach = scipy.stats.norm.ppf(0.975) * x.std() / 5000**0.5
    np.testing.assert_allclose(found.interval(0.95), [x.mean() - reach, x.mean() + reach], atol=0.08 * reach)
    assert found.p_value == pytest.approx(2 * scipy.stats.norm.sf(abs(x.mean() / found.error)), abs=0.03)


@pytest.mark.parametrize("freedom", [1, 1.5, 5.67, 10.3, 81, 999])
def test_quantiles_of_student(freedom):
    for probability in (0.5, 0.9, 0.975, 0.995):
        assert student_quantile(probability, freedom) == pytest.approx(
            scipy.stats.t.ppf(probability, freedom), rel=1e-4, abs=1e-9
        )


def test_blocks_are_neighbours_and_every_window_counts_alike():
    drawn = WindowBootstrap(10, resamples=4000, block=5)
    start = np.concatenate([*drawn._starts()])
    assert start.shape == (4000, 2)
    times = np.bincount(start.ravel(), minlength=10)
    assert abs((times - 800) / 720**0.5).max() < 5  # binomial
    # around the end too
    assert drawn._block_sums(np.arange(10.0)).tolist() == [10, 15, 20, 25, 30, 35, 30, 25, 20, 15]
    assert WindowBootstrap(82).block == 4 and WindowBootstrap(34).block == 3 and WindowBootstrap(1).block == 1
    assert WindowBootstrap(34).blocks == 11 and WindowBootstrap(82).blocks == 20


def test_resamples_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    random = np.random.default_rng(0)
    ratio = Ratio(*random.random((2, 30)))
    whole = WindowBootstrap(30, 99).estimate(ratio)
    monkeypatch.setattr(bootstrap, "BLOCKS_AT_ONCE", 25)
    np.testing.assert_array_equal(whole.t, WindowBootstrap(30, 99).estimate(ratio).t)


def test_a_seed_fixes_the_interval():
    random = np.random.default_rng(0)
    ratio = Ratio(*random.random((2, 30)))
    first, again, other = (WindowBootstrap(30, 199, seed=seed).estimate(ratio).t for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


TRIALS = 500


def covered(case: Case, block: int | None = None) -> float:
    """How often the interval holds the truth in some of the simulations."""
    some = case._replace(totals=[x[:TRIALS] for x in case.totals], weight=case.weight[:TRIALS])
    return simulation.covered(some, block)


@pytest.mark.parametrize(
    ("windows", "errors", "weights"),
    [
        (20, "normal", "equal"),
        (20, "log-normal", "1 to 20"),
        (34, "log-normal", "log-normal"),
        (82, "exponential", "1 to 20"),
    ],
)
def test_intervals_of_independent_windows_hold_the_truth(windows, errors, weights):
    """The central part of the ratios of all resamples would hold it in 83 to 88 % of the log-normal cases."""
    share = covered(simulation.score(windows, errors, weights))
    assert abs(share - 0.95) < 5 * (0.95 * 0.05 / TRIALS) ** 0.5


def test_intervals_of_differences_hold_the_truth():
    cases = dict(simulation.comparisons(20, "1 to 20"))
    for name, case in ((name, cases[name]) for name in ("20 % worse", "skill")):
        assert abs(covered(case) - 0.95) < 5 * (0.95 * 0.05 / TRIALS) ** 0.5, name


def test_blocks_mend_dependence():
    case = simulation.score(82, "normal", "equal", correlation=0.5)
    single, blocks = covered(case, 1), covered(case)
    assert single < 0.8 and blocks > single + 0.1


def test_a_p_value_is_at_most_a_level_if_that_interval_excludes_zero():
    random = np.random.default_rng(0)
    outside = 0
    for size in random.uniform(0, 1.5, 200):
        x = np.exp(random.standard_normal(25)) - np.exp(0.5) + size
        found = WindowBootstrap(25, 999).estimate(Ratio(x, np.ones(25)))
        for level in (0.8, 0.9, 0.95, 0.99):
            low, high = found.interval(level)
            excludes = not low <= 0 <= high
            assert excludes == (found.p_value <= 1 - level + 1e-9)
            outside += excludes
    assert 100 < outside < 700


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_score_that_is_not_finite_has_no_interval(wrong):
    total = np.arange(1.0, 31)
    total[3] = wrong
    assert WindowBootstrap(30).interval(Ratio(total, np.ones(30))) is None


def test_windows_that_are_nearly_all_zero_have_a_finite_interval():
    total = np.zeros(20)
    total[3] = 1
    low, high = WindowBootstrap(20).interval(Ratio(total, np.ones(20)))
    assert np.isfinite([low, high]).all() and low <= 0.05 <= high


def test_too_few_windows_have_no_interval():
    drawn = WindowBootstrap(30, 199)
    weight = np.zeros(30)
    weight[: MIN_WINDOWS - 1] = 1
    assert drawn.interval(Ratio(weight, weight)) is None
    weight[MIN_WINDOWS - 1] = 1
    assert drawn.interval(Ratio(2 * weight, weight)) == pytest.approx((2, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": 0}, "windows must be at least 1; it is 0"),
        ({"windows": 5, "block": 0}, "block must be at least 1"),
        ({"windows": 5, "block": 6}, "block must be at most windows = 5; it is 6"),
        ({"windows": 5, "level": 95}, "level must lie between 0 and 1; it is 95"),
    ],
)
def test_a_bootstrap_that_makes_no_sense_is_refused(options, message, as_a_user):
    with pytest.raises(ValueError, match=message):
        WindowBootstrap(**options)


# ---------------------------------------------------------------------------------------------- comparisons


def make_evaluation(
    offset: float = 0.0, seed: int = 0, windows: int = 40, horizon: int = 0, steps: int = 12
) -> xr.Dataset:
    """An answer whose errors are larger by an offset; the questions are always the same."""
    shape = (windows, steps, 3, 1)
    asked = np.random.default_rng(100)
    truth = 20 + 5 * asked.standard_normal(shape).astype(np.float32)
    target = asked.random(shape) < 0.4
    context = ~target & (asked.random(shape) < 0.8)
    hard = np.abs(3 * asked.standard_normal((windows, 1, 1, 1)))  # for every answer
    random = np.random.default_rng(seed)
    error = hard + offset + random.random(shape)
    median = np.where(target, truth + error, truth).astype(np.float32)
    score = np.where(target, error, np.nan).astype(np.float32)
    return xr.Dataset(
        {
            "truth": (ENTRY, truth),
            "context": (ENTRY, context),
            "target": (ENTRY, target),
            "quantiles": (("quantile", *ENTRY), np.stack([median + i for i in range(-2, 3)])),
            "rank": (ENTRY, np.where(target, asked.integers(0, 10, shape), -1)),
            "crps": (ENTRY, 0.7 * score),
            "nll": (ENTRY, score - 4),
            "covered_90": (ENTRY, target & (error < 2)),
            "gap_length": (ENTRY, np.where(target, asked.integers(1, 8, shape), 0).astype(np.int32)),
            "energy_score": ("window", 2 * error.mean(axis=(1, 2, 3))),
            "variogram_score": (
                "window",
                np.where(np.arange(windows) == 3, np.nan, error.mean(axis=(1, 2, 3))),
            ),
            "baseline_error": (("baseline", *ENTRY), np.stack([score + 1, score + 2])),
            "share_missing": ("node", np.zeros(3)),
            "edge_source": ("edge", np.array([0, 1])),
            "edge_target": ("edge", np.array([1, 2])),
            "edge_weight": ("edge", np.array([1.0, 2.0])),
        },
        coords={
            "quantile": [0.05, 0.25, 0.5, 0.75, 0.95],
            "baseline": ["node mean", "linear interpolation"],
            "node": ["a", "b", "c"],
            "channel": ["NO2"],
            "unit": ("channel", ["µg/m³"]),
            "time": (("window", "step"), np.arange(windows * steps).reshape(windows, steps)),
        },
        attrs={"run": "x", "model": "M", "conditioning": "posterior", "num_samples": 9, "horizon": horizon},
    )


def found(rows, score, group=None, label=None):
    (row,) = (row for row in rows if (row.score, row.group, row.label) == (score, group, label))
    return row


def test_each_difference_is_its_definition():
    a, b = make_evaluation(), make_evaluation(0.3, seed=1)
    rows = compare(a, b)
    target = a["target"].values
    scores = []
    for data in (a, b):
        error = abs(data["quantiles"].sel(quantile=0.5) - data["truth"]).values.astype(float)[target]
        scores.append(
            {
                "mae": error.mean(),
                "rmse": (error**2).mean() ** 0.5,
                "mre": error.sum() / abs(data["truth"].values[target]).sum(),
                "crps": np.nanmean(data["crps"]),
                "nll": np.nanmean(data["nll"]),
                "coverage_90": data["covered_90"].values[target].mean(),
                "energy_score": data["energy_score"].values.mean(),
                "variogram_score": np.nanmean(data["variogram_score"]),
            }
        )
    assert [row.score for row in rows if row.group is None] == list(scores[0])
    for score, first in scores[0].items():
        row, second = found(rows, score), scores[1][score]
        assert (row.a, row.b) == pytest.approx((first, second), rel=1e-5), score
        assert row.difference == pytest.approx(second - first, rel=1e-4, abs=1e-6)
        assert row.interval[0] <= row.difference <= row.interval[1]
        assert row.entries == target.sum() and row.windows == 40
        if score not in ("nll", "coverage_90"):
            assert row.relative == pytest.approx(second / first - 1, rel=1e-3)
    assert found(rows, "crps").better == "a" and found(rows, "coverage_90").better is None
    assert found(compare(b, a), "crps").better == "b"


def test_groups_are_gap_lengths_and_lead_times():
    a, b = make_evaluation(horizon=5), make_evaluation(0.3, seed=1, horizon=5)
    for data in (a, b):
        data["target"][:, :7] = False
    rows = compare(a, b)
    target, gap = a["target"].values, a["gap_length"].values
    for label, low, high in (("1", 1, 1), ("2-5", 2, 5), ("6-24", 6, 24)):
        mask = target & (gap >= low) & (gap <= high)
        row = found(rows, "crps", "gap", label)
        assert row.entries == mask.sum()
        assert row.b == pytest.approx(b["crps"].values[mask].mean(), rel=1e-5)
    assert not [row for row in rows if row.label == "> 24"]
    for lead in range(1, 6):
        row = found(rows, "mae", "lead", str(lead))
        assert row.entries == target[:, 6 + lead].sum()
        assert row.a == pytest.approx(a["nll"].values[:, 6 + lead][target[:, 6 + lead]].mean() + 4, rel=1e-5)
    many = make_evaluation(horizon=24, steps=24)
    labels = [row.label for row in compare(many, many) if row.group == "lead" and row.score == "mae"]
    assert labels[0] == "1-2" and labels[-1] == "23-24" and len(labels) == 12


def test_what_is_hard_for_both_cancels():
    """The same windows in the same resamples: the interval of a difference is far narrower than a score's."""
    a, b = make_evaluation(), make_evaluation(0.08, seed=1)
    row, alone = found(compare(a, b), "mae"), intervals(a)["mae"]
    assert row.better == "a"
    assert row.interval[1] - row.interval[0] < 0.15 * (alone[1] - alone[0])


def test_groups_have_no_winner():
    """There are so many of them that some would win by chance."""
    a, b = make_evaluation(horizon=5), make_evaluation(0.3, seed=1, horizon=5)
    rows = compare(a, b)
    apart = [row for row in rows if row.interval and not row.interval[0] <= 0 <= row.interval[1]]
    assert any(row.group for row in apart)
    assert {row.group for row in rows if row.better} == {None}


def test_winners_are_named_by_adjusted_p_values():
    """One p-value of 0.02 among seven is what chance gives."""
    rows = compare(make_evaluation(horizon=5), make_evaluation(seed=1, horizon=5))
    ranked = [row for row in rows if row.adjusted is not None]
    assert [row.score for row in ranked] == [
        "mae",
        "rmse",
        "mre",
        "crps",
        "nll",
        "energy_score",
        "variogram_score",
    ]
    p_values = [0.02, 0.5, 0.6, 0.001, 0.7, 0.8, 0.9]
    changed = [replace(row, p_value=p) for row, p in zip(ranked, p_values, strict=True)]
    (found,) = adjust([changed])
    assert [row.adjusted for row in found] == pytest.approx(holm(p_values))
    assert [row.score for row in found if row.better] == ["crps"]
    assert found[0].adjusted == pytest.approx(0.12)
    # with more pairs of runs there are more rows, and the limit is stricter
    several = adjust([changed] * 9)
    assert not any(row.better for pair in several for row in pair)
    assert several[8][3].adjusted == pytest.approx(63 * 0.001)
    sentence = command.sentence(command.Pair("a", "b", rows), replace(found[0], interval=(0.1, 0.2)))
    assert "not significant" in sentence and "excludes zero, but" in sentence and "p = 0.12" in sentence


def test_filtering_and_posterior_have_no_better_nll():
    a, b = make_evaluation(), make_evaluation(0.3, seed=1)
    assert found(compare(a, b), "nll").better == "a"
    row = found(compare(a, b.assign_attrs(conditioning="filtering")), "nll")
    assert row.better is None and row.interval[0] > 0
    assert found(compare(a, b.assign_attrs(conditioning="filtering")), "crps").better == "a"


def test_a_score_at_or_below_zero_is_no_unit():
    """A fair variogram score may be negative: what is larger would be so many percent smaller."""
    a, b = make_evaluation(), make_evaluation(0.3, seed=1)
    a["variogram_score"] = a["variogram_score"] - 10
    row = found(compare(a, b), "variogram_score")
    assert row.a < 0 < row.difference and row.relative is None
    assert found(compare(b, a), "variogram_score").relative < 0
    drawn = command.draw([command.Pair("a", "b", compare(a, b)), command.Pair("b", "a", compare(b, a))])
    shown = [label.get_text() for label in drawn.axes[0].get_yticklabels()]
    assert shown == ["MAE", "RMSE", "MRE", "CRPS", "energy"]  # those that both pairs have


def test_truths_may_differ_by_rounding():
    a = make_evaluation()
    assert difference(a, a.assign(truth=a["truth"] * (1 + 1e-6))) is None
    assert "the truth differs" in difference(a, a.assign(truth=a["truth"] * (1 + 1e-4)))


def test_small_scores_keep_their_digits():
    a = make_evaluation()
    for name in ("truth", "quantiles", "crps"):
        a[name] = a[name] * 1e-7
    low, high = intervals(a)["mae"]
    assert 0 < low < high < 1e-5
    written = command.as_table(command.Pair("node mean", "a", compare(a, a)))["scores"][0]
    assert low < written["a"] < high


def test_a_run_is_nothing_but_itself():
    row = found(compare(make_evaluation(), make_evaluation()), "crps")
    assert row.difference == 0 and row.interval == (0, 0) and row.better is None


def test_a_baseline_is_an_answer():
    a = make_evaluation()
    rows = compare(baseline(a, "linear interpolation"), a)
    assert {row.score for row in rows} == {"mae", "rmse", "mre", "crps"}
    assert found(rows, "mae").difference == pytest.approx(-2, abs=1e-4)
    assert found(rows, "mae").better == "b"
    crps, mae = found(rows, "crps"), found(rows, "mae")
    assert crps.a == pytest.approx(mae.a, rel=1e-6)  # certain of itself
    with pytest.raises(ValueError, match="one of node mean, linear interpolation; it is 'spline'"):
        baseline(a, "spline")


def test_a_baseline_with_a_law_has_all_its_scores():
    a = make_evaluation()
    error = a["baseline_error"]
    a = a.assign(baseline_crps=0.6 * error, baseline_nll=error - 5, baseline_covered_90=error < 3)
    of_baseline = baseline(a, "linear interpolation")
    rows = compare(of_baseline, a)
    assert {"mae", "crps", "nll", "coverage_90"} <= {row.score for row in rows}
    crps, mae = found(rows, "crps"), found(rows, "mae")
    assert crps.a == pytest.approx(0.6 * mae.a, rel=1e-6)
    assert found(rows, "nll").a == pytest.approx(mae.a - 5, rel=1e-5)
    # its law is given the whole window: a model that filters has another NLL
    run = a.assign_attrs(conditioning="filtering")
    of_baseline = baseline(run, "linear interpolation")
    assert of_baseline.attrs["conditioning"] == "posterior"
    filtering = compare(of_baseline, run)
    assert found(filtering, "nll").adjusted is None and found(filtering, "crps").adjusted is not None
    assert found(compare(of_baseline, a.assign_attrs(conditioning="posterior")), "nll").adjusted is not None


def spoilt(name, change):
    def spoil(data):
        data[name] = (data[name].dims, change(data[name].values.copy()))
        return data

    return spoil


def flip(values):
    values[2, 3, 1, 0] ^= True
    return values


def shift(values):
    values[make_evaluation()["target"].values] += 0.5
    return values


OTHERS = {
    "nodes": (
        lambda data: data.assign_coords(node=["a", "b", "d"]),
        "the nodes of the first are 3 (a, b, c), those of the second 3 (a, b, d)",
    ),
    "channels": (lambda data: data.assign_coords(channel=["O3"]), "the channels of the first are 1 (NO2)"),
    "windows": (lambda data: data.isel(window=slice(0, 30)), "the first has 40 windows, the second 30"),
    "steps": (lambda data: data.isel(step=slice(0, 8)), "the first has 12 steps, the second 8"),
    "times": (spoilt("time", lambda time: time + 1), "their windows have different times"),
    "target": (spoilt("target", flip), "the mask of scored entries differs at 1 entries"),
    "context": (spoilt("context", flip), "the mask of visible entries differs at 1 entries"),
    "truth": (spoilt("truth", shift), "the truth differs at"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_questions_are_not_compared(case):
    change, message = OTHERS[case]
    a, b = make_evaluation(), change(make_evaluation())
    assert message in difference(a, b)
    with pytest.raises(ValueError, match="must have scored the same entries; ") as error:
        compare(a, b)
    assert "\n" not in str(error.value)
    unscored = a.copy(deep=True)
    unscored["truth"] = unscored["truth"].where(unscored["target"])
    assert difference(a, unscored) is None  # a truth that nothing is scored by may be absent


def test_nothing_scored_is_said():
    a = make_evaluation()
    a["target"][:] = False
    with pytest.raises(ValueError, match="must have scored hidden entries; neither scored any"):
        compare(a, a)


# ---------------------------------------------------------------------------------------- the command itself


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, data in (
        ("one", make_evaluation(horizon=5)),
        ("two", make_evaluation(0.3, seed=1, horizon=5)),
        ("three", make_evaluation(seed=2, horizon=5)),
        ("few", make_evaluation(seed=3, windows=4)),
    ):
        Path("runs", name).mkdir(parents=True)
        data.to_netcdf(Path("runs", name, "evaluation.nc"))
    return Path("runs")


def test_two_runs_are_compared(runs, capsys):
    assert main(["compare", "runs/one", "runs/two"]) == 0
    shown = capsys.readouterr().out
    assert "two (B) compared with one (A)" in shown
    assert "better if p, adjusted for the 7 rows that have one (Holm), is at most 0.05." in shown
    assert re.search(r"CRPS: one is better by 0\.2\d*; the interval 0\.\d+ to 0\.\d+ excludes zero\.", shown)
    table = json.loads((runs / "one_vs_two/comparison.json").read_text("utf-8"))
    assert table["level"] == 0.95 and table["windows"] == 40 and table["block"] == 3
    (pair,) = table["comparisons"]
    assert (pair["a"], pair["b"]) == ("one", "two")
    row = next(row for row in pair["scores"] if row["score"] == "crps")
    assert row["difference"] == pytest.approx(0.21, abs=0.02) and row["better"] == "a"
    assert [row["gap"] for row in pair["by_gap_length"] if row["score"] == "crps"] == ["1", "2-5", "6-24"]
    assert [row["lead"] for row in pair["by_lead_time"] if row["score"] == "mae"] == list("12345")
    assert (runs / "one_vs_two/comparison.png").stat().st_size > 10_000


def test_several_runs_and_one_alone(runs, capsys):
    assert main(["compare", "runs/one", "runs/two", "runs/three", "--out", "here"]) == 0
    table = json.loads(Path("here/comparison.json").read_text("utf-8"))
    assert [(pair["a"], pair["b"]) for pair in table["comparisons"]] == [("one", "two"), ("one", "three")]
    shown = capsys.readouterr().out
    assert "adjusted for the 14 rows" in shown
    assert "the difference is not significant" in shown and "contains zero" in shown
    assert main(["compare", "runs/one"]) == 0
    table = json.loads((runs / "one_vs_baselines/comparison.json").read_text("utf-8"))
    assert [pair["a"] for pair in table["comparisons"]] == ["node mean", "linear interpolation"]
    assert all(pair["b"] == "one" for pair in table["comparisons"])


def test_other_laws_are_said(runs, capsys):
    other = make_evaluation(0.3, seed=1, horizon=5).assign_attrs(conditioning="filtering")
    other.to_netcdf(runs / "two/evaluation.nc")
    assert main(["compare", "runs/one", "runs/two"]) == 0
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if "One conditions on the past" in line]
    assert "neither has the better NLL" in line and "NLL: " not in shown
    (pair,) = json.loads((runs / "one_vs_two/comparison.json").read_text("utf-8"))["comparisons"]
    assert (
        pair["other_conditioning"]
        and next(row for row in pair["scores"] if row["score"] == "nll")["better"] is None
    )


def test_few_windows_say_so(runs, capsys):
    assert main(["compare", "runs/few"]) == 0
    assert "too few windows to tell" in capsys.readouterr().out
    rows = json.loads((runs / "few_vs_baselines/comparison.json").read_text("utf-8"))["comparisons"][0][
        "scores"
    ]
    assert all(row["interval"] is None and row["better"] is None for row in rows)


def test_the_figure_has_a_mark_for_each_group():
    a, b = make_evaluation(horizon=5), make_evaluation(0.3, seed=1, horizon=5)
    drawn = command.draw([command.Pair("a", "b", compare(a, b))], "K")
    assert isinstance(drawn, Figure)
    overall, gap, lead = drawn.axes
    assert [len(ax.containers) for ax in drawn.axes] == [1, 1, 1]
    assert [len(ax.containers[0][0].get_xdata()) for ax in (gap, lead)] == [3, 5]
    assert gap.get_ylabel() == "difference in CRPS [K]" and len(overall.get_yticks()) == 6


MISTAKES = {
    "no run": (["compare", "runs/nowhere"], "runs/nowhere must be the folder of a tested run"),
    "a study": (["compare", "."], "it is that of a study"),
    "an unknown option": (["compare", "runs/one", "--what"], "unrecognized arguments: --what"),
    "no folder": (["compare", "runs/one", "--out"], "--out: expected one argument"),
    "only an option": (["compare", "--out", "x"], "required: RUN"),
    "other windows": (
        ["compare", "runs/one", "runs/few"],
        "one and few: both runs must have scored the same",
    ),
    "a damaged file": (["compare", "runs/damaged"], "damaged/evaluation.nc cannot be read as netCDF"),
    "an earlier version": (["compare", "runs/old"], "must have a variable 'nll'"),
    "a third that lacks a score": (
        ["compare", "runs/one", "runs/two", "runs/lacking"],
        "runs/lacking/evaluation.nc must have a variable 'energy_score'",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line(case, runs, capsys, monkeypatch):
    for name in ("damaged", "old", "lacking"):
        (runs / name).mkdir()
    lacking = make_evaluation(horizon=5).drop_vars("energy_score")
    lacking.to_netcdf(runs / "lacking/evaluation.nc")
    (runs / "damaged/evaluation.nc").write_text("no netCDF")
    make_evaluation().drop_vars("nll").to_netcdf(runs / "old/evaluation.nc")
    words, message = MISTAKES[case]
    if case == "a study":
        monkeypatch.chdir(runs)
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert message in shown and len(shown.strip().splitlines()) == 1


def test_without_words_the_usage_is_shown(capsys):
    assert main(["compare"]) == 2 and main(["compare", "--help"]) == 0
    assert "usage: tsgen compare RUN" in capsys.readouterr().out


def test_an_interval_of_what_is_not_negative_begins_at_zero():
    total = np.zeros(30)
    total[3] = 1.0
    low, _ = WindowBootstrap(30).interval(Ratio(total, np.ones(30), rooted=False, largest=1.0))
    assert low == 0

"""The report: figures show what the data say, and the page holds together whatever the data are named."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from tsgen import figures, report
from tsgen.data.interpolation import GAPS, gap_class
from tsgen.evaluation.comparison import compare
from tsgen.figures.compared import differing_panels
from tsgen.figures.missing import states
from tsgen.metrics import ExceedanceScores, breakdown
from tsgen.metrics.breakdown import better_baselines, by_group, deviation, doubts
from tsgen.metrics.ensemble import central_interval
from tsgen.report import write_comparison, write_report
from tsgen.report.evaluation import evaluation_sections
from tsgen.report.gaps import find_gaps, gap_fans, read_imputation
from tsgen.report.run import training
from tsgen.report.scores import best as best_of
from tsgen.report.tables import column

EMPTY = "data:image/svg+xml;base64,"
ENTRY = ("window", "step", "node", "channel")
HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(2)'>",
    "$\\frac{1}$ & \x07\n",
    "n" * 300,
]
VOID = {"meta", "img", "source", "br", "link"}


def make_evaluation(
    windows=3,
    steps=12,
    nodes=4,
    channels=1,
    samples=19,
    names=None,
    positions=True,
    conditioning="posterior",
    seed=0,
) -> xr.Dataset:
    """Calibrated samples of independent entries: visible, scored, unknown ones.

    Of several windows, the first has nothing to score.
    """
    random = np.random.default_rng(seed)
    shape = (windows, steps, nodes, channels)
    truth = random.normal(50, 7, shape).astype(np.float32)
    draws = random.normal(50, 7, (samples, *shape))
    kind = random.choice(3, shape, p=[0.5, 0.4, 0.1])
    kind[0] = np.where(kind[0] == 1, 2, kind[0]) if windows > 1 else kind[0]
    context, target = kind == 0, kind == 1
    spread = np.abs(draws[:, None] - draws[None]).mean(axis=(0, 1)) / 2
    crps = np.abs(draws - truth).mean(axis=0) - spread
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    quantiles = np.where(context, truth, np.quantile(draws, levels, axis=0)).astype(np.float32)
    low, high = central_interval(torch.from_numpy(np.sort(draws, axis=0)), 0.9)
    low, high = low.numpy(), high.numpy()
    source = np.append(np.arange(nodes), 0)[: 0 if nodes == 1 else None]  # directed, and with unequal weights
    target_node = (source + np.append(np.ones(nodes, int), 2)[: len(source)]) % nodes
    steps_since = np.arange(windows * steps).reshape(windows, steps)
    evaluation = xr.Dataset(
        {
            "truth": (ENTRY, np.where(kind == 2, np.nan, truth).astype(np.float32)),
            "context": (ENTRY, context),
            "target": (ENTRY, target),
            "rank": (ENTRY, np.where(target, (draws < truth).sum(axis=0), -1).astype(np.int32)),
            "crps": (ENTRY, np.where(target, crps, np.nan).astype(np.float32)),
            "covered_90": (ENTRY, target & (low < truth) & (truth <= high)),
            "quantiles": (("quantile", *ENTRY), quantiles),
            "edge_source": ("edge", source),
            "edge_target": ("edge", target_node),
            "edge_weight": ("edge", np.linspace(0.2, 1.5, len(source)).astype(np.float32)),
            "share_missing": ("node", random.random(nodes)),
        },
        coords={
            "quantile": levels,
            "node": (names or [f"station {v}" for v in range(nodes)])[:nodes],
            "channel": [f"PM{c}" for c in range(channels)],
            "unit": ("channel", ["µg/m³"] * channels),
            "time": (
                ("window", "step"),
                np.datetime64("2015-03-01", "ns") + steps_since * np.timedelta64(1, "h"),
            ),
        },
        attrs={
            "model": "AnyOrderModel",
            "conditioning": conditioning,
            "num_samples": samples,
            "run": "example",
        },
    )
    if positions:
        evaluation["position"] = (("node", "axis"), random.random((nodes, 2)) + np.array([116, 39]))
    return evaluation


def newer(evaluation: xr.Dataset, seed: int = 1) -> xr.Dataset:
    """What later tests write too: gap lengths, effective sample sizes."""
    random = np.random.default_rng(seed)
    target = evaluation["target"].values
    length = np.where(target, random.choice([1, 3, 10, 40], target.shape), 0)
    ess = random.uniform(0.05, 1, target.shape[:2])
    return evaluation.assign(gap_length=(ENTRY, length), ess=(("window", "step"), ess))


def newer_scores(leads: int = 0) -> dict:
    rows = [
        {
            "gap": gap,
            "entries": 100 * (4 - i),
            "mae": 1.0,
            "crps": 1.0 + i,
            "nll": 2.0,
            "coverage_90": 0.9 - i / 10,
        }
        for i, gap in enumerate(GAPS)
    ]
    steps = [{"lead": i + 1, "entries": 9, "mae": 1.0, "crps": 1.0 + i, "nll": None} for i in range(leads)]
    return {"by_gap_length": rows} | ({"by_lead_time": steps} if leads else {})


def make_scores(evaluation: xr.Dataset) -> dict:
    crps = evaluation["crps"].values
    entries = np.isfinite(crps).sum(axis=(0, 1, 3))
    mean = figures.node_scores(crps)
    row = {
        "name": "AnyOrderModel",
        "conditioning": "posterior",
        "mae": 5.0,
        "rmse": 7.0,
        "mre": 0.1,
        "crps": 3.5,
    }
    row |= {"coverage_50": 0.47, "coverage_90": 0.95, "width_50": 9.5, "width_90": 23.0, "nll": math.nan}
    return {
        "run": "example",
        "rows": [
            row,
            {
                "name": "node mean",
                "conditioning": None,
                "mae": 6.5,
                "crps": None,
                "coverage_50": 0.52,
                "width_50": 5.0,
            },
            {
                "name": "exact posterior",
                "conditioning": "posterior",
                "mae": 4.5,
                "crps": 3.25,
                "coverage_50": 0.5,
            },
        ],
        "by_node": [
            {"node": str(name), "entries": int(count), "crps": float(score), "mae": None}
            for name, count, score in zip(evaluation["node"].values, entries, mean, strict=True)
        ],
    }


@pytest.fixture
def make_run(tmp_path):
    def make(evaluation: xr.Dataset, **scores):
        evaluation.to_netcdf(tmp_path / "evaluation.nc")
        (tmp_path / "scores.json").write_text(json.dumps(make_scores(evaluation) | scores))
        return tmp_path

    return make


@pytest.fixture
def unpainted(monkeypatch):
    """Figures are drawn but not written as files: most of a page's time goes there."""
    monkeypatch.setattr("tsgen.report.pictures._encode", lambda figure: EMPTY)


class Page(HTMLParser):
    """What a page is made of; its tags must nest."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)


# ------------------------------------------------------------------------------------------------ calibration


@pytest.mark.parametrize(("samples", "bins"), [(19, 20), (100, 20), (99, 7), (1, 20), (4, 20)])
def test_every_rank_once_makes_a_flat_histogram(samples, bins):
    rank = np.repeat(np.arange(samples + 1), 3)
    rank = np.append(rank, [-1] * 50).reshape(1, -1)
    counts, edges = figures.rank_histogram(rank, samples, bins)
    assert (edges[0], edges[-1]) == (0, samples + 1)
    assert len(counts) == min(bins, samples + 1)
    assert np.ptp(np.diff(edges)) <= 1
    np.testing.assert_array_equal(counts, 3 * np.diff(edges))


def test_ranks_fall_into_their_bins():
    counts, edges = figures.rank_histogram(np.array([0, 0, 4, 5, 9, -1]), 9, bins=2)
    np.testing.assert_array_equal(edges, [0, 5, 10])
    np.testing.assert_array_equal(counts, [3, 2])
    with pytest.raises(ValueError, match="num_samples = 9; got 10"):
        figures.rank_histogram(np.array([10]), 9)


@pytest.mark.parametrize("samples", [1, 4, 19, 100])
def test_coverage_counts_the_truths_between_order_statistics(samples):
    random = np.random.default_rng(samples)
    truth, draws = random.normal(size=300), np.sort(1.3 * random.normal(size=(samples, 300)), axis=0)
    level, share = figures.central_coverage((draws < truth).sum(axis=0), samples)
    for k in range(1, len(level)):
        assert level[k] == pytest.approx(1 - 2 * k / (samples + 1))
        inside = (draws[k - 1] < truth) & (truth <= draws[samples - k])
        assert share[k] == pytest.approx(inside.mean() if 2 * k <= samples else 0)
    assert (level[0], share[0]) == (1, 1)
    level, share = figures.central_coverage(np.arange(samples + 1), samples)
    np.testing.assert_allclose(share, level, atol=1e-12)  # uniform ranks are calibrated exactly


def test_the_bars_are_a_density():
    evaluation = make_evaluation(samples=100)
    left, right = figures.calibration(evaluation).axes
    bars = left.patches
    assert sum(bar.get_width() * bar.get_height() for bar in bars) == pytest.approx(1)
    assert right.lines[1].get_xdata()[0] == 1


# ------------------------------------------------------------------------------------------------- fan charts


def test_panels_stand_at_the_quantiles_of_the_score():
    evaluation = make_evaluation(windows=8)
    evaluation["target"][1, :, 0] = False
    evaluation["target"][1, 0, 0] = True  # a single entry, and perfect: no best window
    evaluation["crps"][1, 0, 0] = 0
    panels = figures.choose_panels(evaluation)
    relative = evaluation["crps"].where(evaluation["target"]).mean("step") / deviation(evaluation)
    score = [float(relative[p.window, p.node, 0]) for p in panels]
    assert score == sorted(score)
    usual = relative.values[1:].ravel()
    usual = usual[usual > 0]
    assert score[0] == pytest.approx(usual.min()) and score[-1] == pytest.approx(usual.max())
    assert np.mean(usual < score[2]) == pytest.approx(0.5, abs=1 / len(usual))
    words = ["best", "25 % are better", "median", "75 % are better", "95 % are better", "worst"]
    assert [p.place for p in panels] == words
    assert all(p.window > 0 for p in panels)  # nothing of window 0 is scored
    ax = figures.fan_chart(evaluation, panels).axes[-1]
    assert f"= {score[-1]:.2g} sd" in ax.texts[0].get_text()
    assert ax.get_title(loc="right") == "worst"


def test_a_noisy_node_does_not_take_all_panels():
    evaluation = make_evaluation(windows=8)
    loud = evaluation.copy(deep=True)
    for name in ("truth", "crps"):
        loud[name][:, :, 1] *= 1000
    assert figures.choose_panels(loud) == figures.choose_panels(evaluation)


def test_a_long_window_is_cut_into_stretches():
    panels = figures.choose_panels(make_evaluation(windows=1, steps=100, nodes=1), longest=30)
    assert {p.start for p in panels} == {0, 25, 50, 75}
    assert all(p.stop == p.start + 25 for p in panels)


def test_panels_without_a_score():
    evaluation = make_evaluation(windows=1, nodes=2)
    evaluation["target"][:] = False
    panels = figures.choose_panels(evaluation)
    assert {(p.node, p.place) for p in panels} == {(0, ""), (1, "")}
    assert "not scored" in figures.fan_chart(evaluation).axes[0].texts[0].get_text()


def test_bands_close_on_what_is_visible():
    evaluation = make_evaluation()
    truth, context, target = (evaluation[name][1, :, 2, 0].values for name in ("truth", "context", "target"))
    evaluation["quantiles"] = evaluation["quantiles"].where(
        ~evaluation["context"]
    )  # what a writer may leave out
    figure = figures.fan_chart(evaluation, [figures.Panel(window=1, node=2)])
    (ax,) = figure.axes
    median, visible, hidden = ax.lines
    np.testing.assert_array_equal(median.get_ydata()[context], truth[context])
    np.testing.assert_array_equal(visible.get_ydata(), truth[context])
    np.testing.assert_array_equal(hidden.get_ydata(), truth[target])
    np.testing.assert_array_equal(hidden.get_xdata(), evaluation["time"][1].values[target])
    vertices = ax.collections[0].get_paths()[0].vertices  # the 90 % band, there and back
    when = matplotlib.dates.date2num(evaluation["time"][1].values)
    for at in np.flatnonzero(context):
        np.testing.assert_allclose(vertices[np.abs(vertices[:, 0] - when[at]) < 1e-3, 1], truth[at])
    unseen = np.flatnonzero(~context)[0]
    assert np.ptp(vertices[np.abs(vertices[:, 0] - when[unseen]) < 1e-3, 1]) > 0
    assert ax.get_title(loc="left") == "station 2"
    assert "2015-03-01 12:00" in ax.texts[0].get_text()
    crps = float(evaluation["crps"][1, :, 2, 0].mean())
    assert f"CRPS {crps:.3g}" in ax.texts[0].get_text()
    assert ax.get_ylabel() == "PM0 [µg/m³]"


@pytest.mark.parametrize("time", ["number", "calendar", "single"])
def test_fan_charts_of_other_times(time, tmp_path):
    evaluation = make_evaluation(steps=1 if time == "single" else 12)
    if time != "single":
        number = np.arange(36).reshape(3, 12)
        other = number if time == "number" else number.astype("timedelta64[D]")
        evaluation = evaluation.assign_coords(time=(("window", "step"), other))
    figures.fan_chart(evaluation).savefig(tmp_path / "fan.png")


# ---------------------------------------------------------------------------------------------------- network


def lines_of(evaluation: xr.Dataset) -> tuple[int, int]:
    """The numbers of lines and of arrows that the graph is drawn with."""
    ax = figures.network(evaluation).axes[0]
    lines = sum(len(c.get_segments()) for c in ax.collections if isinstance(c, LineCollection))
    return lines, sum(text.arrow_patch is not None for text in ax.texts)


def with_edges(evaluation: xr.Dataset, source, target) -> xr.Dataset:
    weight = np.linspace(0.2, 1.5, len(source)).astype(np.float32)
    edges = {"edge_source": source, "edge_target": target, "edge_weight": weight}
    rest = evaluation.drop_dims("edge")
    return rest.assign({name: ("edge", np.asarray(value)) for name, value in edges.items()})


def test_mutual_edges_are_one_line_and_others_arrows():
    evaluation = make_evaluation(nodes=30)
    assert lines_of(with_edges(evaluation, [0, 1, 1, 2, 3], [1, 0, 2, 1, 3])) == (2, 0)  # 3 -> 3 is no line
    assert lines_of(with_edges(evaluation, [0, 1, 1], [1, 0, 2])) == (0, 3)
    assert lines_of(with_edges(evaluation, [], [])) == (0, 0)
    many = np.array([(s, t) for s in range(30) for t in range(30) if s < t or (s, t) == (5, 2)])
    assert lines_of(with_edges(evaluation, *many.T)) == (435, 0)


def test_arrows_point_from_source_to_target():
    evaluation = with_edges(make_evaluation(nodes=30), [4], [7])
    arrow = figures.network(evaluation).axes[0].texts[0]
    place = evaluation["position"].values
    np.testing.assert_allclose(arrow.xyann, place[4])
    np.testing.assert_allclose(arrow.xy, place[7])


@pytest.mark.parametrize("positions", [None, "holes", "line"])
def test_nodes_without_positions_stand_on_a_circle(positions):
    evaluation = make_evaluation(positions=positions is not None)
    if positions == "holes":
        evaluation["position"][1, 0] = np.nan
    if positions == "line":
        evaluation["position"][:, 1] = 39.9
    place = figures.network(evaluation).axes[0].collections[-1].get_offsets()
    radius = np.hypot(*np.asarray(place).T)
    assert np.allclose(radius, 1) == (positions != "line")


def test_node_scores():
    crps = np.full((2, 3, 3, 2), np.nan)
    crps[0, 0, 0] = [1, 100]
    crps[1, 2, 0] = [3, 300]
    crps[:, :, 1, 0] = 6
    np.testing.assert_allclose(figures.node_scores(crps[..., :1]), [2, 6, np.nan])
    # the first channel's mean is (1 + 3 + 6 * 6) / 8 = 5, the second's 200
    np.testing.assert_allclose(figures.node_scores(crps), [(4 / 5 + 400 / 200) / 4, 6 / 5, np.nan])


def test_nodes_that_are_not_scored_are_white():
    evaluation = make_evaluation()
    evaluation["crps"][:, :, 3] = np.nan
    figure = figures.network(evaluation)
    assert figure.axes[1].get_title(loc="left") == "CRPS by node (white: not scored)"
    evaluation["crps"][:] = np.nan
    assert len(figures.network(evaluation).axes) == 2  # the graph and its colour bar


def test_networks_of_one_and_of_many(tmp_path):
    for nodes in (1, 2000):
        for positions in (True, False):
            small = make_evaluation(windows=1, steps=2, nodes=nodes, positions=positions, samples=3)
            figures.network(small).savefig(tmp_path / "network.png")


# ----------------------------------------------------------------------------------------------------- groups


def test_coverage_is_what_the_test_wrote():
    evaluation = make_evaluation()
    evaluation["covered_90"][:] = False
    label = np.zeros((1, 1, 1, 1), dtype=np.int64)
    assert by_group(evaluation, label, 1).covered == [0]
    assert np.isnan(by_group(evaluation.drop_vars("covered_90"), label, 1).covered).all()  # too few samples


def test_the_deviation_is_that_of_what_is_visible():
    evaluation = make_evaluation(windows=4, nodes=5, channels=2)
    evaluation["context"][:, :, 1] = False  # nothing visible: all known values
    evaluation["truth"][:, :, 2, 0] = 5.0  # nothing varies: the median node
    found = deviation(evaluation)
    truth, context = evaluation["truth"].values, evaluation["context"].values
    assert found[0, 1] == pytest.approx(truth[:, :, 0, 1][context[:, :, 0, 1]].std(ddof=1), rel=1e-5)
    assert found[1, 0] == pytest.approx(np.nanstd(truth[:, :, 1, 0].ravel(), ddof=1), rel=1e-5)
    assert found[2, 0] == pytest.approx(np.median(np.delete(found[:, 0], 2)))


def test_groups_are_scored_as_one_by_one():
    evaluation = newer(make_evaluation(windows=5, samples=19))
    label = gap_class(evaluation["gap_length"].values)
    found = by_group(evaluation, label, len(GAPS))
    rank, crps, scale = evaluation["rank"].values, evaluation["crps"].values, deviation(evaluation)
    for g, length in enumerate((1, 3, 10, 40)):
        mine = evaluation["gap_length"].values == length
        relative = (crps / scale)[mine]
        assert found.entries[g] == mine.sum()
        assert found.crps[g] == pytest.approx(crps[mine].mean(), rel=1e-5)
        assert found.relative[g] == pytest.approx(relative.mean(), rel=1e-5)
        assert found.error[g] == pytest.approx(relative.std() / np.sqrt(len(relative)), rel=1e-4)
        assert found.covered[g] == pytest.approx(np.mean((rank[mine] >= 1) & (rank[mine] <= 18)))
    alone = by_group(evaluation, np.full(label.shape, -1), 2)
    assert alone.entries.tolist() == [0, 0] and np.isnan(alone.crps).all()


def test_gap_classes():
    assert gap_class(np.array([0, 1, 2, 5, 6, 24, 25, 999])).tolist() == [-1, 0, 1, 1, 2, 2, 3, 3]


def calm(**options) -> xr.Dataset:
    evaluation = make_evaluation(**{"windows": 40, "steps": 12, "nodes": 4, **options})
    evaluation["share_missing"][:] = 0.1
    return evaluation


def test_a_calibrated_model_raises_no_doubts():
    assert doubts(newer(calm()), {}) == []


def test_doubts_find_what_was_planted():
    evaluation = newer(calm())
    time = evaluation["time"].values.copy()
    time[20:] += np.timedelta64(40, "D")
    evaluation = evaluation.assign_coords(time=(("window", "step"), time))
    target = evaluation["target"].values
    outside = np.zeros(target.shape, dtype=bool)
    outside[:, :, 2] = True
    evaluation["covered_90"] &= ~outside
    everything, doubt = doubts(evaluation, {})[:2]
    assert (everything.kind, everything.name) == ("all", "entries")
    assert (doubt.kind, doubt.name) == ("node", "station 2")
    assert doubt.covered == pytest.approx(0)
    assert doubt.reasons == ["the truth lies outside the 90 % interval for 100 % of its entries, not 10 %"]

    evaluation = newer(calm()).assign_coords(time=evaluation["time"])
    evaluation["crps"][20:] *= 9
    assert [(d.kind, d.name) for d in doubts(evaluation, {})] == [("month", "2015-04")]
    evaluation["crps"][20:] /= 9
    evaluation["crps"] = evaluation["crps"].where(evaluation["gap_length"] != 40, 40)
    assert [(d.kind, d.name) for d in doubts(evaluation, {})] == [("gap length", "> 24 steps")]
    evaluation = newer(calm())
    evaluation["covered_90"][:, -1] = False
    assert ("lead time", "step 3") in [(d.kind, d.name) for d in doubts(evaluation, newer_scores(leads=3))]


def test_the_report_says_who_wins(tmp_path):
    evaluation = make_evaluation()
    scores = make_scores(evaluation)
    found = evaluation_sections(evaluation, scores)["scores"]
    assert found["lowest"] == "" and not found["laws"] and not found["baselines"]  # of an earlier version
    scores["rows"].insert(1, scores["rows"][0] | {"name": "network mean", "crps": 3.4, "nll": 2.0})
    warning = "Warning: network mean has a lower CRPS than the model (3.4 < 3.5)"
    found = evaluation_sections(evaluation, scores | {"baselines": [warning]})["scores"]
    assert found["lowest"] == "Lowest CRPS: network mean (3.4)." and found["laws"]
    assert found["baselines"] == [warning]


def test_a_model_that_is_bad_everywhere_stands_out():
    evaluation = newer(calm())
    error = np.where(evaluation["target"], evaluation["crps"] / 2, np.nan)[None]
    evaluation["baseline_error"] = (("baseline", *ENTRY), np.concatenate([4 * error, error]))
    evaluation = evaluation.assign_coords(baseline=["node mean", "linear interpolation"])
    (found,) = doubts(evaluation, {})
    assert (found.kind, found.name) == ("all", "entries")
    assert found.reasons == ["CRPS is 2 times that of the baseline linear interpolation"]
    evaluation["covered_90"][:] = False
    first = doubts(evaluation, {})[0]
    # with a law, the CRPS of a baseline is below its absolute error
    lower = evaluation["baseline_error"] / 2
    assert better_baselines(evaluation.assign(baseline_crps=lower))[0].baseline == pytest.approx(
        float(lower[1].mean()), rel=1e-6
    )
    assert first.name == "entries" and first.reasons[0].startswith("the truth lies outside the 90 % interval")
    noise = np.random.default_rng(0).normal(size=error.shape)
    evaluation = newer(calm()).assign_coords(baseline=["node mean"])
    close = evaluation["crps"].values[None] + noise
    evaluation["baseline_error"] = (("baseline", *ENTRY), close)
    assert doubts(evaluation, {}) == []


def test_doubts_on_nodes_without_data():
    evaluation = calm(nodes=3)
    evaluation["share_missing"][1] = 0.8
    for name, value in (("target", False), ("crps", np.nan), ("rank", -1)):
        evaluation[name][:, :, 2] = value
    found = {d.name: d.reasons for d in doubts(evaluation, {})}
    assert found == {
        "station 1": ["80 % was never observed, so there was little to learn from"],
        "station 2": ["no entry was scored, so its errors are unknown"],
    }


def test_few_entries_are_not_judged():
    evaluation = calm(windows=2)
    evaluation["covered_90"][:] = False
    assert int(evaluation["target"].sum()) < 4 * breakdown.MIN_ENTRIES
    assert all(d.entries >= breakdown.MIN_ENTRIES for d in doubts(evaluation, {}))


def test_gaps_and_leads_are_drawn_as_they_are():
    evaluation = newer(make_evaluation(windows=5))
    scores = newer_scores(leads=4)
    left, right = figures.by_gap({"": scores}, evaluation).axes
    assert [bar.get_height() for bar in left.patches] == [1, 2, 3, 4]
    assert left.get_ylabel() == "mean CRPS [µg/m³]"
    assert [label.get_text() for label in left.get_xticklabels()] == [
        "1\nn = 400", "2-5\nn = 300", "6-24\nn = 200", "> 24\nn = 100"
    ]  # fmt: skip
    np.testing.assert_allclose(right.lines[0].get_ydata(), [0.9, 0.8, 0.7, 0.6])
    assert right.lines[1].get_ydata()[0] == 0.9 and right.get_ylim()[0] < 0.6
    left, right = figures.by_lead({"": (evaluation, scores)}).axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), [1, 2, 3, 4])
    rank = evaluation["rank"].values[:, -4]
    covered = np.mean((rank[rank >= 0] >= 1) & (rank[rank >= 0] <= 18))
    assert right.lines[0].get_ydata()[0] == pytest.approx(covered)


def test_effective_sample_sizes():
    evaluation = newer(make_evaluation(windows=5))
    evaluation["ess"][:, 3] = np.nan  # a step without weights
    assert len(figures.particles(evaluation).axes[0].lines) == 2  # an older run does not say how many
    (ax,) = figures.particles(evaluation.assign_attrs(particles=200)).axes
    median, worst, limit = ax.lines
    ess = np.delete(evaluation["ess"].values, 3, axis=1)
    np.testing.assert_array_equal(median.get_xdata(), [0, 1, 2, *range(4, 12)])
    np.testing.assert_allclose(median.get_ydata(), np.median(ess, axis=0))
    np.testing.assert_allclose(worst.get_ydata(), ess.min(axis=0))
    assert limit.get_ydata()[0] == 10 / 200


def test_states_of_overlapping_windows():
    evaluation = make_evaluation(windows=3, steps=4, nodes=2, channels=2)
    time = evaluation["time"].values.copy()
    time[1] = time[0] + np.timedelta64(2, "h")
    evaluation = evaluation.assign_coords(time=(("window", "step"), time))
    when, shares = states(evaluation)
    assert len(when) == 4 + 2 + 4
    for t, node in np.ndindex(len(when), 2):
        window, step = np.nonzero(time == when[t])
        seen, scored = (evaluation[x].values[window, step, node].any(axis=0) for x in ("context", "target"))
        expected = [(seen & ~scored).mean(), scored.mean(), (~seen & ~scored).mean()]
        np.testing.assert_allclose(shares[t, node], expected)


@pytest.mark.parametrize(
    "case", [{"nodes": 1}, {"nodes": 60}, {"windows": 1, "steps": 1}, {"steps": 800}], ids=str
)
def test_maps_of_what_was_seen(case, tmp_path):
    figure = figures.missingness(make_evaluation(samples=2, **case))
    figure.savefig(tmp_path / "map.png")
    (image,) = figure.axes[0].images
    pixels = np.asarray(image.get_array())
    assert pixels.shape[1] <= 900 and pixels.min() >= 0 and pixels.max() <= 1


# ------------------------------------------------------------------------------------------- scores, training


def test_score_bars_have_the_scores_lengths():
    scores = make_scores(make_evaluation())
    crps, mae = figures.score_bars(scores).axes
    assert [bar.get_width() for bar in crps.patches] == [3.5, 0, 3.25]
    assert [bar.get_width() for bar in mae.patches] == [5, 6.5, 4.5]
    assert [text.get_text() for text in crps.texts] == ["3.500", "–", "3.250"]
    assert [label.get_text() for label in crps.get_yticklabels()] == [
        "AnyOrderModel",
        "node mean",
        "exact posterior",
    ]


LOG = (
    "epoch,step,train/nll_step,train/nll_epoch,val/nll,lr-Adam\n0,0,9.0,,,0.1\n0,10,5.0,,,\n0,19,,6.0,4.5,\n"
)


def test_curves_are_read_through_the_holes(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(LOG + "1,29,4.0,,,\n1,39,,4.0,3.5,\n2,59,,3.9,3.75,\n")
    curves = figures.read_curves(path)
    assert curves["train, each step"].to_dict() == {0: 9, 10: 5, 29: 4}
    assert curves["train"].to_dict() == {19: 6, 39: 4, 59: 3.9}
    assert curves["validation"].to_dict() == {19: 4.5, 39: 3.5, 59: 3.75}
    (ax,) = figures.training_curve(path).axes
    assert [text.get_text() for text in ax.texts] == ["3.5"]  # the best validation
    path.write_text("epoch,step,train/loss\n0,0,2.0\n0,1,1.0\n")
    assert figures.training_curve(path).axes[0].get_ylabel() == "loss"


def test_wild_first_steps_do_not_press_the_rest_flat(tmp_path):
    path = tmp_path / "metrics.csv"
    values = [1e6, *np.linspace(4, 3, 200)]
    path.write_text("step,train/nll\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values)))
    (ax,) = figures.training_curve(path).axes
    assert ax.get_ylim()[1] < 5
    assert ax.get_title(loc="right") == "1 point above the axis"


@pytest.mark.parametrize(
    "text", ["", "epoch,train/nll\n0,1\n", "step,train/nll\n0,1\n0,1,2,3\n", "step\nx\n", "step\n1\n"]
)
def test_a_log_without_curves_is_an_error(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"metrics.csv must") as error:
        figures.training_curve(path)
    assert "\n" not in str(error.value)


def test_figures_leave_no_trace():
    code = (
        "import sys, matplotlib as m, tsgen.figures as f;"
        # to ask for the backend loads pyplot
        "state = lambda: {k: m.rcParams[k] for k in m.rcParams if k != 'backend'};"
        # torchmetrics loads pyplot; whoever asks for it after that fails
        "before = state(); sys.modules['matplotlib.pyplot'] = None;"
        "f.score_bars({'rows': [{'name': 'a', 'mae': 1.0}]}); assert state() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --------------------------------------------------------------------------------------------------- the page


def check(path) -> Page:
    """The page, after what must hold of any."""
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.count("script") == 0
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "@import" not in text
    assert "url(" not in text
    assert "http://" not in text
    assert "https://" not in text
    return page


def words_of(page: Page) -> str:
    """The page's text, with single spaces as a browser shows it."""
    return " ".join("".join(page.text).split())


def test_page_of_an_evaluation(make_run):
    run = make_run(make_evaluation())
    (run / "config_fit.yaml").write_text("seed: 1 # <b>&</b>\n")
    write("logs/fit/metrics.csv", LOG)(run)
    path = write_report(run)
    assert path == run / "report.html"
    page = check(path)
    text = words_of(page)
    evaluation = make_evaluation()
    assert "On 3 windows of 12 steps and 4 nodes, between 2015‑03‑01 and 2015‑03‑02, " in text
    assert (
        f" {int(evaluation['target'].sum())} entries with known truth were hidden from AnyOrderModel" in text
    )
    assert "against 19 joint samples" in text
    assert "The samples are posterior samples: each hidden entry is drawn given everything visible" in text
    assert "seed: 1 # <b>&</b>" in text
    assert page.count("details") == 2
    assert page.count("img") == 6
    assert page.rows[0][:6] == ["method", "conditioning", "MAE", "RMSE", "MRE", "CRPS"]
    assert page.rows[1][:6] == ["AnyOrderModel", "posterior", "5.000", "7.000", "10.0 %", "3.500"]
    assert page.rows[2][:6] == ["node mean", "–", "6.500", "–", "–", "–"]
    assert page.rows[3][0] == "exact posterior (bound)"
    assert "NLL" not in page.rows[0]  # nobody has one
    nodes = [row for row in page.rows[4:] if row[0].startswith("station")]
    assert len(nodes) == 4
    assert "Where not to trust the model" in text
    assert [row[2] for row in nodes] == sorted((row[2] for row in nodes), key=float, reverse=True)
    first = path.read_bytes()
    assert write_report(run).read_bytes() == first


def test_filtering_is_said_in_plain_words(unpainted, make_run):
    page = check(write_report(make_run(make_evaluation(conditioning="filtering"))))
    assert "later observations are not used" in words_of(page)


@pytest.mark.parametrize(
    ("key", "values", "best"),
    [
        ("mae", [3.0, 2.0, math.nan], {1}),
        ("nll", [-3.0, 2.0], {0}),
        ("coverage_90", [0.95, 0.88, 0.5], {1}),
        ("width_50", [1.0, 2.0], set()),  # narrow is not good by itself
        ("mae", [3.0, math.nan], set()),  # alone is not best
        ("mae", [2.0, 2.0, 5.0], {0, 1}),
    ],
)
def test_the_best_of_acolumn(key, values, best):
    assert best_of(key, values) == best


def test_exact_rows_are_never_bold(unpainted, make_run):
    text = write_report(make_run(make_evaluation())).read_text("utf-8")
    exact = text[text.index('<tr class="exact">') :]
    assert "<strong>" not in exact[: exact.index("</tr>")]
    assert "<strong>5.000</strong>" in text


def test_numbers_of_a_column_share_their_decimals():
    assert column([6.8194, 7.1, 17.73, math.nan, math.inf]) == ["6.819", "7.100", "17.730", "–", "∞"]
    assert column([-0.51234, 12345.6]) == ["−0.5123", "12,345.6000"]
    assert column([0.9, 0.0], percent=True) == ["90.0 %", "0.0 %"]
    assert column([1234567.0, 1e12]) == ["1,234,567", "1.000e+12"]


def test_templates_mark_nothing_as_safe():
    templates = list(Path(report.__file__).parent.glob("templates/*.j2"))
    assert templates and not [
        t for t in templates if re.search(r"\|\s*safe|autoescape", t.read_text("utf-8"))
    ]


def test_names_are_escaped(make_run):
    evaluation = make_evaluation(names=HOSTILE)
    evaluation.attrs |= {"model": HOSTILE[0], "run": HOSTILE[1]}
    evaluation = evaluation.assign_coords(channel=[HOSTILE[0]], unit=("channel", [HOSTILE[1]]))
    rows = make_scores(evaluation)["rows"]
    rows[0] |= {"name": HOSTILE[0], "conditioning": HOSTILE[1]}
    run = make_run(evaluation, run=HOSTILE[1], rows=rows)
    (run / "config_test.yaml").write_text(HOSTILE[0])
    path = write_report(run)
    page = check(path)
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "\x07" not in text
    assert page.rows[1][0] == HOSTILE[0]
    assert {HOSTILE[0], HOSTILE[1]} <= {row[0] for row in page.rows}


@pytest.mark.parametrize(
    "case",
    [
        {"nodes": 1, "positions": False},
        {"samples": 1},
        {"windows": 1, "steps": 1},
        {"channels": 5},
        {"nodes": 40, "windows": 2},
    ],
    ids=str,
)
def test_pages_of_unusual_evaluations(make_run, case, request):
    if case in ({"channels": 5}, {"nodes": 40, "windows": 2}, {"samples": 1}):
        request.getfixturevalue("unpainted")
    page = check(write_report(make_run(make_evaluation(**case))))
    text = words_of(page)
    assert ("one sample has no spread" in text) == (case.get("samples") == 1)
    assert ("The first 4 of 5 channels" in text) == (case.get("channels") == 5)
    assert ("The 30 worst of 40 nodes, by CRPS" in text) == (case.get("nodes") == 40)
    assert page.rows[3][0] == "exact posterior (bound)"
    nodes = [row for row in page.rows[4:] if row[0].startswith("station")]
    assert len(nodes) == min(case.get("nodes", 4), 30)


def test_page_where_nothing_is_scored(unpainted, make_run):
    evaluation = make_evaluation()
    evaluation["target"][:] = False
    evaluation["crps"][:] = np.nan
    evaluation["rank"][:] = -1
    run = make_run(
        evaluation, rows=[{"name": "AnyOrderModel", "conditioning": "posterior", "mae": None}], by_node=[]
    )
    text = words_of(check(write_report(run)))
    assert "Nothing was scored" in text
    assert "Calibration" not in text


def test_the_page_shows_thresholds_and_quantiles(make_run):
    scores = ExceedanceScores([0.5, 2.0])
    draws = torch.linspace(0, 3, 40).view(20, 2)
    scores.update(draws, torch.tensor([1.0, 2.5]))
    quantiles = [{"level": 0.05, "score": 0.125, "below": 0.04, "at_most": 0.07}]
    run = make_run(make_evaluation(), exceedance=scores.table(), quantile_scores=quantiles)
    page = write_report(run).read_text("utf-8")
    assert "<h2>Values above a threshold</h2>" in page and "&gt; 0.5" in page and "&gt; 2" in page
    for row in scores.table():
        cells = [f"<td>{100 * row[key]:.1f} %</td>" for key in ("frequency", "probability")]
        assert "".join(cells) in page
    assert "<h2>Quantiles</h2>" in page and "0.125" in page
    assert "<td>4.0 %</td><td>7.0 %</td>" in page  # below, and below or equal
    plain = write_report(make_run(make_evaluation())).read_text("utf-8")
    assert "Values above a threshold" not in plain and "<h2>Quantiles</h2>" not in plain


def test_a_log_without_curves_is_left_out(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,test/mae\n0,0,1.0\n")
    assert training(tmp_path / "metrics.csv") is None
    (tmp_path / "metrics.csv").write_text(LOG)
    found = training(tmp_path / "metrics.csv")
    assert found is not None and found["validated"] and found["picture"].wide.startswith(EMPTY)


def drop(name):
    return lambda run: xr.load_dataset(run / "evaluation.nc").drop_vars(name).to_netcdf(run / "evaluation.nc")


def mark(**attributes):
    return lambda run: (
        xr.load_dataset(run / "evaluation.nc").assign_attrs(attributes).to_netcdf(run / "evaluation.nc")
    )


def write(name, text):
    def damage(run):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)

    return damage


def cut(run):
    content = (run / "evaluation.nc").read_bytes()
    (run / "evaluation.nc").write_bytes(content[: len(content) // 2])


def spoil(run):
    """Damages what is stored, not where: it shows when the values are read."""
    path = run / "evaluation.nc"
    noise = np.random.default_rng(0).random((5, 3, 12, 4, 1))
    whole = xr.load_dataset(path).assign(quantiles=(("quantile", *ENTRY), noise))
    whole.to_netcdf(path, encoding={"quantiles": {"zlib": True, "chunksizes": noise.shape}})
    content = path.read_bytes()
    begin = content.index(b"\x78\x5e") + 2  # of the compressed stream
    path.write_bytes(content[:begin] + bytes(500) + content[begin + 500 :])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "evaluation.nc").unlink(), "evaluation.nc is missing"),
        (lambda run: (run / "scores.json").unlink(), "scores.json is missing"),
        (write("evaluation.nc", "not netCDF\n"), "evaluation.nc cannot be read as netCDF"),
        (cut, "evaluation.nc cannot be read as netCDF"),
        (spoil, "evaluation.nc cannot be read as netCDF"),
        (drop("rank"), "must have a variable 'rank'"),
        (drop("unit"), "must have a variable 'unit'"),
        (mark(conditioning="smoothing"), "must be filtering or posterior; got 'smoothing'"),
        (mark(num_samples=0), "num_samples"),
        (mark(num_samples=3), "must not exceed num_samples = 3"),
        (write("scores.json", '{"rows": ['), "scores.json is damaged"),
        (write("scores.json", "[]"), "must have a list 'rows'"),
        (write("scores.json", '{"rows": [{"mae": 1}], "by_node": []}'), "must have a list 'rows'"),
        (write("scores.json", '{"rows": [{"name": "a"}], "by_node": [{}]}'), "must have a list 'by_node'"),
        (write("scores.json", '{"rows": [{"name": "a"}]}'), "the test hid no entries"),
        (write("logs/fit/metrics.csv", "\n"), "metrics.csv must be a table"),
    ],
)
def test_errors_are_one_line(make_run, damage, message):
    run = make_run(make_evaluation())
    damage(run)
    with pytest.raises(ValueError, match=r".") as error:
        write_report(run)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "tsgen test --config" in str(error.value) or "metrics.csv" in str(error.value)
    assert not (run / "report.html").exists()


def test_a_run_with_nothing_hidden_is_not_called_untested(tmp_path):
    row = {"name": "AutoregressiveModel", "conditioning": "filtering", "nll": 0.8, "log_likelihood": -9.1}
    (tmp_path / "scores.json").write_text(json.dumps({"run": "example", "rows": [row]}))
    with pytest.raises(ValueError, match="the test hid no entries and scored densities only") as error:
        write_report(tmp_path)
    assert "missing" not in str(error.value) and "--data.horizon STEPS" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(
        ValueError, match=r"must be the folder of a run; it does not exist\. Write it with: tsgen test"
    ):
        write_report(tmp_path / "nowhere")


# ------------------------------------------------------------------------------------------------- imputation


def make_imputation(steps=60, nodes=3, channels=1, samples=20, names=None, seed=3) -> xr.Dataset:
    """Draws of gaps of many lengths; two stretches with steps left out between them."""
    random = np.random.default_rng(seed)
    shape = (steps, nodes, channels)
    observed = random.random(shape) < 0.6
    observed[10:40, 1] = False
    value = random.normal([[[20]] * nodes], 3, shape)
    draws = random.normal(20, 1 + np.arange(nodes)[:, None], (samples, *shape))
    time = np.datetime64("2020-01-01", "ns") + np.arange(steps) * np.timedelta64(1, "D")
    time[steps // 2 :] += np.timedelta64(90, "D")
    return xr.Dataset(
        {
            "imputation": (
                ("sample", "time", "node", "channel"),
                np.where(observed, value, draws).astype("f4"),
            ),
            "observed": (("time", "node", "channel"), observed),
        },
        coords={
            "time": time,
            "node": (names or [f"station {v}" for v in range(nodes)])[:nodes],
            "channel": [f"PM{c}" for c in range(channels)],
            "unit": ("channel", ["µg/m³"] * channels),
        },
        attrs={"model": "AnyOrderModel", "conditioning": "posterior", "seed": 0},
    )


def written(path, data: xr.Dataset, chunks=None):
    options = {"zlib": True, "chunksizes": chunks} if chunks else {}
    data.to_netcdf(path / "imputation.nc", encoding={"imputation": options})
    return path


def runs_of(observed: np.ndarray, breaks: np.ndarray) -> list[tuple[int, int, int, int]]:
    found = []
    for node, channel in np.ndindex(observed.shape[1:]):
        length = 0
        for t in range(len(observed) + 1):
            ends = t == len(observed) or observed[t, node, channel] or breaks[t]
            if ends and length:
                found.append((t - length, length, node, channel))
            length = 0 if ends else length
            length += t < len(observed) and not observed[t, node, channel]
    return found


@pytest.mark.parametrize("seed", range(5))
def test_gaps_are_found_one_by_one(seed):
    random = np.random.default_rng(seed)
    observed, breaks = random.random((30, 3, 2)) < 0.4, random.random(30) < 0.1
    gaps, kind = find_gaps(observed, breaks)
    expected = runs_of(observed, breaks)
    assert sorted(zip(*(x.tolist() for x in gaps), strict=True)) == sorted(expected)
    assert ((kind >= 0) == ~observed).all()
    for start, length, node, channel in expected:
        assert (kind[start : start + length, node, channel] == gap_class(np.array([length]))).all()


@pytest.mark.parametrize("chunks", [None, (20, 16, 3, 2), (10, 30, 2, 1)])
@pytest.mark.parametrize("most", [2**22, 2000, 1])
def test_an_imputation_is_summarised_as_if_read_whole(tmp_path, monkeypatch, chunks, most):
    monkeypatch.setattr("tsgen.report.gaps.MAX_VALUES", most)
    data = make_imputation(channels=2)
    data["imputation"] += 1e4  # a mean that a naive variance would drown in, in float32
    found = read_imputation(written(tmp_path, data, chunks) / "imputation.nc")
    values, observed = data["imputation"].values, data["observed"].values
    np.testing.assert_array_equal(found.observed, observed.sum(axis=0))
    np.testing.assert_array_equal(found.imputed.sum(axis=0), (~observed).sum(axis=0))
    low, high = (end.numpy() for end in central_interval(torch.from_numpy(np.sort(values, axis=0)), 0.9))
    width = np.where(observed, 0, high - low).sum(axis=0)
    np.testing.assert_allclose(found.width.sum(axis=0), width, rtol=1e-4)
    for node, channel in np.ndindex(3, 2):
        seen = values[0, observed[:, node, channel], node, channel].astype(float)
        assert found.deviation[node, channel] == pytest.approx(seen.std(ddof=1), rel=1e-6)
    # the gap of 30 steps is cut where steps were left out, and there alone
    assert found.gaps.length.max() == 20
    assert found.imputed[2, 1].sum() >= 2 * 30 > found.imputed[3].sum() == 0
    longest = gap_fans(found)[-1]
    assert longest.place == "longest" and longest.name == "station 1"
    assert (longest.time <= data["time"].values[29]).all()  # what lies across is not shown
    assert np.isnan(longest.levels).sum() == 0 and not longest.target.any()


def test_wide_intervals_are_told(unpainted, tmp_path):
    run = written(tmp_path, make_imputation(samples=100, steps=200))
    found = read_imputation(run / "imputation.nc")
    # draws of deviation 1, 2, 3 about nodes of deviation 3
    np.testing.assert_allclose(found.relative_width((0, 2)), 3.29 * np.array([1, 2, 3]) / 3, rtol=0.15)
    content = check(write_report(run))
    nodes = [row for row in content.rows if len(row) == 6][1:]
    assert [row[0] for row in nodes] == ["station 2", "station 1", "station 0"]
    assert nodes[0][1:3] == [f"{n:,}" for n in (found.observed[2, 0], found.imputed[:, 2].sum())]
    text = words_of(content)
    assert "unknown, so nothing here is a score: to score the model, hide some entries" in text
    assert "<h2>Scores" not in (run / "report.html").read_text("utf-8")


def test_a_page_of_scores_and_of_an_imputation(make_run):
    run = written(make_run(newer(make_evaluation()), **newer_scores(leads=3)), make_imputation())
    write("logs/fit/metrics.csv", LOG)(run)
    path = write_report(run, run / "page.html")
    content = check(path)
    assert "<h2>Training</h2>" in path.read_text("utf-8")
    text = words_of(content)
    assert "the scores above come from a test" in text
    for heading in ("By gap length", "By lead time", "Particles", "Visible and hidden", "Where not to trust"):
        assert heading in text
    assert all(attributes["alt"] for tag, attributes in content.tags if tag == "img")


@pytest.mark.parametrize("case", ["nothing missing", "one sample", "hostile", "one step", "numbers"])
def test_pages_of_unusual_imputations(unpainted, tmp_path, case):
    data = make_imputation(
        samples=1 if case == "one sample" else 5, names=HOSTILE if case == "hostile" else None
    )
    data = data.isel(time=[20]) if case == "one step" else data
    data = data.assign_coords(time=np.arange(60)) if case == "numbers" else data
    if case == "nothing missing":
        data["observed"][:] = True
    if case == "hostile":
        data = data.assign_coords(channel=HOSTILE[:1], unit=("channel", HOSTILE[1:2]))
        data.attrs |= {"model": HOSTILE[0], "conditioning": HOSTILE[1]}
    path = write_report(written(tmp_path, data))
    assert ("<h3>Gaps" in path.read_text("utf-8")) == (case != "nothing missing")
    assert {"<script", "<img src=x"}.isdisjoint(path.read_text("utf-8").split(">"))
    check(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "imputation.nc").write_text("no"), "imputation.nc cannot be read as netCDF"),
        (
            lambda run: (run / "imputation.nc").write_bytes((run / "imputation.nc").read_bytes()[:9000]),
            "imputation.nc cannot be read as netCDF",
        ),
        (
            lambda run: written(run, make_imputation().drop_vars("observed")),
            "must have a variable 'observed'",
        ),
    ],
)
def test_damaged_imputations_are_one_line(tmp_path, damage, message):
    damage(written(tmp_path, make_imputation()))
    with pytest.raises(ValueError, match=message) as error:
        write_report(tmp_path)
    assert "\n" not in str(error.value) and "tsgen predict" in str(error.value)


# ------------------------------------------------------------------------------------------------- comparison


@pytest.fixture
def two_runs(tmp_path):
    def make(second=lambda data: data, names=("first", "second"), first=None, **scores):
        folders = []
        first = newer(make_evaluation(windows=5)) if first is None else first
        for name, change in zip(names, (lambda data: data, second), strict=True):
            data = change(first.copy(deep=True))
            folder = tmp_path / ("a" if not folders else "b")
            folder.mkdir()
            data.to_netcdf(folder / "evaluation.nc")
            table = make_scores(data) | {"run": name} | newer_scores(leads=3) | scores
            (folder / "scores.json").write_text(json.dumps(table))
            folders.append(folder)
        return folders

    return make


def better(data: xr.Dataset) -> xr.Dataset:
    data["crps"] = data["crps"] * np.array([0.5, 1, 2, 1])[:, None]  # by node
    data.attrs["conditioning"] = "filtering"
    return data


def test_two_runs_side_by_side(two_runs):
    folders = two_runs(better)
    rows = make_scores(make_evaluation())["rows"]
    rows[0] |= {"mae": 4.0, "coverage_90": 0.91}
    table = json.loads((folders[1] / "scores.json").read_text()) | {"rows": rows}
    (folders[1] / "scores.json").write_text(json.dumps(table))
    for folder, line in zip(folders, ("hidden: 8", "hidden: <b>16</b>"), strict=True):
        (folder / "config_fit.yaml").write_text(f"seed: 0\n{line}\n")
    path = write_comparison(*folders)
    assert path == folders[0].parent / "a_vs_b.html"
    content = check(path)
    cells = {row[0]: row for row in content.rows}
    assert cells["score"] == ["score", "first", "second", "difference", "its 95 % interval", "relative"]
    assert cells["MAE"] == ["MAE", "5.000", "4.000", "−1.000", "–", "−20.0 %"]
    assert cells["90 % coverage"][1:4] == ["95.0 %", "91.0 %", "−4.0 %"]
    html = path.read_text("utf-8")
    assert "<strong>4.000</strong>" not in html  # so few windows name no better run
    nodes = [row for row in content.rows if row[0].startswith("station")]
    assert nodes[0][0] == "station 2" and nodes[1][0] == "station 0"
    assert [float(row[4].replace("−", "-")) > 0 for row in nodes[:2]] == [True, False]
    text = words_of(content)
    assert "One conditions on the past" in text
    assert "+hidden: <b>16</b>" in text
    for heading in ("By gap length", "By lead time", "The same windows", "Calibration"):
        assert f"<h2>{heading}" in html


def test_differences_have_their_intervals(unpainted, two_runs):
    """Those of `compare`; bold is only what is better by more than chance, and no NLL of different laws."""
    first = newer(make_evaluation(windows=30))
    first["nll"] = first["crps"] - 9

    def worse(data):
        data["crps"], data["nll"] = 2 * data["crps"], data["nll"] + 1
        return data.assign_attrs(conditioning="filtering")

    folders = two_runs(worse, first=first)
    row = make_scores(first)["rows"][0] | {"mae": 4.9, "crps": 7.0, "nll": 3.0}
    for folder, changed in zip(folders, ({"nll": 2.0}, {}), strict=True):
        table = json.loads((folder / "scores.json").read_text())
        (folder / "scores.json").write_text(json.dumps(table | {"rows": [row | changed]}))
    (crps,) = [x for x in compare(first, worse(first.copy())) if x.score == "crps" and x.group is None]
    path = write_comparison(*folders)
    cells = {row[0]: row for row in check(path).rows}
    assert cells["CRPS"][4] == " to ".join(column(list(crps.interval)))
    assert cells["MAE"][4] == "0.000 to 0.000" and cells["50 % coverage"][4] == "–"
    html = path.read_text("utf-8")
    assert "<strong>2.000</strong>" not in html  # the NLL
    assert crps.better == "a" and "<strong>7.000</strong>" in html


def test_panels_of_two_runs_stand_where_they_differ():
    first = make_evaluation(windows=5)
    second = better(first.copy(deep=True))
    gains, middle, loses = differing_panels(first, second)
    assert (gains.node, loses.node) == (0, 2) and middle.node in (1, 3)


def moved(data: xr.Dataset) -> xr.Dataset:
    return data.assign_coords(time=data["time"] + np.timedelta64(1, "h"))


def relabelled(name: str):
    return lambda data: data.assign_coords({name: [f"other {i}" for i in range(data.sizes[name])]})


def one_more(data: xr.Dataset) -> xr.Dataset:
    data["target"][1, 0, 0] = ~data["target"][1, 0, 0]
    return data


def seen(data: xr.Dataset) -> xr.Dataset:
    data["context"][1, 0, 0] = ~data["context"][1, 0, 0]
    return data


def shifted(data: xr.Dataset) -> xr.Dataset:
    data["truth"] += 1
    return data


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (moved, "their windows have different times"),
        (lambda data: data.isel(window=[0, 1, 2]), "the first has 5 windows, the second 3"),
        (relabelled("node"), "the nodes of the first are"),
        (relabelled("channel"), "the channels of the first are"),
        (one_more, "the mask of scored entries differs at 1 entries"),
        (seen, "the mask of visible entries differs at 1 entries"),
        (shifted, "the truth differs at"),
    ],
)
def test_runs_that_scored_other_entries_are_refused(two_runs, change, what):
    folders = two_runs(change)
    with pytest.raises(
        ValueError, match=f"a and .*b: both runs must have scored the same entries; {what}"
    ) as error:
        write_comparison(*folders)
    assert "\n" not in str(error.value)
    assert not list(folders[0].parent.glob("*.html"))


def test_two_runs_of_the_same_name_are_told_apart(unpainted, two_runs):
    content = check(write_comparison(*two_runs(names=("demo", "demo"))))
    assert ["score", "1: a", "2: b", "difference", "its 95 % interval", "relative"] in content.rows


def test_a_run_is_not_compared_with_itself(two_runs):
    folder = two_runs()[0]
    with pytest.raises(ValueError, match="the two runs must differ; both are"):
        write_comparison(folder, folder)


def test_names_of_two_runs_are_escaped(unpainted, two_runs):
    first = newer(make_evaluation(windows=5, names=HOSTILE, channels=2, positions=False))
    first = first.assign_coords(channel=HOSTILE[:2], unit=("channel", HOSTILE[1:3]))
    folders = two_runs(names=HOSTILE[:2], first=first)
    path = write_comparison(*folders, folders[0] / "page.html")
    html = path.read_text("utf-8")
    assert "<script" not in html and "<img src=x" not in html
    assert check(path).rows[0][1:3] == [HOSTILE[0], HOSTILE[1]]


def test_older_runs_are_compared_without_what_they_lack(unpainted, two_runs):
    old = make_evaluation(windows=5)
    path = write_comparison(*two_runs(first=old, by_gap_length=None, by_lead_time=[{"mae": 1.0}]))
    html = path.read_text("utf-8")
    assert "By gap length" not in html and "By lead time" not in html


def test_each_figure_is_a_figure():
    evaluation = make_evaluation()
    drawn = [figures.fan_chart, figures.calibration, figures.network]
    assert all(isinstance(draw(evaluation, columns=1), Figure) for draw in drawn)


@pytest.mark.slow
def test_a_year_of_many_nodes(make_run):
    """500 nodes and 8,736 hours take seconds."""
    small = make_evaluation(windows=52, steps=168, nodes=20)
    several = xr.concat([small] * 25, dim="node", data_vars="minimal").assign_coords(
        node=[str(v) for v in range(500)]
    )
    page = check(write_report(make_run(several)))
    assert "The 30 worst of 500 nodes, by CRPS" in words_of(page)


def test_a_run_of_an_earlier_version_calls_the_conditioning_law(make_run):
    run = make_run(make_evaluation())
    path = run / "evaluation.nc"
    data = xr.load_dataset(path)
    data.attrs["law"] = data.attrs.pop("conditioning")
    data.to_netcdf(path)
    scores = json.loads((run / "scores.json").read_text("utf-8"))
    for row in scores["rows"]:
        row["law"] = row.pop("conditioning")
    (run / "scores.json").write_text(json.dumps(scores))
    assert "posterior" in "".join(check(write_report(run)).text)


# ------------------------------------------------------------------------------- check on hidden values


def selfcheck() -> dict:
    """What `tsgen impute` writes of a check that a baseline wins."""
    rows = {"model": (0.7, 2.0, 3.0, 0.8), "a <baseline>": (0.5, 1.0, 1.5, 0.912)}
    names = ("crps_relative", "crps", "mae", "coverage_90")
    scores = {method: dict(zip(names, row, strict=True)) for method, row in rows.items()}
    histogram = {"counts": [30, 5, 40], "ranks": [7, 6, 7]}
    warning = "a <baseline> has a lower CRPS than the model"
    return {
        "entries": 1234,
        "scores": scores,
        "rank_histogram": histogram,
        "warnings": [warning],
        "remarks": [],
    }


def test_the_check_on_hidden_values_is_shown(tmp_path):
    run = written(tmp_path, make_imputation(samples=20, steps=60))
    (run / "selfcheck.json").write_text(json.dumps(selfcheck()))
    text = write_report(run).read_text("utf-8")
    assert "1,234 measured values were hidden" in text and "<baseline>" not in text
    section = text[text.index("Check on hidden values") : text.index("<h2>Imputation")]
    assert "Where not to trust the model:</strong> a &lt;baseline&gt; has a lower CRPS" in section
    assert section.index("a &lt;baseline&gt;</td>") < section.index(
        "<strong>model</strong>"
    )  # the best first
    assert "91.2 %" in section and "1.500" in section and section.count("<img") == 1
    assert "the check above is on other values" in text


@pytest.mark.parametrize("change", [lambda c: c.pop("scores"), lambda c: c["scores"]["model"].clear()])
def test_a_damaged_check_is_named(change, tmp_path):
    run, content = written(tmp_path, make_imputation(samples=20, steps=60)), selfcheck()
    change(content)
    (run / "selfcheck.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"selfcheck\.json is damaged"):
        write_report(run)

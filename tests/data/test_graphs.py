"""Graphs from coordinates, distances, edges and neighbours."""

import json
import logging
import subprocess
import sys

import networkx
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data
from torch_geometric.utils import from_networkx

from tsgen.data import GraphSeries, from_correlations, graphs


def as_matrix(graph):
    matrix = torch.zeros(graph.num_nodes, graph.num_nodes)
    matrix[graph.edge_index[0], graph.edge_index[1]] = graph.edge_weight
    return matrix


def test_haversine_knows_the_earth():
    # Paris, Berlin, and a quarter of the equator
    distances = graphs.haversine(np.array([48.8566, 52.52, 0, 0]), np.array([2.3522, 13.405, 0, 90]))
    assert distances[0, 1] == pytest.approx(877.46, abs=0.5)
    assert distances[2, 3] == pytest.approx(np.pi / 2 * graphs.EARTH_RADIUS_KM)
    assert np.allclose(distances, distances.T)
    assert (np.diag(distances) == 0).all()


def test_distance_kernel_keeps_the_direction_and_drops_the_far():
    distances = np.array([[0, 1.0, 3.0], [2.0, 0, np.inf], [9.0, 9.0, 0]])
    graph = graphs.from_distances(distances, scale=2.0, threshold=0.1)
    expected = torch.zeros(3, 3)
    expected[0, 1], expected[0, 2], expected[1, 0] = np.exp(-0.25), np.exp(-2.25), np.exp(-1.0)
    torch.testing.assert_close(as_matrix(graph), expected.float())
    default = graphs.from_distances(distances, threshold=0)
    theta = distances[np.isfinite(distances)].std()
    assert as_matrix(default)[0, 1] == pytest.approx(np.exp(-((1 / theta) ** 2)))
    assert as_matrix(default).diag().eq(0).all()


def test_coordinates_set_positions_east_and_north():
    graph = graphs.from_coordinates(np.array([50.0, 50.1]), np.array([8.0, 8.2]), scale=20)
    torch.testing.assert_close(graph.pos, torch.tensor([[8.0, 50.0], [8.2, 50.1]]).double())
    assert graph.num_edges == 2


def test_every_node_hears_from_its_nearest():
    graph = graphs.nearest_neighbours(np.array([0.0, 0.0, 0.0, 0.0]), np.array([0.0, 1.0, 3.0, 7.0]), k=1)
    assert sorted(zip(*graph.edge_index.tolist(), strict=True)) == [(0, 1), (1, 0), (1, 2), (2, 3)]
    assert (torch.bincount(graph.edge_index[1]) == 1).all()


def test_undirected_edges_go_both_ways_once():
    graph = graphs.from_edges([0, 1, 2], [1, 0, 0], [2.0, 2.0, 3.0], num_nodes=3, undirected=True)
    expected = torch.tensor([[0.0, 2, 3], [2, 0, 0], [3, 0, 0]])
    assert torch.equal(as_matrix(graph), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: graphs.from_edges([0], [1], [1.0, 2.0], num_nodes=2), "one number per edge"),
        (lambda: graphs.from_edges([0, 0], [1, 1], num_nodes=2), "0 -> 1 is listed 2 times"),
        (
            lambda: graphs.from_edges([0, 1], [1, 0], [1.0, 2.0], num_nodes=2, undirected=True),
            "listed 2 times",
        ),
        (lambda: graphs.from_edges([0], [2], num_nodes=2), r"0\.\.1"),
        (lambda: graphs.from_edges([0], [1], [-1.0], num_nodes=2), "positive"),
        (lambda: graphs.from_distances(np.zeros((2, 3))), "square"),
        (lambda: graphs.from_distances(np.array([[0, -1.0], [1, 0]])), "negative"),
        (lambda: graphs.from_distances(np.zeros((2, 2))), "length scale of the kernel must be positive"),
        (lambda: graphs.from_coordinates(np.array([116.0]), np.array([40.0])), "latitude must lie in"),
        (lambda: graphs.from_coordinates(np.array([1.0, 2.0]), np.array([40.0])), "same length"),
        (lambda: graphs.from_coordinates(np.array([np.nan]), np.array([40.0])), "latitude"),
        (lambda: graphs.nearest_neighbours(np.zeros(3), np.arange(3.0), k=3), "k must lie in"),
        (lambda: graphs.from_edges([0.5], [1], num_nodes=2), "source must hold the number of a node"),
        (lambda: graphs.from_edges(["a"], [1], num_nodes=2), r"source must be Sequence\[float\]"),
        (lambda: graphs.from_edges([0, 0], [1, 1], num_nodes=2, undirected=True), "0 -> 1 is listed 2 times"),
        (lambda: graphs.from_edges([0], [1], [1e-60], num_nodes=2), "positive and finite"),
        (lambda: graphs.from_edges([0], [1], [1e60], num_nodes=2), "positive and finite"),
        (lambda: graphs.from_edges([0, 1], [1, 0], [3e38, 3e38], num_nodes=2), "finite sum.*Divide all"),
        (lambda: graphs.from_distances(np.eye(2), threshold=2.0), r"threshold must lie in 0\.\.1"),
        (lambda: graphs.from_distances(np.full((3, 3), 0.1)), "length scale of the kernel must be positive"),
        (lambda: graphs.from_distances(np.ones((2, 2)), scale=np.inf), "length scale of the kernel"),
    ],
)
def test_bad_input_is_refused(as_a_user, make, message):
    with pytest.raises(ValueError, match=message):
        make()


@given(st.integers(2, 12), st.integers(0, 10_000))
def test_same_graph_ignores_the_order_of_edges_and_nothing_else(nodes, seed):
    rng = np.random.default_rng(seed)
    matrix = np.where(rng.random((nodes, nodes)) < 0.5, rng.random((nodes, nodes)) + 0.1, 0)
    matrix[0, 1] = 1.0
    source, target = np.nonzero(matrix)
    graph = graphs.from_edges(source, target, matrix[source, target], num_nodes=nodes)
    order = rng.permutation(len(source))
    other = graphs.from_edges(source[order], target[order], matrix[source, target][order], num_nodes=nodes)
    assert graphs.same_graph(graph, other)
    heavier = graphs.from_edges(source, target, matrix[source, target] * 1.5, num_nodes=nodes)
    assert not graphs.same_graph(graph, heavier)


# ------------------------------------------------------------------------------ names of weights

RING = torch.tensor([[0, 1, 2], [1, 2, 0]])  # as many nodes as edges: PyG calls w an attribute of the nodes
WEIGHT = torch.tensor([1.0, 2.0, 0.5])


def ring(**attributes) -> Data:
    return graphs.check_graph(Data(edge_index=RING, num_nodes=3, **attributes))


@pytest.mark.parametrize(
    "name", ["edge_weight", "edge_attr", "weight", "Weight", "weights", "w", "similarity"]
)
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
@pytest.mark.parametrize("make", [torch.Tensor.clone, torch.Tensor.double, torch.Tensor.numpy])
def test_weights_are_found_whatever_their_name(name, shape, make):
    given = Data(edge_index=RING, num_nodes=3, **{name: make(WEIGHT.view(shape))})
    graph = graphs.check_graph(given)
    assert torch.equal(graph.edge_weight, WEIGHT)
    assert set(given.keys()) == {"edge_index", name, "num_nodes"}  # unchanged
    assert set(graph.keys()) == {"edge_index", "edge_weight", "num_nodes"}
    assert graphs.same_graph(graphs.check_graph(graph), graph)


def test_weights_of_networkx():
    undirected = networkx.Graph()
    undirected.add_weighted_edges_from([("a", "b", 1.0), ("b", "c", 2.0)])
    graph = graphs.check_graph(from_networkx(undirected))
    assert as_matrix(graph).tolist() == [[0, 1, 0], [1, 0, 2], [0, 2, 0]]


@pytest.mark.parametrize("name", ["distance", "dist", "edge_length", "cost", "Distance (km)", "distance_m"])
def test_distances_become_weights(name, caplog):
    distance = torch.tensor([1.0, 2.0, 9.0])
    with caplog.at_level(logging.WARNING):
        graph = ring(**{name: distance})
    weight = (-(distance**2) / (distance**2).mean()).exp()
    assert graph.edge_index.tolist() == [[0, 1], [1, 2]] and weight[2] < 0.1
    torch.testing.assert_close(graph.edge_weight, weight[:2])
    assert "1 of 3 edges are dropped: 1 of a distance" in caplog.text
    assert set(graph.keys()) == {"edge_index", "edge_weight", "num_nodes"}


def test_equal_distances_are_equal_weights():
    assert ring(distance=torch.full((3,), 0.1)).edge_weight.unique().numel() == 1
    assert ring(distance=torch.zeros(3)).edge_weight.tolist() == [1, 1, 1]


def test_a_weight_counts_before_a_distance_and_anything_else():
    graph = ring(weight=WEIGHT, distance=torch.ones(3), edge_type=torch.zeros(3), x=torch.zeros(3, 4))
    assert torch.equal(graph.edge_weight, WEIGHT)
    assert graph.x.shape == (3, 4)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            dict(edge_attr=torch.ones(3, 2)),
            r"graph\.edge_attr must have one number per edge, 3; its shape is",
        ),
        (dict(edge_speed=torch.ones(3)), r"a weight \(weight, .*\) or a distance \(distance, .*'edge_speed'"),
        (dict(edge_weight=WEIGHT, weight=WEIGHT), "'edge_weight' and 'weight' both do"),
        (dict(distance=WEIGHT, cost=WEIGHT), "'cost' and 'distance' both do"),
        (dict(weight=-WEIGHT), r"graph\.weight must be positive"),
        (dict(weight=WEIGHT * 0), r"graph\.weight must be positive"),
        (
            dict(weight=torch.full((3,), torch.nan)),
            r"graph\.weight must be positive and finite; it holds nan",
        ),
        (dict(weight=["a", "b", "c"]), r"graph\.weight must be a tensor; it is list"),
        (dict(weight=torch.ones(3, dtype=torch.complex64)), "complex64"),
        (dict(distance=-WEIGHT), "distances must not be negative"),
        (dict(distance=WEIGHT * torch.inf), "distances of edges must be finite"),
    ],
)
def test_what_is_no_weight_is_refused(attributes, message):
    with pytest.raises(ValueError, match=message) as error:
        ring(**attributes)
    assert "\n" not in str(error.value)


def test_an_edge_is_listed_once_in_every_graph(series):
    twice = torch.tensor([[0, 1, 0], [1, 2, 1]])
    message = "0 -> 1 is listed 2 times. Merge the copies"
    with pytest.raises(ValueError, match=message):
        graphs.check_graph(Data(edge_index=twice, num_nodes=3))
    data = series.to_xarray().drop_vars(["edge_source", "edge_target", "edge_weight"])
    data = data.assign(edge_source=("edge", twice[0].numpy()), edge_target=("edge", twice[1].numpy()))
    with pytest.raises(ValueError, match=message):
        GraphSeries.from_xarray(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.rename(edge_weight="weights"), None),
        (lambda data: data.rename(edge_weight="edge_Weight"), None),
        (lambda data: data.set_coords("edge_weight"), None),
        (lambda data: data.assign_coords(edge=np.arange(7)), None),
        (lambda data: data.assign(edge_source=data["edge_source"].astype(float)), None),
        (lambda data: data.rename(edge_weight="flow"), "got 'edge_flow'"),
        (lambda data: data.assign(w=data["edge_weight"]), "'edge_w' and 'edge_weight' both do"),
        (lambda data: data.assign(edge_source=data["edge_source"] + 0.5), "edge_source must hold the number"),
        (
            lambda data: data.assign(edge_source=data["edge_source"].astype(str)),
            "edge_source must hold the num",
        ),
        (
            lambda data: data.assign(edge_source=("e", [0])),
            "must have one number per edge each; they have 1 and 7",
        ),
    ],
)
def test_edges_of_a_dataset(series, change, message):
    data = change(series.to_xarray())
    if message is None:
        assert graphs.same_graph(GraphSeries.from_xarray(data).graph, series.graph)
        return
    with pytest.raises(ValueError, match=message) as error:
        GraphSeries.from_xarray(data)
    assert "\n" not in str(error.value)


def test_distances_in_a_dataset(series):
    data = series.to_xarray().rename(edge_weight="edge_distance")
    graph = GraphSeries.from_xarray(data).graph
    pairs = zip(series.graph.edge_weight, *series.graph.edge_index.tolist(), strict=True)
    (nearest, *ends), matrix = min(pairs), as_matrix(graph)
    assert nearest < 1 and matrix[tuple(ends)] == matrix.max()


# -------------------------------------------------------------------------------------- many nodes

PLACES = {
    "anywhere": lambda rng, n: (np.degrees(np.arcsin(rng.uniform(-1, 1, n))), rng.uniform(-180, 360, n)),
    "date line": lambda rng, n: (rng.uniform(-1, 1, n), rng.choice([-1, 1], n) * rng.uniform(179.5, 180, n)),
    "poles": lambda rng, n: (rng.choice([-90.0, -89.9, 89.9, 90.0], n), rng.uniform(-180, 180, n)),
    "grid": lambda rng, n: (np.arange(n) // 7 * 0.5, np.arange(n) % 7 * 0.5),
    "coincident": lambda rng, n: (rng.integers(0, 3, n).astype(float), rng.integers(0, 3, n).astype(float)),
    "one place": lambda rng, n: (np.full(n, 50.0), np.full(n, 10.0)),
    "metres apart": lambda rng, n: (50 + 1e-5 * rng.random(n), 10 + 1e-5 * rng.random(n)),
    "both sides of the earth": lambda rng, n: (
        np.where(np.arange(n) % 2, 1.0, -1.0),
        np.arange(n) % 2 * 180.0,
    ),
}


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("nodes", [2, 5, 12, 60])
def test_neighbours_are_those_of_all_distances(places, nodes):
    latitude, longitude = PLACES[places](np.random.default_rng(nodes), nodes)
    distances = graphs.haversine(latitude, longitude)
    np.fill_diagonal(distances, np.inf)
    for k in {1, min(4, nodes - 1), nodes - 1}:
        graph = graphs.nearest_neighbours(latitude, longitude, k)
        source, target = graph.edge_index.numpy()
        assert (target == np.repeat(np.arange(nodes), k)).all() and (source != target).all()
        given = distances[target, source].reshape(nodes, k)
        np.testing.assert_array_equal(given, np.sort(distances, axis=1)[:, :k])
        if nodes <= k + 1 + graphs.TIES:  # ties are decided by number, as by a stable sort
            expected = np.argsort(distances, axis=1, kind="stable")[:, :k]
            np.testing.assert_array_equal(source.reshape(nodes, k), expected)


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("nodes", [2, 12, 60])
@pytest.mark.parametrize(("scale", "threshold"), [(None, 0.1), (100.0, 0.5), (3000.0, 0.1), (500.0, 0.0)])
def test_the_kernel_of_coordinates_is_that_of_all_distances(places, nodes, scale, threshold):
    latitude, longitude = PLACES[places](np.random.default_rng(nodes), nodes)
    if scale is None and places == "one place":
        with pytest.raises(ValueError, match="length scale of the kernel must be positive; it is 0"):
            graphs.from_coordinates(latitude, longitude)
        return
    graph = graphs.from_coordinates(latitude, longitude, scale, threshold)
    expected = graphs.from_distances(graphs.haversine(latitude, longitude), scale, threshold)
    assert torch.equal(graph.edge_index, expected.edge_index)
    torch.testing.assert_close(graph.edge_weight, expected.edge_weight)


def test_the_default_scale_is_computed_in_blocks():
    latitude, longitude = PLACES["anywhere"](np.random.default_rng(0), 1000)
    expected = graphs.haversine(latitude, longitude).std()
    assert graphs._deviation_of_distances(latitude, longitude) == pytest.approx(expected, rel=1e-12)


def test_graphs_that_do_not_fit_are_refused_at_once():
    latitude, longitude = PLACES["anywhere"](np.random.default_rng(0), 20_000)
    with pytest.raises(ValueError, match=r"must be given for more than 16,384 nodes.*there are 20,000"):
        graphs.from_coordinates(latitude, longitude)
    with pytest.raises(
        ValueError, match=r"at most 67,108,864 edges.*have \d{3},\d{3},\d{3}\. Pass a smaller sc"
    ):
        graphs.from_coordinates(latitude, longitude, scale=5000.0)
    with pytest.raises(ValueError, match=r"have 399,980,000\. Pass a smaller k"):
        graphs.nearest_neighbours(latitude, longitude, 19_999)


LARGE = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from tsgen.datamodules import FilesDataModule

folder, nodes = Path(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)
rows = [f"s{v},{80 * a:.4f},{180 * b:.4f}" for v, (a, b) in enumerate(rng.uniform(-1, 1, (nodes, 2)))]
(folder / "places.csv").write_text("\\n".join(["node,latitude,longitude", *rows]))
rows = [f"{t},s{v},{x:.2f}" for t in range(10) for v, x in enumerate(rng.normal(size=nodes))]
(folder / "data.csv").write_text("\\n".join(["time,node,x", *rows]))
start = time.perf_counter()
files = dict(path=folder / "data.csv", coordinates=folder / "places.csv", neighbours=8)
data = FilesDataModule(**files, window=4, batch_size=1)
batch = next(iter(data.train_dataloader()))
assert batch.values.shape == (1, 4, nodes, 1) and data.spec.edge_index.shape == (2, 8 * nodes)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([time.perf_counter() - start, memory]))
"""


@pytest.mark.parametrize("nodes", [30_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_nodes_load_in_seconds(nodes, tmp_path):
    """All distances of 30,000 nodes would take 7 GB."""
    command = [sys.executable, "-c", LARGE, tmp_path, str(nodes)]
    script = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert script.returncode == 0, script.stderr
    seconds, memory = json.loads(script.stdout.splitlines()[-1])
    assert memory < 2e9
    assert seconds < 60  # some seconds on a machine that does nothing else


def test_many_names_are_compared_once(series):
    names = [f"node {v}" for v in range(50_000)]
    graph = graphs.from_edges([0], [1], num_nodes=50_002)
    empty = torch.zeros(1, 50_002, 1)
    with pytest.raises(ValueError, match="'node 7' occurs 2 times"):
        GraphSeries(values=empty, observed=empty.bool(), graph=graph, nodes=[*names, "node 8", "node 7"])


# ----------------------------------------------------------------------------------------- clusters


def cut(graph, part) -> float:
    """Share of the weight on edges between parts."""
    source, target = graph.edge_index
    between = graph.edge_weight[part[source] != part[target]].sum()
    return float(between / graph.edge_weight.sum())


@settings(deadline=None)  # others may keep the machine busy
@given(nodes=st.integers(1, 40), data=st.data())
def test_parts_are_of_one_size_and_every_node_is_in_one(nodes, data):
    """Whatever the edges: none at all, pieces of their own, self-loops."""
    parts = data.draw(st.integers(1, nodes))
    edges = data.draw(st.sets(st.tuples(*[st.integers(0, nodes - 1)] * 2), max_size=60))
    graph = graphs.from_edges(*([e[i] for e in edges] for i in (0, 1)), num_nodes=nodes)
    part = graphs.partition(graph, parts)
    sizes = part.bincount(minlength=parts)
    assert len(part) == nodes and len(sizes) == parts
    assert int(sizes.max() - sizes.min()) <= 1
    assert torch.equal(part, graphs.partition(graph, parts))


def test_parts_are_cut_where_edges_are_few_and_light():
    # 6 groups of 5, each whole, joined by light edges
    number = np.random.default_rng(0).permutation(30).tolist()
    source, target, weight = [], [], []
    for u in range(30):
        for v in range(30):
            if u != v and u // 5 == v // 5:
                source.append(number[u]), target.append(number[v]), weight.append(1.0)
    for k in range(6):
        source.append(number[5 * k]), target.append(number[(5 * k + 6) % 30]), weight.append(0.1)
    graph = graphs.from_edges(source, target, weight, num_nodes=30)
    part = graphs.partition(graph, 6)
    groups = part[number].view(6, 5)
    assert (groups == groups[:, :1]).all() and len(groups[:, 0].unique()) == 6
    # a ring is cut into arcs
    ring = graphs.from_edges(range(12), [(v + 1) % 12 for v in range(12)], num_nodes=12)
    assert cut(ring, graphs.partition(ring, 4)) == pytest.approx(4 / 12)


@pytest.mark.parametrize("turn", range(4))
def test_weights_and_both_directions_count_for_parts(turn):
    """Two pairs in a ring: heavy edges hold together, wherever it begins."""
    ring = [(v + turn) % 4 for v in range(4)]
    graph = graphs.from_edges(ring, [*ring[1:], ring[0]], [1.0, 5.0, 1.0, 5.0], num_nodes=4)
    part = graphs.partition(graph, 2)[ring]
    assert part[1] == part[2] != part[0] == part[3]


def test_parts_must_be_possible():
    graph = graphs.from_edges([0], [1], num_nodes=3)
    for parts in (0, 4):
        with pytest.raises(
            ValueError, match=rf"clusters must lie in 1\.\.3, the number of nodes; it is {parts}"
        ):
            graphs.partition(graph, parts)


@pytest.mark.parametrize("number", [np.int64(3), torch.tensor(3)])
def test_a_number_of_nodes_may_be_of_any_library(number):
    graph = Data(edge_index=torch.tensor([[0], [1]]), num_nodes=number)
    assert graphs.check_graph(graph, 3).num_nodes == 3


def test_the_name_of_pyg_for_weights_comes_first():
    graph = Data(edge_index=torch.tensor([[0], [1]]), num_nodes=3)
    graph.edge_weight, graph.edge_attr = torch.tensor([2.0]), torch.ones(1, 4)
    checked = graphs.check_graph(graph)
    assert float(checked.edge_weight) == 2.0 and "edge_attr" not in checked


# ------------------------------------------------------------------------------------------ correlations


def correlated(steps=400, nodes=6, seed=0):
    """Values of which some are missing, and the mask of the others."""
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(steps, nodes)) @ generator.normal(size=(nodes, nodes))
    values = torch.from_numpy(1e4 + mixed * generator.uniform(0.1, 9, nodes))[..., None]
    return values, torch.from_numpy(generator.random((steps, nodes)) < 0.8)[..., None]


def test_edges_come_from_the_most_correlated_nodes():
    values, observed = correlated()
    frame = pd.DataFrame(values[..., 0].where(observed[..., 0], torch.nan).numpy())
    wanted = np.array(frame.corr().abs())  # of pairs of columns, where both are there
    np.fill_diagonal(wanted, 0)
    graph = from_correlations(values.where(observed, torch.nan), observed, neighbours=2, threshold=0.3)
    found = np.zeros((6, 6))
    found[graph.edge_index[1], graph.edge_index[0]] = graph.edge_weight
    second = np.sort(wanted, axis=1)[:, -2:-1]
    np.testing.assert_allclose(found, np.where((wanted >= second) & (wanted >= 0.3), wanted, 0), atol=1e-5)
    assert graph.edge_index.shape[1] > 6


def test_pairs_without_enough_in_common_have_no_edge():
    values, observed = correlated()
    values = values[:, :1] + torch.zeros_like(values)  # all alike
    values[:, 5] = 7.3  # constant
    observed[:, 1] = False
    observed[29:, 2] = False
    edges = from_correlations(values, observed).edge_index
    assert set(edges.flatten().tolist()) == {0, 3, 4}
    assert 2 in from_correlations(values, observed, common=10).edge_index


def test_the_largest_correlation_of_several_channels_counts():
    values, observed = correlated()
    both = torch.cat([torch.randn(values.shape, generator=torch.Generator().manual_seed(0)), values], dim=2)
    seen = torch.cat([torch.ones_like(observed), observed], dim=2)
    one, two = from_correlations(values, observed), from_correlations(both.double(), seen)
    assert torch.equal(one.edge_index, two.edge_index) and torch.allclose(one.edge_weight, two.edge_weight)


def test_correlations_of_many_nodes_are_computed_in_blocks(monkeypatch):
    values, observed = correlated(nodes=30)
    whole = from_correlations(values, observed, neighbours=3)
    monkeypatch.setattr("tsgen.data.graphs.MAX_PAIRS", 70)
    blocks = from_correlations(values, observed, neighbours=3)
    assert torch.equal(whole.edge_index, blocks.edge_index)
    assert torch.allclose(whole.edge_weight, blocks.edge_weight)
    # very long series are thinned
    monkeypatch.setattr("tsgen.data.graphs.MAX_PRODUCTS", 200 * 900)
    thinned = from_correlations(values, observed, neighbours=3)
    monkeypatch.undo()
    again = from_correlations(values[::2], observed[::2], neighbours=3)
    assert torch.equal(thinned.edge_index, again.edge_index)


@pytest.mark.parametrize(
    "options", [{"neighbours": 0}, {"common": 0}, {"threshold": 0.0}, {"threshold": 1.1}]
)
def test_wrong_options_of_correlations(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        from_correlations(*correlated(), **options)

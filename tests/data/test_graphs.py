"""Graphs from coordinates, distances, edges and neighbours."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tsgen.data import graphs


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
    torch.testing.assert_close(graph.pos, torch.tensor([[8.0, 50.0], [8.2, 50.1]]))
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

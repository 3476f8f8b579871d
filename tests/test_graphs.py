"""Graphs from coordinates, distances, edges and neighbours."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tsgen import graphs


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
        (lambda: graphs.from_distances(np.zeros((2, 2))), "length must be positive"),
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

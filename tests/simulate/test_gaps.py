"""Every kind of gap has its stated share and shape, and networks are what they say."""

import numpy as np
import pytest

from tsgen.simulate import gaps
from tsgen.simulate.gaps import Gaps
from tsgen.simulate.networks import Network, draw_network, draw_size

WINDOWS, STEPS, NODES = 3000, 36, 12
SHAPE = (WINDOWS, STEPS, NODES, 1)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_share(by_window: np.ndarray, expected: float) -> None:
    """Compares the mean of a number per window with its expectation, as a z-score."""
    assert abs(by_window.mean() - expected) < 5 * by_window.std() / len(by_window) ** 0.5


def begun(hidden: np.ndarray) -> np.ndarray:
    """Where a gap begins inside a window."""
    return hidden[:, 1:] & ~hidden[:, :-1]


def test_points_are_independent_at_a_rate_of_the_window():
    hidden = gaps.points(generator(), SHAPE)
    rate = hidden.mean(axis=(1, 2, 3))
    assert_share(rate, 1 / 2.5)
    assert abs((rate < 0.5).mean() - 0.5 ** (2 / 3)) < 5 * (0.25 / WINDOWS) ** 0.5 + 0.02
    middle = hidden[(rate > 0.3) & (rate < 0.5)][..., 0].astype(float)
    assert abs(np.corrcoef(middle[:, 1:].flatten(), middle[:, :-1].flatten())[0, 1]) < 0.03


def test_runs_are_of_single_nodes():
    assert_share(gaps.runs(generator(), SHAPE, 1).sum(axis=1).mean(axis=(1, 2)), 4 / 3)
    hidden = gaps.runs(generator(), SHAPE, 10)[..., 0]
    rare = hidden.mean(axis=(1, 2)) < 0.1  # few runs overlap
    length = hidden[rare].sum() / (begun(hidden[rare]).sum() * STEPS / (STEPS - 1))
    # log-uniform lengths, rounded down: the mean of floor(10^u)
    assert length == pytest.approx(np.floor(10 ** generator().random(10**6)).mean(), rel=0.1)
    # as many runs cover the first step as the last
    assert_share(hidden[:, 0].mean(axis=1) - hidden[:, -1].mean(axis=1), 0)
    together = hidden[rare][:, :, 0] & hidden[rare][:, :, 1]
    assert together.mean() < 2 * hidden[rare].mean() ** 2


def test_an_outage_is_of_the_whole_network():
    hidden = gaps.outages(generator(), WINDOWS, STEPS)
    assert hidden.shape == (WINDOWS, STEPS, 1, 1)
    count = hidden[:, 0, 0, 0] + begun(hidden).sum(axis=(1, 2, 3))
    assert set(count) == {1, 2, 3}
    assert hidden.sum(axis=(1, 2, 3)).max() <= 3 * (STEPS // 4)
    alone = hidden[count == 1].sum(axis=(1, 2, 3))
    assert alone.min() == 1 and alone.max() >= 8


def test_silent_nodes_are_silent_throughout():
    hidden = gaps.silent(generator(), WINDOWS, NODES)
    assert hidden.shape == (WINDOWS, 1, NODES, 1)
    assert_share(hidden.mean(axis=(1, 2, 3)), 0.25)
    assert_share(hidden.mean(axis=(1, 2, 3)) > 0.75, 0.003)


def test_a_forecast_is_at_the_end_of_all_nodes_or_of_half():
    hidden = gaps.forecast(generator(), WINDOWS, STEPS, NODES)[..., 0]
    assert (hidden[:, 1:] | ~hidden[:, :-1]).all(), "a gap that has begun never ends"
    length = hidden.sum(axis=1).max(axis=1)
    assert_share(length[length > 0], (STEPS // 2 + 1) / 2)
    assert length.max() == STEPS // 2
    concerned = hidden[:, -1].mean(axis=1)
    assert_share(concerned == 1, 0.5)
    assert_share(concerned[concerned < 1], 0.5)


def test_a_region_is_of_neighbours():
    network = draw_network(generator(3), NODES)
    hidden = gaps.regions(generator(), network, WINDOWS, STEPS)[..., 0]
    inside = hidden.any(axis=1)
    assert inside.mean(axis=1).max() <= 0.5 + 1 / NODES
    order = network.distance.argsort(axis=1)
    for some in inside[inside.any(axis=1)][:200]:
        count = int(some.sum())
        assert any(set(order[v, :count]) == set(np.flatnonzero(some)) for v in range(NODES))
    for window in hidden[:200]:
        times = window[:, window.any(axis=0)]
        assert (times == times[:, :1]).all(), "a region falls silent together"


@pytest.mark.parametrize("seed", range(6))
def test_gaps_may_depend_on_values(seed):
    scale = np.arange(1, NODES + 1)[:, None]
    values = scale * (generator(1).standard_normal((200, STEPS, NODES, 1)) + scale)
    hidden = gaps.by_value(generator(seed), values)
    assert 0.04 < hidden.mean() < 0.51
    z = (values - values.mean(axis=(0, 1))) / values.std(axis=(0, 1))
    assert abs(z[hidden].mean() - z[~hidden].mean()) > 0.4
    # standardised by node, so that no node is hidden more often
    assert hidden.mean(axis=(0, 1, 3)).std() < 0.02


def test_a_draw_combines_kinds_by_their_probabilities():
    values = generator(1).standard_normal((400, STEPS, NODES, 2))
    network = draw_network(generator(3), NODES)
    none = dict.fromkeys(Gaps.__dataclass_fields__, 0.0)
    # with no kind of gap a tenth is hidden all the same
    assert (~Gaps(**none).draw(generator(), network, values)).mean() == pytest.approx(0.1, abs=0.01)
    # all probabilities of two draws in five are multiplied by a factor
    some = Gaps(**none | {"outages": 0.5})
    shares = [
        (~some.draw(generator(seed), network, values)).all(axis=(2, 3)).any(axis=1).mean()
        for seed in range(40)
    ]
    assert np.median(shares) == pytest.approx(0.5, abs=0.06) and min(shares) < 0.4
    silent = ~Gaps(**none | {"unmeasured": 1.0}).draw(generator(2), network, values)
    assert (silent == silent[:1, :1]).all() and 0 < silent.mean() < 0.75


def test_channels_share_gaps_or_have_their_own():
    values = generator(1).standard_normal((100, STEPS, NODES, 2))
    network = draw_network(generator(3), NODES)
    points = Gaps(**dict.fromkeys(Gaps.__dataclass_fields__, 0.0) | {"points": 1.0})
    hidden = [~points.draw(generator(seed), network, values) for seed in range(30)]
    shared = np.mean([(h[..., 0] == h[..., 1]).all() for h in hidden])
    assert 0.2 < shared < 0.8


def test_wrong_probabilities_and_values_are_refused():
    with pytest.raises(ValueError, match="points must be a probability"):
        Gaps(points=1.5)
    with pytest.raises(ValueError, match="4 nodes"):
        Gaps().draw(generator(), draw_network(generator(), 4), np.zeros((2, 3, 5, 1)))


def test_networks_are_of_every_kind():
    empty = directed = weighted = altitude = 0
    for seed in range(200):
        network = draw_network(generator(seed), 20)
        pairs = network.distance[~np.eye(20, dtype=bool)]
        assert pairs.mean() == pytest.approx(1) and (pairs > 0).all()
        assert (network.distance == network.distance.T).all()
        rows = network.averaging.sum(axis=1)
        assert (np.isclose(rows, 1) | (rows == 0)).all()
        present = network.averaging > 0
        source, target = network.graph.edge_index.numpy()
        assert present[target, source].all() and present.sum() == len(source)
        assert not present.diagonal().any()
        empty += not len(source)
        directed += bool((present != present.T).any())
        weighted += len(network.graph.edge_weight.unique()) > 1
        plane = np.linalg.norm(network.position[:, None] - network.position, axis=-1)
        altitude += not np.allclose(plane / plane.sum(), network.distance / network.distance.sum())
    assert 0.05 < empty / 200 < 0.3
    assert 0.3 < directed / 200 < 0.8 and 0.5 < weighted / 200 < 0.95
    assert 0.2 < altitude / 200 < 0.4


def test_most_networks_have_six_to_forty_nodes():
    sizes = np.array([draw_size(generator(seed), 1, 200) for seed in range(2000)])
    assert sizes.min() < 6 and 180 < sizes.max() <= 200
    assert 0.7 < ((sizes >= 6) & (sizes <= 40)).mean() < 0.85
    few = [draw_size(generator(seed), 2, 4) for seed in range(200)]
    assert set(few) == {2, 3, 4}


def test_a_network_of_other_sizes_is_refused():
    network = draw_network(generator(), 4)
    with pytest.raises(ValueError, match="num_nodes=3"):
        Network(network.graph, network.position[:3], network.distance[:3, :3])
    with pytest.raises(ValueError, match="distance must be finite"):
        Network(network.graph, network.position, network.distance * np.nan)
    with pytest.raises(ValueError, match="nodes must be at least 1; it is 0"):
        draw_network(generator(), 0)

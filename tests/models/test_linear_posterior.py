"""The posterior of the linear process: exact in one block; several blocks, or some nodes, of a network."""

import pytest
import torch
from conftest import directed_graph
from torch_geometric.data import Data

from tsgen.data.series import SeriesBatch
from tsgen.exact import VARProcess, fit_shrunk
from tsgen.models.linear_posterior import BLOCK, LinearPosterior, blocks_of, similarity_of

NODES, CHANNELS = 5, 2


def windows(nodes: int = NODES, channels: int = CHANNELS, count: int = 8, steps: int = 20):
    """Windows in standard units, with memory and a common factor, and what is visible of them."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, steps, nodes, channels)
    values = torch.randn(shape, generator=generator) + torch.randn(*shape[:2], 1, 1, generator=generator)
    for t in range(1, steps):
        values[:, t] = 0.8 * values[:, t - 1] + 0.6 * values[:, t]
    observed = torch.rand(shape, generator=generator) < 0.6
    return (values / values.std()).masked_fill(~observed, torch.nan), observed


@pytest.fixture(scope="module")
def fitted():
    """A fitted posterior in one block, and the process that it holds."""
    posterior, graph = LinearPosterior(directed_graph(NODES), CHANNELS), directed_graph(NODES)
    assert not posterior.fitted
    posterior.fit(*windows(), graph, 2)
    assert posterior.fitted
    coefficients, covariance = posterior.coefficients[0], posterior.covariance[0]
    return posterior, VARProcess(coefficients, torch.zeros(len(covariance)), covariance)


def as_nodes(values, observed) -> SeriesBatch:
    """The entries of a slice as nodes of one channel."""
    rows, steps = values.shape[:2]
    return SeriesBatch(
        values=values.flatten(2)[..., None],
        context=observed.flatten(2)[..., None],
        target=torch.zeros_like(observed).flatten(2)[..., None],
        graph=Data(edge_index=torch.empty(2, 0, dtype=torch.int64), num_nodes=values[0, 0].numel()),
        position=torch.arange(rows * steps).view(rows, steps),
    )


def test_numbers_that_are_changed_in_place_are_read_again(fitted):
    """Callbacks that average weights exchange them in place for validation."""
    posterior, _ = fitted
    before, kept = posterior(*windows()), posterior.covariance.clone()
    posterior.covariance.data.copy_(4 * kept)
    wider = posterior(*windows())
    assert (wider.deviation.sum() / before.deviation.sum() - 2).abs() < 1e-6
    posterior.covariance.data.copy_(kept)
    assert torch.equal(posterior(*windows()).deviation, before.deviation)


def test_one_block_is_the_posterior_of_its_process(fitted):
    posterior, process = fitted
    values, observed = windows()
    law, exact = posterior(values, observed), process.posterior(as_nodes(values, observed))
    hidden = ~observed
    for found, expected in ((law.mean, exact.mean), (law.deviation, exact.stddev)):
        assert (found[hidden] - expected.view(found.shape)[hidden]).abs().max() < 1e-5
    assert (law.mean[observed] == values[observed]).all() and (law.deviation[observed] == 0).all()
    assert (law.surprise[hidden] == 0).all()
    # the surprise of a visible entry: its difference from its law given all others
    at = tuple(observed.nonzero()[17].tolist())
    without = observed.clone()
    without[at] = False
    one = posterior(values, without)
    z = (values[at] - one.mean[at]) / one.deviation[at]
    assert float(law.surprise[at]) == pytest.approx(float(z), abs=1e-5)


def test_the_process_is_the_one_fitted_to_the_entries_of_a_slice(fitted):
    _, process = fitted
    values, observed = (x.flatten(2) for x in windows())
    similarity = similarity_of(directed_graph(NODES), CHANNELS)(torch.arange(NODES * CHANNELS))
    expected = fit_shrunk(values, observed, similarity, 2)
    torch.testing.assert_close(process.covariance, expected.covariance)
    torch.testing.assert_close(process.coefficients[: expected.order], expected.coefficients)


def test_some_nodes_are_those_of_a_network_in_which_no_other_is_visible(fitted):
    posterior, _ = fitted
    values, observed = windows()
    nodes = torch.tensor([3, 0])
    law = posterior(values[:, :, nodes], observed[:, :, nodes], nodes)
    alone = torch.zeros_like(observed)
    alone[:, :, nodes] = observed[:, :, nodes]
    for found, expected in zip(law, posterior(values, alone), strict=True):
        torch.testing.assert_close(found, expected[:, :, nodes])
    assert not torch.allclose(law.mean, posterior(values, observed).mean[:, :, nodes])


def test_portions_of_bounded_memory_change_nothing(fitted, monkeypatch):
    posterior, _ = fitted
    whole = posterior(*windows())
    monkeypatch.setattr("tsgen.models.linear_posterior.BYTES_AT_ONCE", 1)
    for found, expected in zip(posterior(*windows()), whole, strict=True):
        torch.testing.assert_close(found, expected)


def ring(nodes: int) -> Data:
    """A directed ring whose nodes are numbered at random."""
    order = torch.randperm(nodes, generator=torch.Generator().manual_seed(0))
    edges = torch.stack([order, order.roll(1)])
    return Data(edge_index=edges, edge_weight=torch.ones(nodes), num_nodes=nodes)


@pytest.mark.parametrize(("nodes", "channels"), [(161, 1), (170, 2), (500, 1), (3, 100), (40, 7)])
def test_blocks_cover_each_entry_once(nodes, channels):
    blocks = blocks_of(ring(nodes), channels)
    assert len(blocks) > 1 and blocks.shape[1] <= BLOCK
    real = blocks[blocks >= 0]
    assert torch.equal(real.sort().values, torch.arange(nodes * channels))
    assert (blocks >= -1).all() and (blocks[:-1] >= 0).all()
    # the channels of a node stay together
    for block in blocks:
        numbers, counts = (block[block >= 0] // channels).unique(return_counts=True)
        assert (counts == channels).all() and len(numbers) <= BLOCK // channels


def test_a_block_is_of_neighbours():
    graph = ring(400)
    block = torch.empty(400, dtype=torch.int64)
    for number, index in enumerate(blocks_of(graph, 1)):
        block[index[index >= 0]] = number
    source, target = graph.edge_index
    assert (block[source] != block[target]).sum() <= 8


def test_small_networks_are_one_block():
    assert torch.equal(blocks_of(ring(80), 2), torch.arange(160)[None])
    assert torch.equal(
        blocks_of(Data(edge_index=torch.empty(2, 0, dtype=torch.int64), num_nodes=1), 3),
        torch.arange(3)[None],
    )


def test_networks_of_several_blocks_have_laws_of_every_entry(monkeypatch):
    monkeypatch.setattr("tsgen.models.linear_posterior.BLOCK", 4)
    graph = ring(7)
    posterior = LinearPosterior(graph, 1)
    assert posterior.block.shape == (2, 4)
    values, observed = windows(7, 1)
    posterior.fit(values, observed, graph, 1)
    law = posterior(values, observed)
    assert law.mean.isfinite().all()
    assert (law.deviation[~observed] > 0).all() and (law.deviation[observed] == 0).all()
    # an entry depends on its own block alone
    first = posterior.block[0]
    values[..., posterior.block[1][posterior.block[1] >= 0], :] += 3
    moved = posterior(values, observed)
    torch.testing.assert_close(moved.mean[:, :, first], law.mean[:, :, first])
    assert not torch.allclose(moved.mean, law.mean)
    # a state is loaded with its processes
    other = LinearPosterior(graph, 1)
    other(values, observed)
    other.load_state_dict(posterior.state_dict())
    torch.testing.assert_close(other(values, observed).mean, moved.mean)


def test_similarity_is_the_larger_weight_of_both_directions():
    graph = directed_graph(NODES)
    similarity = similarity_of(graph, 2)(torch.tensor([0, 1, 2, 3, 9, -1]))
    weight = torch.zeros(NODES, NODES).double()
    weight[graph.edge_index[0], graph.edge_index[1]] = graph.edge_weight.double()
    weight = torch.maximum(weight, weight.T) / weight.max()
    assert similarity[0, 2] == similarity[2, 0] == weight[0, 1] > 0
    assert similarity[1, 4] == weight[0, 4] > 0
    assert (similarity[0, [1, 3, 4, 5]] == 0).all() and (similarity[5] == 0).all()

"""What every encoder and every head promises, each pair of them in the same tests."""

import copy
import dataclasses
from functools import partial

import pytest
import torch
from conftest import ENCODERS, HEADS, make_batch, make_model, make_series
from torch_geometric.data import Data
from torch_geometric.nn import GATv2Conv, GCNConv, GraphConv, SAGEConv, TransformerConv

from tsgen import propagation
from tsgen.encoders import GraphGRUEncoder
from tsgen.heads import GaussianHead, MixtureHead
from tsgen.propagation import Convolution, GraphConvolution, Propagation
from tsgen.series import SeriesBatch, Units

CONVOLUTIONS = {
    "ours": GraphConvolution,
    "gcn": GCNConv,
    "sage": SAGEConv,
    "graph": GraphConv,
    "gatv2": partial(GATv2Conv, heads=2, concat=False, edge_dim=1),
    "transformer": partial(TransformerConv, heads=2, concat=False, edge_dim=1),
}
ENCODERS = ENCODERS | {
    f"gru {name}": partial(GraphGRUEncoder, hidden=6, convolution=c) for name, c in CONVOLUTIONS.items()
}
MODELS = [(encoder, head) for encoder in ENCODERS for head in HEADS]


@pytest.fixture(params=MODELS, ids=lambda pair: "-".join(pair))
def model(request, series):
    encoder, head = request.param
    return make_model(series, ENCODERS[encoder], HEADS[head])


def test_one_density_for_each_entry(model, batch):
    law = model(batch)
    assert law.batch_shape == batch.values.shape and law.event_shape == ()
    log_prob = model.log_prob(batch)
    assert torch.isfinite(log_prob).all()
    assert (log_prob[~batch.target] == 0).all() and (log_prob[batch.target] != 0).all()


def test_gradients_reach_every_parameter_and_are_finite(model, batch):
    (-model.log_prob(batch).sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_nothing_is_read_outside_the_masks(model, batch):
    """NaN, or any number, outside context and target changes no density, no gradient and no sample."""
    results = []
    for poison in (torch.nan, 1e9):
        hidden = ~(batch.context | batch.target)
        values = torch.where(hidden, poison, batch.values)
        poisoned = SeriesBatch(
            values, batch.context, batch.target, batch.graph, batch.position, batch.covariates
        )
        model.zero_grad()
        log_prob = model.log_prob(poisoned)
        log_prob.sum().backward()
        results.append([log_prob.detach(), *(p.grad.clone() for p in model.parameters())])
        unscored = torch.where(batch.context, batch.values, poison)
        nothing = torch.zeros_like(batch.target)
        blind = SeriesBatch(unscored, batch.context, nothing, batch.graph, batch.position, batch.covariates)
        results[-1].append(model.sampler(model, blind).values)
        assert torch.isfinite(results[-1][-1]).all()
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_no_entry_depends_on_what_it_must_not_see(model, batch):
    """The Jacobian: the present slice, the future, and far nodes too early do not matter; the past does."""
    known = SeriesBatch(
        torch.nan_to_num(batch.values, nan=50.0),
        torch.ones_like(batch.context),
        torch.ones_like(batch.target),
        batch.graph,
        batch.position,
        batch.covariates,
    ).rows(slice(0, 1))

    def means(values):
        return model(known._changed(values=values)).mean[0, :, :, 0]

    jacobian = torch.autograd.functional.jacobian(means, known.values)[..., 0, :, :, :].abs().sum(dim=-1)
    steps, nodes = jacobian.shape[:2]
    reach = torch.eye(nodes, dtype=torch.bool)
    reach[known.graph.edge_index[1], known.graph.edge_index[0]] = True
    t, s = torch.meshgrid(torch.arange(steps), torch.arange(steps), indexing="ij")
    # [t, v, s, u]: one hop a step
    allowed = torch.stack([torch.linalg.matrix_power(reach.float(), k) > 0 for k in range(steps + 1)])
    lag = (t - s).clamp(min=0)
    may = (allowed[lag] & (t > s)[..., None, None]).permute(0, 2, 1, 3)
    assert (jacobian[~may] == 0).all()
    assert (jacobian[may & (lag == 1)[:, None, :, None]] > 0).all()


def test_a_window_equals_its_chunks_with_the_carried_state(model, batch):
    encoder = model.encoder
    inputs = torch.randn(3, 10, 5, encoder.in_features, generator=torch.Generator().manual_seed(0))
    graph = Propagation(batch.graph)
    whole, last = encoder(inputs, graph)
    state, pieces = None, []
    for chunk in inputs.split([1, 4, 2, 3], dim=1):
        h, state = encoder(chunk, graph, state)
        pieces.append(h)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(state, last, atol=1e-6, rtol=1e-5)


def test_sampling_a_visible_window_sees_what_the_whole_window_sees(model, batch):
    """With everything visible but the last slice, the sampler's law there is that of the one pass."""
    context = torch.ones_like(batch.context)
    context[:, -1] = False
    full = SeriesBatch(
        torch.nan_to_num(batch.values, nan=50.0),
        context,
        ~context,
        batch.graph,
        batch.position,
        batch.covariates,
    )
    law = model(full)
    sampler = dataclasses.replace(model.sampler, num_samples=2000)
    with torch.no_grad():
        last = sampler(model, full).values[:, :, -1]
        z = (last.mean(dim=0) - law.mean[:, -1]) / (law.stddev[:, -1] / 2000**0.5)
    assert z.abs().max() < 5


def test_renumbering_the_nodes_renumbers_the_answer(model, batch):
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    place = order.argsort()
    graph = Data(edge_index=place[batch.graph.edge_index], edge_weight=batch.graph.edge_weight, num_nodes=5)
    turned = SeriesBatch(
        *(x[:, :, order] for x in (batch.values, batch.context, batch.target)),
        graph,
        batch.position,
        batch.covariates[:, :, order],
    )
    other = copy.deepcopy(model)
    other.loc.copy_(model.loc[order])
    other.scale.copy_(model.scale[order])
    torch.testing.assert_close(
        other.log_prob(turned), model.log_prob(batch)[:, :, order], atol=2e-5, rtol=1e-5
    )
    # and the direction of the edges matters
    swapped = Data(edge_index=graph.edge_index.flip(0), edge_weight=graph.edge_weight, num_nodes=5)
    wrong = other.log_prob(turned._changed(graph=swapped))
    assert (wrong - model.log_prob(batch)[:, :, order]).abs().max() > 1e-4


@pytest.mark.parametrize("head", HEADS)
def test_a_density_integrates_to_one_and_draws_follow_it(head):
    torch.manual_seed(0)
    made = HEADS[head](4, 2)
    units = Units(torch.full((3, 2), 40.0), torch.full((3, 2), 7.0))
    h = torch.randn(1, 1, 3, 4)
    nothing = torch.zeros(1, 1, 3, 2)
    law = made(h, nothing, nothing.bool(), units)
    grid = torch.linspace(-300, 400, 200_001)
    density = law.log_prob(grid[:, None, None, None, None]).exp()
    torch.testing.assert_close(
        torch.trapezoid(density, grid, dim=0), torch.ones(1, 1, 3, 2), atol=1e-3, rtol=0
    )
    size = 20_000
    uniforms = torch.rand(size, 1, 3, 2, made.uniforms_per_entry)
    draws = made.draw(
        h.expand(size, -1, -1, -1),
        nothing.expand(size, -1, -1, -1),
        nothing.bool().expand(size, -1, -1, -1),
        units,
        uniforms,
    )
    z = (draws.mean(dim=0) - law.mean[0]) / (law.stddev[0] / size**0.5)
    assert z.abs().max() < 5
    below = (draws < law.mean[0] + 0.5 * law.stddev[0]).double().mean(dim=0)
    expected = law.cdf(law.mean + 0.5 * law.stddev)[0].double()
    assert ((below - expected) / (expected * (1 - expected) / size).sqrt()).abs().max() < 5


@pytest.mark.parametrize(
    ("head", "parameters"), [(GaussianHead, 2 * 5), (partial(MixtureHead, components=3), 9 * 5)]
)
def test_heads_count_their_parameters(head, parameters):
    made = head(4, 2)
    assert made.num_parameters_per_entry == parameters
    assert sum(p.numel() for p in made.parameters()) == 2 * parameters


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_slices_do_not_mix_in_any_convolution(name, series):
    torch.manual_seed(0)
    convolution, graph = Convolution(CONVOLUTIONS[name], 4, 3), Propagation(series.graph)
    x = torch.randn(3, 2, 5, 4)
    one_by_one = torch.stack([torch.stack([convolution(s, graph) for s in row]) for row in x])
    torch.testing.assert_close(convolution(x, graph), one_by_one, atol=1e-6, rtol=1e-5)


def test_our_convolution_is_the_weighted_mean_of_in_neighbours(series, monkeypatch):
    torch.manual_seed(0)
    convolution = GraphConvolution(4, 3)
    x = torch.randn(2, 5, 4, requires_grad=True)
    source, target = series.graph.edge_index
    expected = torch.zeros(2, 5, 4)
    for v in range(5):
        into = (target == v).nonzero()[:, 0]
        share = series.graph.edge_weight[into] / series.graph.edge_weight[into].sum()
        expected[:, v] = (share[:, None] * x[:, source[into]]).sum(dim=1)
    dense = convolution(x, Propagation(series.graph))
    torch.testing.assert_close(dense, convolution.linear(expected), atol=1e-6, rtol=1e-5)
    (gradient,) = torch.autograd.grad(dense.square().sum(), x)
    monkeypatch.setattr(propagation, "DENSE_UP_TO", 0)
    sparse = convolution(x, Propagation(series.graph))
    torch.testing.assert_close(sparse, dense, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(sparse.square().sum(), x)[0], gradient, atol=1e-5, rtol=1e-5
    )


def test_a_convolution_that_does_not_fit_says_so():
    with pytest.raises(ValueError, match="concat: false"):
        GraphGRUEncoder(3, 4, partial(GATv2Conv, heads=2))
    with pytest.raises(ValueError, match="one row a node"):
        Convolution(torch.nn.Linear, 3, 4)


def test_samples_do_not_depend_on_the_batch(series):
    model, batch = make_model(series), make_batch(series, batch=4)
    whole = model.sampler(model, batch).values
    alone = model.sampler(model, batch.rows(slice(2, 3))).values
    torch.testing.assert_close(alone, whole[:, 2:3], atol=1e-4, rtol=1e-5)
    assert torch.equal(whole[:, batch.context], batch.values[batch.context].expand(5, -1))
    assert not torch.equal(whole[0], whole[1])
    other = dataclasses.replace(model.sampler, seed=8)
    assert not torch.equal(other(model, batch).values, whole)


def test_a_window_with_nothing_visible_is_generated():
    series = make_series(covariates=0)
    model, batch = make_model(series), make_batch(series)
    empty = batch._changed(
        context=torch.zeros_like(batch.context), values=torch.full_like(batch.values, torch.nan)
    )
    assert torch.isfinite(model.sampler(model, empty).values).all()

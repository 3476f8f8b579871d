"""What every encoder and every head promises, each pair of them in the same tests."""

import copy
import dataclasses
from functools import partial

import pytest
import torch
from conftest import (
    ENCODERS,
    HEADS,
    TWO_WAY_ENCODERS,
    make_batch,
    make_model,
    make_series,
)
from torch_geometric.data import Data
from torch_geometric.nn import GATv2Conv, GCNConv, GraphConv, SAGEConv, TransformerConv

from tsgen.data.series import SeriesBatch, SeriesSpec
from tsgen.encoders import AttentionEncoder, GraphGRUEncoder, propagation
from tsgen.encoders.propagation import Convolution, DiffusionConvolution, GraphConvolution, Propagation
from tsgen.exact.linear import VARProcess
from tsgen.models import AnyOrderModel, GraphVAR
from tsgen.sampling import Exact, Sampler

CONVOLUTIONS = {
    "ours": GraphConvolution,
    "diffusion": DiffusionConvolution,
    "gcn": GCNConv,
    "sage": SAGEConv,
    "graph": GraphConv,
    "gatv2": partial(GATv2Conv, heads=2, concat=False, edge_dim=1),
    "transformer": partial(TransformerConv, heads=2, concat=False, edge_dim=1),
}
EVERY_ENCODER = (
    ENCODERS
    | TWO_WAY_ENCODERS
    | {f"gru {name}": partial(GraphGRUEncoder, hidden=6, convolution=c) for name, c in CONVOLUTIONS.items()}
)


def pairs(encoders, heads):
    return [pytest.param((e, h), id=f"{e}-{h}") for e in encoders for h in heads]


@pytest.fixture
def model(request, series):
    encoder, head = request.param
    return make_model(series, EVERY_ENCODER[encoder], HEADS[head])


INDEPENDENT = [name for name in HEADS if "nade" not in name]
FORWARD = [name for name in EVERY_ENCODER if name not in TWO_WAY_ENCODERS]
EVERY_PAIR = pairs(FORWARD, HEADS) + pairs(TWO_WAY_ENCODERS, INDEPENDENT)
every_pair = pytest.mark.parametrize("model", EVERY_PAIR, indirect=True)


def whole(batch, window=slice(None)):
    """Everything visible and scored."""
    every = torch.ones_like(batch.context)
    return batch._changed(values=torch.nan_to_num(batch.values, nan=50.0), context=every, target=every).rows(
        window
    )


@every_pair
def test_one_density_for_each_entry_and_gradients_for_every_parameter(model, batch):
    law = model(batch)
    assert law.batch_shape == batch.values.shape and law.event_shape == ()
    log_prob = model.log_prob(batch)
    assert torch.isfinite(log_prob).all()
    assert (log_prob[~batch.target] == 0).all() and (log_prob[batch.target] != 0).all()
    (-log_prob.sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@every_pair
def test_nothing_is_read_outside_the_masks(model, batch):
    """NaN, or any number, outside context and target changes no density, no gradient and no sample."""
    results = []
    for poison in (torch.nan, 1e9):
        hidden = ~(batch.context | batch.target)
        poisoned = batch._changed(values=torch.where(hidden, poison, batch.values))
        model.zero_grad()
        log_prob = model.log_prob(poisoned)
        log_prob.sum().backward()
        results.append([log_prob.detach(), *(p.grad.clone() for p in model.parameters())])
        blind = batch._changed(
            values=torch.where(batch.context, batch.values, poison), target=torch.zeros_like(batch.target)
        )
        results[-1].append(model.sampler(model, blind.rows(slice(0, 1))).values)
        assert torch.isfinite(results[-1][-1]).all()
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@every_pair
def test_no_entry_depends_on_what_it_must_not_see(model, batch):
    """The Jacobian: of time, the past alone, or (in any order) everything visible but the hidden entry."""
    any_order = isinstance(model, AnyOrderModel)
    context = whole(batch, slice(0, 1))
    if any_order:
        context.context[0, 4] = False

    def means(values):
        return model(context._changed(values=values)).mean[0, :, :, 0]

    jacobian = torch.autograd.functional.jacobian(means, context.values)[..., 0, :, :, :].abs().sum(dim=-1)
    own = jacobian.diagonal(dim1=1, dim2=3)  # [t, s, v]: of the node itself
    if any_order:
        assert (jacobian[:, :, 4] == 0).all()  # nothing hears what is hidden
        assert (own[4, 3] > 0).all() and (own[4, 5] > 0).all()
        return
    steps = torch.arange(len(jacobian))
    lag = steps[:, None] - steps
    # entries of a slice may depend on each other
    first = {"MixtureNADEHead": 0}.get(type(model.head).__name__, 1)
    assert (jacobian.movedim(2, 1)[lag < first] == 0).all()
    assert (own[lag == 1] > 0).all()


@pytest.mark.parametrize("model", pairs(EVERY_ENCODER, ["mixture"]), indirect=True)
def test_sampling_a_visible_window_sees_what_the_whole_window_sees(model, batch):
    """With everything visible but the last slice, the sampler's law there is that of the one pass."""
    full = whole(batch, slice(0, 1))
    full.context[:, -1] = False
    law = model(full)
    sampler = dataclasses.replace(model.sampler, num_samples=2000)
    if isinstance(model, AnyOrderModel):
        sampler = dataclasses.replace(sampler, groups=1)
    with torch.no_grad():
        last = sampler(model, full).values[:, :, -1]
        z = (last.mean(dim=0) - law.mean[:, -1]) / (law.stddev[:, -1] / 2000**0.5)
    assert z.abs().max() < 5


@pytest.mark.parametrize("model", pairs(EVERY_ENCODER, ["mixture"]), indirect=True)
def test_renumbering_the_nodes_renumbers_the_answer(model, batch, request):
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
    right = model.log_prob(batch)[:, :, order]
    torch.testing.assert_close(other.log_prob(turned), right, atol=2e-5, rtol=1e-4)
    # and the direction of the edges matters to those who hear along them
    swapped = Data(edge_index=graph.edge_index.flip(0), edge_weight=graph.edge_weight, num_nodes=5)
    change = (other.log_prob(turned._changed(graph=swapped)) - right).abs().max()
    assert (change > 1e-4) == (" alone" not in request.node.name)


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
    with pytest.raises(ValueError, match="one row per node"):
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


def test_memory_is_bounded_by_what_an_encoder_carries(series, monkeypatch):
    """Attention carries keys and values of every step: fewer samples are drawn at once, alike."""
    batch, portions = make_batch(series), []
    model = make_model(series, ENCODERS["attention"], samples=6)
    whole_at_once = model.sampler(model, batch).values
    draw = type(model.sampler).draw

    def counted(self, model, batch, stream, values=None):
        portions.append(tuple(stream.shape))
        return draw(self, model, batch, stream, values)

    monkeypatch.setattr(type(model.sampler), "draw", counted)
    one_draw = model.sampler.bytes_per_draw(model, batch)
    # old and new, 2 * 8 numbers, 2 blocks, 10 steps: 640 a node and number of 4 bytes
    assert one_draw > 4 * 5 * 640
    assert model.sampler.bytes_per_draw(make_model(series, partial(AttentionEncoder, hidden=16)), batch) > (
        1.7 * one_draw
    )
    for at_once, expected in (
        (18, [(6, 3)]),
        (13, [(6, 2), (6, 1)]),
        (4, [(4, 1), (2, 1)] * 3),
        (0, [(1, 1)] * 18),
    ):
        monkeypatch.setattr("tsgen.sampling.base.MAX_BYTES_PER_PORTION", at_once * one_draw)
        portions.clear()
        torch.testing.assert_close(model.sampler(model, batch).values, whole_at_once)
        assert portions == expected


@pytest.mark.parametrize("name", ["gru", "attention", "nade", "any order", "exact"])
def test_a_window_goes_on_from_draws_of_its_first_steps(name, series):
    """All but the end is given, the end drawn anew: a past of the sample's own, and the data's future."""
    if name == "exact":
        plain = make_series(covariates=0)
        model = GraphVAR(SeriesSpec.of(plain), sampler=Exact(4, 7))
        model.process = VARProcess(0.7 * torch.eye(10)[None], torch.full((10,), 15.0), torch.eye(10))
        batch = make_batch(plain)
    else:
        encoder = {"attention": ENCODERS["attention"], "any order": TWO_WAY_ENCODERS["two-way gru"]}
        head = HEADS["nade slice any" if name == "nade" else "mixture"]
        model = make_model(series, encoder.get(name, ENCODERS["gru"]), head, samples=4)
        batch = make_batch(series)
    assert model.sampler.extends
    first = model.sampler(model, batch).values
    context = torch.arange(10) < torch.tensor([[4], [7], [0]])
    begun = first.masked_fill(~context[..., None, None], torch.nan)
    later = dataclasses.replace(model.sampler, seed=8)
    samples = later.extend(model, batch, begun, context)
    assert samples.conditioning == model.sampler.conditioning and torch.isfinite(samples.values).all()
    fixed = context[..., None, None] | batch.context
    assert torch.equal(samples.values[:, fixed], first[:, fixed])
    assert not torch.isclose(samples.values[:, ~fixed], first[:, ~fixed]).any()
    # groups of other sizes are other batches, which another processor may round otherwise
    anew = later(model, batch).values[:, 2]
    torch.testing.assert_close(samples.values[:, 2], anew, atol=1e-4, rtol=1e-5)
    if name != "any order":  # its groups differ in size
        # the past of a sample is its own: the same past, the same draw
        same = later.extend(model, batch, begun[:1].expand_as(begun), context).values
        torch.testing.assert_close(same[0], samples.values[0], atol=1e-4, rtol=1e-5)
        assert not torch.isclose(same[1:, :2][:, ~fixed[:2]], samples.values[1:, :2][:, ~fixed[:2]]).all()


def test_some_of_the_draws_are_those_of_all(series, batch):
    """So that processes may share the samples."""
    for encoder in (ENCODERS["gru"], TWO_WAY_ENCODERS["two-way gru"]):
        model = make_model(series, encoder, samples=5)
        some, every = model.sampler.some(model, batch, range(2, 4)), model.sampler(model, batch)
        assert some.conditioning == every.conditioning and some.values.shape[0] == 2
        torch.testing.assert_close(some.values, every.values[2:4])


def test_a_sampler_without_single_draws_says_that_it_cannot_go_on(series, batch):
    class Whole(Sampler):
        num_samples, seed, conditioning = 3, 0, "posterior"

        def check(self, model):
            pass

    model, sampler = make_model(series), Whole()
    assert not sampler.extends
    drawn = batch.values.expand(3, -1, -1, -1, -1)
    with pytest.raises(ValueError, match="Whole draws all samples of a window jointly, so they cannot"):
        sampler.extend(model, batch, drawn, torch.ones(3, 10, dtype=torch.bool))


def test_a_window_with_nothing_visible_is_generated():
    series = make_series(covariates=0)
    model, batch = make_model(series), make_batch(series)
    empty = batch._changed(
        context=torch.zeros_like(batch.context), values=torch.full_like(batch.values, torch.nan)
    )
    assert torch.isfinite(model.sampler(model, empty).values).all()

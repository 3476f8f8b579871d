"""Every encoder with every kind of message: what a state may depend on, and that chunks are the whole."""

from functools import partial

import pytest
import torch
from conftest import directed_graph
from torch_geometric.data import Data
from torch_geometric.nn import GATv2Conv, GCNConv, MessagePassing, SGConv

from tsgen.encoders import (
    AttentionEncoder,
    BidirectionalEncoder,
    ConvolutionEncoder,
    Encoder,
    GraphGRUEncoder,
    RecurrentEncoder,
    WindowEncoder,
    attention,
    propagation,
)
from tsgen.encoders.propagation import (
    Convolution,
    DiffusionConvolution,
    GraphAttention,
    GraphConvolution,
    Messages,
    Propagation,
)
from tsgen.storage.components import describe, restore

CAUSAL = {
    "window 1": partial(WindowEncoder, order=1, hidden=6),
    "window 3": partial(WindowEncoder, order=3, hidden=6, layers=2),
    "lags": partial(WindowEncoder, order=3, layers=0),
    "convolution 2": partial(ConvolutionEncoder, hidden=6, kernel_size=2, layers=3),
    "convolution 3": partial(ConvolutionEncoder, hidden=6, kernel_size=3, layers=2),
    "convolution twice": partial(ConvolutionEncoder, hidden=6, kernel_size=2, layers=2, repeats=2),
    "gru": partial(GraphGRUEncoder, hidden=6),
    "attention": partial(AttentionEncoder, hidden=8, heads=2),
}
BOTH_WAYS = {
    "both ways": partial(AttentionEncoder, hidden=8, heads=2, causal=False),
    "convolution both ways": partial(ConvolutionEncoder, hidden=6, layers=4, causal=False),
    "recurrent": partial(RecurrentEncoder, hidden=6, layers=2),
    "bidirectional": lambda features, convolution: BidirectionalEncoder(
        features, partial(GraphGRUEncoder, hidden=6, convolution=convolution)
    ),
}
CONVOLUTIONS = {
    "none": None,
    "mean": GraphConvolution,
    "diffusion": DiffusionConvolution,
    "nodes": partial(GraphAttention, heads=2),
    "gatv2": partial(GATv2Conv, heads=2, concat=False, edge_dim=1),
}
RECEPTIVE_FIELDS = {"window 1": 1, "window 3": 3, "lags": 3, "convolution 2": 8, "convolution 3": 9}
RECEPTIVE_FIELDS["convolution twice"] = 7
OURS = [GraphConvolution, DiffusionConvolution, partial(DiffusionConvolution, hops=3), GraphAttention]

causal = pytest.mark.parametrize("name", CAUSAL)
every = pytest.mark.parametrize("name", CAUSAL | BOTH_WAYS)
with_messages = pytest.mark.parametrize("convolution", CONVOLUTIONS)


def make(name: str, convolution: str) -> Encoder:
    """An encoder of 3 features in double precision, with weights that are always the same."""
    torch.manual_seed(0)
    return (CAUSAL | BOTH_WAYS)[name](3, convolution=CONVOLUTIONS[convolution]).double()


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(state, index):
    """Chosen rows of a state, as a particle filter takes them."""
    if isinstance(state, torch.Tensor):
        return state[index]
    return type(state)(rows(part, index) for part in state)


def influence(function, x: torch.Tensor) -> torch.Tensor:
    """How much each step and node depends on each: [t, v, s, u]."""

    def projected(x):
        out = function(x[None])[0]
        return out @ normal(out.shape[-1], seed=2)

    return torch.autograd.functional.jacobian(projected, x).abs().sum(dim=-1)


def turned_round(graph: Data) -> Data:
    return Data(edge_index=graph.edge_index.flip(0), edge_weight=graph.edge_weight, num_nodes=graph.num_nodes)


def renumbered(graph: Data, order: torch.Tensor) -> Data:
    edges = order.argsort()[graph.edge_index]
    return Data(edge_index=edges, edge_weight=graph.edge_weight, num_nodes=graph.num_nodes)


@causal
@with_messages
def test_a_window_equals_its_chunks(name, convolution):
    encoder, x, graph = make(name, convolution), normal(3, 12, 5, 3), Propagation(directed_graph())
    whole, last = encoder(x, graph)
    assert whole.shape == (3, 12, 5, encoder.hidden)
    for sizes in ([1, 4, 5, 2], [1] * 12, [11, 1]):
        state, pieces = None, []
        for chunk in x.split(sizes, dim=1):
            h, state = encoder(chunk, graph, state)
            pieces.append(h)
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-12, rtol=0)
        torch.testing.assert_close(state, last, atol=1e-12, rtol=0)


@causal
@with_messages
def test_rows_of_a_state_can_be_repeated_and_chosen(name, convolution):
    encoder, x, graph = make(name, convolution), normal(3, 10, 5, 3), Propagation(directed_graph())
    index = torch.tensor([2, 0, 0, 1, 2])
    _, state = encoder(x[:, :6], graph)
    h, _ = encoder(x[index, 6:], graph, rows(state, index))
    torch.testing.assert_close(h, encoder(x[index], graph)[0][:, 6:], atol=1e-12, rtol=0)


@causal
@pytest.mark.parametrize("convolution", ["none", "mean"])
def test_a_state_depends_on_its_receptive_field_and_no_more(name, convolution):
    encoder, graph = make(name, convolution), Propagation(directed_graph())
    assert encoder.causal and encoder.receptive_field == RECEPTIVE_FIELDS.get(name)
    depends = influence(lambda x: encoder(x, graph)[0], normal(12, 5, 3))
    lag = torch.arange(12)[:, None] - torch.arange(12)
    seen = (lag >= 0) & (lag < (encoder.receptive_field or 12))
    own = depends.diagonal(dim1=1, dim2=3)
    assert (own[seen] > 0).all()
    assert (depends.transpose(1, 2)[~seen] == 0).all()
    source, target = directed_graph().edge_index
    others = depends[:, target, :, source]  # [edges, t, s]
    assert (others[:, seen] > 0).all() if convolution == "mean" else (others == 0).all()


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_an_encoder_that_is_not_causal_sees_both_sides(name):
    encoder, graph = make(name, "mean"), Propagation(directed_graph())
    assert not encoder.causal and encoder.receptive_field is None
    depends = influence(lambda x: encoder(x, graph)[0], normal(9, 5, 3))
    assert (depends.diagonal(dim1=1, dim2=3) > 0).all()
    h, state = encoder(normal(2, 9, 5, 3), graph)
    assert state is None and h.shape == (2, 9, 5, encoder.hidden)


@every
def test_without_convolution_a_node_hears_no_other(name):
    encoder, graph = make(name, "none"), Propagation(directed_graph())
    depends = influence(lambda x: encoder(x, graph)[0], normal(6, 5, 3)).sum(dim=(0, 2))
    assert (depends[~torch.eye(5, dtype=torch.bool)] == 0).all()


@every
@with_messages
def test_gradients_reach_every_parameter(name, convolution):
    encoder, graph = make(name, convolution), Propagation(directed_graph())
    h, _ = encoder(normal(3, 10, 5, 3).requires_grad_(), graph)  # lags alone have no parameters
    (h @ normal(encoder.hidden, seed=2)).square().sum().backward()
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 1e-9, parameter_name


@every
@with_messages
def test_renumbering_the_nodes_renumbers_the_states(name, convolution):
    encoder, x, graph = make(name, convolution), normal(2, 6, 5, 3), directed_graph()
    order = torch.tensor([3, 0, 4, 1, 2])
    h, _ = encoder(x, Propagation(graph))
    again, _ = encoder(x[:, :, order], Propagation(renumbered(graph, order)))
    torch.testing.assert_close(again, h[:, :, order], atol=1e-12, rtol=0)
    other, _ = encoder(x, Propagation(turned_round(graph)))
    assert convolution == "none" or (other - h).abs().max() > 1e-5


@every
def test_half_precision_gives_finite_states(name):
    encoder, x = make(name, "diffusion").float(), normal(2, 6, 5, 3).float()
    with torch.autocast("cpu", torch.bfloat16):
        h, _ = encoder(x, Propagation(directed_graph()))
    assert torch.isfinite(h).all()


@pytest.mark.parametrize("name", RECEPTIVE_FIELDS)
def test_no_more_is_carried_than_the_receptive_field(name):
    encoder, graph = make(name, "mean"), Propagation(directed_graph())
    _, state = encoder(normal(2, 20, 5, 3), graph)
    parts = [state] if isinstance(state, torch.Tensor) else state
    assert sum(part.shape[1] for part in parts) == encoder.receptive_field - 1


def test_without_hidden_layers_the_state_is_the_lags():
    encoder, x, graph = make("lags", "mean"), normal(2, 6, 5, 3), Propagation(directed_graph())
    h, _ = encoder(x, graph)
    assert encoder.hidden == 18 and make("lags", "none").hidden == 9
    read = encoder.messages(x, graph)
    torch.testing.assert_close(h[:, 4], torch.cat([read[:, 4], read[:, 3], read[:, 2]], dim=-1))
    torch.testing.assert_close(h[:, 0], torch.cat([read[:, 0], torch.zeros(2, 5, 12)], dim=-1).double())


@pytest.mark.parametrize("name", ["attention", "both ways"])
def test_positions_are_relative_and_matter(name, monkeypatch):
    encoder, x, graph = make(name, "none"), normal(2, 9, 5, 3), Propagation(directed_graph())
    h, _ = encoder(x, graph)
    rotate = attention.rotate
    monkeypatch.setattr(attention, "rotate", lambda part, start: rotate(part, start + 1000))
    torch.testing.assert_close(encoder(x, graph)[0], h, atol=1e-9, rtol=0)
    monkeypatch.setattr(attention, "rotate", lambda part, start: part)
    assert (encoder(x, graph)[0] - h).abs().max() > 1e-3


def test_rotary_products_depend_on_the_distance_of_steps():
    query, key = normal(1, 1, 1, 8).expand(1, 20, 1, 8), normal(1, 1, 1, 8, seed=2).expand(1, 20, 1, 8)
    products = (attention.rotate(query, 3)[0, :, 0] @ attention.rotate(key, 3)[0, :, 0].T).detach()
    for lag in range(-19, 20):
        same = products.diagonal(lag)
        torch.testing.assert_close(same, same[:1].expand_as(same), atol=1e-12, rtol=0)
    assert products[0].unique().numel() == 20


def test_the_two_directions_are_two_encoders():
    encoder, x, graph = make("bidirectional", "mean"), normal(2, 7, 5, 3), Propagation(directed_graph())
    h, _ = encoder(x, graph)
    torch.testing.assert_close(h[..., :6], encoder.forwards(x, graph)[0])
    torch.testing.assert_close(h[..., 6:], encoder.backwards(x.flip(1), graph)[0].flip(1))
    assert not torch.equal(encoder.forwards.skip.weight, encoder.backwards.skip.weight)


@pytest.mark.parametrize("hops", [1, 3])
def test_diffusion_is_the_sum_over_walks_both_ways(hops, monkeypatch):
    torch.manual_seed(0)
    graph, x = directed_graph(7), normal(2, 3, 7, 4).requires_grad_()
    weights = torch.zeros(7, 7, dtype=torch.float64)  # row u, column v: the edge u -> v
    weights[graph.edge_index[0], graph.edge_index[1]] = graph.edge_weight.double()
    along = weights.T / weights.sum(dim=0)[:, None].clamp(min=1e-30)
    against = weights / weights.sum(dim=1)[:, None].clamp(min=1e-30)
    convolution = DiffusionConvolution(4, 3, hops).double()
    maps = convolution.linear.weight.unflatten(1, (2, hops, 4))
    expected = sum(
        torch.linalg.matrix_power(matrix, k + 1) @ x @ maps[:, way, k].T
        for way, matrix in enumerate([along, against])
        for k in range(hops)
    )
    gradient = torch.autograd.grad(expected.square().sum(), x, retain_graph=True)[0]
    for dense_up_to in (100, 0):
        monkeypatch.setattr(propagation, "DENSE_UP_TO", dense_up_to)
        out = convolution(x, Propagation(graph))
        torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-6)
        (found,) = torch.autograd.grad(out.square().sum(), x)
        torch.testing.assert_close(found, gradient, atol=1e-6, rtol=1e-6)


def test_the_reversed_mean_is_the_mean_of_the_reversed_graph(monkeypatch):
    graph, x = directed_graph(), normal(2, 5, 4)
    for dense_up_to in (100, 0):
        monkeypatch.setattr(propagation, "DENSE_UP_TO", dense_up_to)
        ours, theirs = Propagation(graph), Propagation(turned_round(graph))
        torch.testing.assert_close(ours.reversed_mean.to_dense(), theirs.mean.to_dense())
        torch.testing.assert_close(ours.average(x, reverse=True), theirs.average(x))
        half = ours.average(x.bfloat16())
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.double(), ours.average(x), atol=0.05, rtol=0.05)


def test_attention_over_nodes_follows_its_formula():
    torch.manual_seed(0)
    graph, x = directed_graph(), normal(5, 4)
    convolution = GraphAttention(4, 3, heads=2).double()
    with torch.no_grad():
        convolution.exponent.copy_(torch.tensor([0.5, 1.7]))
    relative = torch.zeros(5, 5, dtype=torch.float64)  # row v, column u: the edge u -> v
    relative[graph.edge_index[1], graph.edge_index[0]] = (
        graph.edge_weight / graph.edge_weight.max()
    ).double()
    parts = convolution.query_key_value.weight.unflatten(0, (3, 2, 2))
    heard = []
    for head in range(2):
        query, key, value = (x @ parts[kind, head].T for kind in range(3))
        strength = convolution.log_strength[head].exp() * relative ** convolution.exponent[head]
        share = (query @ key.T / 2**0.5).exp() * (1 + strength)
        heard.append(share / share.sum(dim=1, keepdim=True) @ value)
    expected = convolution.linear(torch.cat(heard, dim=-1))
    torch.testing.assert_close(convolution(x, Propagation(graph)), expected, atol=1e-6, rtol=1e-6)


def test_attention_over_nodes_uses_direction_and_relative_weights():
    torch.manual_seed(0)
    graph, x, convolution = directed_graph(), normal(2, 5, 4), GraphAttention(4, 3).double()

    def with_weights(weight):
        return Propagation(Data(edge_index=graph.edge_index, edge_weight=weight, num_nodes=5))

    out = convolution(x, Propagation(graph))
    assert (influence(lambda s: convolution(s, Propagation(graph)), normal(1, 5, 4)) > 0).all()
    torch.testing.assert_close(convolution(x, with_weights(7 * graph.edge_weight)), out, atol=1e-6, rtol=1e-6)
    others = with_weights(graph.edge_weight.flip(0)), Propagation(turned_round(graph))
    assert all((convolution(x, other) - out).abs().max() > 1e-3 for other in others)
    nothing = Data(edge_index=torch.zeros(2, 0, dtype=torch.long), edge_weight=torch.zeros(0), num_nodes=5)
    assert torch.isfinite(convolution(x, Propagation(nothing))).all()


@pytest.mark.parametrize("convolution", OURS)
@pytest.mark.parametrize("dense_up_to", [100, 0])
def test_slices_do_not_mix_and_nodes_can_be_renumbered(convolution, dense_up_to, monkeypatch):
    monkeypatch.setattr(propagation, "DENSE_UP_TO", dense_up_to)
    torch.manual_seed(0)
    made, x, graph = Convolution(convolution, 4, 6).double(), normal(2, 3, 5, 4), directed_graph()
    assert isinstance(made.inner, MessagePassing)
    out = made(x, Propagation(graph))
    one_by_one = [[made(slice_, Propagation(graph)) for slice_ in row] for row in x]
    torch.testing.assert_close(out, torch.stack([torch.stack(row) for row in one_by_one]), atol=1e-12, rtol=0)
    order = torch.tensor([3, 0, 4, 1, 2])
    again = made(x[:, :, order], Propagation(renumbered(graph, order)))
    torch.testing.assert_close(again, out[:, :, order], atol=1e-6, rtol=1e-6)


def test_messages_stand_beside_what_was_known():
    graph, x = Propagation(directed_graph()), normal(2, 5, 4).float()
    silent, heard = Messages(None, 4, 3), Messages(GCNConv, 4, 3)
    assert (silent.out_features, heard.out_features) == (4, 7)
    assert silent(x, graph) is x and not list(silent.parameters())
    torch.testing.assert_close(heard(x, graph)[..., :4], x)
    torch.testing.assert_close(heard(x, graph)[..., 4:], heard.convolution(x, graph))


@pytest.mark.parametrize("convolution", [None, partial(GraphAttention, heads=2), DiffusionConvolution])
def test_an_encoder_is_remembered_as_plain_data(convolution):
    described = describe(partial(AttentionEncoder, hidden=8, heads=2, convolution=convolution))
    restored = restore(described, (Encoder, MessagePassing))(3)
    original = AttentionEncoder(3, hidden=8, heads=2, convolution=convolution)
    restored.load_state_dict(original.state_dict())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (partial(WindowEncoder, order=0), "order must be at least 1"),
        (partial(WindowEncoder, layers=-1), "layers must be at least 0; it is -1"),
        (partial(WindowEncoder, hidden=0), "hidden must be at least 1"),
        (partial(ConvolutionEncoder, kernel_size=1), "kernel_size must be at least 2; it is 1"),
        (partial(ConvolutionEncoder, layers=0), "layers must be at least 1"),
        (partial(ConvolutionEncoder, repeats=0), "repeats must be at least 1; it is 0"),
        (partial(AttentionEncoder, hidden=64, heads=3), r"multiple of 2 \* heads = 6; it is 64. Take 66"),
        (partial(AttentionEncoder, hidden=4, heads=4), "Take 8"),
        (partial(AttentionEncoder, heads=0), "heads must be at least 1"),
        (partial(AttentionEncoder, layers=0), "layers must be at least 1"),
        (partial(RecurrentEncoder, hidden=7), "hidden must be even, one half for each direction; it is 7"),
        (partial(RecurrentEncoder, layers=0), "layers must be at least 1; it is 0"),
        (partial(BidirectionalEncoder, encoder=BidirectionalEncoder), "must be causal"),
        (partial(BidirectionalEncoder, encoder=partial(AttentionEncoder, causal=False)), "by itself"),
        (partial(GraphGRUEncoder, convolution=partial(DiffusionConvolution, hops=0)), "hops must be"),
        (partial(WindowEncoder, convolution=partial(GraphAttention, heads=0)), "heads must be"),
        (
            partial(GraphGRUEncoder, convolution=partial(GCNConv, cached=True)),
            "GCNConv must have cached: false",
        ),
        (partial(WindowEncoder, convolution=partial(SGConv, cached=True)), "SGConv must have cached: false"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(wrong, message):
    with pytest.raises(ValueError, match=message) as error:
        wrong(3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_no_state_is_carried_both_ways(name, as_a_user):
    encoder, graph = make(name, "mean"), Propagation(directed_graph())
    with pytest.raises(ValueError, match="Pass the whole window"):
        encoder(normal(2, 4, 5, 3), graph, torch.zeros(2, 5, 6))

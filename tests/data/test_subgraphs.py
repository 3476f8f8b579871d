"""Training on subgraphs: the laws of the whole graph for what is scored, and every node equally often."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import directed_graph, make_series
from hypothesis import given, settings
from hypothesis import strategies as st

from tsgen.cli.main import main
from tsgen.data.graphs import from_edges
from tsgen.data.masks import AnyOf, HistoricalMask, OneOf, PartOf, PointMask
from tsgen.data.subgraphs import SubgraphDraws, Subgraphs
from tsgen.datamodules.windows import SeriesDataModule, Split, split_in_time
from tsgen.encoders import ConvolutionEncoder, WindowEncoder
from tsgen.encoders.propagation import DiffusionConvolution
from tsgen.heads import GaussianHead, MixtureHead, MixtureNADEHead
from tsgen.heads.likelihood import masked_nll
from tsgen.models import AnyOrderModel, AutoregressiveModel, GraphVAR
from tsgen.objectives import MaskedNLL, ParticleBound

ROOT = Path(__file__).parents[2]
NODES = 24


class OnRing(SeriesDataModule):
    """A series on a ring with two shortcuts."""

    def __init__(self, covariates=3, **options):
        super().__init__(window=8, batch_size=4, **options)
        self.covariates = covariates

    def load(self):
        series = make_series(100, NODES, covariates=self.covariates)
        return Split(series, *split_in_time(100, 0.2, 0.2), torch.zeros_like(series.observed))


def first_batch(data):
    return next(iter(data.train_dataloader()))


def in_whole(data, batch):
    """The same windows on the whole graph, scored where the batch is."""
    whole = data.split.series.windows(batch.position[:, 0], data.window)
    target = torch.zeros_like(whole.target)
    target[:, :, batch.nodes] = batch.target
    return whole._changed(target=target)


def in_double(batch):
    return batch._changed(values=batch.values.double())


MODELS = {
    "one convolution": (1, partial(WindowEncoder, order=2, hidden=6), partial(GaussianHead, scale="node"), 3),
    "walks of two steps": (
        2,
        partial(WindowEncoder, order=2, hidden=6, convolution=partial(DiffusionConvolution, hops=2)),
        partial(MixtureHead, components=2),
        0,
    ),
    "three convolutions": (3, partial(ConvolutionEncoder, hidden=6, layers=2), GaussianHead, 2),
}


def make(data, encoder, head, embedding):
    torch.manual_seed(0)
    model = AutoregressiveModel(data.spec, encoder, head, node_embedding=embedding).double()
    if "log_scale" in dict(model.head.named_parameters()):
        torch.nn.init.normal_(model.head.log_scale)
    return model


@pytest.mark.parametrize(("hops", "encoder", "head", "embedding"), MODELS.values(), ids=MODELS.keys())
def test_scored_nodes_have_the_loss_and_the_gradient_of_the_whole_graph(hops, encoder, head, embedding):
    def loss(model, batch):
        batch = in_double(batch)
        model.zero_grad()
        found = masked_nll(model(batch), batch.values, batch.target)
        found.backward()
        return found.detach(), [p.grad.clone() for p in model.parameters()]

    data = OnRing(subgraphs=Subgraphs(clusters=8, hops=hops))
    model, part = make(data, encoder, head, embedding), first_batch(data)
    assert len(part.nodes) < NODES
    (here, its), (there, whole) = loss(model, part), loss(model, in_whole(data, part))
    torch.testing.assert_close(here, there, rtol=1e-12, atol=0)
    for a, b in zip(its, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    narrow = first_batch(OnRing(subgraphs=Subgraphs(clusters=8, hops=hops - 1)))
    assert abs(loss(model, narrow)[0] - there) > 1e-4  # the last ring of neighbours has something to say


@pytest.mark.parametrize("units", ["node", "interpolation"])
@pytest.mark.parametrize("objective", [MaskedNLL(crps_weight=1.0), MaskedNLL(input_noise=0.1)])
def test_what_belongs_to_other_nodes_is_not_read(units, objective):
    data = OnRing(thinning=PointMask(0.5), subgraphs=Subgraphs(clusters=8))
    encoder = partial(ConvolutionEncoder, hidden=6, layers=1, causal=False)
    head = partial(GaussianHead, scale="node")
    model = AnyOrderModel(data.spec, encoder, head, objective=objective, node_embedding=3, units=units)
    batch = first_batch(data)
    others = torch.ones(NODES, dtype=torch.bool)
    others[batch.nodes] = False
    with torch.no_grad():
        for of_node in (model.loc, model.scale, model.embedding, model.head.log_scale):
            of_node[others] = torch.nan
    loss = objective.loss(model, batch, batch.position[:, 0], 0)
    loss.backward()
    assert loss.isfinite()
    for parameter in (model.embedding, model.head.log_scale):
        assert (parameter.grad[others] == 0).all() and (parameter.grad[~others] != 0).any(dim=1).all()
    model.zero_grad()
    first = batch._changed(target=batch.target & (batch.nodes == batch.nodes[0])[:, None])
    objective.loss(model, first, first.position[:, 0], 0).backward()
    own = (model.head.log_scale.grad != 0).any(dim=1)
    assert own.nonzero()[:, 0].tolist() == [int(batch.nodes[0])]  # a node's scale is its own


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 100), st.integers(1, 3), st.integers(0, 3), st.integers(1, 20))
def test_every_node_is_scored_equally_often(seed, drawn, hops, batches):
    draws = SubgraphDraws(directed_graph(NODES), Subgraphs(4 * drawn, drawn, hops), seed)
    times = torch.zeros(NODES, dtype=torch.int64)
    for batch in range(batches):
        found = draws.of(1, batch)
        times[found.nodes[found.target]] += 1
    assert int(times.max() - times.min()) == (batches % 4 > 0)
    assert int(times.sum()) == batches * NODES // 4


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1000), st.integers(0, 3))
def test_a_subgraph_has_the_edges_and_the_neighbours_of_the_graph(seed, hops):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(12, 12, generator=generator) * (torch.rand(12, 12, generator=generator) < 0.12)
    source, target = weight.nonzero(as_tuple=True)
    graph = from_edges(source.numpy(), target.numpy(), weight[source, target].numpy(), num_nodes=12)
    scored = torch.randperm(12, generator=generator)[:3]
    found = SubgraphDraws(graph, Subgraphs(4, hops=hops)).around(scored)
    near = torch.zeros(12).index_fill(0, scored, 1)
    for _ in range(hops):
        near = near + (weight + weight.T) @ near
    assert torch.equal(found.nodes, near.nonzero()[:, 0])
    assert torch.equal(found.nodes[found.target], scored.sort().values)
    again = torch.zeros(len(found.nodes), len(found.nodes))
    again[found.graph.edge_index[0], found.graph.edge_index[1]] = found.graph.edge_weight
    assert torch.equal(again, weight[found.nodes][:, found.nodes])


def test_the_draw_depends_on_seed_epoch_and_batch_alone():
    def nodes(seed, epoch, batch):
        return SubgraphDraws(directed_graph(NODES), Subgraphs(8), seed).of(epoch, batch).nodes.tolist()

    order = [nodes(0, 0, batch) for batch in range(8)]
    assert order == [nodes(0, 0, batch) for batch in range(8)]
    for seed, epoch, first in ((1, 0, 0), (0, 1, 0), (0, 0, 8)):
        assert order != [nodes(seed, epoch, first + batch) for batch in range(8)]


def test_processes_and_workers_draw_the_same_nodes_and_share_the_windows():
    def batches(rank=0, world=1, accumulated=1, **options):
        data = OnRing(subgraphs=Subgraphs(clusters=4, hops=1), thinning=PointMask(0.5), **options)
        data.trainer = SimpleNamespace(
            global_rank=rank,
            world_size=world,
            accumulate_grad_batches=accumulated,
            _accelerator_connector=SimpleNamespace(use_distributed_sampler=False),
        )
        data.batch_size = 4 // world // accumulated
        return list(data.train_dataloader())

    one, two = batches(), [batches(rank, 2) for rank in range(2)]
    for whole, *halves in zip(one[:10], *(part[:10] for part in two), strict=True):
        for number, half in enumerate(halves):
            for name in ("values", "context", "target", "position"):
                torch.testing.assert_close(
                    getattr(half, name), getattr(whole, name)[number::2], equal_nan=True
                )
            assert torch.equal(half.nodes, whole.nodes)
    for here, there in zip(one, batches(num_workers=1), strict=True):
        assert torch.equal(here.nodes, there.nodes) and torch.equal(here.context, there.context)
    accumulated = batches(accumulated=2)
    for whole, *halves in zip(one, accumulated[::2], accumulated[1::2], strict=False):
        assert torch.equal(torch.cat([half.context for half in halves]), whole.context)
        assert all(torch.equal(half.nodes, whole.nodes) for half in halves)


def test_the_order_of_windows_and_evaluation_are_those_without():
    plain, data = OnRing(horizon=2), OnRing(horizon=2, subgraphs=Subgraphs(clusters=4))
    for a, b in zip(plain.train_dataloader(), data.train_dataloader(), strict=True):
        assert torch.equal(a.position, b.position)
    for loader in ("val_dataloader", "test_dataloader", "predict_dataloader"):
        for batch in getattr(data, loader)():
            assert batch.nodes is None and batch.values.shape[2] == NODES


def test_gaps_that_are_replayed_are_those_of_the_nodes():
    pattern = PartOf(OneOf([AnyOf([HistoricalMask()])]), (1.0, 1.0))
    plain, data = (
        OnRing(thinning=pattern, subgraphs=options).dataset("train") for options in (None, Subgraphs(4))
    )
    items = [(0, number, 3) for number in range(5)]
    whole, part = plain.__getitems__(items), data.__getitems__(items)
    assert torch.equal(part.context, whole.context[:, :, part.nodes])
    assert torch.equal(part.covariates, whole.covariates[:, :, part.nodes])
    repeated = part.repeat(2).rows(slice(0, 5)).steps(slice(1, 4))
    assert torch.equal(repeated.nodes, part.nodes) and repeated.values.shape[:2] == (5, 3)


def test_parts_of_a_model_that_need_every_node_are_refused():
    data = OnRing(covariates=0, subgraphs=Subgraphs(clusters=4))
    window = partial(WindowEncoder, hidden=4)
    for model, part in (
        (
            AutoregressiveModel(data.spec, window, partial(MixtureNADEHead, over="slice")),
            "MixtureNADEHead over",
        ),
        (AutoregressiveModel(data.spec, window, GaussianHead, objective=ParticleBound()), "ParticleBound"),
        (GraphVAR(data.spec), "GraphVAR"),
    ):
        with pytest.raises(ValueError, match=f"{part}.* needs all of them. Set data.subgraphs to null"):
            model.check_data(data, "fit")
        model.check_data(data, "test")
    AutoregressiveModel(data.spec, window, MixtureNADEHead).check_data(data, "fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(clusters=0), "clusters must be at least 1; it is 0"),
        (dict(clusters=4, drawn=0), "drawn must be at least 1"),
        (dict(clusters=4, hops=-1), "hops must be at least 0"),
        (dict(clusters=4, drawn=3), "drawn must divide clusters"),
    ],
)
def test_bad_options_are_refused(as_a_user, options, message):
    with pytest.raises(ValueError, match=message):
        Subgraphs(**options)
    with pytest.raises(ValueError, match=r"nodes must be int64 of shape \[24\]"):
        series = make_series(30, NODES)
        batch = series.windows(torch.tensor([0]), 4)
        type(batch)(
            batch.values, batch.context, batch.target, batch.graph, batch.position, nodes=torch.arange(3)
        )


@pytest.mark.slow
def test_the_command_line_trains_on_subgraphs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "fit --config demo --runs runs --data.steps 400 --data.num_nodes 6 --model.encoder.hidden 8"
    words += " --trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.enable_progress_bar false"
    assert main([*words.split(), "--data.subgraphs", "{clusters: 3, drawn: 1, hops: 1}"]) == 0
    kept = yaml.safe_load(Path("runs/demo/config_fit.yaml").read_text())
    assert kept["data"]["init_args"]["subgraphs"] == {"clusters": 3, "drawn": 1, "hops": 1}


def test_the_command_line_refuses_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "fit --config demo --runs runs --data.subgraphs.clusters 4 --data.subgraphs.drawn 3"
    assert main(words.split()) == 2
    assert "drawn must divide clusters" in capsys.readouterr().err
    words = "fit --config demo --config heads/nade --runs runs --data.subgraphs.clusters 4"
    assert main([*words.split(), "--model.head.over", "slice"]) == 2
    assert "over the slice needs all of them" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_on_subgraphs_as_one(tmp_path):
    def run_on(processes):
        path = tmp_path / f"{processes}.pt"
        words = [sys.executable, str(ROOT / "tests/ddp_script.py"), str(processes), str(path), "2"]
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return torch.load(path, weights_only=True)

    one, two = run_on(1), run_on(2)
    for name, weight in one["state"].items():
        torch.testing.assert_close(two["state"][name], weight, atol=1e-5, rtol=1e-4, msg=name)

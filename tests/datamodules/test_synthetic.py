"""The simulated processes: their graph, their laws, and that the data follows them."""

import json
import math
from functools import partial
from typing import get_args

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import Trainer
from scipy import stats
from torch import Tensor

from tsgen.data.masks import PointMask
from tsgen.datamodules import SyntheticDataModule
from tsgen.datamodules.synthetic import ONE_STEP, Process
from tsgen.encoders import WindowEncoder
from tsgen.evaluation import Evaluation
from tsgen.evaluation.table import independent_draws
from tsgen.exact.threshold import ThresholdNetwork
from tsgen.heads import GaussianHead
from tsgen.models import AutoregressiveModel
from tsgen.sampling import Ancestral
from tsgen.simulate.examples import LATITUDE, LONGITUDE, geometric_graph, linear_process

PROCESSES = ["linear", *ONE_STEP]


def z_of(x: Tensor, mean: float, variance: float) -> float:
    return float((x.mean() - mean) * math.sqrt(x.numel() / variance))


def means_of_neighbours(graph, x: Tensor) -> Tensor:
    """The definition, edge by edge."""
    total, weight = torch.zeros_like(x), torch.zeros_like(x)
    for (source, target), w in zip(graph.edge_index.T.tolist(), graph.edge_weight.tolist(), strict=True):
        total[..., target] += w * x[..., source]
        weight[..., target] += w
    return total / weight


def test_the_graph_is_directed_sparse_and_unequal():
    graph = geometric_graph(20, seed=0)
    source, target = graph.edge_index
    assert (torch.bincount(target, minlength=20) == 3).all()
    edges = set(zip(source.tolist(), target.tolist(), strict=True))
    assert any((v, u) not in edges for u, v in edges)
    assert len(graph.edge_weight.unique()) == 60
    assert graph.edge_weight.max() / graph.edge_weight.min() < 100
    east, north = graph.pos.T
    for degrees, (low, high) in ((north, LATITUDE), (east, LONGITUDE)):
        assert low <= degrees.min() < low + 0.25 * (high - low)
        assert high - 0.25 * (high - low) < degrees.max() <= high
    other = geometric_graph(20, seed=1)
    assert not torch.equal(graph.pos, other.pos)
    assert torch.equal(graph.edge_weight, geometric_graph(20, seed=0).edge_weight)
    with pytest.raises(ValueError, match="num_nodes must be at least 2; it is 1"):
        geometric_graph(1, seed=0)


@pytest.mark.parametrize("nodes", [2, 20])
def test_the_linear_process_is_what_it_says(nodes):
    graph = geometric_graph(nodes, seed=2)
    var = linear_process(graph, seed=2)
    law = var.state_space()
    loc, scale = law.initial_mean[:nodes], law.initial_covariance.diagonal()[:nodes].sqrt()
    assert ((loc > 10) & (loc < 50)).all()
    assert ((scale > 2) & (scale < 12)).all()
    assert len(scale.unique()) == nodes
    roots = torch.linalg.eigvals(law.transition).abs()
    assert float(roots.max()) == pytest.approx(0.5 + math.sqrt(0.19), abs=1e-6)
    # what each lag does to a slice, in the noise's own units, from the edges themselves
    unit = var.covariance.diagonal().sqrt()
    x = torch.randn(nodes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for matrix, own, coupling in zip(var.coefficients, (0.1, -0.3), (0.9, 0.24), strict=True):
        expected = own * x + coupling * means_of_neighbours(graph, x)
        torch.testing.assert_close(matrix @ (unit * x) / unit, expected, rtol=0, atol=1e-6)


def test_ignoring_the_graph_costs_a_fifth_of_a_nat_an_entry():
    var = SyntheticDataModule().exact
    law, lags = var.state_space(), 20
    covariance, gamma = law.initial_covariance, []
    for _ in range(lags + 1):
        gamma.append(covariance[: var.num_nodes].diagonal())
        covariance = law.transition @ covariance
    gamma = torch.stack(gamma)
    distance = (torch.arange(lags)[:, None] - torch.arange(lags)).abs()
    coefficients = torch.linalg.solve(gamma[distance].movedim(-1, 0), gamma[1:].T)
    alone = gamma[0] - (coefficients * gamma[1:].T).sum(dim=1)
    assert 0.5 * (alone / var.covariance.diagonal()).log().mean() > 0.2


@pytest.mark.parametrize("process", PROCESSES)
def test_the_data_follows_the_law(process):
    data = SyntheticDataModule(process, steps=3000, missing=PointMask(0.0))
    values = data.split.series.values[..., 0].double()
    if process == "linear":
        # -2 log p, less its constant, is chi-squared
        law, entries = data.law, values.numel()
        start = law.state_space().initial_covariance
        constant = entries * math.log(2 * math.pi) + torch.logdet(start)
        constant = constant + (len(values) - law.order) * torch.logdet(law.covariance)
        excess = -2 * law.log_prob(values[None])[0] - constant - entries
        assert abs(float(excess) / math.sqrt(2 * entries)) < 5
    else:
        noise = torch.rand(values[1:].shape, generator=torch.Generator().manual_seed(0)).double()

        def ranks(law, value: Tensor) -> Tensor:
            below = law.cdf_below(value)
            return below + noise[: len(value)] * (law.cdf(value) - below)

        rank = ranks(data.law.conditional(values[:-1]), values[1:])
        for power in (1, 2, 3):
            mean = 1 / (power + 1)
            assert abs(z_of(rank**power, mean, 1 / (2 * power + 1) - mean**2)) < 5
        # and it is not the law of a slice later
        late = ranks(data.law.conditional(values[:-2]), values[2:])
        assert stats.chisquare(torch.histc(late, 20, 0, 1).numpy()).pvalue < 1e-5


def test_the_exact_posterior_fits_what_is_held_out():
    data = SyntheticDataModule(batch_size=64)
    (batch,) = list(data.test_dataloader())
    posterior = data.exact.posterior(batch)
    residual = torch.where(batch.target, (batch.values - posterior.mean) / posterior.stddev, 0)
    count = batch.target.sum(dim=(1, 2, 3))
    assert count.sum() > 1000
    for error in (residual, torch.where(batch.target, residual.square() - 1, 0)):
        # windows are close to independent, their entries are not
        by_window = error.sum(dim=(1, 2, 3))
        assert abs(by_window.sum() / by_window.square().sum().sqrt()) < 5
    # to know the future helps
    predictive = data.exact.predictive(batch)
    truth = batch.values.nan_to_num()
    gain = (posterior.log_prob(truth) - predictive.log_prob(truth))[batch.target].mean()
    assert gain > 0.1


def test_the_threshold_process_is_what_it_says():
    graph = geometric_graph(6, seed=0)
    law = ThresholdNetwork(graph, threshold=0.2, intercept=(0.1, -0.2))
    previous = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    conditional = law.conditional(previous)
    assert conditional.batch_shape == previous.shape
    neighbours = means_of_neighbours(graph, previous)
    above = neighbours > 0.2
    assert 0.2 < above.double().mean() < 0.8
    lower, upper = 0.1 + 0.7 * previous + 0.2 * neighbours, -0.2 - 0.4 * previous + 0.5 * neighbours
    torch.testing.assert_close(conditional.mean, torch.where(above, upper, lower), rtol=0, atol=1e-6)
    assert conditional.variance.flatten().tolist() == pytest.approx([0.4 * 0.6 * 1.5**2 + 0.3**2] * 120)
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = conditional.log_prob(grid[:, None, None, None]).exp()
    torch.testing.assert_close(torch.trapezoid(density, grid, dim=0), torch.ones(4, 5, 6).double())
    first = density[:, 0, 0, 0]
    assert ((first[1:-1] > first[:-2]) & (first[1:-1] > first[2:])).sum() == 2


def test_a_threshold_process_that_is_not_one_is_refused():
    graph = geometric_graph(6, seed=0)
    with pytest.raises(ValueError, match=r"\|0\.7\| \+ \|-0\.3\| = 1\."):
        ThresholdNetwork(graph, coupling=(-0.3, 0.1))
    with pytest.raises(ValueError, match="weight must lie between 0 and 1"):
        ThresholdNetwork(graph, weight=1.0)
    with pytest.raises(ValueError, match="scale must be positive"):
        ThresholdNetwork(graph, scale=0.0)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_data_module_hides_and_splits(process):
    data = SyntheticDataModule(process, num_nodes=8, steps=1000)
    split, again = data.split, SyntheticDataModule(process, num_nodes=8, steps=1000).split
    series = split.series
    assert torch.equal(series.observed, series.values.isfinite())
    assert abs(z_of(series.observed.double(), 0.9, 0.09)) < 5
    assert not (split.held_out & ~series.observed).any()
    assert 0.1 < split.held_out[series.observed].double().mean() < 0.25
    assert (split.train, split.val, split.test) == ([slice(0, 700)], [slice(700, 800)], [slice(800, 1000)])
    assert torch.equal(series.values.nan_to_num(), again.series.values.nan_to_num())
    assert torch.equal(split.held_out, again.held_out)
    other = SyntheticDataModule(process, num_nodes=8, steps=1000, process_seed=1).split
    assert not torch.equal(series.observed, other.series.observed)
    assert data.exact is data.law
    batch = next(iter(data.train_dataloader()))
    assert batch.values.shape == (32, 24, 8, 1)


@pytest.mark.parametrize("horizon", [0, None])
def test_a_test_scores_the_filtering_law_of_the_process(horizon, tmp_path):
    data = SyntheticDataModule(
        "tobit", num_nodes=5, steps=300, window=10, horizon=horizon, missing=PointMask(0.0), batch_size=4
    )
    model = AutoregressiveModel(
        data.spec, partial(WindowEncoder, order=1, hidden=4), GaussianHead, sampler=Ancestral(20)
    )
    evaluation = Evaluation(tmp_path, data.split.series, "run", data.split.train, data.exact, horizon)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[evaluation])
    trainer.test(model, data, verbose=False)
    rows = {row["name"]: row for row in json.loads((tmp_path / "scores.json").read_text())["rows"]}
    assert "exact filtering" in rows and "exact posterior" not in rows
    batches = list(data.test_dataloader())
    each = torch.cat([data.exact.predictive(b).log_prob(b.values)[b.target] for b in batches])
    assert rows["exact filtering"]["nll"] == pytest.approx(-float(each.mean()), abs=2e-3)
    if horizon is None:
        # draws follow the law, zeros included
        law, batch = data.exact.predictive(batches[0]), batches[0]
        draws = independent_draws(law, batch, 400, seed=0)
        share = (draws == 0).double().mean(dim=0)[~batch.context]
        atom = law.cdf(torch.zeros_like(batch.values))[~batch.context]
        assert float(((share - atom) / (atom * (1 - atom) / 400).sqrt()).abs().max()) < 5
        assert (draws >= 0).all()


def test_patterns_are_drawn_apart():
    # the same pattern for both: had they one stream, nothing would be left to hold out
    split = SyntheticDataModule(missing=PointMask(0.3), held_out=PointMask(0.3), steps=1000).split
    assert abs(z_of(split.held_out[split.series.observed].double(), 0.3, 0.21)) < 5


def test_the_command_line_builds_it():
    parser = ArgumentParser()
    parser.add_class_arguments(SyntheticDataModule, "data")
    given = ["--data.process=threshold", "--data.missing=tsgen.data.PointMask", "--data.missing.rate=0.4"]
    config = parser.parse_args([*given, "--data.steps=200", "--data.num_nodes=4"])
    data = parser.instantiate(parser.parse_string(parser.dump(config))).data
    assert (data.process, data.missing, data.window) == ("threshold", PointMask(0.4), 24)
    assert data.split.series.values.shape == (200, 4, 1)


def test_wrong_options_are_refused(as_a_user):
    assert [*get_args(Process)] == PROCESSES
    with pytest.raises(ValueError, match="process must be 'linear', 'threshold', 'inar'"):
        SyntheticDataModule("quadratic")
    with pytest.raises(ValueError, match="steps must be at least 1"):
        SyntheticDataModule(steps=0)
    with pytest.raises(ValueError, match="shares val and test"):
        SyntheticDataModule(val=0.5, test=0.6)

"""Every benchmark can be started from a clone and says what it measures."""

import dataclasses
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Normal

import experiments
from experiments.benchmarks import pretrained
from tsgen.data.masks import hold_out
from tsgen.models import load_pretrained

ROOT = Path(experiments.__file__).parent
BENCHMARKS = sorted(
    f"experiments.benchmarks.{path.stem}"
    for path in (ROOT / "benchmarks").glob("*.py")
    if path.stem not in ("__init__", "harness")
)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_prints_its_help(name, monkeypatch, capsys):
    module = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    # the docstring names the command by which the module is run
    assert f"python -m {name}" in shown and module.__doc__.splitlines()[0] in shown


@pytest.fixture(scope="module")
def weights():
    return load_pretrained()


PRIOR = dataclasses.replace(pretrained.linear_prior(40), nodes=(2, 6), steps=(24,))


def small_network(number):
    return PRIOR.draw(0, pretrained.FIRST + 10_000 + number)


def test_errors_of_a_shifted_law_are_known():
    exact = Normal(torch.tensor([1.0, -2.0, 7.0]), torch.tensor([2.0, 3.0, 1.0]))
    hidden = torch.tensor([True, True, False])
    same = pretrained.excess(exact, exact, exact.mean, hidden)
    assert same == (0, 0)
    shifted = Normal(exact.mean + exact.stddev * torch.tensor([1.0, 1.0, 50.0]), exact.stddev)
    assert pretrained.excess(shifted, exact, exact.mean, hidden) == pytest.approx((0.5, 1.0))


def test_the_truth_of_linear_networks_follows_their_exact_law():
    squares = []
    for number in range(12):
        simulation = small_network(number)
        law, hidden = pretrained.exact_law(simulation), ~simulation.visible
        error = ((simulation.series.double() - law.mean) / law.stddev)[hidden]
        if len(error):
            squares.append(error.square().mean())
    squares = torch.stack(squares)  # one number per network: entries are dependent
    assert abs(squares.mean() - 1) < 5 * squares.std() / len(squares) ** 0.5 < 1


def test_nodes_that_never_report_are_left_out(weights):
    simulation = small_network(3)
    simulation.visible[:, :, 0] = False
    hidden = pretrained.reporting(simulation)
    assert not hidden[:, :, 0].any() and hidden.any()
    assert (hidden == ~simulation.visible)[:, :, 1:].all()
    errors = pretrained.on_network(weights, simulation)
    assert errors["all nodes", "weights"].nll > errors["reporting nodes", "weights"].nll


def test_ranks_are_those_of_a_hidden_entry(weights, monkeypatch):
    """Ranks of a visible entry would be random, and thus uniform: no histogram would show the mistake."""

    class NumberedDraws:
        """Of each entry, as many draws lie below the truth as the number of the entry says."""

        def __init__(self, num_samples, seed):
            self.num_samples = num_samples

        def __call__(self, model, batch):
            assert len(batch.values) == 1 and not model.adapts
            nodes = batch.values.shape[2]
            below = (batch.position[..., None, None] * nodes + torch.arange(nodes)[:, None]) % 101
            sample = torch.arange(self.num_samples).view(-1, 1, 1, 1, 1)
            return SimpleNamespace(values=batch.values + torch.where(sample < below, -1.0, 1.0))

    monkeypatch.setattr(pretrained, "AnyOrder", NumberedDraws)
    places = set()
    for number in range(24):
        simulation = small_network(number)
        entry = pretrained.entry_to_rank(simulation, number)
        rank = pretrained.rank_on_network(weights, simulation, number)
        if entry is None:
            assert rank is None
            continue
        assert pretrained.reporting(simulation)[entry]
        index = np.ravel_multi_index(entry, simulation.visible.shape)
        assert rank.tolist() == [index % 101]
        places.add(entry)
    assert len(places) > 18
    assert len({pretrained.entry_to_rank(simulation, number) for number in range(20)}) > 10


def test_scores_by_length_are_those_of_the_same_hidden_entries(weights):
    series, _ = pretrained.long_series(0, steps=96)
    assert len(series) == 96 and float(series.values.std()) == pytest.approx(1)
    hidden = hold_out(pretrained.GAPS, series.values, series.observed, 0)
    trained = weights.window
    found = pretrained.by_length(weights, series, hidden, (trained, 96), 20)
    check, _ = pretrained.compare(weights, series, 20)
    expected = check.scores["model"]["crps"], check.scores["model"]["coverage_90"]
    assert found[trained] == pytest.approx(expected)
    assert found[96] != found[trained] and weights.window == trained < 96


def test_the_figure_of_ranks_is_written(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "linear_prior", lambda rows: PRIOR)
    pretrained.sbc(weights, 5, tmp_path / "sbc.png")
    assert (tmp_path / "sbc.png").stat().st_size > 1000
    assert "networks, one hidden entry of each: p = " in capsys.readouterr().out

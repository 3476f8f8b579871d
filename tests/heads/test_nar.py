"""Linear autoregressions as models like any other: what is trained by Lightning reaches the closed form."""

import itertools
import json
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from tsgen.data.graphs import from_edges
from tsgen.data.series import GraphSeries, SeriesBatch, SeriesSpec
from tsgen.encoders import WindowEncoder
from tsgen.heads import ConditionalHead, GaussianHead, MixtureHead, MixtureNADEHead
from tsgen.models import AutoregressiveModel
from tsgen.sampling import Ancestral

HERE = Path(__file__).parents[1]
SERIES = json.loads((HERE / "ar_references.json").read_text("utf-8"))
FITS = {(fit["series"], fit["order"]): fit for fit in SERIES["conditional_fits"]}
GERMANY = json.loads((HERE / "references.json").read_text("utf-8"))["germany"]
LINEAR = partial(WindowEncoder, layers=0, convolution=None)
LBFGS = partial(torch.optim.LBFGS, max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "precision": "64-true",
}


def one_window(values, order, covariates=None, graph=None):
    """A whole series as one window: all of it visible, all but the first ``order`` slices scored."""
    values = torch.as_tensor(values, dtype=torch.float64)[:, None] if values.ndim == 2 else values
    graph = graph or from_edges([], [], num_nodes=values.shape[1])
    everything = torch.ones(values.shape, dtype=torch.bool)
    spec = SeriesSpec.of(GraphSeries(values, everything, graph, covariates))
    target = everything.clone()
    target[:order] = False
    position = torch.arange(len(values))[None]
    batch = SeriesBatch(
        values[None],
        everything[None],
        target[None],
        graph,
        position,
        None if covariates is None else covariates[None],
    )
    return spec, batch


def train(spec, batch, order, head, encoder=LINEAR, epochs=3):
    """The log-likelihood of the target entries after training."""
    torch.manual_seed(0)
    model = AutoregressiveModel(spec, partial(encoder, order=order), head, LBFGS)
    loader = DataLoader([batch], batch_size=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(max_epochs=epochs, **QUIET).fit(model, loader)
    with torch.no_grad():
        return float(model.double().log_prob(batch).sum())


@pytest.mark.parametrize("series", [("lh", 3), ("lake_huron", 2), ("log10_lynx", 2)], ids=str)
def test_a_linear_window_reaches_the_least_squares_autoregression(series):
    name, order = series
    values = torch.tensor(SERIES["series"][name.removeprefix("log10_")], dtype=torch.float64)[:, None]
    values = values.log10() if name.startswith("log10_") else values
    spec, batch = one_window(values, order)
    exact = FITS[series]["log_likelihood"]
    ours = train(spec, batch, order, partial(GaussianHead, scale="node"))
    targets = len(values) - order
    assert (exact - ours) / targets < 1e-3
    assert (ours - exact) / targets < 1e-7


@pytest.fixture(scope="module")
def germany():
    values = torch.tensor(GERMANY["levels"], dtype=torch.float64).log().diff(dim=0)[:75]
    return one_window(values, 2)


def reference(noise):
    return next(f["log_likelihood"] for f in GERMANY["fits"] if f["noise"] == noise and f["order"] == 2)


def test_independent_heads_reach_the_diagonal_vector_autoregression(germany):
    ours = train(*germany, 2, partial(GaussianHead, scale="node"))
    assert reference("diagonal") == pytest.approx(589.776054, abs=1e-5)
    assert -1e-4 < reference("diagonal") - ours < 0.05


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_a_linear_nade_reaches_the_full_vector_autoregression_in_any_order(germany, order):
    head = partial(
        MixtureNADEHead, components=1, width=2, order=list(order), activation="none", scale="entry"
    )
    ours = train(*germany, 2, head)
    assert reference("full") == pytest.approx(606.306968, abs=1e-5)
    assert -1e-4 < reference("full") - ours < 0.05


def test_a_mixture_describes_what_a_gaussian_cannot():
    """Independent draws of a mixture: its entropy is the floor; a Gaussian stays at its own optimum."""
    context = {"weights": [0.3, 0.7], "loc": [-2.0, 1.0], "scale": [0.5, 0.8]}
    weights, loc, scale = (torch.tensor(context[name], dtype=torch.float64) for name in context)
    # quantiles of the mixture, evenly spaced in probability: draws without noise
    grid = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    cdf = (weights * torch.special.ndtr((grid[:, None] - loc) / scale)).sum(dim=-1)
    levels = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    values = grid[torch.searchsorted(cdf, levels)]
    shuffled = values[torch.randperm(4000, generator=torch.Generator().manual_seed(0))]
    spec, batch = one_window(shuffled[:, None], 1)
    nll = {
        name: -train(spec, batch, 1, head) / 3999
        for name, head in (
            ("gaussian", partial(GaussianHead, scale="node")),
            ("mixture", partial(MixtureHead, components=2)),
        )
    }
    assert nll["mixture"] == pytest.approx(1.636902879472, abs=0.01)
    assert nll["gaussian"] == pytest.approx(1.8593739265, abs=0.01)


def arx(steps=400, nodes=3):
    """x_t = 0.5 + 0.7 x_{t-1} + 1.5 c_t + noise of deviation 0.4, for independent nodes."""
    generator = torch.Generator().manual_seed(3)
    covariates = torch.randn(steps, nodes, 1, generator=generator, dtype=torch.float64)
    noise = 0.4 * torch.randn(steps, nodes, 1, generator=generator, dtype=torch.float64)
    x = [torch.zeros(nodes, 1, dtype=torch.float64)]
    for t in range(1, steps):
        x.append(0.5 + 0.7 * x[-1] + 1.5 * covariates[t] + noise[t])
    return torch.stack(x), covariates


@pytest.mark.parametrize(
    "head",
    [
        partial(GaussianHead, scale="node"),
        partial(ConditionalHead, head=partial(GaussianHead, scale="node")),
    ],
    ids=["encoder", "both"],
)
def test_a_conditional_linear_model_is_the_exact_arx(head):
    """Its likelihood is that of least squares on (1, x_{t-1}, c_t); its draws given the covariates are those
    of the fitted ARX."""
    values, covariates = arx(nodes=1)
    spec, batch = one_window(values, 1, covariates)
    torch.manual_seed(0)
    model = AutoregressiveModel(spec, partial(LINEAR, order=1), head, LBFGS, sampler=Ancestral(4000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(max_epochs=3, **QUIET).fit(model, DataLoader([batch], batch_size=None))
    model = model.double().eval()
    x, c = values[:, 0, 0], covariates[:, 0, 0]
    design = torch.stack([torch.ones_like(c[1:]), x[:-1], c[1:]], dim=1)
    solution = torch.linalg.lstsq(design, x[1:, None]).solution[:, 0]
    variance = (x[1:] - design @ solution).square().mean()
    exact = -0.5 * (len(x) - 1) * (2 * torch.pi * variance).log() - 0.5 * (len(x) - 1)
    with torch.no_grad():
        ours = model.log_prob(batch).sum()
    assert -1e-6 < float(exact - ours) < 1e-3 * len(x)

    start = batch.steps(slice(0, 12))
    context = torch.zeros_like(start.context)
    context[:, 0] = True
    drawn = model.sampler(model, start._changed(context=context, target=~context)).values[:, 0, :, 0, 0]
    mean, var = [x[0]], [torch.zeros_like(variance)]
    for t in range(1, 12):
        mean.append(solution[0] + solution[1] * mean[-1] + solution[2] * c[t])
        var.append(solution[1] ** 2 * var[-1] + variance)
    mean, var = torch.stack(mean)[1:], torch.stack(var)[1:]
    assert ((drawn[:, 1:].mean(dim=0) - mean) / (var / 4000).sqrt()).abs().max() < 5
    ratio = drawn[:, 1:].var(dim=0) / var
    assert ((ratio - 1) / (2 / 4000) ** 0.5).abs().max() < 5

"""What training makes small: each objective against what it claims, and what it does in a model."""

import dataclasses
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
import yaml
from conftest import directed_graph, make_batch, make_series
from lightning import Trainer

import tsgen
from tsgen.cli.configs import apply, find, read
from tsgen.cli.main import main
from tsgen.counter_random import streams, uniforms
from tsgen.data.masks import PointMask
from tsgen.data.series import GraphSeries, SeriesBatch, SeriesSpec
from tsgen.datamodules import SyntheticDataModule
from tsgen.encoders import AttentionEncoder, ConvolutionEncoder, GraphGRUEncoder, WindowEncoder
from tsgen.encoders.propagation import Propagation
from tsgen.exact.ar import ARProcess
from tsgen.heads import ConditionalHead, GaussianHead, MixtureHead, MixtureNADEHead
from tsgen.heads.base import SCALE_FLOOR
from tsgen.heads.likelihood import masked_log_prob, masked_nll
from tsgen.models import AnyOrderModel, AutoregressiveModel
from tsgen.objectives import MaskedNLL, ParticleBound, Rollout, ScheduledSampling
from tsgen.sampling import Ancestral

ENCODERS = {
    "window": partial(WindowEncoder, order=3, hidden=8),
    "convolution": partial(ConvolutionEncoder, hidden=8, layers=2),
    "gru": partial(GraphGRUEncoder, hidden=8),
    "attention": partial(AttentionEncoder, hidden=8, heads=2, layers=1),
}
NADE = partial(MixtureNADEHead, components=2, width=4)
HEADS = {
    "gaussian": GaussianHead,
    "mixture": partial(MixtureHead, components=3),
    "nade": NADE,
    "nade of one": partial(NADE, components=1),
    "nade of the slice": partial(NADE, over="slice"),
    "conditional nade": partial(ConditionalHead, head=NADE),
}
PAIRS = [(encoder, "mixture") for encoder in ENCODERS] + [
    ("gru", head) for head in HEADS if head != "mixture"
]
NOISY = {
    "input noise": MaskedNLL(input_noise=0.4),
    "scheduled sampling": ScheduledSampling(k=2.0, least=0.3, passes=2),
    "rollout": Rollout(steps=3, paths=2),
}
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}

pairs = pytest.mark.parametrize(("encoder", "head"), PAIRS)
noisy = pytest.mark.parametrize("name", NOISY)


def make(series, encoder="gru", head="mixture", **parts) -> AutoregressiveModel:
    """A small model in training mode, with weights that are always the same."""
    spec = SeriesSpec.of(series)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return AutoregressiveModel(spec, ENCODERS[encoder], HEADS[head], **parts).train()


def stream_of(batch: SeriesBatch, epoch: int = 0):
    return streams(5, torch.full_like(batch.position[:, 0], epoch), batch.position[:, 0])


def learning(batch: SeriesBatch) -> SeriesBatch:
    """A batch as training has it: what is hidden from the model is scored, and so is what is visible."""
    return batch._changed(target=batch.target | batch.context)


def whole(batch: SeriesBatch) -> SeriesBatch:
    """A batch that is visible and scored everywhere."""
    everything = torch.ones_like(batch.context)
    return batch._changed(
        values=torch.nan_to_num(batch.values, nan=50.0), context=everything, target=everything
    )


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def start_of(step: int, steps: int, length: int) -> int:
    """Where the rollout of an optimiser's step begins."""
    return int(float(uniforms(streams(1, torch.tensor(step)), (1,))) * (length - steps + 1))


def step_with_start(start: int, steps: int, length: int) -> int:
    return next(step for step in range(1000) if start_of(step, steps, length) == start)


# ------------------------------------------------------------------------------------------ every objective


@noisy
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_window_scores_the_same_in_any_batch(name, encoder, series, batch):
    """The random numbers of a window are its own, and a rollout starts at one place for all."""
    model, batch = make(series, encoder), learning(batch)
    stream, objective = stream_of(batch), NOISY[name]
    for step in (0, 2):
        together = objective.loss(model, batch, stream, step)
        again = objective.loss(model, batch, stream, step)
        assert torch.equal(together, again)
        alone, counts = [], []
        for i in range(len(batch.values)):
            row = batch.rows(slice(i, i + 1))
            scored = row.target
            if name == "rollout":
                scored = scored[:, : start_of(step, 3, 10) + 3]
            counts.append(int(scored.sum()))
            alone.append(objective.loss(model, row, stream[i : i + 1], step).item() * counts[-1])
        assert sum(alone) / sum(counts) == pytest.approx(together.item(), rel=1e-5)
        other = objective.loss(model, batch, stream_of(batch, epoch=1), step)
        # at its first step the probability of the truth is 1
        assert torch.equal(other, together) == (name == "scheduled sampling" and step == 0)


@noisy
def test_nothing_is_read_outside_the_masks(name, series, batch):
    model, batch = make(series), learning(batch)
    results = []
    for poison in (torch.nan, 1e9):
        values = torch.where(batch.context | batch.target, batch.values, poison)
        # what is hidden is scored but not read
        loss = NOISY[name].loss(model, batch._changed(values=values), stream_of(batch), 3)
        results.append([loss.detach(), *gradients(model, loss).values()])
    assert all(torch.equal(a, b) and torch.isfinite(a).all() for a, b in zip(*results, strict=True))


@noisy
def test_gradients_reach_every_parameter(name, series, batch):
    model = make(series, node_embedding=2)
    found = gradients(model, NOISY[name].loss(model, learning(batch), stream_of(batch), 3))
    assert found.keys() == dict(model.named_parameters()).keys()
    assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in found.values())


def test_training_hands_over_the_step_and_streams_of_the_epoch(monkeypatch):
    given, loss = [], MaskedNLL.loss
    monkeypatch.setattr(
        MaskedNLL,
        "loss",
        lambda *parts: given.append((*parts[2].position[:, 0], parts[3], parts[4])) or loss(*parts),
    )
    data = SyntheticDataModule(num_nodes=5, steps=300, window=12, batch_size=1)
    model = AutoregressiveModel(data.spec, ENCODERS["gru"], GaussianHead)
    data.dataset = partial(lambda made, stage: _first(made(stage)), data.dataset)
    trainer = Trainer(max_epochs=2, limit_val_batches=0, enable_checkpointing=False, **QUIET)
    trainer.fit(model, data)
    assert [step for *_, step in given] == [0, 1, 2, 3]
    numbers = {int(window): [] for window, *_ in given}
    for window, stream, _ in given:
        numbers[int(window)].append(int(stream))
    assert len(numbers) == 2 and len({x for pair in numbers.values() for x in pair}) == 4


def _first(dataset):
    """The dataset with its first two windows."""
    dataset.starts = dataset.starts[:2]
    return dataset


@noisy
def test_validation_is_by_the_truth(name, series, batch):
    model = make(series, objective=NOISY[name])
    assert torch.equal(model.validation_log_prob(batch), model.log_prob(batch))


@pytest.mark.parametrize("objective", [ScheduledSampling(), Rollout(), ParticleBound()])
def test_what_goes_forward_needs_a_model_that_does(objective, series):
    spec = SeriesSpec.of(series)
    message = f"{type(objective).__name__} needs an autoregressive model; got AnyOrderModel"
    with pytest.raises(ValueError, match=message):
        AnyOrderModel(spec, objective=objective)


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (partial(MaskedNLL, -0.1), "input_noise must"),
        (partial(MaskedNLL, math.inf), "input_noise must"),
        (partial(Rollout, steps=0), "steps must be at least 1"),
        (partial(Rollout, paths=0), "paths must be at least 1"),
        (partial(ScheduledSampling, passes=0), "passes must be at least 1"),
        (partial(ScheduledSampling, least=1.1), "least must lie in 0..1"),
        (partial(ScheduledSampling, k=0.5), "k must lie"),
        (partial(ScheduledSampling, k=math.inf), "k must lie"),
        (partial(ScheduledSampling, k=math.nan), "k must lie"),
        (partial(ScheduledSampling, "exponential"), "k must lie"),
        (partial(ScheduledSampling, "cosine"), "decay must be 'linear', 'exponential' or 'inverse_sigmoid'"),
    ],
)
def test_a_wrong_number_is_refused(make_it, message, as_a_user):
    with pytest.raises(ValueError, match=message):
        make_it()


# ---------------------------------------------------------------------------------------------- input noise


def inputs_of(model, objective, batch, stream) -> tuple[torch.Tensor, torch.Tensor]:
    """What the encoder was given: the slices and what of them is visible."""
    given, law = [], model.law
    model.law = lambda batch, x, context: given.append((x, context)) or law(batch, x, context)
    objective.loss(model, batch, stream, 3)
    del model.law
    return given[-1]


def test_input_noise_has_the_stated_variance_and_touches_nothing_else():
    series = make_series(steps=1200)
    model, batch = make(series), learning(make_batch(series, batch=100, window=60))
    before = batch.values.clone()
    noise, context = inputs_of(model, MaskedNLL(input_noise=0.4), batch, stream_of(batch))
    noise = noise - model.inputs(batch)[0]
    assert torch.equal(context.bool(), batch.context) and (noise[~batch.context] == 0).all()
    assert torch.equal(batch.values.nan_to_num(), before.nan_to_num())
    standard = noise[batch.context].double() / 0.4
    count = len(standard)
    assert count > 10_000
    assert abs(float(standard.mean())) * count**0.5 < 5
    assert abs(float(standard.square().mean()) - 1) * (count / 2) ** 0.5 < 5
    assert abs(float((standard.abs() < 1).double().mean()) - math.erf(0.5**0.5)) * count**0.5 < 2.5
    # one number for each entry
    assert standard.unique().numel() > 0.99 * count


def test_the_loss_with_noisy_inputs_scores_the_truth(series, batch):
    model, batch = make(series), learning(batch)
    objective, stream = MaskedNLL(input_noise=0.4), stream_of(batch)
    x, context = inputs_of(model, objective, batch, stream)
    loss = objective.loss(model, batch, stream, 3)
    assert torch.equal(loss, masked_nll(model.law(batch, x, context), batch.values, batch.target))
    quiet = MaskedNLL().loss(model, batch, stream, 3)
    assert torch.equal(quiet, masked_nll(model(batch), batch.values, batch.target)) and quiet != loss


def test_validation_is_not_noisy():
    data = SyntheticDataModule(num_nodes=5, steps=300, window=12, batch_size=16, val=0.3)
    trainer = Trainer(enable_checkpointing=False, **QUIET)
    scores = []
    for objective in (MaskedNLL(), MaskedNLL(input_noise=2.0)):
        torch.manual_seed(1)
        model = AutoregressiveModel(data.spec, ENCODERS["gru"], GaussianHead, objective=objective)
        scores.append(trainer.validate(model, data, verbose=False)[0]["val/nll"])
    assert scores[0] == scores[1]


# --------------------------------------------------------------------------------------- scheduled sampling


@pairs
def test_all_truth_is_teacher_forcing_to_the_bit(encoder, head, series, batch):
    model, batch, stream = make(series, encoder, head), learning(batch), stream_of(batch)
    expected = MaskedNLL().loss(model, batch, stream, 0)
    grads = gradients(model, expected)
    for objective, step in ((ScheduledSampling(k=5.0), 0), (ScheduledSampling(k=5.0, least=1.0), 900)):
        loss = objective.loss(model, batch, stream, step)
        assert torch.equal(loss, expected)
        assert all(torch.equal(g, grads[name]) for name, g in gradients(model, loss).items())


@pytest.mark.parametrize("step", [0, 1, 7, 40, 10_000_000])
def test_the_laws_of_decay_are_their_formulas(step):
    assert ScheduledSampling("linear", 20.0).probability(step) == max(0.0, 1 - step / 20)
    assert ScheduledSampling("exponential", 0.9).probability(step) == 0.9**step
    expected = 20 / (20 + math.exp(step / 20)) if step < 1000 else 0.0
    assert ScheduledSampling("inverse_sigmoid", 20.0).probability(step) == pytest.approx(expected, abs=1e-300)
    for decay, k in (("linear", 20.0), ("exponential", 0.9), ("inverse_sigmoid", 20.0)):
        schedule = ScheduledSampling(decay, k)
        assert 0 <= schedule.probability(step + 1) <= schedule.probability(step) <= 1
        assert ScheduledSampling(decay, k, least=0.6).probability(step) == max(
            0.6, schedule.probability(step)
        )


@pytest.mark.parametrize("k", [1.0, 3.0, 50.0, 1000.0])
def test_the_constants_mean_what_they_are_said_to(k):
    sigmoid, half = ScheduledSampling("inverse_sigmoid", k), k * math.log(k)
    assert sigmoid.probability(0) == pytest.approx(k / (k + 1))
    assert sigmoid.probability(math.floor(half)) >= 0.5 >= sigmoid.probability(math.ceil(half))
    linear = ScheduledSampling("linear", k)
    assert linear.probability(int(k)) == 0 and linear.probability(int(k) - 1) > 0


def drawn_in_a_loop(model, batch, stream, keep) -> torch.Tensor:
    """The slices that a loop over time draws, in standard units: each given the last ones, true or drawn."""
    truth, context = model.inputs(batch)
    units, propagation = model.units(batch), Propagation(batch.graph)
    numbers = (*truth.shape[1:], model.head.uniforms_per_entry)
    noise = uniforms(streams(2, stream), numbers, dtype=truth.dtype)
    before, state, slices = None, None, []
    for t in range(truth.shape[1]):
        now = batch.steps(slice(t, t + 1))
        h, state = model.advance(now, before, propagation, state)
        drawn = model.draw(now, h, torch.zeros_like(now.context), noise[:, t : t + 1])
        x = torch.where(keep[:, t : t + 1], truth[:, t : t + 1], units.standardise(drawn))
        slices.append(x * context[:, t : t + 1])
        before = slices[-1], context[:, t : t + 1]
    return torch.cat(slices, dim=1)


@pairs
@torch.no_grad()
def test_the_parallel_passes_become_the_loop_exactly(encoder, head, series, batch):
    model = make(series, encoder, head).double()
    batch = batch._changed(values=batch.values.double(), covariates=batch.covariates.double())
    stream, steps = stream_of(batch), batch.values.shape[1]
    never = torch.zeros(len(stream), steps, 1, 1, dtype=torch.bool)
    looped = drawn_in_a_loop(model, batch, stream, never)
    assert float((looped - model.inputs(batch)[0]).abs().mean()) > 0.1
    for passes in (1, 4, steps):
        objective = ScheduledSampling(k=1.0, passes=passes)
        x, context = inputs_of(model, objective, batch, stream)
        torch.testing.assert_close(x[:, :passes], looped[:, :passes], atol=1e-9, rtol=1e-9)
        assert torch.equal(context, model.inputs(batch)[1])
        # one pass later would still have changed something
        assert passes == steps or float((x - looped).abs().max()) > 1e-4


@torch.no_grad()
def test_the_first_draws_of_a_mixture_of_both_are_those_of_the_loop(series, batch):
    model, batch = make(series).double(), whole(batch)
    batch = batch._changed(values=batch.values.double(), covariates=batch.covariates.double())
    stream, objective = stream_of(batch), ScheduledSampling(k=2.0, least=0.5, passes=2)
    x, _ = inputs_of(model, objective, batch, stream)
    truth = model.inputs(batch)[0]
    kept = (x == truth).all(dim=3, keepdim=True).all(dim=2, keepdim=True)
    assert 0.2 < float(kept.double().mean()) < 0.8
    looped = drawn_in_a_loop(model, batch, stream, kept)
    number = (~kept).cumsum(dim=1)
    first = (number <= 2).expand_as(x)
    torch.testing.assert_close(x[first], looped[first], atol=1e-9, rtol=1e-9)
    assert float((x - looped)[~first].abs().max()) > 1e-4


def test_no_gradient_goes_through_the_draws(series, batch):
    model, batch = make(series), learning(batch)
    x, _ = inputs_of(model, ScheduledSampling(k=1.0, passes=2), batch, stream_of(batch))
    assert not x.requires_grad and not torch.equal(x, model.inputs(batch)[0])


@torch.no_grad()
def test_what_is_drawn_depends_on_the_stream_and_the_probability_alone(series, batch):
    model, batch = make(series), whole(batch)
    schedule = partial(ScheduledSampling, k=1.0)
    given = [inputs_of(model, schedule(least=p), batch, stream_of(batch))[0] for p in (0.0, 0.3, 0.7)]
    truth = model.inputs(batch)[0]
    kept = [(x == truth).all(dim=3).all(dim=2) for x in given]
    # the same numbers decide, so that what is kept at a lower probability is kept at a higher one
    assert not kept[0].any() and (kept[1] <= kept[2]).all() and (kept[1] != kept[2]).any()
    other = inputs_of(model, schedule(least=0.7), batch, stream_of(batch, epoch=1))[0]
    assert not torch.equal((other == truth).all(dim=3).all(dim=2), kept[2])


# -------------------------------------------------------------------------------------------------- rollout


@pairs
@pytest.mark.parametrize("paths", [1, 3])
def test_one_step_is_teacher_forcing_on_what_it_scores(encoder, head, paths, series, batch):
    model, batch, stream = make(series, encoder, head), learning(batch), stream_of(batch)
    for step in range(3):
        loss = Rollout(steps=1, paths=paths).loss(model, batch, stream, step)
        scored = batch.steps(slice(0, start_of(step, 1, 10) + 1))
        expected = MaskedNLL().loss(model, scored, stream, step)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        found, grads = gradients(model, loss), gradients(model, expected)
        for name, grad in grads.items():
            torch.testing.assert_close(found[name], grad, atol=1e-5, rtol=1e-4, msg=name)


@pairs
@torch.no_grad()
def test_the_score_is_that_of_whole_windows_with_the_paths_as_inputs(encoder, head, series, batch):
    """Each path put into the window and read in one pass; then the mean of what is joint."""
    model = make(series, encoder, head).double()
    batch = learning(batch)._changed(values=batch.values.double(), covariates=batch.covariates.double())
    start, steps, paths, drawn, draw = 2, 5, 3, [], model.draw
    model.draw = lambda *parts: drawn.append(draw(*parts)) or drawn[-1]
    step = step_with_start(start, steps, 10)
    loss = Rollout(steps=steps, paths=paths).loss(model, batch, stream_of(batch), step)
    assert torch.cat(drawn, dim=1).flatten(1).unique(dim=0).shape[0] == paths * len(batch.values)
    rows = batch.repeat(paths).steps(slice(0, start + steps))
    x, context = model.inputs(rows)
    x[:, start:], context[:, start:] = model.units(batch).standardise(torch.cat(drawn, dim=1)), 1.0
    score = masked_log_prob(model.law(rows, x, context), rows.values, rows.target).unflatten(0, (paths, -1))
    if "nade" in head:
        score = score.sum(dim=(3, 4) if head == "nade of the slice" else 4)
    expected = score[0, :, :start].sum() + (score[:, :, start:].logsumexp(dim=0) - math.log(paths)).sum()
    assert float(loss) == pytest.approx(
        -float(expected) / int(rows.target[: len(batch.values)].sum()), rel=1e-9
    )


@torch.no_grad()
def test_starts_are_spread_over_the_window(series, batch):
    model, batch = make(series, "window", "gaussian"), learning(batch).rows(slice(0, 1))
    last = torch.zeros_like(batch.target)
    last[:, -1] = batch.target[:, -1]
    batch = batch._changed(target=last)
    reached = [
        bool(Rollout(steps=8, paths=1).loss(model, batch, stream_of(batch), step) != 0) for step in range(30)
    ]
    # the last of the three starts, and no other, scores the last step
    assert reached == [start_of(step, 8, 10) == 2 for step in range(30)]
    assert abs(sum(reached) / 30 - 1 / 3) < 5 * (2 / 9 / 30) ** 0.5


def test_more_steps_than_a_window_has_are_its_own(series, batch):
    model, batch, stream = make(series), learning(batch), stream_of(batch)
    losses = [Rollout(steps=steps, paths=2).loss(model, batch, stream, 0) for steps in (10, 50)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("head", ["gaussian", "nade of one"])
def test_gradients_through_the_paths_are_finite_differences(encoder, head, series, batch):
    """Of one component: those of a mixture are right on average alone (see test_heads)."""
    model = make(series, encoder, head).double()
    batch = learning(batch)._changed(values=batch.values.double(), covariates=batch.covariates.double())
    objective, stream, step = Rollout(steps=5, paths=3), stream_of(batch), step_with_start(2, 5, 10)
    grads = gradients(model, objective.loss(model, batch, stream, step))
    generator = torch.Generator().manual_seed(4)
    weights = dict(model.named_parameters())
    way = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in weights.items()}
    losses = []
    with torch.no_grad():
        for side in (1, -2):
            for name, p in weights.items():
                p += side * 1e-6 * way[name]
            losses.append(float(objective.loss(model, batch, stream, step)))
    slope = (losses[0] - losses[1]) / 2e-6
    assert slope == pytest.approx(float(sum((g * way[n]).sum() for n, g in grads.items())), rel=1e-5)


PHI, INTERCEPT, SIGMA = 0.8, 0.1, 0.7
LOC, SCALE, NODES = 3.0, 2.0, 2
"""An AR(1) in standard units, and what those mean."""


def linear_model() -> AutoregressiveModel:
    """The AR(1) as a model: each node hears of its own last value alone."""
    spec = SeriesSpec(
        loc=torch.full((NODES, 1), LOC),
        scale=torch.full((NODES, 1), SCALE),
        edge_index=directed_graph(3).edge_index[:, :0],
        edge_weight=torch.zeros(0),
        num_covariates=0,
        nodes=["a", "b"],
        channels=["x"],
    )
    encoder = partial(WindowEncoder, order=1, layers=0, convolution=None)
    model = AutoregressiveModel(spec, encoder, partial(GaussianHead, scale="node")).double().train()
    with torch.no_grad():
        model.head.linear.weight.copy_(torch.tensor([[PHI, 0.0]]))
        model.head.linear.bias.fill_(INTERCEPT)
        model.head.log_scale.fill_(math.log(SIGMA - SCALE_FLOOR))
    return model


def paths_of_the_process(windows: int, length: int, seed: int = 0) -> SeriesBatch:
    """Windows of the AR(1), of which the first step starts from the stationary law."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(windows, length, NODES, 1, generator=generator, dtype=torch.float64)
    x = [INTERCEPT / (1 - PHI) + SIGMA / (1 - PHI**2) ** 0.5 * noise[:, 0]]
    for t in range(1, length):
        x.append(INTERCEPT + PHI * x[-1] + SIGMA * noise[:, t])
    everything = torch.ones(windows, length, NODES, 1, dtype=torch.bool)
    graph = GraphSeries(torch.zeros(2, NODES, 1), everything[0, :2], linear_model().spec.graph).graph
    position = 1000 * torch.arange(windows)[:, None] + torch.arange(length)
    return SeriesBatch(LOC + SCALE * torch.stack(x, dim=1), everything, everything, graph, position)


def scored_at(batch: SeriesBatch, step: int) -> SeriesBatch:
    target = torch.zeros_like(batch.target)
    target[:, step] = True
    return batch._changed(target=target)


def bias_and_error(x: float, ahead, past: torch.Tensor, mean: torch.Tensor, paths: int):
    r"""Of the logarithm of the mean density over paths: its leading bias, minus half its variance.

    The density given a path, :math:`N(x; m, \sigma^2)` with m Gaussian, has a closed second moment.
    """
    spread = SIGMA**2 * PHI**2 * (1 - PHI ** (2 * ahead)) / (1 - PHI**2)
    normal = torch.distributions.Normal
    first = normal(mean, (SIGMA**2 + spread) ** 0.5).log_prob(x).exp()
    second = normal(mean, (SIGMA**2 / 2 + spread) ** 0.5).log_prob(x).exp() / (2 * SIGMA * math.pi**0.5)
    return (second / first**2 - 1).clamp(min=0) / paths


@torch.no_grad()
@pytest.mark.parametrize("ahead", [0, 1, 3, 5])
def test_the_score_of_a_lead_time_becomes_the_exact_one(ahead):
    """Each entry's log-density k steps on, with many paths; with few it is lower, by what Jensen says."""
    model, batch = linear_model(), paths_of_the_process(40, 7)
    step = step_with_start(1, 6, 7)
    standard = (batch.values - LOC) / SCALE
    process = ARProcess([PHI], intercept=INTERCEPT, variance=SIGMA**2)
    law = process.forecast(standard[:, 0, :, 0, None], horizon=6)
    mean, deviation = law.mean[..., ahead, None], law.stddev[..., ahead, None]
    truth = standard[:, 1 + ahead]
    exact = torch.distributions.Normal(mean, deviation).log_prob(truth) - math.log(SCALE)
    for paths in (64, 2000):
        objective = Rollout(steps=6, paths=paths)
        score = -objective.loss(model, scored_at(batch, 1 + ahead), stream_of(batch), step)
        variance = bias_and_error(truth, ahead, standard[:, 0], mean, paths)
        if ahead == 0:
            assert float(score) == pytest.approx(float(exact.mean()), abs=1e-9)
            continue
        error = float(variance.sum().sqrt()) / exact.numel()
        bias = -float(variance.mean()) / 2
        assert abs(float(score - exact.mean()) - bias) < 5 * error
        assert error < 0.02


@torch.no_grad()
def test_a_forecast_is_judged_by_the_mean_density_over_paths_of_draws():
    """In a test each entry of the forecast has its exact density k steps on; without one, marks alone."""
    paths, ahead = 4000, 3
    model, batch = linear_model(), scored_at(paths_of_the_process(40, 7), 1 + ahead)
    batch = batch._changed(context=batch.context & (torch.arange(7) < 1)[:, None, None])
    model.sampler = Ancestral(num_samples=paths)
    marked = model.test_log_prob(batch)
    model._trainer = Mock(spec=Trainer, datamodule=SimpleNamespace(horizon=6))
    found = model.test_log_prob(batch)[:, 1 + ahead]
    standard = (batch.values - LOC) / SCALE
    law = ARProcess([PHI], intercept=INTERCEPT, variance=SIGMA**2).forecast(standard[:, 0, :, 0, None], 6)
    mean, deviation = law.mean[..., ahead, None], law.stddev[..., ahead, None]
    exact = torch.distributions.Normal(mean, deviation).log_prob(standard[:, 1 + ahead]) - math.log(SCALE)
    error = bias_and_error(standard[:, 1 + ahead], ahead, standard[:, 0], mean, paths).sum().sqrt()
    assert float(error) / exact.numel() < 0.02
    assert abs(float((found - exact).mean())) < 5 * float(error) / exact.numel()
    assert abs(float((marked[:, 1 + ahead] - exact).mean())) > 20 * float(error) / exact.numel()


def mean_gradient(objective, batch, step: int, groups: int = 25) -> dict[str, tuple[float, float]]:
    """Mean and standard error of the loss's derivatives in the coefficient and in sigma."""
    model, stream = linear_model(), stream_of(batch)
    size, found = len(batch.values) // groups, {"phi": [], "sigma": []}
    for g in range(groups):
        few = slice(g * size, (g + 1) * size)
        grads = gradients(model, objective.loss(model, batch.rows(few), stream[few], step))
        found["phi"].append(float(grads["head.linear.weight"][0, 0]))
        # log_scale is the logarithm of sigma less the floor
        found["sigma"].append(float(grads["head.log_scale"].sum()) / (SIGMA - SCALE_FLOOR))
    return {name: (sum(x) / groups, float(torch.tensor(x).std()) / groups**0.5) for name, x in found.items()}


def test_with_many_paths_the_law_of_the_data_is_the_optimum():
    batch = paths_of_the_process(1500, 4)
    target = torch.ones_like(batch.target)
    target[:, 0] = False  # the model's first law is not the stationary one
    batch = batch._changed(target=target)
    step = step_with_start(1, 3, 4)
    found = {paths: mean_gradient(Rollout(steps=3, paths=paths), batch, step) for paths in (1, 100)}
    for name in ("phi", "sigma"):
        mean, error = found[100][name]
        assert abs(mean) < 5 * error, name
        one, error = found[1][name]
        assert abs(one) > 10 * error, name


def test_with_one_path_the_derivatives_are_those_of_the_formula():
    """phi in the coefficient and -phi^2 / sigma in the deviation, at the second step."""
    batch = scored_at(paths_of_the_process(8000, 3), 2)
    found = mean_gradient(Rollout(steps=2, paths=1), batch, step_with_start(1, 2, 3))
    for name, expected in (("phi", PHI), ("sigma", -(PHI**2) / SIGMA)):
        mean, error = found[name]
        assert abs(mean - expected) < 5 * error, name
        assert error < 0.05


def test_scheduled_sampling_leaves_the_law_of_the_data():
    """Of drawn inputs the derivative in the coefficient is phi, too, where it should be zero."""
    batch = scored_at(paths_of_the_process(8000, 2), 1)
    mean, error = mean_gradient(ScheduledSampling(k=1.0), batch, 5)["phi"]
    # the draw of the first slice is from the model's law of it
    assert abs(mean - _expected_pull()) < 5 * error and error < 0.05
    mean, error = mean_gradient(MaskedNLL(), batch, 5)["phi"]
    assert abs(mean) < 5 * error


def _expected_pull() -> float:
    r"""Mean of :math:`-r z / \sigma^2`: z ~ N(c, sigma^2) is drawn, r = phi (x - z) + noise, x stationary."""
    start = INTERCEPT / (1 - PHI)
    return -PHI * (start * INTERCEPT - INTERCEPT**2 - SIGMA**2) / SIGMA**2


# ---------------------------------------------------------------------------------------- truncated gradients


@pytest.mark.parametrize("encoder", ENCODERS)
def test_truncation_changes_gradients_alone(encoder, series, batch):
    batch, stream = learning(batch), stream_of(batch)
    plain, cut, far = (make(series, encoder, truncated_steps=k) for k in (None, 4, 10))
    losses = [model.objective.loss(model, batch, stream, 0) for model in (plain, cut, far)]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-6)
    assert torch.equal(losses[2], losses[0])
    grads = [gradients(model, loss) for model, loss in zip((plain, cut, far), losses, strict=True)]
    assert all(torch.equal(grads[2][name], g) for name, g in grads[0].items())
    assert any(not torch.allclose(grads[1][name], g, rtol=1e-3) for name, g in grads[0].items())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_no_gradient_crosses_a_cut_while_training(encoder, series, batch):
    model, batch = make(series, encoder, truncated_steps=4), whole(batch)

    def reach(model) -> torch.Tensor:
        x, context = model.inputs(batch)
        x.requires_grad_()
        law = model.law(batch, x, context)
        law.log_prob(batch.values)[:, -1].sum().backward()
        return x.grad.abs().sum(dim=(0, 2, 3)) > 0

    # pieces begin at 0, 4 and 8; step 8 reads slice 7
    assert reach(model).tolist() == 7 * [False] + [True, True] + [False]
    untruncated = reach(make(series, encoder))
    assert untruncated[:7].any()
    assert torch.equal(reach(model.eval()), untruncated)


def test_truncation_needs_a_step(series):
    with pytest.raises(ValueError, match="truncated_steps must be at least 1"):
        make(series, truncated_steps=0)


# --------------------------------------------------------------------------- checkpoints and the command line

OBJECTIVES = {
    **NOISY,
    "exponential": ScheduledSampling("exponential", 0.9, least=0.1, passes=3),
    "maximum likelihood": MaskedNLL(),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_survives_the_checkpoint(name, tmp_path):
    data = SyntheticDataModule(num_nodes=5, steps=300, window=12, batch_size=16, thinning=PointMask(0.2))
    model = AutoregressiveModel(
        data.spec, ENCODERS["gru"], GaussianHead, objective=OBJECTIVES[name], truncated_steps=6
    )
    trainer = Trainer(
        max_epochs=1, limit_train_batches=1, limit_val_batches=1, enable_checkpointing=False, **QUIET
    )
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = tsgen.load(tmp_path / "model.ckpt")
    assert loaded.objective == OBJECTIVES[name] and loaded.truncated_steps == 6
    batch = data.dataset("train").__getitems__([(0, 0), (0, 5)])
    losses = [m.objective.loss(m.train(), batch, stream_of(batch), 1) for m in (model, loaded)]
    assert torch.equal(*losses)


ONE_BATCH = {
    "trainer.max_epochs": 1,
    "trainer.limit_train_batches": 1,
    "trainer.limit_val_batches": 1,
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
    "trainer.logger": False,
    "data.steps": 300,
    "data.num_nodes": 5,
}


def write(path: Path, objective, **more) -> str:
    """The demo with another objective, as one writes it in YAML."""
    fields = dataclasses.asdict(objective)
    spelt = {"class_path": f"tsgen.objectives.{type(objective).__name__}", "init_args": fields}
    options = apply(read(find("demo")), {**ONE_BATCH, "model.objective": spelt, **more})
    path.write_text(yaml.safe_dump(options), "utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["scheduled sampling", "rollout"])
def test_an_objective_is_an_option(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", write(tmp_path / "own.yaml", NOISY[name])]) == 0
    assert tsgen.load("runs/own/checkpoints/last.ckpt").objective == NOISY[name]


def test_a_model_that_does_not_go_forward_refuses_in_one_line(tmp_path, monkeypatch, capsys, as_a_user):
    monkeypatch.chdir(tmp_path)
    model = {
        "class_path": "tsgen.models.AnyOrderModel",
        "init_args": {"objective": {"class_path": "tsgen.objectives.Rollout", "init_args": {"steps": 6}}},
    }
    config = write(tmp_path / "own.yaml", MaskedNLL(), model=model)
    assert main(["fit", "--config", config]) == 2
    shown = capsys.readouterr().err
    assert "Rollout needs an autoregressive model; got AnyOrderModel" in shown
    assert len(shown.strip().splitlines()) == 1

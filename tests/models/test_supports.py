"""Models of channels with different supports: counts, rain, a temperature and a share."""

import dataclasses
from functools import partial

import pytest
import torch
from conftest import ENCODERS, HEADS, TWO_WAY_ENCODERS, directed_graph, make_batch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from tsgen.data.detection import fit_transforms
from tsgen.data.series import GraphSeries, SeriesSpec
from tsgen.data.subgraphs import Subgraphs
from tsgen.datamodules.windows import SeriesDataModule, Split, split_in_time
from tsgen.heads import InDataUnits, MixtureHead, MixtureNADEHead
from tsgen.models import AnyOrderModel, AutoregressiveModel, load
from tsgen.objectives import MaskedNLL
from tsgen.sampling import SMC, Ancestral, AnyOrder

SUPPORTS = {"cases": "counts", "rain": "non_negative", "heat": "real", "humidity": "interval[0, 100]"}
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


def mixed_series(steps: int = 60, seed: int = 0) -> GraphSeries:
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(steps, 5, 4, generator=random)
    rain = torch.where(z[..., 1] > 0.2, (z[..., 1] - 0.2).exp() - 1, 0)
    columns = [torch.poisson(z[..., 0].exp(), random), rain, 280 + 5 * z[..., 2], 60 + 40 * z[..., 3]]
    values = torch.stack([*columns[:3], columns[3].clamp(0, 100)], dim=-1)
    observed = torch.rand(values.shape, generator=random) < 0.7
    covariates = torch.randn(steps, 5, 3, generator=random)
    return GraphSeries(
        values.where(observed, torch.nan), observed, directed_graph(), covariates, channels=list(SUPPORTS)
    )


class Mixed(SeriesDataModule):
    """The series above; a module, so that its support and transform are options."""

    def load(self) -> Split:
        series = mixed_series()
        return Split(series, *split_in_time(60, 0.2, 0.0), torch.zeros_like(series.observed))


def made(encoder="gru", head="mixture", seed: int = 3, **options):
    series = mixed_series()
    spec = SeriesSpec.of(series, None, fit_transforms(series, None, SUPPORTS))
    two_way = encoder in TWO_WAY_ENCODERS
    kind, sampler = (AnyOrderModel, AnyOrder(5, 2, 7)) if two_way else (AutoregressiveModel, Ancestral(5, 7))
    torch.manual_seed(seed)
    factory = (ENCODERS | TWO_WAY_ENCODERS)[encoder]
    return kind(spec, factory, HEADS[head], sampler=sampler, **options).eval()


def outside(values) -> torch.Tensor:
    spec = made().spec
    return torch.stack(
        [one.values.outside(x) for one, x in zip(spec.transforms, values.unbind(-1), strict=True)], dim=-1
    )


CASES = [("gru", head) for head in HEADS] + [("two-way gru", head) for head in HEADS if "nade" not in head]


@pytest.mark.parametrize(("encoder", "head"), CASES)
def test_draws_lie_in_the_supports_and_have_a_density(encoder, head):
    model, batch = made(encoder, head), make_batch(mixed_series())
    log_prob = model.log_prob(batch)
    assert (log_prob[batch.target] != 0).all() and torch.isfinite(log_prob).all()
    (-log_prob.sum()).backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name
    samples = model.sampler(model, batch).values
    drawn = ~batch.context.expand_as(samples)
    assert not (outside(samples) & drawn).any()
    assert (samples[..., 1][drawn[..., 1]] == 0).float().mean() > 0.02
    # what was drawn is read as what it is: zeros have a probability
    row = batch._changed(values=samples[0], context=torch.ones_like(batch.context), target=drawn[0])
    assert torch.isfinite(model.log_prob(row)).all()


@pytest.mark.parametrize("order", ["given", "any"])
def test_a_nade_draws_each_channel_from_its_law_given_the_others(order):
    """Counts are read as counts by the channels after them, and zero rain stays zero."""
    model = made(head="nade any" if order == "any" else "nade")
    torch.manual_seed(0)
    h, units = torch.randn(50, 3, 5, model.head.hidden), model.node_units
    values, noise = torch.zeros(50, 3, 5, 4), torch.rand(50, 3, 5, 4, 2)
    context = torch.rand(values.shape) < 0.3
    values[..., 2] = 280
    drawn = model.head.draw(h, values, context, units, noise)
    assert not (outside(drawn) & ~context).any()
    assert (drawn[..., 1][~context[..., 1]] == 0).float().mean() > 0.02
    by_steps, seen = values, context.clone()
    for channel in range(4):
        law = model.head(h, by_steps, seen, units)
        now = torch.zeros_like(context)
        now[..., channel] = ~seen[..., channel]
        by_steps = torch.where(now, model.head.quantile(law, noise).float(), by_steps)
        seen = seen | now
    torch.testing.assert_close(drawn, by_steps, rtol=1e-4, atol=1e-4)
    # the density that a filter weights with is that of the draws
    proposal = model.head.proposal(h, drawn, context, units).log_prob(drawn)
    assert torch.isfinite(proposal).all()


def test_a_particle_filter_weights_by_probabilities_and_densities():
    model, batch = made("gru", "nade"), make_batch(mixed_series())
    samples = SMC(4, particles=32)(model, batch)
    assert torch.isfinite(samples.log_evidence).all() and not (outside(samples.values) & ~batch.context).any()


@pytest.mark.parametrize("units", ["node", "interpolation", "linear"])
def test_any_order_works_in_images(units):
    model, batch = made("two-way gru", "mixture", units=units), make_batch(mixed_series())
    law = model(batch)
    assert isinstance(law, InDataUnits) and law.units.transforms is not None
    assert torch.isfinite(model.log_prob(batch)).all()
    for order in ("random", "confidence"):
        sampler = dataclasses.replace(model.sampler, order=order)
        assert not (outside(sampler(model, batch).values) & ~batch.context).any()


def test_a_checkpoint_keeps_supports_and_maps(tmp_path):
    data = Mixed(window=8, batch_size=4, support=SUPPORTS, transform={"rain": "sqrt", "heat": "spline"})
    model = AutoregressiveModel(data.spec, ENCODERS["gru"], MixtureHead, sampler=Ancestral(3, 7))
    trainer = Trainer(max_steps=2, limit_val_batches=0, enable_checkpointing=False, **QUIET)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again, batch = load(tmp_path / "model.ckpt"), make_batch(mixed_series())
    assert [(one.support, one.name) for one in again.spec.transforms] == [
        ("counts", "yeo_johnson"),
        ("non_negative", "sqrt"),
        ("real", "spline"),
        ("interval[0, 100]", "identity"),
    ]
    assert again.spec.transforms == model.spec.transforms
    assert torch.equal(again.log_prob(batch), model.eval().log_prob(batch))
    assert torch.equal(again.sampler(again, batch).values, model.sampler(model, batch).values)


@pytest.mark.parametrize("kind", ["likelihood", "crps", "subgraphs"])
def test_training_resumes_and_lowers_the_loss(kind, tmp_path):
    subgraphs = Subgraphs(clusters=2) if kind == "subgraphs" else None

    def run(epochs: int, callbacks=(), **options):
        seed_everything(0, verbose=False)
        data = Mixed(window=8, batch_size=4, support=SUPPORTS, subgraphs=subgraphs)
        objective = MaskedNLL(crps_weight=1.0) if kind == "crps" else MaskedNLL()
        model = AutoregressiveModel(
            data.spec, ENCODERS["gru"], partial(MixtureHead, components=2), objective=objective
        )
        trainer = Trainer(
            max_epochs=epochs,
            limit_val_batches=0,
            callbacks=list(callbacks),
            enable_checkpointing=bool(callbacks),  # the default one would be written into the clone
            **QUIET,
        )
        batch = make_batch(mixed_series())
        before = model.log_prob(batch).sum()
        trainer.fit(model, data, **options)
        return model, model.log_prob(batch).sum() - before

    half = ModelCheckpoint(tmp_path, filename="half", save_on_train_epoch_end=True)
    whole, gain = run(6)
    run(3, [half])
    resumed, _ = run(6, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert gain > 0
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_nade_over_the_slice_reads_units_of_its_nodes():
    series = mixed_series()
    spec = SeriesSpec.of(series, None, fit_transforms(series, None, SUPPORTS))
    model = AutoregressiveModel(
        spec, ENCODERS["gru"], partial(MixtureNADEHead, over="slice", width=4), sampler=Ancestral(5, 7)
    )
    batch = make_batch(series)
    assert not (outside(model.sampler(model, batch).values) & ~batch.context).any()

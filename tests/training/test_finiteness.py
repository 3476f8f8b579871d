"""A training whose loss, score or weights are not finite ends, and such weights and draws are refused."""

from functools import partial

import pytest
import torch
from conftest import make_batch, make_series
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader

import tsgen
from tsgen.data.series import Samples, SeriesSpec
from tsgen.datamodules import SyntheticDataModule
from tsgen.encoders import GraphGRUEncoder
from tsgen.heads import GaussianHead
from tsgen.models import AutoregressiveModel
from tsgen.models.finiteness import extreme
from tsgen.storage.checkpoints import first_nonfinite


def small(lr=0.01):
    data = SyntheticDataModule(num_nodes=4, steps=120, window=12, batch_size=16)
    optimizer = partial(torch.optim.AdamW, lr=lr)
    return AutoregressiveModel(data.spec, partial(GraphGRUEncoder, hidden=4), optimizer=optimizer), data


def trainer(folder, *callbacks, **options):
    kept = [
        ModelCheckpoint(folder, "best", monitor="val/nll"),
        ModelCheckpoint(folder, "last", save_on_train_epoch_end=True),
    ]
    defaults = {"max_epochs": 2, "logger": False, "accelerator": "cpu", "use_distributed_sampler": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(callbacks=[*callbacks, *kept], **{**defaults, **quiet, **options})


class Poison(Callback):
    """Makes one weight NaN after the last batch of an epoch, where no loss sees it before the checkpoint."""

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.is_last_batch:
            with torch.no_grad():
                module.head.linear.bias[0] = torch.nan


def test_a_loss_that_is_not_finite_ends_the_training_with_what_to_try(tmp_path):
    model, data = small(lr=1e30)
    message = (
        r"train/nll is (nan|inf).*lower learning rate.*gradient_clip_val.*standard deviations from the mean"
    )
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).fit(model, data)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{}, {"limit_val_batches": 0}])
def test_a_weight_that_is_not_finite_is_named_and_never_saved(tmp_path, options):
    model, data = small()
    with pytest.raises(ValueError, match=r"head\.linear\.bias has NaN"):
        trainer(tmp_path, Poison(), **options).fit(model, data)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_inside_an_epoch_is_checked_too(tmp_path):
    model, data = small()
    each_step = ModelCheckpoint(tmp_path / "steps", every_n_train_steps=1)

    class EveryStep(Poison):
        def on_train_batch_end(self, trainer, module, *_):
            with torch.no_grad():
                module.head.linear.bias[0] = torch.nan

    with pytest.raises(ValueError, match=r"head\.linear\.bias has NaN"):
        trainer(tmp_path, EveryStep(), each_step).fit(model, data)
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("score", [torch.nan, torch.inf])
def test_a_validation_score_that_is_not_finite_selects_nothing(tmp_path, score):
    model, data = small()
    model.validation_log_prob = lambda batch: torch.full_like(batch.values, -score)
    model.validation_law = lambda batch: None
    with pytest.raises(ValueError, match=r"val/nll is (nan|inf)"):
        trainer(tmp_path).fit(model, data)
    assert not list(tmp_path.iterdir())


def test_validation_windows_without_entries_to_score_select_nothing(tmp_path):
    model, data = small()
    model.target = lambda batch: torch.zeros_like(batch.target)
    with pytest.raises(ValueError, match="validation must score at least one entry"):
        trainer(tmp_path).fit(model, data)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path):
    model, data = small()
    training = trainer(tmp_path, max_epochs=1)
    training.fit(model, data)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    state["state_dict"]["head.linear.bias"][0] = -torch.inf
    path = tmp_path / "diverged.ckpt"
    torch.save(state, path)
    message = "head.linear.bias has entries that are NaN or infinite"
    with pytest.raises(ValueError, match=f"diverged.ckpt.*{message}"):
        tsgen.load(path)
    with pytest.raises(ValueError, match=f"diverged.ckpt.*{message}"):
        tsgen.load(path, spec=data.spec)
    for run in (training.test, training.validate):
        with pytest.raises(ValueError, match=message):
            run(small()[0], data, ckpt_path=path, weights_only=True)


def test_a_mask_of_minus_infinity_is_no_diverged_weight():
    mask = torch.tensor([0.0, -torch.inf])
    assert first_nonfinite({"mask": mask}, set()) is None
    assert first_nonfinite({"mask": mask}, {"mask"}) == "mask"
    assert first_nonfinite({"fine": torch.ones(2), "mean": mask * 0}, set()) == "mean"


def test_draws_that_are_not_finite_are_an_error():
    values = torch.zeros(2, 3, 4, 5, 1)
    values[1, 2, 3, 4] = torch.inf
    with pytest.raises(ValueError, match="1 of 120 are NaN or infinite, the first at node number 4"):
        Samples(values, "filtering")


def test_a_model_with_weights_that_are_not_finite_does_not_impute():
    series = make_series(covariates=0)
    model = AutoregressiveModel(SeriesSpec.of(series), partial(GraphGRUEncoder, hidden=4))
    with torch.no_grad():
        model.head.linear.bias[0] = torch.nan  # the draws of a mixture stay finite
    for data in (series, make_batch(series)):
        with pytest.raises(ValueError, match=r"head\.linear\.bias has entries"):
            tsgen.impute(model, data, num_samples=3)


def test_draws_that_overflow_are_an_error():
    series = make_series(covariates=0)
    model = AutoregressiveModel(SeriesSpec.of(series), partial(GraphGRUEncoder, hidden=4), GaussianHead)
    with torch.no_grad():
        model.head.linear.bias[0] = 3e38
    for data in (series, make_batch(series)):
        with pytest.raises(ValueError, match="draws must be finite"):
            tsgen.impute(model, data, num_samples=3)


def test_the_furthest_value_of_a_batch_is_named():
    series = make_series(covariates=0)
    model = AutoregressiveModel(SeriesSpec.of(series), partial(GraphGRUEncoder, hidden=4))
    batch = make_batch(series)
    batch.values[1, 2, 3, 1] = 1e10
    batch.context[1, 2, 3, 1] = True
    batch.values[0, 2, 3, 1] = torch.inf
    batch.context[0, 2, 3, 1] = batch.target[0, 2, 3, 1] = False
    assert extreme(model, batch).startswith(
        "the furthest of this batch is 1e+10 at node 3, channel_1, step 13, "
    )


def test_a_trainer_that_overfits_a_batch_sees_the_same_masks_in_every_epoch(tmp_path):
    model, data = small()
    trainer(tmp_path, overfit_batches=1).fit(model, data)
    assert (tmp_path / "last.ckpt").exists()
    windows = data.dataset("train")
    plain, numbered = windows.__getitems__([0, 3]), windows.__getitems__([(0, 0), (0, 3)])
    assert torch.equal(plain.context, numbered.context) and torch.equal(plain.position, numbered.position)


@pytest.mark.parametrize(("lr", "epochs", "learned"), [(10.0, 2, False), (0.0, 1, False), (0.03, 8, True)])
def test_a_training_that_learned_nothing_says_so(lr, epochs, learned, tmp_path, caplog):
    model, data = small(lr)
    with torch.no_grad():
        model.head.linear.bias += 1.0  # without training it is worse than the mean of each node
    trainer(tmp_path, max_epochs=epochs).fit(model, data)
    assert ("learned nothing" in caplog.text) is not learned


def test_windows_without_hidden_entries_are_validated_by_their_nll(tmp_path):
    series = make_series(covariates=0)
    batch = make_batch(series)
    batch = batch._changed(context=batch.context | batch.target)
    loader = DataLoader([batch._changed(target=batch.context)], batch_size=None)
    model = AutoregressiveModel(SeriesSpec.of(series), partial(GraphGRUEncoder, hidden=4))
    fitted = trainer(tmp_path)
    fitted.fit(model, loader, loader)
    assert torch.isfinite(fitted.callback_metrics["val/nll"])


def test_the_search_for_a_learning_rate_goes_past_the_first_divergence(tmp_path):
    model, data = small()
    model.lr = 1e-6
    quiet = trainer(tmp_path, max_epochs=100, num_sanity_val_steps=0)
    found = Tuner(quiet).lr_find(
        model,
        data,
        max_lr=1e30,
        num_training=60,
        early_stop_threshold=None,
        attr_name="lr",
        update_attr=False,
    )
    assert len(found.results["loss"]) > 20


def test_a_resumed_training_is_judged_by_its_best_epoch(tmp_path):
    model, data = small()
    trainer(tmp_path).fit(model, data)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["best_validation"] == model._best
    torch.save(checkpoint | {"best_validation": (-100.0, 1.0)}, tmp_path / "earlier.ckpt")
    resumed, _ = small()
    later = trainer(tmp_path, max_epochs=3)
    later.fit(resumed, data, ckpt_path=tmp_path / "earlier.ckpt", weights_only=True)
    assert resumed._best == (-100.0, 1.0)

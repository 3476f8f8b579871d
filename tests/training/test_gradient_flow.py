"""How far back gradients reach: the known decay of a linear recurrence, receptive fields, a run untouched."""

import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ENCODERS, HEADS, TWO_WAY_ENCODERS, make_batch, make_model, make_series
from lightning import Trainer, seed_everything
from torch import nn
from wandb_file import OfflineRun, records

from tsgen.cli.main import main
from tsgen.datamodules import SyntheticDataModule
from tsgen.encoders import ConvolutionEncoder, GraphGRUEncoder, WindowEncoder
from tsgen.encoders.base import Encoder, map_state
from tsgen.encoders.propagation import Propagation
from tsgen.heads import GaussianHead
from tsgen.heads.likelihood import masked_log_prob
from tsgen.models import AutoregressiveModel
from tsgen.training.callbacks import GradientFlow
from tsgen.training.gradient_flow import gradient_flow, gradient_norms

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


class Decay(Encoder):
    """h_t = a h_{t-1} + W x_t."""

    def __init__(self, in_features, hidden=3, factor=0.8):
        super().__init__(in_features, hidden)
        self.read, self.factor = nn.Linear(in_features, hidden), factor

    def forward(self, inputs, propagation, state=None):
        h, states = torch.zeros(()) if state is None else state[0], []
        for x in self.read(inputs).unbind(1):
            h = self.factor * h + x
            states.append(h)
        return torch.stack(states, dim=1), [h]


@pytest.mark.parametrize("factor", [0.8, -0.5, 1.1])
def test_a_linear_recurrence_decays_at_its_own_rate(factor, series, batch):
    norms = gradient_norms(make_model(series, partial(Decay, factor=factor)), batch)
    assert norms.shape == (9,) and norms[0] > 0
    torch.testing.assert_close(norms[1:] / norms[:-1], torch.full((8,), abs(factor)).double())


def test_of_one_window_the_first_norm_is_that_of_the_laws_slope(series):
    """k = 1 in full: the head is affine in h, so the gradient is a times that of the state read at T."""
    model, batch = make_model(series, Decay, HEADS["gaussian"]), make_batch(series, batch=1)
    known = batch._changed(context=batch.context | batch.target)
    h = model.encode(known, *model.inputs(known))[:, -1:].detach().requires_grad_()
    now = known.steps(slice(-1, None))
    law = model.predict(now, h, now.context)
    (slope,) = torch.autograd.grad(-masked_log_prob(law, now.values, now.context).sum(), h)
    expected = 0.8 * slope.double().norm()
    torch.testing.assert_close(gradient_norms(model, batch)[0], expected, atol=0, rtol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_stepping_agrees_with_reading_the_rest_at_once(name, series, batch):
    """An independent way: the state after T - k steps as a leaf, the last k steps in one call."""
    model = make_model(series, ENCODERS[name])
    norms = gradient_norms(model, batch)
    known = batch._changed(context=batch.context | batch.target)
    x, context = model.inputs(known)
    inputs = model.features(
        known, *(torch.cat([torch.zeros_like(part[:, :1]), part[:, :-1]], 1) for part in (x, context))
    )
    propagation, now = Propagation(batch.graph), known.steps(slice(-1, None))
    for k in range(1, 10):
        _, state = model.encoder(inputs[:, : 10 - k], propagation)
        leaves = []

        def leaf(part, leaves=leaves):
            leaves.append(part.detach().requires_grad_())
            return leaves[-1]

        h, _ = model.encoder(inputs[:, 10 - k :], propagation, map_state(leaf, state))
        loss = -masked_log_prob(model.predict(now, h[:, -1:], now.context), now.values, now.context).sum()
        parts = torch.autograd.grad(loss, leaves, allow_unused=True)
        square = sum(part.double().square().flatten(1).sum(1) for part in parts if part is not None)
        torch.testing.assert_close(norms[k - 1], square.sqrt().mean(), atol=1e-9, rtol=1e-4)


@pytest.mark.parametrize(
    ("encoder", "reach"),
    [
        (partial(WindowEncoder, order=4, hidden=8), 4),
        (partial(WindowEncoder, order=3, layers=0, convolution=None), 3),
        (partial(ConvolutionEncoder, hidden=8, layers=3), 8),
    ],
)
def test_exactly_zero_beyond_the_receptive_field(encoder, reach, series, batch):
    norms = gradient_norms(make_model(series, encoder), batch)
    assert (norms[: reach - 1] > 0).all()
    assert (norms[reach - 1 :] == 0).all()


@pytest.mark.parametrize("head", ["nade slice any", "conditional"])
def test_any_head_will_do(head, series, batch):
    assert (gradient_norms(make_model(series, head=HEADS[head]), batch) > 0).all()


def test_parameters_and_missing_values_are_left_alone(series, batch):
    model = make_model(series)
    holes = batch._changed(
        values=torch.where(batch.context | batch.target, batch.values, torch.nan),
    )
    with torch.inference_mode():  # as validation is
        norms = gradient_norms(model, holes)
    assert torch.equal(norms, gradient_norms(model, batch)) and norms.isfinite().all()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_window_of_one_step_has_nothing_before_it(series, batch):
    with pytest.raises(ValueError, match="at least 2 steps; they have 1"):
        gradient_norms(make_model(series), batch.steps(slice(0, 1)))


def test_the_figure_marks_where_zero_begins():
    curves = {epoch: np.array([0.5, 0.1, 0.0, 0.0]) for epoch in range(20)}
    (ax,) = gradient_flow(curves).axes
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["earlier", "epoch 19", "zero from k = 3 on"]
    assert len(ax.lines) <= 6 + 2
    gradient_flow({0: np.zeros(3)}).canvas.draw()
    assert len(gradient_flow({3: np.ones(1)}).axes[0].lines) == 1


# ----------------------------------------------------------------------------------------------- the callback


class Dropped(GraphGRUEncoder):
    """With dropout, so that a change of the random numbers or of the mode changes training."""

    def __init__(self, in_features, hidden=4):
        super().__init__(in_features, hidden)
        self.dropout = nn.Dropout(0.3)

    def forward(self, inputs, propagation, state=None):
        h, state = super().forward(inputs, propagation, state)
        return self.dropout(h), state


def small():
    return SyntheticDataModule(num_nodes=4, steps=200, window=8, batch_size=32)


def fit(folder, callbacks, start=None, **options):
    seed_everything(1)
    data = small()
    model = AutoregressiveModel(
        data.spec, Dropped, GaussianHead, partial(torch.optim.AdamW, lr=0.01), truncated_steps=3
    )
    model.encoder.skip.eval()  # a part that is not to train
    options = {"max_epochs": 3, "logger": False, "enable_checkpointing": False, **options}
    trainer = Trainer(default_root_dir=folder, callbacks=callbacks, **options, **QUIET)
    trainer.fit(model, data, ckpt_path=start, weights_only=True)
    return model


def test_training_is_not_touched(tmp_path):
    flow = GradientFlow(windows=2)
    plain, watched = fit(tmp_path, []), fit(tmp_path, [flow])
    for (name, a), b in zip(plain.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert [part.training for part in plain.modules()] == [part.training for part in watched.modules()]
    assert watched.encoder.dropout.training and not watched.encoder.skip.training
    few = next(iter(small().val_dataloader())).rows(slice(0, 2))
    np.testing.assert_allclose(flow.curves[2], gradient_norms(watched.eval(), few))


def test_every_nth_epoch_is_written_and_a_resumed_run_goes_on(tmp_path):
    flow, path = GradientFlow(every_n_epochs=2), tmp_path / "gradient_flow.csv"
    fit(tmp_path, [flow], max_epochs=4, enable_checkpointing=True)
    half = pd.read_csv(path)
    assert half["epoch"].unique().tolist() == [1, 3]
    assert half["steps_back"].tolist() == 2 * list(range(1, 8)) and (half["norm"] > 0).all()
    assert (tmp_path / "gradient_flow.png").stat().st_size > 10_000
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    fit(tmp_path, [GradientFlow(every_n_epochs=2)], checkpoint, max_epochs=6)
    whole = pd.read_csv(path)
    assert whole["epoch"].unique().tolist() == [1, 3, 5]
    pd.testing.assert_frame_equal(whole[:14], half)
    # another run in the same folder begins anew, with the same callback too
    fit(tmp_path, [flow], max_epochs=2)
    assert pd.read_csv(path)["epoch"].unique().tolist() == [1]


def test_of_several_processes_the_first_one_alone_does_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    fit(tmp_path, [GradientFlow()], max_epochs=1)
    assert not list(tmp_path.iterdir())


def finished(path):
    """What a run holds once its end is written, which W&B's own process may do after the command is done."""
    for _ in range(100):
        with suppress(AssertionError):  # of a record that is half written
            if any(record.WhichOneof("record_type") == "exit" for record in records(path)):
                break
        time.sleep(0.1)
    return OfflineRun(path)


def test_a_run_from_yaml_writes_the_figure_and_wandb_holds_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flow = {"class_path": "tsgen.training.GradientFlow", "init_args": {"every_n_epochs": 1, "windows": 2}}
    Path("flow.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [flow]}}))
    words = ["fit", "--config", "demo", "--config", "flow.yaml", "--name", "flow", "--data.steps", "400"]
    words += ["--data.num_nodes", "5", "--model.encoder.hidden", "6", "--trainer.max_epochs", "2"]
    assert main([*words, "--trainer.enable_progress_bar", "false"]) == 0
    folder = Path("runs/flow")
    words[0] = "predict"  # with the same configuration; the callback has nothing to do
    words += ["--data.predict_on", "test", "--model.sampler.num_samples", "2", "--trainer.logger", "false"]
    assert main([*words, "--trainer.enable_progress_bar", "false"]) == 0
    assert (folder / "gradient_flow.png").stat().st_size > 10_000
    assert len(pd.read_csv(folder / "gradient_flow.csv")) == 2 * 23
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    figures = finished(path).history["val/gradient_flow/filenames"]
    assert len(figures) == 2
    assert all((path.parent / "files" / name).stat().st_size > 10_000 for (name,) in figures)


def test_an_any_order_model_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    series = make_series()
    model = make_model(series, TWO_WAY_ENCODERS["two-way gru"])
    with pytest.raises(ValueError, match=r"^GradientFlow needs an autoregressive model; got AnyOrderModel"):
        GradientFlow().setup(Trainer(logger=False, **QUIET), model, "fit")
    words = ["fit", "--config", "graph_var", "--trainer.callbacks", "tsgen.training.GradientFlow"]
    words += ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
    assert main(words) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and "got GraphVAR" in told[0]


@pytest.mark.parametrize("name", ["every_n_epochs", "windows"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1; it is 0"):
        GradientFlow(**{name: 0})

"""Training itself: the loss, processes, interruption, and what a trained model reaches."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import make_batch, make_model, make_series
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch.distributions import Normal
from torch_geometric.nn import GATConv

from tsgen.data.masks import PointMask
from tsgen.datamodules import SyntheticDataModule
from tsgen.encoders import GraphGRUEncoder
from tsgen.encoders.propagation import GraphConvolution
from tsgen.heads import GaussianHead, MixtureHead, PoissonHead
from tsgen.heads.likelihood import masked_log_prob, masked_nll
from tsgen.models import AutoregressiveModel, load

ROOT = Path(__file__).parents[2]
QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


def test_the_loss_is_a_mean_over_targets_and_blind_elsewhere():
    values = torch.tensor([1.0, torch.nan, 3.0, 5.0])
    mask = torch.tensor([True, False, True, False])
    loc = torch.zeros(4, requires_grad=True)
    law = Normal(loc, torch.ones(4))
    loss = masked_nll(law, values, mask)
    expected = -(law.log_prob(torch.tensor([1.0, 0, 3.0, 0]))[mask]).mean()
    assert float(loss) == pytest.approx(float(expected))
    loss.backward()
    torch.testing.assert_close(loc.grad, torch.tensor([-0.5, 0.0, -1.5, 0.0]))
    nothing = masked_nll(Normal(loc, torch.ones(4)), values, torch.zeros(4, dtype=torch.bool))
    assert float(nothing) == 0
    assert (masked_log_prob(law, values, mask)[~mask] == 0).all()


def run_on(processes: int, path: Path) -> dict:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/ddp_script.py"), str(processes), str(path)],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(path, weights_only=True)


@pytest.mark.slow
def test_two_processes_train_and_score_as_one(tmp_path):
    one, two = run_on(1, tmp_path / "one.pt"), run_on(2, tmp_path / "two.pt")
    for name, weight in one["state"].items():
        torch.testing.assert_close(two["state"][name], weight, atol=1e-5, rtol=1e-4, msg=name)
    for name, score in one["scores"].items():
        assert two["scores"][name] == pytest.approx(score, rel=1e-3), name


@pytest.mark.slow
def test_the_command_line_trains_on_two_processes(tmp_path):
    words = [
        "fit",
        "--config",
        "demo",
        "--runs",
        str(tmp_path),
        "--data.steps",
        "400",
        "--data.num_nodes",
        "6",
    ]
    words += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    words += ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, "-m", "tsgen", *words], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "demo/checkpoints/best.ckpt").is_file()
    assert len(list((tmp_path / "demo/wandb").glob("offline-run-*"))) == 1
    assert not (tmp_path / "demo.1").exists()


def small(**encoder):
    data = SyntheticDataModule(
        num_nodes=5, steps=300, window=12, thinning=PointMask((0.0, 0.9)), batch_size=16
    )
    seed_everything(1)
    model = AutoregressiveModel(
        data.spec,
        partial(GraphGRUEncoder, hidden=8, **encoder),
        partial(MixtureHead, components=2),
        partial(torch.optim.AdamW, lr=0.01),
        partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.7),
    )
    return model, data


DROPOUT = {"convolution": partial(GATConv, dropout=0.5)}


@pytest.mark.parametrize("encoder", [{}, DROPOUT], ids=["", "dropout"])
def test_a_resumed_run_continues_exactly(encoder, tmp_path):
    straight, data = small(**encoder)
    Trainer(max_epochs=4, logger=False, enable_checkpointing=False, **QUIET).fit(straight, data)
    first, data = small(**encoder)
    checkpoint = ModelCheckpoint(tmp_path, filename="half")
    Trainer(max_epochs=2, logger=False, callbacks=[checkpoint], **QUIET).fit(first, data)
    second, data = small(**encoder)
    trainer = Trainer(max_epochs=4, logger=False, enable_checkpointing=False, **QUIET)
    trainer.fit(second, data, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for (name, a), b in zip(straight.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(first.encoder.skip.weight, second.encoder.skip.weight)


def test_dropout_has_numbers_of_its_own_for_each_epoch_batch_and_process(monkeypatch):
    model, data = small(**DROPOUT)
    batch = next(iter(data.train_dataloader()))
    model.train()

    def loss(epoch=0, index=0, rank=0):
        monkeypatch.setattr(AutoregressiveModel, "current_epoch", epoch)
        monkeypatch.setattr(AutoregressiveModel, "global_rank", rank)
        return float(model.training_step(batch, index).detach())

    before, seed = torch.get_rng_state(), torch.initial_seed()
    assert loss() == loss()
    assert len({loss(*place) for place in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))}) == 4
    assert torch.equal(torch.get_rng_state(), before) and torch.initial_seed() == seed


def test_averaged_weights_are_what_is_validated_kept_and_loaded(tmp_path):
    model, data = small()
    averaging, checkpoint = EMAWeightAveraging(decay=0.9), ModelCheckpoint(tmp_path, filename="kept")
    trainer = Trainer(max_epochs=2, logger=False, callbacks=[averaging, checkpoint], **QUIET)
    trainer.fit(model, data)
    raw = torch.load(tmp_path / "kept.ckpt", weights_only=True)
    kept, last = load(tmp_path / "kept.ckpt").state_dict(), raw["current_model_state"]
    for name, averaged in model.state_dict().items():
        assert torch.equal(kept[name], averaged), name
    assert not torch.equal(kept["encoder.skip.weight"], last["encoder.skip.weight"])
    found = Trainer(logger=False, enable_checkpointing=False, **QUIET).validate(model, data, verbose=False)
    assert found[0]["val/nll"] == pytest.approx(float(trainer.callback_metrics["val/nll"]), rel=1e-5)


def test_a_model_refuses_data_it_was_not_made_for():
    model, _ = small()
    other = SyntheticDataModule(num_nodes=6, steps=300, window=12)
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, **QUIET)
    with pytest.raises(ValueError, match="made for other data: its nodes are 5"):
        trainer.fit(model, other)


def test_validation_does_not_depend_on_the_batch_size():
    model, data = small()
    trainer = Trainer(logger=False, enable_checkpointing=False, **QUIET)
    results = []
    for size in (1, 5, 64):
        data.batch_size = size
        results.append(trainer.validate(model, data, verbose=False)[0]["val/nll"])
    assert results[1:] == pytest.approx(results[:1] * 2, rel=1e-5)


PROCESSES = {  # with a head and a support that contain the law one step ahead, or come close to it
    "linear": (GaussianHead, 8, {}),
    "inar": (partial(MixtureHead, components=3), 16, {}),
    "poisson": (PoissonHead, 16, {}),
    "tobit": (GaussianHead, 16, {"support": "non_negative", "transform": "identity"}),
    "log_normal": (GaussianHead, 16, {"support": "positive", "transform": "log"}),
    "logit_normal": (GaussianHead, 16, {"support": "interval(0, 100)", "transform": "logit"}),
    "zero_inflated_gamma": (partial(MixtureHead, components=4), 24, {}),
}


@pytest.mark.parametrize(
    "process", ["linear", *(pytest.param(name, marks=pytest.mark.slow) for name in [*PROCESSES][1:])]
)
def test_a_trained_model_reaches_the_law_of_its_data(process):
    """One-step densities on unseen data: within 0.02 nats of the law that drew it, not better than chance."""
    head, epochs, options = PROCESSES[process]
    sizes = {"num_nodes": 8, "steps": 4000, "window": 24, "stride": 6}
    data = SyntheticDataModule(process, missing=PointMask(0.0), **sizes, **options)
    seed_everything(1)
    model = AutoregressiveModel(
        data.spec,
        partial(GraphGRUEncoder, hidden=24, convolution=GraphConvolution),
        head,
        partial(torch.optim.AdamW, lr=0.01, weight_decay=0.0),
        partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs),
    )
    Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False, gradient_clip_val=1.0, **QUIET).fit(
        model, data
    )
    dataset = data.dataset("test")
    batch = dataset.__getitems__([(0, i) for i in range(len(dataset))])
    # the law of the first step given nothing depends on where the process began
    later = torch.ones_like(batch.target)
    later[:, 0] = process == "linear"
    batch = batch._changed(context=torch.ones_like(batch.context), target=later)
    with torch.no_grad():
        ours = model.log_prob(batch).double()
    exact = masked_log_prob(data.exact.predictive(batch), batch.values, batch.target).double()
    worse = (exact - ours).sum(dim=(1, 2, 3)) / later.sum(dim=(1, 2, 3))
    error = float(worse.std() / len(worse) ** 0.5)
    assert float(worse.mean()) < 0.02
    assert float(worse.mean()) > -error


def test_a_swapped_graph_is_noticed():
    """The law itself, told the edges the wrong way round, predicts worse: the data knows the direction."""
    data = SyntheticDataModule(num_nodes=12, steps=1500, window=24)
    dataset = data.dataset("test")
    batch = dataset.__getitems__([(0, i) for i in range(len(dataset))])
    right = data.exact
    wrong = type(right)(right.coefficients.transpose(1, 2) * 0.9, right.intercept, right.covariance)
    scores = [
        masked_log_prob(law.predictive(batch), batch.values, batch.target).mean() for law in (right, wrong)
    ]
    assert scores[0] > scores[1] + 0.01


def test_every_parameter_moves_in_training():
    series = make_series()
    model, batch = make_model(series), make_batch(series)
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = model.configure_optimizers()
    loss = masked_nll(model(batch), batch.values, batch.target)
    loss.backward()
    optimizer.step()
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())

"""Half precision, compiled encoders, accumulated and clipped gradients, repeated runs."""

from functools import partial

import pytest
import torch
from conftest import ENCODERS, HEADS, make_model
from lightning import Callback, Trainer, seed_everything

from tsgen.data.masks import PointMask
from tsgen.datamodules import SyntheticDataModule
from tsgen.encoders import GraphGRUEncoder
from tsgen.heads import MixtureHead
from tsgen.heads.likelihood import masked_log_prob
from tsgen.inference import SeriesPrediction
from tsgen.models import AutoregressiveModel, GraphVAR, load
from tsgen.sampling import Ancestral
from tsgen.training.callbacks import Compile

QUIET = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "logger": False,
}


def small(**optimizer):
    data = SyntheticDataModule(
        num_nodes=5, steps=300, window=12, thinning=PointMask((0.0, 0.9)), batch_size=16
    )
    seed_everything(1)
    model = AutoregressiveModel(
        data.spec,
        partial(GraphGRUEncoder, hidden=8),
        partial(MixtureHead, components=2),
        partial(torch.optim.SGD, **{"lr": 0.05, **optimizer}),
    )
    return model, data


def trained(epochs=1, **options):
    """A model after a short training, and its trainer."""
    model, data = small()
    trainer = Trainer(max_epochs=epochs, **{**QUIET, "enable_checkpointing": False, **options})
    trainer.fit(model, data)
    return model, trainer


@pytest.mark.parametrize("head", ["gaussian", "mixture", "nade"])
def test_densities_stay_in_full_precision_under_half_precision(head, series, batch):
    model = make_model(series, ENCODERS["gru"], HEADS[head])
    context = {}
    model.encoder.register_forward_hook(lambda part, args, out: context.update(encoder=out[0].dtype))
    with torch.no_grad():
        full = masked_log_prob(model(batch), batch.values, batch.target)
        # what is not half precision must not hide behind a cast at the end
        model.head.register_forward_pre_hook(
            lambda part, args: context.update(head=args[0].dtype, mixed=torch.is_autocast_enabled("cpu"))
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = masked_log_prob(model(batch), batch.values, batch.target)
    assert context == {"encoder": context["encoder"], "head": torch.float32, "mixed": False}
    assert half.dtype == torch.float64  # in data units
    assert not torch.equal(half, full)
    # bfloat16 keeps 8 bits: states are off by 1 in 256
    assert abs(float((half - full).sum() / batch.target.sum())) < 0.01


@pytest.mark.parametrize("head", ["gaussian", "nade"])
def test_so_do_draws(head, series, batch, monkeypatch):
    model = make_model(series, ENCODERS["gru"], HEADS[head])
    draw, context = model.head.draw, set()

    def watched(h, *rest):
        context.add((h.dtype, torch.is_autocast_enabled("cpu")))
        return draw(h, *rest)

    monkeypatch.setattr(model.head, "draw", watched)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.sampler(model, batch).values.dtype == torch.float32
    assert context == {(torch.float32, False)}


def test_a_half_precision_run_learns_what_a_full_one_does():
    (full, one), (half, two) = trained(3), trained(3, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 for p in half.parameters())
    untrained = Trainer(**QUIET).validate(*small(), verbose=False)[0]["val/nll"]
    ends = [float(trainer.callback_metrics["val/nll"]) for trainer in (one, two)]
    gain = untrained - ends[0]
    assert gain > 0.1 and abs(ends[1] - ends[0]) < 0.05 * gain
    assert any(not torch.equal(a, b) for a, b in zip(full.parameters(), half.parameters(), strict=True))


GRAPHS = []


@torch._dynamo.register_backend
def counting(graph, inputs):
    """A compiler that keeps what it is given, and runs it as it is."""
    GRAPHS.append(graph)
    return graph.forward


@pytest.fixture
def compiler(as_a_user):
    """One that remembers no earlier test; it would read through every check of a shape, too."""
    torch.compiler.reset()
    GRAPHS.clear()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", ["convolution", "gru"])
@pytest.mark.filterwarnings("ignore:.*Dynamo does not know how to trace.*")
def test_a_compiled_encoder_gives_the_same_densities_and_gradients(name, series, batch):
    def run(model):
        log_prob = masked_log_prob(model(batch), batch.values, batch.target)
        model.zero_grad()
        log_prob.sum().backward()
        return log_prob, [p.grad for p in model.parameters()]

    plain, compiled = (make_model(series, ENCODERS[name]) for _ in range(2))
    Compile("counting").setup(Trainer(**QUIET), compiled, "fit")
    expected = run(plain)
    assert not GRAPHS
    torch.testing.assert_close(run(compiled), expected, atol=1e-4, rtol=1e-4)
    assert GRAPHS


@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore:.*Dynamo does not know how to trace.*")
def test_a_compiled_run_is_the_same_run_and_leaves_an_ordinary_checkpoint(tmp_path):
    short = {"limit_train_batches": 1, "limit_val_batches": 1}
    plain, _ = trained(**short)
    _, trainer = trained(callbacks=[Compile("counting")], **short)
    assert GRAPHS
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    state = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert state.keys() == plain.state_dict().keys()
    read = load(tmp_path / "x.ckpt")
    assert read.encoder._compiled_call_impl is None
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], weight, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore:.*Dynamo does not know how to trace.*")
def test_a_prediction_is_compiled_too(tmp_path):
    data = SyntheticDataModule(num_nodes=4, steps=40, window=10, batch_size=4)
    model = AutoregressiveModel(data.spec, partial(GraphGRUEncoder, hidden=4), sampler=Ancestral(2))
    trainer = Trainer(callbacks=[Compile("counting")], **QUIET)
    trainer.predict(SeriesPrediction(model, data, tmp_path / "out.nc"), return_predictions=False)
    assert GRAPHS and (tmp_path / "out.nc").is_file()


def test_what_cannot_be_compiled_is_told():
    with pytest.raises(ValueError, match=r"backend must be one of .*inductor.*; it is 'indctor'"):
        Compile("indctor")
    with pytest.raises(ValueError, match="GraphVAR has none"):
        Compile().setup(Trainer(**QUIET), GraphVAR(small()[1].spec), "fit")


def test_gradients_are_accumulated_and_clipped():
    _, each = trained()
    _, every_third = trained(accumulate_grad_batches=3)
    assert every_third.global_step == -(-each.global_step // 3)
    before, _ = small()
    model, trainer = trained(gradient_clip_val=1e-3, gradient_clip_algorithm="norm")
    pairs = zip(model.parameters(), before.parameters(), strict=True)
    moved = torch.cat([(a - b).detach().flatten() for a, b in pairs]).norm()
    # no step of plain gradient descent is longer than the rate times the bound
    assert 0 < float(moved) <= 0.05 * 1e-3 * trainer.global_step * 1.001


class BrokenOff(Callback):
    def on_train_batch_end(self, *_):
        raise RuntimeError("broken off")


def test_batches_of_an_epoch_that_was_broken_off_are_forgotten():
    twice = {"accumulate_grad_batches": 2, "limit_train_batches": 2, "limit_val_batches": 0}
    expected, _ = trained(**twice)
    model, data = small()
    with pytest.raises(RuntimeError, match="broken off"):
        Trainer(**QUIET, **twice, callbacks=[BrokenOff()], enable_checkpointing=False).fit(model, data)
    Trainer(**QUIET, **twice, max_epochs=1, enable_checkpointing=False).fit(model, data)
    for name, weight in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


def test_a_deterministic_run_repeats_bit_for_bit():
    (first, _), (second, _) = (trained(2, deterministic=True) for _ in range(2))
    torch.use_deterministic_algorithms(False)
    for name, weight in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], weight), name


def test_the_norm_that_is_logged_is_that_of_the_whole_step():
    """Four batches accumulated or one of all their windows, which differ in how much they score."""
    norms = []
    for size, accumulated in ((64, 1), (16, 4)):
        model, data = small()
        data.batch_size = size
        trainer = Trainer(
            max_steps=1,
            accumulate_grad_batches=accumulated,
            log_every_n_steps=1,
            **{**QUIET, "enable_checkpointing": False},
        )
        trainer.fit(model, data)
        norms.append(float(trainer.logged_metrics["train/grad_norm"]))
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)

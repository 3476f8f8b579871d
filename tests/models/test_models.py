"""Parts that do not go together say so at start-up; a model without parameters of its nodes moves on."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import ENCODERS, HEADS, TWO_WAY_ENCODERS, make_batch, make_model, make_series
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from tsgen import load
from tsgen.cli.main import main
from tsgen.counter_random import streams
from tsgen.data.masks import PointMask
from tsgen.data.series import SeriesSpec
from tsgen.datamodules import SyntheticDataModule
from tsgen.encoders import AttentionEncoder, ConvolutionEncoder, GraphGRUEncoder, WindowEncoder
from tsgen.heads import ConditionalHead, GaussianHead
from tsgen.heads.likelihood import masked_log_prob
from tsgen.models import AnyOrderModel, AutoregressiveModel
from tsgen.objectives import ParticleBound, Rollout, ScheduledSampling
from tsgen.sampling import Ancestral, AnyOrder, Exact

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}


def spec_of(series):
    return SeriesSpec.of(series)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_any_order_model_refuses_a_causal_encoder(encoder, series):
    with pytest.raises(ValueError, match=r"^an any-order model needs an encoder that reads past and future"):
        AnyOrderModel(spec_of(series), ENCODERS[encoder])


@pytest.mark.parametrize("encoder", TWO_WAY_ENCODERS)
def test_an_autoregressive_model_refuses_an_encoder_that_sees_the_future(encoder, series):
    with pytest.raises(ValueError, match=r"^an autoregressive model needs a causal encoder; \w+ is not"):
        AutoregressiveModel(spec_of(series), TWO_WAY_ENCODERS[encoder])


@pytest.mark.parametrize("head", [name for name in HEADS if "nade" in name])
def test_an_any_order_model_refuses_a_head_that_makes_entries_joint(head, series):
    with pytest.raises(ValueError, match=r"head for single entries, .*; MixtureNADEHead models \d+ entries"):
        AnyOrderModel(spec_of(series), head=HEADS[head])


def test_samplers_and_objectives_refuse_models_they_are_not_for(series):
    spec = spec_of(series)
    with pytest.raises(ValueError, match="needs an AnyOrderModel; got AutoregressiveModel"):
        AutoregressiveModel(spec, sampler=AnyOrder())
    for sampler in (Ancestral(), Exact()):
        with pytest.raises(ValueError, match="AnyOrderModel"):
            AnyOrderModel(spec, sampler=sampler)
    for objective in (Rollout(), ScheduledSampling(), ParticleBound()):
        with pytest.raises(ValueError, match=f"{type(objective).__name__} needs an autoregressive model"):
            AnyOrderModel(spec, objective=objective)


def test_covariates_promised_and_absent(series, batch):
    with pytest.raises(ValueError, match="ConditionalHead needs data with covariates"):
        AutoregressiveModel(spec_of(make_series(covariates=0)), head=ConditionalHead)
    model = make_model(series)
    with pytest.raises(ValueError, match="must have 3 covariates, as in the spec of the model; it has 0"):
        model(batch._changed(covariates=None))


@pytest.mark.parametrize(
    ("encoder", "reach"),
    [(partial(WindowEncoder, order=13), 13), (partial(ConvolutionEncoder, layers=4), 16)],
)
def test_an_order_longer_than_the_window(encoder, reach):
    data = SyntheticDataModule(num_nodes=4, steps=200, window=12)
    model = AutoregressiveModel(data.spec, encoder)
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
    with pytest.raises(ValueError, match=f"receptive field of {reach} steps; it has 12"):
        trainer.fit(model, data)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--model.encoder", "WindowEncoder", "--model.encoder.order", "25"], "25 steps; it has 24"),
        (
            ["--model.encoder", "AttentionEncoder", "--model.encoder.causal", "false"],
            "needs a causal encoder",
        ),
        (["--model.head", "ConditionalHead"], "needs data with covariates"),
        (["--model.truncated_steps", "0"], "truncated_steps must be at least 1"),
        (["--model.node_embedding", "-1"], "node_embedding must be 0 or a size"),
        (["--data.horizon", "25"], "horizon must lie in 0..24"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_the_command_line_says_it_in_one_line(options, told, tmp_path, capsys):
    words = ["fit", "--config", "demo", "--runs", str(tmp_path), "--data.steps", "300", *options]
    assert main([*words, "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("tsgen: ") and told in line, line


def small(data, **options):
    seed_everything(1)
    return AutoregressiveModel(
        data.spec,
        partial(GraphGRUEncoder, hidden=16),
        GaussianHead,
        partial(torch.optim.AdamW, lr=0.01, weight_decay=0.0),
        **options,
    )


def scores(data, *models):
    dataset = data.dataset("test")
    batch = dataset.__getitems__([(0, i) for i in range(len(dataset))])
    batch = batch._changed(context=torch.ones_like(batch.context), target=torch.ones_like(batch.target))
    with torch.no_grad():
        exact = masked_log_prob(data.exact.predictive(batch), batch.values, batch.target).mean()
        return [float(exact - model.log_prob(batch).mean()) for model in models]


@pytest.mark.slow
def test_a_model_without_node_embedding_runs_on_a_graph_it_was_not_trained_on(tmp_path):
    """Trained on one graph, scored on another: near the law there; with embeddings it says why it cannot."""
    here = SyntheticDataModule(num_nodes=12, steps=2000, missing=PointMask(0.0), stride=3)
    there = SyntheticDataModule(num_nodes=17, steps=600, missing=PointMask(0.0), process_seed=5)
    paths = {}
    for size in (0, 4):
        model = small(here, node_embedding=size)
        keep = ModelCheckpoint(tmp_path, filename=f"embedding{size}")
        Trainer(max_epochs=5 if size == 0 else 1, callbacks=[keep], **QUIET).fit(model, here)
        paths[size] = keep.best_model_path
    moved = load(paths[0], spec=there.spec)
    untrained = small(there)
    far, near = scores(there, untrained, moved)
    assert near < 0.05 and far > 0.3
    torch.testing.assert_close(moved.loc, there.spec.loc)
    with pytest.raises(ValueError, match="no parameters of single nodes"):
        load(paths[4], spec=there.spec)
    Trainer(**QUIET).test(moved, there, verbose=False)


def test_heads_with_parameters_of_nodes_stay_at_home(tmp_path, series):
    other = spec_of(make_series(nodes=6))
    for name in ("gaussian of node", "nade slice"):
        model = make_model(series, head=HEADS[name])
        path = tmp_path / "model.ckpt"
        torch.save({"hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()}, path)
        assert torch.equal(load(path).loc, model.loc)
        with pytest.raises(ValueError, match="no parameters of single nodes"):
            load(path, spec=other)


def test_an_embedding_tells_nodes_apart(series):
    model = AutoregressiveModel(spec_of(series), partial(AttentionEncoder, hidden=8), node_embedding=3)
    same = make_batch(series)
    model.loc.fill_(50.0), model.scale.fill_(7.0)
    equal = same._changed(
        values=torch.full_like(same.values, 51.0), covariates=torch.ones_like(same.covariates)
    )
    anonymous = make_model(series)
    anonymous.loc.fill_(50.0), anonymous.scale.fill_(7.0)
    everything = equal._changed(context=torch.ones_like(equal.context))
    assert model(everything).mean[0, 3, :, 0].std() > 1e-3
    assert anonymous(everything).mean[0, 3, :, 0].std() < 1e-3


def test_the_command_line_moves_a_model_to_another_graph(tmp_path, capsys):
    common = ["--config", "demo", "--runs", str(tmp_path), "--data.steps", "300", "--trainer.logger", "false"]
    common += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    common += ["--model.sampler.num_samples", "3", "--model.encoder.hidden", "4"]
    assert main(["fit", *common, "--name", "here", "--data.num_nodes", "6"]) == 0
    there = ["--name", "there", "--data.num_nodes", "8", "--data.process_seed", "1"]
    there += ["--ckpt_path", str(tmp_path / "here/checkpoints/best.ckpt")]
    assert main(["test", *common, *there]) == 2
    assert "trained on other data: its nodes are 6" in capsys.readouterr().err
    nll = []
    for seed in ("0", "1"):  # weights left as they began would depend on the seed
        assert main(["test", *common, *there, "--transfer", "true", "--seed_everything", seed]) == 0
        nll.append(json.loads((tmp_path / "there/scores.json").read_text())["rows"][0]["nll"])
    assert nll[0] == nll[1]
    assert main(["fit", *common, *there, "--transfer", "true"]) == 2
    assert "transfer must be used with test or predict" in capsys.readouterr().err


def test_the_units_of_covariates_do_not_matter(series):
    """A pressure in Pa is as good as one in standard units."""
    batch = make_batch(series)
    spec = spec_of(series)
    assert spec.covariate_loc.shape == (3,)
    far = dataclasses.replace(series, covariates=101_300 + 1_000 * series.covariates)
    moved = batch._changed(covariates=101_300 + 1_000 * batch.covariates)
    for head in ("mixture", "conditional"):
        here, there = (make_model(s, head=HEADS[head]) for s in (series, far))
        torch.testing.assert_close(here.log_prob(batch), there.log_prob(moved), atol=1e-3, rtol=1e-3)
        everything = [here.sampler(here, batch).values, there.sampler(there, moved).values]
        torch.testing.assert_close(*everything, atol=0.05, rtol=1e-3)
    constant = dataclasses.replace(series, covariates=torch.full_like(series.covariates, 5.0))
    assert torch.equal(spec_of(constant).covariate_scale, torch.ones(3).double())


def test_what_training_draws_is_not_what_thinning_draws(series):
    """Whatever the seed of the data: the objective's random numbers are others than the masks'."""
    model, batch, context = make_model(series), make_batch(series), []

    class Spy(type(model.objective)):
        def loss(self, model, batch, stream, step):
            context.append(stream)
            return super().loss(model, batch, stream, step)

    model.objective, model.log = Spy(), lambda *_, **__: None
    model.training_step(batch, 0)
    start, epoch = batch.position[:, 0], torch.zeros(3, dtype=torch.int64)
    for seed in (0, 1, 2, torch.initial_seed()):
        assert not torch.isin(context[0], streams(seed, epoch, start)).any()
    torch.manual_seed(torch.initial_seed() + 1)
    model.training_step(batch, 0)
    assert not torch.equal(*context)


def test_nodes_of_other_names_are_other_nodes(tmp_path, series):
    """As many of them, but not the same: what was learned of single nodes does not apply."""
    model = AutoregressiveModel(spec_of(series), node_embedding=2)
    path = tmp_path / "model.ckpt"
    torch.save({"hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()}, path)
    renamed = dataclasses.replace(spec_of(series), nodes=[f"other {v}" for v in range(5)])
    with pytest.raises(ValueError, match="no parameters of single nodes"):
        load(path, spec=renamed)
    load(path, spec=spec_of(series))


def test_options_that_leave_sizes_alone_are_compared_too(tmp_path, capsys):
    common = ["--config", "demo", "--runs", str(tmp_path), "--data.steps", "300", "--trainer.logger", "false"]
    common += ["--data.num_nodes", "6", "--trainer.max_epochs", "1", "--model.sampler.num_samples", "3"]
    common += ["--trainer.enable_progress_bar", "false", "--config", "encoders/attention"]
    assert main(["fit", *common]) == 0
    assert main(["test", *common, "--model.encoder.heads", "1"]) == 2
    assert "was trained with another encoder.heads" in capsys.readouterr().err


def test_a_fit_that_cannot_start_leaves_the_run_in_its_place(tmp_path, capsys):
    common = ["--config", "demo", "--runs", str(tmp_path), "--data.steps", "300", "--trainer.logger", "false"]
    common += ["--data.num_nodes", "6", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    assert main(["fit", *common]) == 0
    for wrong in (["--data.window", "290"], ["--data.val", "0"], ["--config", "encoders/linear"]):
        options = ["--model.encoder.order", "24"] if wrong[0] == "--config" else []
        assert main(["fit", *common, "--name", "demo", *wrong, *options]) == 2, wrong
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_batch_with_nothing_hidden_is_tested_like_any_other(tmp_path):
    common = ["--config", "demo", "--runs", str(tmp_path), "--data.steps", "300", "--trainer.logger", "false"]
    common += ["--data.num_nodes", "6", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    common += ["--data.batch_size", "1", "--model.sampler.num_samples", "3"]
    common += ["--data.held_out", "PointMask", "--data.held_out.rate", "0.005"]
    assert main(["fit", *common]) == 0
    assert main(["test", *common]) == 0


def test_a_forecast_in_a_file_is_not_called_observed(tmp_path):
    common = ["--config", "demo", "--runs", str(tmp_path), "--data.steps", "300", "--trainer.logger", "false"]
    common += ["--data.num_nodes", "6", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    common += ["--model.sampler.num_samples", "3"]
    assert main(["fit", *common]) == 0
    assert main(["predict", *common, "--data.horizon", "12"]) == 0
    written = xr.load_dataset(tmp_path / "demo/imputation.nc")
    observed, spread = written["observed"].values.astype(bool), np.ptp(written["imputation"].values, axis=0)
    assert (spread[observed] == 0).all() and (spread[~observed] > 0).all()
    assert 0.4 < observed.mean() < 0.55


def test_a_particle_bound_refuses_thinning(tmp_path, capsys):
    words = ["fit", "--config", "demo", "--runs", str(tmp_path), "--model.objective", "ParticleBound"]
    assert main([*words, "--data.steps", "300", "--trainer.logger", "false"]) == 2
    assert "Set data.thinning to null" in capsys.readouterr().err


def test_weights_of_another_version_are_named(tmp_path, series):
    model, path = make_model(series), tmp_path / "model.ckpt"
    weights = {name: w for name, w in model.state_dict().items() if name != "covariate_loc"}
    torch.save({"hyper_parameters": dict(model.hparams), "state_dict": weights}, path)
    with pytest.raises(ValueError, match=r"come from another version: .*covariate_loc"):
        load(path)

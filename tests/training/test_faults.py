"""Nothing is lost when a run is broken: files, checkpoints, resumption and the log, and real kills."""

import csv
import errno
import math
import os
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from experiments.benchmarks.faults import first_difference
from tsgen.cli.main import main
from tsgen.cli.run_folder import locked, set_aside
from tsgen.cli.training_log import TrainingLog
from tsgen.data.subgraphs import Subgraphs
from tsgen.datamodules import SyntheticDataModule
from tsgen.encoders import GraphGRUEncoder
from tsgen.models import AutoregressiveModel
from tsgen.storage import locks
from tsgen.storage.atomic import replacing, write_text
from tsgen.storage.checkpoints import LAST, PREVIOUS, AtomicCheckpoints, damage, is_whole, read_checkpoint
from tsgen.training.resumption import Resumption

ROOT = Path(__file__).parents[2]


class Stopped(BaseException):
    """What ends a process in the middle, for the tests."""


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "result.json"
    write_text(path, "old")
    with pytest.raises(Stopped), replacing(path) as unfinished:
        unfinished.write_text("ne")
        raise Stopped
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with replacing(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_two_who_write_at_once_do_not_write_into_one_file(tmp_path):
    path = tmp_path / "result.json"
    with replacing(path) as slow, slow.open("w") as file:
        file.write("the first, ")
        file.flush()
        with replacing(path) as fast:
            fast.write_text("the second, whole")
        file.write("whole")
        file.flush()
        assert path.read_text() == "the second, whole"
    assert path.read_text() == "the first, whole" and list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_is_removed_and_nothing_of_living_ones(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from tsgen.storage.atomic import replacing\n"
        "with replacing(Path(sys.argv[1])) as unfinished:\n"
        "    unfinished.write_text('half'); print(unfinished, flush=True); {}"
    )

    def begun(then: str) -> tuple[subprocess.Popen, Path]:
        words = [sys.executable, "-c", script.format(then), str(tmp_path / "old.json")]
        process = subprocess.Popen(words, cwd=ROOT, stdin=-1, stdout=-1, text=True)
        return process, Path(process.stdout.readline().strip())

    living, kept = begun("sys.stdin.read()")
    killed, gone = begun("os.kill(os.getpid(), 9)")
    killed.wait()
    elsewhere = [tmp_path / f"x.{name}-1-0a.unfinished" for name in ("oneday", "today")]
    for path in elsewhere:
        path.write_text("")
    os.utime(elsewhere[0], (0, 0))
    assert kept.exists() and gone.exists()
    write_text(tmp_path / "result.json", "new")
    assert {*tmp_path.iterdir()} == {tmp_path / "result.json", kept, elsewhere[1]}
    living.communicate("")
    assert (tmp_path / "old.json").read_text() == "half" and not kept.exists()


def test_the_bytes_are_on_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    path, order = tmp_path / "result.json", []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("sync"), sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("replace"), replace(self, to))[1])
    write_text(path, "new")
    assert order == ["sync", "replace", "sync"]


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "result.json"
    write_text(path, "old")
    message = r"No space left on device.*the earlier file is unchanged"
    with pytest.raises(OSError, match=message), replacing(path) as unfinished:
        unfinished.write_text("ne")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_under_netcdf_is_said_in_the_same_way(tmp_path):
    message = r"NetCDF: HDF error.*the earlier file is unchanged"
    with pytest.raises(OSError, match=message), replacing(tmp_path / "result.nc") as unfinished:
        unfinished.write_text("ne")
        raise RuntimeError("NetCDF: HDF error")
    with pytest.raises(RuntimeError, match="a mistake"), replacing(tmp_path / "result.nc"):
        raise RuntimeError("a mistake of ours")
    assert not list(tmp_path.iterdir())


def save(folder, number):
    AtomicCheckpoints().save_checkpoint({"number": number, "weights": torch.arange(1000.0)}, folder / LAST)


def number_in(path):
    return torch.load(path, weights_only=True)["number"]


def test_the_last_checkpoint_but_one_is_kept(tmp_path):
    for number in (1, 2, 3):
        save(tmp_path, number)
    assert (number_in(tmp_path / LAST), number_in(tmp_path / PREVIOUS)) == (3, 2)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_last_checkpoint_does_not_replace_the_one_before(tmp_path):
    for number in (1, 2):
        save(tmp_path, number)
    (tmp_path / LAST).write_bytes(b"damaged")
    writer = AtomicCheckpoints()
    writer.load_checkpoint(tmp_path / PREVIOUS, weights_only=True)
    writer.save_checkpoint({"number": 22}, tmp_path / LAST)
    assert (number_in(tmp_path / LAST), number_in(tmp_path / PREVIOUS)) == (22, 1)
    writer.save_checkpoint({"number": 33}, tmp_path / LAST)
    assert (number_in(tmp_path / LAST), number_in(tmp_path / PREVIOUS)) == (33, 22)


def test_a_flipped_bit_in_a_weight_is_noticed(tmp_path):
    """torch.load reads it without a word."""
    save(tmp_path, 1)
    path = tmp_path / LAST
    content = bytearray(path.read_bytes())
    content[content.find(torch.arange(1000.0).numpy().tobytes()) + 2001] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["weights"], torch.arange(1000.0))
    assert damage(path) is not None
    with pytest.raises(ValueError, match="checksum"):
        read_checkpoint(path)


def test_a_log_goes_on_behind_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.csv"
    # the kill cut step 11 in two
    path.write_text("epoch,step,train\n0,3,1.5\n0,7,1.25\n1,11,1.125\n1,1")
    log = TrainingLog(str(tmp_path), 8)
    log.log_metrics({"epoch": 1, "train": 2.0}, 11)
    log.save()
    log.log_metrics({"epoch": 1, "val": 3.0}, 15)
    log.save()
    rows = list(csv.DictReader(path.open()))
    assert [row["step"] for row in rows] == ["3", "7", "11", "15"]
    assert [row["train"] for row in rows] == ["1.5", "1.25", "2.0", ""] and rows[3]["val"] == "3.0"


def test_rows_of_a_log_are_on_the_disk_when_they_are_saved(tmp_path, monkeypatch):
    log, sizes = TrainingLog(str(tmp_path), 0), []
    monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size))
    for step in range(2):
        log.log_metrics({"train": 1.0}, step)
        log.save()
        assert sizes.pop() == (tmp_path / "metrics.csv").stat().st_size


EPOCHS = 4


def training(
    folder,
    scheduler,
    patience=99,
    least=0.0,
    epochs=EPOCHS,
    least_epochs=None,
    callbacks=(),
    loading=None,
    **options,
):
    """A small training that is not begun, with all that a run of the command line has; model and data."""
    data = SyntheticDataModule(num_nodes=4, steps=150, window=12, batch_size=16, **(loading or {}))
    seed_everything(1)
    optimizer = partial(torch.optim.AdamW, lr=0.01)
    model = AutoregressiveModel(
        data.spec, partial(GraphGRUEncoder, hidden=4), optimizer=optimizer, scheduler=scheduler
    )
    kept = {"enable_version_counter": False, "save_top_k": 1}
    trainer = Trainer(
        max_epochs=epochs,
        min_epochs=least_epochs,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        plugins=[AtomicCheckpoints()],
        callbacks=[
            Resumption(),
            EMAWeightAveraging(decay=0.8),
            EarlyStopping("val/nll", min_delta=least, patience=patience),
            ModelCheckpoint(folder, "best", monitor="val/nll", **kept),
            ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, **kept),
            *callbacks,
        ],
        **{"logger": False, **options},
    )
    return trainer, model, data


class Kill(ModelCheckpoint):
    """Ends training when the checkpoint of an epoch was written: the worst moment for what comes after it."""

    def __init__(self, epoch):
        super().__init__(save_top_k=0)
        self.epoch = epoch

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            raise Stopped


SCHEDULES = {
    "one cycle": partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.05, total_steps=EPOCHS),
    "plateau": partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, threshold=10.0, factor=0.5),
}


def fit(trainer, model, data, start=None):
    trainer.fit(model, data, ckpt_path=start, weights_only=True)
    return {**trainer.optimizers[0].state_dict()["param_groups"][0], "epochs": trainer.current_epoch}


def assert_same_weights(one, other):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_averages_schedule_and_optimizer_go_on_exactly(schedule, tmp_path):
    straight = training(tmp_path / "straight", SCHEDULES[schedule])
    expected = fit(*straight)
    broken = training(tmp_path / "broken", SCHEDULES[schedule], callbacks=[Kill(1)])
    with pytest.raises(Stopped):
        fit(*broken)
    resumed = training(tmp_path / "broken", SCHEDULES[schedule])
    assert fit(*resumed, tmp_path / "broken/last.ckpt") == expected
    assert_same_weights(resumed[1], straight[1])


class Seen(Callback):
    """Notes the windows and nodes of every training batch."""

    def __init__(self):
        self.batches = []

    def on_train_batch_start(self, trainer, module, batch, index):
        nodes = None if batch.nodes is None else batch.nodes.tolist()
        self.batches.append((trainer.current_epoch, batch.position[:, 0].tolist(), nodes))


@pytest.mark.parametrize("how", ["epochs", "reloaded", "subgraphs", "inside an epoch"])
def test_worker_processes_load_the_batches_of_an_uninterrupted_training(how, tmp_path):
    """A loader with workers gathers batches before the trainer has set the epoch."""

    def trained(folder, workers, *callbacks, start=None):
        seen, loading = Seen(), {"num_workers": workers}
        if how == "subgraphs":
            loading["subgraphs"] = Subgraphs(clusters=2)
        every = {"reload_dataloaders_every_n_epochs": 1} if how == "reloaded" else {}
        parts = training(folder, None, epochs=3, callbacks=[seen, *callbacks], loading=loading, **every)
        with nullcontext() if not callbacks or isinstance(callbacks[0], Stop) else pytest.raises(Stopped):
            fit(*parts, start)
        return seen.batches, parts[1]

    expected, model = trained(tmp_path / "none", 0)
    assert len({str(batch[1:]) for batch in expected}) == len(expected)
    straight, with_workers = trained(tmp_path / "straight", 2)
    assert straight == expected
    assert_same_weights(with_workers, model)
    first, _ = trained(tmp_path / "broken", 2, Stop(1) if how == "inside an epoch" else Kill(1))
    warned = pytest.warns(UserWarning, match="inside an epoch") if "inside" in how else nullcontext()
    with warned:
        rest, resumed = trained(tmp_path / "broken", 2, start=tmp_path / "broken/last.ckpt")
    if how == "inside an epoch":  # the rest of the second epoch is skipped
        assert [batch for batch in expected if batch not in [*first, *rest]] == [
            batch for batch in expected if batch[0] == 1
        ][1:]
    else:
        assert [*first, *rest] == expected
        assert_same_weights(resumed, model)


def test_a_training_that_had_stopped_early_does_not_go_on(tmp_path):
    straight = training(tmp_path / "straight", None, patience=2, least=100.0)
    expected = fit(*straight)
    assert expected["epochs"] == 3
    broken = training(tmp_path / "broken", None, patience=2, least=100.0, callbacks=[Kill(2)])
    with pytest.raises(Stopped):
        fit(*broken)
    resumed = training(tmp_path / "broken", None, patience=2, least=100.0)
    assert fit(*resumed, tmp_path / "broken/last.ckpt") == expected
    assert_same_weights(resumed[1], straight[1])
    longer = training(tmp_path / "broken", None, patience=4, least=100.0, epochs=9)
    assert fit(*longer, tmp_path / "broken/last.ckpt")["epochs"] == 5


class Logging(Callback):
    """Logs past the trainer, which would write down what it logs itself."""

    def on_validation_end(self, trainer, module):
        trainer.logger.log_metrics({"own": 1.0}, trainer.global_step - 1)


def test_the_log_is_on_the_disk_before_the_checkpoint(tmp_path, monkeypatch):
    logged, save = [], AtomicCheckpoints.save_checkpoint

    def recorded(self, checkpoint, path, storage_options=None):
        if Path(path).name == LAST:
            rows = csv.DictReader((tmp_path / "metrics.csv").open())
            logged.append([int(row["step"]) + 1 for row in rows if row.get("own")])
            assert logged[-1][-1] == checkpoint["global_step"]
        save(self, checkpoint, path)

    monkeypatch.setattr(AtomicCheckpoints, "save_checkpoint", recorded)
    fit(*training(tmp_path, None, epochs=2, logger=CSVLogger(tmp_path, "", ""), callbacks=[Logging()]))
    assert [len(rows) for rows in logged] == [1, 2]


def judged(model, log_prob):
    """The model, whose validation finds this log-density at every entry, by the epoch."""
    model.validation_law = lambda batch: None
    model.validation_log_prob = lambda batch: torch.full_like(batch.values, log_prob[model.current_epoch])


def test_a_training_that_had_stopped_in_its_first_epoch_does_not_go_on(tmp_path):
    for start in (None, tmp_path / LAST):
        trainer, model, data = training(tmp_path, None, patience=1, least=math.inf)
        assert fit(trainer, model, data, start)["epochs"] == 1


def test_early_stopping_holds_while_the_least_epochs_are_done(tmp_path):
    """It stops the second of five epochs; the next two, which are done all the same, are better."""

    def parts(*callbacks):
        made = training(tmp_path, None, patience=1, epochs=5, least_epochs=4, callbacks=callbacks)
        judged(made[1], [-20.0, -30.0, -10.0, -5.0, -1.0])
        return made

    assert fit(*parts())["epochs"] == 4
    with pytest.raises(Stopped):
        fit(*parts(Kill(2)))
    assert fit(*parts(), tmp_path / LAST)["epochs"] == 4


def test_a_run_whose_folder_was_moved_keeps_its_best_epoch(tmp_path):
    fit(*training(tmp_path / "here", None, epochs=2))
    best = (tmp_path / "here/best.ckpt").read_bytes()
    (tmp_path / "here").rename(tmp_path / "there")
    trainer, model, data = training(tmp_path / "there", None, epochs=4)
    saving = trainer.checkpoint_callbacks[0]
    judged(model, [-1e6] * 4)
    fit(trainer, model, data, tmp_path / "there/last.ckpt")
    assert (tmp_path / "there/best.ckpt").read_bytes() == best
    assert Path(saving.best_model_path) == (tmp_path / "there/best.ckpt").resolve()


def moved(tmp_path, **state):
    """The state of a ModelCheckpoint as it is when its run lies in another folder."""
    saving = ModelCheckpoint(tmp_path / "here")
    state = {**saving.state_dict(), **state}
    trainer = Trainer(logger=False, accelerator="cpu", callbacks=[saving])
    trainer.ckpt_path = str(tmp_path / "here/last.ckpt")
    Resumption().on_load_checkpoint(trainer, LightningModule(), {"callbacks": {"one": state}})
    return state


def test_only_files_of_the_folder_that_was_moved_are_looked_for_elsewhere(tmp_path):
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    files = {f"{there}/a.ckpt": 1.0, f"{there}2/b.ckpt": 2.0}
    state = moved(
        tmp_path, dirpath=there, best_model_path=f"{there}/a.ckpt", best_k_models=files, last_model_path=""
    )
    assert state["dirpath"] == here and state["best_model_path"] == f"{here}/a.ckpt"
    assert set(state["best_k_models"]) == {f"{here}/a.ckpt", f"{there}2/b.ckpt"}
    assert state["last_model_path"] == ""
    for unset in (None, ""):
        state = moved(tmp_path, dirpath=unset, best_model_path=f"{there}/a.ckpt", best_k_models=files)
        assert state["best_model_path"] == f"{there}/a.ckpt" and state["best_k_models"] == files


def test_a_damaged_last_checkpoint_is_named_and_the_one_before_used(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--config", "demo", "--data.steps", "300", "--data.num_nodes", "4"]
    words += ["--model.encoder.hidden", "4", "--trainer.logger", "CSVLogger", "--ckpt_path", "last"]
    words += ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
    words += ["--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1"]
    assert main([*words, "--trainer.max_epochs", "3"]) == 0
    folder = Path("runs/demo/checkpoints")
    assert f"{folder} holds no last.ckpt yet: training starts." in capsys.readouterr().out
    whole, number = (folder / LAST).read_bytes(), Path("runs/demo/wandb_id").read_text()
    log = Path("runs/demo/logs/fit/metrics.csv")
    steps = [row["step"] for row in csv.DictReader(log.open())]
    (folder / LAST).write_bytes(whole[: len(whole) // 2])
    assert main([*words, "--trainer.max_epochs", "3"]) == 0
    told = capsys.readouterr().out
    assert f"Warning: {folder / LAST} must be a checkpoint" in told
    assert f"resumes from {folder / PREVIOUS}" in told
    state = torch.load(folder / LAST, weights_only=True)
    assert state["epoch"] == 2 and "monitored" in state
    assert [row["step"] for row in csv.DictReader(log.open())] == steps and len(set(steps)) == 6
    assert Path("runs/demo/wandb_id").read_text() == number and not Path("runs/demo.1").exists()
    for name in (LAST, PREVIOUS):
        (folder / name).write_bytes(b"damaged")
    assert main([*words, "--trainer.max_epochs", "3"]) == 2
    assert "previous.ckpt must be a checkpoint" in capsys.readouterr().err


SMALL = ["fit", "--config", "demo", "--data.steps", "300", "--data.num_nodes", "4"]
SMALL += [
    "--model.encoder.hidden",
    "4",
    "--trainer.logger",
    "false",
    "--trainer.enable_progress_bar",
    "false",
]
SMALL += ["--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1"]
SMALL += ["--trainer.devices", "1", "--trainer.accelerator", "cpu"]


def assert_same_checkpoints(one, other):
    for name in ("best.ckpt", LAST, PREVIOUS):
        a, b = (torch.load(Path("runs", run, "checkpoints", name), weights_only=True) for run in (one, other))
        assert (
            first_difference(a, b, str(Path("runs", one).resolve()), str(Path("runs", other).resolve()))
            is None
        )


@pytest.fixture
def whole(tmp_path, monkeypatch):
    """A run of three epochs of three batches."""
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "--name", "whole", "--trainer.max_epochs", "3"]) == 0


def test_a_training_that_was_stopped_inside_epochs_does_them_again(whole, capsys):
    cut = [*SMALL, "--name", "cut", "--ckpt_path", "last", "--trainer.max_epochs", "3"]
    told = []
    for steps in (2, 5, 8, 1000):  # inside the first epoch, the second and the third
        assert main([*cut, "--trainer.max_steps", str(steps)]) == 0
        told.append(capsys.readouterr().out)
        last = torch.load(Path("runs/cut/checkpoints", LAST), weights_only=True)
        assert last["global_step"] == min(steps, 9)
    assert "last.ckpt is from inside an epoch: training starts again" in told[1]
    assert "inside an epoch: training resumes from runs/cut/checkpoints/previous.ckpt" in told[2]
    assert_same_checkpoints("cut", "whole")


def test_a_run_does_not_go_on_with_other_data_nor_silently_with_other_options(whole, capsys):
    again = [*SMALL, "--name", "whole", "--ckpt_path", "last", "--trainer.max_epochs", "4"]
    assert main([*again, "--data.process_seed", "5"]) == 2
    told = capsys.readouterr().err
    assert "last.ckpt was trained on other data" in told and len(told.strip().splitlines()) == 1
    assert main([*again, "--data.val", "0.3"]) == 2
    assert "values, masks, times, splits or the graph have changed" in capsys.readouterr().err
    assert main([*again, "--data.thinning", "null", "--trainer.max_epochs", "3"]) == 0
    assert "data.thinning is None, was {" in capsys.readouterr().out
    assert main([*again, "--seed_everything", "7", "--data.batch_size", "16"]) == 0
    told = capsys.readouterr().out
    assert "seed_everything is 7, was 1; windows in a step is 16, was 32." in told
    assert main([*again, "--seed_everything", "7", "--data.batch_size", "16"]) == 0
    assert "other options" not in capsys.readouterr().out


def test_weights_alone_are_not_gone_on_from(whole, capsys):
    again = [*SMALL, "--name", "whole", "--ckpt_path", "best", "--trainer.max_epochs", "4"]
    path = Path("runs/whole/checkpoints/best.ckpt")
    content = torch.load(path, weights_only=True)
    del content["optimizer_states"]
    torch.save(content, path)
    assert main(again) == 2
    told = capsys.readouterr().err
    assert "it contains only weights" in told and len(told.strip().splitlines()) == 1


SLURM = {"NTASKS": 1, "NTASKS_PER_NODE": 1, "NNODES": 1, "JOB_NAME": "job", "JOB_ID": 1}
SLURM |= {"PROCID": 0, "LOCALID": 0, "NODEID": 0}


def test_what_lightning_wrote_for_slurm_is_not_gone_on_from(whole, monkeypatch):
    assert main([*SMALL, "--name", "cut", "--trainer.max_steps", "2"]) == 0
    Path("runs/cut/checkpoints", LAST).rename("runs/cut/hpc_ckpt_1.ckpt")
    for name, value in SLURM.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert main([*SMALL, "--name", "cut", "--ckpt_path", "last", "--trainer.max_epochs", "3"]) == 0
    assert_same_checkpoints("cut", "whole")


class Stop(Callback):
    """Stops training after the first batch of an epoch, as a time limit does: the trainer validates then."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == self.epoch:
            trainer.should_stop = True
            best = Path(trainer.checkpoint_callbacks[0].best_model_path or "none")
            self.best = best.read_bytes() if best.is_file() else None


def test_a_stop_inside_an_epoch_leaves_the_best_epoch(tmp_path):
    stop, best = Stop(0), tmp_path / "best.ckpt"
    fit(*training(tmp_path, None, callbacks=[stop]))
    assert (
        stop.best is None and torch.load(best, weights_only=True)["global_step"] == 1
    )  # better than nothing
    stop = Stop(1)
    trainer, *rest = training(tmp_path, None, callbacks=[stop])
    fit(trainer, *rest)
    steps = trainer.num_training_batches + 1
    assert stop.best is not None and best.read_bytes() == stop.best
    last = torch.load(tmp_path / LAST, weights_only=True)
    assert last["global_step"] == steps and not is_whole(last)
    with pytest.warns(UserWarning, match=r"last.ckpt is from inside an epoch: .* is skipped"):
        fit(*training(tmp_path, None), tmp_path / LAST)


def held_elsewhere(folder, command, then):
    """A process that holds a run, once it does."""
    script = (
        "import os, sys; from pathlib import Path; from tsgen.cli.run_folder import locked\n"
        f"with locked(Path(sys.argv[1]), {command!r}): print('held', flush=True); {then}"
    )
    words = [sys.executable, "-c", script, str(folder.resolve())]
    process = subprocess.Popen(words, cwd=ROOT, stdin=-1, stdout=-1, text=True)
    assert process.stdout.readline() == "held\n"
    return process


QUICK = ["--config", "demo", "--data.steps", "300", "--data.num_nodes", "4", "--model.encoder.hidden", "4"]
QUICK += ["--trainer.logger", "false", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
QUICK += ["--trainer.limit_val_batches", "1", "--trainer.enable_progress_bar", "false"]


def test_a_run_in_use_is_left_alone_until_its_process_ends(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *QUICK]) == 0
    folder = Path("runs/demo")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    other = held_elsewhere(folder, "fit", "sys.stdin.read()")
    for command in (["fit"], ["predict"]):
        capsys.readouterr()
        assert main([*command, *QUICK]) == 2
        told = f"runs/demo is in use by another tsgen fit (process {other.pid}); wait for it, or give another"
        assert capsys.readouterr().err == f"tsgen: {told} --name.\n"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    other.kill()
    other.wait()
    assert main(["fit", *QUICK]) == 0
    assert {path.name for path in Path("runs").iterdir()} == {"demo", "demo.1"}


def test_a_test_and_a_prediction_share_a_run_and_a_training_does_not(tmp_path):
    folder = tmp_path / "study/one"
    for mine, its, free in (
        ("test", "predict", True),
        ("predict", "test", True),
        ("test", "test", False),
        ("predict", "fit", False),
        ("fit", "predict", False),
    ):
        told = nullcontext() if free else pytest.raises(ValueError, match="in use")
        with locked(folder, mine), told, locked(folder, its):
            pass
        assert not list(folder.parent.iterdir())
    with locked(folder, "fit"), locked(tmp_path / "study/two", "fit"):
        pass


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK])
def test_where_there_are_no_locks_everybody_gets_them(error, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", flock)
    for _ in range(2):  # the first one is never released
        assert not locks.acquire(tmp_path / "lock", "tsgen fit").is_locked


def test_only_the_first_process_asks(tmp_path, monkeypatch):
    with locked(tmp_path / "demo", "fit"):
        monkeypatch.setattr(rank_zero_only, "rank", 1)
        with locked(tmp_path / "demo", "fit"):
            pass


def test_a_training_that_sets_its_folder_aside_keeps_it(tmp_path):
    folder = tmp_path / "demo"
    (folder / "checkpoints").mkdir(parents=True)
    with locked(folder, "fit"):
        set_aside(folder)
        assert not folder.exists() and (tmp_path / "demo.1/checkpoints").is_dir()
        with pytest.raises(ValueError, match="in use"), locked(folder, "fit"):
            pass


def test_a_folder_with_a_run_in_use_within_is_not_set_aside(tmp_path):
    folder = tmp_path / "demo"
    (folder / "checkpoints").mkdir(parents=True)
    with locked(folder / "sweep", "test"), pytest.raises(ValueError, match=r"demo is in use by .*tsgen test"):
        set_aside(folder)
    assert folder.exists()
    set_aside(folder)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["../thesis", "a/../../thesis", "/thesis", ".", "a/.."])
def test_a_name_never_leaves_the_folder_of_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/text.tex").write_text("years of work")
    name = name.replace("/thesis", f"{tmp_path}/thesis") if name[0] == "/" else name
    Path("own.yaml").write_text(f"name: {name}\n")
    for words in (["--name", name], ["--config", "own.yaml"]):
        assert main(["fit", *QUICK, *words]) == 2
        told = capsys.readouterr().err
        assert "name must be that of a folder in runs" in told and len(told.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"thesis", "own.yaml"}


def test_what_is_no_run_is_not_set_aside(tmp_path):
    folder = tmp_path / "runs/demo"
    folder.mkdir(parents=True)
    set_aside(folder)
    assert folder.exists()
    (folder / "text.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"runs/demo must be empty, absent or .*Give another --name\.$"):
        set_aside(folder)
    assert (folder / "text.tex").exists()
    for sign in ("wandb_id", "config_test.yaml"):
        (folder / sign).write_text("")
        set_aside(folder)
        assert not folder.exists()
        folder.mkdir()


@pytest.mark.parametrize(
    ("only", "kills", "rows"),
    [
        pytest.param("SIGKILL", 1, 4, marks=pytest.mark.slow),
        pytest.param("SIGKILL", 4, 5, marks=pytest.mark.slow),
        pytest.param("inside an epoch", 8, 2, marks=pytest.mark.slow),
    ],
)
def test_broken_runs_end_as_if_nothing_had_happened(only, kills, rows):
    """The short form of the table in docs/reliability.md: real kills of real processes."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "experiments.benchmarks.faults", "--kills", str(kills), "--only", only]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    table = [line.split(" | ") for line in done.stdout.splitlines() if only in line]
    assert len(table) == rows and all(row[-1] == "0 |" for row in table)

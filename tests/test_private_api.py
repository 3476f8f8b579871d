"""Every private name of another package that tsgen uses, and why: each test fails when its name is gone.

pyproject.toml allows only releases of Lightning in which all of them were found. To allow the next one, run
this file with it, and read the changes of what is named here.
"""

import inspect
import re
from pathlib import Path

import jsonargparse
import pytest
from jsonargparse import _optionals
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from torch.nn import Module
from torchmetrics import Metric

from tsgen.cli.trust import NO_FILE, restrict_imports

ROOT = Path(__file__).parents[1]

METHODS = {
    (LightningCLI, "_run_subcommand"): (
        ("self", "subcommand"),
        "holds the run's folder from before the trainer starts until after it has ended",
    ),
    (LightningCLI, "_parse_ckpt_path"): (
        ("self",),
        "a checkpoint's hyperparameters would override the command line",
    ),
    (LightningCLI, "_set_seed"): (("self",), "options that are only checked must not seed this process"),
    (WandbLogger, "_scan_and_log_checkpoints"): (
        ("self", "checkpoint_callback"),
        "artifacts with the aliases best and last, and without the user's folders",
    ),
    (ExperimentWriter, "_check_log_dir_exists"): (("self",), "it would remove the rows of a resumed run"),
    (ExperimentWriter, "_rewrite_with_new_header"): (
        ("self", "fieldnames"),
        "a new column must not leave half a file if the process is killed",
    ),
    (Module, "_apply"): (("self", "fn", "recurse"), "half precision must not round units and laws"),
    (Metric, "_apply"): (("self", "fn", "exclude_state"), "half precision must not round sums"),
}
"""Methods that tsgen overrides, with their arguments."""


@pytest.mark.parametrize(("owner", "name"), METHODS, ids=lambda x: getattr(x, "__name__", x))
def test_a_method_that_is_overridden_is_called_as_before(owner, name):
    arguments, why = METHODS[owner, name]
    method = getattr(owner, name, None)
    assert method is not None, f"{owner.__name__}.{name} is gone; it was overridden because: {why}"
    assert tuple(inspect.signature(method).parameters) == arguments, why
    calls = [
        text
        for base in owner.__mro__[:-1]
        for text in re.findall(rf"self\.{name}\(", inspect.getsource(inspect.getmodule(base)))
    ]
    assert calls, f"{owner.__name__}.{name} is called no more; it was overridden because: {why}"


def test_the_trainer_says_whether_it_deals_windows_itself():
    """The data deals windows among processes; a trainer that dealt them once more would lose some."""
    trainer = Trainer(logger=False, enable_checkpointing=False, use_distributed_sampler=False)
    assert trainer._accelerator_connector.use_distributed_sampler is False


def test_a_checkpoint_is_saved_once_a_step():
    """The validation that follows a stop inside an epoch must not replace the best checkpoint."""
    assert ModelCheckpoint()._last_global_step_saved == 0
    saving = inspect.getsource(ModelCheckpoint._should_skip_saving_checkpoint)
    assert "self._last_global_step_saved == trainer.global_step" in saving


def test_the_csv_logger_writes_with_what_it_holds(tmp_path):
    """Its writer is replaced by one that keeps the rows of a resumed run."""
    logger, given = CSVLogger(tmp_path), object()
    assert logger._experiment is None
    logger._experiment = given
    assert logger.experiment is given


def test_the_wandb_logger_starts_with_the_options_that_it_holds(tmp_path, monkeypatch):
    """A run that cannot start is started again in another mode; results follow where checkpoints are kept."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger, begun = WandbLogger(save_dir=tmp_path, log_model="all"), {}
    assert logger._experiment is None and logger._log_model == "all"
    logger._wandb_init["mode"] = "disabled"
    monkeypatch.setattr("wandb.init", lambda **options: begun.update(options))
    logger.experiment  # noqa: B018
    assert begun["mode"] == "disabled"


def test_the_parser_reads_the_files_that_options_name_in_one_mode():
    """No option but ``--config`` may name a file of options: errors would print the user's other files."""
    before = _optionals._config_read_mode
    try:
        restrict_imports()
        assert _optionals._get_config_read_mode() == NO_FILE
        with pytest.raises(TypeError):
            jsonargparse.Path(__file__, mode=NO_FILE)
    finally:
        _optionals._config_read_mode = before


FOREIGN = re.compile(
    r"\b(?:_optionals|trainer|logger|saving|loop|loops|wandb|torch|lightning|connector|strategy)\._([a-z]\w+)"
)
KNOWN = {
    *(name for _, name in METHODS),
    *("_accelerator_connector", "_last_global_step_saved", "_experiment"),
    "_config_read_mode",
    "_utils",  # in checkpoints: tests/storage/test_checkpoints.py reads one with all that they hold
}


def test_no_other_private_name_is_used():
    used = {
        f"_{name}": path
        for path in [*(ROOT / "tsgen").rglob("*.py"), *(ROOT / "datamodules").rglob("*.py")]
        for name in FOREIGN.findall(path.read_text("utf-8"))
    }
    unknown = {name: str(path) for name, path in used.items() if name not in KNOWN}
    assert not unknown, "add a test that fails when they are gone, or do without"

"""What loggers are told of a run, and what they never are.

A logger that fails never ends a run: it warns once, and training goes on without what it lost. (The CSV log
is a result of the run, and ends it like any other file that cannot be written.) W&B never asks for an
account. What is logged names no folder of the user's home and holds no key of the environment; the state of
git is the commit and whether files differ from it, without the address of the repository.
"""

from __future__ import annotations

import difflib
import json
import netrc
import os
import platform
import subprocess
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlparse

import torch
import wandb
import xarray as xr
from jsonargparse import Namespace
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment, rank_zero_experiment

import tsgen
from tsgen.cli.configs import fragments, read
from tsgen.data.fingerprint import fingerprint
from tsgen.data.series import Series
from tsgen.storage.checkpoints import read_checkpoint
from tsgen.storage.privacy import scrubbed

QUIET = {
    "WANDB_DISABLE_GIT": "true",
    "WANDB_X_DISABLE_META": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_INIT_TIMEOUT": "20",
}
"""What W&B would add by itself: the repository's address and local changes, the command line, the user's
folders, and all that is printed; and the seconds that it may take to begin. A variable that is set already
has the last word."""

MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
"""What ``WANDB_MODE`` may be."""

SHORT_NAMES = {"CSVLogger": "loggers/csv", "TensorBoardLogger": "loggers/tensorboard"}
"""Loggers that the command line knows by their names alone, and the fragments that spell them out."""

ARGUMENTS = (
    *("name", "save_dir", "version", "offline", "dir", "id", "anonymous", "project", "log_model", "prefix"),
    *("checkpoint_name", "add_file_policy", "notes", "tags", "group", "job_type"),
)
"""What options may say to W&B. Not to which host and whose account it sends, or the key of who runs a file
would go where its author likes: that is for the environment to say."""

STEP = "trainer/global_step"
PACKAGES = {"torch": "torch", "lightning": "lightning", "PyG": "torch_geometric", "numpy": "numpy"}

CALLS = (
    *("log_metrics", "log_hyperparams", "log_graph", "log_image", "log_table"),
    *("save", "after_save_checkpoint", "finalize"),
)
"""What may fail of a logger."""


# ----------------------------------------------------------------------------------------------- settling


def spelled_out(words: Sequence[str]) -> list[str]:
    """The words with a logger that is given by its bare name spelled out.

    Raises:
        ValueError: If no logger has the name.
    """
    result: list[str] = []
    for word in words:
        flag, equals, name = word.partition("=")
        if flag == "--trainer.logger" and equals:
            word = f"{flag}={_logger(name)}"
        elif result[-1:] == ["--trainer.logger"]:
            word = _logger(word)
        result.append(word)
    return result


def _logger(name: str) -> str:
    """What the parser is told of a logger: a bare name spelled out, anything else as it is."""
    if name in SHORT_NAMES:
        return json.dumps(read(fragments()[SHORT_NAMES[name]])["trainer"]["logger"])
    if name.isidentifier() and name.lower() not in ("true", "false", "null"):
        near = difflib.get_close_matches(name, SHORT_NAMES, n=1, cutoff=0.4)
        raise ValueError(
            f"trainer.logger must be one of {', '.join(SHORT_NAMES)}, false, or a class by its path; it is "
            f"{name!r}." + f" Did you mean {near[0]}?" * bool(near)
        )
    return name


def settle(options: Namespace, folder: Path, log: Path, run_id: str, group: str | None) -> None:
    """Gives every logger the run's folder, and W&B the run's name, group, id and a mode that never asks.

    Raises:
        ValueError: If TensorBoard is asked for and not installed, W&B is to be online without an account, or
            the options say where it sends.
    """
    loggers = options.trainer.logger
    if not isinstance(loggers, (list, Namespace)):
        return
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        arguments = logger.init_args
        arguments.save_dir = str(log)
        if logger.class_path.endswith("TensorBoardLogger"):
            _check_tensorboard()
        if logger.class_path.endswith("WandbLogger"):
            _check_wandb({**vars(arguments), **(logger.get("dict_kwargs") or {})})
            arguments.save_dir = str(folder.resolve())  # its service may run in another folder
            arguments.name = arguments.name or folder.name
            arguments.id = arguments.id or run_id
            arguments.group = arguments.group or group
            _settle_wandb()


def _check_tensorboard() -> None:
    if not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise ValueError(
            "TensorBoardLogger needs tensorboard, which is not installed. Install it: "
            "pip install 'tsgen[tensorboard]', or use CSVLogger."
        )


def _check_wandb(arguments: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        if name not in ARGUMENTS and value is not None:
            raise ValueError(
                f"the options of WandbLogger must be some of {', '.join(ARGUMENTS)}; {name} is none. Host, "
                "team and mode are set in the environment: WANDB_BASE_URL, WANDB_ENTITY, WANDB_MODE."
            )


def _settle_wandb() -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if os.environ.get("WANDB_MODE", "online") not in MODES:
        raise ValueError(f"WANDB_MODE must be one of {', '.join(MODES)}; it is {os.environ['WANDB_MODE']!r}.")
    if has_wandb_account():
        return
    if os.environ.setdefault("WANDB_MODE", "offline") == "online":
        raise ValueError(
            "WANDB_MODE must not be online without an account, or W&B would ask for one. Run `wandb login`, "
            "or unset it."
        )


def has_wandb_account() -> bool:
    """Whether W&B could log in without asking."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def sweep_run() -> str | None:
    """The id that an agent of a W&B sweep gave the run; None outside one."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


# ------------------------------------------------------------------------------------------ what is logged


def provenance(series: Series) -> dict[str, Any]:
    """What a run was made of besides its options: data, code, packages and machine.

    Args:
        series: The data. Of its values only those that were observed matter.
    """
    packages = {name: version(package) for name, package in PACKAGES.items()}
    return {
        "data_hash": fingerprint(torch.nn.Module(), series)[:16],
        "git": _git(),
        "versions": {"tsgen": tsgen.__version__, **packages, "python": platform.python_version()},
        "machine": {
            "cpus": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _git() -> dict[str, Any] | None:
    """The commit of the working folder and whether tracked files differ; None outside a repository.

    The repository may be a stranger's: no program that its settings name is run.
    """
    settings = {"core.fsmonitor": "false", "core.hooksPath": os.devnull}
    try:
        # these would be run on files that look changed; those of the user's own settings may
        _, named = _ask_git(
            settings,
            "config",
            "--show-scope",
            "--name-only",
            "--get-regexp",
            r"^filter\..*\.(clean|process|required)$",
        )
        for scope, key in (line.split("\t", 1) for line in named.splitlines()):
            if scope in ("local", "worktree"):
                settings[key] = "false" if key.endswith(".required") else ""
        no_commit, commit = _ask_git(settings, "rev-parse", "HEAD")
        # a submodule has settings of its own
        words = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")
        failed, changes = _ask_git(settings, *words)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if no_commit or failed else {"commit": commit.strip(), "dirty": bool(changes.strip())}


def _ask_git(settings: Mapping[str, str], *words: str) -> tuple[int, str]:
    """The exit code and what git says, with some settings in force over the repository's."""
    told = {f"GIT_CONFIG_KEY_{i}": key for i, key in enumerate(settings)}
    told |= {f"GIT_CONFIG_VALUE_{i}": value for i, value in enumerate(settings.values())}
    # nothing is fetched: a remote's address may name a program too
    told |= {"GIT_CONFIG_COUNT": str(len(settings)), "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
    # no lock is taken: whoever works in the repository is not disturbed
    done = subprocess.run(
        ["git", "--no-optional-locks", *words],
        capture_output=True,
        text=True,
        timeout=10,
        env={**os.environ, **told},
    )
    return done.returncode, done.stdout


# ------------------------------------------------------------------------------------------------ failures


@contextmanager
def forgiving(logger: Any) -> Iterator[None]:
    """What fails inside is lost and told once for each logger: a run is worth more than its record."""
    try:
        yield
    except Exception as error:
        if not getattr(logger, "failed", False):
            logger.failed = True  # type: ignore[attr-defined]
            reason = scrubbed(" ".join(f"{type(error).__name__}: {error}".split()))[:200]
            warnings.warn(
                f"{type(logger).__name__} failed ({reason}); the run goes on, its record is incomplete.",
                stacklevel=2,
            )


def guard(logger: Any) -> None:
    """Makes the calls that a trainer and callbacks send to a logger forgiving ones."""
    for name in CALLS:
        if hasattr(logger, name):
            setattr(logger, name, partial(_forgiven, logger, getattr(logger, name)))


def _forgiven(logger: Any, call: Any, *args: Any, **kwargs: Any) -> Any:
    with forgiving(logger):
        return call(*args, **kwargs)


class TolerantWandbLogger(WandbLogger):
    """Lightning's logger, but a W&B that does not start ends no run, and checkpoints are told apart.

    If W&B cannot start, the run is kept offline, or else not at all. The artifact ``model-ID`` has the alias
    ``best`` for the best checkpoint and ``last`` for the last one.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of W&B."""
        if self._experiment is not None:
            return self._experiment
        for mode in (None, "offline", "disabled"):
            if mode:
                self._wandb_init["mode"] = mode
            with forgiving(self):
                return super().experiment
            wandb.teardown()  # or its service would hold the run's id
        return DummyExperiment()

    def repeat(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Logs what a CSV log holds: of a session that was killed, W&B's own file may lack all of it.

        Args:
            rows: The log's.
        """
        for row in rows:
            told = {name: float(text) for name, text in row.items() if text and name != "step"}
            self.log_metrics(told, int(row["step"]))

    def _scan_and_log_checkpoints(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Called after a checkpoint was written or, with ``log_model: true``, when training has ended."""
        path, monitor = Path(checkpoint_callback.best_model_path), checkpoint_callback.monitor
        if not path.is_file():
            return
        score = checkpoint_callback.best_model_score if monitor else None
        metadata = {"monitor": monitor, "score": None if score is None else float(score)}
        artifact = wandb.Artifact(f"model-{self.experiment.id}", type="model", metadata=metadata)
        with TemporaryDirectory() as folder:
            # callbacks remember where checkpoints lie
            shown = read_checkpoint(path)
            shown["callbacks"] = scrubbed(shown.get("callbacks", {}))
            torch.save(shown, f"{folder}/model.ckpt")
            artifact.add_file(f"{folder}/model.ckpt", name="model.ckpt")
        self.experiment.log_artifact(artifact, aliases=["best" if monitor else "last"])

    def log_results(self, path: Path) -> None:
        """Keeps imputations as the artifact ``imputation-ID``, if checkpoints are kept as artifacts too."""
        if not self._log_model or not path.is_file():
            return
        with xr.open_dataset(path) as data:
            observed = int(data["observed"].sum())
            metadata = {
                **{name: int(size) for name, size in data.sizes.items()},
                "observed_entries": observed,
                "imputed_entries": int(data["observed"].size) - observed,
                "conditioning": data.attrs["conditioning"],
            }
        artifact = wandb.Artifact(f"imputation-{self.experiment.id}", type="imputation", metadata=metadata)
        artifact.add_file(str(path), name=path.name)
        self.experiment.log_artifact(artifact)


def tolerate(loggers: Sequence[Logger]) -> None:
    """Makes the W&B loggers among them tolerant."""
    for logger in loggers:
        if type(logger) is WandbLogger:
            logger.__class__ = TolerantWandbLogger


def finish() -> None:
    """Closes the run of W&B, if one is open; an upload that fails is told, and no more."""
    try:
        wandb.finish()
    except Exception as error:
        reason = scrubbed(" ".join(str(error).split()))[:200]
        warnings.warn(f"W&B could not finish the run ({reason}); its record may be incomplete.", stacklevel=2)


# ------------------------------------------------------------------------------------------------ callback


class Tracking(Callback):
    """Tells W&B what a run is, and refuses monitors that nothing logs.

    Args:
        series: The data.
        imputation: The file that a prediction writes.
    """

    def __init__(self, series: Series, imputation: Path) -> None:
        self.series, self.imputation, self.began = series, imputation, False

    def tell(self, trainer: Trainer, config: Mapping[str, Any]) -> None:
        """Guards the loggers and tells W&B of the run; called by the first process when the trainer starts.

        Args:
            trainer: The trainer.
            config: The resolved configuration, without what is private.
        """
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # whose file is a result of the run: on a full disk it ends
                guard(logger)
            if isinstance(logger, WandbLogger):
                with forgiving(logger):
                    # what a test or a prediction was told is not what the model was trained with
                    command = str(trainer.state.fn and trainer.state.fn.value)
                    key = "cli" if command == "fit" else f"cli_{command}"
                    told = {key: config, **provenance(self.series)}
                    logger.experiment.config.update(told, allow_val_change=True)
                    for name, best in _summaries(trainer).items():
                        # a summary without the step would lose the axis
                        logger.experiment.define_metric(name, step_metric=STEP, summary=f"{best},last")

    def on_sanity_check_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuses a monitor of validation that it does not log."""
        _check_monitors(trainer, "val/")

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuses any other monitor that nothing logged in the first epoch."""
        if self.began:
            _check_monitors(trainer, "")
        self.began = True

    def on_predict_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Keeps the imputations as an artifact."""
        for logger in trainer.loggers:
            if isinstance(logger, TolerantWandbLogger) and trainer.is_global_zero:
                with forgiving(logger):
                    logger.log_results(self.imputation)


def _monitors(trainer: Trainer) -> dict[str, tuple[str, str]]:
    """The option that names each monitor, with the monitor and whether it should be min or max."""
    found: dict[str, tuple[str, str]] = {}
    for callback in trainer.callbacks:
        if isinstance(callback, EarlyStopping):
            found["early_stopping.monitor"] = callback.monitor, callback.mode
        if isinstance(callback, ModelCheckpoint) and callback.monitor:
            found["checkpoint.monitor"] = callback.monitor, callback.mode
    return found


def _summaries(trainer: Trainer) -> dict[str, str]:
    """Metrics whose best value belongs in a run's summary, and which end is best."""
    known = dict.fromkeys(("train/loss", "train/nll", "val/nll", "val/crps"), "min")
    return known | dict(_monitors(trainer).values())


def _check_monitors(trainer: Trainer, prefix: str) -> None:
    """Raises unless what has the prefix and is monitored is logged."""
    logged = trainer.callback_metrics
    for option, (monitor, _) in _monitors(trainer).items():
        unknown = monitor.startswith(prefix) and monitor not in logged
        # a validation may be due in a later epoch
        if unknown and (prefix or not monitor.startswith("val/")):
            raise ValueError(f"{option} must be one of {', '.join(sorted(logged))}; it is {monitor!r}.")

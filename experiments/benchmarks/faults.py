"""Breaks runs at random moments, resumes them, and compares them with an uninterrupted run, bit for bit.

    python -m experiments.benchmarks.faults [--kills 20] [--only TEXT] [--seed 0] [--folder FOLDER]

A small training (dropout, moving average of the weights, one-cycle schedule, AdamW), its test and its
prediction are killed, terminated, denied disk space, or have a file damaged; the training is also stopped
inside an epoch, and killed and stopped while worker processes load its data. Each is then resumed by the same
command. Each command is a process of its own, forked from
one that has imported everything. The exit code is 1 if anything was lost. Needs a POSIX system.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import xarray as xr
import yaml

import tsgen.cli.commands  # noqa: F401 (imported once, before commands are forked)
from experiments.benchmarks.harness import arguments
from tsgen.cli.main import main as command_line
from tsgen.storage.checkpoints import LAST, PREVIOUS, AtomicCheckpoints, damage, is_whole

EPOCHS = 4
CONFIG = {
    "seed_everything": 1,
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": EPOCHS,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": [{"class_path": "CSVLogger", "init_args": {"save_dir": "runs", "name": "", "version": ""}}],
        "callbacks": [{"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.8}}],
    },
    "model": {
        "class_path": "tsgen.models.AutoregressiveModel",
        "init_args": {
            "encoder": {
                "class_path": "tsgen.encoders.GraphGRUEncoder",
                "init_args": {
                    "hidden": 8,
                    "convolution": {
                        "class_path": "torch_geometric.nn.GATConv",
                        "init_args": {"dropout": 0.5},
                    },
                },
            },
            "head": "tsgen.heads.GaussianHead",
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003}},
            "scheduler": {
                "class_path": "torch.optim.lr_scheduler.OneCycleLR",
                "init_args": {"max_lr": 0.02, "total_steps": EPOCHS},
            },
            "sampler": {"class_path": "tsgen.sampling.Ancestral", "init_args": {"num_samples": 5}},
        },
    },
    "data": {
        "class_path": "tsgen.datamodules.SyntheticDataModule",
        "init_args": {"num_nodes": 4, "steps": 300, "window": 12, "stride": 3, "batch_size": 8},
    },
}
SAVES, SIZE = 30, 50_000
"""The number of checkpoints that the writer writes, and of numbers in each."""


class Fault(NamedTuple):
    """A fault and its outcome.

    Attributes:
        effective: Whether it had an effect: the process had not ended by itself, or the damage is detectable.
        lost: What was lost: a result that differs from that of the uninterrupted run, or a wrong exit code.
            None if nothing was lost.
    """

    effective: bool
    lost: str | None


Faults = Iterator[Fault]
"""An endless sequence of faults of one kind."""


class Workspace:
    """A folder with an uninterrupted run and a run that is interrupted and resumed.

    Args:
        folder: The folder; it is created.
        seed: Fixes the moments of the faults.
        workers: The number of worker processes that load the data.
    """

    def __init__(self, folder: Path, seed: int, workers: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.random, self.workers = folder, random.Random(seed), workers
        self.config, self.log = folder / "tiny.yaml", folder / "output.txt"
        self.config.write_text(yaml.safe_dump(CONFIG), "utf-8")
        self.whole = folder / "whole" / "tiny"
        self.seconds: dict[str, float] = {}
        self.run_undisturbed("fit")

    def run_undisturbed(self, command: str) -> None:
        """Runs a command without a fault, unless that was done before, and records its seconds."""
        if command in self.seconds:
            return
        start = time.monotonic()
        code = finish(self.start(command, self.whole))
        if code:
            raise RuntimeError(f"{command} ended with {code}: {self.log.read_text('utf-8')}")
        self.seconds[command] = time.monotonic() - start

    def start(self, command: str, run: Path, *options: str, limit: int | None = None) -> int:
        """Starts a command on a run and returns its process id."""
        words = [command, "--config", str(self.config), "--runs", str(run.parent), *options]
        words += ["--data.num_workers", str(self.workers)]
        return forked(
            lambda: command_line([*words, *(["--ckpt_path", "last"] * (command == "fit"))]), self.log, limit
        )

    def fresh(self, command: str) -> Path:
        """Returns a run that the command can start from."""
        run = self.folder / "broken" / "tiny"
        shutil.rmtree(run.parent, ignore_errors=True)
        if command != "fit":
            shutil.copytree(self.whole / "checkpoints", run / "checkpoints")
        return run

    def interrupted(self, command: str, signal_number: int, earliest: float = 0.4) -> tuple[Path, int]:
        """Sends a command a signal at a random moment; returns the run and the exit code.

        Args:
            command: The command.
            signal_number: The signal.
            earliest: The earliest moment, as a fraction of the command's time; before it the command is still
                reading its options.
        """
        self.run_undisturbed(command)
        run = self.fresh(command)
        process = self.start(command, run)
        time.sleep(self.random.uniform(earliest, 1.0) * self.seconds[command])
        os.kill(process, signal_number)
        return run, finish(process)

    def repeated(self, command: str, run: Path) -> str | None:
        """Runs the command to its end; returns the first difference to the uninterrupted run, or None."""
        code = finish(self.start(command, run))
        if code:
            return f"the command ended with {code}: {self.log.read_text('utf-8')[-2000:]}"
        return difference(command, run, self.whole)


def forked(work: Callable[[], int], log: Path, limit: int | None = None) -> int:
    """Starts a process and returns its id.

    Args:
        work: What the process does; returns its exit code.
        log: The file of its output.
        limit: The maximum size of the process's files, in bytes.
    """
    sys.stdout.flush()
    log.write_text("", "utf-8")  # here, because a process that is killed at once would leave the old output
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        with log.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            code = work()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def finish(process: int) -> int:
    """Waits for a process and returns its exit code as a shell reports it."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return code if code >= 0 else 128 - code


def difference(command: str, run: Path, whole: Path) -> str | None:
    """Returns the first difference between the results of a run and the uninterrupted one, or None."""
    if left := [path.name for path in run.rglob("*.unfinished")]:
        return f"unfinished files are left: {left}"
    if command == "fit":
        for name in ("best.ckpt", LAST, PREVIOUS):
            one, other = (torch.load(r / "checkpoints" / name, weights_only=True) for r in (run, whole))
            if where := first_difference(one, other, str(run.resolve()), str(whole.resolve())):
                return f"{name} differs in {where}"
    else:
        name = {"test": "evaluation.nc", "predict": "imputation.nc"}[command]
        one, other = (xr.load_dataset(r / name) for r in (run, whole))
        if not one.identical(other):
            return f"{name} differs"
    for name in {"fit": ["logs/fit/metrics.csv"], "test": ["scores.json"]}.get(command, []):
        if (run / name).read_bytes() != (whole / name).read_bytes():
            return f"{name} differs"
    return None


def first_difference(one: object, other: object, folder: str, whole: str, where: str = "") -> str | None:
    """Returns the first place in which nested data differ, bit for bit, or None.

    Args:
        one: Nested dictionaries, lists and tuples.
        other: The same of the uninterrupted run.
        folder: The folder of ``one``; where its name occurs, it is replaced by that of ``other``.
        whole: The folder of ``other``.
        where: The path to the data, as a prefix of what is returned.
    """
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return None if one.dtype == other.dtype and torch.equal(one, other) else where
    if type(one) is not type(other):
        return where
    pairs: list[tuple[str, object, object]]
    if isinstance(one, dict) and isinstance(other, dict):
        one = {str(key).replace(folder, whole): value for key, value in one.items()}
        other = {str(key): value for key, value in other.items()}
        if one.keys() != other.keys():
            return f"{where}: {sorted(one.keys() ^ other.keys())}"
        pairs = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return where
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        one = one.replace(folder, whole) if isinstance(one, str) else one
        return None if one == other or (one != one and other != other) else where
    places = (first_difference(a, b, folder, whole, f"{where}/{key}") for key, a, b in pairs)
    return next((place for place in places if place), None)


def kill(workspace: Workspace, command: str) -> Faults:
    """Sends SIGKILL at random moments."""
    while True:
        run, code = workspace.interrupted(command, signal.SIGKILL)
        yield Fault(code != 0, workspace.repeated(command, run))


def terminate(workspace: Workspace, command: str) -> Faults:
    """Sends SIGTERM at random moments: the exit code must be 143, or 0 if the command had finished."""
    while True:
        run, code = workspace.interrupted(command, signal.SIGTERM)
        wrong = None if code in (0, 143) else f"the exit code was {code}"
        yield Fault(code != 0, wrong or workspace.repeated(command, run))


def stop(workspace: Workspace) -> Faults:
    """Stops after a random number of steps, most often inside an epoch: the exit code must be 0."""
    whole = torch.load(workspace.whole / "checkpoints" / LAST, weights_only=True)["global_step"]
    while True:
        run, steps = workspace.fresh("fit"), workspace.random.randrange(1, whole)
        code = finish(workspace.start("fit", run, "--trainer.max_steps", str(steps)))
        last = torch.load(run / "checkpoints" / LAST, weights_only=True)
        right = code == 0 and last["global_step"] == steps
        wrong = None if right else f"exit code {code} after {last['global_step']} steps, not {steps}"
        yield Fault(not is_whole(last), wrong or workspace.repeated("fit", run))


def fill_disk(workspace: Workspace, command: str) -> Faults:
    """Limits the size of files, like a full disk: a command must end with one line and exit code 2.

    It must resume once the limit is lifted.
    """
    while True:
        run, _ = workspace.interrupted(command, signal.SIGKILL, earliest=0.5)
        code = finish(
            workspace.start(command, run, limit=workspace.random.choice((500, 2_000, 8_000, 20_000)))
        )
        output = workspace.log.read_text("utf-8")
        # the exit code is 0 if the killed process had already written everything
        right = code in (0, 2) and "Traceback" not in output
        wrong = None if right else f"the exit code was {code}: {output[-1500:]}"
        yield Fault(code != 0, wrong or workspace.repeated(command, run))


def spoil(workspace: Workspace) -> Faults:
    """Cuts the last checkpoint short or changes one byte of it: the one before it must be used."""
    cut = False
    while True:
        run, _ = workspace.interrupted("fit", signal.SIGKILL, earliest=0.6)
        path = run / "checkpoints" / LAST
        if not (run / "checkpoints" / PREVIOUS).exists():
            continue
        cut = not cut
        effective = damaged(path, cut, workspace)
        yield Fault(effective, workspace.repeated("fit", run))


def spoil_part(workspace: Workspace) -> Faults:
    """Cuts a part file of a killed prediction short or changes a byte: its window must be drawn again."""
    cut = False
    while True:
        run, _ = workspace.interrupted("predict", signal.SIGKILL, earliest=0.5)
        parts = sorted((run / "imputation.nc.parts").glob("part-*.npz"))
        if not parts:
            continue
        cut = not cut
        effective = damaged(workspace.random.choice(parts), cut, workspace)
        yield Fault(effective, workspace.repeated("predict", run))


def damaged(path: Path, cut: bool, workspace: Workspace) -> bool:
    """Cuts a file short at a random place or changes a byte; returns whether the damage is detectable."""
    content = bytearray(path.read_bytes())
    at = workspace.random.randrange(len(content))
    if cut:
        content = content[:at]
    else:
        content[at] ^= 0xFF
    path.write_bytes(content)
    return damage(path) is not None  # some bytes of the format have no meaning


def write_constantly(folder: Path) -> int:
    """Writes one checkpoint after another, starting after the last one in the folder."""
    writer, path = AtomicCheckpoints(), folder / LAST
    first = torch.load(path, weights_only=True)["number"] + 1 if path.exists() else 1
    for number in range(first, SAVES + 1):
        writer.save_checkpoint({"number": number, "weights": torch.full((SIZE,), float(number))}, path)
        print(number, flush=True)
    return 0


def kill_writer(workspace: Workspace) -> Faults:
    """Sends SIGKILL to a process that does nothing but write checkpoints."""
    folder = workspace.folder / "written"
    start = time.monotonic()
    finish(forked(lambda: write_constantly(folder), workspace.log))
    seconds = time.monotonic() - start
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        process = forked(lambda: write_constantly(folder), workspace.log)
        time.sleep(workspace.random.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
        code = finish(process)
        reported = int((workspace.log.read_text("utf-8").split() or ["0"])[-1])
        problem = wrong_checkpoints(folder, reported)
        finish(forked(lambda: write_constantly(folder), workspace.log))
        yield Fault(code != 0, problem or wrong_checkpoints(folder, SAVES))


def wrong_checkpoints(folder: Path, written: int) -> str | None:
    """Describes what is wrong with the last two checkpoints after ``written`` ones were written, or None."""
    numbers = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            numbers.append(0)
            continue
        if reason := damage(path):
            return f"{name}: {reason}"
        content = torch.load(path, weights_only=True)
        if not bool((content["weights"] == content["number"]).all()):
            return f"{name} mixes two checkpoints"
        numbers.append(content["number"])
    last, previous = numbers
    if last < written or last - previous not in (0, 1):
        return f"{written} checkpoints were written; the last one is {last} and the one before it {previous}"
    return None


def until(wanted: int, faults: Faults) -> list[Fault]:
    """Returns faults until ``wanted`` of them were effective, or three times as many were tried."""
    tried: list[Fault] = []
    for fault in itertools.islice(faults, 3 * wanted):
        tried.append(fault)
        if sum(each.effective for each in tried) == wanted:
            break
    return tried


def main(words: list[str] | None = None) -> int:
    """Applies all faults and prints the table; returns 1 if anything was lost."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--kills",
        type=int,
        default=20,
        help="effective SIGKILLs of each kind; a quarter as many of the other faults",
    )
    parser.add_argument("--only", default="", help="only faults with this text in their names")
    parser.add_argument("--seed", type=int, default=0, help="fixes the moments of the faults")
    parser.add_argument("--folder", type=Path, help="the folder of the runs; a temporary one if not given")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        workspace, times, others = Workspace(folder, options.seed), options.kills, options.kills // 4
        with_workers = Workspace(folder / "workers", options.seed, workers=2)
        kinds: dict[str, tuple[int, Faults]] = {
            "`tsgen fit`: SIGKILL": (times, kill(workspace, "fit")),
            "`tsgen predict`: SIGKILL": (times, kill(workspace, "predict")),
            "`tsgen test`: SIGKILL": (others, kill(workspace, "test")),
            "checkpoints written without pause: SIGKILL": (times, kill_writer(workspace)),
            "`tsgen fit`: SIGTERM, exit code 143": (others, terminate(workspace, "fit")),
            "`tsgen predict`: SIGTERM, exit code 143": (others, terminate(workspace, "predict")),
            "`tsgen fit`: stopped inside an epoch": (others, stop(workspace)),
            "`tsgen fit` with 2 workers: SIGKILL": (times, kill(with_workers, "fit")),
            "`tsgen fit` with 2 workers: SIGTERM, exit code 143": (others, terminate(with_workers, "fit")),
            "`tsgen fit` with 2 workers: stopped inside an epoch": (others, stop(with_workers)),
            "`tsgen fit`: disk full": (others, fill_disk(workspace, "fit")),
            "`tsgen predict`: disk full": (others, fill_disk(workspace, "predict")),
            "`last.ckpt` cut short, or a byte of it changed": (others, spoil(workspace)),
            "`tsgen predict`: one part file damaged": (others, spoil_part(workspace)),
        }
        print("| fault | how often | effective | lost |\n| --- | --- | --- | --- |", flush=True)
        lost = 0
        for name, (wanted, faults) in kinds.items():
            if options.only in name and wanted:
                tried = until(wanted, faults)
                problems = [fault.lost for fault in tried if fault.lost]
                effective = sum(fault.effective for fault in tried)
                lost += len(problems)
                print(f"| {name} | {len(tried)} | {effective} | {len(problems)} |", flush=True)
                print(*problems, sep="\n", end="\n" * bool(problems), file=sys.stderr)
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())

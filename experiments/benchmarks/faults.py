"""Breaks runs at random moments and holds what comes of them against a run that nothing befell, bit for bit.

    python -m experiments.benchmarks.faults [--kills 20] [--only TEXT] [--seed 0] [--folder FOLDER]

A small training (dropout, moving average of the weights, one-cycle schedule, AdamW), its test and its
prediction are killed, terminated, refused disk space, robbed of their last checkpoint and, the training,
stopped inside an epoch, then repeated by the same command. Each command is a process of its own, forked from
one that has imported everything. Exit code 1 if anything was lost. Needs a POSIX system.
"""

from __future__ import annotations

import argparse
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
from typing import Any

import torch
import xarray as xr
import yaml

import tsgen.cli.commands
from tsgen.cli.main import main as tsgen
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
"""Checkpoints that the writer writes, and the numbers in each."""


Faults = Iterator[tuple[bool, str | None]]
"""Of one fault after another, without end: whether it struck (the process had not ended by itself, or the
damage could be seen), and what was lost, if anything: the end is another than the uninterrupted run's, or a
command ended wrongly."""


class Ground:
    """A folder with an uninterrupted run, in which others are broken.

    Args:
        folder: The folder.
        seed: Of the moments.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.config, self.log = folder / "tiny.yaml", folder / "output.txt"
        self.config.write_text(yaml.safe_dump(CONFIG), "utf-8")
        self.whole = folder / "whole" / "tiny"
        self.seconds: dict[str, float] = {}
        self.do_whole("fit")

    def do_whole(self, command: str) -> None:
        """Runs a command without a fault, unless that was done, and takes its time."""
        if command in self.seconds:
            return
        begun = time.monotonic()
        code = finish(self.start(command, self.whole))
        if code:
            raise RuntimeError(f"{command} ended with {code}: {self.log.read_text('utf-8')}")
        self.seconds[command] = time.monotonic() - begun

    def start(self, command: str, run: Path, *options: str, limit: int | None = None) -> int:
        """Starts a command on a run; the process."""
        words = [command, "--config", str(self.config), "--runs", str(run.parent), *options]
        return forked(
            lambda: tsgen([*words, *(["--ckpt_path", "last"] * (command == "fit"))]), self.log, limit
        )

    def fresh(self, command: str) -> Path:
        """A run that the command can begin with."""
        run = self.folder / "broken" / "tiny"
        shutil.rmtree(run.parent, ignore_errors=True)
        if command != "fit":
            shutil.copytree(self.whole / "checkpoints", run / "checkpoints")
        return run

    def broken(self, command: str, sign: int, earliest: float = 0.4) -> tuple[Path, int]:
        """A run whose command was sent a signal at a random moment, and how it ended.

        The earliest moment is a share of the command's time; before it the command reads its options.
        """
        self.do_whole(command)
        run = self.fresh(command)
        process = self.start(command, run)
        time.sleep(self.random.uniform(earliest, 1.0) * self.seconds[command])
        os.kill(process, sign)
        return run, finish(process)

    def repeated(self, command: str, run: Path) -> str | None:
        """Runs the command to its end; what is not as in the uninterrupted run."""
        code = finish(self.start(command, run))
        if code:
            return f"the command ended with {code}: {self.log.read_text('utf-8')[-2000:]}"
        return difference(command, run, self.whole)


def forked(work: Callable[[], int], log: Path, limit: int | None = None) -> int:
    """Starts a process; its number. No file of its may grow beyond the limit in bytes."""
    sys.stdout.flush()
    log.write_text("", "utf-8")  # one that is killed at once leaves nothing of the one before
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
    """Waits for a process; its exit code as a shell tells it."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return code if code >= 0 else 128 - code


def difference(command: str, run: Path, whole: Path) -> str | None:
    """What a command left in another way than in the uninterrupted run; None if nothing."""
    if left := [path.name for path in run.rglob("*.unfinished")]:
        return f"unfinished files are left: {left}"
    if command == "fit":
        for name in ("best.ckpt", LAST, PREVIOUS):
            one, other = (torch.load(r / "checkpoints" / name, weights_only=True) for r in (run, whole))
            if where := first_difference(one, other, str(run.resolve()), str(whole.resolve())):
                return f"{name} differs in {where}"
        names = ("logs/fit/metrics.csv",)
    else:
        for name in {"test": ("evaluation.nc",), "predict": ("imputation.nc",)}[command]:
            one, other = (xr.load_dataset(r / name) for r in (run, whole))
            if not one.identical(other):
                return f"{name} differs"
        names = ("scores.json",) if command == "test" else ()
    for name in names:
        if (run / name).read_bytes() != (whole / name).read_bytes():
            return f"{name} differs"
    return None


def first_difference(one: Any, other: Any, folder: str, whole: str, where: str = "") -> str | None:
    """The first place in which nested data differ, bit for bit; folders' names aside."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return None if one.dtype == other.dtype and torch.equal(one, other) else where
    if type(one) is not type(other):
        return where
    if isinstance(one, dict):
        one = {str(key).replace(folder, whole): value for key, value in one.items()}
        other = {str(key): value for key, value in other.items()}
        if one.keys() != other.keys():
            return f"{where}: {sorted(one.keys() ^ other.keys())}"
        pairs: Iterator[tuple[str, Any, Any]] = ((key, one[key], other[key]) for key in one)
    elif isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return where
        pairs = ((str(i), a, b) for i, (a, b) in enumerate(zip(one, other, strict=True)))
    else:
        one = one.replace(folder, whole) if isinstance(one, str) else one
        return None if one == other or (one != one and other != other) else where
    found = (first_difference(a, b, folder, whole, f"{where}/{key}") for key, a, b in pairs)
    return next((place for place in found if place), None)


def kill(ground: Ground, command: str) -> Faults:
    """SIGKILL at random moments."""
    while True:
        run, code = ground.broken(command, signal.SIGKILL)
        yield code != 0, ground.repeated(command, run)


def terminate(ground: Ground, command: str) -> Faults:
    """SIGTERM at random moments: the exit code is 143 unless the command was done."""
    while True:
        run, code = ground.broken(command, signal.SIGTERM)
        wrong = None if code in (0, 143) else f"the exit code was {code}"
        yield code != 0, wrong or ground.repeated(command, run)


def stop(ground: Ground) -> Faults:
    """A number of steps after which to stop, most often inside an epoch: the exit code is 0."""
    whole = torch.load(ground.whole / "checkpoints" / LAST, weights_only=True)["global_step"]
    while True:
        run, steps = ground.fresh("fit"), ground.random.randrange(1, whole)
        code = finish(ground.start("fit", run, "--trainer.max_steps", str(steps)))
        last = torch.load(run / "checkpoints" / LAST, weights_only=True)
        right = code == 0 and last["global_step"] == steps
        wrong = None if right else f"{code}, after {last['global_step']} steps for {steps}"
        yield not is_whole(last), wrong or ground.repeated("fit", run)


def fill_disk(ground: Ground, command: str) -> Faults:
    """Files that cannot grow, as on a full disk: one line, exit code 2, and room is all that it needs."""
    while True:
        run, _ = ground.broken(command, signal.SIGKILL, earliest=0.5)
        code = finish(ground.start(command, run, limit=ground.random.choice((500, 2_000, 8_000, 20_000))))
        told = ground.log.read_text("utf-8")
        # with 0 if the killed one had written all there is to write
        right = code in (0, 2) and "Traceback" not in told
        wrong = None if right else f"it ended with {code}: {told[-1500:]}"
        yield code != 0, wrong or ground.repeated(command, run)


def spoil(ground: Ground) -> Faults:
    """A last checkpoint that is cut short, or has one wrong byte: the one before it is used, and said so."""
    cut = False
    while True:
        run, _ = ground.broken("fit", signal.SIGKILL, earliest=0.6)
        path = run / "checkpoints" / LAST
        if not (run / "checkpoints" / PREVIOUS).exists():
            continue
        cut = not cut
        struck = damaged(path, cut, ground)
        yield struck, ground.repeated("fit", run)


def spoil_part(ground: Ground) -> Faults:
    """A window that a killed prediction has left, cut short or with one wrong byte: it is drawn anew."""
    cut = False
    while True:
        run, _ = ground.broken("predict", signal.SIGKILL, earliest=0.5)
        parts = sorted((run / "imputation.nc.parts").glob("part-*.npz"))
        if not parts:
            continue
        cut = not cut
        struck = damaged(ground.random.choice(parts), cut, ground)
        yield struck, ground.repeated("predict", run)


def damaged(path: Path, cut: bool, ground: Ground) -> bool:
    """Cuts a file short at a random place or changes a byte; whether that can be seen."""
    content = bytearray(path.read_bytes())
    at = ground.random.randrange(len(content))
    if cut:
        content = content[:at]
    else:
        content[at] ^= 0xFF
    path.write_bytes(content)
    return damage(path) is not None  # there are bytes between the parts that mean nothing


def write_constantly(folder: Path) -> int:
    """Writes checkpoint after checkpoint, going on from the last one."""
    writer, path = AtomicCheckpoints(), folder / LAST
    first = torch.load(path, weights_only=True)["number"] + 1 if path.exists() else 1
    for number in range(first, SAVES + 1):
        writer.save_checkpoint({"number": number, "weights": torch.full((SIZE,), float(number))}, path)
        print(number, flush=True)
    return 0


def kill_writer(ground: Ground) -> Faults:
    """SIGKILL while nothing but checkpoints is written."""
    folder = ground.folder / "written"
    begun = time.monotonic()
    finish(forked(lambda: write_constantly(folder), ground.log))
    seconds = time.monotonic() - begun
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        process = forked(lambda: write_constantly(folder), ground.log)
        time.sleep(ground.random.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
        code = finish(process)
        told = int((ground.log.read_text("utf-8").split() or ["0"])[-1])
        problem = wrong_checkpoints(folder, told)
        finish(forked(lambda: write_constantly(folder), ground.log))
        yield code != 0, problem or wrong_checkpoints(folder, SAVES)


def wrong_checkpoints(folder: Path, told: int) -> str | None:
    """What is wrong with the last two checkpoints when so many had been written."""
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
            return f"{name} is a mixture"
        numbers.append(content["number"])
    last, previous = numbers
    if last < told or last - previous not in (0, 1):
        return f"{told} were written; there are {last} and, before it, {previous}"
    return None


def until(wanted: int, faults: Faults) -> list[tuple[bool, str | None]]:
    """Faults until so many have struck, or three times as many were tried."""
    seen = []
    for fault in itertools.islice(faults, 3 * wanted):
        seen.append(fault)
        if sum(struck for struck, _ in seen) == wanted:
            break
    return seen


def main(words: list[str] | None = None) -> int:
    """Breaks everything and prints the table; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description="Break runs at random moments; nothing may be lost.")
    parser.add_argument(
        "--kills",
        type=int,
        default=20,
        help="SIGKILLs of each kind that strike; a quarter as many other faults",
    )
    parser.add_argument("--only", default="", help="faults with this text in their names")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where the runs go; a temporary one if not given")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        ground, times, others = Ground(folder, given.seed), given.kills, given.kills // 4
        tries: dict[str, tuple[int, Faults]] = {
            "`tsgen fit`: SIGKILL": (times, kill(ground, "fit")),
            "`tsgen predict`: SIGKILL": (times, kill(ground, "predict")),
            "`tsgen test`: SIGKILL": (others, kill(ground, "test")),
            "checkpoints written without pause: SIGKILL": (times, kill_writer(ground)),
            "`tsgen fit`: SIGTERM, exit code 143": (others, terminate(ground, "fit")),
            "`tsgen predict`: SIGTERM, exit code 143": (others, terminate(ground, "predict")),
            "`tsgen fit`: stopped inside an epoch": (others, stop(ground)),
            "`tsgen fit`: no room on the disk": (others, fill_disk(ground, "fit")),
            "`tsgen predict`: no room on the disk": (others, fill_disk(ground, "predict")),
            "`last.ckpt` cut short, or a byte of it changed": (others, spoil(ground)),
            "`tsgen predict`: one part damaged": (others, spoil_part(ground)),
        }
        print("| fault | how often | struck | lost |\n| --- | --- | --- | --- |", flush=True)
        lost = 0
        for name, (wanted, faults) in tries.items():
            if given.only in name and wanted:
                seen = until(wanted, faults)
                problems = [problem for _, problem in seen if problem]
                lost += len(problems)
                print(f"| {name} | {len(seen)} | {sum(s for s, _ in seen)} | {len(problems)} |", flush=True)
                print(*problems, sep="\n", end="\n" * bool(problems), file=sys.stderr)
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())

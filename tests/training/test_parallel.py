"""One process and several: the same gradients, scores and draws, and what was drawn is not drawn again."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from parallel_script import weights_after_one_step

from tsgen.cli.arguments import parse
from tsgen.cli.variants import read_study

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> Path:
    """What the script leaves behind."""
    folder = tmp_path_factory.mktemp("parallel")
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/parallel_script.py"), str(folder)],
        env=env,
        capture_output=True,
        text=True,
        timeout=400,
    )
    (folder / "said.txt").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """How far two steps lie apart, relative to their length."""
    apart = sum(float((a[name] - b[name]).square().sum()) for name in a)
    return (apart / sum(float(x.square().sum()) for x in a.values())) ** 0.5


@pytest.mark.parametrize("objective", ["likelihood", "subgraphs"])
def test_gradients_do_not_depend_on_accumulation(objective):
    one, *several = (weights_after_one_step(objective, 1, batches) for batches in (1, 2, 3))
    for step in several:
        assert distance(one, step) < 1e-9


def test_gradients_do_not_depend_on_processes_or_on_accumulation(left):
    found = torch.load(left / "training.pt", weights_only=True)
    first, second = found["counts"]
    assert first > 10 * second > 0
    for (objective, processes, accumulate), step in found["steps"].items():
        one = found["steps"][objective, 1, 1]
        assert distance(one, step) < 1e-9, (objective, processes, accumulate)


def leaves(tree, path=()):
    """Every number and word of a table, by where it stands."""
    if isinstance(tree, (dict, list)):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, (*path, key))
    else:
        yield path, tree


def test_scores_do_not_depend_on_processes(left):
    one = dict(leaves(json.loads((left / "scores_1.json").read_text())))
    assert one["windows",] % 2 and one["windows",] % 3
    assert {path[0] for path in one} > {"rows", "intervals", "rank_histogram", "by_node"}
    for processes in (2, 3):
        several = dict(leaves(json.loads((left / f"scores_{processes}.json").read_text())))
        assert several.keys() == one.keys()
        for path, value in one.items():
            expected = pytest.approx(value, rel=1e-6, abs=1e-6) if isinstance(value, float) else value
            assert several[path] == expected, path


def draws(path: Path) -> np.ndarray:
    with xr.open_dataset(path) as data:
        assert np.isfinite(data["imputation"].values).all()
        return data["imputation"].values


def test_draws_do_not_depend_on_processes(left):
    """One long series: the samples are dealt. Windows that stand alone are dealt themselves."""
    one = draws(left / "imputation_1.nc")
    for several in ("imputation_2", "imputation_3", "resumed_3"):
        np.testing.assert_allclose(draws(left / f"{several}.nc"), one, rtol=1e-5, atol=1e-5, err_msg=several)
    apart = draws(left / "apart_1.nc")
    np.testing.assert_allclose(draws(left / "apart_2.nc"), apart, rtol=1e-5, atol=1e-5)
    assert not np.allclose(apart, one)


def test_in_prediction_a_process_waits_for_the_others_longer_than_in_training(left):
    assert draws(left / "late_2.nc").tobytes() == draws(left / "imputation_2.nc").tobytes()


def test_killed_processes_go_on_and_end_in_the_same_bits(left):
    assert draws(left / "resumed_2.nc").tobytes() == draws(left / "imputation_2.nc").tobytes()
    drawn = torch.load(left / "left.pt", weights_only=True)
    shares = [sum(f"-{first:06d}-" in name for name in drawn) for first in (0, 3)]
    assert shares == [10, 15]
    assert (left / "said.txt").read_text().count("10 of 33 windows were drawn before") == 2


STRATEGIES = {"strategies/ddp": DDPStrategy, "strategies/fsdp": FSDPStrategy}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.filterwarnings("ignore:LightningCLI")
def test_a_strategy_follows_an_experiment_and_does_not_name_it(name):
    study = read_study(parse(["test", "--config", "demo", "--config", name]))
    assert study.name == "demo"
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(Trainer, "trainer")
    chosen = parser.parse_object({"trainer": study.options["trainer"]})["trainer"]["strategy"]
    assert chosen.class_path.endswith(STRATEGIES[name].__name__)
    assert STRATEGIES[name](**chosen.init_args)._timeout.seconds == 30 * 60  # Lightning's, in torch's way


WAITING = """
import os, subprocess, sys, time
from tsgen.cli.processes import ending_together
with ending_together(grace=0.5):
    if os.environ.get("LOCAL_RANK", "0") == "0":
        env = os.environ | {"LOCAL_RANK": "1"}
        print(subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[1]], env=env).pid, flush=True)
    time.sleep(60)
"""


def is_running(process: int) -> bool:
    """Whether there is such a process, but for one that has ended and waits to be noticed."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True)
    return done.stdout.strip()[:1] not in ("", "Z")


def seconds_until(true, limit: float) -> float:
    begun = time.monotonic()
    while not true():
        assert time.monotonic() < begun + limit
        time.sleep(0.05)
    return time.monotonic() - begun


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_processes_end_with_the_first():
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", WAITING, WAITING]
    with subprocess.Popen(
        words, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as first:
        other = int(first.stdout.readline())
        time.sleep(1.5)
        assert is_running(other)
        first.kill()
        first.wait()
        assert seconds_until(lambda: not is_running(other), 5) > 0.3


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_process_that_waits_for_the_first_ends_with_it(tmp_path):
    """The first one ends while the other one starts, which then waits where they meet."""
    words = [sys.executable, "-m", "tsgen", "fit", "--config", "demo", "--config", "strategies/ddp"]
    words += ["--runs", str(tmp_path), "--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    words += ["--trainer.logger", "false", "--data.steps", "500"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def others() -> list[int]:
        told = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True).stdout
        rows = [line.split(maxsplit=2) for line in told.splitlines()]
        return [int(row[0]) for row in rows if int(row[1]) == first.pid and "tsgen" in row[2]]

    seconds_until(others, 60)
    (other,) = others()
    time.sleep(1)
    first.terminate()
    try:
        assert first.wait(20) == -signal.SIGTERM
        seconds_until(lambda: not is_running(other), 40)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(other, signal.SIGKILL)


@pytest.mark.slow
def test_two_nodes_train_as_one_process(tmp_path):
    """Two nodes on this machine, told apart by what the environment says."""

    def together(name: str, runs: Path, nodes: int) -> None:
        words = [name, "--config", "demo", "--config", "strategies/ddp", "--runs", str(runs)]
        words += ["--data.steps", "500", "--data.num_nodes", "5", "--trainer.max_epochs", "1"]
        words += ["--data.batch_size", str(16 // nodes), "--model.encoder.hidden", "4"]
        words += ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
        words += ["--model.sampler.num_samples", "5", "--trainer.accelerator", "cpu"]
        words += ["--trainer.devices", "1", "--trainer.num_nodes", str(nodes)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "tsgen", *words],
                env=env | {"MASTER_PORT": port, "NODE_RANK": str(node)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for node in range(nodes)
        ]
        for process in started:
            said, _ = process.communicate(timeout=200)
            assert process.returncode == 0, said[-3000:]

    found = []
    for nodes in (1, 2):
        together("fit", tmp_path / str(nodes), nodes)
        assert [path.name for path in (tmp_path / str(nodes)).iterdir()] == ["demo"]
        checkpoint = tmp_path / str(nodes) / "demo/checkpoints/best.ckpt"
        found.append(torch.load(checkpoint, weights_only=True))
    one, two = (state["state_dict"] for state in found)
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-5, rtol=1e-4, msg=name)
    assert found[0]["global_step"] == found[1]["global_step"] > 0

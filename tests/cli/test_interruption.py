"""Ctrl-C at any moment: what was kept, the command that continues, exit code 130."""

import os
import signal
import subprocess
import sys
import time
from functools import partialmethod
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from tsgen.cli import interruption
from tsgen.cli.main import main
from tsgen.storage.parts import Parts

ROOT = Path(__file__).parents[2]
SMALL = ["--data.steps", "400", "--data.num_nodes", "6", "--model.encoder.hidden", "8"]
LONG = ["--trainer.max_epochs", "100000", "--early_stopping.patience", "99999"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_an_interrupted_fit_says_what_it_kept_and_continues():
    words = ["fit", "--config", "demo", *SMALL, *LONG, "--trainer.enable_progress_bar", "false"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # a file: W&B's own process would keep a pipe open
    with Path("output").open("w") as file:
        command = [sys.executable, "-m", "tsgen", *words]
        process = subprocess.Popen(command, env=env, stdout=file, stderr=file)
    try:
        for _ in range(1200):
            if Path("runs/demo/checkpoints/last.ckpt").exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    output = Path("output").read_text("utf-8")
    last = output.strip().splitlines()[-1]
    assert last.startswith("tsgen: interrupted; runs/demo/checkpoints/last.ckpt keeps the finished epochs. ")
    assert last.endswith(f"tsgen {' '.join(words)} --ckpt_path last")
    assert "Traceback" not in output and "sync this run" not in output


def raise_interrupt(*_, **__):
    raise KeyboardInterrupt


def raise_from_an_import(*_, **__):
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise ImportError("initialization failed")  # noqa: B904


def exit_as_lightning_does(*_, **__):
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


@pytest.mark.parametrize("kind", [raise_interrupt, raise_from_an_import, exit_as_lightning_does])
@pytest.mark.parametrize("words", [["report", "runs/a b"], ["fit", "--config", "demo"]])
def test_an_interruption_before_anything_began_is_one_line(kind, words, monkeypatch, capsys):
    module = "tsgen.cli.report.main" if words[0] == "report" else "tsgen.cli.run.main"
    monkeypatch.setattr(module, kind)
    assert main(words) == 130
    command = "tsgen report 'runs/a b'" if words[0] == "report" else "tsgen fit --config demo"
    assert capsys.readouterr().err.strip() == (
        f"tsgen: interrupted; nothing has changed. To start again: {command}"
    )


def test_other_processes_than_the_first_say_nothing(monkeypatch, capsys):
    monkeypatch.setattr("tsgen.cli.report.main", raise_interrupt)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["report", "runs/a"]) == 130
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "kept", "again"),
    [
        ("fit -c demo", False, "fit -c demo --ckpt_path last"),
        ("fit -c demo", True, "fit -c demo --ckpt_path last"),
        ("fit -c demo --ckpt_path other.ckpt --name a", False, "fit -c demo --ckpt_path other.ckpt --name a"),
        ("fit -c demo --ckpt_path other.ckpt --name a", True, "fit -c demo --name a --ckpt_path last"),
        ("fit --ckpt_path=last -c demo", True, "fit -c demo --ckpt_path last"),
        ("test -c demo", True, "test -c demo"),
        ("predict -c demo", True, "predict -c demo"),
    ],
)
def test_the_command_that_continues(words, kept, again, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    if kept:
        (tmp_path / "checkpoints" / "last.ckpt").touch()
    interruption.begin(tmp_path)
    outcome, command = interruption._outcome(words.split())
    assert " ".join(command) == again
    assert ("keeps the finished epochs" in outcome) == (kept and words.startswith("fit"))


def test_a_process_that_does_not_end_is_ended():
    script = (
        "import sys, time; from tsgen.cli import interruption, main\n"
        "def busy(words):\n"
        "    print('begun', flush=True)\n"
        "    while True:\n"
        "        try: time.sleep(60)\n"
        "        except KeyboardInterrupt: pass\n"
        "main._main = busy; sys.exit(main.main(['report', 'x']))"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", script], env=env, stdout=-1, stderr=-1, text=True)
    try:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130 and "interrupted; nothing has changed" in errors
    finally:
        process.kill()


def test_an_interrupted_impute_resumes(monkeypatch, capsys):
    generator = np.random.default_rng(0)
    table = pd.DataFrame(generator.normal(size=(400, 3)).cumsum(0), columns=["a", "b", "c"])
    table.mask(generator.random(table.shape) < 0.2).rename_axis("time").to_csv("t.csv")
    words = ["impute", "t.csv", "--num_samples", "5", "--minutes", "0"]
    assert main([*words, "--out", "whole"]) == 0
    written, write = [], Parts.write

    def stopping(parts, name, arrays, after):
        ours = parts.folder.parent.name == "t_imputed"  # not those of the check on hidden values
        if ours and len(written) == after:
            raise KeyboardInterrupt
        written.extend([name] * ours)
        write(parts, name, arrays)

    for after, kept in (
        (0, "t_imputed has no draws yet. To start again"),
        (3, "3 part files of draws are kept"),
    ):
        monkeypatch.setattr(Parts, "write", partialmethod(stopping, after=after))
        assert main(words) == 130
        err = capsys.readouterr().err.strip()
        assert err.startswith(f"tsgen: interrupted; {kept}") and err.count("\n") == 0
        assert err.endswith(": tsgen impute t.csv --num_samples 5 --minutes 0")
        assert not Path("t_imputed/completed.csv").exists()
    first = list(written)
    monkeypatch.setattr(Parts, "write", partialmethod(stopping, after=-1))
    assert main(words) == 0
    assert len(first) == 3 and len(written) > 6 and len(set(written)) == len(written)
    for name in ("completed.csv", "intervals.csv"):
        assert Path("t_imputed", name).read_bytes() == Path("whole", name).read_bytes()
    draws = [xr.load_dataset(f"{folder}/imputation.nc") for folder in ("whole", "t_imputed")]
    xr.testing.assert_identical(*draws)

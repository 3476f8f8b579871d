"""The words of the command line: parsed in one way, and helped with quickly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tsgen.cli import arguments
from tsgen.cli.arguments import parse, parse_location
from tsgen.cli.main import main


def test_help_imports_no_torch(tmp_path):
    script = "import sys; from tsgen.cli.main import main; main(['--help']); print('torch' in sys.modules)"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.endswith("False\n") and "demo" in done.stdout


@pytest.mark.parametrize("columns", [50, 80, 200])
@pytest.mark.parametrize(
    "words", [["--help"], *([command, "-h"] for command in ("fit", "report", "compare", "conformal"))]
)
def test_help_is_as_wide_as_the_terminal(words, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    # a usage that is written out is not wrapped
    assert lines[0].startswith("usage: tsgen") and max(map(len, lines[1:])) <= columns
    # names are not broken, nor are words
    if columns > 50 and len(words) < 2:
        assert "encoders/two_way_attention" in " ".join(lines)


def test_published_data_modules_are_told_in_a_clone_alone(monkeypatch, capsys):
    for clone in (True, False):
        monkeypatch.setattr(arguments, "has_datamodules", lambda clone=clone: clone)
        assert main(["--help"]) == 0
        shown = capsys.readouterr().out
        assert "FilesDataModule" in shown and ("AirQualityDataModule" in shown) == clone


def test_options_of_a_run_are_taken_out_and_the_others_kept_in_order():
    words = [
        "--data.steps",
        "400",
        "--config",
        "demo",
        "--x=--config",
        "-cother",
        "--trusted=mine",
        "--y",
        "-3",
    ]
    words += [
        "--trainer.logger",
        "CSVLogger",
        "--variant=a",
        "--trainer.logger.name",
        "n",
        "--z",
        "-1e-3",
    ]
    given = parse(["fit", *words])
    assert (given.command, given.config, given.variant) == ("fit", ["demo", "other"], ["a"])
    assert (given.trusted, given.logger) == (["mine"], ["CSVLogger"])
    kept = ["--data.steps", "400", "--x=--config", "--y", "-3", "--trainer.logger.name", "n", "--z", "-1e-3"]
    assert given.rest == kept
    place = parse_location(["--name", "a", "--data.steps", "3", "--runs=b", "--nam", "c"])
    assert (place.name, place.runs, place.ckpt_path) == ("a", "b", None)


def test_nothing_is_abbreviated():
    assert parse(["fit", "--conf", "demo", "--trust", "x"]).rest == ["--conf", "demo", "--trust", "x"]
    with pytest.raises(ValueError, match=r"--ou\. Did you mean --out\? See `tsgen compare --help`"):
        parse(["compare", "a", "--ou", "x"])


def test_a_folder_has_a_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert parse(["compare", ".", "a"]).runs == [tmp_path, Path("a")]
    given = parse(["report", "a", "b", "--out", "c.html"])
    assert (given.run, given.other, given.out) == (Path("a"), Path("b"), Path("c.html"))

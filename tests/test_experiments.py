"""Every benchmark can be started from a clone and says what it measures."""

import importlib
import sys
from pathlib import Path

import pytest

import experiments

ROOT = Path(experiments.__file__).parent
BENCHMARKS = sorted(
    f"experiments.benchmarks.{path.stem}"
    for path in (ROOT / "benchmarks").glob("*.py")
    if path.stem not in ("__init__", "harness")
)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_prints_its_help(name, monkeypatch, capsys):
    module = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    # the docstring names the command by which the module is run
    assert f"python -m {name}" in shown and module.__doc__.splitlines()[0] in shown

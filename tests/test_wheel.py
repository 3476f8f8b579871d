"""What ``pip install tsgen`` brings: one package, with all that it reads beside its code."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """A wheel of a copy of the repository, so that nothing is built in it."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("tsgen", "datamodules", "experiments"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    words = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q", "-w", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *words, str(copy)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = out.iterdir()
    return zipfile.ZipFile(path)


def test_tsgen_is_all_that_is_installed(wheel):
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"tsgen"}


def test_a_wheel_has_all_that_lies_in_the_package(wheel):
    """Configurations, templates and the mark of a typed package, besides the modules."""
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tsgen").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"tsgen/py.typed", "tsgen/cli/configs/demo.yaml"} <= here
    assert not here - set(wheel.namelist())


def test_what_it_says_of_itself_is_whole(wheel):
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    text = wheel.read(metadata).decode()
    for line in ("Name: tsgen", "Requires-Python: >=3.11", "License-Expression: MIT"):
        assert f"\n{line}\n" in f"\n{text}"
    assert text.count("\nProject-URL: ") == 4 and text.count("\nClassifier: ") > 5
    (entries,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "tsgen = tsgen.cli.main:main" in wheel.read(entries).decode()

"""A head of the user's own, in one file: trusted once by ``fit``, remembered for the run."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tsgen.cli import remembered_trust
from tsgen.cli.main import main
from tsgen.cli.remembered_trust import FILE, remember, remembered

ROOT = Path(__file__).parents[2]
SMALL = ["--config", "demo", "--data.steps=300", "--data.num_nodes=4", "--model.encoder.hidden=4"]
SMALL += ["--model.sampler.num_samples=3", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]
SMALL += ["--trainer.enable_model_summary=false", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
OWN = ["--model.head", "mine.StudentTHead"]
HEAD = """
import torch
from torch import nn
from torch.distributions import StudentT

from tsgen.heads import Head


class StudentTHead(Head):
    uniforms_per_entry = 1

    def __init__(self, hidden, sizes):
        super().__init__(hidden, sizes)
        self.linear = nn.Linear(hidden, 2 * sizes.channels)

    @property
    def num_parameters_per_entry(self):
        return 2 * (self.hidden + 1)

    def forward(self, h, values, context, units, covariates=None):
        loc, scale = self.linear(h).unflatten(-1, (self.sizes.channels, 2)).unbind(-1)
        df = torch.full_like(loc, 4.0)
        return StudentT(df, units.unstandardise(loc), units.scale * (1e-3 + scale.exp()), validate_args=False)

    def quantile(self, law, uniforms):
        u = uniforms[..., 0]
        root = (4 * u * (1 - u)).sqrt()  # four degrees of freedom: Shaw (2006)
        return law.loc + law.scale * (u - 0.5).sign() * 2 * ((root.acos() / 3).cos() / root - 1).sqrt()
"""


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    """An empty folder to work in, which is on the path as with ``python -m tsgen``; a home of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(tmp_path / "work"))
    yield
    sys.modules.pop("mine", None)


def test_a_head_of_ones_own_is_trusted_once(capsys):
    Path("mine.py").write_text(HEAD)
    assert main(["fit", *SMALL, *OWN]) == 2
    assert "--trusted mine" in capsys.readouterr().err
    assert main(["fit", *SMALL, *OWN, "--trusted", "mine"]) == 0
    for command in ("test", "predict"):
        capsys.readouterr()
        assert main([command, *SMALL, *OWN]) == 0
        assert "trusting mine (remembered from fit)" in capsys.readouterr().out
    assert json.loads(Path("runs/demo/scores.json").read_text())["rows"][0]["nll"] is not None
    assert Path("runs/demo/imputation.nc").is_file()
    # a resumed fit is of the same run
    assert main(["fit", *SMALL, *OWN, "--ckpt_path=last", "--trainer.max_epochs=2"]) == 0
    # a stranger's configuration that names the run trusts nothing
    Path("theirs.yaml").write_text("name: demo\nmodel.head: mine.StudentTHead\n")
    capsys.readouterr()
    assert main(["test", *SMALL, "--config", "theirs.yaml"]) == 2
    shown = capsys.readouterr()
    assert "trusted.json is ignored" in shown.out and "--trusted mine" in shown.err
    # a new training of the same name trusts nothing by itself
    assert main(["fit", *SMALL, *OWN]) == 2
    assert "--trusted mine" in capsys.readouterr().err
    # nor does one that was copied
    shutil.copytree("runs/demo", "runs/copy")
    assert main(["test", *SMALL, *OWN, "--name=copy"]) == 2
    shown = capsys.readouterr()
    assert "runs/copy/trusted.json is ignored" in shown.out and "--trusted mine" in shown.err


def test_variants_remember_each_by_itself(capsys):
    Path("mine.py").write_text(HEAD)
    variants = {"own": {"model.head": "mine.StudentTHead"}, "other": {"seed_everything": 3}}
    Path("study.yaml").write_text(yaml.safe_dump({"variants": variants}))
    words = [*SMALL, "--config", "study.yaml", "--name=s"]
    assert main(["fit", *words, "--trusted=mine"]) == 0
    capsys.readouterr()
    assert main(["test", *words, "--variant", "own"]) == 0
    assert capsys.readouterr().out.count("trusting mine") == 1


def test_only_what_fit_wrote_for_this_folder_is_honoured(tmp_path, capsys, monkeypatch):
    run = tmp_path / "runs/x"
    run.mkdir(parents=True)
    assert remembered(run) == ()
    remember(run, ["mine", "other.heads"])
    assert remembered(run) == ("mine", "other.heads")
    kept = json.loads((run / FILE).read_text())
    for forged in (
        kept | {"trusted": ["os"]},
        kept | {"trusted": "mine"},
        kept | {"signature": ""},
        kept | {"signature": "é"},
        {"trusted": ["os"]},
        [],
        "x" * 100_000,
    ):
        (run / FILE).write_text(json.dumps(forged))
        capsys.readouterr()
        assert remembered(run) == () and "is ignored" in capsys.readouterr().out
    (run / FILE).write_text(json.dumps(kept))
    assert remembered(run) == ("mine", "other.heads")
    # of another user, who has another key or none
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert remembered(run) == ()
    remember(tmp_path, ["mine"])
    assert remembered(run) == () and remembered(tmp_path) == ("mine",)
    key = tmp_path / "other/tsgen/key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.write_text("")  # with an empty key anyone could sign
    signed = remembered_trust._signature(b"", tmp_path, ["os"], "")
    (tmp_path / FILE).write_text(json.dumps({"trusted": ["os"], "signature": signed}))
    assert remembered(tmp_path) == ()


def test_without_a_place_for_the_key_trust_is_not_remembered(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    remember(tmp_path, ["mine"])
    assert "must be given to each command" in capsys.readouterr().out and not (tmp_path / FILE).exists()


def test_a_module_that_cannot_be_imported_is_told_how_to(tmp_path):
    Path("mine.py").write_text(HEAD)
    (tmp_path / "elsewhere").mkdir()
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "tsgen", "fit", *SMALL, *OWN, "--trusted", "mine"]
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=tmp_path / "elsewhere")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    for part in ("No module named 'mine'", "python -m tsgen", "PYTHONPATH", "pip install"):
        assert part in done.stderr

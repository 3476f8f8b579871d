"""The command line says what to do next, what a misspelt word may mean, and completes words by Tab."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tsgen.cli.arguments import RUN_COMMANDS
from tsgen.cli.main import main
from tsgen.cli.noise import without_font_notes
from tsgen.cli.suggestions import did_you_mean, unknown_options

ROOT = Path(__file__).parents[2]
COMMANDS = ("impute", "fit", "test", "predict", "report", "compare", "conformal")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("words", [[], ["help"]])
def test_a_bare_command_says_what_to_do_next(words, capsys):
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and max(map(len, lines)) < 80
    assert "tsgen impute TABLE.csv" in lines[1] and "tsgen --help" in lines[4]


@pytest.mark.parametrize("command", RUN_COMMANDS)
def test_a_run_without_a_configuration_says_what_to_do_next(command, capsys):
    assert main([command]) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 5 and max(map(len, err.splitlines())) < 80
    assert f"tsgen {command} --config demo" in err


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_is_short(words, capsys):
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: tsgen") and len(lines) < 60 and max(map(len, lines)) <= 80
    if len(words) > 1:
        assert main(["help", words[0]]) == 0
        assert capsys.readouterr().out.splitlines() == lines


def test_help_of_no_command_imports_torch():
    words = [[], ["help"], ["fit"], ["--help-all"], ["fitt"], ["impute", "--minuts", "3"]]
    words += [[command, "--help"] for command in COMMANDS]
    script = f"import sys; from tsgen.cli.main import main; [main(words) for words in {words!r}]\n"
    script += "print({'torch', 'lightning', 'pandas', 'matplotlib'} & set(sys.modules))"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_all_help(capsys):
    assert main(["--help-all"]) == 0
    out = capsys.readouterr().out
    assert all(f"usage: tsgen {command}" in out for command in COMMANDS)
    with pytest.raises(SystemExit) as ended:  # of Lightning's parser
        main(["fit", "--config", "demo", "--help-all"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.count("\n") > 400 and "--trainer.gradient_clip_val" in out and "--variant" in out


WORDS = {
    "impute --minuts 3": "--minuts. Did you mean --minutes? See `tsgen impute --help`.",
    "impute t.csv --Sed=3": "--Sed. Did you mean --seed?",
    "compare a b --ot x": "--ot. Did you mean --out?",
    "--verson": "--verson. Did you mean --version? See `tsgen --help`.",
    "fitt --config demo": "no command 'fitt'. Did you mean fit? See `tsgen --help`.",
    "xyz": "no command 'xyz'. Known: impute, fit, test, predict, report, compare, conformal.",
    "--colour": "unrecognized arguments: --colour. See `tsgen --help`.",
}
OPTIONS = {
    "--trainer.max_epoch 3": "--trainer.max_epoch. Did you mean --trainer.max_epochs? See `tsgen fit",
    "--nam x": "--nam. Did you mean --name?",
    "--batch_size 3": "--batch_size. Did you mean --data.batch_size?",
    "--config wrong.yaml": "--trainer.max_epoch. Did you mean --trainer.max_epochs?",
    "--data.stepss 3": "data: SyntheticDataModule has no option 'stepss'. Did you mean steps?",
    "--model.encoder.hiden 3": "model.encoder: GraphGRUEncoder has no option 'hiden'. Did you mean hidden?",
    "--model.head.components 3": "'components'. --model.head.help GaussianHead lists its options.",
    "--model AutoregresiveModel": "is called 'AutoregresiveModel'. Did you mean AutoregressiveModel?",
    "--model Foo": "is called 'Foo'. Known: AnyOrderModel, AutoregressiveModel, GraphVAR.",
    "--data SyntheticData": "is called 'SyntheticData'. Did you mean SyntheticDataModule?",
    "--model.head Gausian": "is called 'Gausian'. Did you mean GaussianHead?",
    "--model.encoder tsgen.encoders.GruEncoder": "'tsgen.encoders.GruEncoder'. Did you mean GraphGRUEncoder?",
    "--model.encoder.convolution GraphConvolutin": "Did you mean GraphConvolution?",
    "--trainer.callbacks EarlyStoping": "is called 'EarlyStoping'. Did you mean EarlyStopping?",
    "--trainer.callbacks+=Foo": "is called 'Foo'. Known: Compile, GradientFlow, ImputationFigure,",
}


@pytest.mark.parametrize("words", WORDS)
def test_a_misspelt_word_gets_a_suggestion(words, capsys):
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("tsgen: ") and err.count("\n") == 1 and WORDS[words] in err


@pytest.mark.parametrize("words", OPTIONS)
def test_a_misspelt_option_of_a_run_gets_a_suggestion(words, capsys):
    Path("wrong.yaml").write_text("trainer: {max_epoch: 3}\n")
    assert main(["fit", "--config", "demo", *words.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("tsgen: ") and err.count("\n") == 1 and OPTIONS[words] in err


def test_only_similar_names_are_suggested():
    assert did_you_mean("--minuts", ["--minutes", "--seed"]) == " Did you mean --minutes?"
    assert not did_you_mean("--minuts", []) and not did_you_mean("--colour", ["--seed"])
    # a common beginning alone does not make names similar
    assert not did_you_mean("--early_stopping.zzzz", ["--early_stopping.mode", "--early_stopping.strict"])
    assert unknown_options(["t.csv", "--a=1", "--b", "--", "--c"], ["--a"]) == ["--b"]


def completions(line):
    """The words that a shell offers after a line."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    env |= {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    env |= {"_ARGCOMPLETE_STDOUT_FILENAME": "offered", "_ARGCOMPLETE_SHELL": "bash"}
    subprocess.run([sys.executable, "-m", "tsgen"], env=env, check=True, timeout=60)
    return {word.strip() for word in Path("offered").read_text().split("\n")}


def test_tab_completes_commands_options_and_names():
    pytest.importorskip("argcomplete")
    Path("own.yaml").touch()
    assert set(COMMANDS) <= completions("tsgen ")
    assert completions("tsgen im") == {"impute"}
    assert {"--minutes", "--out"} <= completions("tsgen impute t.csv --")
    assert completions("tsgen fit --config d") == {"demo"}
    assert {"encoders/gru", "encoders/window"} <= completions("tsgen fit --config demo --config encoders/")
    assert "own.yaml" in completions("tsgen fit --config o")
    assert completions("tsgen conformal r --unit w") == {"window"}


def test_libraries_print_nothing_that_says_nothing():
    words = ["fit", "--config", "demo", "--data.steps=400", "--data.num_nodes=6", "--trainer.max_epochs=1"]
    words += ["--model.encoder.hidden=8", "--model.sampler.num_samples=5", "--data.val=0.2"]
    env = {name: text for name, text in os.environ.items() if not name.startswith("WANDB")}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": os.getcwd(), "WANDB_MODE": "offline"}
    with Path("output").open("w") as file:  # W&B's own process would keep a pipe open
        command = [sys.executable, "-m", "tsgen", *words]
        subprocess.run(command, env=env, stdout=file, stderr=file, check=True, timeout=300)
    output = Path("output").read_text("utf-8")
    assert not [word for word in ("FLOPs", "Modules in", "anonymous", "font cache") if word in output]
    assert "Model: 858 parameters" in output and "encoder" in output and "val_nll" not in output
    assert "Best val/nll: " in output and "of runs/demo/checkpoints/best.ckpt" in output
    # what W&B gets is in the run's folder, too
    assert json.loads(Path("runs/demo/provenance_fit.json").read_text("utf-8"))["versions"]["torch"]
    assert Path("runs/demo/val_imputation.png").read_bytes()[:4] == b"\x89PNG"
    assert Path("runs/demo/logs/fit/metrics.csv").is_file()


def test_only_the_note_on_fonts_is_dropped(caplog):
    logger = logging.getLogger("matplotlib.font_manager")
    with without_font_notes():
        logger.warning("Matplotlib is building the font cache; this may take a moment.")
        logger.warning("findfont: Font family 'x' not found.")
    logger.warning("Matplotlib is building the font cache; this may take a moment.")
    assert [record.getMessage()[:9] for record in caplog.records] == ["findfont:", "Matplotli"]

"""Names of strangers reach neither a terminal nor a page with their control characters."""

import pytest

from tsgen.cli.main import main
from tsgen.cli.run_folder import locate, print_once
from tsgen.data.series import _abbreviated
from tsgen.evaluation.terminal import print_table
from tsgen.report.page import _environment
from tsgen.storage.display import has_controls, print_line, printable

EVIL = "a\x1b[2J\x1b]0;x\x07\x9b2J\u202eb\u2066\x00\r\n\u2028c"


def test_control_characters_are_replaced():
    assert printable(EVIL).isprintable() and "\x1b" not in printable(EVIL)
    assert printable("Zürich 東京 \u0645\u06cc\u200c\u062e 1\u00a0km $x$ <b>") == (
        "Zürich 東京 \u0645\u06cc\u200c\u062e 1 km $x$ <b>"
    )
    assert printable("abcdef", 4) == "abc…"
    assert has_controls(EVIL) and not has_controls("a\n\tb\ufffd 東京")


def test_every_printer_replaces_them(capsys):
    print_line(EVIL)
    print_once(EVIL)
    print_table(EVIL, [EVIL, EVIL], [(EVIL, EVIL)], remarks=[EVIL])
    printed = capsys.readouterr().out
    assert printed and not any(has_controls(line) for line in printed.splitlines())
    assert printed.count("\n") < 20


def test_pages_replace_them():
    page = _environment().from_string("<p>{{ name }}</p><pre>{{ text }}</pre>{{ 3 }}")
    shown = page.render(name=EVIL + "<script>", text="a: 1\nb: \x1b[2J")
    assert not has_controls(shown) and "<script>" not in shown and "a: 1\nb:" in shown


def test_lists_of_names_in_messages():
    assert not has_controls(_abbreviated([EVIL, "b"]))


@pytest.mark.parametrize("where", ["name", "logger", "key"])
def test_a_configuration_has_none(tmp_path, capsys, where):
    text = {
        "name": r'name: "\e[2J"',
        "logger": r'trainer.logger: {class_path: CSVLogger, init_args: {name: "\e[2J"}}',
        "key": r'"\e[2J": 1',
    }
    (tmp_path / "a.yaml").write_text(text[where])
    assert main(["fit", "--config", "demo", "--config", str(tmp_path / "a.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no control characters" in line and not has_controls(line)


def test_names_of_runs_and_files_in_errors(tmp_path, capsys):
    with pytest.raises(ValueError, match="no control characters"):
        locate("runs", "\x1b[2J", None)
    assert main(["report", str(tmp_path / "\x1b[2J")]) == 2
    assert main(["report", "a", "b", "\x1b[2J"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["model", "data", "trainer", "model.encoder", "trainer.strategy", "config"]
)
@pytest.mark.parametrize("content", ["secret=1\nroot:x:0:0\n", "- secret\n", "a: [secret\n"])
def test_errors_do_not_print_the_content_of_files_that_options_name(tmp_path, capsys, option, content):
    (tmp_path / "a.yaml").write_text(content)
    path = tmp_path / "a.yaml"
    if option == "config":
        (tmp_path / "b.yaml").write_text(f"variants: {{a: {{config: {path}}}}}")
        path = tmp_path / "b.yaml"
    assert main(["fit", "--config", "demo", f"--{option}", str(path), "--runs", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "secret" not in printed.out + printed.err and "root:" not in printed.err
    assert printed.err.count("tsgen: ") == 1

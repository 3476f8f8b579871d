"""What is printed: one form of tables and of numbers."""

from tsgen.evaluation.columns import COLUMNS, NOT_PRINTED, format_number, printed_columns
from tsgen.evaluation.terminal import print_table


def test_a_table_has_sections_and_says_names_as_they_are(capsys):
    rows = [("[red]a[/red]", "1"), (":smile:", "12345")]
    print_table("[b]T[/b]", ["", "CRPS"], rows, [], [("x", "–")], remarks=["[i]" + "word " * 60])
    shown = capsys.readouterr().out
    for name in ("[b]T[/b]", "[red]a[/red]", ":smile:"):
        assert name in shown
    lines = shown.splitlines()
    # numbers end in the same place, a line is drawn between sections, a remark stays on one line
    assert len({line.rindex("│") for line in lines if "│" in line}) == 1
    assert sum(line.startswith("├") for line in lines) == 1
    assert lines[-1] == "[i]" + "word " * 60


def test_numbers_have_four_digits_and_counts_all_of_theirs():
    shown = [format_number(x) for x in (None, 0.123456, -1234.56, 1234567, 2e-7)]
    assert shown == ["–", "0.1235", "-1235", "1,234,567", "2e-07"]
    assert format_number(2.5, "+") == "+2.5" and format_number(-2.5, "+") == "-2.5"


def test_scores_that_a_row_has_are_printed_but_for_those_of_the_file():
    rows = [
        dict.fromkeys(COLUMNS),
        {"crps": 1.0, "name": "x"},
        dict.fromkeys(NOT_PRINTED, 2.0),
        {"mae": 0.0},
    ]
    assert printed_columns(rows) == {"mae": "MAE", "crps": "CRPS"}

"""Wrong, extreme and random arguments are refused in one line. The benchmark makes 10,000 calls."""

from pathlib import Path

import pytest

from experiments.benchmarks import calls
from tsgen.sampling import SMC

pytestmark = pytest.mark.usefixtures("as_a_user")


def test_calls_with_wrong_arguments_return_or_are_refused_in_one_line():
    counts, findings = calls.run_calls(range(300), seed=20)
    assert not findings
    assert counts["returned"] and counts["refused"] and sum(counts.values()) == 300


def test_every_public_callable_has_valid_arguments():
    # a new one without a recipe is an error here
    names = {public.name for public in calls.surface().values() if calls.prepared(public)}
    assert {"SMC", "SMC.extend", "impute", "load", "GraphSeries.from_xarray", "GraphVAR.log_prob"} <= names


def test_cases_are_the_same_again():
    first, again, other = calls.case(7, 1), calls.case(7, 1), calls.case(7, 2)
    assert (first.public, first.wrong, str(first.arguments)) == (
        again.public,
        again.wrong,
        str(again.arguments),
    )
    assert (first.wrong, str(first.arguments)) != (other.wrong, str(other.arguments))


def raises_raw():
    return [][0]


def raises_in_python():
    return len(3)


def hangs():
    while True:
        pass


def gives_nan():
    return float("nan")


@pytest.mark.parametrize(
    ("function", "kind"),
    [(raises_raw, "raw"), (raises_in_python, "raw"), (hangs, "hang"), (gives_nan, "not finite")],
)
def test_what_goes_wrong_is_found(function, kind, monkeypatch):
    public = calls.Public("f", None, None, function)
    monkeypatch.setattr(calls, "surface", lambda: {"f": public})
    monkeypatch.setattr(calls, "SECONDS", 0.3)
    counts, findings = calls.run_calls([3], seed=1)
    assert counts == {kind: 1} and findings[0][1].startswith(kind)


def test_only_our_own_refusals_count():
    with pytest.raises(ValueError, match="particles") as ours:
        SMC(particles=0)
    with pytest.raises(ValueError, match="invalid literal") as raw:
        int("x")
    with pytest.raises(FileNotFoundError) as of_a_file:
        Path("/nonexistent").read_text()
    assert [calls.is_ours(error.value) for error in (ours, raw, of_a_file)] == [True, False, True]

"""Broken files of every kind are read, or refused in one line. The benchmark runs more cases."""

import pytest

from experiments.benchmarks import fuzz
from tsgen.storage.hdf5 import SIGNATURE


@pytest.mark.parametrize("name", fuzz.READERS)
def test_broken_files_are_read_or_refused_in_one_line(name):
    counts, findings = fuzz.run(name, range(30))
    assert not findings
    assert counts["refused"] and sum(counts.values()) == 30


@pytest.mark.parametrize("name", fuzz.READERS)
def test_the_whole_file_is_read(name):
    assert fuzz.run(name, [0]) == ({"read": 1}, [])


@pytest.mark.parametrize("name", ["netcdf", "hdf5"])
def test_a_file_that_would_hang_its_library_is_refused(name, monkeypatch):
    # netCDF: the whole file has no global heap collection, so one is appended
    whole = fuzz.READERS[name].whole() + SIGNATURE + (64).to_bytes(8, "little") + bytes(48)
    # the first object of the first collection becomes unused and of size zero
    at = whole.index(SIGNATURE) + 16
    hanging = whole[:at] + bytes(16) + whole[at + 16 :]
    monkeypatch.setitem(fuzz.READERS, name, fuzz.READERS[name]._replace(whole=lambda: hanging))
    monkeypatch.setattr(fuzz, "SECONDS", 5)
    assert fuzz.run(name, [0]) == ({"refused": 1}, [])


def test_cases_are_the_same_again_and_the_first_is_whole():
    assert fuzz.case_bytes("csv", 0) == fuzz.CSV.encode()
    assert fuzz.case_bytes("csv", 7) == fuzz.case_bytes("csv", 7) != fuzz.case_bytes("csv", 7, seed=2)
    first = fuzz.case_bytes("checkpoint", 3)
    fuzz._MADE.clear()
    assert fuzz.case_bytes("checkpoint", 3) == first


def ends(folder):
    import os

    os.kill(os.getpid(), 11)


def hangs(folder):
    while True:
        pass


def raises(folder):
    raise KeyError("x")


def raises_several_lines(folder):
    raise ValueError("a\nb")


@pytest.mark.parametrize(
    ("read", "reported"),
    [(ends, "-11"), (hangs, "TooLong"), (raises, "KeyError"), (raises_several_lines, "ValueError")],
)
def test_what_goes_wrong_is_found(read, reported, monkeypatch):
    monkeypatch.setitem(fuzz.READERS, "csv", fuzz.READERS["csv"]._replace(read=read))
    monkeypatch.setattr(fuzz, "SECONDS", 0.3)
    counts, findings = fuzz.run("csv", [3, 4])
    assert [finding.case for finding in findings] == [3, 4] and counts["found"] == 2
    assert all(reported in finding.what for finding in findings)

"""The versions that pyproject.toml allows, and the sets of them that the suite is run with."""

import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import tsgen

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NOT_AT_ITS_BOUND = {"torch"}
"""Whose older releases are too large to install for a test."""


def pins(name: str) -> dict[str, str]:
    """The versions of a file of constraints."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    return [Requirement(text) for text in (*PROJECT["dependencies"], *extras["test"])]


def test_the_oldest_versions_are_the_lower_bounds():
    oldest = pins("constraints-oldest.txt")
    bounds = {r.name.lower(): s.version for r in requirements() for s in r.specifier if s.operator == ">="}
    assert oldest.keys() == bounds.keys()
    higher = {name for name, bound in bounds.items() if Version(oldest[name]) != Version(bound)}
    assert higher == NOT_AT_ITS_BOUND


def test_both_sets_of_versions_are_allowed():
    for name in ("constraints.txt", "constraints-oldest.txt"):
        pinned = pins(name)
        for requirement in requirements():
            version = pinned.get(requirement.name.lower())
            assert version is None or requirement.specifier.contains(version), (name, requirement)


def test_the_version_is_the_same_everywhere():
    """The citation names the last release; a version under development is later than it."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    released, ours = Version(citation["version"]), Version(tsgen.__version__)
    assert (ours == released or (ours.is_devrelease and ours > released)) and not released.is_devrelease
    assert citation["license"] == PROJECT["license"]
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## [{released}] - {citation['date-released']}" in changes
    assert not ours.is_devrelease or "## [Unreleased]" in changes

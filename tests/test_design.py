"""The documents describe the package as it is: its rooms, their order, and the modules that pages name."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "experiments" / "README.md"]
DOTTED = re.compile(r"(?<![\w./@-])(?:tsgen|experiments|datamodules)(?:\.\w+)+")
PATH = re.compile(r"(?<![\w.-])(?:tsgen|experiments|datamodules|tests|docs)/[\w./-]*\w")


def rooms() -> list[str]:
    """Returns the names in the list of rooms of ``docs/design.md``, high to low."""
    text = (ROOT / "docs" / "design.md").read_text("utf-8").split("\n## Packages\n")[1]
    block = re.search(r"```text\n(.*?)```", text, re.S)
    assert block is not None
    return [line.split()[0] for line in block[1].splitlines()]


def layers() -> list[list[set[str]]]:
    """Returns the layers of each import-linter contract on the rooms, high to low, as sets of names."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"].get("importlinter", {})
    found = []
    for contract in linter.get("contracts", []):
        if contract["type"] != "layers":
            continue
        prefix = "tsgen." if contract.get("containers") == ["tsgen"] else ""
        full = [{prefix + name for name in re.findall(r"[\w.]+", layer)} for layer in contract["layers"]]
        # other contracts are on the insides of a room, or on the packages of a clone
        if all(re.fullmatch(r"tsgen\.\w+", name) for layer in full for name in layer):
            found.append([{name.removeprefix("tsgen.") for name in layer} for layer in full])
    return found


def resolves(name: str) -> bool:
    """Returns whether a dotted name is a module, or an attribute of one."""
    module, _, attributes = name, "", []
    while True:
        try:
            found = import_module(module)
        except ModuleNotFoundError:
            if "." not in module:
                return False
            module, _, last = module.rpartition(".")
            attributes = [last, *attributes]
            continue
        break
    for attribute in attributes:
        if not hasattr(found, attribute):
            return False
        found = getattr(found, attribute)
    return True


def test_the_rooms_are_those_of_the_package():
    there = {f"{path.parent.name}/" for path in (ROOT / "tsgen").glob("*/__init__.py")}
    there |= {path.name for path in (ROOT / "tsgen").glob("*.py")} - {"__init__.py"}
    assert len(rooms()) == len(set(rooms()))
    assert set(rooms()) == there


def test_the_rooms_are_in_the_order_that_the_linter_holds():
    contracts = layers()
    if not contracts:
        pytest.fail("pyproject.toml has no import-linter contract on the rooms")
    order = [name.removesuffix("/").removesuffix(".py") for name in rooms()]
    for contract in contracts:
        rank = {name: level for level, names in enumerate(contract) for name in names}
        levels = [rank[name] for name in order if name in rank]
        assert levels == sorted(levels), [name for name in order if name in rank]
        assert rank.keys() <= set(order), rank.keys() - set(order)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_and_file_that_a_page_names_exists(page):
    text = page.read_text("utf-8")
    text = re.sub(r"https?://[^\s)]+", "", text)
    dotted = {name.removesuffix(".") for name in DOTTED.findall(text)}
    missing = [name for name in sorted(dotted) if not name.endswith((".yaml", ".md")) and not resolves(name)]
    missing += [path for path in sorted(set(PATH.findall(text))) if not (ROOT / path).exists()]
    links = [link.split("#")[0] for link in re.findall(r"\]\(((?!#)[^)\s]+)\)", text)]
    missing += [link for link in links if not (page.parent / link).exists()]
    assert not missing

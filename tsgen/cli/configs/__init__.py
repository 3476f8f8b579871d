"""The shipped configurations: one YAML file is one experiment, or a fragment to combine with one.

Files in this folder are whole experiments. Those in sub-folders are fragments, which set one thing, such as
the encoder, and follow a whole one: ``--config demo --config encoders/gru``. :func:`merge` lets the later one
override the earlier: its values win, and a mapping that names another class replaces the earlier one
completely, so that no argument of the earlier class remains.

Two abbreviations are allowed, as on the command line: a key at the top level may be dotted, and the arguments
of a class may be given without ``init_args`` where the class is known. ``model.encoder.hidden: 64`` is
``model: {init_args: {encoder: {init_args: {hidden: 64}}}}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from tsgen.cli.clone import configurations
from tsgen.cli.yaml_text import check_plain, load_yaml
from tsgen.moved import current
from tsgen.storage.privacy import at_home

FOLDER = Path(str(files(__package__)))
OF_A_CLASS = ("class_path", "init_args", "dict_kwargs")
"""The keys of a mapping that describes an object."""


def shipped() -> dict[str, Path]:
    """Returns the paths of the shipped experiments by their bare names; in a clone also its experiments."""
    folders = [FOLDER, configurations()]
    paths = [path for folder in folders if folder is not None for path in folder.glob("*.yaml")]
    return {path.stem: path for path in sorted(paths, key=lambda path: path.stem)}


def fragments() -> dict[str, Path]:
    """Returns the path of each shipped fragment by its folder and bare name, such as ``encoders/gru``."""
    return {f"{path.parent.name}/{path.stem}": path for path in sorted(FOLDER.glob("*/*.yaml"))}


def find(name: str) -> Path:
    """Returns the path of the configuration with that path or bare name.

    Raises:
        ValueError: If there is none.
    """
    if Path(name).is_file():
        return Path(name)
    known = shipped() | fragments()
    if name in known:
        return known[name]
    raise ValueError(
        f"--config must be a YAML file, one of {', '.join(shipped())}, or a fragment to follow one: "
        f"{', '.join(fragments())}; got {name!r}."
    )


def read(path: Path) -> dict[str, Any]:
    """Returns the options in a YAML file, with ``~`` in paths replaced by the user's home.

    Raises:
        ValueError: If it is not YAML or holds no options.
    """
    try:
        options = load_yaml(path.read_text("utf-8"))
        check_plain(options)
    except (yaml.YAMLError, ValueError) as error:  # text that is not UTF-8 is a ValueError
        raise ValueError(f"{path} must be YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(options, dict):
        raise ValueError(f"{path} must hold options by their names; got {options!r:.60}.")
    return with_current_classes(at_home(options))


def with_current_classes(options: Any) -> Any:
    """Returns the options with the present path of each class that 0.1.0 had elsewhere."""
    if isinstance(options, dict):
        return {key: with_current_classes(value) for key, value in options.items()}
    if isinstance(options, list):
        return [with_current_classes(option) for option in options]
    return current(options) if isinstance(options, str) else options


def apply(options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options overridden by the changes, whose keys may be dotted."""
    result = dict(options)
    for key, value in changes.items():
        for part in reversed(str(key).split(".")):
            value = {part: value}
        result = merge(result, value)
    return result


def merge(earlier: Any, later: Any) -> Any:
    """Returns both combined; the later one wins, and with another class replaces the earlier completely."""
    if not isinstance(later, dict):
        return later
    if isinstance(earlier, str):
        earlier = {"class_path": earlier}  # a class without arguments may be given by its name alone
    another = isinstance(earlier, dict) and _class(earlier) not in (None, _class(later, earlier))
    result = {} if another or not isinstance(earlier, dict) else dict(earlier)
    for key, value in later.items():
        if key not in OF_A_CLASS and _class(later, result):
            key, value = "init_args", {key: value}
        result[key] = merge(result.get(key), value)
    return result


def _class(*mappings: Mapping[str, Any]) -> str | None:
    """Returns the bare name of the class in the first mapping that names one; None without any."""
    paths = [mapping["class_path"] for mapping in mappings if "class_path" in mapping]
    return str(paths[0]).rpartition(".")[2] if paths else None

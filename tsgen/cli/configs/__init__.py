"""The shipped configurations: each YAML file is an experiment or a fragment.

Files in this folder are complete experiments. Those in sub-folders are fragments, which set one building
block, such as the encoder, and follow an experiment: ``--config demo --config encoders/gru``. :func:`merge`
combines
them: later values override earlier ones, and a mapping that names another class replaces the earlier mapping
completely, so that no argument of the earlier class remains.

Two abbreviations are allowed, as on the command line: a key at the top level may be dotted, and the arguments
of a class may be given without ``init_args`` if the class is known. ``model.encoder.hidden: 64`` is
``model: {init_args: {encoder: {init_args: {hidden: 64}}}}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from tsgen.cli.clone import configurations, has_datamodules
from tsgen.cli.yaml_text import check_plain, load_yaml, read_text
from tsgen.moved import current
from tsgen.storage.privacy import at_home

FOLDER = Path(str(files(__package__)))
OF_A_CLASS = ("class_path", "init_args", "dict_kwargs")
"""The keys of a mapping that describes an object."""


def shipped() -> dict[str, Path]:
    """Returns the paths of the shipped experiments, and of those of the clone if any, by bare name."""
    folders = [FOLDER, configurations()]
    paths = [path for folder in folders if folder is not None for path in folder.glob("*.yaml")]
    return {path.stem: path for path in sorted(paths, key=lambda path: path.stem)}


def fragments() -> dict[str, Path]:
    """Returns the paths of the shipped fragments by folder and bare name, such as ``encoders/gru``."""
    return {f"{path.parent.name}/{path.stem}": path for path in sorted(FOLDER.glob("*/*.yaml"))}


def find(name: str) -> Path:
    """Returns the path of a configuration, given its path or its bare name.

    Raises:
        ValueError: If there is no such configuration.
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
        ValueError: If the file is not YAML or contains no options.
    """
    try:
        options = load_yaml(read_text(path))
        check_plain(options)
    except (yaml.YAMLError, ValueError) as error:  # text that is not UTF-8 is a ValueError
        raise ValueError(f"{path} must be YAML: {_reason(error)}.") from error
    if not isinstance(options, dict):
        # a stranger's configuration may name any file of the user: its content is not printed
        raise ValueError(f"{path} must contain a mapping of options; got a {type(options).__name__}.")
    return with_current_classes(at_home(options))


def _reason(error: Exception) -> str:
    """Returns what is wrong with a YAML file, without its lines, which PyYAML's messages quote."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}: {getattr(error, 'problem', None) or 'it cannot be parsed'}"


def with_current_classes(options: Any) -> Any:
    """Returns the options with class paths of version 0.1.0 replaced by the current ones."""
    if isinstance(options, dict):
        return {key: with_current_classes(value) for key, value in options.items()}
    if isinstance(options, list):
        return [with_current_classes(option) for option in options]
    # a user's own package of that name keeps its classes
    own = isinstance(options, str) and options.startswith("datamodules.") and not has_datamodules()
    return current(options) if isinstance(options, str) and not own else options


def apply(options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options overridden by the changes, whose keys may be dotted."""
    result = dict(options)
    for key, value in changes.items():
        for part in reversed(str(key).split(".")):
            value = {part: value}
        result = merge(result, value)
    return result


def merge(earlier: Any, later: Any) -> Any:
    """Returns both combined; the later one overrides the earlier, or replaces it if its class differs."""
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
    """Returns the bare class name of the first mapping that has one, or None."""
    paths = [mapping["class_path"] for mapping in mappings if "class_path" in mapping]
    return str(paths[0]).rpartition(".")[2] if paths else None

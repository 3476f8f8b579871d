"""The shipped configurations: one YAML file is one experiment."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def shipped() -> dict[str, Path]:
    """The path of each shipped configuration by its bare name."""
    return {Path(str(f)).stem: Path(str(f)) for f in files(__package__).iterdir() if f.name.endswith(".yaml")}


def find(name: str) -> Path:
    """The configuration of that path or bare name.

    Raises:
        ValueError: If there is none.
    """
    if Path(name).is_file():
        return Path(name)
    if name in shipped():
        return shipped()[name]
    raise ValueError(
        f"--config must be a YAML file or one of {', '.join(sorted(shipped()))}; {name!r} is neither."
    )

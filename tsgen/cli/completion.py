"""Completion of the words of the command line by Tab, in bash, zsh and fish, if argcomplete is installed.

The shell then runs ``tsgen`` at each Tab, with ``_ARGCOMPLETE`` in the environment, and reads the words that
may follow. ``docs/command_line.md`` has the line that turns it on.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser
from typing import Any

from tsgen.cli.configs import fragments, shipped


def complete_words(parser: ArgumentParser) -> None:
    """Prints the words that may follow, and ends the process, if a shell asks for them.

    Args:
        parser: The parser of the command line.
    """
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def configuration_names(prefix: str, **_: Any) -> list[str]:
    """Returns the shipped configurations and fragments, and the YAML files that begin with a text.

    Args:
        prefix: The text. argcomplete offers only what begins with it.
    """
    from argcomplete.completers import FilesCompleter

    return [*shipped(), *fragments(), *FilesCompleter(["yaml", "yml"])(prefix)]

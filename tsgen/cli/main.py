"""The entry point of the command line: parses the arguments, runs the command, prints errors in one line."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module

from tsgen.cli.interruption import EXIT_CODE, ending_soon, is_interruption, report


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The arguments after ``tsgen``; by default those of the process.

    Returns:
        The exit code: 0; 2 for a user's mistake, which is printed in one line; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with ending_soon(words):
        try:
            return _main(words)
        except BaseException as error:
            if not is_interruption(error):
                raise
    report(words)
    return EXIT_CODE


def _main(words: list[str]) -> int:
    """Parses the arguments, runs the command and returns the exit code."""
    # spinning threads slow each other down on a busy machine; must be set before torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tsgen.cli.arguments import NEXT, RUN_COMMANDS, next_steps, parse
    from tsgen.cli.processes import ending_together
    from tsgen.storage.display import printable

    if words[:1] == ["help"]:  # `help fit` is `fit --help`
        words = [*words[1:], "--help"] if len(words) > 1 else []
    try:
        if not words and "_ARGCOMPLETE" not in os.environ:
            print(NEXT)
            return 0
        given = parse(words)
    except SystemExit:  # after help or the version
        return 0
    except ValueError as error:
        print(printable(f"tsgen: {error}"), file=sys.stderr)
        return 2
    if given.command in RUN_COMMANDS and not (given.config or given.rest):
        print(next_steps(given.command), file=sys.stderr)
        return 2
    with ending_together():
        return _run(given)


def _run(given: Namespace) -> int:
    """Runs a command and returns the exit code."""
    from tsgen.cli.arguments import RUN_COMMANDS
    from tsgen.cli.mistakes import MISTAKES, one_line
    from tsgen.cli.noise import without_font_notes
    from tsgen.storage.display import printable

    module = "run" if given.command in RUN_COMMANDS else given.command
    try:
        with without_font_notes():
            import_module(f"tsgen.cli.{module}").main(given)
    except MISTAKES as error:
        if os.environ.get("TSGEN_TRACEBACK") or is_interruption(error):
            raise
        print(printable(f"tsgen: {one_line(error)}"), file=sys.stderr)
        return 2
    return 0

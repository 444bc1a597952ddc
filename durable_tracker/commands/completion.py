"""`completion`: a script for the shell that completes commands, options and paths. The only importer of shtab."""

from __future__ import annotations

import argparse
from typing import Final

from durable_tracker.commands.exit_codes import Exit
from durable_tracker.commands.output import complain, hand_out

DESCRIPTION: Final = "Print a script that completes the commands, options and paths of durable-tracker in a shell."
EXIT_CODES: Final = "exit codes: 0 printed, 2 usage, or the extra `completion` is not installed, 5 not printed"
SHELLS: Final = ("bash", "zsh", "fish")
_FILES: Final = {"path", "file", "input"}
_DIRECTORIES: Final = {"queue_dir"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to complete")


def run(root: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Print the script for all commands of `root`. Return the exit code."""
    try:
        import shtab  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError:
        complain("completion: needs shtab: pip install 'durable-tracker[completion]'")
        return Exit.USAGE
    for action in (action for one in commands_of(root).values() for action in one._actions):  # noqa: SLF001
        if action.metavar == "FILE" or action.dest in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it
        elif action.metavar == "DIR" or action.dest in _DIRECTORIES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    hand_out(shtab.complete(root, args.shell))
    return Exit.EMPTY


def commands_of(root: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands, by name."""
    groups = [action.choices for action in root._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001 (argparse has no other way to list them)
    return {name: parser for group in groups for name, parser in group.items()}

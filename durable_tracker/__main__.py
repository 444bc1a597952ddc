"""`python -m durable_tracker COMMAND`, also installed as `durable-tracker`."""

from __future__ import annotations

import argparse
import functools
import sys
from typing import TYPE_CHECKING

from durable_tracker import drain
from durable_tracker._version import __version__
from durable_tracker.commands import (
    backlog,
    completion,
    demo,
    export,
    live,
    purge,
    requeue,
    salvage,
    selftest,
    status,
    track,
)
from durable_tracker.commands.examples import end_with_examples
from durable_tracker.commands.exit_codes import EXIT_CODES
from durable_tracker.commands.output import printed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType


def parser_of(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Return what parses a command line; the collector's options are known only to what completes them."""
    parser = argparse.ArgumentParser(
        prog="durable-tracker", description="An event tracker that loses nothing.", epilog=EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"durable-tracker {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module, text in (
        ("track", track, "track events from the shell"),
        ("drain", drain, "deliver what is in the queues"),
        ("status", status, "what is in each queue, also beside its owner"),
        ("demo", demo, "show the promise: kill, outage, lost answers, drain, and count"),
        ("selftest", selftest, "say what can be promised in a queue dir, and try it"),
    ):
        description = getattr(module, "DESCRIPTION", text)
        sub = commands.add_parser(
            name, help=text, description=description, epilog=getattr(module, "EXIT_CODES", EXIT_CODES)
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    backlog.add_commands(commands)
    live.add_commands(commands)
    requeue.add_command(commands)
    purge.add_command(commands)
    for name, text, add_arguments, run in (
        ("export", export.EXPORT, export.add_export_arguments, export.run_export),
        ("import", export.IMPORT, export.add_import_arguments, export.run_import),
    ):
        sub = commands.add_parser(
            name, help=text.split(":", maxsplit=1)[0].lower(), description=text, epilog=export.EXIT_CODES
        )
        add_arguments(sub)
        sub.set_defaults(run=run)
    salvage.add_commands(commands)
    text = "a script for the shell that completes all this"
    sub = commands.add_parser("completion", help=text, description=completion.DESCRIPTION, epilog=completion.EXIT_CODES)
    completion.add_arguments(sub)
    sub.set_defaults(run=functools.partial(completion.run, parser))
    for name, sub in commands.choices.items():
        end_with_examples(sub, name)
    text = "a development collector on loopback; see its --help"
    options = [_collector().parser()] if "completion" in arguments else []
    commands.add_parser("collector", help=text, add_help=False, parents=options)
    return parser


def _collector() -> ModuleType:
    from durable_tracker.collector import __main__ as collector  # noqa: PLC0415 (a server, for this command only)

    return collector


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Return its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)

    def run() -> int:
        if arguments[:1] == ["collector"]:
            code: int = _collector().main(arguments[1:])
        else:
            args = parser_of(arguments).parse_args(arguments)
            code = args.run(args)
        return code

    return printed(" ".join(arguments[:1]) or "durable-tracker", run)


if __name__ == "__main__":
    sys.exit(main())

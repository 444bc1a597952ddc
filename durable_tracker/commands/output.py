"""What the commands print: safe for a terminal, and never a reason to stop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import unicodedata
from typing import TYPE_CHECKING, Any, Final, TextIO

from durable_tracker.commands.exit_codes import Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories of what moves the cursor, turns the direction of text or ends a line."""


class OutputError(Exception):
    """What was asked for could not be printed."""


def printed(command: str, run: Callable[[], int]) -> int:
    """Run a command to its end, that of its output included. Return its exit code, or the one of its output."""
    _stand_in_for_closed_streams()
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()  # --help ends by an exception, and at the exit it would be too late
    except BrokenPipeError:
        give_up(sys.stdout)  # whoever reads the output, such as `head`, has enough
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        complain(f"{command}: interrupted")
        return 128 + signal.SIGINT
    except (OutputError, OSError) as exc:
        give_up(sys.stdout)
        complain(f"{command}: {exc}")
        return Exit.OUTPUT


def _stand_in_for_closed_streams() -> None:
    """Give a stream that was closed (`>&-`), and is None, a descriptor that fails: the next file would get its own."""
    for name, mode, flags in (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_RDONLY)):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))


def say(text: object, stream: TextIO | None = None) -> None:
    """Print a line, by default to stdout.

    What the stream cannot encode is escaped. That nothing can be written there (a full disk, a closed terminal, a
    reader that has gone) is not raised: what the command does is not for its output to decide.
    """
    stream = sys.stdout if stream is None else stream
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
        _write(text, stream)


def complain(text: object) -> None:
    """Print a line to stderr."""
    say(text, sys.stderr)


def hand_out(text: object) -> None:
    """Print a line that was asked for to stdout.

    Raises:
        BrokenPipeError: whoever read stdout has gone, and wants no more.
        OutputError: it cannot be written.
    """
    try:
        _write(text, sys.stdout)
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as exc:
        raise OutputError(f"cannot write to stdout: {getattr(exc, 'strerror', None) or exc}") from None


def _write(text: object, stream: TextIO) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    line = str(text).encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(line, file=stream, flush=True)
    except OSError:
        give_up(stream)
        raise


def give_up(stream: TextIO) -> None:
    """Throw away what is still in a stream's buffer: it would fail again at the exit, with an exit code of its own."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def json_line(report: Any) -> str:
    """Return JSON in which nothing reaches a terminal but what can be seen, and what stdout can encode."""
    return "".join(_visible(json.dumps(report, ensure_ascii=False), sys.stdout.encoding or "utf-8"))


def _visible(text: str, encoding: str) -> Iterator[str]:
    for character in text:
        if (character.isascii() and character.isprintable()) or _is_visible(character, encoding):
            yield character
        else:
            yield json.dumps(character)[1:-1] if character > "\x7f" else f"\\u{ord(character):04x}"


def _is_visible(character: str, encoding: str) -> bool:
    if unicodedata.category(character) in _INVISIBLE:
        return False
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True

"""Which events a command is about, and how they are shown to people."""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.commands.output import complain
from durable_tracker.errors import DamagedQueueError
from durable_tracker.protocol.fields import UNSTRUCT_EVENT_SCHEMA
from durable_tracker.protocol.rendering import REFUSED

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable_tracker.engines.engine import Onlooker, Place
    from durable_tracker.engines.queue import DeadLetter, Row


_BASE64: Final = {"ue_px": "ue_pr", "cx": "co"}
"""Fields in base64, and those that hold the same as JSON text."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What was asked for; None or an empty set asks for nothing in particular."""

    eids: frozenset[str] = frozenset()
    since_ms: int | None = None
    until_ms: int | None = None
    schema: str | None = None
    app_id: str | None = None
    event: str | None = None
    text: str | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> Filter:
        """Return the filter of parsed arguments."""
        return cls(frozenset(args.eid), args.since, args.until, args.schema, args.app_id, args.event, args.grep)

    @property
    def is_open(self) -> bool:
        """Whether every event passes."""
        return self == Filter()

    def passes(self, payload: bytes) -> bool:
        """Return whether an event is asked for. One that is no JSON object passes only if every event does."""
        if self.is_open:
            return True
        fields = fields_in(payload)
        if fields is None:
            return False
        time_ms = _integer(fields.get("dtm"))
        passes = (
            (not self.eids or fields.get("eid") in self.eids)
            and (self.since_ms is None or (time_ms is not None and time_ms >= self.since_ms))
            and (self.until_ms is None or (time_ms is not None and time_ms < self.until_ms))
            and (self.app_id is None or fields.get("aid") == self.app_id)
            and (self.event is None or fields.get("e") == self.event)
        )
        if not passes or (self.schema is None and self.text is None):
            return passes
        shown = readable(fields)
        return (self.schema is None or (schema_of(shown) or "").startswith(self.schema)) and (
            self.text is None or self.text in json.dumps(shown, ensure_ascii=False)
        )


class Choice:
    """Which events a command acts on: those that are named by key or id, if any are, and that the filters let pass.

    It takes note of which of those that are named were found.

    Args:
        args: parsed arguments. With --stdin the names are read at once, of which an integer is a key.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        chosen = Filter.of(args)
        lines = _lines() if getattr(args, "stdin", False) else []
        keys = {int(line) for line in lines if _KEY.fullmatch(line)}
        self._keys = keys | set(args.key)
        self._eids = chosen.eids | {line for line in lines if line and not _KEY.fullmatch(line)}
        self._filter = replace(chosen, eids=frozenset())
        self._about = {
            name: value for name in ("reason", "status", "kind") if (value := getattr(args, name)) is not None
        }
        self._names_events = bool(self._keys or self._eids or getattr(args, "stdin", False))
        self._missing: set[int | str] = {*self._keys, *self._eids}

    @property
    def is_open(self) -> bool:
        """Whether every event is asked for."""
        return not self._names_events and not self._about and self._filter.is_open

    @property
    def has_keys(self) -> bool:
        """Whether events are named by keys."""
        return bool(self._keys)

    @property
    def is_about_letters(self) -> bool:
        """Whether it asks for what only dead letters have."""
        return bool(self._keys or self._about)

    def takes(self, event: Row | DeadLetter) -> bool:
        """Return whether an event is asked for."""
        names = self._names_of(event) if self._names_events else set[int | str]()
        if self._names_events and not names:
            return False
        if not all(_ABOUT[name](event, value) for name, value in self._about.items()):
            return False
        if not self._filter.passes(event.payload):
            return False
        self._missing -= names
        return True

    def _names_of(self, event: Row | DeadLetter) -> set[int | str]:
        """Return those of the names that are this event's."""
        names: set[int | str] = {key for key in (event.key,) if key in self._keys}
        if self._eids:
            eid = (fields_in(event.payload) or {}).get("eid")
            names |= {eid} & self._eids if isinstance(eid, str) else frozenset[str]()
        return names

    def say_missing(self, noun: str) -> bool:
        """Say which of those that are named were not found. Return whether there is one."""
        for option, kind in (("--key", int), ("--eid", str)):
            missing = sorted(str(name) for name in self._missing if isinstance(name, kind))
            more = f" and {len(missing) - _SHOWN_MAX} more" if len(missing) > _SHOWN_MAX else ""
            if missing:
                complain(f"{option} {' '.join(missing[:_SHOWN_MAX])}{more}: no {noun} has it")
        return bool(self._missing)


def _lines() -> list[str]:
    """Return the lines of standard input."""
    return [line.strip().decode("utf-8", "backslashreplace") for line in sys.stdin.buffer]


_KEY: Final = re.compile(r"-?[0-9]{1,19}")
_SHOWN_MAX: Final = 10
_ABOUT: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "reason": lambda letter, text: text in letter.reason,
    "status": lambda letter, status: letter.status == status,
    "kind": lambda letter, kind: letter.kind == kind,
}


def add_letter_filters(parser: argparse.ArgumentParser) -> None:
    """Let the user say which dead letters a command is about."""
    parser.add_argument(
        "--key", type=int, action="append", default=[], help="a dead letter's key in its queue; repeatable"
    )
    parser.add_argument("--reason", metavar="TEXT", help="with this text in the reason")
    parser.add_argument("--status", type=int, help="refused with this HTTP status")
    parser.add_argument("--kind", choices=("refused", "invalid", "damaged"), help="set aside for that")


def add_filters(parser: argparse.ArgumentParser, *, with_stdin: bool = False) -> None:
    """Let the user say which events a command is about, and perhaps name them by lines of standard input."""
    group = parser.add_argument_group("which events")
    group.add_argument("--eid", action="append", default=[], help="of this id; repeatable")
    if with_stdin:
        group.add_argument("--stdin", action="store_true", help="of the ids, or the keys, in the lines of stdin")
    group.add_argument(
        "--since", type=moment, metavar="TIME", help="tracked then or later: 2026-11-25T14:00, or with a zone"
    )
    group.add_argument("--until", type=moment, metavar="TIME", help="tracked before then")
    group.add_argument("--schema", help="self-describing, of a schema that begins like this: iglu:com.acme/")
    group.add_argument("--app-id", help="of this application (aid)")
    group.add_argument("--event", metavar="CODE", help="of this code: pv, pp, se, ue, tr, ti")
    group.add_argument("--grep", metavar="TEXT", help="with this text in it, as shown")


def moment(text: str) -> int:
    """For argparse: an ISO time, in UTC unless it has a zone. Return milliseconds since 1970."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no time such as 2026-11-25T14:00") from None
    return round((time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp() * 1000)


def check_all_was_read(place: Place, onlooker: Onlooker) -> None:
    """See that no row was passed by of those that were read.

    Raises:
        DamagedQueueError: some were.
    """
    passed_by = getattr(onlooker, "damaged", 0) + getattr(onlooker, "locked", 0)
    if passed_by:
        why = "they are altered, or only a newer release can read them"
        raise DamagedQueueError(f"{place.name}: rows left out: {passed_by}; {why}")


def fields_in(payload: bytes) -> dict[str, Any] | None:
    """Return an event's fields, None if it is no JSON object."""
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def readable(fields: dict[str, Any]) -> dict[str, Any]:
    """Return an event's fields with what they hold as JSON or in base64 as JSON, under the names of the plain ones."""
    shown: dict[str, Any] = {}
    for name, value in fields.items():
        plain = _BASE64.get(name, name)
        if not isinstance(value, str) or plain not in _BASE64.values():
            shown[name] = value
            continue
        try:
            text = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)) if plain != name else value
            shown[plain] = json.loads(text, parse_constant=str)  # NaN, of which no JSON can be made
        except (ValueError, RecursionError):
            shown[name] = value
    return shown


def schema_of(shown: dict[str, Any]) -> str | None:
    """Return the schema of a self-describing event, as `readable` has it; None of another."""
    content = shown.get("ue_pr")
    schema = content.get("schema") if isinstance(content, dict) else None
    if REFUSED not in shown or schema == UNSTRUCT_EVENT_SCHEMA:  # at the door nothing may be around it yet
        inner = content.get("data") if isinstance(content, dict) else None
        schema = inner.get("schema") if isinstance(inner, dict) else None
    return schema if isinstance(schema, str) else None


def _integer(value: object) -> int | None:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else None

"""The schemas by which self-describing data is judged. The only importer of fastjsonschema.

The schemas of the protocol ship with the package; a user's own are read from directories. Compiled schemas
are the only state, so that every function may be called from any thread.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

IGLU: Final = re.compile(
    r"iglu:([a-zA-Z0-9_.-]+)/([a-zA-Z0-9_-]+)/([a-zA-Z0-9_-]+)/([1-9][0-9]{0,9}(?:-(?:0|[1-9][0-9]{0,9})){2})"
)
"""A schema's address: vendor, name, format, version; to be matched in full."""
_SCHEMA_DIR: Final = Path(__file__).parent.parent / "protocol" / "schemas"
_DRAFT_4: Final = "http://json-schema.org/draft-04/schema#"
# What each version of payload_data added to the one before.
_PAYLOAD_DATA_ADDED: Final = {"1-0-1": {"ua"}, "1-0-2": {"tnuid"}, "1-0-3": {"stm", "sid"}, "1-0-4": {"ttm"}}


class Registry:
    """The schemas by which self-describing data is judged: those of this package, and the user's.

    Data under a well-formed `iglu:` address that no schema is known for is accepted, since the schema may
    well be in a registry that this process cannot see; with `strict` it is refused, as Snowplow refuses what
    it cannot resolve.

    Args:
        strict: refuse data whose schema is unknown.
        directories: searched, with all below them, for self-describing JSON Schemas of any file name.

    Raises:
        ConfigurationError: a directory is missing, or a `.json` file in it is not a self-describing JSON
            Schema.
    """

    def __init__(self, *, strict: bool = False, directories: Iterable[Path] = ()) -> None:
        self._strict = strict
        self._own: dict[str, dict[str, Any]] = {}
        self._checks: dict[str, Callable[[Any], Any]] = {}
        for directory in directories:
            if not directory.is_dir():
                raise ConfigurationError(f"schemas: {directory} is not a directory")
            for file in sorted(path for path in directory.rglob("*") if path.is_file()):
                self._load(file)

    def _load(self, file: Path) -> None:
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            block = document["self"]
            uri = f"iglu:{block['vendor']}/{block['name']}/{block['format']}/{block['version']}"
        except (ValueError, LookupError, TypeError) as exc:
            if file.suffix != ".json":
                return
            raise ConfigurationError(f"schemas: {file} is not a self-describing JSON Schema: {exc!r}") from None
        self._own[uri] = document

    def document(self, uri: str) -> dict[str, Any] | None:
        """Return the schema at an `iglu:` address, or None if there is none."""
        return self._own.get(uri) or _shipped(uri)

    def check(self, uri: str, data: Any) -> str | None:
        """Return what is wrong with `data` under the schema at `uri`, or None if nothing is."""
        check = self._checks.get(uri)
        if check is None:
            document = self._own.get(uri)
            found = _compile(document) if document else _shipped_check(uri)
            if found is None:
                return f"{uri}: no such schema" if self._strict else None
            check = self._checks[uri] = found
        try:
            check(data)
        except ValueError as exc:  # fastjsonschema's own error is one
            return f"{uri}: {exc}"
        except RecursionError:
            return f"{uri}: nested too deeply"
        return None


def _compile(document: dict[str, Any]) -> Callable[[Any], Any]:
    definition = {**document, "$schema": _DRAFT_4}
    check: Callable[[Any], Any] = checker().compile(definition, use_default=False)
    return check


def checker() -> Any:
    """Return the library that compiles schemas. It is of the extra `collector`: nothing but judging events needs it.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        # Here, so that importing the module is light: only a collector that judges pays for the library.
        import fastjsonschema  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigurationError(
            f"judging events by their schemas needs fastjsonschema ({exc}): "
            "run pip install 'durable-tracker[collector]', or give --no-validate (validate=False)"
        ) from None
    return fastjsonschema


@lru_cache(maxsize=256)
def _shipped(uri: str) -> dict[str, Any] | None:
    match = IGLU.fullmatch(uri)
    if match is None or match[3] != "jsonschema":
        return None
    vendor, name, _, version = match.groups()
    older = name == "payload_data" and version in {"1-0-0", *_PAYLOAD_DATA_ADDED}
    file = _SCHEMA_DIR / f"{vendor}.{name}.{'1-0-4' if older else version}.json"
    if not file.is_file():
        return None
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if older:
        later = {key for added, keys in _PAYLOAD_DATA_ADDED.items() if added > version for key in keys}
        properties = document["items"]["properties"]
        document["items"]["properties"] = {key: properties[key] for key in properties if key not in later}
        document["self"]["version"] = version
    return document


@lru_cache(maxsize=256)
def _shipped_check(uri: str) -> Callable[[Any], Any] | None:
    document = _shipped(uri)
    return _compile(document) if document else None

"""An event that was refused, as text that can be kept: whatever its values are, and never larger than 64 KiB.

It has the form of a payload, a JSON object of text, so that it can be mended and put back: by whoever does that, who
then removes what says why it was refused. What is only text of a value, or was cut, is never sent unseen. What calls
code of the caller's own, such as `str(value)`, is called at most once a value, and what it raises is passed by.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SIZE_MAX: Final = 64 << 10
_TEXT_MAX: Final = 8 << 10
_ITEMS_MAX: Final = 200
_LEVELS_MAX: Final = 12
_CUT: Final = "… (cut)"


REFUSED: Final = "refused"
"""The member that says why. No event has a field of that name: as long as it stands there, nothing passes the door."""


def rendering(fields: Mapping[str, object], reason: str) -> bytes:
    """Return fields as a JSON object of text, in UTF-8; the longest values are cut until it has at most 64 KiB.

    Args:
        fields: values of any kind by their names; containers become JSON text.
        reason: why they were refused.
    """
    texts = {_text(name, 200): _field(value) for name, value in list(fields.items())[:_ITEMS_MAX]}
    texts = {REFUSED: _text(reason, 1000)} | texts
    size_max = _TEXT_MAX
    while len(payload := json.dumps(texts, ensure_ascii=False).encode()) > SIZE_MAX:
        size_max //= 2
        texts = {name: _cut(text, size_max) for name, text in texts.items()}
    return payload


def type_name(value: object) -> str:
    """Return the name of a value's type."""
    return _text(type(value).__name__, 80)


def _field(value: object) -> str:
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(_plain(value, _LEVELS_MAX), ensure_ascii=False, allow_nan=True)[: SIZE_MAX // 4]
    return _text(value, _TEXT_MAX)


def _plain(value: Any, levels: int) -> Any:
    """Return a value as JSON has it, of other types their text, without what is nested too deeply or too much."""
    if value is None or type(value) in (bool, int, float):
        return _text(value, _TEXT_MAX) if type(value) is int and value.bit_length() > 4096 else value  # noqa: PLR2004
    if isinstance(value, (dict, list, tuple)):
        if levels == 0:
            return _CUT
        try:
            if isinstance(value, dict):
                items = list(value.items())[:_ITEMS_MAX]
                return {_text(key, 200): _plain(item, levels - 1) for key, item in items}
            return [_plain(item, levels - 1) for item in list(value)[:_ITEMS_MAX]]
        except Exception:  # noqa: BLE001 - of a subclass, or changed by another thread
            return f"<{type_name(value)}>"
    return _text(value, _TEXT_MAX)


def _text(value: object, size_max: int) -> str:
    for render in (str, repr):
        with contextlib.suppress(Exception):  # the caller's code, which may raise anything
            text = str.__str__(render(value))
            return _cut(text, size_max).encode("utf-8", "backslashreplace").decode()
    return f"<{type(value).__name__}>".encode("ascii", "backslashreplace").decode()


def _cut(text: str, size_max: int) -> str:
    return text if len(text) <= size_max else text[: max(size_max - len(_CUT), 0)] + _CUT

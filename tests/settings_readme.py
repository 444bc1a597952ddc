"""README's table of settings: `python tests/settings_readme.py` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from durable_tracker.settings.table import ARGUMENTS, Argument

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"


def default_of(one: Argument) -> str:
    """Return an argument's default, as code where it is code."""
    text = one.in_words(one.usual)
    if one.default_text:
        return text
    return f"`{text.removesuffix(f' {one.unit}')}`" + (f" {one.unit}" if one.unit else "")


def readme_table() -> str:
    """Return the arguments that the official tracker does not have, and those that belong to a backlog."""
    lines = ["| `Emitter(...)` | default | |", "|---|---|---|"]
    for one in ARGUMENTS.values():
        if not one.is_official or one.is_backlogs:
            meaning = re.sub(r'("\w+"|\bTrue\b|\bFalse\b)', r"`\1`", one.help)
            lines.append(f"| `{one.name}`{' ¹' if one.is_backlogs else ''} | {default_of(one)} | {meaning} |")
    return "\n".join(lines)


def renewed(text: str) -> str:
    """Return README's text with the table as it should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{readme_table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")

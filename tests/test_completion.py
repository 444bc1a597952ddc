"""The scripts for shells: bash completes what the commands know."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from durable_tracker.commands.completion import SHELLS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Complete = Callable[[str], set[str]]

ASK = """
source "$1"; shift
function=$(complete -p durable-tracker); function=${function#*-F }; function=${function%% *}
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
"$function" durable-tracker "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""Has bash do what it does at a tab: call the function that the script has registered, with the words of the line."""


def script(shell: str) -> str:
    command = [sys.executable, "-m", "durable_tracker", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture
def complete(tmp_path: Path) -> Complete:
    """Return what bash offers for the last word of a line, in a directory with a folder and a file."""
    file = tmp_path / "script"
    file.write_text(script("bash"))
    place = tmp_path / "place"
    (place / "queues").mkdir(parents=True)
    (place / "queue.ndjson").touch()

    def complete_(line: str) -> set[str]:
        words = shlex.split(line) + [""] * line.endswith(" ")
        command = ["bash", "--norc", "-c", ASK, "ask", str(file), *words]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return set(done.stdout.split())

    return complete_


def test_bash_completes_commands_options_and_choices(complete: Complete) -> None:
    """Also those of the collector, which has a command line of its own."""
    assert {"track", "drain", "status", "dead-letters", "collector", "completion"} <= complete("durable-tracker ")
    assert complete("durable-tracker st") == {"status"}
    assert complete("durable-tracker status --max-") == {"--max-age", "--max-pending", "--max-dead"}
    assert complete("durable-tracker dead-letters --by ") == {"reason", "schema", "status", "day", "kind"}
    assert complete("durable-tracker completion ") == set(SHELLS)
    assert "--lose-answer" in complete("durable-tracker collector --lo")
    assert complete("durable-tracker demo --chi") == set()


def test_bash_completes_paths_where_one_is_meant(complete: Complete) -> None:
    """Directories alone for a queue dir."""
    assert complete("durable-tracker export --output q") == {"queues", "queue.ndjson"}
    assert complete("durable-tracker import q") == {"queues", "queue.ndjson"}
    assert complete("durable-tracker peek --queue-dir q") == {"queues"}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_of_its_shell(shell: str, tmp_path: Path) -> None:
    """Of zsh and fish only the syntax is seen to, where they are installed."""
    text = script(shell)
    assert {"bash": "complete -o", "zsh": "#compdef durable-tracker", "fish": "complete -c durable-tracker"}[
        shell
    ] in text
    if shutil.which(shell) is not None:
        (tmp_path / "script").write_text(text)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, timeout=60)

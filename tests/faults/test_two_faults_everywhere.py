"""Two faults at once: a kill at each file operation, and then one damage, at places of each kind of SQLite's format."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from .tools import ROOT, preload_environment
from .two_faults import BREAKAGES

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = os.environ.get("CAMPAIGN") == "whole"
"""`make campaign` runs all seeds; `make crash` their first tenth."""


def run(tmp_path: Path, name: str, first: int, count: int, *breakages: str) -> dict[str, Any]:
    """Run the campaign in a process that can have a piece of a file made unreadable."""
    control = tmp_path / "eio"
    control.write_bytes(bytes(24))
    command = [sys.executable, "-m", "tests.faults.two_faults", name, str(first), str(count), *breakages]
    environment = {**preload_environment("eio"), "FAULTS_EIO": str(control)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tally: dict[str, Any] = json.loads(done.stdout)
    print(f"{name}: {tally['images']} images, {len(tally['failures'])} failures, {tally['lost_on_page']} on pages hit")
    return tally


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["queue", "queue:small_wal"])
def test_a_kill_and_a_damage_cost_no_more_than_the_page_that_was_hit(tmp_path: Path, name: str) -> None:
    """Whatever the moment and the place: the rest is kept, nothing altered leaves, and the books are right."""
    tally = run(tmp_path, name, 0, 24 if WHOLE else 4)
    assert tally["failures"] == []
    assert tally["images"] >= (3_000 if WHOLE else 300)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("breakage", sorted(BREAKAGES))
def test_a_broken_variant_is_found_out(tmp_path: Path, breakage: str) -> None:
    """The same seeds and the same judge tell it from a sound store."""
    assert any(run(tmp_path, "queue", first, 2, breakage)["failures"] for first in (0, 2, 4, 6))

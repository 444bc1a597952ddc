"""The page MOVING.md, tried from top to bottom as a new user would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest
from differences import DOCUMENT

from durable_tracker.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROOT = DOCUMENT.parent.parent
TEXT = DOCUMENT.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


def run(program: str, collector: Collector, directory: Path) -> None:
    names = {"HOME": str(directory), "DURABLE_TRACKER_DIR": str(directory / "queues"), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys\ncollector_address = sys.argv[1]\n{program}", collector.url],
        cwd=directory, env=names, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_all_blocks_run_one_after_the_other(collector: Collector, tmp_path: Path) -> None:
    """In one program, with warnings as errors, and what they track arrives for good."""
    assert len(BLOCKS) == TEXT.count("```") // 2
    run("\n".join(BLOCKS), collector, tmp_path)
    good = [row["rawEvent"] for row in collector.good()]
    assert collector.counts() == {"total": len(good), "good": len(good), "bad": 0}
    parameters = [row["parameters"] for row in good]
    assert sorted(wire["e"] for wire in parameters) == ["pv", "pv", "pv", "pv", "pv", "se", "se", "ue"]
    assert [wire["lang"] for wire in parameters if "lang" in wire] == ["en-GB"]
    agents = {row["parameters"].get("url"): row["context"]["useragent"] for row in good}
    assert agents["https://shop.example.com/named"] == "shop/3"


def test_the_page_is_packaged_and_the_readme_links_to_it() -> None:
    """Whoever has installed the package can read it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "MOVING.md" in settings["tool"]["setuptools"]["package-data"]["durable_tracker"]
    assert "(durable_tracker/MOVING.md)" in (ROOT / "README.md").read_text(encoding="utf-8")

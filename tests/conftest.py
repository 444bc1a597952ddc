"""Fixtures that several tests share."""

from __future__ import annotations

import os
from inspect import signature
from typing import TYPE_CHECKING, Any

import pytest

from durable_tracker.delivery import hold
from durable_tracker.engines.memory import MemoryEngine
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI, where everything can be installed, a test that was skipped for want of a tool is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if reporter and os.environ.get("CI") == "true" and skipped and exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"CI: {len(skipped)} tests were skipped, which counts as a failure", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What does not concern SQLite runs on both engines."""
    if "engine" in metafunc.fixturenames:
        is_of_files = (
            metafunc.definition.get_closest_marker("sqlite") or "root" in signature(metafunc.function).parameters
        )
        kinds = ["sqlite"] if is_of_files else ["sqlite", "memory"]
        metafunc.parametrize("engine", kinds, indirect=True)


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The arguments of an emitter that say where its queue is."""
    return {"queue_dir": tmp_path} if request.param == "sqlite" else {"queue": MemoryEngine(tmp_path.name)}


@pytest.fixture(autouse=True)
def _own_queue_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may touch the user's real queues."""
    monkeypatch.setenv("DURABLE_TRACKER_DIR", str(tmp_path / "default-queue-dir"))


@pytest.fixture(autouse=True)
def _own_collectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a collector of another test said about when to come back is not said of one that got its port."""
    monkeypatch.setattr(hold, "_holds", {})


@pytest.fixture
def slot_dir(tmp_path: Path) -> Path:
    """A directory for slots, as an emitter would make it."""
    path = tmp_path / "queues" / "name"
    make_private_directory(path)
    return path


@pytest.fixture
def open_queue(slot_dir: Path) -> Iterator[Callable[..., SqliteQueue]]:
    """Open slot `index` of the test's directory; what is still open at the end is closed."""
    queues: list[SqliteQueue] = []

    def open_(index: int = 0, **settings: object) -> SqliteQueue:
        queue = SqliteQueue.take(Slot(slot_dir, index), **settings)
        queues.append(queue)
        return queue

    yield open_
    for queue in queues:
        queue.close()

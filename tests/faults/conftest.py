"""The process that forks recorded programs, once for each test module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from durable_tracker.engines.sqlite import books

from .campaign import Server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(autouse=True)
def _own_wal_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back the bound of the WAL, which the campaigns on a small one change for their judge."""
    monkeypatch.setattr(books, "WAL_SIZE_MAX", books.WAL_SIZE_MAX)

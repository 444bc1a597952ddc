"""The process that forks recorded programs, once for each test module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .campaign import Server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running

"""What a fork does to queues in files: their locks are held across it, and the child forgets what it inherited.

A fork must not find SQLite's own mutexes locked, so our locks are held across it. The child neither uses nor closes the
parent's connections, and never releases the parent's locks. Some servers fork without these hooks: then the gate of
each queue, which compares the process, is what keeps the child out.
"""

from __future__ import annotations

import _thread
import os
from typing import TYPE_CHECKING, Any, Protocol

from durable_tracker.engines.sqlite import interval_sync

if TYPE_CHECKING:
    from threading import RLock


class Forkable(Protocol):
    """A queue that this process opened."""

    @property
    def lock(self) -> RLock:
        """What guards its connection."""

    @property
    def name(self) -> str:
        """The database's path."""

    def is_inherited(self) -> bool:
        """Return whether another process opened it."""

    def forget(self) -> None:
        """In a child: close what it inherited, and touch nothing else."""


_open: dict[int, Forkable] = {}
_held: dict[int, list[list[Any]]] = {}  # locks by thread, and within it a stack: threads and handlers fork, too


def add(queue: Forkable) -> None:
    """Look after a queue that was opened."""
    _open[id(queue)] = queue


def discard(queue: Forkable) -> None:
    """Look after it no longer."""
    _open.pop(id(queue), None)


def opened_at(name: str) -> Forkable | None:
    """Return the queue of that name that this process has open."""
    return next((queue for queue in list(_open.values()) if queue.name == name and not queue.is_inherited()), None)


def _before() -> None:
    held: list[Any] = []
    _held.setdefault(_thread.get_ident(), []).append(held)
    for queue in list(_open.values()):
        if not queue.is_inherited():  # after a fork that skipped these hooks, nobody frees the locks of the others
            queue.lock.acquire()
            held.append(queue.lock)


def _after_in_parent() -> None:
    for lock in _held[_thread.get_ident()].pop():
        lock.release()


def _after_in_child() -> None:
    _held.clear()
    for queue in list(_open.values()):
        queue.forget()
    _open.clear()
    interval_sync.forget_all()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)

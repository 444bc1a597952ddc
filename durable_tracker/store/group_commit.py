"""One commit, and so one fsync, for all callers that wait at the same moment.

    caller A ──► nobody commits: takes the lock and inserts its own
    caller B ──► somebody commits: joins `_waiting` and sleeps at a gate of its own
    caller C ──► as B
                 A returns ──► wakes B ──► B inserts B and C in one statement ──► both return

There is no leader that others depend on. `_is_busy` only spares callers from queueing at the lock: a stale value costs
a short sleep, never a hang, since whoever wakes up unserved takes the lock and serves itself. In the usual
shape all wait at the lock and find their work done one after the other, which gains little; benchmarks/RESULTS.md has
what this one gains.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from durable_tracker.errors import QueueError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUP_MAX: Final = 256
GROUP_SIZE_MAX: Final = 1 << 20
_RECHECK_S: Final = 0.05


class Store(Protocol):
    """What a group is committed to. All methods are called under the group's lock."""

    def insert_one(self, payload: bytes) -> None:
        """Store one payload."""

    def insert_all(self, payloads: Sequence[bytes], keys: list[int]) -> None:
        """Store all payloads or none. Appends the first payload's key to `keys` before each try."""

    def holds(self, key: int, payload: bytes) -> bool:
        """Return whether `payload` is stored under `key`."""


class _Fate:
    """What became of a group: one assignment, into which no exception out of a signal handler can come."""

    __slots__ = ("is_stored",)

    def __init__(self) -> None:
        self.is_stored = False


class _Waiting:
    """A caller's payload, the gate it sleeps at, and what became of it."""

    __slots__ = ("error", "fate", "gate", "is_failed", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.gate = threading.Lock()
        self.gate.acquire()
        self.fate = _Fate()  # of the group that it was last in
        self.is_failed = False
        self.error: QueueError | None = None

    @property
    def is_done(self) -> bool:
        return self.fate.is_stored or self.is_failed

    def fail(self, error: QueueError) -> None:
        self.error = error
        self.is_failed = True
        self.wake()

    def wake(self) -> None:
        try:
            self.gate.release()
        except RuntimeError:
            return  # it was awake


class GroupCommit:
    """Gathers concurrent `put` calls.

    `put` is thread-safe, and may be called from a signal handler that interrupted another `put`, or any other holder
    of the lock, on the same thread: then it inserts alone and never waits.
    """

    def __init__(self, lock: Any, store: Store) -> None:
        """Make a group over `store`. `lock` is a `threading.RLock`, which is not a type."""
        self._lock = lock
        self._store = store
        self._waiting: deque[_Waiting] = deque()
        self._is_busy = False

    def put(self, payload: bytes) -> None:
        """Store `payload`, alone or with others, and raise what the store raised for it."""
        if not self._is_busy and not self._waiting:
            with self._lock:
                self._is_busy = True
                try:
                    self._store.insert_one(payload)
                finally:
                    self._is_busy = False
            if self._waiting:
                self._wake_next()
        elif self._lock._is_owned():  # noqa: SLF001 (as threading.Condition does)
            self._store.insert_one(payload)
        else:
            self._join(payload)

    def _join(self, payload: bytes) -> None:
        me = _Waiting(payload)
        self._waiting.append(me)
        while not me.is_done:
            if self._is_busy:
                woken = me.gate.acquire(timeout=_RECHECK_S)
                if woken and self._is_busy:
                    continue
            # Either nobody commits, or nobody said so for long: the lock tells.
            if not me.is_done:
                self._serve(me)
        if self._waiting:
            self._wake_next()
        if me.error is not None:
            raise me.error

    def _wake_next(self) -> None:
        while True:
            try:
                waiting = self._waiting.popleft()
            except IndexError:
                return
            if not waiting.is_done:
                self._waiting.appendleft(waiting)
                waiting.wake()
                return

    def _serve(self, me: _Waiting) -> None:
        """Insert everything that waits, `me` included, unless somebody else did so first."""
        with self._lock:
            if me.is_done:
                return
            self._is_busy = True
            try:
                self._commit(self._gather(me))
            finally:
                self._is_busy = False

    def _gather(self, me: _Waiting) -> list[_Waiting]:
        fate = _Fate()
        group = [me]
        size = len(me.payload)
        while len(group) < GROUP_MAX and size < GROUP_SIZE_MAX:
            try:
                waiting = self._waiting.popleft()
            except IndexError:
                break
            if waiting is not me and not waiting.is_done:
                group.append(waiting)
                size += len(waiting.payload)
        for waiting in group:
            waiting.fate = fate
        return group

    def _commit(self, group: list[_Waiting]) -> None:
        keys: list[int] = []
        fate = group[0].fate
        try:
            try:
                self._store.insert_all([waiting.payload for waiting in group], keys)
                fate.is_stored = True
            except QueueFullError:
                # The large ones do not fit; the small ones may.
                keys.clear()
                for waiting in group:
                    self._commit_alone(waiting)
            except QueueError as exc:
                keys.clear()
                # Each caller gets an object of its own: a shared one would gather the tracebacks of all.
                for waiting in group:
                    waiting.fail(type(exc)(*exc.args))
        finally:
            # An exception out of a signal handler passes here too, most often just after the insert. Should it come
            # while the others are woken, they are done all the same, and look by themselves.
            if not fate.is_stored and keys and self._store.holds(keys[-1], group[0].payload):
                fate.is_stored = True
            if fate.is_stored:
                for waiting in group:
                    waiting.wake()
            else:
                self._waiting.extendleft(waiting for waiting in reversed(group) if not waiting.is_done)

    def _commit_alone(self, waiting: _Waiting) -> None:
        waiting.fate = _Fate()
        try:
            self._store.insert_one(waiting.payload)
        except QueueError as exc:
            waiting.fail(exc.with_traceback(None))
        else:
            waiting.fate.is_stored = True
            waiting.wake()

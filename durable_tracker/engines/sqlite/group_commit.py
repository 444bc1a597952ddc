"""One commit, and so one fsync, for all callers that wait at the same moment.

    caller A ──► nobody commits: takes the lock and inserts its own
    caller B ──► somebody commits: joins `_waiting` and sleeps at a gate of its own
    caller C ──► as B
                 A returns ──► wakes B ──► B inserts B and C in one statement, returns ──► wakes C ──► C returns

There is no leader that others depend on. `_committer` only spares callers from queueing at the lock: a stale value
costs some short sleeps, never a hang, since whoever looks in vain for long takes the lock and serves itself. In the
usual shape all wait at the lock and find their work done one after the other, which gains little; another wakes all at
once, and they fight for the GIL. benchmarks/RESULTS.md has what this one gains.
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
_LOOK_S: Final = 0.01
_LOOKS_MAX: Final = 5


class Store(Protocol):
    """What a group is committed to. All methods are called under the group's lock."""

    def insert_one(self, payload: bytes) -> None:
        """Store one payload."""

    def insert_all(self, payloads: Sequence[bytes], keys: list[int]) -> None:
        """Store all payloads or none. Appends the first payload's key to `keys` before each try."""

    def holds(self, key: int, payload: bytes) -> bool:
        """Return whether `payload` is stored under `key`."""


class _Group:
    """Callers whose payloads are inserted together, and what became of them."""

    __slots__ = ("is_stored", "sleepers")

    def __init__(self, sleepers: list[_Waiting]) -> None:
        self.sleepers = sleepers
        self.is_stored = False  # set by one assignment, into which no exception out of a signal handler can come

    def wake_one(self) -> None:
        """Wake one of those that sleep. It wakes another when it leaves."""
        try:
            # The last first: a signal handler's put came after the one that it keeps from leaving.
            while not self.sleepers.pop().wake():
                pass
        except IndexError:
            return


class _Waiting:
    """A caller's payload, the gate it sleeps at, and what became of it."""

    __slots__ = ("error", "gate", "group", "is_failed", "payload", "thread")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.thread = threading.get_ident()
        self.gate = threading.Lock()
        self.gate.acquire()
        self.group = _NOT_YET  # the one that it was last in
        self.is_failed = False
        self.error: QueueError | None = None

    @property
    def is_done(self) -> bool:
        return self.group.is_stored or self.is_failed

    def fail(self, error: QueueError) -> None:
        self.error = error
        self.is_failed = True
        self.wake()

    def wake(self) -> bool:
        """Open the gate. Return whether it was closed."""
        try:
            self.gate.release()
        except RuntimeError:
            return False  # it is awake, or gone
        return True


_NOT_YET: Final = _Group([])


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
        self._committer: int | None = None  # the thread that was the last to go to the lock, until it has left it

    def put(self, payload: bytes) -> None:
        """Store `payload`, alone or with others, and raise what the store raised for it."""
        if self._committer is None and not self._waiting:
            self._committer = me = threading.get_ident()
            try:
                with self._lock:
                    self._store.insert_one(payload)
            finally:
                if self._committer == me:
                    self._committer = None
                if self._waiting:
                    self._wake_next()
        elif self._lock._is_owned():  # noqa: SLF001 (as threading.Condition does)
            self._store.insert_one(payload)
        else:
            self._join(payload)

    def _join(self, payload: bytes) -> None:
        me = _Waiting(payload)
        self._waiting.append(me)
        looks = 0
        try:
            while not me.is_done:
                # Either nobody commits, or only a put that this one, in a signal handler, interrupted; or nobody said
                # so for long, and the lock tells.
                if self._committer in (None, me.thread) or looks == _LOOKS_MAX:
                    self._serve(me)
                elif not me.gate.acquire(timeout=_LOOK_S):
                    looks += 1
        finally:
            me.wake()  # it sleeps no more: who would wake it wakes another
            self._wake_next()  # before the others return, which goes on while that one commits
            if me.is_done:
                me.group.wake_one()
        if me.error is not None:
            raise me.error

    def _wake_next(self) -> None:
        """Let one that waits commit, unless somebody does."""
        if self._committer is None:
            for waiting in self._waiting.copy():
                if not waiting.is_done and waiting.wake():
                    return

    def _serve(self, me: _Waiting) -> None:
        """Insert everything that waits, `me` included, unless somebody else did so first."""
        self._committer = me.thread  # before it has the lock, so that the others do not queue there
        try:
            with self._lock:
                if not me.is_done:
                    self._commit(self._gather(me))
        finally:
            if self._committer == me.thread:
                self._committer = None

    def _gather(self, me: _Waiting) -> list[_Waiting]:
        members = [me]
        size = len(me.payload)
        while len(members) < GROUP_MAX and size < GROUP_SIZE_MAX:
            try:
                waiting = self._waiting.popleft()
            except IndexError:
                break
            if waiting is not me and not waiting.is_done:
                members.append(waiting)
                size += len(waiting.payload)
        return members

    def _commit(self, members: list[_Waiting]) -> None:
        group = _Group(members[1:])
        for waiting in members:
            waiting.group = group
        keys: list[int] = []
        try:
            try:
                self._store.insert_all([waiting.payload for waiting in members], keys)
                group.is_stored = True
            except QueueFullError:
                # The large ones do not fit; the small ones may.
                keys.clear()
                for waiting in members:
                    self._commit_alone(waiting)
            except QueueError as exc:
                keys.clear()
                # Each caller gets an object of its own: a shared one would gather the tracebacks of all.
                for waiting in members:
                    waiting.fail(type(exc)(*exc.args))
        finally:
            # An exception out of a signal handler passes here too, most often just after the insert.
            if not group.is_stored and keys and self._store.holds(keys[-1], members[0].payload):
                group.is_stored = True
            if not group.is_stored:
                self._waiting.extendleft(waiting for waiting in reversed(members) if not waiting.is_done)

    def _commit_alone(self, waiting: _Waiting) -> None:
        waiting.group = _Group([])
        try:
            self._store.insert_one(waiting.payload)
        except QueueError as exc:
            waiting.fail(exc.with_traceback(None))
        else:
            waiting.group.is_stored = True
            waiting.wake()

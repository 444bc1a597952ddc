"""Group commit over a store in memory: who wakes whom, and what becomes of the others when one of them dies."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import pytest

from durable_tracker.engines.sqlite import group_commit
from durable_tracker.engines.sqlite.group_commit import GroupCommit
from durable_tracker.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LONG_S = 20
"""Longer than a thread that was woken takes, and shorter than the suite's timeout."""


class GatedStore:
    """Commits when it is let; keeps what it stored, group by group."""

    def __init__(self) -> None:
        self.groups: list[list[bytes]] = []
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.error: Exception | None = None

    def insert_one(self, payload: bytes) -> None:
        self.insert_all([payload], [])

    def insert_all(self, payloads: Sequence[bytes], keys: list[int]) -> None:
        keys.append(len(self.groups))
        self.begun.release()
        assert self.may_end.acquire(timeout=LONG_S)
        if self.error is not None:
            raise self.error
        self.groups.append(list(payloads))

    def holds(self, key: int, payload: bytes) -> bool:
        return key < len(self.groups) and self.groups[key][0] == payload

    def stored(self) -> list[bytes]:
        return [payload for group in self.groups for payload in group]

    def let(self, commits: int) -> None:
        self.may_end.release(commits)


class Producers:
    """Threads with one put each; what it raised is kept."""

    def __init__(self, group: GroupCommit) -> None:
        self.group = group
        self.threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def start(self, payload: bytes) -> None:
        thread = threading.Thread(target=self._put, args=(payload,), daemon=True)
        self.threads.append(thread)
        thread.start()

    def _put(self, payload: bytes) -> None:
        try:
            self.group.put(payload)
        except BaseException as exc:
            self.errors.append(exc)

    def join(self) -> None:
        for thread in self.threads:
            thread.join(LONG_S)
            assert not thread.is_alive()


@pytest.fixture
def store() -> GatedStore:
    """A store that waits to be let."""
    return GatedStore()


@pytest.fixture
def group(store: GatedStore) -> GroupCommit:
    """A group over the store."""
    return GroupCommit(threading.RLock(), store)


@pytest.fixture
def sleep_soundly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by itself: who is not woken sleeps for ever."""
    monkeypatch.setattr(group_commit, "_LOOK_S", 1000.0)


@pytest.fixture
def on_alarm() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Set what a signal handler does."""
    before = signal.getsignal(signal.SIGALRM)

    def set_action(action: Callable[[], None]) -> None:
        signal.signal(signal.SIGALRM, lambda *_: action())

    yield set_action
    signal.signal(signal.SIGALRM, before)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells."""
    pause = threading.Event()
    for _ in range(LONG_S * 1000):
        if condition():
            return
        pause.wait(0.001)
    pytest.fail("it did not happen")


def start_group(group: GroupCommit, store: GatedStore, size: int) -> Producers:
    """Start a put that is amid its commit, and some that wait for the next."""
    producers = Producers(group)
    producers.start(b"first")
    assert store.begun.acquire(timeout=LONG_S)
    for n in range(size):
        producers.start(b"%d" % n)
    until(lambda: len(group._waiting) == size)
    return producers


@pytest.mark.usefixtures("sleep_soundly")
def test_one_commit_serves_all_that_wait_and_each_wakes_another(group: GroupCommit, store: GatedStore) -> None:
    """Eight puts that came during a commit share the next, and all return though nobody looks by itself."""
    producers = start_group(group, store, 8)
    store.let(2)
    producers.join()
    assert producers.errors == []
    assert [sorted(one) for one in store.groups] == [[b"first"], [b"%d" % n for n in range(8)]]


@pytest.mark.usefixtures("sleep_soundly")
def test_who_committed_a_group_wakes_the_next_that_commits(group: GroupCommit, store: GatedStore) -> None:
    """Two puts came during the second commit: the third has both."""
    producers = start_group(group, store, 2)
    store.let(1)
    assert store.begun.acquire(timeout=LONG_S)
    producers.start(b"2")
    producers.start(b"3")
    until(lambda: len(group._waiting) == 2)
    store.let(2)
    producers.join()
    assert [sorted(one) for one in store.groups] == [[b"first"], [b"0", b"1"], [b"2", b"3"]]


@pytest.mark.usefixtures("sleep_soundly")
def test_no_wake_up_is_lost(group: GroupCommit, store: GatedStore) -> None:
    """Sixteen threads put as fast as they can, and none of them ever sleeps for want of a waker."""
    store.let(16 * 300)

    def work() -> None:
        for n in range(300):
            group.put(b"%d" % n)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
        assert not thread.is_alive()
    assert sorted(b"%d" % n for n in range(300) for _ in range(16)) == sorted(store.stored())


@pytest.mark.usefixtures("sleep_soundly")
def test_an_exception_out_of_a_handler_while_it_waits_strands_nobody(
    group: GroupCommit, store: GatedStore, on_alarm: Callable[[Callable[[], None]], None]
) -> None:
    """The main thread's put dies in its sleep. It is stored at most once, and the others are woken past it."""
    producers = start_group(group, store, 2)

    def interrupt() -> None:
        raise KeyboardInterrupt

    def kill_main() -> None:
        until(lambda: len(group._waiting) == 3)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    on_alarm(interrupt)
    killer = threading.Thread(target=kill_main, daemon=True)
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        group.put(b"main")
    killer.join(LONG_S)
    for n in (2, 3):
        producers.start(b"%d" % n)
    until(lambda: len(group._waiting) == 5)
    store.let(2)
    producers.join()
    assert producers.errors == []
    assert sorted(store.stored()) == [b"0", b"1", b"2", b"3", b"first", b"main"]


@pytest.mark.usefixtures("sleep_soundly")
def test_a_put_in_a_handler_does_not_wait_for_the_put_that_it_interrupted(
    group: GroupCommit, store: GatedStore, on_alarm: Callable[[Callable[[], None]], None]
) -> None:
    """Both sleep on one thread and are in one group: the handler's is woken first, or neither could leave."""
    producers = start_group(group, store, 2)

    def alarm_then_let() -> None:
        until(lambda: len(group._waiting) == 3)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
        until(lambda: len(group._waiting) == 4)
        producers.start(b"2")
        until(lambda: len(group._waiting) == 5)
        store.let(2)

    on_alarm(lambda: group.put(b"handler"))
    helper = threading.Thread(target=alarm_then_let, daemon=True)
    helper.start()
    group.put(b"main")
    helper.join(LONG_S)
    producers.join()
    assert sorted(store.groups[1]) == [b"0", b"1", b"2", b"handler", b"main"]


def test_who_is_not_woken_looks_by_itself(
    group: GroupCommit, store: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that was woken dies before it wakes another: the rest return all the same."""

    def die(_: object) -> None:
        raise KeyboardInterrupt

    producers = start_group(group, store, 4)
    monkeypatch.setattr(group_commit._Group, "wake_one", die)
    store.let(2)
    producers.join()
    assert len(producers.errors) == 4
    assert [sorted(one) for one in store.groups] == [[b"first"], [b"0", b"1", b"2", b"3"]]


def test_a_mark_that_somebody_commits_is_not_trusted_for_long(group: GroupCommit, store: GatedStore) -> None:
    """A thread that left its mark behind costs the next put some short sleeps."""
    group._committer = -1
    store.let(1)
    group.put(b"{}")
    assert store.groups == [[b"{}"]]
    assert group._committer is None


@pytest.mark.usefixtures("sleep_soundly")
def test_a_failed_commit_wakes_all_with_an_error_of_their_own(group: GroupCommit, store: GatedStore) -> None:
    """Five puts fail in two commits: five objects."""
    producers = start_group(group, store, 4)
    store.error = StorageError("no disk")
    store.let(2)
    producers.join()
    assert [type(error) for error in producers.errors] == [StorageError] * 5
    assert len({id(error) for error in producers.errors}) == 5
    assert store.groups == []


@pytest.mark.usefixtures("sleep_soundly")
def test_a_lone_put_that_fails_wakes_the_next(group: GroupCommit, store: GatedStore) -> None:
    """Who waited behind it commits at once."""
    producers = start_group(group, store, 1)
    store.error = StorageError("no disk")
    store.let(1)
    assert store.begun.acquire(timeout=LONG_S)
    store.error = None
    store.let(1)
    producers.join()
    assert len(producers.errors) == 1
    assert store.groups == [[b"0"]]

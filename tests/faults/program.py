"""Runs programs on a store in processes that may be recorded, failed, killed and forked.

`python -m tests.faults.program` is a server: it has imported what it needs, and forks a process for each request, so
that one run costs milliseconds. A request is one line of JSON, the answer another. `--once` runs a single request
in the process itself, for what depends on a whole interpreter.

What the program did and was told is written into the recorder's log as marks, between the operations:

    try I...                 the events I are being put
    ok I...                  put() returned
    err I... REASON          put() raised
    sent K:I...              the collector has answered 2xx for these keys and events
    acked I...               ack() returned
    rejecting I..., rejected I..., requeuing I..., requeued I...: around reject() and requeue()
    purging I..., purged I...: around purge() and purge_dead_letters()
    fail REASON              any other call raised an error of the package
    escaped REASON           a call raised an error that is not of the package
    open, opened             the store is being opened, is open
"""

from __future__ import annotations

import ctypes
import faulthandler
import hashlib
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from durable_tracker.errors import QueueError

from .subjects import Purging, Reviving, Shrinking, subject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from .subjects import Store, Subject

Command = list[Any]

_DEADLINE_S = 60


def payload(number: int) -> bytes:
    """Return the event of that number: mostly small, some larger than a page, all different and without a zero."""
    size = 9000 if number % 29 == 0 else 3000 if number % 7 == 0 else 60 + number % 50
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return b'{"i":%d,"x":"%s"}' % (number, (digest * (size // 64 + 1))[:size].encode())


def number_of(content: bytes) -> int:
    """Return the number of an event, if its bytes are what they were when it was put.

    Raises:
        ValueError: they are not.
    """
    try:
        number = int(content[5 : content.index(b",")])
    except ValueError:
        raise ValueError(f"not an event: {content[:40]!r}") from None
    if payload(number) != content:
        raise ValueError(f"event {number} is altered")
    return number


class Recorder:
    """The preloaded library's functions; does nothing where it is not loaded."""

    def __init__(self) -> None:
        here = ctypes.CDLL(None)
        self._library = here if hasattr(here, "faults_begin") else None

    def begin(self, root: str, log: str) -> None:
        """Record what happens below `root`."""
        if self._library is None:
            raise RuntimeError("the recorder is not loaded")
        if self._library.faults_begin(os.fsencode(root), os.fsencode(log)) != 0:
            raise OSError(f"cannot write {log}")

    def mark(self, text: str) -> None:
        """Write a mark into the log."""
        if self._library is not None:
            data = text.encode()
            self._library.faults_mark(data, ctypes.c_int64(len(data)))

    def inject(self, fault: dict[str, Any]) -> None:
        """Arm a fault: keys `operations` (list of numbers), `suffix`, `nth`, `times`, `error`, `mode`."""
        if self._library is None:
            return
        bits = 0
        for operation in fault.get("operations", ()):
            bits |= 1 << operation
        self._library.faults_inject(
            ctypes.c_uint32(bits),
            os.fsencode(fault.get("suffix", "")),
            ctypes.c_int64(fault.get("nth", 1)),
            ctypes.c_int64(fault.get("times", 1)),
            ctypes.c_int(fault.get("error", 0)),
            ctypes.c_int(fault.get("mode", 0)),
        )


class ForkedChildExit(SystemExit):
    """Unwinds a forked child to the top of its interpreter, so that it exits as any Python process does."""


class Program:
    """Runs commands on a subject's store, and marks what was promised."""

    def __init__(self, chosen: Subject, root: Path, recorder: Recorder, first: int) -> None:
        self._subject = chosen
        self._root = root
        self._recorder = recorder
        self._mark = recorder.mark
        self._next = first
        self._numbering = threading.Lock()
        self._store: Store | None = None

    def run(self, commands: list[Command]) -> None:
        """Run all commands. An error is marked; one that is not of the package has escaped, and is a finding."""
        for name, *arguments in commands:
            try:
                getattr(self, "do_" + name)(*arguments)
            except QueueError as exc:
                self._mark(f"fail {name} {type(exc).__name__}: {exc}")
            except Exception as exc:
                self._mark(f"escaped {name} {type(exc).__name__}: {exc}")
                traceback.print_exc()

    def _opened(self) -> Store:
        if self._store is None:
            self._mark("open")
            self._store = self._subject.open(self._root)
            self._mark("opened")
        return self._store

    def _take(self, count: int) -> list[int]:
        with self._numbering:
            numbers = list(range(self._next, self._next + count))
            self._next += count
        return numbers

    def _put(self, numbers: list[int]) -> None:
        text = " ".join(map(str, numbers))
        try:
            store = self._opened()
        except QueueError as exc:
            self._mark(f"fail open {type(exc).__name__}: {exc}")
            return
        self._mark("try " + text)
        try:
            if len(numbers) == 1:
                store.put(payload(numbers[0]))
            else:
                store.put_many([payload(number) for number in numbers])
        except QueueError as exc:
            self._mark(f"err {text} {type(exc).__name__}: {exc}")
        else:
            self._mark("ok " + text)

    # ---- commands

    def do_open(self) -> None:
        self._opened()

    def do_put(self, count: int) -> None:
        for number in self._take(count):
            self._put([number])

    def do_put_many(self, count: int) -> None:
        self._put(self._take(count))

    def do_deliver(self, count: int) -> None:
        store = self._opened()
        rows = store.peek(0, count, 1 << 30)
        if not rows:
            return
        keys = [row.key for row in rows]
        sent = "sent " + " ".join(f"{row.key}:{number_of(row.payload)}" for row in rows)
        if not self._subject.acks_before_answer:
            self._mark(sent)
        store.ack(keys)
        if self._subject.acks_before_answer:
            self._mark(sent)
        self._mark("acked " + " ".join(str(number_of(row.payload)) for row in rows))

    def do_reject(self, count: int) -> None:
        store = self._opened()
        rows = store.peek(0, count, 1 << 30)
        if not rows:
            return
        text = " ".join(str(number_of(row.payload)) for row in rows)
        self._mark("rejecting " + text)
        store.reject([row.key for row in rows], 400, "refused")
        self._mark("rejected " + text)

    def do_requeue(self, count: int) -> None:
        """Move dead letters back into the queue, if the store can."""
        store = self._opened()
        if not isinstance(store, Reviving):
            return
        letters = store.dead_letters(count)
        if not letters:
            return
        text = " ".join(str(number_of(letter.payload)) for letter in letters)
        self._mark("requeuing " + text)
        store.requeue([letter.key for letter in letters])
        self._mark("requeued " + text)

    def do_purge(self, count: int) -> None:
        """Remove pending events, if the store can."""
        store = self._opened()
        if isinstance(store, Purging) and (rows := store.peek(0, count, 1 << 30)):
            self._purge(store.purge, [row.key for row in rows], [row.payload for row in rows])

    def do_purge_dead_letters(self, count: int) -> None:
        """Remove dead letters, if the store can."""
        store = self._opened()
        if isinstance(store, Purging) and (letters := store.dead_letters(count)):
            keys, payloads = [letter.key for letter in letters], [letter.payload for letter in letters]
            self._purge(store.purge_dead_letters, keys, payloads)

    def _purge(self, act: Callable[[Sequence[int]], int], keys: Sequence[int], payloads: Sequence[bytes]) -> None:
        text = " ".join(str(number_of(content)) for content in payloads)
        self._mark("purging " + text)
        act(keys)
        self._mark("purged " + text)

    def do_shrink(self) -> None:
        """Give free pages back to the file system, if the store can."""
        store = self._opened()
        if isinstance(store, Shrinking):
            store.shrink()

    def do_close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def do_reopen(self) -> None:
        self.do_close()
        self._opened()

    def do_crash(self) -> None:
        os._exit(0)

    def do_inject(self, fault: dict[str, Any]) -> None:
        self._recorder.inject(fault)

    def do_sleep(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    def do_paced(self, count: int, seconds: float) -> None:
        for _ in range(count):
            self.do_put(1)
            threading.Event().wait(seconds / count)

    def do_threads(self, count: int, each: int) -> None:
        self._opened()
        threads = [threading.Thread(target=self.do_put, args=(each,)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def do_fork(self, hook: bool, how: str) -> None:
        """Fork a child that never touches the store; `how`: it exits ordinarily, or at once."""
        self._opened()
        pid = os.fork() if hook else ctypes.PyDLL(None).fork()
        if pid == 0:
            if how == "exit":
                raise ForkedChildExit(0)
            os._exit(0)
        os.waitpid(pid, 0)

    def do_interrupted(self, way: str, deliver: bool, limit: int = 5000) -> None:
        """Interrupt a put at each of its byte codes in turn, as a signal handler can.

        `way`: the handler puts an event itself ("put"), or raises KeyboardInterrupt ("raise"). `deliver`: everything
        is delivered after each interruption.
        """
        store = self._opened()
        package = str(Path(sys.modules[type(store).__module__].__file__ or "").parent)
        for at in range(1, limit):
            number, nested = self._take(2)
            if not self._interrupt_once(package, number, nested, at, way):
                break
            if deliver:
                self.do_deliver(10)  # a key that is free again must not be given out again
        else:
            self._mark("fail interrupted RuntimeError: a put has more byte codes than the limit")
        self.do_put(3)

    def _interrupt_once(self, package: str, number: int, nested: int, at: int, way: str) -> bool:
        store = self._opened()
        seen = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal seen
            if not frame.f_code.co_filename.startswith(package):
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                seen += 1
                if seen == at:
                    sys.settrace(None)
                    if way == "raise":
                        raise KeyboardInterrupt
                    self._put([nested])
            return trace

        self._mark(f"try {number}")
        content = payload(number)
        # From 3.12 on byte codes are traced only if some frame has asked for it before the trace is set.
        sys._getframe().f_trace_opcodes = True
        try:
            sys.settrace(trace)
            store.put(content)
        except KeyboardInterrupt:
            sys.settrace(None)
            self._mark(f"interrupted {number}")
        except QueueError as exc:
            sys.settrace(None)
            self._mark(f"err {number} {type(exc).__name__}: {exc}")
        else:
            sys.settrace(None)
            self._mark(f"ok {number}")
        return seen >= at

    def do_signals(self, count: int, interval_us: int) -> None:
        """Put `count` events while a timer's handler puts others."""

        def handle(_signal: int, _frame: FrameType | None) -> None:
            self._put(self._take(1))

        self._opened()
        before = signal.signal(signal.SIGPROF, handle)
        signal.setitimer(signal.ITIMER_PROF, interval_us / 1e6, interval_us / 1e6)
        try:
            self.do_put(count)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)


def _run(request: dict[str, Any]) -> None:
    recorder = Recorder()
    root = Path(request["root"])
    recorder.begin(str(root), request["log"])
    os.close(os.open(root, os.O_RDONLY | os.O_DIRECTORY))  # tells the log which inode the root is
    if "fault" in request:
        recorder.inject(request["fault"])
    program = Program(subject(request["subject"]), root, recorder, request.get("first", 1))
    program.run(request["commands"])
    recorder.mark("end")


def _wait(pid: int, deadline_s: float) -> int:
    """Wait for a child; if it hangs, have it say where, and end it with all that it forked."""
    descriptor = os.pidfd_open(pid)
    try:
        if not select.select([descriptor], [], [], deadline_s)[0]:
            os.kill(pid, signal.SIGABRT)
            select.select([descriptor], [], [], 5)
            os.killpg(pid, signal.SIGKILL)
    finally:
        os.close(descriptor)
    return os.waitpid(pid, 0)[1]


def _serve() -> None:
    for line in sys.stdin.buffer:
        request = json.loads(line)
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            os.dup2(os.open(request["log"] + ".stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
            _run(request)
            os._exit(0)
        status = _wait(pid, request.get("deadline_s", _DEADLINE_S))
        answer = {"status": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started}
        os.write(1, json.dumps(answer).encode() + b"\n")


def main() -> None:
    """Serve requests until standard input ends."""
    faulthandler.enable()
    if "--once" in sys.argv[1:]:
        _run(json.loads(sys.stdin.buffer.readline()))
    else:
        importlib.import_module(".real", __package__)  # once, instead of in each run
        try:
            _serve()
        except SystemExit:  # a forked child, on its way out
            raise
        except BaseException:
            if os.getppid() != int(os.environ["FAULTS_HARNESS"]):  # a forked child failed: its parent lives
                traceback.print_exc()
                os._exit(3)
            raise


if __name__ == "__main__":
    main()

"""Processes that put into stores of their own, all at the same moment."""

from __future__ import annotations

import multiprocessing
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

from benchmarks.stores import contender

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

    from benchmarks.stores import Level, Store

_HEAD_START_S = 0.02


def _serve(pipe: Connection) -> None:
    store: Store | None = None
    while True:
        order = pipe.recv()
        if order[0] == "open":
            _, name, level, directory = order
            store = contender(name, level).open(directory)
            pipe.send(None)
        elif order[0] == "put" and store is not None:
            _, payload, count, start_at = order
            while perf_counter() < start_at:  # the clock is the same in all processes
                pass
            failed = 0
            for _ in range(count):
                try:
                    store.put(payload)
                except Exception:
                    failed += 1
            pipe.send((perf_counter(), failed))
        elif order[0] == "close" and store is not None:
            store.close()
            store = None
            pipe.send(None)
        else:
            return


class Workers:
    """A number of processes, started afresh and not forked. A context manager."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there,), daemon=True)
            process.start()
            there.close()  # so that a process that dies is an EOFError here, not a wait for ever
            self._pipes.append(here)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for pipe in self._pipes:
            pipe.send(("end",))
        for process in self._processes:
            process.join()

    def open(self, name: str, level: Level, directory: Path, processes: int) -> None:
        """Let the first `processes` of them open a contender in one directory."""
        for pipe in self._pipes[:processes]:
            pipe.send(("open", name, level, directory))
            pipe.recv()

    def put(self, payload: bytes, count: int, processes: int) -> tuple[float, int]:
        """Let each put `count` events. Return events per second, of all together, and how many puts failed."""
        start_at = perf_counter() + _HEAD_START_S
        for pipe in self._pipes[:processes]:
            pipe.send(("put", payload, count, start_at))
        ends = [pipe.recv() for pipe in self._pipes[:processes]]
        failed = sum(failed for _, failed in ends)
        return (count * processes - failed) / (max(end for end, _ in ends) - start_at), failed

    def close(self, processes: int) -> None:
        """Let them close what they opened."""
        for pipe in self._pipes[:processes]:
            pipe.send(("close",))
            pipe.recv()

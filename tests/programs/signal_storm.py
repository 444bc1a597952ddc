"""Track in signal handlers that interrupt each other, beside threads that track."""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import Any

from prelude import GIVEN, make, note, track

from durable_tracker.engines.sqlite import connection

if GIVEN["replaces_rows"]:  # a broken variant: what is put under a key that exists takes its place
    connection._INSERT_ONE = connection._INSERT_ONE.replace("INSERT", "INSERT OR REPLACE")  # type: ignore[misc]
sys.setswitchinterval(1e-4)
t = make(durability=GIVEN["durability"], drain=GIVEN["drain"])
over = threading.Event()


def produce(name: Any) -> None:
    n = 0
    while not over.is_set():
        track(t, f"{name}-{n}")
        n += 1
        time.sleep(0.0005)


producers = [threading.Thread(target=produce, args=(f"thread{n}",), daemon=True) for n in range(2)]
for producer in producers:
    producer.start()

handled = depth = 0
armed = False


def handler(number: Any, frame: Any) -> None:
    global handled, armed, depth
    handled += 1
    mine = handled
    depth += 1
    try:
        if depth < 3 and mine % 3 == 0:
            signal.setitimer(signal.ITIMER_REAL, 0.00005)  # the next one interrupts this one
        track(t, f"handler-{mine}")
    finally:
        depth -= 1
        if depth == 0:
            signal.setitimer(signal.ITIMER_REAL, 0.00002 + mine % 50 * 0.000002)
    if armed and GIVEN["raises"] and depth == 0 and mine % 3 == 0:
        armed = False
        raise KeyboardInterrupt


signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001)
main = interrupted = 0


def track_on() -> None:
    global main, armed
    armed = True
    while handled < GIVEN["count"]:
        main += 1
        track(t, f"main-{main}")
    armed = False


while handled < GIVEN["count"]:
    try:
        track_on()  # a frame of its own: from 3.13 on a loop's jump is not always within the `try` around it
    except KeyboardInterrupt:
        interrupted += 1
    except SystemError as exc:
        # up to Python 3.11.2 os.fstat goes on computing with what a handler raised amid it, and lets the next handler
        # run before it tells; the interpreter then raises this in that one
        if not isinstance(exc.__cause__, KeyboardInterrupt):
            raise
        interrupted += 1
signal.signal(signal.SIGALRM, lambda *_: None)
over.set()
for producer in producers:
    producer.join(20)
    assert not producer.is_alive()
note(f"interrupted {interrupted}")
t.close()

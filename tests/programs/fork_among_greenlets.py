"""Fork and track under gevent's patches, made before or after the import of the package."""

from __future__ import annotations

import json
import os
import sys
import warnings


def patch() -> None:
    import gevent.monkey

    warnings.simplefilter("ignore")
    gevent.monkey.patch_all()


if json.loads(os.environ["GIVEN"])["patch"] == "before":
    patch()

from prelude import make, reap, track, track_some  # noqa: E402 (after the patches)

patch()

import gevent  # noqa: E402 (not before the package)


def produce(name: str) -> None:
    for n in range(30):
        track(t, f"{os.getpid()}-{name}-{n}")
        gevent.sleep(0)


t = make(linger=0.01)
greenlets = [gevent.spawn(produce, f"greenlet{n}") for n in range(4)]
gevent.sleep(0)
track(t, "first")
pid = os.fork()
gevent.joinall(greenlets, timeout=20)
track_some(t, str(pid), 10)
if pid == 0:
    assert t.flush(timeout=10)
    assert t.close()
    sys.exit(0)
assert reap(pid) == 0
assert t.flush(timeout=10)
assert t.close()

"""Put an event whose sending hangs for ever, and exit. Takes the queue dir and the event as its arguments."""

from __future__ import annotations

import sys
import threading

from durable_tracker import Emitter


class Mine(Emitter):
    def http_post(self, data: str) -> int:
        print("called", flush=True)
        threading.Event().wait()
        return 200


emitter = Mine("c.invalid", queue_dir=sys.argv[1], name="n", linger=0.0, shutdown_timeout=0.5)
emitter.put(sys.argv[2].encode())

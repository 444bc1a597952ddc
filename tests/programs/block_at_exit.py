"""Put into a full queue that blocks, after the package's exit handler has run. Takes the queue dir as its argument."""

import atexit
import sys


def late() -> None:
    """Run after the package's own handler, since it is registered before it."""
    try:
        for _ in range(3):
            emitter.put(b"{}")
    except QueueError as exc:
        print(type(exc).__name__, flush=True)


atexit.register(late)

from durable_tracker import Emitter, QueueError  # noqa: E402 (after the handler)
from durable_tracker.delivery.transport import Reply  # noqa: E402


class Accepting:
    """A healthy collector."""

    def send(self, _events: object) -> Reply:
        """Take everything."""
        return Reply(status=200)

    def close(self) -> None:
        """Do nothing."""


emitter = Emitter("h.example", queue_dir=sys.argv[1], transport=Accepting(), on_full="block", buffer_capacity=2)
emitter.put(b"{}")
emitter.put(b"{}")

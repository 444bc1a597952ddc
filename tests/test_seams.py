"""The seams: another wire behind `Transport`, another engine behind `Queue`."""

from __future__ import annotations

import json
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

from fakes import MemoryQueue
from processes import wait_until

from durable_tracker import Emitter, Queue, StructuredEvent, Tracker, Transport, logger
from durable_tracker.delivery.policy import Delivery, DeliverySettings, Result
from durable_tracker.delivery.transport import Reply

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest


class LineTransport:
    """Sends newline-separated JSON over a Unix socket, and reads one line back: "ok", or anything else."""

    def __init__(self, address: Path) -> None:
        self._address = str(address)
        self.closed = 0

    def send(self, events: Sequence[bytes]) -> Reply:
        try:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(5)
                peer.connect(self._address)
                peer.sendall(b"\n".join(events) + b"\n\n")
                answer = peer.makefile("rb").readline()
        except OSError as error:
            return Reply(status=None, error=str(error))
        return Reply(status=200) if answer == b"ok\n" else Reply(status=503, error=answer.decode())

    def close(self) -> None:
        self.closed += 1


class LineServer:
    """What `LineTransport` talks to; answers "ok" or what it is told to."""

    def __init__(self, address: Path) -> None:
        self.answers: list[bytes] = []
        self.events: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(address))
        self._socket.listen()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as lines:
                batch = [json.loads(line)["se_la"] for line in iter(lines.readline, b"\n")]
                answer = self.answers.pop(0) if self.answers else b"ok\n"
                if answer == b"ok\n":
                    self.events += batch
                peer.sendall(answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


def test_an_emitter_delivers_over_a_wire_that_is_not_http(tmp_path: Path) -> None:
    """With an outage on the way; the emitter uses the transport as it is, and closes it at its own close."""
    transport: Transport
    transport = line = LineTransport(tmp_path / "socket")
    with Tracker(
        Emitter("lines.example", queue_dir=tmp_path, transport=transport, linger=0.01, max_retry_delay_seconds=0.05)
    ) as tracker:
        tracker.track(StructuredEvent("c", "a", "before"))
        emitter = tracker.emitters[0]
        assert isinstance(emitter, Emitter)
        wait_until(lambda: emitter.stats().state == "backing_off")
        assert line.closed == 0
        server = LineServer(tmp_path / "socket")
        server.answers.append(b"later\n")
        for number in range(50):
            tracker.track(StructuredEvent("c", "a", str(number)))
        wait_until(lambda: not emitter.stats().ledger.pending)
    server.close()
    assert server.events == ["before", *map(str, range(50))]
    assert line.closed == 1


class RaisingTransport:
    """Breaks the contract: it raises, with a payload in the text, before it works."""

    def __init__(self) -> None:
        self.tries = 0

    def send(self, events: Sequence[bytes]) -> Reply:
        self.tries += 1
        if self.tries < 3:
            raise ValueError(events[0].decode())
        return Reply(status=200)

    def close(self) -> None:
        raise RuntimeError("not even that")


def test_a_transport_that_raises_is_an_outage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The thread outlives it, nothing is lost, and the text goes nowhere."""
    caplog.set_level("DEBUG")
    transport = RaisingTransport()
    emitter = Emitter("c.example", queue_dir=tmp_path, transport=transport, linger=0.0, max_retry_delay_seconds=0.01)
    emitter.put(b'{"e":"pv","secret":"payload"}')
    wait_until(lambda: not emitter.stats().ledger.pending)
    assert transport.tries == 3
    assert emitter.close()
    assert "payload" not in caplog.text
    assert "payload" not in repr([vars(record) for record in caplog.records])


def test_a_delivery_drains_an_engine_that_is_not_sqlite() -> None:
    """Whatever keeps the contract of `Queue` will do."""
    queue: Queue = MemoryQueue([b'{"n":"1"}', b'{"n":"2"}'])
    sent: list[bytes] = []

    class Collecting:
        def send(self, events: Sequence[bytes]) -> Reply:
            sent.extend(events)
            return Reply(status=200)

        def close(self) -> None:
            pass

    delivery = Delivery(queue, Collecting(), settings=DeliverySettings(), wait=lambda _: True, stopping=lambda: False)
    assert delivery.run() is Result.EMPTY
    delivery.close()
    assert [json.loads(event)["n"] for event in sent] == ["1", "2"]
    assert queue.is_empty()


def test_with_the_standard_formatter_a_line_says_where_why_and_what_becomes_of_the_events(tmp_path: Path) -> None:
    """Nobody should have to configure a formatter to learn which of a hundred emitters cannot deliver."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Lines()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        with Emitter("http://127.0.0.1:9", queue_dir=tmp_path, name="shop") as emitter:
            emitter.put(b'{"e":"pv"}')
            wait_until(lambda: bool(lines))
    finally:
        logger.removeHandler(handler)
    (line,) = lines
    queue = tmp_path / "shop" / "0.sqlite3"
    assert line.startswith("WARNING delivery.interrupted (")
    assert all(part in line for part in ("emitter shop", "collector http://127.0.0.1:9", str(queue), "refused"))
    assert "all events are kept, and sending them is tried again" in line


def test_only_what_happened_gets_into_a_message() -> None:
    """Not what a record factory of the application's adds; and no value makes a line fail."""

    class Rude:
        def __str__(self) -> str:
            raise RuntimeError

    records: list[logging.LogRecord] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    before = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.otelTraceID, record.event = "0", "theirs"
        return record

    handler = Keeping()
    logger.addHandler(handler)
    logging.setLogRecordFactory(factory)
    try:
        logger.warning("queue.odd", extra={"queue": "100 %s", "reason": Rude(), "fate": None})
        logger.warning("as it %s", "is")
    finally:
        logging.setLogRecordFactory(before)
        logger.removeHandler(handler)
    assert [record.getMessage() for record in records] == ["queue.odd (queue 100 %s): <Rude>", "as it is"]
    assert vars(records[0])["event"] == "queue.odd"

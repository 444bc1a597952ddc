"""A backlog on disk, over loopback, into a counting collector in another process."""

from __future__ import annotations

from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any, Final

import requests

from benchmarks import official
from benchmarks.payloads import fields, payload
from benchmarks.sink import Sink
from benchmarks.stores import make_emitter
from durable_tracker.delivery.transport import PAYLOAD_DATA_HEAD, PAYLOAD_DATA_TAIL

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.options import Options
    from benchmarks.results import Results
    from benchmarks.stores import Level
    from durable_tracker import Emitter

LOOPBACK: Final = "loopback, one connection"
OURS: Final = "ours, from disk, always"
OURS_INTERVAL: Final = "ours, from disk, interval"
PREBUILT: Final = "prebuilt bodies, one requests.Session (limit)"
OFFICIAL: Final = "official tracker, from memory"
OFFICIAL_SESSION: Final = "official tracker, from memory, with a Session"
OFFICIAL_WHOLE: Final = "official tracker, tracked into memory and sent"
FAR: Final = "100 ms of round trip"
LATENCY_S: Final = 0.1
_COUNT: Final = 1_000_000
_COUNT_WHOLE: Final = 100_000
_FAR_REQUESTS: Final = 48
_HEADERS: Final = {"Content-Type": "application/json; charset=utf-8"}
_TIMEOUT_S: Final = 600.0


def run(results: Results, options: Options) -> None:
    """Measure on loopback, then by senders at a distance."""
    _loopback(results, options)
    _far(results, options)


def per_request() -> int:
    """Return how many events the default `byte_limit` lets into one request."""
    stamped = len(payload()) + len(b',"stm":"1665398554151"') + 1
    return (150_000 - len(PAYLOAD_DATA_HEAD) - len(PAYLOAD_DATA_TAIL)) // stamped


def backlog(directory: Path, count: int, port: int, level: Level = "always", **settings: Any) -> Emitter:
    """Return an emitter with a backlog on disk, which has not started to send."""
    event = payload()
    with make_emitter(directory, level, port=port) as emitter:
        emitter.put_many([event] * count)
    # Until it is used, an emitter does not open its queue.
    return make_emitter(directory, level, port=port, drain=True, **settings)


def _loopback(results: Results, options: Options) -> None:
    batch = per_request()
    count = _COUNT // batch * batch
    with Sink() as sink:
        for _ in range(options.rounds):
            for name, seconds in (
                (OURS, _ours(options, count, sink, "always")),
                (OURS_INTERVAL, _ours(options, count, sink, "interval")),
                (PREBUILT, _prebuilt(count // batch, batch, sink)),
                (OFFICIAL, _official(count // batch, batch, sink, None)),
                (OFFICIAL_SESSION, _official(count // batch, batch, sink, requests.Session())),
            ):
                results.add(LOOPBACK, name, "events/s", count / seconds)
            results.add(LOOPBACK, OFFICIAL_WHOLE, "events/s", _COUNT_WHOLE / _official_whole(batch, sink))
    results.note(
        LOOPBACK,
        f"{count:,} events, {batch} in a request: what the default byte_limit of 150,000 holds. Ours until the emitter "
        f"is closed. The last one, of {_COUNT_WHOLE:,} events, includes its `track()`.",
    )


def _ours(options: Options, count: int, sink: Sink, level: Level) -> float:
    with options.scratch() as directory:
        before = sink.count()
        with backlog(directory, count, sink.port, level) as emitter:
            start = perf_counter()
            assert emitter.flush(_TIMEOUT_S)
        took = perf_counter() - start
        assert sink.count() - before == count
        return took


def _prebuilt(requests_count: int, batch: int, sink: Sink) -> float:
    event = payload()[:-1] + b',"stm":"%d"}' % (time_ns() // 1_000_000)
    body = PAYLOAD_DATA_HEAD + b",".join([event] * batch) + PAYLOAD_DATA_TAIL
    url = f"{sink.url}/com.snowplowanalytics.snowplow/tp2"
    with requests.Session() as session:
        start = perf_counter()
        for _ in range(requests_count):
            assert session.post(url, data=body, headers=_HEADERS, timeout=10).status_code == 200
        return perf_counter() - start


def _official(requests_count: int, batch: int, sink: Sink, session: requests.Session | None) -> float:
    """Time what its `flush` does with a buffer that holds one batch: filling it is not counted."""
    emitter = official.make_emitter(sink.port, session)
    before = sink.count()
    took = 0.0
    for _ in range(requests_count):
        events = [fields() for _ in range(batch)]
        start = perf_counter()
        emitter.send_events(events)
        took += perf_counter() - start
    assert sink.count() - before == batch * requests_count
    return took


def _official_whole(batch: int, sink: Sink) -> float:
    """Time its `track()`, which sends whenever its buffer holds one batch."""
    emitter = official.make_emitter(sink.port, batch_size=batch)
    tracker = official.make_tracker(emitter)
    events = [official.structured() for _ in range(_COUNT_WHOLE)]
    before = sink.count()
    start = perf_counter()
    for event in events:
        tracker.track(event)
    emitter.flush()
    took = perf_counter() - start
    assert sink.count() - before == _COUNT_WHOLE
    return took


def _far(results: Results, options: Options) -> None:
    batch = per_request()
    with Sink(latency_s=LATENCY_S) as sink:
        for _ in range(max(options.rounds // 2, 1)):
            for senders in (1, 2, 4, 8):
                count = batch * _FAR_REQUESTS // (1 if senders >= 4 else 2)
                with options.scratch() as directory, backlog(directory, count, sink.port, senders=senders) as emitter:
                    start = perf_counter()
                    assert emitter.flush(_TIMEOUT_S)
                    results.add(FAR, f"senders={senders}", "events/s", count / (perf_counter() - start))

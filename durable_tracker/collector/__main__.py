"""`python -m durable_tracker.collector`: a development collector on loopback, with faults on demand.

It takes events at `/i` and `/com.snowplowanalytics.snowplow/tp2`, judges them as a Snowplow pipeline does, and tells
what arrived at `/micro/all`, `/micro/good`, `/micro/bad` and `/micro/anomalies`; `/micro/reset` forgets it. The first
line it prints is `listening http://127.0.0.1:9090`, on stdout, or on stderr where `--out -` has stdout to itself. On
SIGINT and SIGTERM it ends with a line that starts with `received` and status 0; status 2 means that an option or the
address cannot be used.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import ipaddress
import itertools
import math
import os
import random
import select
import signal
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from durable_tracker.collector.faults import REDIRECT_TO, Fault, Faults
from durable_tracker.collector.registry import Registry
from durable_tracker.collector.server import BODY_MAX, Collector
from durable_tracker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

PORT: Final = 9090
"""The port of Snowplow Micro."""
_EXIT_USAGE: Final = 2
_EXAMPLES: Final = """examples:
  durable-tracker collector --port 9090 --out good.ndjson
  durable-tracker collector --port 9090 --fail 503:0.2 --lose-answer 0.1 --latency 0.05:0.2 --seed 1
"""


def _probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 65535")
    return value


def _failure(text: str) -> tuple[int, float]:
    status, _, probability = text.partition(":")
    if not (status.isascii() and status.isdigit() and 200 <= int(status) <= 599):  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"{status} is not a final HTTP status (200 to 599)")
    return int(status), _probability(probability or "1")


def _range(text: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    values = _seconds(low), _seconds(high if colon else low)
    if values[0] > values[1]:
        raise argparse.ArgumentTypeError(f"{text}: the first number is the smaller one")
    return values


def _flapping(text: str) -> tuple[float, float]:
    up, _, down = text.partition(":")
    values = _seconds(up), _seconds(down or up)
    if not sum(values):
        raise argparse.ArgumentTypeError(f"{text}: no time at all")
    return values


def _outage(text: str) -> Fault | None:
    if text == "refuse":
        return None
    return Fault(reset_before=True) if text == "reset" else Fault(status=_failure(text)[0])


def parser() -> argparse.ArgumentParser:
    """Return what parses the command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m durable_tracker.collector",
        description="A development collector: takes events, says what a Snowplow pipeline would make of them, and\n"
        "misbehaves on demand. P is a probability from 0 to 1, S a number of seconds.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    place = parser.add_argument_group("where")
    place.add_argument("--host", default="127.0.0.1", help="loopback address to listen on (default %(default)s)")
    place.add_argument("--port", type=_port, default=PORT, help="0 takes a free one (default %(default)s)")
    place.add_argument("--allow-remote", action="store_true", help="let --host be other than loopback")
    place.add_argument("--cert", metavar="FILE", help="serve https with this certificate (PEM)")
    place.add_argument("--key", metavar="FILE", help="its private key, if the certificate's file has none")

    record = parser.add_argument_group("what is recorded")
    record.add_argument("--out", metavar="FILE", help="append good events as NDJSON; - is stdout")
    record.add_argument("--keep", type=_count, default=100_000, metavar="N", help="events kept (default %(default)s)")
    record.add_argument("--no-validate", action="store_true", help="take every event that can be read as good")
    record.add_argument("--count-only", action="store_true", help="keep nothing, only count")
    record.add_argument("--schemas", metavar="DIR", action="append", default=[], help="your own JSON Schemas")
    record.add_argument("--strict-iglu", action="store_true", help="refuse data whose schema is unknown")
    record.add_argument("--quiet", action="store_true", help="no line for each request")

    faults = parser.add_argument_group("faults")
    faults.add_argument("--fail", type=_failure, action="append", default=[], metavar="STATUS:P", help="repeatable")
    faults.add_argument("--retry-after", metavar="VALUE", help="that header on failed answers: S or a date")
    faults.add_argument("--lose-answer", type=_probability, default=0.0, metavar="P", help="store, then reset")
    faults.add_argument("--reset", type=_probability, default=0.0, metavar="P", help="reset before reading")
    faults.add_argument("--hang", type=_probability, default=0.0, metavar="P", help="never answer")
    faults.add_argument("--redirect", type=_probability, default=0.0, metavar="P", help="answer 301")
    faults.add_argument("--redirect-to", default=REDIRECT_TO, metavar="URL", help="where to (default: itself)")
    faults.add_argument("--latency", type=_range, default=(0.0, 0.0), metavar="S[:S]", help="before each answer")
    faults.add_argument("--down-first", type=_seconds, default=0.0, metavar="S", help="begin with an outage")
    faults.add_argument("--flap", type=_flapping, metavar="UP:DOWN", help="then S up and S down, in turn")
    faults.add_argument(
        "--outage", type=_outage, default="refuse", metavar="KIND", help="refuse (default), reset, or a status"
    )
    faults.add_argument("--max-body", type=_count, default=BODY_MAX, metavar="BYTES", help="413 above (%(default)s)")
    faults.add_argument("--sink-max", type=_count, metavar="BYTES", help="play a sink with this limit: 200, and lost")
    faults.add_argument("--seed", type=int, metavar="N", help="of the random faults; printed if not given")
    return parser


def _phases(down_first_s: float, flapping: tuple[float, float] | None) -> Iterator[tuple[bool, float | None]]:
    """Yield what comes: whether the collector is up, and for how many seconds, None being for ever."""
    if down_first_s > 0:
        yield False, down_first_s
    if flapping is None:
        yield True, None
        return
    for up_s, down_s in itertools.repeat(flapping):
        yield True, up_s
        yield False, down_s


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[float | None], bool]]:
    """Give a function that waits so many seconds, and returns whether SIGINT or SIGTERM came."""
    # A pipe, since setting a threading.Event in a handler can deadlock with the wait that it interrupts.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def wait(timeout_s: float | None) -> bool:
        return bool(select.select([reading], [], [], timeout_s)[0])

    def stop(*_: object) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(writing, b"\0")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


def _log(line: str) -> None:
    # One write, since requests log from their own threads.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        sys.stderr.flush()


def _check_host(host: str) -> None:
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    if host != "localhost":
        raise ConfigurationError(f"--host: {host} is not a loopback address; --allow-remote permits it")


def _collector(options: argparse.Namespace, seed: int, out: BinaryIO | None) -> Collector:
    if not options.allow_remote:
        _check_host(options.host)
    context: ssl.SSLContext | None = None
    if options.cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.cert, options.key)
    return Collector(
        options.port,
        host=options.host,
        faults=Faults(
            fail=options.fail,
            retry_after=options.retry_after,
            lose_answer=options.lose_answer,
            reset=options.reset,
            hang=options.hang,
            redirect=options.redirect,
            redirect_to=options.redirect_to,
            latency_s=options.latency,
            seed=seed,
        ),
        validate=not options.no_validate,
        record=not options.count_only,
        keep=options.keep,
        body_max=options.max_body,
        sink_bytes_max=options.sink_max,
        registry=Registry(strict=options.strict_iglu, directories=[Path(name) for name in options.schemas]),
        out=out,
        log=None if options.quiet else _log,
        ssl_context=context,
        up=False,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command until SIGINT or SIGTERM; return its exit status. For the main thread only."""
    options = parser().parse_args(arguments)
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    with contextlib.ExitStack() as stack:
        out: BinaryIO | None = None
        try:
            if options.out == "-":
                out = sys.stdout.buffer
            elif options.out:
                out = stack.enter_context(Path(options.out).open("ab"))
            collector = stack.enter_context(_collector(options, seed, out))
        except (ConfigurationError, OSError) as exc:
            taken = isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE
            place = f"{options.host}:{options.port}: " if taken else ""
            sys.stderr.write(f"collector: {place}{exc}\n")
            return _EXIT_USAGE
        wait = stack.enter_context(_stop_signals())
        to = sys.stderr if options.out == "-" else sys.stdout
        for up, seconds in _phases(options.down_first, options.flap):
            collector.outage = None if up else options.outage
            if up or options.outage is not None:
                collector.up()
            else:
                collector.down()
            if to is not None:
                # Only now, so that a reader of the line meets the collector as it is meant to be.
                to.write(f"listening {collector.url}\n")
                to.flush()
                to = None
                if options.seed is None and not options.quiet:
                    _log(f"seed {seed}")
            if wait(seconds):
                break
        collector.close()
        sys.stderr.write(f"received {collector.summary()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

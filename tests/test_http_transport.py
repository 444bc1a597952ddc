"""The HTTP request and its failure modes, over real sockets."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest
import requests
from fakes import MemoryQueue, event, rig
from faulty_server import FaultyServer, Peer, answer, on_each_connection
from processes import wait_until

from durable_tracker.delivery import bounded_connection, http_transport
from durable_tracker.delivery.http_transport import BODY_SIZE_MAX, HttpTransport, failure_text, retry_after_s
from durable_tracker.delivery.transport import PAYLOAD_DATA_HEAD, PAYLOAD_DATA_TAIL, Reply
from durable_tracker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[..., HttpTransport]

EVENTS = [b'{"e":"pv","p":"web","tv":"t","page":"\xc3\xa9 \\"x\\""}', b'{"e":"se","p":"srv","tv":"t"}']
NOW = 1_700_000_000.0

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def transports() -> Iterator[Callable[..., HttpTransport]]:
    """Make transports that are closed at the end."""
    made: list[HttpTransport] = []

    def make(url: str, **settings: object) -> HttpTransport:
        made.append(HttpTransport(url, **{"request_timeout": 2.0, "deadline_s": 4.0, **settings}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for transport in made:
        transport.close()


def test_a_post_is_one_payload_data_envelope_with_the_events_bytes_as_they_are(transports: Make) -> None:
    """Nothing is re-encoded, and the type is the one that the collector insists on."""
    with FaultyServer() as server:
        assert transports(server.url).send(EVENTS) == Reply(status=200)
    (request,) = server.requests
    assert request.line == "POST /com.snowplowanalytics.snowplow/tp2 HTTP/1.1"
    assert request.headers["content-type"] == "application/json; charset=utf-8"
    assert b",".join(EVENTS) in request.body
    schema = "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4"
    assert json.loads(request.body) == {"schema": schema, "data": [json.loads(one) for one in EVENTS]}


def test_a_get_carries_one_event_in_its_query(transports: Make) -> None:
    """Percent-encoded UTF-8, no body and no content type."""
    with FaultyServer([answer(body=b"GIF89a")]) as server:
        transport = transports(f"http://127.0.0.1:{server.port}/i", method="get")
        assert transport.send(EVENTS[:1]) == Reply(status=200)
    (request,) = server.requests
    method, target, _ = request.line.split(" ")
    assert (method, urlsplit(target).path) == ("GET", "/i")
    assert {k: v[0] for k, v in parse_qs(urlsplit(target).query).items()} == json.loads(EVENTS[0])
    assert "content-type" not in request.headers
    assert request.body == b""


def test_a_get_refuses_to_carry_two_events(transports: Make) -> None:
    """The answer could not be told apart for the two."""
    with pytest.raises(ValueError, match="exactly one"):
        transports("http://127.0.0.1:9/i", method="get").send(EVENTS)


def test_a_query_of_the_address_is_kept(transports: Make) -> None:
    """A GET's event is appended to it."""
    with FaultyServer() as server:
        transports(f"http://127.0.0.1:{server.port}/i?k=1", method="get").send(EVENTS[1:])
    assert "/i?k=1&e=se&p=srv" in server.requests[0].line


def test_connections_are_kept(transports: Make) -> None:
    """Ten requests, one connection."""
    with FaultyServer() as server:
        transport = transports(server.url)
        replies = {transport.send(EVENTS).status for _ in range(10)}
    assert (replies, server.connections) == ({200}, 1)


@pytest.mark.parametrize("method", ["post", "get"])
def test_the_time_until_the_answer_can_be_used(transports: Make, method: str) -> None:
    """The call comes when the request is out, and before its answer is waited for."""
    called = threading.Event()
    order: list[str] = []

    def after_the_call(peer: Peer) -> None:
        order.append("received")
        assert called.wait(5)
        answer()(peer)

    def meanwhile() -> None:
        deadline = time.monotonic() + 5
        while not order and time.monotonic() < deadline:
            time.sleep(0.001)
        order.append("called")
        called.set()

    with FaultyServer([after_the_call]) as server:
        assert transports(server.url, method=method).send_and(EVENTS[:1], meanwhile) == Reply(status=200)
    assert order == ["received", "called"]


def test_it_is_used_once_though_the_request_is_sent_twice(transports: Make) -> None:
    """On a stale connection; and not at all if the request never gets out."""
    calls: list[int] = []
    with FaultyServer([on_each_connection([answer(), Peer.hang_up], [answer()])]) as server:
        transport = transports(server.url)
        assert transport.send(EVENTS).status == 200
        assert transport.send_and(EVENTS, lambda: calls.append(1)).status == 200
    assert ([request.connection for request in server.requests], calls) == ([1, 1, 2], [1])
    assert transport.send_and(EVENTS, lambda: calls.append(2)).status is None
    assert calls == [1]


def test_the_time_that_is_used_is_not_the_peers(transports: Make) -> None:
    """An answer that came long ago is read, though the deadline passed in the meantime."""
    with FaultyServer() as server:
        transport = transports(server.url, deadline_s=0.3)
        assert transport.send_and(EVENTS, lambda: time.sleep(0.5)) == Reply(status=200)


def test_an_interrupt_meanwhile_costs_the_connection_and_nothing_else(transports: Make) -> None:
    """The answer that was not read must not pass for that of the next request."""
    with FaultyServer([answer(503), answer(200)]) as server:

        def interrupt() -> None:
            wait_until(lambda: bool(server.requests))
            raise KeyboardInterrupt

        transport = transports(server.url)
        with pytest.raises(KeyboardInterrupt):
            transport.send_and(EVENTS, interrupt)
        assert transport.send(EVENTS).status == 200
    assert server.connections == 2


def silent(peer: Peer) -> None:
    peer.over.wait(10)


def drip_headers(peer: Peer) -> None:
    peer.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Slow: " + b"z" * 500 + b"\r\n\r\nok", 0.05)


def drip_body(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
    peer.drip(b"z" * 500, 0.05)


def drip_chunks(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    peer.drip(b"1\r\nz\r\n" * 100, 0.02)


def endless_interim_answers(peer: Peer) -> None:
    while not peer.over.wait(0.02):
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")


def truncate(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok")
    peer.hang_up()


def truncate_chunk(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc")
    peer.hang_up()


def half_a_header(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    peer.reset()


def half_a_status(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 20")
    peer.hang_up()


def garbage(peer: Peer) -> None:
    peer.send(b"\x00\xff\x16\x03\x01 not HTTP at all\r\n\r\n")
    peer.hang_up()


def endless_header(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nX: " + b"z" * 200_000 + b"\r\n\r\n")


def thousand_headers(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n")


@pytest.mark.parametrize(
    "fault",
    [
        Peer.hang_up,
        Peer.reset,
        truncate,
        truncate_chunk,
        half_a_header,
        half_a_status,
        garbage,
        endless_header,
        thousand_headers,
        answer(reason="\r\nContent-Length: x"),
    ],
)
def test_a_broken_answer_is_no_answer(transports: Make, fault: Callable[[Peer], object]) -> None:
    """Without a complete answer nothing is known, whatever the status line said; and nothing is raised."""
    with FaultyServer([fault]) as server:
        reply = transports(server.url).send(EVENTS)
    assert reply.status is None
    assert reply.error


@pytest.mark.parametrize(
    "fault", [silent, drip_headers, drip_body, drip_chunks, endless_interim_answers], ids=lambda fault: fault.__name__
)
def test_a_dripping_answer_is_cut_off_at_the_deadline(transports: Make, fault: Callable[[Peer], object]) -> None:
    """A read timeout never fires while a byte comes now and then; the deadline of the whole exchange does."""
    with FaultyServer([fault]) as server:
        transport = transports(server.url, request_timeout=5, deadline_s=0.5)
        start = time.monotonic()
        reply = transport.send(EVENTS)
        took_s = time.monotonic() - start
    assert reply == Reply(status=None, error="no complete answer in time")
    assert 0.4 < took_s < 2


def test_a_read_timeout_is_one_read_long(transports: Make) -> None:
    """It fires before the deadline when nothing comes at all."""
    with FaultyServer([silent]) as server:
        start = time.monotonic()
        reply = transports(server.url, request_timeout=(1, 0.3), deadline_s=20).send(EVENTS)
    assert reply == Reply(status=None, error="no complete answer in time")
    assert time.monotonic() - start < 5


def test_a_peer_that_does_not_read_is_cut_off_at_the_deadline(transports: Make) -> None:
    """A body larger than the sockets' buffers cannot be sent, and does not hold the thread."""
    with FaultyServer(before_reading=silent) as server:
        start = time.monotonic()
        reply = transports(server.url, request_timeout=30, deadline_s=0.5).send([b"x" * 20_000_000])
        took_s = time.monotonic() - start
    assert reply.status is None
    assert took_s < 3


def test_a_refused_connection_says_so(transports: Make) -> None:
    """The text names the failure and no address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    reply = transports(f"http://127.0.0.1:{port}/").send(EVENTS)
    assert reply == Reply(status=None, error="the connection failed: Connection refused")


def test_an_unknown_host_says_so(transports: Make) -> None:
    """RFC 6761 reserves .invalid."""
    reply = transports("http://collector.invalid/").send(EVENTS)
    assert reply == Reply(status=None, error="the host's name could not be resolved")


@pytest.mark.parametrize("status", [201, 204, 299])
def test_every_2xx_is_a_success(transports: Make, status: int) -> None:
    """Also one without a body."""
    with FaultyServer([answer(status, b"")]) as server:
        assert transports(server.url).send(EVENTS) == Reply(status=status)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(transports: Make, status: int) -> None:
    """Neither to the same host nor to another one; a bad Location harms nobody."""
    with FaultyServer() as elsewhere:
        location = f"Location: http://127.0.0.1:{elsewhere.port}/\r\n"
        with FaultyServer(
            [answer(status, headers=location), answer(status, headers="Location: http://[\r\n")]
        ) as server:
            transport = transports(server.url)
            replies = [transport.send(EVENTS) for _ in range(2)]
    assert replies == [Reply(status=status, error=f"HTTP {status}")] * 2
    assert (len(server.requests), len(elsewhere.requests)) == (2, 0)


def test_no_cookie_is_kept_or_sent(transports: Make) -> None:
    """The collector's cookie would give every user of this server one identity."""
    with FaultyServer([answer(headers="Set-Cookie: sp=1; Path=/\r\n")]) as server:
        transport = transports(server.url)
        for _ in range(3):
            transport.send(EVENTS)
    assert ["cookie" in request.headers for request in server.requests] == [False] * 3


def test_netrc_adds_no_credentials(
    transports: Make, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Requests' sessions would take them from there."""
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("default login me password secret\n", encoding="ascii")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with FaultyServer() as server:
        transports(server.url).send(EVENTS)
    assert "authorization" not in server.requests[0].headers


def test_a_long_body_is_not_read_to_its_end(transports: Make) -> None:
    """The status counts; the connection is given up."""
    endless = answer(200, b"z" * (BODY_SIZE_MAX + 1_000_000))
    with FaultyServer([endless, answer(503, b"z" * BODY_SIZE_MAX), answer()]) as server:
        transport = transports(server.url)
        statuses = [transport.send(EVENTS).status for _ in range(3)]
    assert (statuses, server.connections) == ([200, 503, 200], 2)


def test_a_stale_connection_is_not_an_outage(transports: Make) -> None:
    """A server that hangs up on a reused connection gets the request again at once, on a new one."""
    with FaultyServer([on_each_connection([answer(), Peer.hang_up], [answer()])]) as server:
        transport = transports(server.url)
        replies = [transport.send(EVENTS).status for _ in range(2)]
    assert (replies, [request.connection for request in server.requests]) == ([200, 200], [1, 1, 2])


def test_a_connection_that_was_closed_while_idle_is_not_used(transports: Make) -> None:
    """Its end is seen before the request goes out, so nothing is sent twice."""
    closed = threading.Event()

    def close_after_answering(peer: Peer) -> None:
        answer()(peer)
        peer.hang_up()
        closed.set()

    with FaultyServer([on_each_connection([close_after_answering], [answer()])]) as server:
        transport = transports(server.url)
        assert transport.send(EVENTS) == Reply(status=200)
        assert closed.wait(5)  # else the request and the end of the connection would race
        assert transport.send(EVENTS) == Reply(status=200)
    assert [request.connection for request in server.requests] == [1, 2]


def test_all_idle_connections_of_a_restarted_server_are_stale(
    transports: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second try does not take another dead connection from the pool."""
    together = threading.Barrier(3)
    old: list[object] = []

    def restarted(peer: Peer) -> None:
        """Answer the first request on each connection, and know nothing of the first three at their second."""
        if any(peer.sock is one for one in old):
            peer.reset()
            return
        if len(old) < 3:
            old.append(peer.sock)
            together.wait(5)
        answer()(peer)

    with FaultyServer([restarted]) as server:
        transport = transports(server.url, connections=3)
        threads = [threading.Thread(target=transport.send, args=(EVENTS,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        attempt = transport._attempt

        def beside_others(*args: Any, **options: Any) -> Reply | None:
            reply = attempt(*args, **options)
            if reply is None:
                # Another sender takes the place in the pool that the failure left empty.
                (key,) = transport._adapter.poolmanager.pools.keys()
                assert transport._adapter.poolmanager.pools[key].pool.get(block=False) is None
            return reply

        monkeypatch.setattr(transport, "_attempt", beside_others)
        assert transport.send(EVENTS) == Reply(status=200)
    assert (len(server.requests), server.connections) == (5, 4)


@pytest.mark.parametrize(
    ("faults", "requests_made"),
    [([Peer.hang_up], 1), ([answer(), Peer.hang_up], 3), ([answer(), half_a_status], 2), ([answer(), silent], 2)],
)
def test_only_a_stale_connection_is_worth_one_resend(
    transports: Make, faults: list[Callable[[Peer], object]], requests_made: int
) -> None:
    """Not a new connection, not a second time, not after the first byte of an answer, not after a timeout."""
    with FaultyServer(faults) as server:
        transport = transports(server.url, request_timeout=0.5)
        replies = [transport.send(EVENTS).status for _ in range(len(faults))]
    assert (replies[-1], len(server.requests)) == (None, requests_made)


def test_close_breaks_off_a_request_under_way(transports: Make) -> None:
    """And may be called twice, and answers from then on without a connection."""
    begun = threading.Event()

    def hang(peer: Peer) -> None:
        begun.set()
        peer.over.wait(10)

    with FaultyServer([hang]) as server:
        transport = transports(server.url, request_timeout=10, deadline_s=10)
        replies: list[Reply] = []
        thread = threading.Thread(target=lambda: replies.append(transport.send(EVENTS)))
        thread.start()
        assert begun.wait(5)
        transport.close()
        thread.join(5)
        transport.close()
        assert [reply.status for reply in replies] == [None]
        assert transport.send(EVENTS) == Reply(status=None, error="the transport is closed")
    assert len(server.requests) == 1


@pytest.mark.parametrize("header", ["X-A: b\r\nX-B", "X A", "", "X-Ä", "X:"])
def test_a_header_name_that_is_none_is_refused(header: str) -> None:
    """Nothing can be smuggled in by a name."""
    with pytest.raises(ConfigurationError, match="headers"):
        HttpTransport("http://h/", headers={header: "v"})


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "€", " a", 7])
def test_a_header_value_that_is_none_is_refused_and_not_repeated(value: str) -> None:
    """Nor by a value, which may be a secret."""
    with pytest.raises(ConfigurationError, match="value of X-Secret is not") as caught:
        HttpTransport("http://h/", headers={"X-Secret": value})
    assert "Evil" not in str(caught.value)


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Content-Encoding", "Connection", "Expect"])
def test_the_headers_of_the_framing_are_the_transports_own(name: str) -> None:
    """They would change what the collector reads."""
    with pytest.raises(ConfigurationError, match=name):
        HttpTransport("http://h/", headers={name: "1"})


def test_the_content_type_cannot_be_changed() -> None:
    """The collector answers 200 to any other and throws the events away."""
    with pytest.raises(ConfigurationError, match="Content-Type"):
        HttpTransport("http://h/", headers={"Content-Type": "text/plain"})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h/p",
        "ftp://h/",
        "http:///p",
        "http://h/\r\nX: y",
        "http://h/a b",
        "http://h/\x7f",
        "http://ü/",
        "http://h/#f",
        "http://h:99999/",
        "http://h:x/",
        "http://[::1/",
        "http://user:secret@/p",
    ],
)
def test_an_address_that_is_none_is_refused_and_not_repeated(url: str) -> None:
    """It may hold a password."""
    with pytest.raises(ConfigurationError, match="url") as caught:
        HttpTransport(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "5", (1, 0), (1, 2, 3)])
def test_a_timeout_that_is_no_time_is_refused(value: float) -> None:
    """The message names the argument."""
    with pytest.raises(ConfigurationError, match="request_timeout"):
        HttpTransport("http://h/", request_timeout=value)


@pytest.mark.parametrize("settings", [{"method": "put"}, {"connections": 0}, {"deadline_s": 0}])
def test_other_arguments_are_checked(settings: dict[str, object]) -> None:
    """The message names them."""
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        HttpTransport("http://h/", **settings)  # type: ignore[arg-type]


def test_credentials_and_payloads_appear_nowhere(
    transports: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at DEBUG, not in errors, not in the representation; though they are sent."""
    caplog.set_level(logging.DEBUG)
    event = b'{"e":"pv","page":"payloadpayload"}'
    with FaultyServer([answer(), answer(500), garbage]) as server:
        seen = []
        for method in ("get", "post"):
            url = server.url.replace("://", "://user:passpass@")
            transport = transports(url, method=method, headers={"X-Key": "tokentoken"})
            seen += [repr(transport), *(repr(transport.send([event])) for _ in range(3))]
        monkeypatch.setenv("http_proxy", "http://user:proxypass@127.0.0.1:9")
        seen.append(repr(transports("http://collector.invalid/", method="get").send([event])))
    assert "payloadpayload" in server.requests[0].line
    assert server.requests[0].headers["authorization"].startswith("Basic ")
    assert server.requests[0].headers["x-key"] == "tokentoken"
    for secret in (
        "payloadpayload",
        "passpass",
        "tokentoken",
        "proxypass",
        server.requests[0].headers["authorization"],
    ):
        assert secret not in caplog.text + "".join(seen)


def test_a_proxy_of_the_environment_is_used(transports: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain HTTP goes through it with an absolute target, credentials in the header made for them."""
    with FaultyServer() as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{proxy.port}")
        assert transports("http://collector.invalid/i", method="get").send(EVENTS[1:]) == Reply(status=200)
        monkeypatch.setenv("no_proxy", "collector.invalid")
        assert transports("http://collector.invalid/i", method="get").send(EVENTS[1:]).status is None
    (request,) = proxy.requests
    assert request.line == "GET http://collector.invalid/i?e=se&p=srv&tv=t HTTP/1.1"
    assert request.headers["proxy-authorization"].startswith("Basic ")


def test_a_proxy_that_drips_its_answer_to_connect_is_cut_off(transports: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline holds for the tunnel too."""
    with FaultyServer([drip_headers]) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        start = time.monotonic()
        reply = transports("https://collector.invalid/", request_timeout=5, deadline_s=0.5).send(EVENTS)
        took_s = time.monotonic() - start
    assert reply.status is None
    assert took_s < 3
    assert proxy.requests[0].line.startswith("CONNECT collector.invalid:443")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -addext subjectAltName=IP:127.0.0.1"
    made = subprocess.run([*command.split(), "-keyout", "-", "-out", "-"], check=True, capture_output=True)
    path.write_bytes(made.stdout)
    return path


def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@needs_openssl
def test_tls_is_verified(transports: Make, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that nobody vouches for is refused; one that the environment's bundle holds is accepted."""
    with FaultyServer(tls=serving(certificate)) as server:
        reply = transports(server.url).send(EVENTS)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert transports(server.url).send(EVENTS) == Reply(status=200)
    assert reply.error is not None
    assert (reply.status, reply.error.startswith("TLS failed: self")) == (None, True)


@needs_openssl
@pytest.mark.parametrize("fault", [silent, drip_headers, drip_body], ids=lambda fault: fault.__name__)
def test_the_deadline_holds_over_tls(
    transports: Make, certificate: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Peer], object]
) -> None:
    """A dripping answer is cut off there as well."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with FaultyServer([fault], tls=serving(certificate)) as server:
        start = time.monotonic()
        reply = transports(server.url, request_timeout=5, deadline_s=0.5).send(EVENTS)
        took_s = time.monotonic() - start
    assert reply == Reply(status=None, error="no complete answer in time")
    assert took_s < 2


def read_slowly(peer: Peer, size: int = 1 << 62) -> None:
    """Read so many bytes, some 1.6 MB a second, without a pause that is long."""
    read, pause_at = 0, 0
    while read < size and (data := peer.sock.recv(65_536)):
        read += len(data)
        if read >= pause_at:
            pause_at += 65_536
            if peer.over.wait(0.04):
                return


@needs_openssl
def test_a_peer_that_reads_slowly_over_tls_is_cut_off_in_the_end(
    transports: Make, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each record is sent in time; all of them together take longer than a body may that makes progress."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setattr(bounded_connection, "PROGRESS_MAX", 3)
    with FaultyServer(before_reading=read_slowly, tls=serving(certificate)) as server:
        start = time.monotonic()
        reply = transports(server.url, request_timeout=30, deadline_s=1).send([b"x" * 20_000_000])
        took_s = time.monotonic() - start
    assert reply.status is None
    assert reply.is_unsent
    assert 2.5 < took_s < 8


@pytest.mark.parametrize("is_over_tls", [False, pytest.param(True, marks=[needs_openssl, pytest.mark.slow])])
def test_a_body_that_goes_out_slowly_and_steadily_gets_through(
    is_over_tls: bool, transports: Make, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline counts from its last progress."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))

    def read_and_answer(peer: Peer) -> None:
        read_slowly(peer, 6_000_000)
        answer()(peer)
        peer.over.wait(20)

    with FaultyServer(before_reading=read_and_answer, tls=serving(certificate) if is_over_tls else None) as server:
        start = time.monotonic()
        reply = transports(server.url, request_timeout=30, deadline_s=1).send([b"x" * 6_000_000])
        took_s = time.monotonic() - start
    assert reply.status == 200
    assert took_s > 3


@pytest.mark.parametrize("buffer_size", [4096, 4 << 20])
def test_a_request_that_was_still_going_out_says_so(transports: Make, buffer_size: int) -> None:
    """In the socket's buffer it has left this process, and not this machine."""

    def deaf(peer: Peer) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.over.wait(20)

    with FaultyServer(before_reading=deaf) as server:
        transport = transports(server.url, request_timeout=30, deadline_s=1.5)
        reply = transport.send([b"x" * (20_000_000 if buffer_size == 4096 else 2_000_000)])
    assert reply.status is None
    assert reply.is_unsent


def test_an_answer_that_does_not_come_is_not_taken_for_a_slow_link(transports: Make) -> None:
    """The whole request is there."""
    with FaultyServer([silent]) as server:
        reply = transports(server.url, request_timeout=30, deadline_s=1.5).send(EVENTS)
    assert reply.status is None
    assert not reply.is_unsent


@pytest.mark.parametrize(
    "fault",
    [
        Peer.hang_up,
        Peer.reset,
        truncate,
        half_a_header,
        garbage,
        drip_headers,
        answer(302, headers="Location: /\r\n"),
        *(answer(status) for status in (304, 400, 401, 403, 404, 408, 410, 413, 422, 429, 500, 502, 503, 504)),
    ],
)
def test_an_event_leaves_the_queue_only_on_2xx(transports: Make, fault: Callable[[Peer], object]) -> None:
    """Over real sockets, whatever the collector does first; afterwards everything arrives."""
    with FaultyServer([fault, fault, fault, fault, answer()]) as server:
        queue = MemoryQueue([event(1), event(2)])
        made = rig(queue, transports(server.url, request_timeout=5, deadline_s=0.3))
        made.delivery.run(give_up_on_trouble=True)
        assert (sorted(queue.rows), queue.delivered, queue.dead) == ([1, 2], [], {})
        for _ in range(4):
            made.clock.advance(61)
            made.delivery.run()
        assert (sorted(queue.delivered), queue.rows, queue.dead) == ([1, 2], {}, {})


DATE = formatdate(NOW, usegmt=True)


@pytest.mark.parametrize(
    ("value", "date", "expected"),
    [
        (None, DATE, None),
        ("120", DATE, 120),
        (" 7 ", None, 7),
        ("0", None, 0),
        ("999999999999999999999", None, 1e9),
        ("9" * 5000, None, 1e9),
        ("-5", DATE, None),
        ("+5", DATE, None),
        ("1.5", DATE, None),
        ("1e3", DATE, None),
        ("٣", DATE, None),
        ("soon", DATE, None),
        ("", DATE, None),
        (formatdate(NOW + 90, usegmt=True), DATE, 90),
        (formatdate(NOW - 90, usegmt=True), DATE, 0),
        (formatdate(NOW + 90, usegmt=True), None, 90),
        (formatdate(NOW + 90, usegmt=True), "junk", 90),
        (formatdate(5000 + 90, usegmt=True), formatdate(5000, usegmt=True), 90),
        ("Tue, 14 Nov 99999 22:14:50 GMT", DATE, None),
        ("Tue, 99 Nov 2023 22:14:50 GMT", DATE, None),
        ("Tuesday, 14-Nov-23 22:14:50 GMT", DATE, 90),
        ("Tue Nov 14 22:14:50 2023", DATE, 90),
    ],
)
def test_retry_after_is_read_as_http_defines_it(value: str | None, date: str | None, expected: float | None) -> None:
    """Seconds or a date, relative to the answer's own clock; junk says nothing."""
    assert retry_after_s(value, date, lambda: NOW) == expected


def test_an_answers_retry_after_is_in_the_reply(transports: Make) -> None:
    """On any status that is no success, by the answer's own Date although the clock here is decades off."""
    later = f"Retry-After: {formatdate(NOW + 90, usegmt=True)}\r\nDate: {DATE}\r\n"
    with FaultyServer([answer(503, headers="Retry-After: 17\r\n"), answer(429, headers=later)]) as server:
        transport = transports(server.url, wall=lambda: 0.0)
        replies = [transport.send(EVENTS) for _ in range(2)]
    assert replies == [
        Reply(status=503, retry_after_s=17, error="HTTP 503"),
        Reply(status=429, retry_after_s=90, error="HTTP 429"),
    ]


def test_every_exception_of_requests_has_a_text_of_its_own_kind() -> None:
    """One that a new version of requests adds would be reported as something more general, and fails here."""
    known = (
        "ChunkedEncodingError ConnectTimeout ConnectionError ContentDecodingError HTTPError InvalidHeader "
        "InvalidJSONError InvalidProxyURL InvalidSchema InvalidURL JSONDecodeError MissingSchema ProxyError "
        "ReadTimeout RequestException RetryError SSLError StreamConsumedError Timeout TooManyRedirects URLRequired "
        "UnrewindableBodyError"
    )
    found = {
        name
        for name, kind in vars(requests.exceptions).items()
        if isinstance(kind, type) and issubclass(kind, requests.RequestException)
    }
    assert found <= set(known.split())
    for name in found - {"JSONDecodeError"}:
        text = failure_text(getattr(requests.exceptions, name)("http://user:secret@host/path"))
        assert "secret" not in text
        assert text in {text for _, text in http_transport._FAILURES}


def test_the_envelope_is_valid_by_the_collectors_schema() -> None:
    """The pieces round the events make the JSON that payload_data 1-0-4 asks for."""
    head, tail = PAYLOAD_DATA_HEAD, PAYLOAD_DATA_TAIL
    schema = {
        "type": "object",
        "required": ["schema", "data"],
        "additionalProperties": False,
        "properties": {"data": {"type": "array", "minItems": 1}},
    }
    schema["properties"]["schema"] = {"type": "string"}  # type: ignore[index]
    jsonschema.validate(json.loads(head + EVENTS[1] + tail), schema)


def test_a_reset_is_not_taken_for_a_slow_link(transports: Make) -> None:
    """As of a balancer without backends: smaller requests would not get through either."""

    def reset_early(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.reset()

    with FaultyServer(before_reading=reset_early) as server:
        reply = transports(server.url).send([b"x" * 20_000_000])
    assert reply.status is None
    assert not reply.is_unsent

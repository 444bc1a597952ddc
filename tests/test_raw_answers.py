"""Answers as raw bytes: an event leaves only on the complete, final answer of its own request."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from faulty_server import FaultyServer, Peer, answer
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_tracker.delivery.http_transport import HttpTransport

if TYPE_CHECKING:
    from collections.abc import Callable

EVENTS = [b'{"e":"pv","stm":"1"}']
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FAILED = b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def raw(data: bytes, *, hangs_up: bool = False) -> Callable[[Peer], None]:
    def fault(peer: Peer) -> None:
        peer.send(data)
        if hangs_up:
            peer.hang_up()

    return fault


def statuses(*faults: Callable[[Peer], object], count: int) -> list[int | None]:
    """Return what `count` requests, one after the other over one transport, are said to have been answered."""
    with FaultyServer([*faults, answer(204, b"")]) as server:
        transport = HttpTransport(server.url, request_timeout=5, deadline_s=5)
        try:
            return [transport.send(EVENTS).status for _ in range(count)]
        finally:
            transport.close()


INTERIM = {
    "102": b"HTTP/1.1 102 Processing\r\n\r\n",
    "103": b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",
    "100, 102, 103": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nLink: <a>\r\n\r\n",
    "199": b"HTTP/1.1 199 Anything\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("interim", INTERIM.values(), ids=INTERIM.keys())
def test_an_interim_answer_is_not_the_answer(interim: bytes) -> None:
    """The next request gets its own answer, too, and not the one that the interim answer announced."""
    assert statuses(raw(interim + FAILED), raw(interim + OK), count=3) == [500, 200, 204]


def test_an_interim_answer_may_come_long_before_the_final_one() -> None:
    """In a packet of its own."""

    def slowly(peer: Peer) -> None:
        peer.send(INTERIM["103"])
        peer.over.wait(0.05)
        peer.send(FAILED)

    assert statuses(slowly, count=2) == [500, 204]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"HTTP/1.1 200 OK", id="a status line without its end"),
        pytest.param(b"HTTP/1.1 200", id="a status without its reason"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", id="a status line alone"),
        pytest.param(b"HTTP/1.1 200 OK\r\nServer: x\r\n", id="headers without the empty line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nServer", id="half a header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", id="half a body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", id="half a chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", id="no last chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nok\r\n", id="no chunk at all"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", id="another protocol"),
        pytest.param(INTERIM["102"], id="an interim answer alone"),
        pytest.param(INTERIM["102"] + b"HTTP/1.1 200", id="an interim answer and half of the final one"),
        pytest.param(b"200 OK\r\n\r\n", id="no version"),
        pytest.param(b"<html>200</html>\r\n\r\n", id="no HTTP"),
        pytest.param(b"\r\n\r\n" + OK, id="empty lines before it"),
    ],
)
def test_what_is_no_complete_answer_is_none(data: bytes) -> None:
    """Whatever status can be read of it; and its connection is not used again."""
    assert statuses(raw(data, hangs_up=True), count=2) == [None, 204]


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(OK, id="a second answer"),
        pytest.param(b"more than its length", id="a longer body"),
        pytest.param(b"\0", id="a byte"),
        pytest.param(INTERIM["103"], id="an interim answer"),
    ],
)
@pytest.mark.parametrize("status", [200, 500, 204])
def test_what_follows_an_answer_is_never_taken_for_the_next_one(rest: bytes, status: int) -> None:
    """The connection is in doubt, and is closed."""
    body = b"" if status == 204 else b"ok"
    head = f"HTTP/1.1 {status} Any\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    assert statuses(raw(head + body + rest), raw(FAILED), count=3) == [status, 500, 204]


def test_a_second_answer_that_comes_late_is_not_taken_for_the_next_one() -> None:
    """It is there before the next request is sent."""
    is_there = threading.Event()

    def twice(peer: Peer) -> None:
        peer.send(OK)
        peer.over.wait(0.05)
        peer.send(OK)
        is_there.set()

    with FaultyServer([twice, raw(FAILED), answer(204, b"")]) as server:
        transport = HttpTransport(server.url)
        assert transport.send(EVENTS).status == 200
        assert is_there.wait(10)
        assert [transport.send(EVENTS).status for _ in range(2)] == [500, 204]
        transport.close()
        assert server.connections == 2


def test_a_sound_connection_is_kept() -> None:
    """The check of the check: none of this costs the connection of a sound answer."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    with FaultyServer([raw(OK), raw(chunked), raw(INTERIM["103"] + OK), raw(FAILED), answer(204, b"")]) as server:
        transport = HttpTransport(server.url)
        assert [transport.send(EVENTS).status for _ in range(5)] == [200, 200, 200, 500, 204]
        transport.close()
        assert server.connections == 1


PIECES = st.sampled_from(
    [*INTERIM.values(), OK, FAILED, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", b"x", b"\r\n"]
)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(PIECES, min_size=1, max_size=3).map(b"".join), min_size=1, max_size=4), st.data())
def test_an_event_is_delivered_only_by_the_answer_to_its_own_request(answers: list[bytes], data: st.DataObject) -> None:
    """Whatever a server sends, each request's status is that of the first final answer sent for it, or None."""
    cut = [content[: data.draw(st.integers(0, len(content)))] for content in answers]
    found = statuses(*(raw(content, hangs_up=True) for content in cut), count=len(cut))
    expected = [final_status(content) for content in cut]
    assert found == expected


def final_status(content: bytes) -> int | None:
    """Return the status of the first final answer, None if it is not whole."""
    while True:
        head, end, rest = content.partition(b"\r\n\r\n")
        if not end or not head.startswith(b"HTTP/1.1 "):
            return None
        status = int(head[9:12])
        if status >= 200:
            length = int(head.partition(b"Content-Length: ")[2][:1] or b"0")
            return status if len(rest) >= length else None
        content = rest

"""The tests of whoever uses this package: what replaces requests' sending there sees and answers our requests."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import httmock
import pytest
import requests
import requests_mock
import responses
from faulty_server import FaultyServer, answer

from durable_tracker import Emitter, StructuredEvent, Tracker
from durable_tracker.delivery.http_transport import REPLY_SIZE_MAX, HttpTransport
from durable_tracker.delivery.transport import Reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COLLECTOR = "http://collector.invalid"
POST = f"{COLLECTOR}/com.snowplowanalytics.snowplow/tp2"
GET = f"{COLLECTOR}/i"
EVENTS = [b'{"e":"pv","p":"web","tv":"t","page":"\xc3\xa9 & x"}']


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def sent(request: requests.PreparedRequest) -> list[dict[str, str]]:
    """Return the events in a request, as a user's test would look for them."""
    if request.method == "GET":
        return [{field: values[0] for field, values in parse_qs(urlsplit(str(request.url)).query).items()}]
    assert isinstance(request.body, bytes)
    assert request.headers["Content-Type"] == "application/json; charset=utf-8"
    data: list[dict[str, str]] = json.loads(request.body)["data"]
    return data


@pytest.fixture(params=["post", "get"])
def transport(request: pytest.FixtureRequest) -> Iterator[HttpTransport]:
    made = HttpTransport(POST if request.param == "post" else GET, method=request.param)
    yield made
    made.close()


STATUSES = {200: Reply(status=200), 503: Reply(status=503, retry_after_s=7, error="HTTP 503")}


@pytest.mark.parametrize("status", STATUSES)
def test_responses_sees_and_answers_them(transport: HttpTransport, status: int) -> None:
    """The address, the headers, the events; also an answer with a cookie."""
    headers = {"Set-Cookie": "sp=1; Path=/", "Retry-After": "7"}
    with responses.RequestsMock() as mocked:
        mocked.add(responses.POST, POST, body="ok", status=status, headers=headers)
        mocked.add(responses.GET, GET, body="ok", status=status, headers=headers)
        mocked.assert_all_requests_are_fired = False
        assert transport.send(EVENTS) == STATUSES[status]
        assert transport.send(EVENTS) == STATUSES[status]
        requests_seen = [call.request for call in mocked.calls]
    assert [json.loads(EVENTS[0])] * 2 == [event for one in requests_seen for event in sent(one)]
    assert not any("Cookie" in one.headers for one in requests_seen)


def test_what_responses_was_not_told_of_is_no_answer(transport: HttpTransport) -> None:
    """It is asked once: a connection that was never made is none that went stale."""
    with responses.RequestsMock() as mocked:
        assert transport.send(EVENTS).status is None
        assert len(mocked.calls) == 1


@pytest.mark.parametrize("status", STATUSES)
def test_requests_mock_sees_and_answers_them(transport: HttpTransport, status: int) -> None:
    """Which replaces the adapter below the session."""
    with requests_mock.Mocker() as mocked:
        mocked.register_uri(
            requests_mock.ANY, requests_mock.ANY, text="ok", status_code=status, headers={"Retry-After": "7"}
        )
        assert transport.send(EVENTS) == STATUSES[status]
        (seen,) = mocked.request_history
    assert sent(seen._request) == [json.loads(EVENTS[0])]


@pytest.mark.parametrize("status", STATUSES)
def test_httmock_sees_and_answers_them(transport: HttpTransport, status: int) -> None:
    """Which replaces `Session.send`."""
    seen: list[requests.PreparedRequest] = []

    @httmock.urlmatch(netloc=r"collector\.invalid")  # type: ignore[untyped-decorator]
    def collector(_url: Any, request: requests.PreparedRequest) -> dict[str, Any]:
        seen.append(request)
        return {"status_code": status, "content": "ok", "headers": {"Retry-After": "7", "set-cookie": "sp=1"}}

    with httmock.HTTMock(collector):
        assert transport.send(EVENTS) == STATUSES[status]
    assert sent(seen[0]) == [json.loads(EVENTS[0])]


@pytest.mark.parametrize("target", ["requests.Session.send", "requests.sessions.Session.send"])
def test_a_patched_send_sees_and_answers_them(transport: HttpTransport, target: str) -> None:
    """By whatever has a status."""
    with mock.patch(target, return_value=mock.Mock(status_code=200)) as send:
        assert transport.send(EVENTS) == Reply(status=200)
    (request,), arguments = send.call_args
    assert sent(request) == [json.loads(EVENTS[0])]
    assert arguments["allow_redirects"] is False
    for made, status in ((mock.Mock(), None), (mock.Mock(status_code=True), None), (mock.Mock(status_code=400), 400)):
        with mock.patch(target, return_value=made):
            assert status == transport.send(EVENTS).status
    with mock.patch(target, side_effect=requests.ConnectionError) as send:
        assert transport.send(EVENTS).status is None
    assert send.call_count == 1


def test_a_patched_send_may_call_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As instrumentation does, which adds headers; they do not stay."""
    real = requests.Session.send

    def send(self: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        request.headers["traceparent"] = "00-1"
        return real(self, request, **options)

    with FaultyServer() as server:
        for method in ("post", "get"):
            transport = HttpTransport(server.url, method=method)
            with monkeypatch.context() as patched:
                patched.setattr(requests.Session, "send", send)
                assert transport.send(EVENTS).status == 200
            assert transport.send(EVENTS).status == 200
            transport.close()
    assert [request.headers.get("traceparent") for request in server.requests] == ["00-1", None] * 2


def test_a_whole_tracker_is_seen(tmp_path: Path) -> None:
    """From the worker's thread, too."""
    with responses.RequestsMock() as mocked:
        mocked.add(responses.POST, POST, body="ok")
        with Tracker(Emitter(COLLECTOR, queue_dir=tmp_path, linger=0.0)) as tracker:
            tracker.track(StructuredEvent("category", "action"))
            assert tracker.flush(timeout=10)
        assert sent(mocked.calls[0].request)[0]["se_ac"] == "action"


@pytest.mark.parametrize("method", ["post", "get"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed_and_its_body_is_bounded(method: str, status: int) -> None:
    """`Session.send` alone would read the three megabytes of it, looking for where to go."""
    headers = "Location: /elsewhere\r\nSet-Cookie: sp=1; Path=/\r\n"
    with FaultyServer([answer(status, b"x" * 3_000_000, headers=headers), answer()]) as server:
        transport = HttpTransport(server.url, method=method)
        reply = transport.send(EVENTS)
        assert (reply.status, reply.error) == (status, f"HTTP {status}")
        assert not transport._session.cookies
        assert transport.send(EVENTS).status == 200
        transport.close()
    assert len(server.requests) == 2
    assert "cookie" not in server.requests[1].headers


def test_a_redirect_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its body is not read beyond the bound."""
    read: list[int] = []
    from durable_tracker.delivery.bounded_connection import Exchange

    count = Exchange.count

    def counted(self: Exchange, size: int) -> None:
        read.append(size)
        count(self, size)

    monkeypatch.setattr(Exchange, "count", counted)
    with FaultyServer([answer(302, b"x" * 3_000_000, headers="Location: /elsewhere\r\n")]) as server:
        transport = HttpTransport(server.url)
        assert transport.send(EVENTS).status == 302
        transport.close()
    assert sum(read) <= REPLY_SIZE_MAX


def test_a_mock_may_answer_by_an_http_status(tmp_path: Path) -> None:
    """It is an int."""
    with responses.RequestsMock() as mocked:
        mocked.add(responses.POST, "https://h.example/com.snowplowanalytics.snowplow/tp2", status=HTTPStatus.OK)
        with Emitter("h.example", queue_dir=tmp_path) as emitter:
            emitter.put(b'{"e":"pv"}')
            assert emitter.flush(10)

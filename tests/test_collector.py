"""The development collector answers, records and misbehaves as it is told."""

from __future__ import annotations

import http.client
import io
import json
import os
import socket
import threading
import time
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import requests

from durable_tracker.collector import Anomaly, Collector, Fault, Faults, Request
from durable_tracker.collector.validation import classify
from durable_tracker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SNOWPLOW = "com.snowplowanalytics.snowplow"
TP2 = f"/{SNOWPLOW}/tp2"
PAYLOAD_DATA = f"iglu:{SNOWPLOW}/payload_data/jsonschema/1-0-4"
TIMEOUT_S = 5.0


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def event(eid: str | None = None, **keys: str) -> dict[str, str]:
    return {"e": "pv", "p": "pc", "tv": "x", "eid": eid or str(uuid.uuid4()), "dtm": "5", "stm": "5", **keys}


def post(to: Collector, *events: Mapping[str, Any], **options: Any) -> requests.Response:
    options = {"allow_redirects": False, **options}
    return requests.post(to.url + TP2, json={"schema": PAYLOAD_DATA, "data": events}, timeout=TIMEOUT_S, **options)


def get(to: Collector, path: str, **options: Any) -> requests.Response:
    return requests.get(to.url + path, timeout=TIMEOUT_S, **options)


# What it answers


@pytest.mark.parametrize(
    ("method", "path", "status", "content_type", "length"),
    [
        ("GET", "/i?e=pv&p=pc&tv=x", 200, "image/gif", 43),
        ("HEAD", "/i?e=pv&p=pc&tv=x", 200, "image/gif", 0),
        ("GET", "/ice.png?e=pv", 200, "image/gif", 43),
        ("GET", f"{TP2}?e=pv", 200, "image/gif", 43),
        ("POST", TP2, 200, "text/plain", 2),
        ("POST", "/any.vendor/v9", 200, "text/plain", 2),
        ("POST", "/i", 404, "text/plain", None),
        ("GET", "/r/tp2?u=x", 404, "text/plain", None),
        ("GET", "/a/b/c", 404, "text/plain", None),
        ("PUT", TP2, 404, "text/plain", None),
        ("GET", "/health", 200, "text/plain", 2),
        ("OPTIONS", "/whatever", 200, "text/plain", 0),
        ("GET", "/micro/nothing", 404, "application/json", None),
    ],
)
def test_it_answers_as_a_collector_does(
    collector: Collector, method: str, path: str, status: int, content_type: str, length: int | None
) -> None:
    """Each address has its status, type and size, and CORS headers for browsers."""
    answer = requests.request(method, collector.url + path, timeout=TIMEOUT_S, headers={"Origin": "http://a"})
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == content_type
    assert answer.headers["Access-Control-Allow-Origin"] == "http://a"
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    if length is not None:
        assert len(answer.content) == length


def test_it_sets_the_sp_cookie_keeps_it_and_respects_anonymity(collector: Collector) -> None:
    """A new visitor gets an id, a known one keeps it, an anonymous one gets none."""
    fresh = get(collector, "/i?e=pv").headers["Set-Cookie"]
    assert fresh.startswith("sp=")
    assert "sp=mine" in get(collector, "/i?e=pv", headers={"Cookie": "sp=mine"}).headers["Set-Cookie"]
    assert "Set-Cookie" not in get(collector, "/i?e=pv", headers={"SP-Anonymous": "*"}).headers
    assert collector.good(limit=1)[0]["rawEvent"]["context"]["ipAddress"] == "unknown"


def test_a_body_above_the_limit_is_answered_with_413(collector: Collector) -> None:
    """The client sees the answer although it was still sending, and nothing is recorded."""
    assert post(collector, event(page="a" * 2_100_000)).status_code == 413
    assert post(collector, event(page="a" * 200)).status_code == 200
    assert collector.counts() == {"total": 1, "good": 1, "bad": 0}


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"GET /" + b"a" * 20_480 + b" HTTP/1.1\r\n\r\n",
        b"GET /i HTTP/1.1\r\nX: " + b"a" * 41_000 + b"\r\n\r\n",
        b"GET /i HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST " + TP2.encode() + b" HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["garbage", "long line", "long headers", "no colon", "bad length"],
)
def test_a_malformed_or_oversized_head_is_answered_with_400(collector: Collector, head: bytes) -> None:
    """The limits of the request line and of the headers are those of a collector, and the server lives on."""
    with socket.create_connection((collector.host, collector.port), TIMEOUT_S) as sock:
        sock.sendall(head)
        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
    assert get(collector, "/health").text == "ok"


def test_a_chunked_body_and_an_expectation_are_understood(collector: Collector) -> None:
    """Clients that stream their bodies, or ask before sending them, are served."""
    body = json.dumps({"schema": PAYLOAD_DATA, "data": [event()]}).encode()
    connection = http.client.HTTPConnection(collector.host, collector.port, timeout=TIMEOUT_S)
    headers = {"Content-Type": "application/json", "Expect": "100-continue"}
    connection.request("POST", TP2, iter([body[:20], body[20:]]), headers, encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()
    assert collector.counts() == {"total": 1, "good": 1, "bad": 0}


def test_one_connection_serves_many_requests_quickly(collector: Collector) -> None:
    """Keep-alive works, and no reply waits for a delayed acknowledgement (which would take 8 s here)."""
    connection = http.client.HTTPConnection(collector.host, collector.port, timeout=TIMEOUT_S)
    connection.connect()
    ours = connection.sock.getsockname()
    for _ in range(200):
        connection.request("GET", "/i?e=pv&p=pc&tv=x")
        assert connection.getresponse().read()
    assert connection.sock.getsockname() == ours
    connection.close()
    assert collector.counts()["good"] == 200


# What it records


def test_good_and_bad_are_told_apart_and_shown_as_micro_shows_them(collector: Collector) -> None:
    """The endpoints and the methods give the same views, newest first, and reset empties them."""
    first, second = event(), event(e="pp")
    post(collector, first, second, event(eid="1"))
    post(collector, {"nope": "1"})
    assert get(collector, "/micro/all").json() == {"total": 4, "good": 2, "bad": 2}
    good = get(collector, "/micro/good").json()
    assert [entry["rawEvent"]["parameters"] for entry in good] == [second, first]
    assert set(good[0]) == {"rawEvent", "eventType", "schema", "contexts", "event", "incomplete"}
    assert good[0]["rawEvent"]["api"] == {"vendor": SNOWPLOW, "version": "tp2"}
    assert (second["eid"], "page_ping", 5) == tuple(
        good[0]["event"][key] for key in ("event_id", "event", "dvce_created_tstamp")
    )
    assert collector.good() == good

    whole, single = get(collector, "/micro/bad").json()
    assert whole["rawEvent"] is None
    assert json.loads(whole["errors"][1])["schema"].endswith("tracker_protocol_violations/jsonschema/1-0-1")
    assert single["rawEvent"]["parameters"]["eid"] == "1"
    assert "schema_violations: eid" in single["errors"][0]
    assert get(collector, "/micro/reset").json() == {"total": 0, "good": 0, "bad": 0}
    assert [*collector.events, *collector.good(), *collector.bad(), *collector.eids(), *collector.anomalies] == []


def test_the_views_can_be_filtered(collector: Collector) -> None:
    """Filters by type, schema, contexts and number work over HTTP; nonsense is a 400."""
    inner = "iglu:com.example/c/jsonschema/1-0-0"
    envelope = f"iglu:{SNOWPLOW}/contexts/jsonschema/1-0-1"
    post(collector, event(), event(e="pp", co=json.dumps({"schema": envelope, "data": [{"schema": inner, "data": 1}]})))
    post(collector)

    def found(view: str, **wanted: Any) -> int:
        return len(requests.post(f"{collector.url}/micro/{view}", json=wanted, timeout=TIMEOUT_S).json())

    assert (
        found("good", event_type="page_ping"),
        found("good", contexts=[inner]),
        found("good", contexts=[inner, "iglu:other/c/jsonschema/1-0-0"]),
    ) == (1, 1, 0)
    assert (found("good", limit=1), found("good")) == (1, 2)
    assert found("good", schema=f"iglu:{SNOWPLOW}/page_view/jsonschema/1-0-0") == 1
    assert (found("bad", vendor=SNOWPLOW, version="tp2"), found("bad", vendor="com.example")) == (1, 0)
    assert requests.post(f"{collector.url}/micro/good", data="[", timeout=TIMEOUT_S).status_code == 400


def test_the_schemas_are_served(collector: Collector) -> None:
    """A schema that the collector judges by can be fetched; another one is a 404."""
    path = f"/micro/iglu/{SNOWPLOW}/link_click/jsonschema/1-0-1"
    assert get(collector, path).json()["self"]["name"] == "link_click"
    assert get(collector, path.replace("link_click", "nothing")).status_code == 404


def test_resends_are_counted_and_a_changed_one_is_reported(collector: Collector) -> None:
    """Ids count how often they came, and only `stm` may differ between two sendings, forwards."""
    eid = str(uuid.uuid4())
    post(collector, event(eid, stm="10"))
    post(collector, event(eid, stm="11"))
    assert (dict(collector.eids()), collector.anomalies) == ({eid: 2}, [])
    assert [str(ms) for ms in (10, 11)] == [kept["stm"] for kept in collector.events]
    post(collector, event(eid, stm="12", uid="other"))
    post(collector, event(eid, stm="9"))
    assert collector.anomalies == [
        Anomaly(eid, "sent again with other content: uid"),
        Anomaly(eid, "sent again without a fresh stm: 12, then 9"),
    ]
    assert get(collector, "/micro/anomalies").json()[0]["eid"] == eid


def test_what_a_careful_tracker_never_sends_is_reported(collector: Collector) -> None:
    """Good events may still lack an id or a sane `stm`, or come with a cookie."""
    early = event(dtm="6")
    post(collector, early, {"e": "pv", "p": "pc", "tv": "x"}, headers={"Cookie": "sp=a"})
    assert collector.anomalies == [
        Anomaly(None, "request 1 sent a cookie back"),
        Anomaly(early["eid"], "stm 5 is before dtm 6"),
        Anomaly(None, "an event without an eid"),
    ]


def test_memory_is_bounded_and_the_counts_are_exact() -> None:
    """Only the newest events are kept, and all are counted."""
    with Collector(keep=3) as collector:
        sent = [event() for _ in range(10)]
        post(collector, *sent)
        assert (sent[-3:], 10, 10) == (collector.events, collector.counts()["good"], len(collector.eids()))


def test_every_good_event_is_written_out_before_its_answer() -> None:
    """The stream gets one line of JSON for each good event, resends included, and none for a bad one."""
    out = io.BytesIO()
    with Collector(out=out, record=False) as collector:
        sent = event(page="ü\n")
        post(collector, sent, sent, event(eid="1"))
        assert [json.loads(line) for line in out.getvalue().splitlines()] == [sent, sent]


@pytest.mark.parametrize(("record", "kept"), [(True, 3), (False, 0)])
def test_without_validation_it_only_reads_or_only_counts(record: bool, kept: int) -> None:
    """The fast ways count every event, also one that a pipeline would refuse."""
    with Collector(validate=False, record=record) as collector:
        post(collector, event(), event(co='{"eid": "x"}'))
        get(collector, f"/i?eid={uuid.uuid4()}&e=nonsense")
        assert (collector.counts()["good"], len(collector.events)) == (3, kept)
        assert sum(collector.eids().values()) == kept


def test_many_clients_at_once_lose_no_count(collector: Collector) -> None:
    """Eight threads with connections of their own are counted exactly."""

    def send(_: int) -> None:
        with requests.Session() as session:
            for _ in range(20):
                body = {"schema": PAYLOAD_DATA, "data": [event(), event()]}
                assert session.post(collector.url + TP2, json=body, timeout=TIMEOUT_S).status_code == 200

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(8)))
    assert (collector.counts()["good"], len(collector.eids()), collector.requests) == (320, 320, 160)


def test_waiting_ends_when_everything_has_arrived_or_the_time_is_up(collector: Collector) -> None:
    """`wait` returns at once on arrival, and False at its deadline."""
    assert not collector.wait(events=1, timeout_s=0.01)
    sender = threading.Thread(target=post, args=(collector, event(), event(eid="1")))
    sender.start()
    assert collector.wait(events=1, bad=1, distinct=1, requests=1, timeout_s=TIMEOUT_S)
    sender.join()


# How it misbehaves


def test_a_script_decides_request_by_request(collector: Collector) -> None:
    """Each item of the script befalls one request; afterwards all is well again."""
    collector.script = [Fault(status=503, headers={"Retry-After": "7"}), None, Fault(status=400, body=b"no")]
    answers = [post(collector, event()) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [503, 200, 400, 200]
    assert (answers[0].headers["Retry-After"], answers[2].content) == ("7", b"no")
    assert collector.counts()["good"] == 2
    assert get(collector, "/health").ok


def test_a_script_can_look_into_the_request(collector: Collector) -> None:
    """A callable sees path, headers and events, and can refuse a batch for one of them."""
    seen: list[tuple[int, str]] = []

    def poison(request: Request) -> Fault | None:
        seen.append((request.number, request.headers["content-type"]))
        return Fault(status=400) if any(sent.get("aid") == "poison" for sent in request.events) else None

    collector.script = poison
    assert [post(collector, event(aid=aid)).status_code for aid in ("a", "poison", "b")] == [200, 400, 200]
    assert [number for number, _ in seen] == [1, 2, 3]
    assert [kept["aid"] for kept in collector.events] == ["a", "b"]


@pytest.mark.parametrize(
    ("fault", "stored"),
    [
        (Fault(reset_before=True), 0),
        (Fault(reset_after_read=True), 0),
        (Fault(reset_after_store=True), 1),
        (Fault(truncate=True), 1),
        (Fault(hang=True), 0),
        (Fault(hang=True, store=True), 1),
        (Fault(delay_s=60), 1),
    ],
    ids=["reset before", "reset after reading", "lost answer", "truncated", "hangs", "stores, hangs", "late"],
)
def test_an_answer_that_does_not_come_is_seen_as_such(collector: Collector, fault: Fault, stored: int) -> None:
    """The client gets no complete answer in time; whether the events were stored is up to the fault."""
    collector.script = [fault]
    body = json.dumps({"schema": PAYLOAD_DATA, "data": [event()]})
    connection = http.client.HTTPConnection(collector.host, collector.port, timeout=0.2)

    def exchange() -> None:
        connection.request("POST", TP2, body, {"Content-Type": "application/json"})
        connection.getresponse().read()

    with pytest.raises((OSError, http.client.HTTPException)):
        exchange()
    connection.close()
    assert collector.counts()["good"] == stored


def test_a_dripping_answer_outlives_the_deadline_of_each_read(collector: Collector) -> None:
    """The answer comes whole, but byte by byte, so that only a total deadline could end it."""
    collector.script = [Fault(drip_s=0.002)]
    connection = http.client.HTTPConnection(collector.host, collector.port, timeout=0.2)
    connection.request("GET", "/i?e=pv")
    began = time.monotonic()
    assert len(connection.getresponse().read()) == 43
    assert time.monotonic() - began > 0.4
    connection.close()


def test_a_lost_answer_leads_to_a_resend_that_is_counted(collector: Collector) -> None:
    """Stored, but the answer is lost: the same event comes twice."""
    collector.script = [Fault(reset_after_store=True)]
    sent = event()
    with pytest.raises(requests.ConnectionError):
        post(collector, sent)
    assert post(collector, sent).status_code == 200
    assert collector.eids()[sent["eid"]] == 2


def test_a_followed_redirect_is_answered_but_stores_nothing(collector: Collector) -> None:
    """A client that follows a 301 turns its POST into an empty GET, and the 200 means nothing."""
    collector.script = [Fault(redirect=TP2), None]
    answer = post(collector, event(), allow_redirects=True)
    assert (answer.status_code, [step.status_code for step in answer.history]) == (200, [301])
    assert collector.counts() == {"total": 1, "good": 0, "bad": 1}


def test_a_status_that_stores_all_the_same_is_possible(collector: Collector) -> None:
    """An error after the fact is an answer, too."""
    collector.script = [Fault(status=500, store=True), Fault(status=204, store=False)]
    assert [post(collector, event()).status_code for _ in range(2)] == [500, 204]
    assert collector.counts()["good"] == 1


def test_down_refuses_connections_and_up_takes_the_same_port_again(collector: Collector) -> None:
    """An outage refuses new connections and ends the open ones; the port stays the same."""
    with requests.Session() as session:
        assert session.get(collector.url + "/health", timeout=TIMEOUT_S).ok
        for _ in range(3):
            collector.down()
            with pytest.raises(requests.ConnectionError, match="refused"):
                session.get(collector.url + "/health", timeout=TIMEOUT_S)
            collector.down()
            collector.up()
            collector.up()
            assert session.get(collector.url + "/health", timeout=TIMEOUT_S).ok


def test_it_can_start_down() -> None:
    """The port is known and refuses before the first `up`."""
    with Collector(up=False) as collector:
        with pytest.raises(requests.ConnectionError, match="refused"):
            post(collector, event())
        collector.up()
        assert post(collector, event()).ok


def test_an_outage_goes_before_the_script(collector: Collector) -> None:
    """While it lasts every request meets it, and the script waits."""
    collector.script = [Fault(status=429)]
    collector.outage = Fault(status=503)
    assert [post(collector, event()).status_code for _ in range(2)] == [503, 503]
    collector.outage = None
    assert [post(collector, event()).status_code for _ in range(2)] == [429, 200]


def test_random_faults_are_repeatable_and_about_as_frequent_as_asked() -> None:
    """One seed gives one sequence, and the shares are those of the probabilities."""
    faults = [
        Faults(fail=[(503, 0.2), (429, 0.1)], lose_answer=0.1, reset=0.1, retry_after="3", seed=seed)
        for seed in (1, 1, 2)
    ]
    request = Request(
        number=1, method="GET", path="/i", query="", headers={}, header_lines=(), peer="", received_ms=0,
        network_user_id="", read_body=bytes,
    )  # fmt: skip
    first, again, other = [[draw(request) for _ in range(4000)] for draw in faults]
    assert first == again
    assert first != other
    shares = {
        "503": sum(fault is not None and fault.status == 503 for fault in first) / 4000,
        "429": sum(fault is not None and fault.status == 429 for fault in first) / 4000,
        "lost": sum(fault is not None and fault.reset_after_store for fault in first) / 4000,
        "none": first.count(None) / 4000,
    }
    assert pytest.approx(shares, abs=0.03) == {"503": 0.2, "429": 0.1, "lost": 0.1, "none": 0.5}
    assert all(fault.headers == {"Retry-After": "3"} for fault in first if fault is not None and fault.status)


def test_latency_is_added_to_every_answer() -> None:
    """A range of latency befalls good and failed requests alike."""
    with Collector(faults=Faults(fail=[(503, 0.5)], latency_s=(0.01, 0.02), seed=1)) as collector:
        took = [post(collector, event()).elapsed.total_seconds() for _ in range(5)]
        assert min(took) >= 0.01


@pytest.mark.parametrize(
    "make",
    [
        lambda: Faults(fail=[(503, 0.6)], reset=0.6),
        lambda: Faults(lose_answer=-0.1),
        lambda: Faults(latency_s=(2, 1)),
        lambda: Faults(fail=[(99, 0.1)]),
        lambda: Fault(status=100),
        lambda: Fault(delay_s=-1),
    ],
)
def test_impossible_faults_are_refused(make: Any) -> None:
    """Probabilities, statuses and times are checked when a fault is made."""
    with pytest.raises(ConfigurationError):
        make()


# Its life


def test_it_closes_at_once_even_while_requests_hang() -> None:
    """Waiting, hanging and idle connections all end with the collector, and it can be closed twice."""
    with Collector(script=[Fault(hang=True), Fault(delay_s=60), Fault(drip_s=30)]) as collector:
        clients = [socket.create_connection((collector.host, collector.port), TIMEOUT_S) for _ in range(4)]
        for client in clients[:3]:
            client.sendall(b"GET /i?e=pv HTTP/1.1\r\n\r\n")
        assert collector.wait(requests=3)
        collector.close()
    collector.close()
    for client in clients:
        with client:
            client.settimeout(TIMEOUT_S)
            try:
                while client.recv(100):
                    pass
            except ConnectionResetError:
                pass
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("collector-")]


def test_it_speaks_tls_on_demand(tls_context: Any) -> None:
    """With a context it serves https, and survives a client that does not speak it."""
    server, authority = tls_context
    with Collector(ssl_context=server) as collector:
        with pytest.raises(requests.ConnectionError):
            requests.get(collector.url.replace("https", "http") + "/health", timeout=TIMEOUT_S)
        assert collector.url.startswith("https://")
        assert post(collector, event(), verify=authority).ok


@pytest.fixture(scope="module")
def tls_context(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import shutil
    import ssl
    import subprocess

    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, so there is no certificate to serve")
    folder: Path = tmp_path_factory.mktemp("tls")
    certificate, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_holds_no_part_of_it(collector: Collector) -> None:
    """Going down refuses connections although a child was forked while it was up."""
    session = requests.Session()
    session.get(collector.url + "/health", timeout=TIMEOUT_S)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is the point
        child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        collector.close()
        os._exit(0)
    os.close(reading)
    collector.down()
    with pytest.raises(requests.ConnectionError, match="refused"):
        requests.get(collector.url + "/health", timeout=TIMEOUT_S)
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
    collector.up()
    assert get(collector, "/health").ok
    session.close()


def test_the_official_trackers_events_pass(collector: Collector) -> None:
    """An independent implementation of the protocol finds its events judged good, so the judge is not too strict."""
    snowplow = pytest.importorskip("snowplow_tracker")
    tracker = snowplow.Tracker(
        namespace="ns",
        app_id="app",
        emitters=snowplow.Emitter(collector.url, batch_size=1, request_timeout=TIMEOUT_S),
        subject=snowplow.Subject().set_user_id("ü").set_screen_resolution(10, 20).set_viewport(3, 4),
    )
    context = [
        snowplow.SelfDescribingJson(
            f"iglu:{SNOWPLOW}/geolocation_context/jsonschema/1-0-0", {"latitude": -23.2, "longitude": 43.0}
        )
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        tracker.track_page_view("http://a", "b", "http://c", context=context, tstamp=5)
        tracker.track_page_ping("http://a", min_x=0, max_x=9)
        tracker.track_link_click("http://a", element_classes=["b"])
        tracker.track_add_to_cart("sku", 1, unit_price=1.5)
        tracker.track_remove_from_cart("sku", 1)
        tracker.track_form_change("f", "e", "INPUT", "v", "text")
        tracker.track_form_submit("f", elements=[{"name": "n", "value": "v", "nodeName": "INPUT"}])
        tracker.track_site_search(["a"], {"b": True}, 3, 4)
        tracker.track_ecommerce_transaction("o", 1.5, items=[{"sku": "s", "price": 2, "quantity": 3}])
        tracker.track_screen_view("name", "id")
        tracker.track_mobile_screen_view("name")
        tracker.track_struct_event("c", "a", "l", "p", 1e16)
    assert [row["errors"][0] for row in collector.bad()] == []
    assert collector.counts()["good"] == 13
    assert {entry["eventType"] for entry in collector.good()} == {
        "page_view",
        "page_ping",
        "unstruct",
        "struct",
        "transaction",
        "transaction_item",
    }


def test_an_unexpected_error_in_the_judgement_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of the collector breaks the connection and shows in the thread's report, not as a 200."""
    reports: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reports.append)

    def broken(*_args: object, **_options: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(f"{Collector.__module__}.{classify.__name__}", broken)
    with Collector() as collector, pytest.raises(requests.ConnectionError):
        post(collector, event())
    assert [report.exc_type for report in reports] == [RuntimeError]

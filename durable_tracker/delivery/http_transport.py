"""The HTTP request that carries events to a Snowplow collector.

Requests are sent by a `requests.Session` of the transport's own, so that whatever replaces `Session.send` or
`HTTPAdapter.send` in a test (`responses`, `requests_mock`, `httmock`, a mock) sees them. That session follows no
redirect, keeps no cookie (the collector's `sp` would give all users of a server one identity) and reads no `.netrc`.
Proxies (`HTTPS_PROXY`, `NO_PROXY`, ...) and CA bundles (`REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`) are taken from the
environment once, when the transport is made.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
import ssl
import threading
import time
from collections import OrderedDict
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.cookies import RequestsCookieJar
from requests.structures import CaseInsensitiveDict
from requests.utils import default_headers
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError, NameResolutionError, ReadTimeoutError

from durable_tracker.delivery.bounded_connection import POOL_CLASSES, Exchange, ReplyTooLargeError, current
from durable_tracker.delivery.transport import PAYLOAD_DATA_HEAD, PAYLOAD_DATA_TAIL, Reply, qualified_name
from durable_tracker.errors import ConfigurationError
from durable_tracker.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Session = requests.Session

CONTENT_TYPE = "application/json; charset=utf-8"
"""The collector throws a POST of any other type away and answers 200, so it is not configurable."""

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 20.0
DEADLINE_S = 30.0

BODY_SIZE_MAX = 64 * 1024
"""Bytes of an answer's body that are read, and thrown away, to keep the connection; a longer one costs it."""

REPLY_SIZE_MAX = BODY_SIZE_MAX + 192 * 1024
"""Bytes of an answer, headers included, at which the exchange is broken off."""

_OWN_HEADERS = frozenset({"content-length", "transfer-encoding", "content-encoding", "connection", "expect", "te"})
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110, section 5.5
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")  # RFC 3986 allows no other character in a URL
_RETRY_AFTER_DIGITS_MAX = 9

# First match wins: a ConnectTimeout is a ConnectionError too. The text says nothing but the kind of failure, since
# the exceptions' own texts hold addresses, targets and, with proxies, credentials.
_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (requests.ConnectTimeout, "no connection in time"),
    (requests.Timeout, "no complete answer in time"),
    (requests.exceptions.SSLError, "TLS failed"),
    (requests.exceptions.ProxyError, "the proxy failed"),
    (requests.ConnectionError, "the connection failed"),
    (requests.exceptions.InvalidProxyURL, "the proxy's address is not usable"),
    (requests.exceptions.InvalidHeader, "the answer's headers are not HTTP"),
    (requests.RequestException, "the request failed"),
    (ReadTimeoutError, "no complete answer in time"),
    (HTTPError, "the answer was broken off"),
    (OSError, "the connection failed"),
)


class _Adapter(HTTPAdapter):
    """requests' adapter over connections that keep to a deadline, and without its cookies."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOL_CLASSES

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not str(proxy).lower().startswith("socks"):  # those bring connection classes of their own
            manager.pool_classes_by_scheme = POOL_CLASSES
        return manager

    def close_pools(self) -> None:
        """Close idle connections: urllib3 leaves that to finalisers, which an exit handler comes too late for."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 (not a dict)
                if (pool := manager.pools.get(key)) is not None:
                    pool.close()

    def forget_pools(self) -> None:
        """Give idle connections up without closing them."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 (not a dict)
                pool = manager.pools.get(key)
                while pool is not None and pool.pool is not None and not pool.pool.empty():
                    connection = pool.pool.get(block=False)
                    if connection is not None and connection.sock is not None:
                        connection.sock.detach()
                        connection.sock = None

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """Return the target without a GET's event, which the connection appends: urllib3 logs the target at DEBUG."""
        return str(super().request_url(request, proxies)).removesuffix(current.get().query)

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        response = requests.Response()
        response.status_code = resp.status
        response.reason = resp.reason
        response.headers = CaseInsensitiveDict(resp.headers)
        response.raw = resp
        response.url = req.url or ""
        response.request = req
        response.connection = self
        return response


class _NoCookies(RequestsCookieJar):
    """A jar that takes nothing."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        pass

    def set_cookie(self, cookie: Any, *args: Any, **kwargs: Any) -> None:
        pass

    def copy(self) -> _NoCookies:
        return self


class _Session(requests.Session):
    """requests' session without a memory. `send` is not overridden: whoever patches it sees the requests."""

    def __init__(self, adapter: BaseAdapter, given: requests.Session | None) -> None:
        super().__init__()
        self.cookies = _NoCookies()
        if given is not None:
            self.trust_env, self.verify, self.cert = given.trust_env, given.verify, given.cert
            self.proxies = dict(given.proxies)
        self.adapters.clear()
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def get_redirect_target(self, _resp: requests.Response) -> None:
        """Return None: of an answer with a target `Session.send` reads the whole body, also with `stream=True`."""


class HttpTransport:
    """Sends events to one collector over kept-alive connections. Keeps the contract of `Transport`.

    Safe to use from any number of threads. It belongs to the process that made it: connections are not to be
    shared across a fork.

    Args:
        url: the collector's complete address with the path, such as
            `https://c.example/com.snowplowanalytics.snowplow/tp2` for POST and `https://c.example/i` for GET.
            User and password in it become an Authorization header.
        method: "post" sends any number of events in one payload_data envelope; "get" sends exactly one in the
            query string.
        headers: sent with every request; never logged. `User-Agent` is "durable-tracker" unless these or the session's
            headers have one of their own, and stands in the column `useragent` of an event without `ua`.
        request_timeout: seconds, as in requests: one number, or (connect, read). A read timeout bounds the wait
            for the next bytes. None means 10 and 20.
        deadline_s: seconds for the whole exchange, from the last progress of the body to the last byte of the
            answer. None means 30, or what `request_timeout` allows if that is more.
        connections: how many idle connections are kept; as many as there are senders.
        session: a `requests.Session`. Its headers, auth, proxies, verify, cert and trust_env are read once, here, and
            are used as requests uses them, but for `.netrc`, which is not read. It is never sent with itself: its
            cookies, hooks, params, and what a subclass overrides are not used. `headers` win over its headers. An
            `auth` that is a function is called with each request, by as many threads as send. Retries that requests'
            own adapter was given are not made: what is sent again, and when, is decided above a transport.
            An adapter that is mounted for `url` and is not requests' own class is used as it is, for each request. No
            redirect is followed and no cookie kept then either. What cannot be had with it: the bound on an answer's
            headers, the deadline for the whole exchange (its own timeouts remain), breaking off at `close`, and no
            more than one try, if it makes tries of its own. It is not closed here; its connections are not to be
            shared across a fork; and for a GET urllib3 logs the event at DEBUG. A warning says so once.
        wall: returns seconds since the epoch; used for a Retry-After date in an answer without a Date only.

    Attributes:
        adapter_name: the qualified name of an adapter of the session that sends, None if requests' own does.

    Raises:
        ConfigurationError: an argument is not usable; the message does not repeat a URL or a header's value.
    """

    def __init__(
        self,
        url: str,
        *,
        method: str = "post",
        headers: Mapping[str, str] | None = None,
        request_timeout: float | tuple[float | None, float | None] | None = None,
        deadline_s: float | None = None,
        connections: int = 1,
        session: requests.Session | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if method not in ("post", "get"):
            raise ConfigurationError(f"method: {method!r} is neither 'post' nor 'get'")
        if connections < 1:
            raise ConfigurationError(f"connections: {connections!r} is less than 1")
        self._method = method
        self._wall = wall
        self._connect_timeout_s, self._read_timeout_s = _timeouts(request_timeout)
        self.deadline_s = (
            max(DEADLINE_S, self._connect_timeout_s + self._read_timeout_s)
            if deadline_s is None
            else _seconds("deadline_s", deadline_s)
        )
        if session is not None:
            session = settings_of(session)
        self._template, self._query = _template(url, method, _headers_of(session) | _checked(headers or {}))
        self._auth = session.auth if session is not None else None
        self._adapter = _Adapter(pool_connections=2, pool_maxsize=connections)
        adapter = _mounted(session, url)
        self.adapter_name = None if adapter is None else qualified_name(type(adapter))
        self._session = _Session(adapter or self._adapter, session)
        # Once: with each request they would cost more than the request.
        environment = self._session.merge_environment_settings(self._template.url or url, {}, None, None, None)
        self._proxies = environment["proxies"]
        self._verify: bool | str = True if environment["verify"] in (None, "") else environment["verify"]
        self._cert = environment["cert"]
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._closed = False
        self._exchanges: set[Exchange] = set()

    def __repr__(self) -> str:
        return f"HttpTransport({self._method} {urlsplit(self._template.url or '').hostname})"

    def send(self, events: Sequence[bytes]) -> Reply:
        """Send `events` in one request; see `Transport.send`.

        A kept connection that the collector closed while it was idle is not an outage: if a reused connection
        fails before any byte of an answer, the request is sent once more on a new one. That can deliver the same
        events twice, which the contract (at least once) allows.

        Raises:
            ValueError: the method is "get" and there is not exactly one event.
        """
        return self._send(self._request(events), None)

    def send_body(self, body: bytes) -> Reply:
        """Send the body of a POST as it is; otherwise as `send`."""
        return self._send((self._with_body(body), ""), None)

    def send_and(self, events: Sequence[bytes], meanwhile: Callable[[], object]) -> Reply:
        """As `send`; see `OverlappingTransport.send_and`."""
        return self._send(self._request(events), meanwhile)

    def _send(self, made: tuple[requests.PreparedRequest, str], meanwhile: Callable[[], object] | None) -> Reply:
        request, query = made
        deadline = time.monotonic() + self.deadline_s
        exchange = self._exchange(deadline, query, meanwhile)
        reply = self._attempt(request, exchange)
        if reply is None:
            # Others that were idle as long are as dead; without this the second try would get one of them.
            self._adapter.close()
            reply = self._attempt(request, self._exchange(deadline, query, exchange.meanwhile), fresh=True)
        return reply or Reply(status=None, error="the connection failed")

    def close(self) -> None:
        """Close idle connections and break off the exchanges under way; sending answers "closed" from now on."""
        with self._lock:
            self._closed = True
            exchanges = list(self._exchanges)
        for exchange in exchanges:
            exchange.abort()
        self._adapter.close_pools()
        self._adapter.close()

    def forget(self) -> None:
        """Give idle connections up: their descriptors were closed under this process, and may be other files' now."""
        self._adapter.forget_pools()

    def _exchange(self, deadline: float, query: str, meanwhile: Callable[[], object] | None) -> Exchange:
        return Exchange(
            deadline_s=deadline - time.monotonic(),
            read_timeout_s=self._read_timeout_s,
            reply_size_max=REPLY_SIZE_MAX,
            query=query,
            meanwhile=meanwhile,
        )

    def _request(self, events: Sequence[bytes]) -> tuple[requests.PreparedRequest, str]:
        if self._method == "get":
            if len(events) != 1:
                raise ValueError(f"a GET carries exactly one event, not {len(events)}")
            request = self._empty_request()
            query = self._query + urlencode(json.loads(events[0]))
            request.url = f"{request.url}{query}"
            return request, query
        # Joined once: to copy so many bytes, to memory that is new each time, costs as much as sending them.
        parts = [part for event in events for part in (b",", event)]
        return self._with_body(b"".join([PAYLOAD_DATA_HEAD, *parts[1:], PAYLOAD_DATA_TAIL])), ""

    def _with_body(self, body: bytes) -> requests.PreparedRequest:
        request = self._empty_request()
        request.body = body
        request.headers["Content-Length"] = str(len(body))
        return request

    def _empty_request(self) -> requests.PreparedRequest:
        request, template = requests.PreparedRequest(), self._template
        request.method, request.url, request.headers = template.method, template.url, template.headers.copy()
        return request

    def _attempt(self, request: requests.PreparedRequest, exchange: Exchange, *, fresh: bool = False) -> Reply | None:
        """Return what came of it, or None if it died on a stale connection."""
        with self._lock:
            if self._closed:
                return Reply(status=None, error="the transport is closed")
            self._exchanges.add(exchange)
        token = current.set(exchange)
        try:
            return self._answer(request, exchange)
        except Exception as exc:  # noqa: BLE001 - whatever requests and its environment can raise is no answer
            stale = exchange.reused and not exchange.received and isinstance(exc, requests.ConnectionError)
            if stale and not fresh and not isinstance(exc, requests.Timeout):
                return None
            was_slow = exchange.is_unsent and any(isinstance(cause, TimeoutError) for cause in _causes(exc))
            return Reply(status=None, error=failure_text(exc), is_unsent=was_slow)
        finally:
            current.reset(token)
            with self._lock:
                self._exchanges.discard(exchange)

    def _answer(self, request: requests.PreparedRequest, exchange: Exchange) -> Reply:
        if self._auth is not None:
            request._cookies = self._session.cookies  # type: ignore[attr-defined]  # noqa: SLF001 (digest's answer reads it)
            request.prepare_auth(self._auth)
        left_s = exchange.left_s()
        response = self._session.send(
            request,
            stream=True,
            timeout=(min(self._connect_timeout_s, left_s), min(self._read_timeout_s, left_s)),
            verify=self._verify,
            cert=self._cert,
            proxies=self._proxies,
            allow_redirects=False,
        )
        _read_to_the_end(response.raw)
        status = response.status_code
        if not isinstance(status, int) or isinstance(status, bool):
            return Reply(status=None, error="the answer has no status")  # from a mock that was given none
        status = int(status)  # of an HTTPStatus
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return Reply(status=status)
        after = response.headers.get("Retry-After")
        after_s = retry_after_s(after, response.headers.get("Date"), self._wall) if isinstance(after, str) else None
        return Reply(status=status, retry_after_s=after_s, error=f"HTTP {status}")


def _read_to_the_end(raw: Any) -> None:
    """Read an answer's body, within its bound, and give its connection back.

    Raises:
        Exception: the body is not complete.
    """
    if not isinstance(raw, BaseHTTPResponse):
        return  # the answer of a mock, which has no connection
    size = 0
    try:
        # Only a body that was read to its end keeps the connection. A short one raises at the read after its last:
        # then the answer is not complete, whatever its status.
        while size <= BODY_SIZE_MAX and (piece := raw.read(BODY_SIZE_MAX + 1 - size, decode_content=False)):
            size += len(piece)
    except BaseException:
        raw.close()
        raise
    if size > BODY_SIZE_MAX:
        raw.close()
    raw.release_conn()


def retry_after_s(value: str | None, date: str | None, wall: Callable[[], float]) -> float | None:
    """Return the seconds that a Retry-After field asks for, or None if it says nothing usable.

    RFC 9110, section 10.2.3: whole seconds, or an HTTP date. A date is taken relative to the answer's own Date, so
    that a wrong clock here does not matter; one in the past means no delay.

    Args:
        value: the field's value, None if there is none.
        date: the answer's Date field.
        wall: returns seconds since the epoch; asked only if `date` is not usable.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:_RETRY_AFTER_DIGITS_MAX]) if len(value) <= _RETRY_AFTER_DIGITS_MAX else 1e9
    then = _timestamp(value)
    if then is None:
        return None
    now = _timestamp(date)
    return max(then - (wall() if now is None else now), 0.0)


def failure_text(exc: BaseException) -> str:
    """Return what went wrong, in words that hold no address, no payload and no credential."""
    text = next((text for kind, text in _FAILURES if isinstance(exc, kind)), type(exc).__name__)
    for cause in _causes(exc):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS failed: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason}"
        if isinstance(cause, ReplyTooLargeError):
            return "the answer was too large"
        if isinstance(cause, NameResolutionError):
            return "the host's name could not be resolved"
        if isinstance(cause, TimeoutError):
            continue  # its kind is said already, and its text may be anything
        if type(cause).__module__ == "builtins" and isinstance(cause, OSError) and cause.strerror:
            return f"{text}: {cause.strerror}"
    return text


def _causes(exc: BaseException) -> list[BaseException]:
    """Return the exception and all that it wraps, in any of the ways that requests and urllib3 wrap."""
    found: list[BaseException] = []
    waiting: list[Any] = [exc]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and all(one is not other for other in found):
            found.append(one)
            waiting += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
    return found


def _timestamp(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
        raise ConfigurationError(f"{name}: {value!r} is not a positive number of seconds")
    return float(value)


def _timeouts(value: object) -> tuple[float, float]:
    connect, read = value if isinstance(value, tuple) and len(value) == 2 else (value, value)  # noqa: PLR2004
    return (
        CONNECT_TIMEOUT_S if connect is None else _seconds("request_timeout", connect),
        READ_TIMEOUT_S if read is None else _seconds("request_timeout", read),
    )


def _template(url: str, method: str, headers: Mapping[str, str]) -> tuple[requests.PreparedRequest, str]:
    """Check the address and the headers; return the request without its events, and its query's start."""
    if not isinstance(url, str) or not _VISIBLE_ASCII.fullmatch(url):
        raise ConfigurationError("url: it holds a space, a control character or one that is not ASCII")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.fragment
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError("url: it is not an absolute http or https address without a fragment")
    fields = CaseInsensitiveDict({"User-Agent": "durable-tracker"})
    fields.update(headers)
    if method == "post":
        fields["Content-Type"] = CONTENT_TYPE
        query = ""
    else:
        query = "&" if parts.query else "?"
    try:
        template = requests.Request(method.upper(), urlunsplit(parts), headers=fields).prepare()
    except (requests.RequestException, ValueError):
        raise ConfigurationError("url: requests cannot use it") from None
    template.headers.pop("Content-Length", None)
    return template, query


def settings_of(session: requests.Session) -> requests.Session:
    """Return a session that has the settings of another one, as they are now. See `HttpTransport`.

    Raises:
        ConfigurationError: it is no session of requests.
    """
    if not isinstance(session, requests.Session):
        raise ConfigurationError(f"session: must be a requests.Session, but is of type {type(session).__name__}")
    if any(getattr(type(session), name) is not getattr(requests.Session, name) for name in ("request", "send")):
        _say_once(type(session), "transport.session_not_sent_with", "only its settings and its adapters are used")
    made = requests.Session()
    made.headers, made.proxies = CaseInsensitiveDict(session.headers), dict(session.proxies)
    made.auth, made.trust_env, made.verify, made.cert = session.auth, session.trust_env, session.verify, session.cert
    made.adapters = OrderedDict(session.adapters)
    return made


def _headers_of(session: requests.Session | None) -> dict[str, str]:
    """Return what a session adds to requests' own headers, without those of the framing.

    Raises:
        ConfigurationError: a header is not usable.
    """
    if session is None:
        return {}
    usual = default_headers()
    fields = {}
    for name, value in session.headers.items():
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        is_ours = str(name).lower() in _OWN_HEADERS | {"content-type"}
        if text is not None and not is_ours and usual.get(name) != text:
            fields[name] = text
    try:
        return _checked(fields)
    except ConfigurationError as exc:
        raise ConfigurationError(f"session: {exc}") from None


def _mounted(session: requests.Session | None, url: str) -> BaseAdapter | None:
    """Return what a session has mounted for an address, None if that is of requests' own class."""
    if session is None:
        return None
    try:
        adapter = session.get_adapter(url)
    except requests.exceptions.InvalidSchema:
        raise ConfigurationError("session: no adapter is mounted for the collector's address") from None
    if type(adapter) is HTTPAdapter:
        return None
    limits = "no bound on an answer's headers, no deadline for the exchange, tries of its own, not broken off at close"
    _say_once(type(adapter), "transport.adapter_of_the_session", limits)
    return adapter


_said: set[tuple[str, type]] = set()


def _say_once(kind: type, event: str, what: str) -> None:
    if (event, kind) not in _said:
        _said.add((event, kind))
        logger.warning(event, extra={"type": f"{kind.__module__}.{kind.__qualname__}", "what": what})


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers without a Content-Type, which is not the caller's to choose."""
    fields = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ConfigurationError(f"headers: {name!r} is not the name of an HTTP field")
        if not isinstance(value, str) or not _FIELD_VALUE.fullmatch(value) or value != value.strip():
            raise ConfigurationError(f"headers: the value of {name} is not the value of an HTTP field")
        if name.lower() in _OWN_HEADERS:
            raise ConfigurationError(f"headers: {name} is set by the transport itself")
        if name.lower() == "content-type":
            if value != CONTENT_TYPE:
                raise ConfigurationError(f"headers: {name} can only be {CONTENT_TYPE!r}")
            continue
        fields[name] = value
    return fields

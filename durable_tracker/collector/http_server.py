"""A small HTTP/1.1 server on threads that can also misbehave: reset, drip, truncate, refuse.

`socketserver` and `http.server` serve well but cannot be taken down and up on one port, stop only after a poll, and
spend most of a short request on parsing headers with the e-mail package. Hence plain sockets, one daemon thread per
connection, keep-alive, Nagle's algorithm off (with it each reply waits some 40 ms for a delayed acknowledgement).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import threading
import time
import weakref
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from durable_tracker.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

REQUEST_LINE_MAX: Final = 20_480
"""Bytes; Snowplow Collector 3.4 answers 400 to a longer request line."""
HEADERS_MAX: Final = 40_960
"""Bytes; Snowplow Collector 3.4 answers 400 to more headers."""
CONNECTIONS_MAX: Final = 512
"""Open at once; a further one is reset."""
_DISCARD_MAX: Final = 64 * 1024 * 1024
_IDLE_S: Final = 75.0
_BODY_S: Final = 25.0
_RESET: Final = struct.pack("ii", 1, 0)


class HttpError(Exception):
    """The request cannot be served; the connection ends after the answer.

    Attributes:
        status: what to answer.
    """

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """A request's line and headers. Names in `headers` are lower case, repeated ones joined with a comma."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    header_lines: tuple[str, ...]
    keep_alive: bool


class Connection:
    """One client's connection, used by the one thread that serves it.

    Attributes:
        peer: the client's IP address.
        stopping: set when the server stops; waits are to end with it.
    """

    def __init__(self, sock: socket.socket, peer: str, stopping: threading.Event) -> None:
        self.peer = peer
        self.stopping = stopping
        self._sock = sock
        self._reader: BinaryIO = sock.makefile("rb")

    def read_head(self) -> Head | None:
        """Return the next request's head, or None if the client has no more.

        Raises:
            HttpError: it is malformed or too large.
            OSError: the connection failed, or was idle for 75 s.
        """
        self._sock.settimeout(_IDLE_S)
        line = self._reader.readline(REQUEST_LINE_MAX + 2)
        if not line:
            return None
        words = line.decode("latin-1").split()
        if len(line) > REQUEST_LINE_MAX or len(words) != 3 or not words[2].startswith("HTTP/1."):  # noqa: PLR2004
            raise HttpError(HTTPStatus.BAD_REQUEST)
        method, target, protocol = words
        lines: list[str] = []
        headers: dict[str, str] = {}
        room = HEADERS_MAX
        while (line := self._reader.readline(room + 2)) not in {b"\r\n", b"\n"}:
            room -= len(line)
            text = line.decode("latin-1").rstrip("\r\n")
            name, colon, value = text.partition(":")
            if room < 0 or not colon:
                raise HttpError(HTTPStatus.BAD_REQUEST)
            key, value = name.strip().lower(), value.strip()
            headers[key] = f"{headers[key]},{value}" if key in headers else value
            lines.append(text)
        path, _, query = target.partition("?")
        option = headers.get("connection", "").lower()
        keep_alive = option != "close" if protocol == "HTTP/1.1" else option == "keep-alive"
        return Head(method, path, query, headers, tuple(lines), keep_alive)

    def read_body(self, head: Head, size_max: int) -> bytes:
        """Return a request's body.

        Raises:
            HttpError: 413 if it is above `size_max` bytes (what the client sends is still taken off the wire, so
                that it sees the answer), 408 if it takes longer than 25 s, 400 if it is malformed.
            OSError: the connection failed.
        """
        if head.headers.get("expect", "").lower() == "100-continue":
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        deadline = time.monotonic() + _BODY_S
        if "chunked" in head.headers.get("transfer-encoding", "").lower():
            return self._read_chunks(size_max, deadline)
        length = head.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise HttpError(HTTPStatus.BAD_REQUEST)
        if int(length) > size_max:
            self._discard(int(length), deadline)
            raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return self._read_exactly(int(length), deadline)

    def _read_exactly(self, size: int, deadline: float) -> bytes:
        pieces: list[bytes] = []
        while size > 0:
            # One deadline over the whole body: a timeout of each read would outlive a dripping client.
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise HttpError(HTTPStatus.REQUEST_TIMEOUT)
            self._sock.settimeout(remaining_s)
            try:
                piece = self._reader.read1(min(size, 1 << 20))  # type: ignore[attr-defined]
            except TimeoutError:
                raise HttpError(HTTPStatus.REQUEST_TIMEOUT) from None
            if not piece:
                raise ConnectionResetError("the client closed in the middle of a body")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _discard(self, size: int, deadline: float) -> None:
        left = min(size, _DISCARD_MAX)
        while left > 0:
            left -= len(self._read_exactly(min(left, 1 << 20), deadline))

    def _read_chunks(self, size_max: int, deadline: float) -> bytes:
        pieces: list[bytes] = []
        total = 0
        while True:
            self._sock.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                size = int(self._reader.readline(1024).split(b";")[0], 16)
            except ValueError:
                raise HttpError(HTTPStatus.BAD_REQUEST) from None
            except TimeoutError:
                raise HttpError(HTTPStatus.REQUEST_TIMEOUT) from None
            if size <= 0:
                break
            total += size
            if total > _DISCARD_MAX:
                raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            piece = self._read_exactly(size + 2, deadline)[:-2]
            if total <= size_max:
                pieces.append(piece)
        while self._reader.readline(HEADERS_MAX) not in {b"\r\n", b"\n", b""}:
            pass
        if total > size_max:
            raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return b"".join(pieces)

    def answer(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        *,
        without_body: bool = False,
        close: bool = False,
        drip_s: float = 0.0,
        truncate: bool = False,
    ) -> None:
        """Send an answer.

        Args:
            status: the HTTP status.
            headers: all but Content-Length and Connection.
            body: its length is announced in any case.
            without_body: for HEAD.
            close: announce the end of the connection.
            drip_s: seconds between the single bytes.
            truncate: leave the last byte out.

        Raises:
            OSError: the client is gone.
        """
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {status} {phrase}", f"Content-Length: {len(body)}"]
        if close:
            lines.append("Connection: close")
        lines.extend(f"{name}: {value}" for name, value in headers.items())
        data = "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if without_body else body)
        if truncate:
            data = data[:-1]
        self._sock.settimeout(_IDLE_S)
        if drip_s <= 0:
            self._sock.sendall(data)
            return
        for byte in data:
            self._sock.sendall(bytes((byte,)))
            if self.stopping.wait(drip_s):
                raise ConnectionAbortedError("the server stops")

    def discard_rest(self) -> None:
        """Take what the client still sends off the wire, for a second: closing over it would reset the answer."""
        self._sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(HttpError):
            self._discard(_DISCARD_MAX, time.monotonic() + 1.0)

    def wait_for_end(self) -> None:
        """Wait until the client, or the server's stop, ends the connection."""
        self._sock.settimeout(None)
        while self._reader.read1(65_536):  # type: ignore[attr-defined]
            pass

    def reset(self) -> None:
        """End the connection at once; the client sees it as reset."""
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        """End the connection in order. May be called twice."""
        with contextlib.suppress(OSError):
            self._reader.close()
        with contextlib.suppress(OSError):
            self._sock.close()


class Server:
    """Listens, and runs `serve` in a daemon thread for each connection.

    All methods may be called from any thread of the process that made it. A forked child inherits none of its
    sockets: there it is closed.

    Args:
        serve: serves one connection until it ends; may raise OSError, and HttpError for what it did not answer.
        host: an IP address, or a name that resolves to one.
        port: 0 takes a free one.
        ssl_context: serve TLS.

    Raises:
        ConfigurationError: the port is not one.
        OSError: the address cannot be bound.
    """

    def __init__(
        self,
        serve: Callable[[Connection], None],
        *,
        host: str,
        port: int,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if not 0 <= port <= 65535:  # noqa: PLR2004
            # Left to itself, the name look-up takes it modulo 65536.
            raise ConfigurationError(f"port: {port} is not from 0 to 65535")
        self._serve = serve
        self._ssl_context = ssl_context
        self._pid = os.getpid()
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._family: int = family
        # Bound but not listening, so that connections are refused and the port is ours all the same.
        self._bound: socket.socket | None = self._bind((address[0], address[1]))
        name = self._bound.getsockname()
        self.host: str = name[0]
        self.port: int = name[1]
        self._stopping = threading.Event()
        # Guards the fields below.
        self._lock = threading.Lock()
        self._acceptor: threading.Thread | None = None
        self._waker: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        _SERVERS.add(self)

    def _bind(self, address: tuple[str | int, int | bytes]) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
        return sock

    def up(self) -> None:
        """Accept connections. Does nothing if it does already, or is closed."""
        with self._lock:
            if self._bound is None or self._acceptor is not None or self._stopping.is_set():
                return
            self._bound.listen(256)
            self._bound.setblocking(False)
            wakee, self._waker = socket.socketpair()
            self._acceptor = threading.Thread(
                target=self._accept, args=(self._bound, wakee), name="collector-accept", daemon=True
            )
            self._acceptor.start()

    def down(self) -> None:
        """Refuse connections, and reset those that are open, until `up`. The port stays ours."""
        with self._lock:
            if self._stop_accepting():
                self._bound = self._bind((self.host, self.port))

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop, end every connection, and wait for their threads at most `timeout_s`. May be called twice."""
        if self._pid != os.getpid():
            return
        self._stopping.set()
        with self._lock:
            self._stop_accepting()
            if self._bound is not None:
                self._bound.close()
                self._bound = None
            threads = list(self._threads)
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _stop_accepting(self) -> bool:
        """Return whether there was something to stop."""
        if self._acceptor is None or self._waker is None or self._bound is None:
            return False
        self._waker.close()
        self._acceptor.join()
        self._acceptor = self._waker = None
        with contextlib.suppress(OSError):
            # Also ends listening in a forked child that holds a copy.
            self._bound.shutdown(socket.SHUT_RDWR)
        self._bound.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                sock.shutdown(socket.SHUT_RDWR)
        return True

    def _accept(self, listener: socket.socket, wakee: socket.socket) -> None:
        with wakee, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(wakee, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if wakee in ready:
                    return
                try:
                    sock, address = listener.accept()
                except BlockingIOError:
                    continue
                except OSError:
                    # Out of descriptors, most likely: leave the client in the backlog for a moment.
                    if self._stopping.wait(0.05):
                        return
                    continue
                self._start(sock, str(address[0]))

    def _start(self, sock: socket.socket, peer: str) -> None:
        sock.setblocking(True)
        # Only the acceptor adds, and `down` joins the acceptor while it holds the lock, so this must not take it.
        if len(self._open) >= CONNECTIONS_MAX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()
            return
        self._open.add(sock)
        thread = threading.Thread(target=self._run, args=(sock, peer), name="collector-serve", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _run(self, sock: socket.socket, peer: str) -> None:
        connection: Connection | None = None
        served = sock
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._ssl_context is not None:
                sock.settimeout(10.0)
                served = self._ssl_context.wrap_socket(sock, server_side=True)
                self._open.add(served)
            connection = Connection(served, peer, self._stopping)
            self._serve(connection)
        except HttpError as exc:
            if connection is not None:
                with contextlib.suppress(OSError):
                    connection.answer(exc.status, {"Content-Type": "text/plain"}, b"", close=True)
                    connection.discard_rest()
        except OSError:
            pass  # the client went away; ssl.SSLError is one, too
        finally:
            if connection is not None:
                connection.close()
            served.close()
            sock.close()
            self._open.discard(sock)
            self._open.discard(served)
            self._threads.discard(threading.current_thread())

    def forget(self) -> None:
        """In a forked child: give up the copies of the sockets without touching the parent's connections."""
        for sock in (self._bound, self._waker, *self._open):
            if sock is not None:
                with contextlib.suppress(OSError):
                    os.close(sock.detach())
        self._bound = self._waker = self._acceptor = None
        self._open = set()
        self._threads = set()


_SERVERS: weakref.WeakSet[Server] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for server in list(_SERVERS):
        server.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

"""A loopback server of raw sockets that commits the faults no HTTP library would, one per request."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence


@dataclass(frozen=True)
class Request:
    """What came in."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass
class Peer:
    """One connection, as a fault sees it: the server's nth. `over` ends every pause at once when the server closes."""

    sock: socket.socket
    over: threading.Event
    connection: int
    answered: int = 0

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes, interval_s: float) -> None:
        """Send byte by byte."""
        for at in range(len(data)):
            if self.over.wait(interval_s):
                return
            self.sock.sendall(data[at : at + 1])

    def reset(self) -> None:
        """Close with a RST instead of a FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        os.close(self.sock.detach())

    def hang_up(self) -> None:
        """Close with a FIN."""
        self.sock.shutdown(socket.SHUT_RDWR)


def answer(status: int = 200, body: bytes = b"ok", headers: str = "", reason: str = "Any") -> Callable[[Peer], object]:
    """A sound answer."""
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return lambda peer: peer.send(head.encode() + body)


def on_each_connection(*scripts: Sequence[Callable[[Peer], object]]) -> Callable[[Peer], object]:
    """Give the nth connection the nth script: which connection gets which fault is no matter of who comes first."""

    def fault(peer: Peer) -> None:
        scripts[peer.connection - 1][peer.answered](peer)

    return fault


@dataclass
class FaultyServer:
    """Answers the nth request with the nth fault, and every later one with the last. Use as a context manager."""

    faults: Iterable[Callable[[Peer], object]] = ()
    tls: ssl.SSLContext | None = None
    before_reading: Callable[[Peer], object] | None = None
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._faults = list(self.faults) or [answer()]
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._served = 0
        self.connections = 0
        self._threads: list[threading.Thread] = []
        self._socks: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            socks = list(self._socks)
        for sock in socks:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for sock in socks:
            sock.close()

    @property
    def url(self) -> str:
        scheme = "https" if self.tls else "http"
        return f"{scheme}://127.0.0.1:{self.port}/com.snowplowanalytics.snowplow/tp2"

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                number = self.connections
                self._socks.append(sock)
            self._start(functools.partial(self._serve, sock, number))

    def _serve(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._socks.append(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = Peer(sock, self._over, number)
            if self.before_reading:
                self.before_reading(peer)
            with sock.makefile("rb") as stream:
                while request := self._read(stream, number):
                    with self._lock:
                        self.requests.append(request)
                        fault = self._faults[min(self._served, len(self._faults) - 1)]
                        self._served += 1
                    fault(peer)
                    peer.answered += 1

    def _read(self, stream: BinaryIO, number: int) -> Request | None:
        line = stream.readline().decode().rstrip("\r\n")
        if not line:
            return None
        headers = {}
        while text := stream.readline().decode().rstrip("\r\n"):
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        return Request(line, headers, stream.read(int(headers.get("content-length", 0))), number)

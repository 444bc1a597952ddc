"""A collector's address: what users write, and what is requested."""

from __future__ import annotations

import contextlib
import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Self
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from durable_tracker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

Method = Literal["get", "post"]

PATHS: Final[dict[str, str]] = {"post": "/com.snowplowanalytics.snowplow/tp2", "get": "/i"}
"""The collector's paths, as its routes document them."""

_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The complete address of requests to a collector.

    Attributes:
        url: scheme, host, port and path, with user and password if the address had them: do not log it.
        method: "get" or "post".
    """

    url: str = field(repr=False)
    method: Method

    @classmethod
    def parse(cls, endpoint: str, protocol: str = "https", port: int | None = None, method: str = "post") -> Self:
        """Read an address as the official tracker's users write it.

        Args:
            endpoint: a host, optionally with scheme, port and path. A scheme here wins over `protocol`.
            protocol: "http" or "https".
            port: 1 to 65535, or None for the one in `endpoint` or the protocol's own.
            method: "get" or "post".

        Raises:
            ConfigurationError: it cannot be an address, or states two different ports.
        """
        if not isinstance(endpoint, str):
            raise ConfigurationError(f"endpoint: must be a string, but is of type {type(endpoint).__name__}")
        if not endpoint.strip():
            raise ConfigurationError("No endpoint provided. endpoint: name the collector's host.")
        if protocol not in ("http", "https"):
            raise ConfigurationError(f"protocol: {protocol!r} is neither 'http' nor 'https'")
        if method not in ("get", "post"):
            raise ConfigurationError(f"method: {method!r} is neither 'get' nor 'post'")
        port = _port(port)
        text = endpoint.strip()
        parts, own_port = _split(text if "://" in text else f"{protocol}://{text}")
        if own_port is not None and port is not None and own_port != port:
            raise ConfigurationError(f"port: {port} contradicts the {own_port} in the endpoint")
        host = parts.netloc
        if own_port is None and port is not None:
            host = f"{host.rstrip(':')}:{port}"
        path = parts.path.rstrip("/")
        if not path.endswith(PATHS[method]):
            path += PATHS[method]
        return cls(urlunsplit((parts.scheme.lower(), host, path, "", "")), "get" if method == "get" else "post")

    @classmethod
    def on_record(cls, origin: Mapping[str, str]) -> Self | None:
        """Return the address that a queue has on record, None if it has none. Without a password: none is recorded."""
        url, user = origin.get("url"), origin.get("user")
        if not isinstance(url, str):
            return None
        scheme, colon, rest = url.partition("://")
        try:
            return cls.parse(
                f"{scheme}{colon}{quote(user, safe='')}@{rest}" if user else url, method=origin.get("method") or "post"
            )
        except ConfigurationError:
            return None  # altered on disk

    def record(self) -> dict[str, str]:
        """Return what goes on record in a queue: all that tells addresses apart, and no password."""
        return {"url": self.public_url, "method": self.method, "user": self._user}

    @property
    def public_url(self) -> str:
        """The address without user and password."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    @property
    def identity(self) -> str:
        """The address in normal form: equal for two addresses if they are the same collector, for the same user.

        That is scheme, user, host, port and path: not the method, and never the password. The host is in lower case,
        in its ASCII form and without the dot of the root, the port is left out if it is the scheme's own.
        """
        parts = urlsplit(self.url)
        host = (parts.hostname or "").rstrip(".")
        with contextlib.suppress(
            UnicodeError
        ):  # no name in DNS can be written like that: it is told apart as it stands
            host = host.encode("idna").decode("ascii") if not host.isascii() else host
        host = f"[{host}]" if ":" in host else host
        port = "" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}"
        user = f"{quote(self._user, safe='')}@" if self._user else ""
        path = parts.path.removesuffix(PATHS[self.method]).rstrip("/")
        return f"{parts.scheme}://{user}{host}{port}{path}"

    @property
    def name(self) -> str:
        """The queue's name for an emitter that was given none: the identity, quoted so that it can be read back."""
        scheme, _, rest = self.identity.partition("://")
        return f"{scheme}_{quote(rest, safe='')}"

    @property
    def former_name(self) -> str:
        """The name that earlier releases derived, which different addresses could share."""
        parts = urlsplit(self.public_url)
        return (parts.netloc + parts.path.removesuffix(PATHS[self.method])).replace(":", "_").replace("/", "_")

    @property
    def _user(self) -> str:
        return unquote(urlsplit(self.url).username or "")


def _split(url: str) -> tuple[SplitResult, int | None]:
    # The messages do not repeat the address, nor what urllib says of it: both may hold a password, or a piece of one.
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError("endpoint: its host is no usable host") from None
    try:
        own_port = parts.port
    except ValueError:
        raise ConfigurationError(
            "endpoint: its port is no number up to 65535 (or a password in it holds / ? or #, to be percent-encoded)"
        ) from None
    if parts.scheme.lower() not in ("http", "https"):
        raise ConfigurationError(f"endpoint: the scheme {parts.scheme!r} is neither http nor https")
    if not parts.hostname:
        raise ConfigurationError("No endpoint provided. endpoint: it names no host.")
    if parts.query or parts.fragment:
        raise ConfigurationError("endpoint: must have no query and no fragment")
    return parts, own_port


def _port(port: object) -> int | None:
    """Return a port; its digits, as an environment variable has them, will do."""
    number = None
    with contextlib.suppress(TypeError):
        if not isinstance(port, bool):
            number = int(port) if isinstance(port, str) and port.isascii() and port.isdigit() else operator.index(port)  # type: ignore[arg-type]
    if port is None or (number is not None and 1 <= number <= 65535):  # noqa: PLR2004
        return number
    raise ConfigurationError(f"port: {port!r} is not an integer from 1 to 65535")


def replaced_addresses(replaces: object) -> list[Endpoint]:
    """Read the argument `replaces`: an address, or several.

    Raises:
        ConfigurationError: one is no address; the message does not repeat it.
    """
    texts = [replaces] if isinstance(replaces, str) else replaces
    if not isinstance(texts, (list, tuple, set, frozenset)):
        raise ConfigurationError(f"replaces: must be an address or several, but is of type {type(replaces).__name__}")
    found = []
    for text in texts:
        try:
            found.append(Endpoint.parse(text))
        except ConfigurationError as exc:
            raise ConfigurationError(f"replaces: {exc}") from None
    return found

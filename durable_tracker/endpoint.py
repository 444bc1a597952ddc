"""A collector's address: what users write, and what is requested."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, Self
from urllib.parse import SplitResult, urlsplit, urlunsplit

from durable_tracker.errors import ConfigurationError

Method = Literal["get", "post"]

PATHS: Final[dict[str, str]] = {"post": "/com.snowplowanalytics.snowplow/tp2", "get": "/i"}
"""The collector's paths, as its routes document them."""


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
        if port is not None and (type(port) is not int or not 1 <= port <= 65535):  # noqa: PLR2004
            raise ConfigurationError(f"port: {port!r} is not an integer from 1 to 65535")
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

    @property
    def public_url(self) -> str:
        """The address without user and password."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    @property
    def name(self) -> str:
        """The queue's name for an emitter that was given none: host, port and any path of one's own."""
        parts = urlsplit(self.public_url)
        return (parts.netloc + parts.path.removesuffix(PATHS[self.method])).replace(":", "_").replace("/", "_")


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

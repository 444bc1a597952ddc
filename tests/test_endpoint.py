"""The collector's address, as users write it."""

from __future__ import annotations

from typing import Any

import pytest

from durable_tracker.endpoint import Endpoint
from durable_tracker.errors import ConfigurationError

POST = "/com.snowplowanalytics.snowplow/tp2"


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        (("c.example",), f"https://c.example{POST}"),
        (("c.example", "http"), f"http://c.example{POST}"),
        (("c.example", "http", 8080), f"http://c.example:8080{POST}"),
        (("c.example", "http", None, "get"), "http://c.example/i"),
        (("http://c.example",), f"http://c.example{POST}"),
        (("HTTPS://c.example", "http"), f"https://c.example{POST}"),
        (("https://c.example:9090",), f"https://c.example:9090{POST}"),
        (("https://c.example:9090", "https", 9090), f"https://c.example:9090{POST}"),
        (("c.example:9090",), f"https://c.example:9090{POST}"),
        (("c.example/",), f"https://c.example{POST}"),
        (("c.example/proxy/",), f"https://c.example/proxy{POST}"),
        ((f"https://c.example{POST}",), f"https://c.example{POST}"),
        ((f"https://c.example{POST}/",), f"https://c.example{POST}"),
        (("https://c.example/i", "https", None, "get"), "https://c.example/i"),
        (("  c.example\n",), f"https://c.example{POST}"),
        (("[::1]", "http", 80), f"http://[::1]:80{POST}"),
        (("http://[::1]:8080",), f"http://[::1]:8080{POST}"),
        (("https://user:secret@c.example",), f"https://user:secret@c.example{POST}"),
    ],
)
def test_what_users_write_becomes_one_address(arguments: tuple[Any, ...], url: str) -> None:
    """Scheme, port and path in the endpoint win; the protocol's path is added where it is missing."""
    assert url == Endpoint.parse(*arguments).url


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("",), "No endpoint provided"),
        (("   ",), "No endpoint provided"),
        (("https://",), "No endpoint provided"),
        (("https://:443",), "No endpoint provided"),
        ((None,), "endpoint"),
        ((7,), "endpoint"),
        (("ftp://c.example",), "scheme"),
        (("c.example", "ftp"), "protocol"),
        (("c.example", "https", None, "put"), "method"),
        (("c.example", "https", 0), "port"),
        (("c.example", "https", 65536), "port"),
        (("c.example", "https", True), "port"),
        (("c.example", "https", "443"), "port"),
        (("c.example:0x50",), "endpoint"),
        (("c.example:99999",), "endpoint"),
        (("https://c.example:1", "https", 2), "port"),
        (("https://c.example?a=b",), "query"),
        (("https://c.example#a",), "fragment"),
        (("https://[::1",), "endpoint"),
    ],
)
def test_what_cannot_be_an_address_is_refused_by_name(arguments: tuple[Any, ...], named: str) -> None:
    """The message says which argument is wrong."""
    with pytest.raises(ConfigurationError, match=named):
        Endpoint.parse(*arguments)


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://user:secret@c.example:x",
        "ftp://user:secret@c.example",
        "u:secret@[::1",
        "https://user:secret/@c.example",
        "https://user:secret#@c.example",
        "https://user:secret\u2100@c.example",
    ],
)
def test_no_message_repeats_a_password(endpoint: str) -> None:
    """An address that is refused may hold one."""
    with pytest.raises(ConfigurationError) as caught:
        Endpoint.parse(endpoint)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_public_address_and_the_name_hold_no_password() -> None:
    """Both are written to disk."""
    endpoint = Endpoint.parse("https://user:p%40ss@c.example:8080/proxy")
    assert f"https://c.example:8080/proxy{POST}" == endpoint.public_url
    assert "c.example_8080_proxy" == endpoint.name


def test_different_addresses_have_different_names() -> None:
    """Emitters of one name share a backlog: only those of one collector should."""
    names = {Endpoint.parse(text).name for text in ("a.example", "b.example", "a.example:81", "a.example/path")}
    assert 4 == len(names)

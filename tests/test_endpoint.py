"""The collector's address, as users write it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_tracker.engines.sqlite.slots import directory_name
from durable_tracker.errors import ConfigurationError
from durable_tracker.protocol.endpoint import Endpoint

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
    assert Endpoint.parse(*arguments).url == url


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
        (("c.example", "https", "443x"), "port"),
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
    assert endpoint.public_url == f"https://c.example:8080/proxy{POST}"
    assert endpoint.name == "https_user%40c.example%3A8080%2Fproxy"
    assert "p%40ss" not in str(endpoint.record())


DIFFERENT = (
    "h",
    "http://h",
    "h.example",
    "h/tenant/a",
    "h/tenant_a",
    "h/tenant%2Fa",
    "h_tenant/a",
    "h:8080",
    "h/8080",
    "h_8080",
    "http://h:443",
    "h:80",
    "alice@h",
    "bob@h",
    "http://alice@h",
    "alice@h/tenant/a",
    "[::1]",
    "[::1]:8080",
    "h/Tenant/a",
)
"""What one of them tracked is never another one's."""

SAME = (
    ("h.example", "H.Example", "https://h.example:443/", "h.example.", "HTTPS://h.example/", f"h.example{POST}"),
    ("http://h", "http://h:80", "http://h/"),
    ("alice@h", "alice:secret@h", "alice:other@H:443"),
    ("h/tenant", "h/tenant/", f"h/tenant{POST}", "h/tenant//"),
    ("münchen.example", "xn--mnchen-3ya.example", "MÜNCHEN.example"),
    ("a%2Eb@h", "a.b@h"),
)
"""Ways to write one address."""


def test_different_addresses_have_different_names_and_identities() -> None:
    """Scheme, user, host, port and path tell them apart, and no two of them can be spelled alike."""
    endpoints = [Endpoint.parse(text) for text in DIFFERENT]
    assert len(DIFFERENT) == len({endpoint.identity for endpoint in endpoints})
    assert len(DIFFERENT) == len({directory_name(endpoint.name) for endpoint in endpoints})


@pytest.mark.parametrize("spellings", SAME)
def test_spellings_of_one_address_have_one_name(spellings: tuple[str, ...]) -> None:
    """The method is no part of it: the backlog of a GET may be sent by POST."""
    endpoints = [Endpoint.parse(text, method=method) for text in spellings[:1] for method in ("get", "post")]
    endpoints += [Endpoint.parse(text) for text in spellings]
    assert len({endpoint.identity for endpoint in endpoints}) == 1
    assert len({endpoint.name for endpoint in endpoints}) == 1


_PARTS = st.text("abAB/_%2.:-", max_size=6)


@given(st.sampled_from(("http", "https")), _PARTS, st.integers(1, 65535), _PARTS)
def test_a_name_can_be_read_back(scheme: str, user: str, port: int, path: str) -> None:
    """So two addresses have one name only if they have one identity; what is on record gives the identity, too."""
    text = f"{scheme}://{quote(user, safe='')}{'@' if user else ''}h.example:{port}/{quote(path)}"
    endpoint = Endpoint.parse(text)
    name_scheme, _, rest = endpoint.name.partition("_")
    assert endpoint.identity == f"{name_scheme}://{unquote(rest)}"
    recorded = Endpoint.on_record(endpoint.record())
    assert recorded is not None
    assert endpoint.identity == recorded.identity
    assert re.fullmatch(r"[A-Za-z0-9._~%-]+", endpoint.name)


def test_a_port_may_be_the_digits_that_an_environment_variable_has() -> None:
    """As the official tracker takes them."""
    port: Any = "9090"
    assert Endpoint.parse("c.example", port=port).public_url == Endpoint.parse("c.example", port=9090).public_url

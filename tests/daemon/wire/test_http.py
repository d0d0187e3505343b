from __future__ import annotations

import pytest

from daemon.wire.http import HttpError, Request, parse_authority, parse_origin, parse_range, parse_request


def request(target: str = "/", **headers: str) -> Request:
    return parse_request(b"GET", target.encode(), [(name.encode(), value.encode()) for name, value in headers.items()])


def test_a_request_is_taken_apart():
    found = request("/view%20x?source=a%2Fb&source=c&token=", Accept="x")
    assert (found.path, found.headers) == ("/view x", {"accept": "x"})
    assert found.query == {"source": ["a/b", "c"], "token": [""]}
    assert found.argument("source") == "a/b"
    assert found.argument("none") is None


def test_what_is_secret_is_not_in_its_repr():
    found = request("/view?token=secret", cookie="rrd-1=secret")
    assert "secret" not in repr(found)


@pytest.mark.parametrize("target", ["http://evil/", "*", "/a%00b", "/%ff", "/?" + "&".join("a=1" for _ in range(1001))])
def test_addresses_that_cannot_be_read(target):
    with pytest.raises(HttpError) as error:
        request(target)
    assert error.value.status == 400


def test_two_hosts_are_refused_other_repeated_headers_joined():
    headers = [(b"Host", b"a"), (b"host", b"b")]
    with pytest.raises(HttpError):
        parse_request(b"GET", b"/", headers)
    joined = parse_request(b"GET", b"/", [(b"Accept", b"a"), (b"accept", b"b")])
    assert joined.headers == {"accept": "a, b"}


def test_cookies():
    assert request(cookie='a=1; b="2"; c; d=3=4; a=5').cookies == {"a": "1", "b": "2", "d": "3=4"}
    assert request().cookies == {}


@pytest.mark.parametrize(("text", "host", "port", "address", "local"), [
    ("127.0.0.1:80", "127.0.0.1", 80, True, False),
    ("[::1]:9", "::1", 9, True, False),
    ("LocalHost", "localhost", None, False, True),
    ("a.localhost:1", "a.localhost", 1, False, True),
    ("example.org.:1", "example.org", 1, False, False),
    ("localhost.evil.example", "localhost.evil.example", None, False, False),
    ("127.0.0.1.evil.example", "127.0.0.1.evil.example", None, False, False),
])
def test_authorities(text, host, port, address, local):
    found = parse_authority(text)
    assert found is not None
    assert (found.host, found.port, found.is_address, found.is_localhost) == (host, port, address, local)


@pytest.mark.parametrize("text", ["", "a b", "a:", "a:99999", "a:1:2", "user@host", "::1", "a/b", "[::1"])
def test_what_is_no_authority(text):
    assert parse_authority(text) is None


def test_origins():
    found = parse_origin("https://Host:8")
    assert found is not None
    assert (found[0], found[1].host, found[1].port) == ("https", "host", 8)
    assert [parse_origin(text) for text in ("null", "", "file://x", "http://", "http://a/b")] == [None] * 5


@pytest.mark.parametrize(("text", "expected"), [
    ("bytes=0-0", (0, 1)), ("bytes=5-", (5, 10)), ("bytes=-3", (7, 10)), ("bytes=-99", (0, 10)),
    ("bytes=2-99", (2, 10)),
    ("bytes=3-2", None), ("bytes=0-1,3-4", None), ("lines=0-1", None), ("bytes=-", None), ("bytes=a-b", None),
])
def test_ranges(text, expected):
    assert parse_range(text, 10) == expected


@pytest.mark.parametrize("text", ["bytes=10-", "bytes=11-12", "bytes=-0"])
def test_ranges_outside(text):
    with pytest.raises(HttpError) as error:
        parse_range(text, 10)
    assert error.value.status == 416

"""What the web server needs of HTTP beside h11: targets, cookies, hosts, ranges. Sans-IO.

Rules: everything here comes from outside and is never believed: what cannot be read is None or an HttpError, never a
guess. A Request's repr and log line carry no query string: the token travels in it.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass, field

MAX_QUERY_FIELDS = 1000
"""Fields of a query string. A page may name many recordings; a thousand is more than anyone selects by hand."""

_HOST = re.compile(r"^(?:\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._-]{1,253}))(?::(?P<port>[0-9]{1,5}))?$")


class HttpError(Exception):
    """A request that is answered with an error page.

    Args:
        status: The HTTP status code.
        message: One line for a person.
        hint: What to do about it, or empty.
    """

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, without its body. Header names are lower case; a repeated header is joined with a comma."""

    method: str
    path: str
    query: dict[str, list[str]] = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    peer: str = ""

    def argument(self, name: str) -> str | None:
        """The first value of a query field, or None."""
        values = self.query.get(name)
        return values[0] if values else None

    @property
    def cookies(self) -> dict[str, str]:
        """The Cookie header, taken apart (RFC 6265, section 4.2.1). What is malformed is left out."""
        found: dict[str, str] = {}
        for part in self.headers.get("cookie", "").split(";"):
            name, equals, value = part.strip().partition("=")
            if equals and name not in found:
                found[name] = value.strip('"')
        return found

    @property
    def wants_websocket(self) -> bool:
        """Whether the client asks to speak WebSocket from here on."""
        return self.headers.get("upgrade", "").lower() == "websocket"


def parse_request(method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]], peer: str = "") -> Request:
    """Make a Request of what h11 has parsed.

    Args:
        method: As sent.
        target: Path and query, as sent. The absolute form, which proxies use, is refused.
        headers: Names and values, in order.
        peer: The client's address, for the log.

    Raises:
        HttpError: 400, the target or a header cannot be read.
    """
    try:
        text = target.decode("ascii")
        named: dict[str, str] = {}
        for raw_name, raw_value in headers:
            name, value = raw_name.decode("ascii").lower(), raw_value.decode("latin-1")
            if name in ("host", "origin") and name in named:
                raise HttpError(400, f"two {name} headers")
            named[name] = f"{named[name]}, {value}" if name in named else value
        if not text.startswith("/"):
            raise HttpError(400, "only paths are served here, no proxying")
        path, _, query = text.partition("?")
        path = urllib.parse.unquote(path, errors="strict")
        fields = urllib.parse.parse_qs(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
    except (UnicodeDecodeError, ValueError) as error:
        raise HttpError(400, "the address cannot be read") from error
    if "\0" in path:
        raise HttpError(400, "the address cannot be read")
    return Request(method.decode("ascii", "replace"), path, fields, named, peer)


@dataclass(frozen=True, slots=True)
class Authority:
    """The host and port of a Host header or an origin. `host` is lower case, an IPv6 address without brackets."""

    host: str
    port: int | None

    @property
    def is_address(self) -> bool:
        """Whether the host is an IP address: one that no name server can point elsewhere."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    @property
    def is_localhost(self) -> bool:
        """Whether the host is a name that browsers themselves resolve to this machine (RFC 6761, section 6.3)."""
        return self.host == "localhost" or self.host.endswith(".localhost")


def parse_authority(text: str) -> Authority | None:
    """Read `host`, `host:port` or `[v6]:port`; None if it is none of them."""
    match = _HOST.match(text.strip())
    if match is None:
        return None
    port = int(match["port"]) if match["port"] else None
    if port is not None and port > 65535:
        return None
    return Authority((match["six"] or match["name"]).lower().rstrip("."), port)


def parse_origin(text: str) -> tuple[str, Authority] | None:
    """Read an Origin header into (scheme, authority); None for `null` and whatever else is none."""
    scheme, separator, rest = text.strip().partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return None
    authority = parse_authority(rest)
    return (scheme.lower(), authority) if authority is not None else None


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Read a Range header against a body of `size` bytes (RFC 9110, section 14.1.2).

    Returns:
        (start, end), end exclusive; None when the header is to be ignored: malformed, or several ranges.

    Raises:
        HttpError: 416, the range lies outside.
    """
    match = re.fullmatch(r"bytes=(\d{0,19})-(\d{0,19})", text.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    if start >= end:
        raise HttpError(416, f"the range lies outside of the {size} bytes")
    return start, end

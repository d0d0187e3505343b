"""Who may talk to the web server: token, cookie, Host, Origin. Sans-IO.

Rules, each against something that a page in the user's own browser could try:
* The Host must be an address, localhost, or a name that the server was given: a name that an attacker's name server
  points at 127.0.0.1 (DNS rebinding) is none of these.
* An Origin, where one is sent, must be the Host: CORS does not protect WebSockets, so this does.
* Sec-Fetch-Site, where one is sent, must not be another site or another port, except for opening a page by a link.
* With a token: it comes in the address once (`?token=`), then as a cookie that scripts cannot read and other sites
  cannot send. Clients that are no browsers may send it as `Authorization: Bearer`, or in every address.
* A recording's own address with the token in it is what the user gives to another viewer's page (`?url=`): that one may
  read it, since no page can know the token. A cookie, which browsers add by themselves, does not count there.
* A browser that we open ourselves gets a ticket instead, good for one use within a minute: every user of a machine can
  read command lines.
* Tokens are compared in constant time and stand in no log and no error.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Iterable

from daemon.wire.http import HttpError, Request, parse_authority, parse_origin

TOKEN_BYTES = 16
"""128 bits: nobody guesses that over a network."""

TICKET_S = 60.0
"""How long a browser may take to come up."""

FORBIDDEN_HINT = "run `rrd serve` on the machine where the daemon runs: it prints the address with its token"


def new_token() -> str:
    """A fresh random token, safe in a URL."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def is_loopback(bind: str) -> bool:
    """Whether a server bound to `bind` can be reached from this machine only. Names other than localhost: no."""
    if bind.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return False


class Guard:
    """The rules above for one server.

    Args:
        token: What clients must know; None to let everyone in who can reach the port.
        names: Host names by which the server may be addressed, beside addresses and localhost.
    """

    def __init__(self, token: str | None, names: Iterable[str] = ()) -> None:
        self._token = token
        self.names = frozenset(name.lower().rstrip(".") for name in names if name)
        # Cookies are shared by all ports of a host: each server's has a name of its own.
        self.cookie_name = "rrd-" + hashlib.sha256((token or "").encode()).hexdigest()[:12]
        self._tickets: dict[str, float] = {}

    def ticket(self) -> str:
        """A ticket for `?ticket=`; empty where no token is wanted either."""
        if self._token is None:
            return ""
        now = time.monotonic()
        self._tickets = {one: end for one, end in self._tickets.items() if end > now}
        fresh = new_token()
        self._tickets[fresh] = now + TICKET_S
        return fresh

    def check(self, request: Request, *, opens_page: bool = False, by_address: bool = False) -> str | None:
        """Let a request in, or refuse it.

        Args:
            request: The request.
            opens_page: It asks for a page, which a link on another site may do.
            by_address: It asks for what any page may read that has the token in the address.

        Returns:
            The value of a Set-Cookie header to answer with, or None.

        Raises:
            HttpError: 400, 403 or 421; the message is fit for a page.
        """
        self._check_host(request)
        given = request.argument("token")
        if by_address and self._token is not None and given is not None and self._matches(given):
            return None
        self._check_origin(request, opens_page=opens_page)
        if self._token is None:
            return None
        cookie = f"{self.cookie_name}={self._token}; Path=/; HttpOnly; SameSite=Strict"
        ticket = request.argument("ticket")
        if opens_page and ticket is not None and self._tickets.pop(ticket, 0.0) > time.monotonic():
            return cookie
        if given is not None:
            if not self._matches(given):
                raise HttpError(403, "the token in the address is not this server's", FORBIDDEN_HINT)
            return cookie if opens_page else None
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._matches(credentials.strip()):
            return None
        if self._matches(request.cookies.get(self.cookie_name, "")):
            return None
        raise HttpError(403, "this page needs a token in its address", FORBIDDEN_HINT)

    def _matches(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), (self._token or "").encode())

    def _check_host(self, request: Request) -> None:
        authority = parse_authority(request.headers.get("host", ""))
        if authority is None:
            raise HttpError(400, "the Host header is missing or cannot be read")
        if not (authority.is_address or authority.is_localhost or authority.host in self.names):
            raise HttpError(
                421,
                f"this server does not answer to the name {authority.host}",
                "use its address, or name it: rrd serve --host-name NAME",
            )

    def _check_origin(self, request: Request, *, opens_page: bool) -> None:
        origin = request.headers.get("origin")
        if origin is not None:
            parsed = parse_origin(origin)
            host = parse_authority(request.headers["host"])
            if parsed is None or host is None:
                raise HttpError(403, "requests from other sites are refused")
            scheme, authority = parsed
            # Behind a proxy that ends TLS, neither Host nor Origin has a port: both mean the scheme's own.
            default = 443 if scheme == "https" else 80
            if authority.host != host.host or (authority.port or default) != (host.port or default):
                raise HttpError(403, "requests from other sites are refused")
        site = request.headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin"):
            mode, destination = request.headers.get("sec-fetch-mode"), request.headers.get("sec-fetch-dest")
            if not (opens_page and mode == "navigate" and destination == "document"):
                raise HttpError(403, "requests from other sites are refused")

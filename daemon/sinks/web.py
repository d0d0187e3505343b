"""The web server as an output: it listens until it is detached, also over restarts of the daemon.

Rules: what pages are fed with is their own business (a Feed each, daemon/web/live.py), so this sink selects nothing and
holds no recording back from retention; port and token stay the same as long as the sink lives, so that pages and
bookmarks find it again; the token stands in the sink's private file, in the address that is printed, and nowhere else.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from daemon.hub import Hub
from daemon.selection import FILE, Selection
from daemon.sinks.runner import Sink
from daemon.wire.rrd import FormatError

if TYPE_CHECKING:
    from daemon.web.pages import Site

DEFAULT_PORT = 9887
"""Beside the daemon's own gRPC port; taken by something else, a free one is used."""
PAGES = Selection("what each page asks for")


class WebSink(Sink):
    """One web server.

    Args:
        bind: The address it listens on, or a name of one.
        port: 0 until `claim` has found one.
        token: What browsers must know; None lets everyone in who reaches the port.
        names: Host names by which it may be addressed.
    """

    kind = "web"

    def __init__(self, hub: Hub, *, bind: str = "127.0.0.1", port: int = 0, token: str | None = None,
                 names: Sequence[str] = (), id: str = "") -> None:  # noqa: A002 - its name
        super().__init__(hub, PAGES, "", id=id)
        self.bind = bind
        self.port = port
        self.token = token
        self.names = list(names)
        self.files: list[str] = []
        """Files that pages show: read in place, and after a restart again."""
        self._listeners: list[trio.SocketListener] = []
        self._site: Site | None = None
        self._name()

    def _name(self) -> None:
        self.target = f"http://{url_host(self.bind)}:{self.port}"

    @property
    def site(self) -> Site:
        """What is served."""
        if self._site is None:
            # Half of the daemon's own start-up time, for those only who serve.
            from daemon.web.assets import Library
            from daemon.web.auth import Guard
            from daemon.web.pages import Site

            own = [self.bind, socket.gethostname(), f"{socket.gethostname()}.local"]
            self._site = Site(self.hub, Guard(self.token, [*self.names, *own]), Library())
        return self._site

    async def claim(self, *, fallback: bool) -> None:
        """Listen, so that whoever asked knows at once whether that can be.

        Args:
            fallback: Take a free port if the wanted one is taken.

        Raises:
            OSError: the port is taken, the address is not this machine's.
        """
        from daemon.web.server import open_listeners

        try:
            self._listeners = await open_listeners(self.bind, self.port)
        except OSError:
            if not fallback:
                raise
            self._listeners = await open_listeners(self.bind, 0)
        self.port = int(self._listeners[0].socket.getsockname()[1])
        self._name()

    async def deliver(self) -> None:
        """See Sink: serves until cancelled."""
        from daemon.web.server import serve

        if not self._listeners:
            await self.claim(fallback=False)
        for name in list(self.files):
            try:
                await self.hub.open_file(Path(name))
            except (OSError, FormatError):
                self.files.remove(name)
        listeners, self._listeners = self._listeners, []
        self.following()
        await serve(listeners, self.site.handle)

    async def abandon(self) -> None:
        """Give up what `claim` took, when the sink was not taken in."""
        for listener in self._listeners:
            await trio.aclose_forcefully(listener)
        self._listeners = []

    def reads(self) -> Set[str]:
        """See Sink."""
        return {f"{FILE}{name}" for name in self.files}

    def options(self) -> dict[str, Any]:
        """See Sink."""
        return {"bind": self.bind, "port": self.port, "token": self.token, "names": self.names, "files": self.files}

    @classmethod
    def restore(cls, hub: Hub, selection: Selection, target: str, id: str,  # noqa: A002
                options: Mapping[str, Any]) -> WebSink:
        """See Sink."""
        del selection, target
        token = options["token"]
        sink = cls(hub, bind=str(options["bind"]), port=int(options["port"]),
                   token=None if token is None else str(token), names=[str(name) for name in options["names"]], id=id)
        sink.files = [str(name) for name in options["files"]]
        return sink

    # -- what is shown ---------------------------------------------------------------------------------------------

    def lag(self) -> tuple[int, int]:
        """The lag of the page that is furthest behind."""
        lags = [feed.lag() for feed in self._site.feeds] if self._site is not None else []
        return max((one for one, _ in lags), default=0), max((two for _, two in lags), default=0)

    @property
    def delivered_messages(self) -> int:
        """Messages that pages that are open have been sent, all together."""
        return sum(feed.delivered_messages for feed in self._site.feeds) if self._site is not None else 0

    def status(self) -> dict[str, Any]:
        """See Sink; with `clients`, the pages that are live."""
        return {**super().status(), "clients": len(self._site.feeds) if self._site is not None else 0}

    def url(self, query: str, *, once: bool = False) -> str:
        """The address of a viewer's page on this server.

        Args:
            query: Encoded.
            once: With a ticket, good for one use within a minute, instead of the token.
        """
        secret = f"&ticket={self.site.guard.ticket()}" if once else f"&token={self.token}"
        return f"http://{url_host(reachable_host(self.bind))}:{self.port}/view?{query}{secret if self.token else ''}"


def url_host(host: str) -> str:
    """A host as it stands in an address: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def reachable_host(bind: str) -> str:
    """The host to say to others, for an address that a server is bound to."""
    if bind not in ("0.0.0.0", "::", "*", ""):
        return bind
    family, beyond = (socket.AF_INET6, "2001:db8::1") if bind == "::" else (socket.AF_INET, "192.0.2.1")
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((beyond, 9))  # sends nothing: only asks which of our addresses would be used
        return str(probe.getsockname()[0])
    return socket.gethostname()

"""What is served where.

    /                       the list of recordings                      page
    /view?source=...        the viewer with these recordings            page
    /static/NAME            this package's own scripts and styles       from memory
    /assets/KEY/NAME        the viewer's script and wasm                from the user's Rerun (assets.py)
    /api/recordings         the list as JSON; ?since=N waits for a change
    /stream                 history (live.py); POST {"source": [...], "resume": ...} or GET ?source=...
    /ws                     live, the same over WebSocket
    /recordings/ID.rrd      a recording as a file, growing while it is live; ?snapshot=1 as it is now (download.py)

Rules: every request passes the guard before anything else is looked at; names of files are looked up, never joined to
a path; an error is a page with what happened and what to do; nothing that was asked is written to a log but the path.
"""

from __future__ import annotations

import html
import json
import logging
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import trio

from daemon import __version__
from daemon.feed import Feed
from daemon.hub import Hub
from daemon.selection import FILE, RUN, STREAM, Recording, names_of, recordings_of
from daemon.web import live
from daemon.web.assets import Library, NoViewer, Version, Viewer
from daemon.web.auth import Guard, is_loopback
from daemon.web.download import send_file, send_recording
from daemon.web.server import Exchange, Gone
from daemon.wire.http import HttpError
from daemon.wire.rrd import FormatError

log = logging.getLogger("rrd.web")

LISTED = live.MAX_TERMS
"""Recordings on the page, newest first: all of them can be selected."""
GROUPS = {"@live": "all live recordings", "@all": "all recordings"}
POLL_S = 25.0
"""How long a request for changes waits: less than what proxies take for dead."""
POLL_GAP_S = 0.5
"""How often the list is told at most."""
PROGRAMS = 8
"""Programs whose installation is looked at for a viewer."""

CSP = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""Measured to be what the viewer needs, and no more: compiling wasm, styles it sets from script, images it makes."""
SECURITY = [
    ("Content-Security-Policy", CSP),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]

HTML = "text/html; charset=utf-8"
JSON = "application/json"
STATIC_TYPES = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
FOREVER = "private, max-age=31536000, immutable"
"""For addresses that name their content."""


def load_static() -> dict[str, bytes]:
    """This package's own files: a few kilobytes, kept in memory, so that no address ever becomes a path."""
    return {
        entry.name: entry.read_bytes()
        for entry in resources.files("daemon.web").joinpath("static").iterdir()
        if entry.name.rpartition(".")[2] in (*STATIC_TYPES, "html")
    }


@dataclass
class Site:
    """Answers requests: the handler of a Server.

    Attributes:
        hub: Where the streams are.
        guard: Who may ask.
        library: The viewers that can be served.
        feeds: Of the pages that are live.
    """

    hub: Hub
    guard: Guard
    library: Library
    feeds: set[Feed] = field(default_factory=set)
    static: dict[str, bytes] = field(default_factory=load_static)

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request.

        Raises:
            Gone: the client hung up.
            HttpError: the request cannot even be answered with a page.
        """
        exchange.headers += SECURITY
        try:
            await self._route(exchange)
        except HttpError as error:
            if exchange.started:
                raise Gone from error
            await self._error(exchange, error)
        except (OSError, FormatError) as error:
            log.error("%s: %s", exchange.request.path, error)
            if exchange.started:
                raise Gone from error
            reason = error.strerror if isinstance(error, OSError) else str(error)
            await self._error(exchange, HttpError(500, f"a file cannot be read: {reason}"))

    async def _route(self, exchange: Exchange) -> None:
        request = exchange.request
        path = request.path
        page = path in ("/", "/view")
        recording = path.startswith("/recordings/") and path.endswith(".rrd")
        cookie = self.guard.check(request, opens_page=page and request.method == "GET", by_address=recording)
        if cookie is not None:
            exchange.headers.append(("Set-Cookie", cookie))
        if request.method not in ("GET", "HEAD") and not (request.method == "POST" and path == "/stream"):
            raise HttpError(405, f"{request.method} is not done here")
        if path == "/":
            await self._index(exchange)
        elif path == "/view":
            await self._view(exchange)
        elif path == "/ws" and request.wants_websocket:
            await live.serve_socket(self.hub, exchange, self.feeds)
        elif path == "/stream":
            await self._stream(exchange)
        elif path == "/api/recordings":
            await self._recordings(exchange)
        elif recording:
            if "origin" in request.headers:  # the guard has let it in; it gets no cookies, and may send none
                exchange.headers.append(("Access-Control-Allow-Origin", "*"))
            name = path.removeprefix("/recordings/").removesuffix(".rrd")
            selection = live.select(self.hub, live.terms_of([name]))
            snapshot = request.argument("snapshot") is not None
            await send_recording(self.hub, exchange, selection, name, snapshot=snapshot)
        elif path.startswith("/static/"):
            await self._static(exchange, path.removeprefix("/static/"))
        elif path.startswith("/assets/"):
            await self._asset(exchange, path.removeprefix("/assets/"))
        elif path == "/favicon.ico":
            await self._static(exchange, "icon.svg")
        else:
            raise HttpError(404, "there is no such page", "start at the list of recordings")

    # -- pages -----------------------------------------------------------------------------------------------------

    async def _page(self, exchange: Exchange, name: str, title: str, config: dict[str, Any], head: str = "") -> None:
        # In a script element only "</" and "<!--" could end the data early.
        data = json.dumps(config, separators=(",", ":")).replace("<", "\\u003c")
        page = (
            self.static[name].decode()
            .replace("{{title}}", html.escape(title))
            .replace("{{head}}", head)
            .replace("{{config}}", data)
        )
        await exchange.reply(200, page.encode(), HTML, [("Cache-Control", "no-store")])

    async def _index(self, exchange: Exchange) -> None:
        await self._page(exchange, "index.html", "rrd", {"version": __version__, **self._listing()})

    async def _view(self, exchange: Exchange) -> None:
        terms = live.terms_of(exchange.request.query.get("source", []))
        problem: dict[str, str] | None = None
        viewer: Viewer | None = None
        try:
            viewer = await self.viewer_for(terms)
        except NoViewer as error:
            problem = {"message": str(error), "hint": error.hint}
        head = ""
        config: dict[str, Any] = {"version": __version__, "source": terms, "problem": problem, "viewer": None}
        if viewer is not None:
            base = f"/assets/{viewer.key}/"
            # Fetched while the page's own script is still being read.
            relation = "modulepreload" if viewer.kind == "notebook" else 'preload" as="script'
            head = f'<link rel="{relation}" href="{base}{viewer.script}">'
            config["viewer"] = {
                "base": base, "script": viewer.script, "kind": viewer.kind, "version": list(viewer.version),
                "files": sorted(viewer.files),
            }
        config["title"] = self._title(terms)
        await self._page(exchange, "viewer.html", config["title"], config, head)

    def _title(self, terms: Sequence[str]) -> str:
        """What a page shows, for people."""
        names, named = [], []
        for term in terms:
            stream = self.hub.streams.get(term.removeprefix(STREAM)) if term.startswith((STREAM, FILE)) else None
            if term.startswith(RUN):
                names.append("rrd run")
            elif term in GROUPS:
                names.append(GROUPS[term])
            elif stream is None:
                named.append(term)
            elif stream.kind == "file":
                names.append(stream.program)
            else:
                names += [f"{app}/{recording}" if app else recording for app, recording in stream.recordings] or [term]
        if named:
            try:
                names.append(names_of(live.select(self.hub, named).recordings))
            except HttpError:  # it may be there later
                names += named
        return ", ".join(names)

    async def viewer_for(self, terms: Sequence[str]) -> Viewer:
        """The viewer to show recordings with: of the programs that log them, if they have one.

        Raises:
            NoViewer: there is none.
        """
        try:
            streams = self.hub.feed(live.select(self.hub, terms)).streams()
        except HttpError:
            streams = []
        pids = [stream.pid for stream in reversed(streams) if not stream.ended and stream.pid is not None]
        versions: list[Version] = [stream.sdk_version for stream in streams if stream.sdk_version is not None]
        return await self.library.find(list(dict.fromkeys(pids))[:PROGRAMS], max(versions, default=None))

    async def _error(self, exchange: Exchange, error: HttpError) -> None:
        exchange.headers.append(("Cache-Control", "no-store"))
        wants_page = "text/html" in exchange.request.headers.get("accept", "")
        if not wants_page:
            body = json.dumps({"error": error.message, "hint": error.hint}).encode()
            await exchange.reply(error.status, body, JSON)
            return
        page = (
            self.static["error.html"].decode()
            .replace("{{style}}", self.static["style.css"].decode())  # a refused client gets no other file
            .replace("{{status}}", str(error.status))
            .replace("{{message}}", html.escape(error.message))
            .replace("{{hint}}", re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(error.hint)))
        )
        await exchange.reply(error.status, page.encode(), HTML)

    # -- files -----------------------------------------------------------------------------------------------------

    async def _static(self, exchange: Exchange, name: str) -> None:
        body = self.static.get(name)
        kind = STATIC_TYPES.get(name.rpartition(".")[2])
        if body is None or kind is None:
            raise HttpError(404, "there is no such file")
        await exchange.reply(200, body, kind, [("Cache-Control", "no-cache")])

    async def _asset(self, exchange: Exchange, rest: str) -> None:
        key, _, name = rest.partition("/")
        viewer = self.library.get(key)
        if viewer is None:
            await self.viewer_for(["@live"])  # after a restart of the daemon the page asks before the page is made
            viewer = self.library.get(key)
        if viewer is None or name not in viewer.files:
            raise HttpError(404, "this viewer is not here any more", "reload the page")
        exchange.headers.append(("Cache-Control", FOREVER))
        kind, suffix, path, tag = viewer.content_type(name), viewer.suffix(name), viewer.files[name], f"{key}-{name}"
        length: int | None = viewer.length(name)
        request = exchange.request
        # On this machine, and through an ssh tunnel that compresses or not as its user chose, it would only cost time.
        if not is_loopback(request.peer) and "gzip" in request.headers.get("accept-encoding", ""):
            exchange.headers += [
                ("Content-Encoding", "gzip"),
                ("Vary", "Accept-Encoding"),
                ("rerun-final-length", str(viewer.length(name) + len(suffix))),  # for the viewer's progress bar
            ]
            path, suffix, tag = await self.library.compressed(viewer, name), b"", f"{tag}-gzip"
            length = None
        await send_file(exchange, path, kind, length=length, suffix=suffix, validator=tag)

    # -- data ------------------------------------------------------------------------------------------------------

    async def _stream(self, exchange: Exchange) -> None:
        if exchange.request.method == "POST":
            try:
                asked = json.loads(await exchange.body())
            except (ValueError, RecursionError) as error:
                raise HttpError(400, "the request is no JSON") from error
        else:
            asked = {"source": exchange.request.query.get("source", [])}
        await live.send_history(exchange, live.open_feed(self.hub, asked))

    async def _recordings(self, exchange: Exchange) -> None:
        since = exchange.request.argument("since")
        with trio.move_on_after(POLL_S):
            if since == str(self.hub.version):
                await self.hub.wait_change(self.hub.version)
                await trio.sleep(POLL_GAP_S)
        body = json.dumps(self._listing(), separators=(",", ":")).encode()
        await exchange.reply(200, body, JSON, [("Cache-Control", "no-store")])

    def _listing(self) -> dict[str, Any]:
        recordings = recordings_of(self.hub.streams.values())
        return {
            "seen": self.hub.version,
            "recordings": [describe(recording) for recording in recordings[: -LISTED - 1 : -1]],
            "total": len(recordings),
        }


def describe(recording: Recording) -> dict[str, Any]:
    """A recording for the list."""
    key = recording.key
    name = f"{key.application_id}/{key.recording_id}" if key.application_id else key.recording_id
    versions = [stream.sdk_version for stream in recording.streams if stream.sdk_version]
    return {
        "name": name,
        "application_id": key.application_id,
        "recording_id": key.recording_id,
        "live": not all(stream.ended for stream in recording.streams),
        "complete": not recording.live,
        "messages": recording.messages,
        "bytes": recording.bytes,
        "started_at": recording.started_at,
        "ended_at": max((stream.ended_at or 0.0 for stream in recording.streams), default=0.0) or None,
        "sdk": ".".join(map(str, max(versions))) if versions else "",
        "program": next((stream.program for stream in recording.streams if stream.program), ""),
        "error": next((stream.error for stream in recording.streams if stream.error), ""),
        "file": "/recordings/" + urllib.parse.quote(name, safe="") + ".rrd",
    }

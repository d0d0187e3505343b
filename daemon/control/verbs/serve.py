"""`serve`: the web viewer in a browser, with the data."""

from __future__ import annotations

import errno
import getpass
import logging
import os
import shlex
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping

import trio

from daemon.control.server import Call
from daemon.control.verbs.save import select
from daemon.selection import FILE, RUN, STREAM
from daemon.sinks.runner import describe
from daemon.sinks.web import DEFAULT_PORT, WebSink, url_host
from daemon.systemd.service import outside
from daemon.wire.control import Message, VerbError

log = logging.getLogger("rrd.web")

DESKTOP = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
"""Variables that tell of somewhere to open a browser in; on macOS there always is."""


async def run(call: Call) -> Message:
    """Serve the web viewer and the data, until detached; a server that fits what is asked is used again.

    Args of the verb: source (selectors and absolute paths of .rrd files; by default @live) or stream (exactly this
    one); bind, port (0: any free one), token (text), no_token, allow_anyone (no token where others can reach it),
    host_names; open (a browser, where the client's session has one).

    Returns:
        url (with the token), sink (as in status), viewer (version, where it is from), opened (whether a browser was),
        tunnel (the command that makes the page reachable at the other end of an ssh session, or empty), warning.

    Raises:
        VerbError: no such recording; no viewer to serve; the port is taken; not without a token.
    """
    from daemon.web.assets import NoViewer
    from daemon.web.auth import is_loopback
    from daemon.web.live import MAX_TERMS

    bind = call.text("bind", "")
    if not is_loopback(bind or "127.0.0.1") and call.flag("no_token") and not call.flag("allow_anyone"):
        raise VerbError("refused", f"everyone who reaches {bind} could see all recordings",
                        "leave out --no-token, or say --allow-anyone if that is meant")
    terms = await _terms(call)
    if len(terms) > MAX_TERMS:
        raise VerbError("refused", f"{len(terms)} recordings are more than one page takes, which is {MAX_TERMS}",
                        "rrd serve @all takes all there are; /, without /view, lists them to choose from")
    sink = _running(call)
    fresh = sink is None
    if sink is None:
        sink = await _claimed(call, bind or "127.0.0.1")
    try:
        viewer = await sink.site.viewer_for(terms)
    except NoViewer as error:
        await sink.abandon()
        raise VerbError("failed", str(error), error.hint) from error
    sink.files = sorted({*sink.files, *(term.removeprefix(FILE) for term in terms if term.startswith(FILE))})
    try:
        if fresh:
            call.daemon.sinks.add(sink)
        else:
            sink.saved()
    except OSError as error:
        await sink.abandon()
        raise VerbError("failed", f"cannot keep the sink: {describe(error)}") from error
    with trio.move_on_after(2.0):
        while sink.state == "starting":
            await call.daemon.hub.wait_change(call.daemon.hub.version)
    environment = environment_of(call.client.pid)
    query = "&".join(f"source={urllib.parse.quote(term, safe='@:/')}" for term in terms)
    tunnel = tunnel_for(sink, environment)
    opened = call.flag("open") and not tunnel and has_desktop(environment)
    if opened:
        call.daemon.nursery.start_soon(open_browser, sink.url(query, once=True), environment)
    return {
        "url": sink.url(query),
        "sink": sink.status(),
        "viewer": {"version": viewer.version_text, "origin": viewer.origin},
        "opened": opened,
        "tunnel": tunnel,
        "warning": "" if sink.state == "following" else sink.last_error,
    }


async def _terms(call: Call) -> list[str]:
    """What the page is asked to show, as it stands in its address."""
    if not call.text("stream", "") and not call.texts("source"):
        return ["@live"]
    selection, _ = await select(call)
    # A file may be a log of the spool itself: a saved recording is often nothing but a link to it.
    streams = [name if name.startswith(FILE) else f"{STREAM}{name}" for name in selection.streams]
    words = call.texts("source")
    # @latest is what it is now: a page that is opened again tomorrow shows the same.
    named = [f"{app}/{recording}" if app else recording for app, recording in sorted(selection.recordings)]
    fixed = [word for word in words if word == "@live" or word.startswith(RUN)]
    return [*fixed, *sorted(streams), *(["@all"] if "@all" in words else named)]


def _running(call: Call) -> WebSink | None:
    """The server that is there, if it is what was asked for."""
    bind, port, token = call.text("bind", ""), call.number("port"), call.args.get("token")
    for sink in call.daemon.sinks.active():
        if (
            isinstance(sink, WebSink)
            and bind in ("", sink.bind)
            and port in (None, sink.port)
            and token in (None, sink.token)
            and (sink.token is None or not call.flag("no_token"))
            and set(call.texts("host_names")) <= set(sink.names)
        ):
            return sink
    return None


async def _claimed(call: Call, bind: str) -> WebSink:
    """A server that listens.

    Raises:
        VerbError: it cannot.
    """
    from daemon.web.auth import new_token

    port = call.number("port")
    if port is not None and not 0 <= port <= 65535:
        raise VerbError("usage", f"port is {port:.0f}", "a port is 0 to 65535; 0 takes a free one")
    token = None if call.flag("no_token") else call.text("token", "") or new_token()
    if token is not None and not (token.isascii() and token.replace("-", "").replace("_", "").isalnum()):
        raise VerbError("usage", "a token is letters, digits, - and _")
    wanted = DEFAULT_PORT if port is None else int(port)
    sink = WebSink(call.daemon.hub, bind=bind, port=wanted, token=token, names=call.texts("host_names"))
    try:
        await sink.claim(fallback=port is None)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise VerbError("exists", f"port {wanted} is taken", "choose another, or leave --port out") from error
        raise VerbError("failed", f"cannot listen on {bind}: {describe(error)}") from error
    return sink


def environment_of(pid: int) -> Mapping[str, str]:
    """The environment that a process was started with: where its user sits, not where the daemon was started."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            pairs = [entry.partition(b"=") for entry in file.read().split(b"\0")]
    except OSError:
        return os.environ
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs if name}


def tunnel_for(sink: WebSink, environment: Mapping[str, str]) -> str:
    """The command that brings the page to the other end of an ssh session; empty outside of one, or if none is needed.

    Args:
        environment: The client's; ssh puts client and server addresses and ports into SSH_CONNECTION (ssh(1)).
    """
    from daemon.web.auth import is_loopback

    connection = environment.get("SSH_CONNECTION", "").split()
    if len(connection) != 4 or not is_loopback(sink.bind):
        return ""
    _, _, server, port = connection
    user = environment.get("USER") or getpass.getuser()
    words = ["ssh", "-N", "-L", f"{sink.port}:{url_host(sink.bind)}:{sink.port}", f"{user}@{server}"]
    return shlex.join([*words, "-p", port] if port != "22" else words)


def has_desktop(environment: Mapping[str, str]) -> bool:
    """Whether there is somewhere to open a browser in."""
    return sys.platform == "darwin" or any(environment.get(name) for name in DESKTOP)


async def open_browser(url: str, environment: Mapping[str, str]) -> None:
    """Open an address in the user's browser. Some launchers stay until it is closed: it may outlive the daemon."""
    command = [*outside(environment), sys.executable, "-I", "-m", "webbrowser", "-t", url]
    quiet = subprocess.DEVNULL
    try:
        process = await trio.lowlevel.open_process(
            command, env=dict(environment), start_new_session=True, stdin=quiet, stdout=quiet, stderr=quiet, cwd="/"
        )
    except OSError as error:
        log.warning("cannot open a browser: %s", error)
        return
    await process.wait()

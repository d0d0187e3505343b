"""`spawn`: a viewer's window as an output: one that is there, else one that is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio

from daemon.control.server import Call
from daemon.control.verbs.connect import choose, existing, feeding, judge, refuse, take_in, versions
from daemon.selection import Selection
from daemon.sinks.viewer import ViewerSink
from daemon.viewers.discover import Found, find, server_at, shown
from daemon.viewers.probe import Answer, probe
from daemon.viewers.process import HOST, StartFailed, Viewer, Wish, candidates, environment_of, start
from daemon.viewers.process import choose as choose_executable
from daemon.viewers.version import Fit, Verdict, show
from daemon.wire.control import Message, VerbError
from daemon.wire.grpc import Address

_one_at_a_time = trio.Lock()
"""Two programs that want a window at the same moment share it."""


async def run(call: Call) -> Message:
    """Find a viewer that is running, or start one, and feed it.

    Args of the verb: source or stream, from, newest_first, max_lag (see connect); new (never one that is running);
    port; executable (a path), executable_name (in PATH); memory_limit, server_memory_limit (texts);
    hide_welcome_screen; headless; connect (False: only the viewer).

    Returns:
        sink (as in status; None without connect), chose, viewer {pid, version, url, executable, reused, log}, warning.

    Raises:
        VerbError: no such recording; the port is taken by something else; no viewer is installed, fits or comes up.
    """
    how = feeding(call)
    selection, chose = await choose(call)
    wish = _wish(call)
    async with _one_at_a_time:
        viewer, reused, verdict = await _viewer(call, selection, wish)
        sink: ViewerSink | None = None
        if call.args.get("connect", True):
            sink = existing(call, selection, viewer.address)
            if sink is None:
                sink = ViewerSink(
                    call.daemon.hub, selection, viewer.address, process=(viewer.pid, viewer.started),
                    spawned=not reused, version=viewer.version, **how,
                )
                await take_in(call, sink)
    return {
        "sink": sink.status() if sink is not None else None,
        "chose": chose,
        "viewer": {
            "pid": viewer.pid,
            "version": show(viewer.version) if viewer.version else "",
            "url": viewer.address.url,
            "executable": shown(viewer.executable),
            "reused": reused,
            "log": viewer.log,
        },
        "warning": f"{verdict.message}; {verdict.hint}" if verdict.message else "",
    }


def _wish(call: Call) -> Wish:
    port = call.number("port")
    if port is not None and not 0 <= port <= 65535:
        raise VerbError("usage", f"spawn: port is {port:g}", "a port is 1 to 65535, or 0 for any free one")
    return Wish(
        executable=call.text("executable", ""),
        name=call.text("executable_name", "rerun") or "rerun",
        port=int(port or 0),
        headless=call.flag("headless"),
        memory_limit=call.text("memory_limit", ""),
        server_memory_limit=call.text("server_memory_limit", ""),
        hide_welcome_screen=call.flag("hide_welcome_screen"),
    )


async def _viewer(call: Call, selection: Selection, wish: Wish) -> tuple[Viewer, bool, Verdict]:
    """The viewer to feed, whether it was there before, and how it goes with the streams."""
    if not call.flag("new"):
        running = await (_at_port(wish) if wish.port else _running(wish))
        fitting = [(one, judge(call, selection, one.version)) for one in running]
        right = [pair for pair in fitting if pair[1].fit is Fit.RIGHT]
        if right:
            return right[0][0], True, right[0][1]
        if wish.port and fitting:
            viewer, verdict = fitting[0]
            if verdict.fit is Fit.LOSES:
                raise VerbError("refused", verdict.message, verdict.hint)
            return viewer, True, verdict
    elif wish.port and (await probe(Address(HOST, wish.port))).kind != "none":
        raise VerbError("exists", f"port {wish.port} is taken", "leave --port out, and a free one is found")
    return await _started(call, selection, wish)


async def _at_port(wish: Wish) -> Sequence[Viewer]:
    """The viewer on one port; nothing if nobody listens there.

    Raises:
        VerbError: something else does.
    """
    address = Address(HOST, wish.port)
    answer = await probe(address)
    if answer.kind == "none":
        return []
    found = await trio.to_thread.run_sync(server_at, wish.port)
    refuse(address, answer, found)
    if not answer.takes_streams or answer.kind == "rrd" or found is None:
        who = found.describe() if found else "somebody"
        raise VerbError("refused", f"port {wish.port} is taken by {who}: {answer.describe()}",
                        "leave --port out, and a free one is found")
    return [_as_viewer(found, address, answer)]


async def _running(wish: Wish) -> Sequence[Viewer]:
    """Viewers of this user that answer: windows, or headless ones if one such is wanted; the newest first."""
    kinds = ("headless",) if wish.headless else ("windowed",)
    found = [one for one in await trio.to_thread.run_sync(find) if one.owner.mine and one.kind in kinds]
    found.sort(key=lambda one: one.owner.started, reverse=True)
    answers: dict[tuple[int, int], Answer] = {}

    async def ask(one: Found, port: int) -> None:
        answers[one.owner.pid, port] = await probe(Address(HOST, port))

    async with trio.open_nursery() as nursery:
        for one in found:
            for _, port in one.ports:
                nursery.start_soon(ask, one, port)
    return [
        _as_viewer(one, Address(HOST, port), answers[one.owner.pid, port])
        for one in found for _, port in one.ports if answers[one.owner.pid, port].kind == "rerun"
    ]


def _as_viewer(found: Found, address: Address, answer: Answer) -> Viewer:
    return Viewer(address, found.owner.pid, found.owner.started, found.executable, answer.version or found.version)


@dataclass(frozen=True)
class _Context:
    environment: Mapping[str, str]
    pids: Sequence[int]


async def _started(call: Call, selection: Selection, wish: Wish) -> tuple[Viewer, bool, Verdict]:
    streams = [stream for stream in call.daemon.hub.streams.values() if selection.takes(stream) and not stream.ended]
    context = _Context(environment_of(call.client.pid), [stream.pid for stream in streams[::-1] if stream.pid])
    try:
        found = await trio.to_thread.run_sync(candidates, wish, context.environment, context.pids)
        executable, verdict = choose_executable(found, versions(call, selection), wish)
        viewer = await start(executable, wish, context.environment)
    except StartFailed as error:
        raise VerbError("failed", str(error), error.hint) from error
    return viewer, False, verdict

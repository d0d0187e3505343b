"""`doctor`: what only the daemon can see of the installation: ports, viewers, versions, disk, what has gone wrong."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator

import trio

from daemon.control.server import Call
from daemon.ingest.grpc import GrpcServer
from daemon.runs import PORT
from daemon.viewers.discover import Found, find, server_at
from daemon.viewers.process import StartFailed, Wish, candidates, environment_of
from daemon.viewers.version import Version, compare, show
from daemon.web.assets import NoViewer, executables_in, notebook_in, sites
from daemon.wire.control import Message

NEAR_FULL = 1.5
"""Free space below so many times what is to be left free is worth a word."""


async def run(call: Call) -> Message:
    """Look at everything.

    Returns:
        findings: maps of check, level (ok, warning, problem), message, fix.
    """
    streams = call.daemon.hub.own()
    versions = sorted({stream.sdk_version for stream in streams if stream.sdk_version})
    pids = [stream.pid for stream in streams if stream.pid and not stream.ended]
    environment = environment_of(call.client.pid)
    running = await trio.to_thread.run_sync(find)
    owner = await trio.to_thread.run_sync(server_at, PORT)
    try:
        startable = await trio.to_thread.run_sync(candidates, Wish(), environment, pids)
    except StartFailed:
        startable = []
    found = [*_grpc(call.daemon.grpc), *_port(owner), *_spawnable([one.version for one in startable], versions),
             *_versions(running, versions), *await trio.to_thread.run_sync(_web, pids), *_disk(call), *_clock(call),
             *_trouble(call)]
    return {"findings": found}


def finding(check: str, level: str, message: str, fix: str = "") -> Message:
    """One line of the result."""
    return {"check": check, "level": level, "message": message, "fix": fix}


def _grpc(server: GrpcServer | None) -> Iterator[Message]:
    if server is None:
        yield finding("grpc", "ok", "off: the settings say grpc_port = -1")
    elif server.error:
        yield finding("grpc", "problem", server.error, "end that program, or choose another grpc_port: rrd config edit")
    else:
        yield finding("grpc", "ok", f"programs without the shim stream to {server.url}")


def _port(owner: Found | None) -> Iterator[Message]:
    if owner is None:
        yield finding("port 9876", "ok", "free: rrd run and viewers may have it")
    elif owner.owner.pid == os.getpid():
        yield finding("port 9876", "ok", "answered by this daemon")
    elif owner.kind in ("other", "sdk"):
        yield finding("port 9876", "warning", f"Rerun's own port is taken by {owner.describe()}",
                      f"rr.spawn and rr.connect_grpc would stream there: end it (kill {owner.owner.pid}) if it is not "
                      "meant to take that")
    else:
        yield finding("port 9876", "ok", f"taken by {owner.describe()}")


def _spawnable(found: list[Version | None], streams: list[Version]) -> Iterator[Message]:
    newest = streams[-1] if streams else None
    known = sorted(version for version in found if version)
    if not found:
        yield finding("viewer", "problem", "no `rerun` to spawn is installed",
                      f"pip install rerun-sdk{'==' + show(newest) if newest else ''}")
    elif newest and known and known[-1][:2] < newest[:2]:
        verdict = compare(newest, known[-1])
        yield finding("viewer", "warning", f"the newest viewer here is {show(known[-1])}, programs log with "
                      f"{show(newest)}", verdict.hint)
    else:
        yield finding("viewer", "ok", f"rerun {show(known[-1]) if known else '(unknown version)'} can be spawned")


def _versions(running: list[Found], streams: list[Version]) -> Iterator[Message]:
    for one in running:
        if one.kind in ("other", "sdk", "save"):
            continue
        verdicts = [compare(version, one.version) for version in streams]
        bad = next((verdict for verdict in verdicts if verdict.message), None)
        if bad is not None:
            yield finding("running viewer", "warning", f"pid {one.owner.pid}: {bad.message}", bad.hint)
        else:
            yield finding("running viewer", "ok", f"{one.kind}, version {show(one.version)}, pid {one.owner.pid}")


def _web(pids: list[int]) -> list[Message]:
    try:
        places = sites(pids)
        viewers = [viewer for site in places if (viewer := notebook_in(site)) is not None]
        others = any(True for site in places for _ in executables_in(site)) or shutil.which("rerun")
    except (NoViewer, OSError):
        viewers, others = [], None
    if viewers:
        return [finding("web viewer", "ok", f"version {viewers[0].version_text} can be served")]
    if others:
        return [finding("web viewer", "ok", "taken out of the `rerun` executable when it is first served")]
    return [finding("web viewer", "problem", "there is no web viewer to serve", 'pip install "rerun-sdk[notebook]"')]


def _disk(call: Call) -> Iterator[Message]:
    hub = call.daemon.hub
    free, min_free = call.daemon.room()
    ended = sum(stream.size for stream in hub.own() if stream.ended)
    live = sum(stream.size for stream in hub.own() if not stream.ended)
    limit = call.daemon.settings.spool_max_bytes
    text = f"{free / 1e9:.1f} GB free, the spool has {ended / 1e9:.1f} of {limit / 1e9:.1f} GB"
    if live >= 5e7:  # shown as 0.1
        text += f", and {live / 1e9:.1f} live"
    if free < min_free:
        yield finding("disk", "problem", f"{text}: less than {min_free / 1e9:.1f} GB are free",
                      f"make room, or rrd forget what is not needed: {hub.directory}")
    elif free < NEAR_FULL * min_free:
        yield finding("disk", "warning", text, "old recordings will be removed soon: save what you want to keep")
    else:
        yield finding("disk", "ok", text)


def _clock(call: Call) -> Iterator[Message]:
    newest = max((stream.started_at for stream in call.daemon.hub.streams.values()), default=0.0)
    now = time.time()
    if newest > now + 60:
        yield finding("clock", "warning", f"the newest recording began {newest - now:.0f} s in the future",
                      "the clock was set back: timedatectl; recordings may be listed in a wrong order")
    elif time.gmtime(now).tm_year < 2024:
        yield finding("clock", "problem", f"it says {time.strftime('%Y-%m-%d', time.gmtime(now))}",
                      "set it: timedatectl set-ntp true")
    else:
        yield finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(now)))


def _trouble(call: Call) -> Iterator[Message]:
    for sink in call.daemon.sinks.sinks.values():
        if sink.state in ("retrying", "failed"):
            yield finding("output", "warning", f"{sink.id} is {sink.state}: {sink.last_error}: {sink.target}",
                          f"rrd detach {sink.id}   if it is not wanted any more")
    for stream in call.daemon.hub.streams.values():
        if stream.stalled:
            yield finding("stream", "problem", f"{stream.program or stream.id} is held up: {stream.stalled}",
                          "make room on the spool's disk")

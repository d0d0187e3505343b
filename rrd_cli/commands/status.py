"""`rrd status`: the daemon, its streams, its sinks and how far behind they are."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from rrd_cli import render
from rrd_cli.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OVER: Final = ("complete", "detached", "closed")
"""States of outputs that are as they were wanted, and done."""
EXAMPLES = """
rrd status
rrd status --json | jq '.sinks[] | select(.lag_bytes > 0)'
"""


def run(
    json: Annotated[bool, typer.Option("--json", help="Print one object: daemon, streams, sinks.")] = False,
) -> None:
    """Show the daemon, what it takes in, and each output with its lag."""
    with Client() as client:
        status = fetch(client)
    render.print_lines([render.as_json(status)] if json else lines(status, now=time.time()))


def fetch(client: Client) -> dict[str, Any]:
    """The daemon's status with its pinned keys."""
    answer = client.call("status")
    return {
        "daemon": render.pinned(answer.get("daemon") or {}, render.DAEMON_KEYS),
        "streams": list(answer.get("streams") or ()),
        "sinks": [render.pinned(sink, render.SINK_KEYS) for sink in by_interest(answer.get("sinks") or ())],
    }


def by_interest(sinks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs that do something, or should, before those that are over, the newest of these first."""
    found = list(sinks)
    over = [sink for sink in found if sink.get("state") in OVER]
    return [sink for sink in found if sink.get("state") not in OVER] + over[::-1]


def lines(status: Mapping[str, Any], *, now: float) -> list[str]:
    """The status as people read it."""
    return [*_daemon(status["daemon"]), "", *_streams(status["streams"], now), "", *_sinks(status["sinks"])]


def _daemon(daemon: Mapping[str, Any]) -> list[str]:
    memory = f", {render.size(daemon['rss_bytes'])} of memory" if daemon["rss_bytes"] is not None else ""
    uptime = f", up {render.duration(daemon['uptime_s'])}" if daemon["uptime_s"] is not None else ""
    found = [f"rrd {render.clean(daemon['version'])}, pid {daemon['pid']}{uptime}{memory}"]
    if daemon["grpc_error"]:
        found.append(f"  gRPC    {render.styled('off', 'bad', sys.stdout)}: {render.clean(daemon['grpc_error'])}")
    elif daemon["grpc_url"]:
        found.append(f"  gRPC    {render.clean(daemon['grpc_url'])}")
    if daemon["spool"]:
        free = daemon["spool_free_bytes"]
        room = f", {render.size(free)} free" if free is not None else ""
        found.append(f"  spool   {render.clean(daemon['spool'])}  ({render.size(daemon['spool_bytes'])}{room})")
    if daemon["socket"]:
        found.append(f"  socket  {render.clean(daemon['socket'])}")
    return found


def _streams(streams: list[Mapping[str, Any]], now: float) -> list[str]:
    if not streams:
        return ["streams  none"]
    rows = [
        (
            render.clean(stream.get("id", "-")),
            render.clean(stream.get("kind", "-")),
            _recordings(stream),
            render.clean(stream.get("state") or ("ended" if stream.get("ended") else "live")),
            render.number(stream.get("messages")),
            render.size(stream.get("bytes", stream.get("committed"))),
            render.age(stream.get("started_at"), now),
            render.clean(stream.get("program") or "-") + (f" (pid {stream['pid']})" if stream.get("pid") else ""),
        )
        for stream in streams
    ]
    header = ("STREAM", "KIND", "RECORDING", "STATE", "MESSAGES", "SIZE", "STARTED", "PROGRAM")
    found = render.table(header, rows, right=(4, 5))
    for stream in streams:
        name = render.clean(stream.get("id", "-"))
        if stream.get("error"):
            found.append(f"  {name}: {render.styled(render.clean(stream['error']), 'bad', sys.stdout)}")
        if stream.get("dropped_bytes"):
            found.append(f"  {name}: {render.size(stream['dropped_bytes'])} lost")
    return found


def _recordings(stream: Mapping[str, Any]) -> str:
    names = [f"{one.get('application_id') or '?'}/{one.get('recording_id')}" for one in stream.get("recordings") or ()]
    if len(names) > 1:
        return f"{render.clean(names[0])} and {len(names) - 1} more"
    return render.clean(names[0]) if names else "-"


def _sinks(sinks: list[Mapping[str, Any]]) -> list[str]:
    if not sinks:
        return ["sinks    none   (rrd save OUT adds one)"]
    rows = [
        (
            render.clean(sink["id"]),
            render.clean(sink["kind"]),
            render.clean(sink["state"]),
            _lag(sink),
            render.number(sink["delivered_messages"]),
            render.clean(sink["target"]),
        )
        for sink in sinks
    ]
    found = render.table(("SINK", "KIND", "STATE", "LAG", "DELIVERED", "TARGET"), rows, right=(4,))
    for sink in sinks:
        name = render.clean(sink["id"])
        if sink["last_error"]:
            found.append(f"  {name}: {render.styled(render.clean(sink['last_error']), 'bad', sys.stdout)}")
        if sink["skipped_messages"]:
            found.append(f"  {name}: {render.plural(sink['skipped_messages'], 'message')} skipped")
    return found


def _lag(sink: Mapping[str, Any]) -> str:
    if not sink["lag_messages"] and not sink["lag_bytes"]:
        return "none"
    return f"{render.plural(sink['lag_messages'] or 0, 'message')}, {render.size(sink['lag_bytes'])}"

"""`rrd ls`: the recordings that the daemon has, live ones and those it keeps."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrd_cli import recordings, render
from rrd_cli.client import Client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXAMPLES = """
rrd ls
rrd ls --live
rrd ls --json | jq -r '.[] | select(.state == "ended") | .recording_id'
"""


def run(
    live: Annotated[bool, typer.Option("--live", help="Only recordings that are being logged.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a list of objects; times are Unix seconds.")] = False,
) -> None:
    """List recordings: those being logged, and those kept from before."""
    with Client() as client:
        found = fetch(client)
    if live:
        found = [recording for recording in found if recording["state"] == "live"]
    if json:
        render.print_lines([render.as_json(found)])
    else:
        render.print_lines(lines(found, now=time.time(), shorten=sys.stdout.isatty()))


def fetch(client: Client) -> list[dict[str, Any]]:
    """All recordings, oldest first, with their pinned keys."""
    found = [render.pinned(recording, render.RECORDING_KEYS) for recording in recordings.fetch(client)]
    return sorted(found, key=lambda recording: recording["started_at"] or 0.0)


def lines(recordings: Sequence[Mapping[str, Any]], *, now: float, shorten: bool) -> list[str]:
    """The table, or what to do to get something into it.

    Args:
        recordings: With their pinned keys.
        now: Unix seconds.
        shorten: Cut ids to what tells them apart (and selects them), for people; scripts get them whole.
    """
    if not recordings:
        return ['no recordings yet: in a program, `import rrd; rrd.attach()` after rr.init("my_app")']
    ids = [str(recording["recording_id"]) for recording in recordings]
    shown = render.short_ids(ids) if shorten else {name: name for name in ids}
    rows = []
    for name, recording in zip(ids, recordings, strict=True):
        state = str(recording["state"])
        rows.append((
            render.clean(shown[name]),
            render.clean(recording["application_id"] or "-"),
            render.clean(state),
            render.number(recording["messages"]),
            render.size(recording["bytes"]),
            render.age(recording["started_at"], now),
            _length(recording, now),
            render.clean(recording["sdk_version"] or "-"),
            render.clean(recording["program"] or "-"),
        ))
    header = ("RECORDING", "APPLICATION", "STATE", "MESSAGES", "SIZE", "STARTED", "LENGTH", "SDK", "PROGRAM")
    return [_coloured(line) for line in render.table(header, rows, right=(3, 4))]


def _length(recording: Mapping[str, Any], now: float) -> str:
    started, ended = recording["started_at"], recording["ended_at"]
    if started is None:
        return "-"
    if recording["state"] != "live" and ended is None:
        return "-"
    return render.duration((now if ended is None else ended) - started)


def _coloured(line: str) -> str:
    return line.replace(" live ", f" {render.state('live', sys.stdout)} ", 1)

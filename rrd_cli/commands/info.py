"""`rrd info`: what is in files and recordings."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrd_cli import render, sources
from rrd_cli.client import Client
from rrd_cli.errors import CliError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXAMPLES = """
rrd info run.rrd
rrd info @latest                 a recording, live or not
rrd info --check run.rrd         decode everything, to find damage inside of messages
rrd info --json *.rrd | jq '.[] | select(.footer.state != "complete") | .path'
"""

LISTED = 20
"""Entities, and places of damage, that are listed without --all."""
NANOSECONDS = 1_000_000_000


def run(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help=".rrd files, or @latest, @live, @all, an application, a recording (or how its id begins).",
            show_default=False,
        ),
    ],
    check: Annotated[bool, typer.Option("--check", help="Decode every chunk; takes about twice as long.")] = False,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All entities, all damage.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print a list of objects, one a file; times are nanoseconds.")
    ] = False,
) -> None:
    """Show what is in files and recordings: entities, timelines, sizes, footer, damage.

    Files need no daemon, and are only read. A recording is described log by log: one a program that wrote it.
    """
    found = []
    for path, name, live in _files(source):
        one = _describe(path, name, live=live, check=check)
        found.append(one)
        if not json:
            render.print_lines([*lines(one, name, limit=None if everything else LISTED)])
    if json:
        render.print_lines([render.as_json(found)])


def _files(words: Sequence[str]) -> list[tuple[str, str, bool]]:
    """What is to be described: path, name to show, and whether it is still being written."""
    found = []
    recordings = [word for word in words if not sources.is_file_name(word)]
    if recordings:
        with Client() as client:
            for log in client.call("tail", {"source": recordings})["logs"]:
                found.append((str(log["path"]), str(log["path"]), bool(log["live"])))
    for word in words:
        if sources.is_file_name(word):
            found.append((sources.readable_file(word), word, False))
    return found


def _describe(path: str, name: str, *, live: bool, check: bool) -> dict[str, Any]:
    from daemon.spool.info import describe  # pyarrow: 150 ms that only this pays
    from daemon.wire.rrd import FormatError

    try:
        with render.Progress(f"reading {os.path.basename(name)}") as progress:
            return describe(path, growing=live, check=check, progress=progress.update) | {"live": live}
    except FormatError as error:
        raise CliError(str(error)) from error
    except OSError as error:
        raise CliError(f"cannot read file: {error.strerror}: {name}") from error


def lines(found: Mapping[str, Any], name: str, *, limit: int | None) -> list[str]:
    """One file as people read it.

    Args:
        found: As daemon.spool.info.describe gives it.
        name: What the user called it.
        limit: How many entities and places of damage are listed; None is all.
    """
    growing = ", still being written" if found.get("live") else ""
    messages = render.plural(found["messages"], "message")
    result = [
        render.clean(name),
        f"  {render.size(found['bytes'])}, {messages}, Rerun {found['version'] or '?'}{growing}",
        f"  footer: {_footer(found)}",
    ]
    if not found["chunk_ids"]:
        result.append("  without chunk ids, as SDK 0.23 has it: `rerun rrd verify` may panic   (rrd recover adds them)")
    if found["streams"] > 1:
        result.append(f"  {found['streams']} streams, one after the other")
    for recording in found["recordings"]:
        result += _recording(recording, limit)
    damage = found["damage"]
    if damage:
        result.append(f"  damage in {render.plural(len(damage), 'place')}   (rrd recover {render.clean(name)})")
        for one in damage[:limit]:
            result.append(f"    at byte {render.number(one['offset'])}: {render.clean(one['what'])}")
        if limit is not None and len(damage) > limit:
            result.append(f"    and {render.number(len(damage) - limit)} more   (--all)")
    return result


def _footer(found: Mapping[str, Any]) -> str:
    state = str(found["footer"]["state"])
    if found.get("live"):
        return "not yet"
    if state == "complete":
        return f"complete, {render.size(found['footer']['bytes'])}"
    why = f": {render.clean(found['problem'])}" if found.get("problem") else ""
    return f"{state}{why}   (rrd recover makes one)" if not why else f"{state}{why}"


def _recording(recording: Mapping[str, Any], limit: int | None) -> list[str]:
    name = f"{recording['application_id'] or '?'}/{recording['recording_id']}"
    static = f" ({render.number(recording['static_chunks'])} static)" if recording["static_chunks"] else ""
    result = [
        f"  {recording['kind']} {render.clean(name)}",
        f"    {render.plural(recording['chunks'], 'chunk')}{static}, {render.plural(recording['rows'], 'row')}, "
        f"{render.size(recording['bytes'])} ({render.size(recording['uncompressed_bytes'])} uncompressed)"
        + (f", SDK {render.clean(recording['sdk_version'])}" if recording["sdk_version"] else ""),
    ]
    timelines = [
        (render.clean(one["name"]), *_range(str(one["type"]), one["start"], one["end"]))
        for one in recording["timelines"]
    ]
    if timelines:
        result += render.table(("TIMELINE", "FROM", "TO", "LENGTH"), timelines, indent="    ")
    entities = recording["entities"]
    shown = [(render.clean(one["path"]), render.number(one["rows"])) for one in entities[:limit]]
    if shown:
        result += render.table(("ENTITY", "ROWS"), shown, right=(1,), indent="    ")
    if limit is not None and len(entities) > limit:
        result.append(f"    and {render.number(len(entities) - limit)} more   (--all)")
    return result


def _range(kind: str, start: int, end: int) -> tuple[str, str, str]:
    if kind == "timestamp":
        return _moment(start), _moment(end), render.span((end - start) / NANOSECONDS)
    if kind == "duration":
        first, last, length = (render.span(one / NANOSECONDS) for one in (start, end, end - start))
        return first, last, length
    return f"#{start}", f"#{end}", ""


def _moment(nanoseconds: int) -> str:
    """`2026-11-22 18:15:03.123Z`"""
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    try:
        text = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    except (OverflowError, OSError, ValueError):
        return f"{nanoseconds} ns"
    return f"{text}.{rest // 1_000_000:03}Z"

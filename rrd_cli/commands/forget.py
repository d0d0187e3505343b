"""`rrd forget`: drop recordings that have ended from the daemon's spool."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrd_cli import render, times
from rrd_cli.client import Client
from rrd_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLES = """
rrd forget 5f0c2a1b                  one recording, by how its id begins
rrd forget --older-than 7d
rrd forget --ended --dry-run         only show what it would free
"""

NAMED = 5
"""How many recordings are named in a sentence."""


def run(
    recording: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECORDING", help="Recordings or applications, as in rrd ls.", show_default=False),
    ] = None,
    ended: Annotated[bool, typer.Option("--ended", help="All that have ended.")] = False,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="AGE", help="All that ended so long ago: 30min, 12h, 7d, 2w.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only show what would be freed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one object: recordings (names), bytes, streams.")] = False,
) -> None:
    """Drop ended recordings from the spool. Files saved from them stay; live recordings are never dropped."""
    if sum((bool(recording), ended, older_than is not None)) != 1:
        raise UsageError("name recordings, or say --ended or --older-than AGE", "rrd ls lists them")
    args: dict[str, Any] = {}
    if recording:
        args["source"] = list(recording)
    elif ended:
        args["ended"] = True
    elif older_than is not None:
        args["older_than_s"] = times.seconds(older_than, bare=False)
    answer = drop("forget", args, "Forget", dry_run=dry_run, ask=not (yes or json))
    if answer is None:
        render.print_lines(["nothing was forgotten"])
        return
    if json:
        render.print_lines([render.as_json(answer)])
    else:
        render.print_lines([sentence(answer, "would forget" if dry_run else "forgot")])


def drop(verb: str, args: Mapping[str, Any], word: str, *, dry_run: bool, ask: bool) -> dict[str, Any] | None:
    """Say a verb that drops recordings, on a terminal after a question that names them.

    Args:
        verb: Of the daemon.
        args: Its arguments, without dry_run.
        word: What the question begins with.
        ask: Nobody has answered it yet.

    Returns:
        What the daemon answers; None where the user said no.
    """
    with Client() as client:
        if ask and not dry_run and sys.stdin.isatty():
            found = _drop_all(client, verb, {**args, "dry_run": True})
            if not found.get("recordings"):
                return found
            if not typer.confirm(f"{sentence(found, word)}?", err=True):
                return None
        return _drop_all(client, verb, {**args, "dry_run": dry_run})


def _drop_all(client: Client, verb: str, args: dict[str, Any]) -> dict[str, Any]:
    """Say the verb until nothing is left to be dropped: one answer names some thousands at most."""
    answer = client.call(verb, args)
    while (more := answer.pop("more", None)) is not None:
        rest = client.call(verb, {**args, "after": more})
        answer = {**rest, "recordings": sorted({*answer["recordings"], *rest["recordings"]}),
                  "streams": [*answer["streams"], *rest["streams"]], "bytes": answer["bytes"] + rest["bytes"]}
    return answer


def sentence(answer: Mapping[str, Any], verb: str) -> str:
    """`forgot 3 recordings (frees 1.2 GB): app/one, app/two, app/three`"""
    names = [render.clean(name) for name in answer.get("recordings") or ()]
    what = "recording" if names else "stream"
    names = names or [render.clean(name) for name in answer.get("streams") or ()]
    if not names:
        return "nothing to forget"
    listed = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    freed = int(answer.get("bytes") or 0)
    space = f"frees {render.size(freed)}" if freed else "frees nothing: files elsewhere are the same on disk"
    return f"{verb} {render.plural(len(names), what)} ({space}): {listed}"

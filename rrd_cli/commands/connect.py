"""`rrd connect`: recordings to a viewer or server that has a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrd_cli import render, sources, times
from rrd_cli.client import Client
from rrd_cli.commands.save import handed_over

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLES = """
rrd connect                                    the viewer on this machine, port 9876
rrd connect rerun+http://10.0.0.7:9876/proxy   a viewer on another one
rrd connect 9877 @latest                       a port is enough for this machine
rrd detach viewer-1a2b                         no more: its id stands in rrd status
"""

RESULT_KEYS = ("sink", "chose", "waiting", "viewer", "warning")
FROM_HELP = "start: everything since the recordings began. now: only what comes, and what is static."
MAX_LAG_HELP = "Skip ahead when the viewer is more than this behind, for example 5s. By default never."
NEWEST_HELP = "First what comes from now on, then what was there, from its newest to its oldest."
ANSWER = 30.0


def run(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="URL",
            help="rerun+http://HOST:PORT/proxy, rerun+https://, rerun://, HOST:PORT or PORT. By default "
            "rerun+http://127.0.0.1:9876/proxy.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="@live, @latest, @all, an application, a recording (or how its id begins), .rrd files, or - for "
            "standard input. By default @live, and the newest recording when nothing is live.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[str, typer.Option("--from", metavar="WHEN", help=FROM_HELP)] = "start",
    max_lag: Annotated[str | None, typer.Option("--max-lag", metavar="TIME", help=MAX_LAG_HELP)] = None,
    newest_first: Annotated[bool, typer.Option("--newest-first", help=NEWEST_HELP)] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Even another user's, or one of a version that would lose what it is sent.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one object: sink, chose, waiting, viewer, warning.")
    ] = False,
) -> None:
    """Stream recordings to a viewer or any Rerun server: everything since they began, then live.

    One that is not there yet is waited for; one that was away gets what it missed. `rrd detach` ends it.
    """
    words = sources.resolve(source or ())
    args: dict[str, Any] = {
        "url": url, "from": start, "newest_first": newest_first, "max_lag": times.seconds(max_lag), "force": force,
    }  # fmt: skip
    args = {name: value for name, value in args.items() if value not in (None, False)}
    with Client() as client, handed_over(client, words) as given:
        answer = client.call("connect", args | given, timeout=ANSWER, repeat=True)
    if json:
        render.print_lines([render.as_json(render.pinned(answer, RESULT_KEYS))])
        return
    target = (answer.get("viewer") or {}).get("url") or url or "the viewer"
    render.print_lines(fed(answer, render.clean(target)))
    if answer.get("waiting"):
        sink = answer.get("sink") or {}
        render.note(f"waiting: {sink.get('last_error') or 'nobody is there yet'}")
    if answer.get("warning"):
        render.note(f"warning: {answer['warning']}")


def fed(answer: Mapping[str, Any], target: str) -> list[str]:
    """What goes where, and how to end it."""
    chose = render.clean(answer.get("chose") or "it")
    sink = answer.get("sink")
    if not sink:
        return [f"{target} is up"]
    return [f"showing {chose} in {target}", f"to stop: rrd detach {render.clean(sink.get('id', ''))}"]

"""`rrd spawn`: recordings in a viewer's window: one that is open, else one that is started."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrd_cli import render, sources, times
from rrd_cli.client import Client
from rrd_cli.commands.connect import FROM_HELP, MAX_LAG_HELP, NEWEST_HELP, fed
from rrd_cli.commands.save import handed_over

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLES = """
rrd spawn                             what is live now and later
rrd spawn @latest                     the newest recording, finished or not
rrd spawn run.rrd                     a file
rrd spawn --new                       a window of its own
rrd spawn --from now --max-lag 2s     live rather than complete
"""

RESULT_KEYS = ("sink", "chose", "viewer", "warning")
START = 60.0
"""Seconds for the answer: a viewer on a software renderer and a busy machine takes its time to come up."""


def run(
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="@live, @latest, @all, an application, a recording (or how its id begins), .rrd files, or - for "
            "standard input. By default @live, and the newest recording when nothing is live.",
            show_default=False,
        ),
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Start a viewer even if one is running.")] = False,
    port: Annotated[
        int | None,
        typer.Option("--port", "-p", min=1, max=65535, help="The viewer's port. By default 9876, or a free one."),
    ] = None,
    executable: Annotated[
        str | None, typer.Option("--executable", metavar="FILE", help="The rerun executable to start.")
    ] = None,
    memory_limit: Annotated[
        str | None, typer.Option("--memory-limit", metavar="SIZE", help="The viewer's, for example 4GB or 50%.")
    ] = None,
    server_memory_limit: Annotated[
        str | None, typer.Option("--server-memory-limit", metavar="SIZE", help="Its server's, for example 1GB.")
    ] = None,
    hide_welcome_screen: Annotated[
        bool, typer.Option("--hide-welcome-screen", help="Without Rerun's welcome screen.")
    ] = False,
    headless: Annotated[bool, typer.Option("--headless", help="A viewer without a window (0.36 and newer).")] = False,
    start: Annotated[str, typer.Option("--from", metavar="WHEN", help=FROM_HELP)] = "start",
    max_lag: Annotated[str | None, typer.Option("--max-lag", metavar="TIME", help=MAX_LAG_HELP)] = None,
    newest_first: Annotated[bool, typer.Option("--newest-first", help=NEWEST_HELP)] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one object: sink, chose, viewer, warning.")] = False,
) -> None:
    """Show recordings in a viewer: everything since they began, then live.

    A viewer that is running is used; else one is started, of a version that can show the recordings. It is yours: it
    stays when program and daemon end, and is fed on when the daemon is restarted.
    """
    words = sources.resolve(source or ())
    if executable is not None and os.sep in executable:
        executable = os.path.abspath(executable)
    args: dict[str, Any] = {
        "new": new, "port": port, "executable": executable, "memory_limit": memory_limit,
        "server_memory_limit": server_memory_limit, "hide_welcome_screen": hide_welcome_screen, "headless": headless,
        "from": start, "newest_first": newest_first, "max_lag": times.seconds(max_lag),
    }  # fmt: skip
    args = {name: value for name, value in args.items() if value not in (None, False)}
    with Client() as client, handed_over(client, words) as given:
        answer = client.call("spawn", args | given, timeout=START, repeat=True)
    if json:
        render.print_lines([render.as_json(render.pinned(answer, RESULT_KEYS))])
        return
    render.print_lines(lines(answer))
    if answer.get("warning"):
        render.note(f"warning: {answer['warning']}")


def lines(answer: Mapping[str, Any]) -> list[str]:
    """What is shown where."""
    viewer = answer.get("viewer") or {}
    how = "the viewer that is running" if viewer.get("reused") else "a new viewer"
    name = f"{how} ({viewer.get('version') or 'version unknown'}, pid {viewer.get('pid')})"
    return fed(answer, name)

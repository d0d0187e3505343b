"""`rrd serve`: recordings in the browser, in Rerun's own web viewer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrd_cli import render, sources
from rrd_cli.client import Client
from rrd_cli.commands.save import handed_over
from rrd_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLES = """
rrd serve                             what is live now and later
rrd serve @latest                     the newest recording, finished or not
rrd serve run.rrd                     a file
rrd serve --bind 0.0.0.0              for other machines; the address has a token
rrd detach web-1a2b                   no more: its id stands in rrd status
"""

RESULT_KEYS = ("url", "sink", "viewer", "opened", "tunnel", "warning")
START = 90.0
"""Seconds for the answer: the viewer's files may have to be taken out of the rerun executable, once."""


def run(
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="@live, @latest, @all, an application, a recording (or how its id begins), .rrd files, or - for "
            "standard input. By default @live.",
            show_default=False,
        ),
    ] = None,
    bind: Annotated[
        str | None, typer.Option("--bind", metavar="ADDRESS", help="Address to listen on. By default 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", "-p", min=0, max=65535, help="Port to listen on, 0 for any. By default 9887, if it is free."
        ),
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", metavar="TEXT", help="What the address must have. By default random.")
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Let everyone in who reaches the port.")] = False,
    allow_anyone: Annotated[
        bool, typer.Option("--allow-anyone", help="Allow --no-token on an address that other machines reach.")
    ] = False,
    host_name: Annotated[
        list[str] | None,
        typer.Option("--host-name", metavar="NAME", help="A name by which browsers address this machine."),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Print the address, open no browser.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one object: url, sink, viewer, opened, tunnel, warning.")
    ] = False,
) -> None:
    """Show recordings in the browser: history first, then live.

    The page is the web viewer of your own Rerun installation. It goes on when the program has ended and when the
    daemon is restarted; `rrd detach` ends it.
    """
    if token is not None and no_token:
        raise UsageError("--token and --no-token exclude each other")
    words = sources.resolve(source or ())
    args: dict[str, Any] = {
        "bind": bind, "port": port, "token": token, "no_token": no_token, "allow_anyone": allow_anyone,
        "host_names": host_name, "open": not no_open,
    }  # fmt: skip
    args = {name: value for name, value in args.items() if value is not None and value is not False}
    with Client() as client, handed_over(client, words) as given:
        answer = client.call("serve", args | given, timeout=START, repeat=True)
        _show(answer, json=json)  # before the rest of a file goes in


def _show(answer: Mapping[str, Any], *, json: bool) -> None:
    if json:
        shown = render.pinned(answer, RESULT_KEYS)
        shown["sink"] = render.pinned(answer.get("sink") or {}, render.SINK_KEYS)
        render.print_lines([render.as_json(shown)])
    else:
        render.print_lines(lines(answer))


def lines(answer: Mapping[str, Any]) -> list[str]:
    """Where the page is, and how to get there."""
    found = [render.clean(answer.get("url"))]
    if answer.get("tunnel"):
        found += ["this is an ssh session; on your own machine, leave this running and open the address there:",
                  f"  {render.clean(answer['tunnel'])}"]
    if answer.get("warning"):
        found.append(f"not yet: {render.clean(answer['warning'])}")
    sink = answer.get("sink") or {}
    return [*found, f"to stop serving: rrd detach {render.clean(sink.get('id', ''))}"]

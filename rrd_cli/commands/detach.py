"""`rrd detach`: take outputs away while the programs go on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrd_cli import render, sources
from rrd_cli.client import Client
from rrd_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLES = """
rrd detach file-1a2b        its id stands in: rrd status
rrd detach run.rrd
rrd detach --all
"""


def run(
    sink: Annotated[
        list[str] | None,
        typer.Argument(metavar="SINK", help="Outputs, by id as in rrd status, or by file or URL.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All outputs.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one object: sinks, as in status.")] = False,
) -> None:
    """Stop outputs. What a file has by then stays in it, as a complete file; programs and other outputs go on.

    That may take a while for a long file. Interrupted, the output goes on as before.
    """
    if everything == bool(sink):
        raise UsageError("name the outputs to detach, or say --all", "rrd status lists them")
    gone: list[dict[str, Any]] = []
    with Client() as client:
        for name in ["all"] if everything else sink or ():
            target = os.path.abspath(name) if sources.is_path(name) and "://" not in name else name
            with render.Progress(f"detaching {name}") as progress:  # a long file is copied first
                answer = client.call("detach", {"sink": target}, timeout=None, on_progress=progress.from_message)
            gone += [render.pinned(found, render.SINK_KEYS) for found in answer.get("sinks") or ()]
    if json:
        render.print_lines([render.as_json({"sinks": gone})])
    else:
        render.print_lines([line(found) for found in gone] or ["there was no output to detach"])


def line(sink: Mapping[str, Any]) -> str:
    """What became of an output."""
    count = sink["delivered_messages"]
    delivered = "" if count is None else f", {render.plural(count, 'message')} delivered"
    return f"detached {render.clean(sink['id'])}: {render.clean(sink['target'])}{delivered}"

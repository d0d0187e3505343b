"""`rrd detach`: take outputs away while the programs go on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rrd_cli import render
from rrd_cli.client import Client
from rrd_cli.errors import UsageError

EXAMPLES = """
rrd detach file-1           its id stands in: rrd status
rrd detach --all
"""


def run(
    sink: Annotated[
        list[str] | None, typer.Argument(metavar="SINK", help="Ids of outputs, as in rrd status.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All outputs.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one object: sinks (the ids that were detached).")] = False,
) -> None:
    """Stop outputs. What a file has by then stays in it, as a complete file; programs and other outputs go on."""
    if everything == bool(sink):
        raise UsageError("name the outputs to detach, or say --all", "rrd status lists them")
    gone: list[str] = []
    with Client() as client:
        for name in ["all"] if everything else sink or ():
            answer: dict[str, Any] = client.call("detach", {"sink": name})
            gone += [str(found) for found in answer.get("sinks") or ()]
    if json:
        render.print_lines([render.as_json({"sinks": gone})])
    else:
        render.print_lines([f"detached {render.clean(name)}" for name in gone] or ["there was no output to detach"])

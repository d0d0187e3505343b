"""`rrd gc`: apply the spool's retention limits now."""

from __future__ import annotations

from typing import Annotated

import typer

from rrd_cli import render
from rrd_cli.commands.forget import drop, sentence

EXAMPLES = """
rrd gc --dry-run
rrd gc
"""


def run(
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only show what would be freed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one object: recordings (names), bytes, streams.")] = False,
) -> None:
    """Drop the oldest ended recordings until the spool is within its limits, now.

    The daemon does this by itself; this is for when you cannot wait.
    """
    answer = drop("gc", {}, "Drop", dry_run=dry_run, ask=not (yes or json))
    if answer is None:
        render.print_lines(["nothing was dropped"])
    elif json:
        render.print_lines([render.as_json(answer)])
    elif not answer.get("recordings"):
        render.print_lines(["the spool is within its limits"])
    else:
        render.print_lines([sentence(answer, "would drop" if dry_run else "dropped")])

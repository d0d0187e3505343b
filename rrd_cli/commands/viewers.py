"""`rrd viewers`: the Rerun viewers and servers of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from rrd_cli import render
from rrd_cli.client import Client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXAMPLES = """
rrd viewers
rrd viewers --json
"""

VIEWER_KEYS: Final = (
    "pid", "kind", "version", "url", "ports", "executable", "program", "user", "mine", "answers", "sinks",
    "lag_messages", "lag_bytes",
)  # fmt: skip
"""Keys of an object of `rrd viewers --json`. Pinned."""
ANSWER = 30.0


def run(
    json: Annotated[bool, typer.Option("--json", help="Print a list of objects, one a viewer or server.")] = False,
) -> None:
    """List the viewers and Rerun servers that run here, and which of them the daemon feeds.

    Each is found by its process and asked over gRPC; nothing shows in a viewer that is asked.
    """
    with Client() as client:
        answer = client.call("viewers", {}, timeout=ANSWER, repeat=True)
    viewers = [render.pinned(viewer, VIEWER_KEYS) for viewer in answer.get("viewers") or ()]
    if json:
        render.print_lines([render.as_json(viewers)])
    else:
        render.print_lines(lines(viewers))


def lines(viewers: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table, or a sentence where there is nothing."""
    if not viewers:
        return ["no viewer is running; rrd spawn starts one"]
    header = ("PID", "KIND", "VERSION", "PORTS", "USER", "FED BY", "BEHIND", "EXECUTABLE")
    rows = [
        (
            str(viewer["pid"]),
            render.clean(viewer["kind"]),
            render.clean(viewer["version"] or "-"),
            ",".join(map(str, viewer["ports"] or ())) + ("" if viewer["answers"] else " (no answer)"),
            render.clean(viewer["user"] or "-"),
            render.clean(",".join(viewer["sinks"] or ()) or "-"),
            render.plural(viewer["lag_messages"] or 0, "message") if viewer["sinks"] else "-",
            render.clean(viewer["executable"] or viewer["program"] or "-"),
        )
        for viewer in viewers
    ]
    return render.table(header, rows, right=(0,))

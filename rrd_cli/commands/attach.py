"""`rrd attach`: standard input into the spool, without an output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.wire.control import VerbError
from rrd_cli import recordings, render, sources
from rrd_cli.client import Client, LostError
from rrd_cli.commands.save import check_stdin, open_stdin
from rrd_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLES = """
prog --stdout | rrd attach -      keep it; outputs are added when somebody wants one
"""


def run(
    source: Annotated[str, typer.Argument(metavar="-", help="Standard input, and nothing else.")] = sources.STDIN,
) -> None:
    """Take standard input in without an output: it is kept, and can be shown or saved at any time.

    Returns when the stream has ended.
    """
    if source != sources.STDIN:
        raise UsageError(f"only standard input can be attached, not {source}", "prog --stdout | rrd attach -")
    with Client() as client, sources.stdin_pipe() as pipe:
        stream = open_stdin(client, pipe)
        ended = _follow(client, stream, pipe)
        count = client.call("close", {"stream": stream}, timeout=None, repeat=True)["messages"]
        kept = [one for one in recordings.fetch(client) if stream in one.get("streams", ())]
    if kept:
        names = ", ".join(render.clean(f"{one['application_id'] or '?'}/{one['recording_id']}") for one in kept)
        render.print_lines([f"kept {names} ({render.plural(count, 'message')})"])
    check_stdin(ended, count, "what came before is kept: rrd ls")


def _follow(client: Client, stream: str, pipe: int) -> Mapping[str, Any]:
    """Wait until a stream has ended, also if the daemon dies meanwhile; what was said of its end.

    Raises:
        LostError: the daemon was stopped on purpose: the rest of the stream goes nowhere.
    """
    while True:
        event = client.next_event()
        if event is None:
            if client.stopping:
                raise LostError("the daemon was stopped meanwhile", "what came before is kept: rrd daemon start")
            # The daemon is away. The next one goes on with the pipe, which its keeper holds, and so do we.
            try:
                client.call("open", {"kind": "stdin", "stream": stream}, fds=[pipe], repeat=True)
            except VerbError as error:
                if error.code != "not-found":
                    raise
                return {}
        elif event["event"] == "ended" and (event.get("data") or {}).get("stream") == stream:
            return event.get("data") or {}

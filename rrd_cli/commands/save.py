"""`rrd save`: write recordings to a file, from their beginning and until they end."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.wire.control import VerbError
from rrd_cli import render, sources, tailing, times
from rrd_cli.client import Client
from rrd_cli.errors import CliError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EXAMPLES = """
rrd save run.rrd                     the one live recording, else the newest
rrd save run.rrd my_app --wait       return when the file is complete
rrd save all.rrd @all                everything there is, as one file
rrd save merged.rrd a.rrd b.rrd      files into one
rrd save event.rrd --last 30s        what happened just now, as it is now
python prog.py --stdout | rrd save run.rrd -
"""

STATUS_POLL = 0.2
"""Seconds between two looks at a sink that outlived the daemon it was asked of."""


def run(
    out: Annotated[str, typer.Argument(metavar="OUT", help="File to write.", show_default=False)],
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="@live, @latest, @all, an application, a recording (or how its id begins), .rrd files, or - for "
            "standard input.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace OUT if it exists.")] = False,
    copy: Annotated[
        bool, typer.Option("--copy", help="An independent file, never a hard link to the daemon's log.")
    ] = False,
    last: Annotated[
        str | None,
        typer.Option("--last", metavar="TIME", help="Only the last 30s, 5min or 2h, and only so far."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Return when the file is complete.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one object: sink, chose, complete, warnings.")] = False,
) -> None:
    """Write recordings to a file: all since they began, and on until they end.

    An ended recording is complete when this returns. A live one is written on by the daemon, whether you wait for it
    or not; `rrd detach` stops that.

    A file of one whole recording beside the spool is a hard link to its log: it costs nothing, but whatever writes into
    it in place, as `rr.save(OUT)` does, changes the log and other files of that recording, too. --copy makes it
    independent.

    --last saves what is there now of the time before a program's newest message, with the static data, blueprints and
    properties of before, and returns. Chunks are saved whole; the time is that at which the program made them.
    """
    path = sources.target(out)
    words = sources.resolve(source or ())
    args: dict[str, Any] = {"path": path, "force": force, "copy": copy, "wait": wait}
    if last is not None:
        if words == [sources.STDIN]:
            raise UsageError("--last is of what is there, and standard input is still to come",
                             "... | rrd attach -   keeps it, then rrd save --last")
        args |= {"last": times.seconds(last), "wait": True}
        if not args["last"]:
            raise UsageError("the last 0 seconds are nothing", "for example --last 30s")
    with Client() as client, render.Progress(f"saving {os.path.basename(path)}") as progress:
        if words == [sources.STDIN]:
            answer = _save_stdin(client, args, progress)
        else:
            answer = _save(client, args | ({"source": words} if words else {}), progress)
    warnings = list(answer.get("warnings") or ())
    said = any(warning.startswith("no footer") for warning in warnings)
    if answer.get("complete") and not said and os.path.exists(path) and not _is_complete(path):
        warnings.append(f"no footer could be made; why: rrd info {out}")
        answer["warnings"] = warnings
    if json:
        render.print_lines([render.as_json(answer)])
    else:
        render.print_lines(lines(answer, out))
        for warning in warnings:
            render.note(f"warning: {warning}")


class Watcher:
    """Shows progress messages; and what a sink complains of, once each."""

    def __init__(self, progress: render.Progress) -> None:
        self._progress = progress
        self._said = ""

    def __call__(self, message: Mapping[str, Any]) -> None:
        """Take in one message."""
        trouble = str(message.get("last_error") or "")
        if trouble and trouble != self._said:
            self._progress.clear()
            render.note(f"waiting: {trouble}")
        self._said = trouble
        self._progress.from_message(message)


def lines(answer: Mapping[str, Any], out: str) -> list[str]:
    """What was done, in a sentence or two."""
    chose = render.clean(answer.get("chose") or "it")
    sink = answer.get("sink") or {}
    if sink.get("last"):
        chose = f"the last {sink['last']:,g} s of {chose}"
    if answer.get("complete"):
        count = sink.get("delivered_messages")
        much = f" ({render.plural(count, 'message')})" if count is not None else ""
        return [f"saved {chose} to {render.clean(out)}{much}"]
    return [
        f"saving {chose} to {render.clean(out)}, until it ends",
        f"to stop before: rrd detach {render.clean(sink.get('id', '--all'))}",
    ]


def _save(client: Client, args: dict[str, Any], progress: render.Progress) -> dict[str, Any]:
    client.connect()
    before = client.connections
    try:
        return client.call("save", args, timeout=None, repeat=True, on_progress=Watcher(progress))
    except VerbError as error:
        if error.code != "exists" or client.connections == before:
            raise
        # Said again to a daemon that came back, and the file is there: the first saying made it.
        return _join(client, args, error)


def _join(client: Client, args: Mapping[str, Any], refused: VerbError) -> dict[str, Any]:
    """Take over a sink that an earlier saying of the same request made.

    Raises:
        VerbError: there is none: `refused` was meant.
        CliError: the sink failed.
    """
    seen: Mapping[str, Any] | None = None
    while True:
        sinks = client.call("status").get("sinks") or ()
        sink = next((found for found in sinks if found.get("target") == args["path"]), None)
        if sink is None:
            if seen is None and not _is_complete(args["path"]):
                raise refused
            seen = seen or {"target": args["path"]}
            return {"sink": seen, "chose": seen.get("source") or "it", "complete": True}
        seen = sink
        if sink.get("state") == "failed":
            raise CliError(f"saving failed: {sink.get('last_error')}: {args['path']}", "rrd status")
        done = sink.get("state") == "complete"
        if done or not args["wait"]:
            return {"sink": sink, "chose": sink.get("source") or "it", "complete": done}
        time.sleep(STATUS_POLL)


def _is_complete(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return tailing.is_complete(file.fileno())
    except OSError:
        return False


def _save_stdin(client: Client, args: dict[str, Any], progress: render.Progress) -> dict[str, Any]:
    """Hand standard input to the daemon and stay until all of it is in the file."""
    with sources.stdin_pipe() as pipe:
        stream = open_stdin(client, pipe)
        answer = _save(client, args | {"stream": stream, "wait": True}, progress)
    _check_saved(client, stream, answer)
    return answer | {"chose": "standard input"}


def _check_saved(client: Client, stream: str, answer: Mapping[str, Any]) -> None:
    sink = answer.get("sink") or {}
    count = int(sink.get("delivered_messages") or 0)
    kept = f"{render.plural(count, 'message')} before it {'is' if count == 1 else 'are'} in {sink.get('target')}"
    ended: dict[str, Any] = {}
    for event in client.events:
        if event["event"] == "ended" and (event.get("data") or {}).get("stream") == stream:
            ended = event["data"]
    check_stdin(ended, count, kept)


def check_stdin(ended: Mapping[str, Any], count: int, kept: str) -> None:
    """See whether all that came through standard input was a stream.

    Args:
        ended: What the daemon said of its end.
        count: Messages that are whole.
        kept: Where they are.

    Raises:
        CliError: it was damaged or empty; what is whole of it has been kept. That it was cut off is a warning.
    """
    if ended.get("error"):
        raise CliError(f"standard input is damaged: {ended['error']}", kept if count else "")
    if not count:
        raise CliError("standard input ended without a message", "does the program write its stream to stdout?")


@contextlib.contextmanager
def handed_over(client: Client, words: list[str]) -> Iterator[dict[str, Any]]:
    """What the daemon is told of sources: their words; of standard input, which it gets, the stream's id.

    Inside the block standard input is held open, so that nothing is lost if the daemon dies. If it is no pipe, the
    block is left when all of it has gone in.

    Raises:
        VerbError: the daemon does not take it.
        CliError, UsageError: there is no standard input to give; the daemon died while taking it.
    """
    if words == [sources.STDIN]:
        with sources.stdin_pipe() as pipe:
            yield {"stream": open_stdin(client, pipe)}
    else:
        yield {"source": words} if words else {}


def open_stdin(client: Client, pipe: int) -> str:
    """Give the daemon a pipe as a stream of its own; returns the stream's id.

    Raises:
        VerbError: it does not take it.
        CliError: it died while taking it.
    """
    args = {"kind": "stdin", "application_id": "", "recording_id": "", "sdk": "", "pid": os.getpid()}
    answer = client.call("open", args | {"program": "stdin"}, fds=[pipe], repeat=False)
    return str(answer["stream"])

"""`save`: a .rrd file as an output."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import trio

from daemon.control.server import Call
from daemon.selection import FILE, STREAM, Selection, default_recording, names_of, recordings_of, resolve
from daemon.sinks.file import FileSink, refuse_target
from daemon.sinks.runner import ACTIVE, describe
from daemon.stream import Stream
from daemon.wire.control import Message, VerbError
from daemon.wire.rrd import FormatError

PROGRESS_S = 0.2
MAX_LAST_S = 1e9
"""Thirty years: what is more is a mistake."""
FIRST_STEP_S = 1.0
"""How long an output's first step is waited for."""


async def run(call: Call) -> Message:
    """Write recordings to a file: everything since they began, and on until they end.

    Args of the verb: path (absolute); source (selectors and absolute paths of .rrd files; by default the one live
    recording, else the newest) or stream (exactly this one); force; copy; wait; last (seconds: of what is there now,
    only what was made in so many before its newest message, with what is pinned of before).

    Returns:
        sink (as in status), chose (what was taken, for people), complete, warnings (about a complete file). Answers at
        once for live recordings unless `wait`, else when the file is complete; meanwhile progress.

    Raises:
        VerbError: no such recording, or several; the target is there, is being written, or cannot be.
    """
    path = Path(os.path.normpath(call.text("path")))
    if not path.is_absolute():
        raise VerbError("usage", f"save: path must be absolute, found {path}")
    force, copy, wait = call.flag("force"), call.flag("copy"), call.flag("wait")
    last = call.seconds("last", MAX_LAST_S)
    selection, chose = await select(call)
    sink = FileSink(call.daemon.hub, selection, path, copy=copy, force=force, last=last or 0.0)
    _refuse(call, path, selection)
    if last and not any(stream.messages for stream in sink.feed.streams()):
        raise VerbError("not-found", "nothing was logged yet", "of what has ended: @latest, @all, or a recording's id")
    try:
        call.daemon.sinks.add(sink)
    except FileExistsError:
        raise VerbError("exists", f"file exists: {path}", "say --force to replace it, or choose another name") from None
    except FileNotFoundError:
        raise VerbError("failed", f"directory does not exist: {path.parent}", f"mkdir -p {path.parent}") from None
    except OSError as error:
        raise VerbError("failed", describe(error) if error.filename else f"{describe(error)}: {path}") from error
    ended = not selection.open_ended and all(stream.complete for stream in sink.feed.streams())
    if wait or ended:
        await _follow(call, sink)
    else:
        # An error that shows at once is better told at once.
        with trio.move_on_after(FIRST_STEP_S):
            while sink.state == "starting":
                await call.daemon.hub.wait_change(call.daemon.hub.version)
    if sink.state == "failed":
        raise VerbError("failed", sink.last_error)
    return {
        "sink": sink.status(),
        "chose": chose,
        "complete": sink.state == "complete",
        "warnings": _warnings(sink) if sink.state == "complete" else [],
    }


def _warnings(sink: FileSink) -> list[str]:
    """What a user should know of a file that is complete, and might not be what was hoped for."""
    found = []
    for stream in sink.feed.streams():
        name = "standard input" if stream.kind == "stdin" else f"stream {stream.id}"
        if stream.error:
            found.append(f"{name}: {stream.error}; everything before it is kept")
        elif stream.dropped_bytes:
            count = stream.dropped_bytes
            found.append(f"{name} stopped in the middle of a message: its last {count} bytes are left out")
    if sink.last_error:
        found.append(sink.last_error)
    return found


async def select(call: Call) -> tuple[Selection, str]:
    """What `source` or `stream` mean, for every verb that has them.

    Returns:
        The selection, and what it is in words.

    Raises:
        VerbError: nothing fits, or too much.
    """
    hub = call.daemon.hub
    stream = call.text("stream", "")
    source = [f"{STREAM}{stream}"] if stream else call.texts("source")
    if not source:
        recording, chose = default_recording(recordings_of(hub.streams.values()))
        return Selection(recording.label, frozenset([recording.key])), chose
    selection = resolve(await _opened(call, source), hub.streams, hub.moment())
    if not selection.recordings and not selection.open_ended and len(selection.streams) == 1:
        (only,) = selection.streams
        keys = list(hub.streams[only].recordings)
        return selection, keys[0].recording_id if len(keys) == 1 else only.removeprefix(FILE)
    return selection, names_of(selection.recordings) or selection.text.replace(FILE, "")


async def _opened(call: Call, source: list[str]) -> list[str]:
    """The same words, with the ids of streams for files, which are read in place.

    Raises:
        VerbError: a file cannot be read.
    """
    hub = call.daemon.hub
    if not any(term.startswith("/") for term in source):
        return source
    # To read many takes longer than one is kept for nobody: a feed holds those that are open by now.
    held = hub.feed(Selection(""))
    terms = []
    try:
        for term in source:
            if not term.startswith("/"):
                terms.append(term)
                continue
            stream = await _file(call, Path(os.path.normpath(term)))
            terms.append(stream.id if stream.kind == "file" else f"{STREAM}{stream.id}")
            held.selection = replace(held.selection, streams=held.selection.streams | {stream.id})
        for stream in held.streams():
            stream.opened_at = time.monotonic()  # whoever asked is about to read it
    finally:
        hub.feeds.discard(held)
        call.daemon.sinks.close_files_later()
    return terms


async def _file(call: Call, path: Path) -> Stream:
    problem = refuse_target(path)
    if problem:
        raise VerbError("refused", problem)
    try:
        return await call.daemon.hub.open_file(path)
    except FormatError as error:
        raise VerbError("failed", f"{error}: {path}", "rrd info says what is in a file") from error
    except FileNotFoundError:
        raise VerbError("not-found", f"file does not exist: {path}") from None
    except OSError as error:
        raise VerbError("failed", describe(error)) from error


def _refuse(call: Call, path: Path, selection: Selection) -> None:
    problem = refuse_target(path)
    if problem:
        raise VerbError("refused", f"output {problem}")
    real = os.path.realpath(path)
    for sink in call.daemon.sinks.active():
        if isinstance(sink, FileSink) and os.path.realpath(sink.path) == real:
            raise VerbError("exists", f"sink {sink.id} is writing this file: {path}", f"rrd detach {sink.id} ends that")
    if any(os.path.realpath(name.removeprefix(FILE)) == real for name in selection.streams if name.startswith(FILE)):
        raise VerbError("refused", f"input and output are the same file: {path}")
    if real.startswith(os.path.realpath(call.daemon.hub.directory) + os.sep):
        raise VerbError("refused", f"output is inside the spool: {path}")


async def _follow(call: Call, sink: FileSink) -> None:
    """Report progress until the sink is done, or cannot go on for want of room."""
    while sink.state in ACTIVE:
        with trio.move_on_after(PROGRESS_S):
            await sink.done.wait()
        if sink.state in ACTIVE:
            await call.progress({**sink.progress(), "state": sink.state, "last_error": sink.last_error})



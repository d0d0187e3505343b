"""`open`: a stream begins. The descriptor that comes along is where its bytes come from."""

from __future__ import annotations

import os
import stat

from daemon.control.server import Call
from daemon.viewers.discover import shown
from daemon.wire.control import Message, VerbError

KINDS = ("shim", "stdin")


async def run(call: Call) -> Message:
    """Begin a stream, or go on with one (`stream`) whose daemon and keeper had both died.

    Args of the verb: kind, application_id, recording_id, sdk, program, stream; one descriptor to read from.

    Returns:
        stream (its id) and log (its path).

    Raises:
        VerbError: no usable descriptor; the spool's name cannot be said; the stream to go on with has ended or never
            was.
    """
    kind = call.text("kind", "shim")
    if kind not in KINDS:
        raise VerbError("usage", f"open: kind must be one of {', '.join(KINDS)}, found {kind!r}")
    if len(call.fds) != 1:
        raise VerbError("usage", f"open: needs one descriptor to read from, {len(call.fds)} came")
    mode = os.fstat(call.fds[0]).st_mode
    if stat.S_ISDIR(mode):
        raise VerbError("refused", "standard input is a directory", "redirect an .rrd stream into it")
    if os.isatty(call.fds[0]):
        raise VerbError("refused", "standard input is a terminal", "pipe an .rrd stream into it")
    spool = os.fspath(call.daemon.hub.directory)
    if spool != shown(spool):  # the answer names the log: better no stream than one that nobody knows of
        raise VerbError("failed", f"the spool's name is not UTF-8: {shown(spool)}",
                        "set XDG_STATE_HOME to a directory whose name is")
    resumed = call.text("stream", "")
    if resumed:
        stream = await call.daemon.resume_stream(resumed, call.fds, call.client)
    else:
        stream = await call.daemon.open_stream(
            call.fds,
            call.client,
            kind=kind,
            application_id=call.text("application_id", ""),
            recording_id=call.text("recording_id", ""),
            sdk=call.text("sdk", ""),
            program=call.text("program", ""),
        )
    return {"stream": stream.id, "log": os.fspath(stream.path)}

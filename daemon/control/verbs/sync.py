"""`sync`: everything a client has written is where it should be."""

from __future__ import annotations

from functools import partial

import trio

from daemon.completing import fsync_path
from daemon.control.server import Call
from daemon.sinks.file import FileSink
from daemon.sinks.runner import SinkFailed
from daemon.wire.control import Message, VerbError


async def run(call: Call) -> Message:
    """Answer when all bytes that were in the pipes at the time of asking are in the logs.

    Args of the verb: streams (ids, none if it is empty; all of this connection's if it is missing), durable (and in all
    files, and on disk).

    Raises:
        VerbError: there is no such stream, or a file cannot take its data.
    """
    names = sorted(call.client.streams) if call.args.get("streams") is None else call.texts("streams")
    durable = call.flag("durable")
    streams = [call.daemon.find_stream(name) for name in names]
    for stream in streams:
        pump = call.daemon.pumps.get(stream.id)
        if pump is not None:
            await pump.drained()
        if stream.stalled:
            raise VerbError("failed", f"the spool cannot take more: {stream.stalled}", "rrd gc frees space")
        if durable:
            await trio.to_thread.run_sync(partial(fsync_path, stream.path))
    if durable:
        for sink in call.daemon.sinks.active():
            if isinstance(sink, FileSink) and any(sink.selection.takes(stream) for stream in streams):
                try:
                    await sink.durable()
                except SinkFailed as error:
                    raise VerbError("failed", str(error), "rrd status shows every output") from error
    return {
        "messages": sum(stream.messages for stream in streams),
        "bytes": sum(stream.committed for stream in streams),
    }

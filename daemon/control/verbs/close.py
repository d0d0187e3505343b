"""`close`: a stream ends when its program says so."""

from __future__ import annotations

from daemon.control.server import Call
from daemon.wire.control import Message, VerbError


async def run(call: Call) -> Message:
    """Move what is left in the pipe, end the stream, and answer when its log is complete.

    Args of the verb: stream.

    Raises:
        VerbError: there is no such stream, or it is not a descriptor that delivers it.
    """
    stream = call.daemon.find_stream(call.text("stream"))
    pump = call.daemon.pumps.get(stream.id)
    if pump is not None:
        pump.close("closed by the program")
    elif stream.kind == "grpc" and not stream.ended:
        raise VerbError("refused", f"stream {stream.id} comes over gRPC: it ends with its program's connection")
    else:
        call.daemon.hub.end_stream(stream, "closed by the program")
    hub = call.daemon.hub
    while not stream.complete:
        await hub.wait_reshaped(hub.shape)
    return {"messages": stream.messages, "bytes": stream.size}

"""`attach`: streams are buffered in the spool as they come; there is nothing to be done for it but to say which."""

from __future__ import annotations

from daemon.control.server import Call
from daemon.control.verbs.save import select
from daemon.wire.control import Message


async def run(call: Call) -> Message:
    """Say what a selector means, without an output.

    Args of the verb: source or stream, as in save.

    Raises:
        VerbError: nothing fits.
    """
    selection, chose = await select(call)
    hub = call.daemon.hub
    return {"chose": chose, "streams": [stream.id for stream in hub.feed(selection).streams()]}

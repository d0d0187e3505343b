"""`stop`: the daemon ends, and its keeper with it."""

from __future__ import annotations

from functools import partial

from daemon.control.server import Call
from daemon.wire.control import Message, VerbError


async def run(call: Call) -> Message:
    """Stop. Programs that are streaming keep what they log to themselves until a daemon is there again.

    Args of the verb: force (even if programs are streaming).

    Raises:
        VerbError: programs are streaming.
    """
    live = [stream for stream in call.daemon.hub.streams.values() if not stream.ended]
    if live and not call.flag("force"):
        who = ", ".join(f"{stream.program or stream.kind} (pid {stream.pid})" for stream in live[:5])
        raise VerbError(
            "refused", f"{len(live)} program{'s are' if len(live) > 1 else ' is'} streaming: {who}",
            "rrd daemon restart loses nothing; rrd daemon stop --force leaves them buffering until a daemon is back",
        )
    call.afterwards = partial(call.daemon.stop_soon, 0)
    return {}

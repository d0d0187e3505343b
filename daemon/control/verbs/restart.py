"""`restart`: a new daemon, of the version that is installed now, takes over."""

from __future__ import annotations

from functools import partial

from daemon.control.server import Call
from daemon.keeper import EXIT_RESTART
from daemon.wire.control import Message


async def run(call: Call) -> Message:
    """Restart keeper and daemon; streams and outputs go on where they are."""
    # Only then: the end of the daemon cancels everything, the answer too.
    call.afterwards = partial(call.daemon.stop_soon, EXIT_RESTART)
    return {}

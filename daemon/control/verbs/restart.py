"""`restart`: a new daemon, of the version that is installed now, takes over."""

from __future__ import annotations

from daemon.control.server import Call
from daemon.keeper import EXIT_RESTART
from daemon.wire.control import Message


async def run(call: Call) -> Message:
    """Restart keeper and daemon; streams and outputs go on where they are."""
    call.daemon.stop_soon(EXIT_RESTART)
    return {}

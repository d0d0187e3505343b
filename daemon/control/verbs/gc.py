"""`gc`: retention, now."""

from __future__ import annotations

from daemon.control.server import Call
from daemon.wire.control import Message


async def run(call: Call) -> Message:
    """Remove ended recordings, oldest first, as far as the limits ask for it.

    Args of the verb: dry_run.

    Returns:
        recordings (their names), bytes (freed on disk), streams.
    """
    return call.daemon.forget(call.daemon.expired(), dry_run=call.flag("dry_run"))

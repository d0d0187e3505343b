"""`gc`: retention, now."""

from __future__ import annotations

from daemon.control.server import Call
from daemon.control.verbs.forget import forget_some
from daemon.wire.control import Message


async def run(call: Call) -> Message:
    """Remove ended recordings, oldest first, as far as the limits ask for it.

    Args of the verb: dry_run, after.

    Returns:
        recordings (their names), bytes (freed on disk), streams, more; as forget.
    """
    return forget_some(call, call.daemon.expired())

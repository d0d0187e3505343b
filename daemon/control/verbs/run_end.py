"""`run_end`: the program of a run has ended."""

from __future__ import annotations

import trio

from daemon.control.server import Call
from daemon.wire.control import Message


async def run(call: Call) -> Message:
    """Have `run` come to its end.

    Args of the verb: token; saved (absolute paths of files that the program wrote by itself).
    """
    call.daemon.runs.end(call.text("token"), call.texts("saved"))
    await trio.lowlevel.checkpoint()
    return {}

"""`restart`: a new daemon, of the version that is installed now, takes over."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import trio

from daemon.control.server import Call
from daemon.keeper import EXIT_RESTART
from daemon.wire.control import Message, VerbError

TRY = [sys.executable, "-c", "import daemon.keeper, daemon.app"]
"""What a new keeper and a new daemon must be able to do: an upgrade may be under way, or have failed."""


async def run(call: Call) -> Message:
    """Restart keeper and daemon; streams and outputs go on where they are.

    Raises:
        VerbError: what is installed now cannot be started. This daemon goes on: nobody else would hold the pipes.
    """
    tried = await trio.run_process(TRY, check=False, cwd="/", stdout=subprocess.DEVNULL, capture_stderr=True)
    if tried.returncode:
        said = tried.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {tried.returncode}"]
        raise VerbError("refused", f"what is installed now cannot be started: {said[-1]}",
                        "finish the upgrade, or install rrd-cli again; the daemon goes on as it was")
    # Only then: the end of the daemon cancels everything, the answer too.
    call.afterwards = partial(call.daemon.stop_soon, EXIT_RESTART)
    return {}

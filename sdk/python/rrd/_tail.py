"""Standard output as a sink: `rrd tail` writes a stream there, as a process of its own.

Rules: a terminal gets nothing (Rerun's own rule); the program never waits for it, and it ends with the stream or when
nobody reads any more, never with what ends the program.
"""

from __future__ import annotations

import os
import shutil
import sys

from ._errors import Error, warn


def start(stream_id: str) -> None:
    """Let a process write the stream to our standard output.

    Args:
        stream_id: Which.

    Raises:
        Error: the `rrd` command is not there, or cannot be started.
    """
    import subprocess

    if os.isatty(1):
        warn("nothing is written to a terminal", "pipe it: `python program.py --stdout | rerun -`")
        return
    try:
        # In a session of its own: Ctrl-C and a terminal that is closed are the program's affair, which may log more.
        # Not waited for; the interpreter need not tell us at its end that it still runs.
        process = subprocess.Popen(
            [command(), "tail", "--follow", f"stream:{stream_id}"], stdin=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        raise Error("failed", f"cannot start `rrd tail`: {error.strerror}", "is rrd-cli installed?") from error
    process.returncode = 0


def command() -> str:
    """The `rrd` command: beside this interpreter, else on PATH.

    Raises:
        Error: it is nowhere.
    """
    beside = os.path.join(os.path.dirname(sys.executable), "rrd")
    found = beside if os.access(beside, os.X_OK) else shutil.which("rrd")
    if found is None:
        raise Error("failed", "standard output needs the `rrd` command, which is not there", "install rrd-cli")
    return found

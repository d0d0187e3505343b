"""A network of a test's own, so that Rerun's port 9876 is free in it; where none can be had, the machine's."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

HOLD = """
import fcntl, os, socket, struct, sys
flags = struct.pack("16sh", b"lo", 0x41)  # IFF_UP | IFF_RUNNING
fcntl.ioctl(socket.socket(), 0x8914, flags)  # SIOCSIFFLAGS
print("up", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def private_network() -> Iterator[list[str]]:
    """The words that a command is run with to be in it; empty where there is none."""
    root = os.getuid() == 0
    if not (shutil.which("unshare") and shutil.which("nsenter")):
        yield []
        return
    enter = ["unshare", "--net"] if root else ["unshare", "--net", "--map-root-user"]
    holder = subprocess.Popen([*enter, sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True)
    try:
        assert holder.stdout is not None
        up = holder.stdout.readline().strip() == "up"
        users = [] if root else ["--user", "--preserve-credentials"]
        yield ["nsenter", "--target", str(holder.pid), "--net", *users, "--"] if up else []
    finally:
        holder.communicate("")

"""Processes of this machine: which is which, and when one ends. Asked of the kernel, without a dependency."""

from __future__ import annotations

import logging
import os
import select
import sys
from pathlib import Path

import trio

log = logging.getLogger("rrd")


def process_started(pid: int) -> float | None:
    """When a process started, in clock ticks since boot: with the pid, a name that is never given twice.

    Seconds since 1970 would be none: they are computed from the clock of now, and change when that is set.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses may hold anything; field 22 is the 20th after it.
            return float(file.read().rsplit(b")", 1)[1].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def boot_id() -> str:
    """Which boot the ticks of `process_started` count from, for what outlives one; empty where nobody says."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def open_pidfd(pid: int) -> int:
    """A descriptor that becomes readable when a process ends; -1 where there is no such thing to be had.

    Not on macOS; not in a Python that was built for kernels before 5.3 (conda's), nor on these, in a sandbox that
    forbids it, or when there are too many descriptors. None of this says anything about the process.

    Raises:
        ProcessLookupError: it has ended.
    """
    if sys.platform == "linux" and hasattr(os, "pidfd_open"):
        try:
            return os.pidfd_open(pid)
        except ProcessLookupError:
            raise
        except OSError as error:
            log.debug("pidfd_open: %s", error)
    return -1


async def wait_ended(pidfd: int) -> None:
    """Wait until the process of a pidfd has ended.

    To be woken is not enough. epoll(7) keeps the entry of a descriptor that we closed for as long as anybody has the
    same file open, as a shim has its pipe: when that is closed, it comes up under a number that may be a pidfd by now.
    """
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    while True:
        await trio.lowlevel.wait_readable(pidfd)
        if ended.poll(0):
            return

"""The daemon's side of being a service: the watchdog, levels for the journal, the lock that a keeper would hold, what
is started outside of it.

Rules: nothing wakes up unless systemd asked for it (WATCHDOG_USEC, sd_watchdog_enabled(3)). Without systemd nothing
here does anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from daemon import paths

if TYPE_CHECKING:
    from daemon.descriptors import Notifier

log = logging.getLogger("rrd")

PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))
"""Python's levels and syslog's: journald reads `<3>` at the beginning of a line, sd-daemon(3)."""
MORE_TIME_S = 60.0
"""How much longer systemd is asked to wait: less than its TimeoutStartSec, so that the first time is soon enough."""
SPOOL_PATIENCE_S = 0.5
"""Whoever had the spool is gone when its successor begins; a child of it may hold it until its exec."""
LOCK_PATIENCE_S = 5.0
"""A shim that empties its pipe itself holds the lock for moments; a daemon that ends, not much longer."""


class JournalFormatter(logging.Formatter):
    """Lines for the journal: it knows the time, and learns the level; every line of a traceback has it."""

    def __init__(self) -> None:
        super().__init__("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        priority = next(number for level, number in PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def to_journal(environment: Mapping[str, str], fd: int = 2) -> bool:
    """Whether a descriptor goes to the journal: JOURNAL_STREAM names its device and inode, systemd.exec(5)."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    if not device.isdigit() or not inode.isdigit():
        return False
    found = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (int(device), int(inode))


def watchdog_period(environment: Mapping[str, str]) -> float | None:
    """Seconds between two signs of life that systemd wants to see, a third of its patience; None: it wants none."""
    patience, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not patience.isdigit() or int(patience) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(patience) / 1e6 / 3


async def feed_watchdog(notifier: Notifier, period: float) -> None:
    """Tell systemd that the event loop turns, until cancelled.

    Args:
        notifier: Whom to tell.
        period: Seconds.
    """
    while True:
        notifier.tell("WATCHDOG=1")
        await trio.sleep(period)


async def ask_for_time(notifier: Notifier, doing: str) -> None:
    """Have systemd wait for a start that takes long, until cancelled: else it kills the daemon, time and again.

    Args:
        notifier: Whom to ask.
        doing: What takes long, for `systemctl status`.
    """
    while True:
        await trio.sleep(MORE_TIME_S / 3)
        with contextlib.suppress(OSError):
            notifier.tell(f"EXTEND_TIMEOUT_USEC={MORE_TIME_S * 1_000_000:.0f}", f"STATUS={doing}")


def systemd_run(environment: Mapping[str, str]) -> str | None:
    """The `systemd-run` that reaches the manager of this service; None if this is no service, or it cannot be reached.

    Args:
        environment: Of the command that is to be run.
    """
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if "INVOCATION_ID" not in os.environ or not os.path.exists(os.path.join(runtime, "systemd", "private")):
        return None
    return shutil.which("systemd-run")


def outside(environment: Mapping[str, str]) -> list[str]:
    """Words before a command that is to run as if its user had typed it; none where this is no service.

    A browser's own sandbox is made of namespaces, which this service may not make. A scope would inherit that: its
    processes are ours. A transient service is the manager's. Values are taken from systemd-run's own environment, for
    everybody can read command lines.

    Args:
        environment: Of the command.
    """
    program = systemd_run(environment)
    if program is None:
        return []
    names = [name for name in environment if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)]
    # A launcher ends when it has started what stays.
    return [program, "--user", "--quiet", "--collect", "--property=KillMode=process",
            *(f"--setenv={name}" for name in names), "--"]


def be_the_only_one() -> int:
    """Hold the lock that a keeper would hold: one daemon for the recordings.

    Returns:
        A descriptor that holds it for as long as it is open; an exec gives it up.

    Raises:
        PathError: its directory cannot be used.
        OSError: another daemon has it; or it cannot be made.
    """
    path = paths.keeper_lock_path()
    paths.make_private(path.parent)
    return _hold(path, str(os.getpid()), lambda holder: f"another daemon runs here (pid {holder}): rrd daemon stop",
                 LOCK_PATIENCE_S)


def own_the_spool() -> int:
    """Hold the spool's lock, too: a daemon whose keeper was killed has it until it has become a keeper itself.

    A second daemon would take its streams for dead ones.

    Returns, Raises: as `be_the_only_one`.
    """
    path = paths.make_private(paths.state_dir()) / "daemon.lock"
    return _hold(path, f"{os.getpid()}, {paths.socket_path()}", lambda holder: (
        f"another daemon (pid {holder}) has the recordings in {path.parent}"), SPOOL_PATIENCE_S)


def outlast_finishers() -> int:
    """Hold the lock that a daemon's finishers inherit: those of a daemon that was killed have ended then.

    One of them would write a footer where this daemon goes on with the file.

    Returns:
        A descriptor for finishers to inherit; -1 if one does not end: it waits for a disk, and the recordings must not.

    Raises:
        OSError: the lock cannot be made.
    """
    try:
        return _hold(paths.state_dir() / "finishers.lock", str(os.getpid()), lambda holder: (
            f"a finisher of the daemon before (pid {holder}) does not end"), LOCK_PATIENCE_S)
    except BlockingIOError as error:
        log.warning("%s; not waiting for it any longer", error)
        return -1


def _hold(path: Path, me: str, taken: Callable[[str], str], patience: float) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.pread(fd, 512, 0).decode(errors="replace").strip()
                os.close(fd)
                raise BlockingIOError(taken(holder or "?")) from None
            time.sleep(0.05)
        else:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{me}\n".encode(), 0)
            return fd

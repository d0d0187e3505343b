"""Find the daemon; start it when nobody listens.

    dial ── works, here or beside the recordings ───────────────> socket
      └── nobody listens ── lock start.lock ── dial again ── spawn, dial until it works ──> socket

Rules: one winner starts it, the losers wait for it and get what it started; the daemon is nobody's child (a program's
own `os.wait()` must not meet it) and outlives the program; a socket of another user is never trusted.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import struct
import sys
import time
from collections.abc import Callable

from . import _paths
from ._errors import Unreachable

START_SECONDS = 10.0
"""How long a starting daemon may take until it listens. It takes well under a second; a loaded machine may not."""
ANSWER_SECONDS = 10.0
"""How long the daemon may take to answer at all: the keeper listens before the daemon is up again."""
_POLL_SECONDS = 0.02

Spawn = Callable[[int], int]
"""Starts a daemon whose output goes to the given descriptor; returns its process id."""


def connect(*, start: bool, spawn: Spawn | None = None, deadline: float = math.inf) -> socket.socket:
    """A connected socket to the daemon; nothing has been said yet.

    Args:
        start: Start a daemon if nobody listens.
        spawn: How to start one, for tests.
        deadline: When (`time.monotonic()`) to give up waiting for one that starts, if that is sooner than usual.

    Raises:
        Unreachable: nobody listens, and none was to be, or could be, started.
    """
    found = _dial()
    if found is not None:
        return found
    if not start:
        raise Unreachable(f"no daemon listens on {_paths.socket_path()}", nobody=True)
    return _start(spawn or _spawn, deadline)


def _dial() -> socket.socket | None:
    """Connect to the session's socket, else to the one beside the recordings; None if nobody listens."""
    found = _connect(_paths.socket_path())
    spare = _paths.spare_socket_path()
    return found if found is not None or spare is None else _connect(spare)


def _connect(path: str) -> socket.socket | None:
    try:
        owner = os.lstat(os.path.dirname(path)).st_uid
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreachable(f"cannot look into the runtime directory: {error.strerror}: {path}") from error
    if owner != os.getuid():
        where = os.path.dirname(path)
        raise Unreachable(f"directory belongs to uid {owner}, not to you: {where}", "set XDG_RUNTIME_DIR")
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.settimeout(ANSWER_SECONDS)
    try:
        peer.connect(path)
        _check_peer(peer)
    except OSError as error:
        peer.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return None
        raise Unreachable(f"cannot reach the daemon: {error.strerror or error}: {path}") from error
    except Unreachable:
        peer.close()
        raise
    return peer


def _check_peer(peer: socket.socket) -> None:
    if not hasattr(socket, "SO_PEERCRED"):
        return
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid != os.getuid():
        raise Unreachable(f"the daemon's socket belongs to uid {uid}, not to you", "set XDG_RUNTIME_DIR")


def _start(spawn: Spawn, deadline: float) -> socket.socket:
    import fcntl

    deadline = min(deadline, time.monotonic() + START_SECONDS)
    lock_path = os.path.join(_paths.make_private(_paths.runtime_dir()), "start.lock")
    log_path = os.path.join(_paths.make_private(_paths.state_dir()), "daemon.log")
    with contextlib.ExitStack() as cleanup:
        try:
            lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            cleanup.callback(os.close, lock)
            log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            cleanup.callback(os.close, log)
        except OSError as error:
            raise Unreachable(f"cannot start the daemon: {error.strerror}: {error.filename}") from error
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # Somebody else is starting it: what they start is as good.
                found = _dial()
                if found is not None:
                    return found
                if time.monotonic() > deadline:
                    message = "another process is starting the daemon, and does not come to an end"
                    raise Unreachable(message, f"see {log_path}") from None
                time.sleep(_POLL_SECONDS)
        found = _dial()
        if found is not None:
            return found
        try:
            pid = spawn(log)
        except (OSError, ValueError) as error:
            raise Unreachable(f"cannot start the daemon: {error}", "is rrd-cli installed?") from error
        gone_at = 0.0
        while True:
            found = _dial()
            if found is not None:
                return found
            now = time.monotonic()
            if not gone_at and not _alive(pid):
                # It may have found another one that is just starting, and left: look a little longer.
                gone_at = now
            if gone_at and now > gone_at + 1.0:
                raise Unreachable("the daemon ended as soon as it was started", f"see {log_path}")
            if now > deadline:
                raise Unreachable("the daemon was started, but does not listen in time", f"see {log_path}")
            time.sleep(_POLL_SECONDS)


def command() -> list[str]:
    """The command that starts a daemon: $RRD_DAEMON, else this interpreter's own, else rrd-daemon on PATH.

    Raises:
        Unreachable: there is none.
    """
    import shutil

    chosen = os.environ.get("RRD_DAEMON")
    if chosen:
        return [chosen]
    if sys.executable and _installed_here():
        # -P: the directory it is started in (the root) is no place to import from.
        return [sys.executable, "-P", "-m", "daemon.keeper"]
    found = shutil.which("rrd-daemon")
    if found:
        return [found]
    raise Unreachable("cannot start the daemon: rrd-daemon not found", "install rrd-cli, or set RRD_DAEMON to its path")


def _installed_here() -> bool:
    """Is our `daemon` package here? Looked up without importing it: other distributions have a package of that name."""
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("daemon")
    places = spec.submodule_search_locations if spec is not None else None
    return any(os.path.isfile(os.path.join(place, "keeper.py")) for place in places or ())


def _spawn(log: int) -> int:
    import subprocess

    # The shell leaves at once, so the daemon becomes nobody's child; it says the daemon's process id first.
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", '"$@" </dev/null >&2 & echo $!', "rrd-daemon", *command()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            start_new_session=True,
            check=True,
            timeout=START_SECONDS,
        )
    except subprocess.SubprocessError as error:
        raise OSError(f"the shell that should start it failed: {error}") from error
    return int(done.stdout)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

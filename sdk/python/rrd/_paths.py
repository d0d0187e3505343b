"""Where the daemon is: the same places as daemon/paths.py, which a test compares this file with.

Rules: nothing is created by asking for a path; a directory that belongs to somebody else is refused.
"""

from __future__ import annotations

import os
import stat
import tempfile

from ._errors import Unreachable

MAX_SOCKET_PATH = 107
"""sun_path holds 108 bytes with its final NUL (unix(7)); macOS has 104."""


def runtime_dir() -> str:
    """Directory of the control socket and the locks: `$XDG_RUNTIME_DIR/rrd`, else a private one in the temp dir.

    Raises:
        Unreachable: there is neither; nothing can be written in a container.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base):
        return os.path.join(base, "rrd")
    try:
        return os.path.join(tempfile.gettempdir(), f"rrd-{os.getuid()}")
    except FileNotFoundError as error:
        raise Unreachable("no temporary directory can be written to", "set XDG_RUNTIME_DIR") from error


def state_dir() -> str:
    """Directory of the spool and the daemon's log: `$XDG_STATE_HOME/rrd`, by default `~/.local/state/rrd`.

    Raises:
        Unreachable: the variable does not say, and the user has no home (a uid without a name, in a container).
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            raise Unreachable("HOME is not set and this user has no home directory", "set HOME, or XDG_STATE_HOME")
        base = os.path.join(home, ".local/state")
    return os.path.join(base, "rrd")


def socket_path() -> str:
    """Path of the control socket.

    Raises:
        Unreachable: the path is longer than a Unix socket's may be, or there is no place for it.
    """
    path = os.path.join(runtime_dir(), "control.sock")
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise Unreachable(
            f"socket path is {length} bytes long, at most {MAX_SOCKET_PATH} are possible: {path}",
            "set XDG_RUNTIME_DIR to a shorter directory",
        )
    return path


def spare_socket_path() -> str | None:
    """Path of the second socket, beside the recordings; None without a place for it, or if it would be too long.

    A runtime directory is a login session's: programs of another (cron, su) find the daemon there.
    """
    try:
        path = os.path.join(state_dir(), "daemon.sock")
    except Unreachable:
        return None
    return path if len(os.fsencode(path)) <= MAX_SOCKET_PATH else None


def make_private(path: str) -> str:
    """Make a directory that only its owner can enter, or check that it is one.

    Raises:
        Unreachable: it cannot be made, is not a directory, or belongs to somebody else.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and found.st_mode & 0o077:
            os.chmod(path, 0o700)
    except OSError as error:
        raise Unreachable(f"cannot make directory: {error.strerror}: {path}", "check the directory above it") from error
    if not stat.S_ISDIR(found.st_mode):
        raise Unreachable(f"not a directory: {path}", "remove it")
    if found.st_uid != os.getuid():
        raise Unreachable(f"directory belongs to uid {found.st_uid}, not to you: {path}", "set XDG_RUNTIME_DIR")
    return path

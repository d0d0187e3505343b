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
    """Directory of the control socket and the locks: `$XDG_RUNTIME_DIR/rrd`, else a private one in the temp dir."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base):
        return os.path.join(base, "rrd")
    return os.path.join(tempfile.gettempdir(), f"rrd-{os.getuid()}")


def state_dir() -> str:
    """Directory of the spool and the daemon's log: `$XDG_STATE_HOME/rrd`, by default `~/.local/state/rrd`."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".local/state")
    return os.path.join(base, "rrd")


def socket_path() -> str:
    """Path of the control socket.

    Raises:
        Unreachable: the path is longer than a Unix socket's may be.
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
    """Path of the second socket, beside the recordings; None if it would be longer than a socket's may be.

    A runtime directory is a login session's: programs of another (cron, su) find the daemon there.
    """
    path = os.path.join(state_dir(), "daemon.sock")
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

"""Where things are: the runtime directory (socket, start lock), the state directory (spool, sinks, logs, the keeper's
lock, a second socket), the settings.

A runtime directory is a login session's: another session has another (cron, su), and it goes away with the user's last
one. The recordings stay, and so does the socket beside them: clients look there when nobody listens at the usual place.

Rules: XDG variables are honoured, so several daemons can live apart; a directory that others could write to is
refused; nothing is created by merely asking for a path. Imports nothing heavy: keeper, client and daemon share it.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

SPARE = "daemon.sock"
"""Name of the socket beside the recordings; another than the usual one's, as both directories may be one."""
MAX_SOCKET_PATH = 107
"""sun_path holds 108 bytes with its final NUL (unix(7)); macOS has 104."""


class PathError(Exception):
    """A directory cannot be used. The message says which and why, `hint` how to mend it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def runtime_dir() -> Path:
    """Directory of the control socket and the locks: `$XDG_RUNTIME_DIR/rrd`, else a private one in the temp dir."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base):
        return Path(base) / "rrd"
    return Path(tempfile.gettempdir()) / f"rrd-{os.getuid()}"


def state_dir() -> Path:
    """Directory of what must outlive a reboot: `$XDG_STATE_HOME/rrd`, by default `~/.local/state/rrd`."""
    return _xdg("XDG_STATE_HOME", ".local/state")


def config_dir() -> Path:
    """Directory of the settings: `$XDG_CONFIG_HOME/rrd`, by default `~/.config/rrd`."""
    return _xdg("XDG_CONFIG_HOME", ".config")


def cache_dir() -> Path:
    """Directory of what can be made again: `$XDG_CACHE_HOME/rrd`, by default `~/.cache/rrd`."""
    return _xdg("XDG_CACHE_HOME", ".cache")


def _xdg(variable: str, default: str) -> Path:
    # The XDG specification says to ignore relative paths.
    base = os.environ.get(variable, "")
    return (Path(base) if os.path.isabs(base) else Path.home() / default) / "rrd"


def socket_path() -> Path:
    """Path of the control socket.

    Raises:
        PathError: the path is longer than a Unix socket's may be.
    """
    path = runtime_dir() / "control.sock"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise PathError(
            f"socket path is {len(os.fsencode(path))} bytes long, at most {MAX_SOCKET_PATH} are possible: {path}",
            "set XDG_RUNTIME_DIR to a shorter directory",
        )
    return path


def spare_socket_path() -> Path | None:
    """Path of the second control socket, beside the recordings; None if it would be longer than a socket's may be."""
    path = state_dir() / SPARE
    return path if len(os.fsencode(path)) <= MAX_SOCKET_PATH else None


def keeper_lock_path() -> Path:
    """Path of the lock that the keeper of these recordings holds: there is one, whatever its clients' sessions."""
    return state_dir() / "keeper.lock"


def daemon_log_path() -> Path:
    """Path of the daemon's own log (text), when systemd's journal does not take it."""
    return state_dir() / "daemon.log"


def make_private(path: Path) -> Path:
    """Make a directory that only its owner can enter, or check that it is one.

    Raises:
        PathError: it cannot be made, is not a directory, or belongs to somebody else.
    """
    try:
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise PathError(f"cannot make directory: {error.strerror}: {path}", "check the directory above it") from error
    if not stat.S_ISDIR(found.st_mode):
        raise PathError(f"not a directory: {path}", "remove it")
    if found.st_uid != os.getuid():
        raise PathError(f"directory belongs to uid {found.st_uid}, not to you: {path}", "set XDG_RUNTIME_DIR")
    if found.st_mode & 0o077:
        path.chmod(0o700)
    return path

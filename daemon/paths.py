"""Where things are: the runtime directory (socket, start lock), the state directory (spool, sinks, logs, the keeper's
lock, a second socket), the settings.

A runtime directory is a login session's: another session has another (cron, su), and it goes away with the user's last
one. The recordings stay, and so does the socket beside them: clients look there when nobody listens at the usual place.

Rules: XDG variables are honoured, so several daemons can live apart; a directory that others could write to is
refused; nothing is created by merely asking for a path. Imports nothing heavy: keeper, client and daemon share it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

SPARE = "daemon.sock"
"""Name of the socket beside the recordings; another than the usual one's, as both directories may be one."""
MAX_SOCKET_PATH = 107
"""sun_path holds 108 bytes with its final NUL (unix(7)); macOS has 104."""

MAX_SHOWN = 200
"""Bytes of a file's name that are in that of another beside it."""


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
    """Directory of what must outlive a reboot: `$XDG_STATE_HOME/rrd`, by default `~/.local/state/rrd`.

    Raises:
        PathError: neither the variable nor a home is there.
    """
    return base_dir("XDG_STATE_HOME", ".local/state") / "rrd"


def config_dir() -> Path:
    """Directory of the settings: `$XDG_CONFIG_HOME/rrd`, by default `~/.config/rrd`.

    Raises:
        PathError: neither the variable nor a home is there.
    """
    return base_dir("XDG_CONFIG_HOME", ".config") / "rrd"


def cache_dir() -> Path:
    """Directory of what can be made again: `$XDG_CACHE_HOME/rrd`, by default `~/.cache/rrd`.

    Raises:
        PathError: there is no home, nor a directory of what must outlive a reboot.
    """
    try:
        return base_dir("XDG_CACHE_HOME", ".cache") / "rrd"
    except PathError:
        return state_dir() / "cache"  # a container that names a place for recordings need not name two


def base_dir(variable: str, default: str, environment: Mapping[str, str] = os.environ) -> Path:
    """A base directory of the XDG specification.

    Args:
        variable: Names it; a relative path is ignored, as the specification has it.
        default: Where it is in the user's home if the variable does not say.
        environment: Where the variable is looked for.

    Raises:
        PathError: the variable does not say, and the user has no home (a uid without a name, in a container).
    """
    base = environment.get(variable, "")
    if os.path.isabs(base):
        return Path(base)
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise PathError("HOME is not set and this user has no home directory", f"set HOME, or {variable}")
    return Path(home) / default


def beside(path: str | os.PathLike[str], mark: str) -> str:
    """A hidden name in a file's directory, for what is to take the file's place.

    Args:
        path: The file, there or not; its name as long as one may be.
        mark: What makes the name nobody else's.
    """
    directory, name = os.path.split(os.fspath(path))
    # In bytes, as the limit is (255); not within a letter, since some file systems refuse what is no text.
    shown = os.fsencode(name)[:MAX_SHOWN].decode(errors="ignore")
    return os.path.join(directory, f".{shown}.{mark}")


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
    """Path of the second control socket, beside the recordings; None if it would be longer than a socket's may be.

    Raises:
        PathError: as `state_dir` does.
    """
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
        with contextlib.suppress(FileExistsError):  # whatever it is
            path.mkdir(parents=True, mode=0o700)
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

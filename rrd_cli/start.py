"""From nothing to a connected socket: find the daemon, or start it. Blocking, no threads.

    connect ── works, here or beside the recordings ────────────────► socket
       │ no socket, or nobody listens
       └─► flock start.lock ─► connect again ─► spawn the keeper ─► connect until it works ─► socket
             (losers try to connect while they wait for the lock)

Rules: of any number of callers at once one starts the daemon, the others wait for it. The keeper is detached from the
caller: own session, cwd /, no terminal. A socket in a directory that is not ours is not spoken to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from daemon import paths
from rrd_cli.errors import CliError, NoDaemonError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

START_DEADLINE = 10.0
"""Seconds that a new daemon has until its socket answers. It takes half of one; a loaded machine takes longer."""
LOCK_DEADLINE = START_DEADLINE + 5.0
"""Seconds to wait for somebody else who is starting it: their deadline and a little."""
GONE_GRACE = 1.0
"""Seconds to look on when the keeper has ended: it may have found another one, of another session, that just begins."""
POLL = 0.02
LOG_EXCERPT = 4096
"""Bytes of the daemon's log that are looked at for its last words."""


def keeper_command() -> list[str]:
    """The command that runs the keeper with this very interpreter: no PATH to go wrong."""
    return [sys.executable, "-m", "daemon.keeper"]


def connect(path: Path | None = None) -> socket.socket:
    """Connect to the daemon that is there.

    Args:
        path: Its socket, if not the usual ones: of this session, else the one beside the recordings.

    Raises:
        FileNotFoundError, ConnectionRefusedError: there is none.
        CliError: the socket's path cannot be used, or belongs to somebody else.
    """
    if path is not None:
        return _connect(path)
    try:
        usual, spare = paths.socket_path(), paths.spare_socket_path()
    except paths.PathError as error:
        raise CliError(str(error), error.hint) from error
    try:
        return _connect(usual)
    except (FileNotFoundError, ConnectionRefusedError):
        if spare is not None:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return _connect(spare)
        raise


def _connect(path: Path) -> socket.socket:
    _check_owner(path.parent)
    deadline = time.monotonic() + START_DEADLINE
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            connection.connect(str(path))
        except (BlockingIOError, TimeoutError) as error:
            # The queue of connections that wait to be accepted is full (EAGAIN): somebody listens, but is slow.
            connection.close()
            if time.monotonic() > deadline:
                raise _unresponsive() from error
            time.sleep(POLL)
        except PermissionError as error:
            connection.close()
            raise CliError(f"not allowed to talk to the daemon: {path}", "it belongs to another user") from error
        except NotADirectoryError as error:  # there is none, then: who starts one says what is in the way
            connection.close()
            raise FileNotFoundError(*error.args) from error
        except OSError:
            connection.close()
            raise
        else:
            return connection


def connect_or_start() -> socket.socket:
    """Connect to the daemon, starting it first if there is none.

    Raises:
        NoDaemonError: it cannot be started; the hint tells where it says why.
        CliError: its directories cannot be used.
    """
    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
        return connect()
    try:
        runtime = paths.make_private(paths.runtime_dir())
        state = paths.make_private(paths.state_dir())
    except paths.PathError as error:
        raise CliError(str(error), error.hint) from error
    with _start_lock(runtime) as already:
        if already is not None:
            return already
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return connect()
        return _wait_for(_spawn(state))


@contextlib.contextmanager
def _start_lock(runtime: Path) -> Iterator[socket.socket | None]:
    """Hold the right to start the daemon; or get a connection, when somebody else has started it meanwhile."""
    deadline = time.monotonic() + LOCK_DEADLINE
    lock = _open(runtime / "start.lock", os.O_RDWR)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                    yield connect()
                    return
                if time.monotonic() > deadline:
                    raise NoDaemonError(
                        "another process has been starting the daemon for too long",
                        f"see {paths.daemon_log_path()}, or find it: fuser {runtime / 'start.lock'}",
                    ) from None
                time.sleep(POLL)
            else:
                yield None
                return
    finally:
        os.close(lock)


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        hint = f"what it is and whose: ls -ld {path.parent} {path}"
        raise NoDaemonError(f"cannot start the daemon: {error.strerror}: {path}", hint) from error


def _spawn(state: Path) -> subprocess.Popen[bytes]:
    import subprocess  # 4 ms, and only who starts the daemon needs it

    log = _open(state / "daemon.log", os.O_WRONLY | os.O_APPEND)
    try:
        return subprocess.Popen(
            keeper_command(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",  # a daemon must not keep a disk from being unmounted
            start_new_session=True,  # Ctrl-C here is not meant for it
        )
    except OSError as error:
        command = keeper_command()[0]
        raise NoDaemonError(f"cannot start the daemon: {error.strerror}: {command}", "reinstall rrd-cli") from error
    finally:
        os.close(log)


def _wait_for(keeper: subprocess.Popen[bytes]) -> socket.socket:
    """Poll until the new daemon's socket takes connections.

    Raises:
        NoDaemonError: it ended before, or is not there in time.
    """
    deadline = time.monotonic() + START_DEADLINE
    gone_at = 0.0
    while True:
        ended = keeper.poll()
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            connection = connect()
            # It is meant to outlive us: tell Popen not to mind (its destructor warns about living children).
            keeper.returncode = 0 if ended is None else ended
            return connection
        now = time.monotonic()
        if ended is not None:
            gone_at = gone_at or now
            if ended or now > gone_at + GONE_GRACE:
                raise NoDaemonError(f"the daemon ended as it started (exit status {ended}){last_words()}", _log_hint())
        if now > deadline:
            keeper.returncode = 0
            raise NoDaemonError(f"the daemon did not answer within {START_DEADLINE:.0f} s of its start", _log_hint())
        time.sleep(POLL)


def last_words() -> str:
    """The last line of the daemon's log, as the end of a message."""
    try:
        with open(paths.daemon_log_path(), "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_EXCERPT))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        return ""  # the status says enough; the hint names the file
    spoken = [line.strip() for line in lines if line.strip()]
    return f": {spoken[-1]}" if spoken else ""


def _log_hint() -> str:
    return f"rrd daemon logs   (or {paths.daemon_log_path()})"


def _unresponsive() -> NoDaemonError:
    return NoDaemonError("the daemon is there but takes no connections", _log_hint())


def _check_owner(directory: Path) -> None:
    # In a temp dir anybody may have made the directory first, and would then be handed our descriptors.
    try:
        owner = os.lstat(directory).st_uid
    except OSError:
        return  # not there: connecting says so
    if owner != os.getuid():
        raise CliError(f"directory belongs to uid {owner}, not to you: {directory}", "set XDG_RUNTIME_DIR to your own")

"""The daemon's parent: holds the listening socket and the pipes' read ends, starts the daemon again when it dies.

    keeper ── LISTEN_FDS ──> daemon          (start, and start again)
    keeper <── FDSTORE ───── daemon          (a stream opens or ends)

It listens at two places (daemon/paths.py): in the session's runtime directory, and beside the recordings.

Rules: it never reads a pipe and never accepts a connection; it does nothing at all until a datagram or a signal comes;
it imports nothing that could fail or grow. What the child's exit means:
    0                 it was stopped: the keeper ends too
    EXIT_RESTART      it wants to be a newer version: the keeper executes itself anew, descriptors in hand
    EXIT_CONFIG       it cannot run like this (the log says why): the keeper ends with the same status, unless it holds
                      pipes of programs; then it waits for somebody to mend it
    anything else     it died: started again, within a second if it had been ready, and at once if it was killed; ever
                      more slowly only while it dies of itself before it is ready
Told to stop, it ends with the daemon, however that ends.
Under systemd there is no keeper: systemd is one. A daemon that loses its keeper becomes one (execs this module).
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path

from daemon import descriptors, paths

EXIT_RESTART = 75
EXIT_CONFIG = 78
"""EX_TEMPFAIL and EX_CONFIG of sysexits(3)."""
QUICK_DEATH_S = 1.0
BACKOFF_S = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)
BACKOFF_READY_S = 0.4
"""What is left of the second in which a daemon that worked must be back, when it has taken the time to start."""
KILLED = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Somebody's will, and no fault of the daemon's."""
BACKLOG = 128
"""Clients that wait while the daemon is away."""
MANY_FILES = 65536
LOG_LIMIT = 8 << 20
"""The daemon's log is set aside as daemon.log.1 when it is larger than this at a start, bytes."""


class Keeper:
    """Everything the keeper has: descriptors by name, and a child."""

    def __init__(self, held: list[tuple[str, int]]) -> None:
        self.held = dict(held)
        self._quick_deaths = 0
        self._stopping = False
        self._ready_at: float | None = None
        self._child = 0
        self._alive_write = -1
        self._wake = -1

    def lock(self) -> bool:
        """Be the only keeper of these recordings. False: there is one."""
        path = paths.keeper_lock_path()
        paths.make_private(path.parent)
        fd = self.held.get(descriptors.LOCK)
        if fd is None:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self.held[descriptors.LOCK] = fd
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return True

    def listen(self) -> None:
        """Have the control sockets, so that clients can wait for the daemon."""
        old = self.held.get(descriptors.CONTROL)
        if old is None:
            self.held[descriptors.CONTROL] = _listen(paths.socket_path())
        else:
            with contextlib.suppress(paths.PathError, OSError):  # the old one must do then: there are pipes to be held
                usual = paths.socket_path()
                if not usual.exists():  # its session has ended since
                    self.held[descriptors.CONTROL] = _listen(usual)
                    os.close(old)
        spare = paths.spare_socket_path()
        if descriptors.SPARE not in self.held and spare is not None:
            try:
                self.held[descriptors.SPARE] = _listen(spare)
            except OSError as error:  # not every file system has sockets
                print(f"rrd-daemon: not reachable from other sessions: {error.strerror}: {spare}", file=sys.stderr)
        self._notify, self._voice = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def run(self) -> int:
        """Keep the daemon running until it is stopped.

        Returns:
            The exit status.
        """
        self._wake, wake_write = os.pipe()
        for fd in (self._wake, wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        notified, poll = select.poll(), select.poll()  # select(2) cannot take descriptors above 1023
        notified.register(self._notify, select.POLLIN)
        poll.register(self._notify, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        if not self._start():
            return 0
        while True:
            for fd, _ in poll.poll():
                if fd == self._notify.fileno():
                    self._notified()
                    continue
                self._heed()
            status = self._reap()
            if status is not None:
                # What the child said before it died is still in the queue.
                while notified.poll(0):
                    self._notified()
                if status == 0 or self._stopping:
                    return 0
                if status == EXIT_CONFIG and not any(name.startswith(descriptors.STREAM_PREFIX) for name in self.held):
                    return status
                if status == EXIT_RESTART:
                    self._become_new()
                if self._told_to_stop(self._delay(status)) or not self._start():
                    return 0

    def _heed(self) -> None:
        """Hand signals that have come on to the child."""
        for received in os.read(self._wake, 64):
            if received in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) and self._child:
                os.kill(self._child, received)
            # A child that has only just begun dies of it rather than ending in good order.
            self._stopping |= received in (signal.SIGTERM, signal.SIGINT)

    def _told_to_stop(self, seconds: float) -> bool:
        """Wait without a child; whether a signal to stop came."""
        woken = select.poll()
        woken.register(self._wake, select.POLLIN)
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            if woken.poll(1000 * left):
                self._heed()
        return self._stopping

    def _start(self) -> bool:
        """Have a child, as soon as there can be one; False: told to stop before. The pipes are held meanwhile."""
        for delay in itertools.chain(BACKOFF_S[1:], itertools.repeat(BACKOFF_S[-1])):
            try:
                self._fork()
            except OSError as error:  # too many processes or descriptors, no memory: that passes
                with contextlib.suppress(OSError):  # the log's disk may be full, its terminal gone
                    print(f"rrd-daemon: cannot start the daemon yet: {error}", file=sys.stderr, flush=True)
                if self._told_to_stop(delay):
                    break
            else:
                return True
        return False

    def _fork(self) -> None:
        self._ready_at = None
        alive_read, self._alive_write = os.pipe()
        try:
            child = os.fork()
        except OSError:
            os.close(alive_read)
            os.close(self._alive_write)
            raise
        if child == 0:
            try:
                self._become_daemon(alive_read)
            except OSError as error:
                print(f"rrd-daemon: cannot start the daemon: {error}", file=sys.stderr, flush=True)
            finally:
                os._exit(EXIT_CONFIG)
        os.close(alive_read)
        self._child = child

    def _become_daemon(self, alive_read: int) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        names = [(name, fd) for name, fd in self.held.items() if name != descriptors.LOCK]
        names += [(descriptors.ALIVE, alive_read), (descriptors.NOTIFY, self._voice.fileno())]
        environment = descriptors.bequeath(names, os.environ)
        os.execve(sys.executable, [sys.executable, "-m", "daemon.app"], environment)

    def _become_new(self) -> None:
        """Execute this module again, as it is installed now; stay what this is where nothing is installed."""
        if not os.access(sys.executable, os.X_OK):  # descriptors are put in place: no way back
            return
        environment = descriptors.bequeath(list(self.held.items()), os.environ)
        os.execve(sys.executable, [sys.executable, "-m", "daemon.keeper"], environment)

    def _reap(self) -> int | None:
        """The child's exit status if it has ended; negative is a signal."""
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if pid == 0:
            return None
        self._child = 0
        os.close(self._alive_write)
        return os.waitstatus_to_exitcode(status)

    def _delay(self, status: int) -> float:
        """How long to wait before a child that ended in this way is started again, seconds."""
        worked = self._ready_at is not None and time.monotonic() - self._ready_at >= QUICK_DEATH_S
        if worked or -status in KILLED:
            self._quick_deaths = 0
        else:
            self._quick_deaths += 1
        delay = BACKOFF_S[min(self._quick_deaths, len(BACKOFF_S) - 1)]
        return delay if self._ready_at is None else min(delay, BACKOFF_READY_S)

    def _notified(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._notify, 4096, 8)
        except OSError:
            return
        fields = dict(line.split("=", 1) for line in data.decode(errors="replace").splitlines() if "=" in line)
        if fields.get("READY") == "1":
            self._ready_at = time.monotonic()
        name = fields.get("FDNAME", "")
        if fields.get("FDSTORE") == "1" and name and len(fds) == 1:
            self._drop(name)
            os.set_inheritable(fds[0], False)
            self.held[name] = fds.pop()
        elif fields.get("FDSTOREREMOVE") == "1":
            self._drop(name)
        for fd in fds:
            os.close(fd)

    def _drop(self, name: str) -> None:
        if name.startswith(descriptors.STREAM_PREFIX):
            fd = self.held.pop(name, -1)
            if fd >= 0:
                os.close(fd)

    def tidy(self) -> None:
        """Leave nothing that looks alive. The lock's file stays: removing it would let two hold it."""
        for path in (paths.socket_path(), paths.spare_socket_path()):
            if path is not None:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()


def _listen(path: Path) -> int:
    """A descriptor that listens on a socket made anew, in a directory of its owner's.

    Raises:
        PathError, OSError: it cannot be made.
    """
    paths.make_private(path.parent)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    old = os.umask(0o177)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(os.fspath(path))
            listener.listen(BACKLOG)
            return listener.detach()
    finally:
        os.umask(old)


def raise_limits() -> None:
    """Let this process and its children have as many descriptors as they may: a stream takes four."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def set_log_aside(path: Path) -> None:
    """Begin a new log when the old one has become large, and have stdout and stderr go to it."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > LOG_LIMIT:
            os.replace(path, path.with_suffix(".log.1"))
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.dup2(fd, 1)
            os.dup2(fd, 2)
            os.close(fd)


def main() -> int:
    """Run the keeper, and through it the daemon. Returns the exit status."""
    # Whoever started us may have been waiting for signals: blocked ones would be inherited, SIGCHLD among them.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if sys.argv[1:] == ["--no-keeper"]:  # under systemd, which is one
        os.execv(sys.executable, [sys.executable, "-m", "daemon.app"])
    try:
        environment = dict(os.environ)
        held = descriptors.inherited(environment)
        os.environ.clear()
        os.environ.update(environment)
        keeper = Keeper(held)
        if not keeper.lock():
            print(f"rrd-daemon: another one runs already: {paths.keeper_lock_path()}", file=sys.stderr)
            return 0
        log = paths.daemon_log_path()
        if not os.isatty(2):
            set_log_aside(log)
        raise_limits()
        keeper.listen()
    except (paths.PathError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, paths.PathError):
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    status = keeper.run()
    keeper.tidy()
    return status


if __name__ == "__main__":
    sys.exit(main())

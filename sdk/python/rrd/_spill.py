"""What the shim does with the pipes when there is no daemon and no keeper: it appends them to the logs itself.

A log is a verbatim stream, so the next daemon finds everything where it looks for it, and goes on behind it.

Rules: only with the keeper's own lock in hand, which proves that nobody else reads the pipes or writes the logs (it
lies beside the logs, whatever session keeper and program are of); a log is never made, only continued; what cannot be
written is dropped only when the program would hang otherwise, and then counted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import sys
import termios
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from . import _paths
from ._errors import Unreachable

_PIECE = 1 << 20


class Pipe(NamedTuple):
    """A stream as far as this file needs to know it."""

    read_end: int
    log: str


@contextlib.contextmanager
def nobody_home(log: str) -> Iterator[bool]:
    """Hold the keeper's lock, and the one that is held while a daemon is being started: whoever wants to waits.

    Args:
        log: One of the logs: the keeper is the one of its spool.

    Yields:
        False, with nothing held, if somebody else has either: then a keeper is alive, or will be.
    """
    state = os.path.dirname(os.path.dirname(log))  # .../spool/<stream>.rrd
    with contextlib.ExitStack() as locks:
        try:
            wanted = [os.path.join(_paths.runtime_dir(), "start.lock")]
            if os.path.isdir(state):  # not in a container that sees but the socket; there no log can be written, either
                wanted.append(os.path.join(state, "keeper.lock"))
            for path in wanted:
                lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                locks.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The keeper writes its process id there, and that is not ours.
            os.ftruncate(lock, 0)
        except (OSError, Unreachable):
            locks.close()
            yield False
        else:
            yield True


def unread(read_end: int) -> int:
    """Bytes that wait in a pipe; 0 if it is no pipe any more."""
    try:
        return int.from_bytes(fcntl.ioctl(read_end, termios.FIONREAD, b"\0" * 4), "little")
    except OSError:
        return 0


class Spill:
    """Moves what is in the pipes to the logs. Only within `nobody_home`.

    Args:
        pipes: Which.

    Attributes:
        written: Bytes moved.
        dropped: Bytes that no log would take.
    """

    def __init__(self, pipes: Sequence[Pipe]) -> None:
        self.written = 0
        self.dropped = 0
        self._pipes = pipes
        self._logs: dict[int, int] = {}
        for pipe in pipes:
            with contextlib.suppress(OSError):
                # Not O_APPEND: splice(2) refuses it. We are the only writer.
                log = self._logs[pipe.read_end] = os.open(pipe.log, os.O_WRONLY | os.O_CLOEXEC)
                os.lseek(log, 0, os.SEEK_END)

    def close(self) -> None:
        """Give the logs back."""
        for log in self._logs.values():
            os.close(log)
        self._logs.clear()

    def move(self, *, drop: bool) -> int:
        """Move everything that is there now, without waiting for more.

        Args:
            drop: Take out of the pipe what no log takes; else it stays there.

        Returns:
            The bytes taken out of pipes.
        """
        taken = 0
        for pipe in self._pipes:
            try:
                taken += self._move_one(pipe.read_end)
            except OSError:
                # The log takes no more. A gap in a stream makes all that follows unreadable, so once something of it
                # is dropped the log is left alone.
                if drop and pipe.read_end in self._logs:
                    os.close(self._logs.pop(pipe.read_end))
            if drop and pipe.read_end not in self._logs:
                taken += self._drop(pipe.read_end)
        return taken

    def _move_one(self, read_end: int) -> int:
        log = self._logs.get(read_end, -1)
        taken = 0
        while log >= 0 and (count := unread(read_end)):
            moved = _splice(read_end, log, min(count, _PIECE))
            if moved is None:
                data = memoryview(os.read(read_end, min(count, _PIECE)))
                moved = len(data)
                while data:
                    try:
                        data = data[os.write(log, data) :]
                    except OSError:
                        self.dropped += len(data)
                        os.close(self._logs.pop(read_end))
                        log = -1
                        moved -= len(data)
                        break
            self.written += moved
            taken += moved
            if not moved:
                break
        return taken

    def _drop(self, read_end: int) -> int:
        taken = 0
        while count := unread(read_end):
            taken += len(os.read(read_end, min(count, _PIECE)))
        self.dropped += taken
        return taken

    def wait(self, seconds: float) -> None:
        """Wait until there is something to move, or for so long."""
        poller = select.poll()
        for pipe in self._pipes:
            poller.register(pipe.read_end, select.POLLIN)
        poller.poll(seconds * 1000)


def _splice(read_end: int, log: int, count: int) -> int | None:
    """Move bytes without taking them out of the pipe before they are written.

    Returns:
        How many; None where it cannot be done like this.

    Raises:
        OSError: the log takes no more; everything is still in the pipe.
    """
    if sys.platform != "linux":
        return None
    try:
        return os.splice(read_end, log, count, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
    except BlockingIOError:
        return 0
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise

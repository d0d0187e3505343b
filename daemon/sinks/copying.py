"""Bytes from logs to files, in nobody's way.

Rules: copied in the kernel where it can; done in threads of its own at a low priority: a thread cannot take its
niceness back, and those that trio keeps do other work next (fsync, reading logs).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import trio

from daemon.feed import Batch
from daemon.spool.log import Descriptor

T = TypeVar("T")

STEP = 32 << 20
"""Bytes copied at once: long enough to be fast, short enough to be stopped."""
NICE = 10
"""Copies are in nobody's way: their threads run at this niceness."""
COPY_FILE_RANGE = getattr(os, "copy_file_range", None)
"""Missing in a Python that was built against a glibc older than 2.27, whatever the system has."""
SMALL_RANGE = 16 << 10
"""Runs of selected frames shorter than this on average are gathered in memory rather than copied one by one."""


class Aside:
    """A thread of one's own at low priority; there while there is work, one piece after the other."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Do something there. It cannot be cancelled once it has begun.

        Raises:
            Exception: whatever `work` raised.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "rrd-copy", step_aside)
        done, token = trio.Event(), trio.lowlevel.current_trio_token()
        result = self._pool.submit(work)
        result.add_done_callback(lambda _: token.run_sync_soon(done.set))
        with trio.CancelScope(shield=True):
            await done.wait()
        return result.result()

    def end(self) -> None:
        """Let the thread go; the next `run` makes another."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None


def step_aside() -> None:
    """Lower this thread's priority for good. Linux alone has a niceness for each thread."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))


def copy_range(source: int, target: int, at: int, to: int, count: int) -> int:
    """Copy bytes from one file to another, in the kernel where it can.

    Args:
        at: Offset in `source`.
        to: Offset in `target`.

    Returns:
        The number of bytes copied, at least 1.

    Raises:
        OSError: it cannot be read (EIO: the source is shorter) or written.
    """
    if sys.platform == "linux":
        try:
            done = COPY_FILE_RANGE(source, target, count, at, to) if COPY_FILE_RANGE is not None else 0
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            done = 0
        if done:
            return int(done)
        os.lseek(target, to, os.SEEK_SET)
        done = os.sendfile(target, source, at, count)
    else:
        done = os.pwrite(target, os.pread(source, min(count, 1 << 20), at), to)
    if not done:
        raise OSError(errno.EIO, "log is shorter than it was")
    return done


def copy_file(source: Descriptor, target: Path, size: int) -> None:
    """Copy the first `size` bytes of a file to a new one.

    Raises:
        OSError: it cannot be done; `target` is gone again.
    """
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        done = 0
        while done < size:
            done += copy_range(source.fd, fd, done, done, min(STEP, size - done))
    except OSError:
        target.unlink()
        raise
    finally:
        os.close(fd)


def write_batch(batch: Batch, target: int, at: int) -> int:
    """Append a batch's frames to a file.

    Args:
        at: Where in the file.

    Returns:
        The bytes written.

    Raises:
        OSError: it cannot be read or written; a part may have been.
    """
    ranges, start = batch.ranges(), at
    total = sum(length for _, length in ranges)
    if total < SMALL_RANGE * len(ranges):
        data = memoryview(batch.read())
        while data:
            written = os.pwrite(target, data, at)
            at += written
            data = data[written:]
        return at - start
    for offset, length in ranges:
        done = 0
        while done < length:
            done += copy_range(batch.source.fd, target, offset + done, at + done, length - done)
        at += length
    return at - start

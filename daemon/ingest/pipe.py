"""Descriptors that programs write to, a shim's pipe or somebody's stdin: bytes go from there to the log, nowhere else.

    descriptor --splice(2)--> log --Hub.advance--> frames

Rules: what has been moved is in the log, what has not is still in the pipe, and nothing is ever in between, so a killed
daemon neither loses nor repeats a byte; one move a wake-up, so that nothing else starves; a full disk leaves
everything where it is. A stream ends with the SDK's End (shims), with CLOSE, with end of file, or when the program's
process is gone and the pipe is empty: a forked child may hold the pipe open for as long as it likes.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import struct
import sys
import termios
from pathlib import Path

import trio

from daemon.hub import Hub
from daemon.processes import wait_ended
from daemon.stream import Stream

log = logging.getLogger("rrd.ingest")

MOVE = 1 << 20
"""Bytes moved at most a wake-up: other tasks wait no longer than that takes."""
PIPE_SIZES = ((1 << 20, 4), (256 << 10, 2))
"""Sizes of pipes, bytes, and which part of the user's limit all pipes together may reach with one of that size: the
first sixteen programs of a user with Linux' default limit have the quickest (against 256 KB a program that logs at
full speed needs 0.85 to 0.9 of the time), the next sixty-four one that is nearly as quick."""
SMALL_PIPE_SIZE = 64 << 10
PAGE = os.sysconf("SC_PAGESIZE")
F_SETPIPE_SZ = 1031
F_GETPIPE_SZ = 1032


class Pump:
    """Moves one descriptor's bytes into one stream's log.

    Args:
        fd: Readable; the pump owns it from now on.
        pidfd: A descriptor of the program's process, or -1 if only end of file tells.
    """

    def __init__(self, hub: Hub, stream: Stream, fd: int, pidfd: int = -1) -> None:
        self.hub = hub
        self.stream = stream
        self.fd = fd
        self.pidfd = pidfd
        self.moved = 0
        self._closing = ""
        self._wait = trio.CancelScope()
        self._lot = trio.lowlevel.ParkingLot()
        self._held = memoryview(b"")
        """Read but not written: only where there is no splice, and only while the disk is full."""
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._always_ready = self._is_file
        """Nothing can be waited for: files, and devices that epoll(7) knows nothing of."""
        # Only pipes splice; and a file opened read-only may be a terminal or a socket.
        self._splice = stat.S_ISFIFO(os.fstat(fd).st_mode)
        os.set_blocking(fd, False)

    def close(self, reason: str) -> None:
        """End the stream once everything that is in the pipe now has been moved."""
        self._closing = self._closing or reason
        self._wait.cancel()

    @property
    def pending(self) -> int:
        """Bytes that wait to be moved."""
        return len(self._held) + self._unread()

    def _unread(self) -> int:
        if self._is_file:
            return max(0, os.fstat(self.fd).st_size - os.lseek(self.fd, 0, os.SEEK_CUR))
        try:
            (count,) = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, b"\0" * 4))
        except OSError:
            return 0  # a device that does not say
        return int(count)

    async def drained(self) -> None:
        """Wait until all that is in the pipe now is in the log, or it shows that the log cannot take it just now."""
        wanted = self.moved + self.pending
        while self.moved < wanted and not self.stream.ended and not self.stream.stalled:
            await self._lot.park()

    async def run(self) -> None:
        """Move until the stream ends, then end it in the hub. Cancelled, it leaves everything as it is."""
        async with trio.open_nursery() as nursery:
            if self.pidfd >= 0:
                nursery.start_soon(self._watch_process)
            reason = await self._pump()
            nursery.cancel_scope.cancel()
        self.release()
        self.hub.end_stream(self.stream, reason)
        self._lot.unpark_all()

    def release(self) -> None:
        """Give the descriptors back."""
        for fd in (self.fd, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.pidfd = -1

    async def _watch_process(self) -> None:
        await wait_ended(self.pidfd)
        self.close("the program has ended")

    async def _pump(self) -> str:
        while True:
            await self._readable()
            try:
                count = self._discard() if self.stream.error else self._move()
            except BlockingIOError:
                if self._closing:
                    return self._closing
                continue
            except OSError as error:
                if error.errno == errno.EINVAL and self._splice:
                    self._splice = False
                    continue
                if self.stream.error:
                    return f"cannot be read: {error.strerror}"  # only the source is left to blame
                await self._failed(error)
                self._lot.unpark_all()
                continue
            if count == 0:
                return "end of file"
            self.hub.flowing(self.stream)
            self.moved += count
            self.hub.advance(self.stream)
            self._lot.unpark_all()
            reason = self._ended()
            if reason:
                return reason

    def _ended(self) -> str:
        """The reason to end the stream now, or empty."""
        stream = self.stream
        if stream.kind == "stdin":
            return stream.error
        scanner = stream.scanner
        if scanner is not None and scanner.at_end and scanner.position == stream.size:
            # What one SDK sink writes ends here; another stream would come through another pipe.
            return "ended by the SDK"
        return ""

    async def _readable(self) -> None:
        """Wait for bytes, for end of file, or for `close`."""
        if self._closing or self._always_ready or self._held:
            await trio.lowlevel.checkpoint()
            return
        with trio.CancelScope() as self._wait:
            try:
                await trio.lowlevel.wait_readable(self.fd)
            except PermissionError:
                self._always_ready = True

    def _move(self) -> int:
        """One move.

        Raises:
            BlockingIOError: nothing is there.
            OSError: the log cannot take it (the bytes are still where they were), or the source cannot be read.
        """
        file = self.stream.log
        if file is None:
            return 0
        if self._splice:
            return file.splice(self.fd, MOVE)
        if not self._held:
            self._held = memoryview(os.read(self.fd, MOVE))
            if not self._held:
                return 0
        written = file.write_some(self._held)
        self._held = self._held[written:]
        return written

    def _discard(self) -> int:
        """Read what follows bytes that are no frames, and forget it: a program must not hang for it."""
        count = len(self._held) or len(os.read(self.fd, MOVE))
        self._held = memoryview(b"")
        self.stream.dropped_bytes += count
        return count

    async def _failed(self, error: OSError) -> None:
        try:
            await self.hub.stalled(self.stream, error)
        except OSError as fatal:
            self.stream.meta.error = f"cannot be stored: {fatal}"
            log.error("stream %s: %s; what follows is dropped", self.stream.id, self.stream.meta.error)


def set_pipe_size(fd: int, used: int) -> int:
    """Give a pipe the size that is fastest, within what a user may have of pipes in all.

    Args:
        fd: Either end.
        used: Bytes of other pipes that this daemon holds.

    Returns:
        The pipe's size in bytes; 0 if it is no pipe, or sizes cannot be set here.
    """
    if sys.platform != "linux" or not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return 0
    try:
        pages = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text())
    except (OSError, ValueError):
        pages = 16384
    # Half of the limit is left to the user's other programs; beyond it a new pipe gets 8 KB.
    wanted = next((size for size, part in PIPE_SIZES if pages == 0 or used + size <= pages * PAGE // part),
                  SMALL_PIPE_SIZE)
    try:
        if fcntl.fcntl(fd, F_GETPIPE_SZ) != wanted:
            fcntl.fcntl(fd, F_SETPIPE_SZ, wanted)
    except OSError:
        pass  # EPERM, EBUSY: it works at any size
    return fcntl.fcntl(fd, F_GETPIPE_SZ)

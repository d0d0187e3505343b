"""The messages of growing files, written to standard output: what `rrd tail` does once it knows which files.

    verbatim   one whole file: its bytes as they are, up to the last whole message; a complete file comes out equal
    edited     anything else (the last N, several files, some recordings of a file, a file that was replaced): one
               header, then data frames; neither End nor footer, whose offsets would be wrong

Rules: only whole messages are written; bulk goes by sendfile, so the bytes never come up here; a file is read and
never written to. What cannot be a message ends it with an error, after everything before it was written.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import sys
from collections import deque
from typing import TYPE_CHECKING, Final

from daemon.spool.scanner import Frame, Scanner
from daemon.wire.logmsg import BLUEPRINT, parse_store_id
from daemon.wire.rrd import (
    FRAME_HEADER,
    FRAME_HEADER_SIZE,
    TAIL_SIZE,
    FormatError,
    Kind,
    StreamHeader,
    parse_frame_header,
    parse_header,
    parse_tail,
)
from rrd_cli.errors import CliError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

PIECE = 512 << 10
"""Bytes that are scanned before they are sent. Half a pipe, so that whoever reads it has work while the next are
scanned: with pieces of 8 MiB the two took turns, and small messages went through at two thirds of `cat`."""
WINDOW = 64 << 10
"""Bytes of small frames that are looked at together."""
SEND = 1 << 30
"""Most that one sendfile is asked for; the kernel's own limit is 2 GiB."""
COPY = 1 << 20
"""Bytes read at once where sendfile cannot be used."""
PIPE_SIZE: Final = 1 << 20
"""What our output pipe is enlarged to while bulk goes through it: fewer wake-ups of both sides."""


class Output:
    """Standard output, or another descriptor: bytes given, or ranges of files.

    Args:
        fd: Where to; stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.written = 0
        self._sendfile = hasattr(os, "sendfile")
        if sys.platform == "linux":
            try:
                if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < PIPE_SIZE:
                    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
            except OSError:
                pass  # no pipe, or the user's pipes are as large as they may be

    def write(self, data: bytes | memoryview) -> None:
        """Write all of it.

        Raises:
            BrokenPipeError: nobody reads any more.
            OSError: it cannot be written.
        """
        view = memoryview(data)
        while view:
            try:
                done = os.write(self.fd, view)
            except BlockingIOError:
                select.select((), (self.fd,), ())  # whoever we share it with made it non-blocking
                continue
            self.written += done
            view = view[done:]

    def send(self, source: int, start: int, end: int) -> None:
        """Write the bytes [start, end) of a file.

        Raises:
            BrokenPipeError: nobody reads any more.
            OSError: they cannot be read or written.
            CliError: the file has become shorter.
        """
        while start < end:
            if self._sendfile:
                try:
                    done = os.sendfile(self.fd, source, start, min(SEND, end - start))
                except BlockingIOError:
                    select.select((), (self.fd,), ())
                    continue
                except OSError as error:
                    # Not into files opened to append, nor into some terminals and devices.
                    if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP):
                        raise
                    self._sendfile = False
                    continue
                self.written += done
            else:
                data = os.pread(source, min(COPY, end - start), start)
                done = len(data)
                self.write(data)
            if done == 0:
                raise CliError("the file became shorter while it was read", "is it being written anew? say it again")
            start += done


class Reader:
    """One file, from its start on, and how much of it was written out.

    Args:
        path: For messages, and to see whether it was replaced.
        fd: Its descriptor, readable; from here on the reader's.
        verbatim: As it is, or data frames only.
        stores: Raw store ids that are wanted; None is all. Only when edited.
        live: The daemon writes it, and may still replace an End by a better one: End and footer wait for `finish`.
    """

    def __init__(
        self, path: str, fd: int, *, verbatim: bool, stores: Collection[bytes] | None = None, live: bool = False
    ) -> None:
        self.path = path
        self.fd = fd
        self.verbatim = verbatim
        self.live = live
        self._stores = None if stores is None else frozenset(stores)
        self._scanner = Scanner(fd)
        self._size = 0
        self._sent = 0

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def header(self) -> StreamHeader | None:
        """The file's header, once it has one and was pumped or peeked at."""
        if self._scanner.header is None:
            data = os.pread(self.fd, 12, 0)
            if len(data) == 12:
                self._checked(lambda: parse_header(data))
                return parse_header(data)
        return self._scanner.header

    @property
    def ended(self) -> bool:
        """The last thing that was passed is the stream's End."""
        return self._scanner.end_seen

    @property
    def rest(self) -> int:
        """Bytes after the last whole message."""
        return os.fstat(self.fd).st_size - self._scanner.position

    def shrunk(self) -> bool:
        """The file is shorter than what was read of it: somebody wrote it anew in place."""
        return os.fstat(self.fd).st_size < self._scanner.position

    def replaced(self) -> bool:
        """Another file goes by this one's name."""
        try:
            named = os.stat(self.path)
        except OSError:
            return False  # moved away; perhaps a new one is on its way
        mine = os.fstat(self.fd)
        return (named.st_dev, named.st_ino) != (mine.st_dev, mine.st_ino)

    def finish(self) -> None:
        """The daemon has completed the file: what comes after its data frames is final now."""
        if self.live:
            self.live = False
            self._scanner = Scanner(self.fd, self._scanner.data_end)

    def pump(self, out: Output) -> bool:
        """Write out what has become whole since the last time. True if there was something.

        Raises:
            CliError: what follows is no message.
        """
        before = out.written
        if self.verbatim:
            if self._sent == 0 and not self.live and is_complete(self.fd):
                size = os.fstat(self.fd).st_size
                out.send(self.fd, 0, size)
                self._sent = size
                self._scanner = Scanner(self.fd, size)
                self._scanner.end_seen = True
            else:
                self._pump_verbatim(out)
        else:
            self._pump_frames(out)
        return out.written != before

    def _pump_verbatim(self, out: Output) -> None:
        scanner = self._scanner
        try:
            for _ in self._frames():
                if self._skip() - self._sent >= PIECE // 2:
                    self._send_up_to(out, scanner.position)
        finally:
            self._send_up_to(out, scanner.data_end if self.live else scanner.position)

    def _send_up_to(self, out: Output, end: int) -> None:
        out.send(self.fd, self._sent, end)
        self._sent = max(self._sent, end)

    def _pump_frames(self, out: Output) -> None:
        runs = Runs()
        try:
            for frame in self._frames():
                if self._wanted(frame):
                    runs.add(frame.start, self._skip() if self._stores is None else frame.end)
                    if runs.bytes >= PIECE // 2:
                        runs.send(self.fd, out)
        finally:
            runs.send(self.fd, out)

    def _skip(self) -> int:
        """Pass the data frames that follow, a piece of them, where nobody asks whose they are; returns their end."""
        scanner = self._scanner
        limit = min(self._size, scanner.position + PIECE)
        scanner.position = scanner.data_end = skip_data(self.fd, scanner.position, limit)
        return scanner.position

    def pump_last(self, out: Output, count: int) -> None:
        """Write out the last `count` messages, and before them what they need: store infos, blueprints, static data.

        Raises:
            CliError: what follows is no message.
        """
        needed, last = Runs(), deque[Frame]()
        for frame in self._frames():
            if not self._wanted(frame):
                continue
            last.append(frame)
            if len(last) > count:
                gone = last.popleft()
                if self._pinned(gone):
                    needed.add(gone.start, gone.end)
        for frame in last:
            needed.add(frame.start, frame.end)
        needed.send(self.fd, out)

    def _wanted(self, frame: Frame) -> bool:
        return self._stores is None or frame.store in self._stores

    def _pinned(self, frame: Frame) -> bool:
        from daemon.spool.pinned import is_static  # brings lz4, which only -n needs

        if frame.kind != Kind.ARROW:
            return True
        if frame.store is not None and parse_store_id(frame.store).kind == BLUEPRINT:
            return True
        return is_static(self.fd, frame)

    def _frames(self) -> Iterable[Frame]:
        self._size = os.fstat(self.fd).st_size
        try:
            yield from self._scanner.frames(self._size)
        except FormatError as error:
            raise self._damaged(error) from error

    def _checked(self, parse: object) -> None:
        assert callable(parse)
        try:
            parse()
        except FormatError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: FormatError) -> CliError:
        hint = "" if error.offset == 0 else f"what can be read of it: rrd recover {self.path}"
        return CliError(f"{error}: {self.path}", hint)


def skip_data(fd: int, position: int, limit: int) -> int:
    """Walk over whole data frames, quickly.

    Args:
        fd: The file.
        position: Where a frame starts.
        limit: Nothing that ends after this is passed.

    Returns:
        The end of the last one that was passed: what follows is not whole, or something else than data.
    """
    pread, unpack = os.pread, FRAME_HEADER.unpack_from
    length = 0
    while position + FRAME_HEADER_SIZE <= limit:
        window = pread(fd, min(WINDOW, limit - position), position)
        at = 0
        last = len(window) - FRAME_HEADER_SIZE
        while at <= last:  # 120 ns a frame: where messages are small, this loop is what `rrd tail` costs
            kind, length = unpack(window, at)
            if kind != 2 and not 0 < kind < 4:
                return position + at
            at += length + 16
        if at > limit - position:
            return position + at - length - FRAME_HEADER_SIZE
        if at == 0:
            break
        position += at
    return position


class Runs:
    """Ranges of a file, neighbours joined."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        self.bytes = 0

    def add(self, start: int, end: int) -> None:
        """Bytes that come after those there are."""
        if self._ranges and self._ranges[-1][1] == start:
            self._ranges[-1] = (self._ranges[-1][0], end)
        else:
            self._ranges.append((start, end))
        self.bytes += end - start

    def send(self, fd: int, out: Output) -> None:
        """Write them out, and forget them."""
        ranges, self._ranges, self.bytes = self._ranges, [], 0
        for start, end in ranges:
            out.send(fd, start, end)


def is_complete(fd: int) -> bool:
    """A file that ends with a footer which says of itself that it belongs there: its writer has finished it."""
    size = os.fstat(fd).st_size
    tail = parse_tail(os.pread(fd, TAIL_SIZE, size - TAIL_SIZE)) if size > TAIL_SIZE else None
    if tail is None or tail.start + tail.length + TAIL_SIZE != size or tail.start < FRAME_HEADER_SIZE:
        return False
    head = os.pread(fd, FRAME_HEADER_SIZE, tail.start - FRAME_HEADER_SIZE)
    try:
        kind, length = parse_frame_header(head)
        parse_header(os.pread(fd, 12, 0))
    except FormatError:
        return False
    return (kind, length) == (Kind.END, tail.length)


def has_writer(fd: int) -> bool | None:
    """Whether some process has this file open to write to it; None where the system does not tell.

    A read lease is given only where there is no writer (fcntl(2)); it is handed back at once. It takes our own file,
    or CAP_LEASE; else the descriptors of all processes that we may look at are looked at.
    """
    if hasattr(fcntl, "F_SETLEASE"):
        before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # what a writer who comes just now would send us
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return True
        else:
            return False
        finally:
            signal.signal(signal.SIGIO, before)
    return _writer_in_proc(fd)


def _writer_in_proc(fd: int) -> bool | None:
    mine = os.fstat(fd)
    seen = False
    try:
        processes = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return None
    for process in processes:
        try:
            descriptors = os.listdir(f"/proc/{process}/fd")
        except OSError:
            continue  # gone, or somebody else's
        for descriptor in descriptors:
            try:
                found = os.stat(f"/proc/{process}/fd/{descriptor}")
                if (found.st_dev, found.st_ino) != (mine.st_dev, mine.st_ino):
                    continue
                seen = True
                with open(f"/proc/{process}/fdinfo/{descriptor}") as info:
                    flags = next(int(line.split()[1], 8) for line in info if line.startswith("flags:"))
            except (OSError, StopIteration):
                continue
            if flags & os.O_ACCMODE != os.O_RDONLY:
                return True
    return False if seen else None

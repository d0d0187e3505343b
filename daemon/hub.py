"""All streams: what is being logged, and what was.

    ingest -> Stream (one log) -> Hub.changed -> daemon.feed (one cursor a log) -> sink
                                -> Hub.end_stream -> daemon.completing (footer, fsync)

Rules: an ingest appends and never waits for a reader; a reader holds nothing but positions.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import stat
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakSet

import trio

from daemon.completing import NOT_COMPLETED, finish_file
from daemon.feed import Feed
from daemon.pace import Pace
from daemon.selection import FILE, Selection
from daemon.spool.log import META_SUFFIX, SUFFIX, Log, Meta, Readers, list_streams, new_stream_id, remove_leftovers
from daemon.spool.scanner import Scanner
from daemon.stream import UNKNOWN, Stream, generation_of
from daemon.wire.rrd import FormatError, frame_header

log = logging.getLogger("rrd.hub")

FULL = (errno.ENOSPC, errno.EDQUOT)
STALL_RETRY_S = 1.0
"""How often a stream that found the spool's disk full tries again."""
LOOK_BYTES = 128 << 20
"""How many bytes come in before the room on the disk is looked at again: one long stream could take all of it."""
MARK_MESSAGES = 100_000
MARK_EVERY_S = 5.0
"""How often it is noted how far a log was walked: so many messages are walked in half a second."""
FILES_KEPT_S = 30.0
"""Files read in place are let go of so long after their last use: whoever has just opened one is about to read it."""


@dataclass
class Hub:
    """All streams, live and ended.

    Attributes:
        directory: The spool.
        streams: By id, oldest first.
        version: Grows with every change; `wait_change` waits for the next.
        arrived: Bytes that have come in.
        shape: Grows when a stream opens, ends, is completed or removed, or a store appears in one: the rarer changes.
        readers: Ended logs that are open.
        to_complete: Streams that have ended, for `complete_streams`.
        feeds: Those that somebody still has.
        finish: Gives a file its footer: `finish_file`, or one of a test's own.
        on_open: Called with a stream when it begins, while its program still waits for us.
        on_end: Called with a stream when its last byte is in (to give its pipe back).
        make_room: Called when the disk is full (True), or may be soon: frees what may be freed; the bytes freed.
        pace: What viewers may take while programs log.
    """

    directory: Path
    streams: dict[str, Stream] = field(default_factory=dict)
    version: int = 0
    arrived: int = 0
    shape: int = 0
    readers: Readers = field(default_factory=Readers)
    to_complete: deque[Stream] = field(default_factory=deque)
    feeds: WeakSet[Feed] = field(default_factory=WeakSet)
    finish: Callable[[Path], Awaitable[dict[str, Any]]] = finish_file
    on_open: Callable[[Stream], None] | None = None
    on_end: Callable[[Stream], None] | None = None
    make_room: Callable[[bool], int] | None = None
    pace: Pace = field(init=False)
    _moment: float = 0.0
    _looked: int = 0
    _lot: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    _shape_lot: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    def __post_init__(self) -> None:
        self.pace = Pace(self)

    # -- changes -------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Wake whoever waits for a change."""
        self.version += 1
        self._lot.unpark_all()

    async def wait_change(self, seen: int) -> int:
        """Wait until `version` is not `seen` any more.

        Returns:
            The new version.
        """
        if self.version == seen:
            await self._lot.park()
        else:
            await trio.lowlevel.checkpoint()
        return self.version

    def reshaped(self) -> None:
        """The same, for a change that may alter what a selection takes."""
        self.shape += 1
        self._shape_lot.unpark_all()
        self.changed()

    async def wait_reshaped(self, seen: int) -> int:
        """Wait until `shape` is not `seen` any more.

        Returns:
            The new shape.
        """
        if self.shape == seen:
            await self._shape_lot.park()
        else:
            await trio.lowlevel.checkpoint()
        return self.shape

    def moment(self) -> float:
        """Now, for telling what was before and what after: Unix seconds, but later than every moment before.

        A clock that is set back would let streams end before they began, and `@live` miss them.
        """
        self._moment = max(time.time(), math.nextafter(self._moment, math.inf))
        return self._moment

    def witness(self, moment: float | None) -> None:
        """There was such a moment, says a file of an earlier run."""
        if moment is not None:
            self._moment = max(self._moment, moment)

    # -- streams -------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Find the logs of earlier runs; those that never ended are left to `adopt`, `resume` or `end_stream`.

        Raises:
            OSError: the spool cannot be read.
        """
        remove_leftovers(self.directory)
        for name in list_streams(self.directory):
            # A log without its description was copied here by somebody: it is read like any other.
            path = self.directory / (name + SUFFIX)
            try:
                found = path.stat()
                if not stat.S_ISREG(found.st_mode):
                    raise OSError("no file")
            except OSError as error:  # a symbolic link to nowhere, say
                log.warning("%s is left alone: %s", path, error.strerror or error)
                continue
            try:
                meta = Meta.load(self.directory / (name + META_SUFFIX))
                meta.id = name  # a copy of another's description names the other
            except (OSError, ValueError, TypeError):
                meta = Meta(name, UNKNOWN, started_at=found.st_mtime, ended_at=found.st_mtime)
            stream = Stream(meta, path, self.readers)
            stream.size, stream.generation = found.st_size, generation_of(found)
            self.streams[name] = stream
            self.witness(stream.ended_moment)
            if meta.error.startswith(NOT_COMPLETED):
                meta.error = ""
            elif meta.summary.get("size") == stream.size:
                try:
                    stream.load_summary(meta.summary)
                except (KeyError, ValueError, TypeError):
                    log.warning("summary of %s is damaged, reading the log again", name)
                else:
                    stream.ended = stream.complete = True

    def unfinished(self) -> list[Stream]:
        """Streams of an earlier run that have no complete log."""
        return [stream for stream in self.streams.values() if not stream.complete]

    def open_stream(self, *, kind: str, application_id: str = "", recording_id: str = "", sdk: str = "",
                    pid: int | None = None, pid_started: float | None = None, program: str = "") -> Stream:
        """Begin a stream with an empty log.

        Raises:
            OSError: the log cannot be made.
        """
        now = time.time()
        meta = Meta(new_stream_id(now), kind, application_id, recording_id, sdk, pid, pid_started, program, now)
        stream = Stream(meta, self.directory / (meta.id + SUFFIX), self.readers)
        stream.log = Log(stream.path)
        try:
            meta.save(self.directory)
        except OSError as error:
            if error.errno not in FULL:
                stream.close()
                stream.path.unlink()
                raise
            # It stalls, as others do, until there is room; its description is written then, or when it ends.
            log.warning("cannot describe stream %s yet: %s", stream.id, error)
        stream.scanner = Scanner(stream.log.fd)
        stream.generation = generation_of(os.fstat(stream.log.fd))
        self.streams[meta.id] = stream
        if self.on_open is not None:
            self.on_open(stream)
        self.reshaped()
        log.info("stream %s: %s opened by %s (pid %s)", meta.id, kind, program or "?", pid)
        return stream

    async def take_up(self, stream: Stream) -> None:
        """Take up the log of an earlier run where it ends. Others may have done so, or ended it, meanwhile.

        Raises:
            OSError: the log cannot be opened.
        """
        if stream.log is None:
            await self.read_again(stream, only_if_closed=True)

    async def read_again(self, stream: Stream, *, only_if_closed: bool = False) -> None:
        """Count what is in a log: in a thread, for it may be long, and on the side, for others are reading.

        Raises:
            OSError: the log cannot be opened.
        """
        found = await trio.to_thread.run_sync(_read_log, stream)
        if found.log is None or (only_if_closed and stream.log is not None):
            return
        if stream.log is not None:
            stream.log.close()
        self.readers.drop(stream.path)
        stream.log, stream.scanner, stream.size = found.log, found.scanner, found.size
        stream.messages, stream.stores, stream.keys = found.messages, found.stores, found.keys
        stream.store_version = found.store_version
        stream.generation = generation_of(os.fstat(found.log.fd))
        self.advance(stream)
        self.reshaped()

    def advance(self, stream: Stream) -> None:
        """Take note of bytes that were appended to a stream's log, and wake the sinks."""
        scanner, file = stream.scanner, stream.log
        if scanner is None or file is None:
            return
        self.arrived += file.size - stream.size
        stream.size = file.size
        known = len(stream.stores)
        try:
            if not stream.error:
                stream.note(scanner.frames(file.size), file.fd)
        except FormatError as error:
            stream.meta.error = str(error)
            log.error("stream %s: %s; everything before it is kept", stream.id, error)
        stream.header = scanner.header
        stream.concatenated = scanner.headers > 1
        if stream.messages - stream.marked_messages >= MARK_MESSAGES:
            self._mark(stream)
        if (scanner.position, scanner.data_end) != (stream.committed, stream.data_end) or stream.error:
            stream.committed, stream.data_end = scanner.position, scanner.data_end
            if len(stream.stores) != known:
                self.reshaped()
            else:
                self.changed()
        if self.arrived - self._looked >= LOOK_BYTES:
            self._looked = self.arrived
            if self.make_room is not None:
                self.make_room(False)

    def _mark(self, stream: Stream) -> None:
        """Note how far a log was walked: a daemon that had to walk all of a long one would not be ready for minutes."""
        now = time.monotonic()
        if now - stream.marked_at < MARK_EVERY_S:
            return
        stream.marked_at, stream.marked_messages = now, stream.messages
        try:
            mark = stream.mark()
        except OSError as error:
            log.warning("cannot mark stream %s: %s", stream.id, error)
            return
        if mark:  # else the last one will do
            stream.meta.mark = mark
            self.describe(stream)

    def append(self, stream: Stream, frames: Iterable[tuple[int, Sequence[bytes | memoryview]]]) -> None:
        """Append whole frames, for an ingest that has them in hand.

        Args:
            stream: Its `header` must be known: it opens an empty log.
            frames: Kind and payload (in pieces) of each.

        Raises:
            OSError: they did not fit (ENOSPC); the log is as it was.
        """
        if stream.log is None:
            raise ValueError(f"stream {stream.id} has ended")
        pieces: list[bytes | memoryview] = []
        if stream.log.size == 0:
            if stream.header is None:
                raise ValueError(f"stream {stream.id} has no header yet")
            pieces.append(stream.header.encode())
        for kind, payload in frames:
            pieces.append(frame_header(kind, sum(len(piece) for piece in payload)))
            pieces += payload
        stream.log.append(pieces)
        self.advance(stream)

    async def append_wait(self, stream: Stream, frames: Sequence[tuple[int, Sequence[bytes | memoryview]]]) -> None:
        """The same, but wait while the disk is full.

        Raises:
            OSError: something else is wrong with the log.
        """
        while True:
            try:
                self.append(stream, frames)
            except OSError as error:
                await self.stalled(stream, error)
            else:
                self.flowing(stream)
                return

    async def stalled(self, stream: Stream, error: OSError) -> None:
        """The spool's disk is full: free what may be freed, or say so and wait a little.

        Raises:
            OSError: `error`, if it is of another kind.
        """
        if error.errno not in FULL:
            raise error
        freed = self.make_room(True) if self.make_room is not None else 0
        if freed:
            log.warning("spool's disk is full: removed %d bytes of ended recordings", freed)
            await trio.lowlevel.checkpoint()
            return
        if not stream.stalled:
            stream.stalled = f"{error.strerror}: {self.directory}"
            log.error("stream %s is stalled, the program buffers: %s", stream.id, stream.stalled)
            self.changed()
        await trio.sleep(STALL_RETRY_S)

    def flowing(self, stream: Stream) -> None:
        """Take a stream's stall back."""
        if stream.stalled:
            stream.stalled = ""
            log.warning("stream %s flows again", stream.id)
            self.describe(stream)
            self.changed()

    def end_stream(self, stream: Stream, reason: str) -> None:
        """No more bytes will come: complete the log in the background. Ending twice is harmless."""
        if stream.ended:
            return
        stream.ended = True
        stream.meta.reason = reason
        stream.meta.ended_at = stream.meta.ended_at or time.time()
        stream.meta.ended_moment = stream.meta.ended_moment or self.moment()
        log.info("stream %s ended (%s): %d messages, %d bytes", stream.id, reason, stream.messages, stream.size)
        if self.on_end is not None:
            self.on_end(stream)
        self.describe(stream)
        self.to_complete.append(stream)
        self.reshaped()

    def describe(self, stream: Stream) -> None:
        """Write a stream's description beside its log; where that cannot be, the log says enough."""
        try:
            stream.meta.save(self.directory)
        except OSError as error:
            log.warning("cannot describe stream %s: %s", stream.id, error)

    async def open_file(self, path: Path) -> Stream:
        """Read a file in place, as if it were a complete stream.

        Args:
            path: Absolute.

        Returns:
            A stream of kind `file`, with id `file:PATH`.

        Raises:
            OSError: it cannot be read.
            FormatError: it is no .rrd; a file that is only damaged further on is read up to the damage.
        """
        name = f"{FILE}{path}"
        found = path.stat()
        size, mtime = found.st_size, found.st_mtime
        if found.st_nlink > 1:
            # The same file under another name, a log's own perhaps: reading both would give everything twice.
            for stream in self.streams.values():
                if stream.complete and stream.size == size and _same_file(stream.path, found):
                    return stream
        known = self.streams.get(name)
        if known is not None and (known.size, known.started_at) == (size, mtime):
            known.opened_at = time.monotonic()
            return known
        meta = Meta(name, "file", started_at=mtime, ended_at=mtime, program=path.name)
        stream = Stream(meta, path, self.readers)
        stream.size = size
        # What has been changed in place is another file, as far as a copy of half of it is concerned.
        stream.generation = hash((path.stat().st_ino, path.stat().st_mtime_ns, size)) & (1 << 53) - 1
        self.readers.drop(path)
        await trio.to_thread.run_sync(stream.read_through)
        stream.ended = stream.complete = True
        self.streams[name] = stream
        self.reshaped()
        return stream

    def close_files(self, used: Set[str]) -> None:
        """Let go of files that were read in place and are not any more.

        Args:
            used: Ids of the streams that outputs read; those of feeds are known.
        """
        used = set(used).union(*(feed.selection.streams for feed in self.feeds))
        young = time.monotonic() - FILES_KEPT_S / 2
        for stream in [one for one in self.streams.values() if one.kind == "file"]:
            if stream.id not in used and stream.opened_at < young:
                stream.close()
                del self.streams[stream.id]
                self.reshaped()

    def forget(self, stream: Stream) -> int:
        """Remove an ended stream's log.

        Returns:
            The bytes that were freed: none where a file elsewhere is the same one.

        Raises:
            OSError: it cannot be removed; it is as it was.
        """
        freed = 0
        for path in (stream.path, stream.path.with_suffix(META_SUFFIX)):  # a log without a description is still one
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                path.unlink()
                freed += found.st_size if found.st_nlink == 1 else 0
        stream.close()
        self.streams.pop(stream.id, None)
        self.reshaped()
        return freed

    def own(self) -> list[Stream]:
        """The streams whose logs are the spool's: files read in place are not."""
        return [stream for stream in self.streams.values() if stream.kind != "file"]

    # -- reading -------------------------------------------------------------------------------------------------

    def feed(self, selection: Selection) -> Feed:
        """Frames of a selection, from the beginning."""
        feed = Feed(self, selection)
        self.feeds.add(feed)
        return feed


def _read_log(stream: Stream) -> Stream:
    """Open a log for writing and count what is in it, from its mark if that is of this log. Runs in a thread.

    Returns:
        Another Stream of it.

    Raises:
        OSError: it cannot be opened or read.
    """
    found, mark = _open_log(stream), stream.meta.mark
    if mark:
        try:
            found.go_on_from(mark)
            _count(found)
        except (KeyError, ValueError, TypeError) as error:  # FormatError, too: perhaps no frame ended there
            log.warning("mark of %s is not to be believed, reading all of it: %s", stream.id, error)
            found = _open_log(stream)
        else:
            return found
    with contextlib.suppress(FormatError):  # `advance` meets it again, and says so
        _count(found)
    return found


def _open_log(stream: Stream) -> Stream:
    found = Stream(stream.meta, stream.path, stream.readers)
    found.log = Log(stream.path)
    found.size = found.log.size
    found.scanner = Scanner(found.log.fd)
    return found


def _count(stream: Stream) -> None:
    if stream.scanner is not None and stream.log is not None:
        stream.size = stream.log.size
        stream.note(stream.scanner.frames(stream.size), stream.log.fd)


def _same_file(path: Path, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), found)
    except OSError:
        return False


"""Streams and recordings: what is being logged, what was, and the cursors that read it.

    ingest -> Stream (one log) -> Hub.changed -> daemon.feed (one cursor a log) -> sink

Rules: an ingest appends and never waits for a reader; a reader holds nothing but positions; `committed` is the end of
the last whole frame and only grows; whatever is told of a log comes from the log. Ending a stream completes its log
(footer, fsync) in a process of its own, so that no footer costs the event loop anything.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import trio

from daemon.feed import Feed
from daemon.selection import FILE, Selection
from daemon.spool.log import META_SUFFIX, SUFFIX, Descriptor, Log, Meta, Readers, list_streams, new_stream_id
from daemon.spool.scanner import Frame, Scanner
from daemon.wire.logmsg import BLUEPRINT, StoreId, parse_store_id, parse_store_info
from daemon.wire.rrd import FRAME_HEADER_SIZE, FormatError, Kind, StreamHeader, frame_header

log = logging.getLogger("rrd.hub")

FULL = (errno.ENOSPC, errno.EDQUOT)
UNKNOWN = "unknown"
"""Kind of a stream whose description is lost, or never was."""
STALL_RETRY_S = 1.0
"""How often a stream that found the spool's disk full tries again."""
FINISHERS = 2
"""Footers made at once: a burst of ending streams must not take every core."""
NOT_COMPLETED = "cannot be completed: "
"""How the error of a log begins whose completion is tried again by the next daemon."""


class RecordingKey(NamedTuple):
    """A recording as users name it; empty application ids are SDKs' that did not say."""

    application_id: str
    recording_id: str


@dataclass(slots=True)
class Stats:
    """What a stream holds of one store."""

    messages: int = 0
    bytes: int = 0


class Stream:
    """What one connection of one program delivers, and its log.

    Attributes:
        committed: End of the last whole frame in the log, bytes.
        data_end: End of the last frame that carries data: a copy may go so far and stay true whatever the footer.
        ended: No more bytes will come.
        complete: The log has its footer and is on disk.
        stalled: Why nothing can be appended just now (disk full), or empty.
        generation: Which file the log is: its inode, cut to what every JSON reader can hold. A log that is written anew
            has its frames at other places, whenever that was and whoever was alive then.
    """

    def __init__(self, meta: Meta, path: Path, readers: Readers) -> None:
        self.meta = meta
        self.path = path
        self.readers = readers
        self.log: Log | None = None
        self.scanner: Scanner | None = None
        self.header: StreamHeader | None = None
        self.committed = 0
        self.data_end = 0
        self.size = 0
        self.messages = 0
        self.stores: dict[bytes, Stats] = {}
        self.keys: dict[bytes, StoreId] = {}
        self.store_version: tuple[int, int, int] | None = None
        self.ended = False
        self.complete = False
        self.concatenated = False
        self.generation = 0
        self.stalled = ""
        self.dropped_bytes = 0

    @property
    def id(self) -> str:
        """The stream's id."""
        return self.meta.id

    @property
    def kind(self) -> str:
        """How it came: `shim`, `stdin`, `grpc` or `file`."""
        return self.meta.kind

    @property
    def pid(self) -> int | None:
        """The program's process, if it is known."""
        return self.meta.pid

    @property
    def program(self) -> str:
        """The program's name, if it is known."""
        return self.meta.program

    @property
    def started_at(self) -> float:
        """When the stream was opened, Unix seconds."""
        return self.meta.started_at

    @property
    def ended_at(self) -> float | None:
        """When it ended, Unix seconds."""
        return self.meta.ended_at

    @property
    def error(self) -> str:
        """What was wrong with the stream's bytes, or empty."""
        return self.meta.error

    @property
    def sdk_version(self) -> tuple[int, int, int] | None:
        """The SDK's version as the stream says it."""
        if self.store_version is not None:
            return self.store_version
        return self.header.version[:3] if self.header is not None else None

    @property
    def recordings(self) -> dict[RecordingKey, Stats]:
        """Messages and bytes of each recording; a blueprint counts for the recordings of its application."""
        found: dict[RecordingKey, Stats] = {}
        for raw, stats in self.stores.items():
            store = self.keys[raw]
            if store.kind != BLUEPRINT:
                one = found.setdefault(RecordingKey(store.application_id, store.recording_id), Stats())
                one.messages += stats.messages
                one.bytes += stats.bytes
        if not found and not self.stores and self.meta.recording_id:
            found[RecordingKey(self.meta.application_id, self.meta.recording_id)] = Stats()
        return found

    def source(self) -> Descriptor:
        """The log for reading, to be kept for as long as it is read.

        Raises:
            OSError: the log is gone.
        """
        if self.log is not None and self.log.descriptor is not None:
            return self.log.descriptor
        return self.readers.get(self.path)

    def fd(self) -> int:
        """The same as a number, good until the next await.

        Raises:
            OSError: the log is gone.
        """
        return self.source().fd

    def close(self) -> None:
        """Write no more; `source` opens the log again."""
        if self.log is not None:
            self.log.close()
            self.log = None
        self.readers.drop(self.path)

    def note(self, frames: Iterator[Frame], fd: int) -> None:
        """Count frames that have become whole.

        Args:
            frames: From a scanner.
            fd: The log, readable.

        Raises:
            FormatError: from the scanner; what came before is counted.
        """
        stores = self.stores
        for frame in frames:
            self.messages += 1
            raw = frame.store
            if raw is None:
                continue
            stats = stores.get(raw)
            if stats is None:
                stats = stores[raw] = Stats()
                self.keys[raw] = self._identify(raw)
            if frame.kind == Kind.STORE_INFO:
                self._learn(frame, raw, fd)
            stats.messages += 1
            stats.bytes += frame.length + FRAME_HEADER_SIZE

    def _identify(self, raw: bytes) -> StoreId:
        try:
            return parse_store_id(raw)
        except (ValueError, UnicodeDecodeError):
            return StoreId(0, "(unreadable)", "")

    def _learn(self, frame: Frame, raw: bytes, fd: int) -> None:
        """Take the application id and the SDK's version from a store info."""
        try:
            info = parse_store_info(os.pread(fd, min(frame.length, 1 << 16), frame.offset))
        except (ValueError, UnicodeDecodeError):
            return
        if info.store.application_id and not self.keys[raw].application_id:
            self.keys[raw] = self.keys[raw]._replace(application_id=info.store.application_id)
        if info.version is not None:
            self.store_version = info.version

    def read_through(self) -> None:
        """Count all frames of a log that nobody writes.

        Raises:
            OSError: it cannot be read.
            FormatError: not even its header is one.
        """
        source = Descriptor(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC))
        scanner = Scanner(source.fd)
        try:
            self.note(scanner.frames(self.size), source.fd)
        except FormatError as error:
            if scanner.header is None:
                raise
            self.meta.error = str(error)
        self.header, self.committed, self.data_end = scanner.header, scanner.position, scanner.data_end
        self.concatenated = scanner.headers > 1

    def summary(self) -> dict[str, Any]:
        """What is kept of a complete log, so that it need not be read again to be listed."""
        return {
            "size": self.size,
            "data_end": self.data_end,
            "messages": self.messages,
            "version": list(self.header.version) if self.header else None,
            "compression": self.header.compression if self.header else 0,
            "sdk_version": list(self.store_version) if self.store_version else None,
            "dropped_bytes": self.dropped_bytes,
            "stores": [[raw.hex(), list(self.keys[raw]), stats.messages, stats.bytes]
                       for raw, stats in self.stores.items()],
        }

    def load_summary(self, summary: dict[str, Any]) -> None:
        """Take what `summary` kept.

        Raises:
            KeyError, ValueError, TypeError: it is damaged, or from a version that kept something else.
        """
        version = summary["version"]
        if version:
            major, minor, patch, tag = version
            self.header = StreamHeader((major, minor, patch, tag), summary["compression"], 2)
        sdk = summary["sdk_version"]
        self.store_version = (sdk[0], sdk[1], sdk[2]) if sdk else None
        self.size = self.committed = int(summary["size"])
        self.data_end = int(summary["data_end"])
        self.messages = int(summary["messages"])
        self.dropped_bytes = int(summary["dropped_bytes"])
        for text, (kind, recording, application), messages, size in summary["stores"]:
            raw = bytes.fromhex(text)
            self.stores[raw] = Stats(messages, size)
            self.keys[raw] = StoreId(kind, recording, application)


@dataclass
class Hub:
    """All streams, live and ended.

    Attributes:
        directory: The spool.
        streams: By id, oldest first.
        version: Grows with every change; `wait_change` waits for the next.
        shape: Grows when a stream opens, ends, is completed or removed, or a store appears in one: the rarer changes.
        readers: Ended logs that are open.
        finish: Gives a file its footer: `finish_file`, or one of a test's own.
        on_open: Called with a stream when it begins, while its program still waits for us.
        on_end: Called with a stream when its last byte is in (to give its pipe back).
        make_room: Called when the disk is full: frees what may be freed; the number of bytes freed.
    """

    directory: Path
    streams: dict[str, Stream] = field(default_factory=dict)
    version: int = 0
    shape: int = 0
    readers: Readers = field(default_factory=Readers)
    finish: Callable[[Path], Awaitable[dict[str, Any]]] = field(default_factory=lambda: finish_file)
    on_open: Callable[[Stream], None] | None = None
    on_end: Callable[[Stream], None] | None = None
    make_room: Callable[[], int] | None = None
    _lot: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    _shape_lot: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    _to_finish_send: trio.MemorySendChannel[Stream] | None = None

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

    # -- streams -------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Find the logs of earlier runs; those that never ended are left to `adopt`, `resume` or `end_stream`.

        Raises:
            OSError: the spool cannot be read.
        """
        for name in list_streams(self.directory):
            # A log without its description was copied here by somebody: it is read like any other.
            path = self.directory / (name + SUFFIX)
            found = path.stat()
            try:
                meta = Meta.load(self.directory / (name + META_SUFFIX))
                meta.id = name  # a copy of another's description names the other
            except (OSError, ValueError, TypeError):
                meta = Meta(name, UNKNOWN, started_at=found.st_mtime, ended_at=found.st_mtime)
            stream = Stream(meta, path, self.readers)
            stream.size, stream.generation = found.st_size, generation_of(found)
            self.streams[name] = stream
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
            await self._read_again(stream, only_if_closed=True)

    async def _read_again(self, stream: Stream, *, only_if_closed: bool = False) -> None:
        """Count a log from its beginning: in a thread, for it may be long, and on the side, for others are reading.

        Raises:
            OSError: the log cannot be opened.
        """
        found = Stream(stream.meta, stream.path, self.readers)
        await trio.to_thread.run_sync(_read_log, found)
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
        if (scanner.position, scanner.data_end) != (stream.committed, stream.data_end) or stream.error:
            stream.committed, stream.data_end = scanner.position, scanner.data_end
            if len(stream.stores) != known:
                self.reshaped()
            else:
                self.changed()

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
        freed = self.make_room() if self.make_room is not None else 0
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
            self._save_meta(stream)
            self.changed()

    def end_stream(self, stream: Stream, reason: str) -> None:
        """No more bytes will come: complete the log in the background. Ending twice is harmless."""
        if stream.ended:
            return
        stream.ended = True
        stream.meta.reason = reason
        stream.meta.ended_at = stream.meta.ended_at or time.time()
        log.info("stream %s ended (%s): %d messages, %d bytes", stream.id, reason, stream.messages, stream.size)
        if self.on_end is not None:
            self.on_end(stream)
        self._save_meta(stream)
        self.reshaped()
        if self._to_finish_send is not None:
            self._to_finish_send.send_nowait(stream)

    def _save_meta(self, stream: Stream) -> None:
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

    def forget(self, stream: Stream) -> int:
        """Remove an ended stream's log.

        Returns:
            The bytes that were freed: none where a file elsewhere is the same one.
        """
        stream.close()
        self.streams.pop(stream.id, None)
        freed = 0
        for path in (stream.path, stream.path.with_suffix(META_SUFFIX)):
            try:
                found = path.stat()
                freed += found.st_size if found.st_nlink == 1 else 0
                path.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("cannot remove %s: %s", path, error)
        self.reshaped()
        return freed

    # -- completing ----------------------------------------------------------------------------------------------

    async def finish_streams(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Complete the logs of streams that end, until cancelled."""
        send, receive = trio.open_memory_channel[Stream](float("inf"))
        self._to_finish_send = send
        limit = trio.CapacityLimiter(FINISHERS)
        async with trio.open_nursery() as nursery, send, receive:
            task_status.started()
            async for stream in receive:
                nursery.start_soon(self._finish, stream, limit)

    async def _finish(self, stream: Stream, limit: trio.CapacityLimiter) -> None:
        while True:
            try:
                async with limit:
                    await self._complete(stream)
                break
            except OSError as error:
                try:
                    await self.stalled(stream, error)  # a footer needs room too
                except OSError:
                    stream.meta.error = stream.meta.error or f"{NOT_COMPLETED}{error}"
                    log.error("stream %s cannot be completed: %s", stream.id, error)
                    break
        self.flowing(stream)
        stream.complete = True
        stream.close()
        stream.meta.summary = stream.summary()
        self._save_meta(stream)
        self.reshaped()

    async def _complete(self, stream: Stream) -> None:
        """Give a log its footer, unless it has one, and put it on the disk.

        Raises:
            OSError: the log cannot be read or written.
        """
        await self.take_up(stream)
        scanner = stream.scanner
        if scanner is None:
            return
        if stream.error and scanner.header is None and stream.log is not None:
            # Nothing of it is a stream: a log must not be a trap for whoever opens it.
            stream.dropped_bytes += stream.size
            os.ftruncate(stream.log.fd, 0)
            stream.size = stream.log.size = 0
        untouched = scanner.sealed and scanner.position == stream.size and not self._distrusted(stream)
        if not untouched and stream.size:
            result = await self.finish(stream.path)
            stream.dropped_bytes += int(result.get("dropped_bytes", 0))
            if result.get("problem"):
                log.warning("stream %s has no footer: %s", stream.id, result["problem"])
            await self._read_again(stream)
        await trio.to_thread.run_sync(fsync_path, stream.path)
        if stream.dropped_bytes:
            log.error("stream %s: %d bytes of no whole message were dropped", stream.id, stream.dropped_bytes)

    def _distrusted(self, stream: Stream) -> bool:
        """The SDK's footer is known to be wrong: 0.28.2 to 0.31.4 where a recording and a blueprint share a file."""
        kinds = {store.kind for store in stream.keys.values()}
        version = stream.header.version[:3] if stream.header else (0, 0, 0)
        return len(stream.stores) > 1 and BLUEPRINT in kinds and (0, 28, 0) <= version < (0, 32, 0)

    # -- reading -------------------------------------------------------------------------------------------------

    def feed(self, selection: Selection) -> Feed:
        """Frames of a selection, from the beginning."""
        return Feed(self, selection)


def generation_of(found: os.stat_result) -> int:
    """See Stream."""
    return found.st_ino & (1 << 53) - 1


def _read_log(stream: Stream) -> None:
    """Open a log for writing and count what is in it. Runs in a thread.

    Raises:
        OSError: it cannot be opened or read.
    """
    stream.log = Log(stream.path)
    stream.size = stream.log.size
    stream.scanner = Scanner(stream.log.fd)
    with contextlib.suppress(FormatError):  # `advance` meets it again, and says so
        stream.note(stream.scanner.frames(stream.size), stream.log.fd)


def _same_file(path: Path, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), found)
    except OSError:
        return False


async def finish_file(path: Path) -> dict[str, Any]:
    """Give a file its footer, in a process of its own: making one keeps a core busy for a while.

    Returns:
        What `daemon.spool.finish` says: `dropped_bytes`, `rewritten`, `problem`.

    Raises:
        OSError: it could not be done.
    """
    command = [sys.executable, "-m", "daemon.spool.finish", os.fspath(path)]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    try:
        result = json.loads(done.stdout)
    except ValueError:
        raise OSError(errno.EIO, done.stderr.decode(errors="replace").strip()[-500:], os.fspath(path)) from None
    if not isinstance(result, dict) or done.returncode != 0:
        problem, number = (result.get("problem"), result.get("errno")) if isinstance(result, dict) else (None, None)
        raise OSError(number or errno.EIO, str(problem or f"exit status {done.returncode}"), os.fspath(path))
    return result


def fsync_path(path: Path) -> None:
    """Put a file and its name on the disk.

    Raises:
        OSError: the disk said no.
    """
    for name, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        fd = os.open(name, flags | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

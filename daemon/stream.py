"""One stream: its log, and what is known of what is in it.

Rules: `committed` is the end of the last whole frame and only grows; whatever is told of a log comes from the log, or
from a summary that was made of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from daemon.spool.log import Descriptor, Log, Meta, Readers
from daemon.spool.scanner import Frame, Scanner
from daemon.wire.logmsg import BLUEPRINT, StoreId, parse_store_id, parse_store_info
from daemon.wire.rrd import FRAME_HEADER_SIZE, FormatError, Kind, StreamHeader

UNKNOWN = "unknown"
"""Kind of a stream whose description is lost, or never was."""

PROOF = 64
"""Bytes before a mark that must still be there for it to be believed."""


class RecordingKey(NamedTuple):
    """A recording as users name it; empty application ids are SDKs' that did not say."""

    application_id: str
    recording_id: str

    @property
    def label(self) -> str:
        """`app/recording`, for people."""
        return f"{self.application_id or '?'}/{self.recording_id}"


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
        opened_at: When somebody last asked for it, on the monotonic clock, seconds; of files that are read in place.
        marked_messages, marked_at: What had come, and when it was (on the monotonic clock), at the last mark.
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
        self.opened_at = time.monotonic()
        self.generation = 0
        self.stalled = ""
        self.dropped_bytes = 0
        self.marked_messages = 0
        self.marked_at = 0.0

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
    def ended_moment(self) -> float | None:
        """When it ended, on the hub's own clock, which is never set back."""
        return self.ended_at if self.meta.ended_moment is None else self.meta.ended_moment

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

    def mark(self) -> dict[str, Any]:
        """How far the log was walked, and what was found, so that the next daemon need not walk it all again.

        Raises:
            OSError: the log cannot be read.
        """
        scanner, file = self.scanner, self.log
        if scanner is None or file is None or self.error or not scanner.between_frames:
            return {}
        found = {**self.summary(), "size": scanner.position, "data_end": scanner.data_end}
        return {**found, "generation": self.generation, "before": _before(file.fd, scanner.position)}

    def go_on_from(self, mark: dict[str, Any]) -> None:
        """Have a scanner, and the counts, for the walk of the open log from a mark: it must prove itself.

        Raises:
            OSError: the log cannot be read.
            KeyError, ValueError, TypeError: the mark is damaged, or not of this log as it is.
        """
        file, position = self.log, mark["size"]
        if file is None or not 0 < position <= file.size:
            raise ValueError("the log ends before it")
        if mark["generation"] != generation_of(os.fstat(file.fd)) or mark["before"] != _before(file.fd, position):
            raise ValueError("of another log")
        self.load_summary(mark)
        if self.header is None:
            raise ValueError("without a header")
        self.scanner = Scanner.going_on(file.fd, position, self.header)

    def load_summary(self, summary: dict[str, Any]) -> None:
        """Take what `summary` kept.

        Raises:
            KeyError, ValueError, TypeError: it is damaged, or from a version that kept something else.
        """
        version = summary["version"]
        if version:
            major, minor, patch, tag = map(int, version)
            self.header = StreamHeader((major, minor, patch, tag), int(summary["compression"]), 2)
        sdk = summary["sdk_version"]
        if sdk:
            major, minor, patch = map(int, sdk)
            self.store_version = (major, minor, patch)
        self.size = self.committed = int(summary["size"])
        self.data_end = int(summary["data_end"])
        self.messages = int(summary["messages"])
        self.dropped_bytes = int(summary["dropped_bytes"])
        for text, (kind, recording, application), messages, size in summary["stores"]:
            raw = bytes.fromhex(text)
            self.stores[raw] = Stats(int(messages), int(size))
            self.keys[raw] = StoreId(int(kind), str(recording), str(application))


def _before(fd: int, position: int) -> str:
    """The bytes of a log before a position: what a log that lost its end, or is another, has not."""
    start = max(0, position - PROOF)
    return os.pread(fd, position - start, start).hex()


def generation_of(found: os.stat_result) -> int:
    """See Stream."""
    return found.st_ino & (1 << 53) - 1

"""What is in an .rrd file: recordings, entities, timelines, its footer, its damage.

Rules: everything is told from the frames themselves, so that a file without a footer, or with a wrong one, is described
like any other; the file is only read. Chunks are looked into no further than a footer needs, unless asked to check.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

from daemon.spool.recovery import check_activation, footer_state
from daemon.spool.walk import End, FormatError, Frame, Header, Lost, Walk
from daemon.wire.footer import (
    BadChunkError,
    FooterBuilder,
    NeedMore,
    StoreSummary,
    footer_is_trustworthy,
    listed_chunks,
    lists_all,
)
from daemon.wire.logmsg import BLUEPRINT, StoreId, parse_store_info
from daemon.wire.rrd import FRAME_HEADER_SIZE, Kind

Progress = Callable[[int, int], None]

STEP = 16 << 20
"""Bytes between two reports of progress."""
_TYPES = {"int64": "sequence", "timestamp[ns]": "timestamp", "duration[ns]": "duration"}


def describe(
    path: str, *, growing: bool = False, check: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Say what is in a file.

    Args:
        path: The .rrd file.
        growing: It is being written: a cut last message and a missing end are as they should be.
        check: Decode every chunk completely, to find damage inside of them; this takes about twice as long.
        progress: Told how many bytes are done, of how many, now and then.

    Returns:
        path, bytes, version, streams, messages;
        `recordings`, a list of {kind, application_id, recording_id, sdk_version, chunks, static_chunks, rows, bytes,
        uncompressed_bytes, entities: [{path, rows}], timelines: [{name, type, start, end}]}, where start and end are
        numbers, or nanoseconds on timelines of type "timestamp" and "duration";
        `footer`, {state, bytes}, where state is one of RecoveryReport.input_footer's;
        `damage`, a list of {offset, bytes, what};
        `problem`: why no footer could be made of it, or empty;
        `chunk_ids`: whether every message names its chunk; SDK 0.23 left that out.

    Raises:
        FormatError: not an .rrd, or none that can be read. The message says what was found, and where.
        OSError: it cannot be read.
    """
    # O_NONBLOCK: opening a named pipe must not wait for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        if found.st_size == 0 and not growing:
            raise FormatError("an empty file", 0)
        look = _Look(fd, found.st_size, check, progress)
        return look.result(path, growing)
    except FormatError as error:
        error.args = (f"{error.args[0]}: {path}",)
        raise
    finally:
        os.close(fd)


class _Look:
    """One walk over one file."""

    def __init__(self, fd: int, size: int, check: bool, progress: Progress | None) -> None:
        self._fd = fd
        self._size = size
        self._check = check
        self._builder = FooterBuilder(beyond=True)
        self._walk = Walk(fd, size, everything=check)
        self._infos: dict[StoreId, str] = {}
        self._chunks: set[tuple[int, int]] = set()
        self._version: tuple[int, ...] = ()
        self._version_text = ""
        self._end: End | None = None
        self._footer = "missing"
        self._lost: list[Lost] = []
        self._streams = self._messages = 0
        reported = 0
        for piece in self._walk:
            if isinstance(piece, Frame):
                self._take(piece)
            elif isinstance(piece, Header):
                self._streams += 1
                if piece.header.version[:3] > self._version:
                    self._version, self._version_text = piece.header.version[:3], piece.header.version_text
            elif isinstance(piece, End):
                self._end = piece
            else:
                self._lost.append(piece)
            if progress is not None and piece.end - reported >= STEP:
                reported = piece.end
                progress(reported, size)
        if progress is not None:
            progress(size, size)

    def _take(self, frame: Frame) -> None:
        payload = self._walk.payload(frame) if self._check else self._walk.beginning(frame)
        self._end = None
        try:
            if frame.kind == Kind.ACTIVATION:
                check_activation(payload)
            elif frame.kind == Kind.STORE_INFO:
                self._builder.add_store_info(payload)
                info = parse_store_info(payload)
                self._infos[info.store] = ".".join(map(str, info.version)) if info.version else ""
            else:
                self._add(frame, payload)
                self._chunks.add((frame.offset, frame.length))
        except BadChunkError as error:
            self._lost.append(self._walk.reject(frame, f"a damaged message ({error})"))
            return
        self._messages += 1

    def _add(self, frame: Frame, payload: bytes) -> None:
        # Chunks of SDK 0.23 have no id in their envelope, and need none to be described.
        check = self._check and self._version >= (0, 26, 0)
        try:
            self._builder.add(payload, frame.offset, size=frame.length, check=check)
        except NeedMore:
            self._builder.add(self._walk.payload(frame), frame.offset, check=check)

    def _footer_state(self, kinds: set[int]) -> str:
        end = self._end
        if end is None:
            return "cut" if any(lost.why == "cut in the footer" for lost in self._lost[-1:]) else "missing"
        state = footer_state(end, self._size, footer_is_trustworthy(self._version, kinds))
        if state != "complete" or self._streams > 1:
            return "wrong" if state == "complete" else state
        try:
            listed = listed_chunks(os.pread(self._fd, end.footer, end.start + FRAME_HEADER_SIZE))
        except ValueError:
            return "wrong"
        return "complete" if lists_all(listed, self._chunks, self._version) else "wrong"

    def result(self, path: str, growing: bool) -> dict[str, Any]:
        """What `describe` returns."""
        summaries = {summary.store: summary for summary in self._builder.summaries()}
        for store in self._infos:
            summaries.setdefault(store, StoreSummary(store, 0, 0, 0, 0))
        lost = self._lost
        if growing and lost and lost[-1].end == self._size:
            lost = lost[:-1]
        return {
            "path": path,
            "bytes": self._size,
            "version": self._version_text,
            "streams": self._streams,
            "messages": self._messages,
            "recordings": [_recording(one, self._infos.get(one.store, "")) for one in summaries.values()],
            "footer": {
                "state": self._footer_state({store.kind for store in summaries}),
                "bytes": self._end.end - self._end.start if self._end else 0,
            },
            "damage": [{"offset": one.start, "bytes": one.end - one.start, "what": one.why} for one in lost],
            "problem": self._builder.problem,
            "chunk_ids": not self._builder.lacks_ids,
        }


def _recording(summary: StoreSummary, version: str) -> dict[str, Any]:
    return {
        "kind": "blueprint" if summary.store.kind == BLUEPRINT else "recording",
        "application_id": summary.store.application_id,
        "recording_id": summary.store.recording_id,
        "sdk_version": version,
        "chunks": summary.chunks,
        "static_chunks": summary.static_chunks,
        "rows": summary.rows,
        "bytes": summary.bytes,
        "uncompressed_bytes": summary.uncompressed_bytes,
        "entities": [{"path": path, "rows": rows} for path, rows in sorted(summary.entities.items())],
        "timelines": [
            {"name": name, "type": _TYPES.get(kind, kind), "start": start, "end": end}
            for name, (kind, start, end) in sorted(summary.timelines.items())
        ],
    }

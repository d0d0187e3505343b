"""Walks the frames of a log: the one reader of frame headers that recovery, tail, every sink and the hub share.

    position          the end of the last whole frame (or header, or tail): everything before it is committed
    HEADER -> FRAME -> (End with a footer) TAIL -> FRAME | HEADER again (concatenated streams)

Rules: reads with pread and never writes; looks at headers and the first bytes of payloads only; a frame that is not
whole yet is not there yet; what is no frame raises FormatError and leaves `position` before it, for good.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from daemon.wire.logmsg import PEEK, peek_store_id
from daemon.wire.rrd import (
    FRAME_HEADER,
    FRAME_HEADER_SIZE,
    HEADER_SIZE,
    MAGIC,
    MAX_FRAME,
    TAIL_SIZE,
    FormatError,
    Kind,
    StreamHeader,
    parse_frame_header,
    parse_header,
    parse_tail,
)

WINDOW = 1 << 16
"""Bytes read at once among small frames: many headers a system call."""
WINDOW_BIG = FRAME_HEADER_SIZE + PEEK
"""Bytes read at once among big frames, whose payloads are skipped."""


class Frame(NamedTuple):
    """A whole frame: its kind, where its payload starts and how long that is, and the raw StoreId it names."""

    kind: int
    offset: int
    length: int
    store: bytes | None

    @property
    def start(self) -> int:
        """Where the frame's own 16 bytes start."""
        return self.offset - FRAME_HEADER_SIZE

    @property
    def end(self) -> int:
        """The first byte after the frame."""
        return self.offset + self.length


class Scanner:
    """Frames of one log, from `position` on. Feed it the log's size; it says what has become whole.

    Args:
        fd: The log, readable.
        position: 0, or a frame boundary that a scanner once stood at.
    """

    def __init__(self, fd: int, position: int = 0) -> None:
        self._fd = fd
        self.position = position
        self.header: StreamHeader | None = None
        self.headers = 0
        """Stream headers passed: more than one makes the log a concatenation."""
        self.ends = 0
        """End frames passed."""
        self.data_end = position
        """The end of the last frame that carries data: what comes after it is End, footer, tail or nothing yet."""
        self.sealed = False
        """The last thing passed is an End with footer and tail that fit each other and this log."""
        self.end_seen = False
        """The last frame passed is an End (with its tail, if it has one)."""
        self._footer: tuple[int, int] | None = None

    @property
    def at_end(self) -> bool:
        """The stream was ended properly: an End, with footer and tail or with neither, and nothing after it so far.

        Each writer begins with a header and stops with an End: where several have begun, all must have stopped.
        """
        return self.end_seen and self._footer is None and self.ends >= self.headers

    @property
    def between_frames(self) -> bool:
        """Stands behind a data frame of the only stream so far: its header is all it takes to go on from here."""
        return self.position == self.data_end > HEADER_SIZE and self.headers == 1 and not self.ends

    @classmethod
    def going_on(cls, fd: int, position: int, header: StreamHeader) -> Scanner:
        """One like that which stood at `position`, between frames, and had passed `header`."""
        scanner = cls(fd, position)
        scanner.header, scanner.headers = header, 1
        return scanner

    def use(self, fd: int) -> None:
        """Read from another descriptor of the same log from now on."""
        self._fd = fd

    def frames(self, size: int) -> Iterator[Frame]:
        """The data frames that are whole within the first `size` bytes, in order; `position` moves as they are taken.

        Raises:
            FormatError: what stands at `position` is neither frame nor header.
        """
        window, base = b"", self.position
        pread, unpack, fd = os.pread, FRAME_HEADER.unpack_from, self._fd
        last = WINDOW_BIG
        while True:
            position = self.position
            if position == 0 or self._footer is not None or size - position < FRAME_HEADER_SIZE:
                if self._pass_special(size):
                    continue
                return
            at = position - base
            if at < 0 or (at + WINDOW_BIG > len(window) and base + len(window) < size):
                window = pread(fd, WINDOW_BIG if last > WINDOW else WINDOW, position)
                base, at = position, 0
                if len(window) < FRAME_HEADER_SIZE:
                    return
            kind, length = unpack(window, at)
            if kind > 3 or length > MAX_FRAME:
                if self._pass_special(size):
                    continue
                if self.end_seen and length == 0 and size - position < TAIL_SIZE:
                    return  # this much of the tail of an empty footer, or nothing that makes sense
                parse_frame_header(window, at, position)  # says what is wrong
                return
            end = position + FRAME_HEADER_SIZE + length
            if end > size:
                return
            last = length
            if kind == 0:
                self.position = end
                self.ends += 1
                self.end_seen, self.sealed = True, False
                self._footer = (position + FRAME_HEADER_SIZE, length) if length else None
                continue
            at += FRAME_HEADER_SIZE
            # A view would keep the window alive; a few bytes are cheaper.
            store = peek_store_id(kind, window[at : at + min(length, PEEK)])
            self.position = self.data_end = end
            self.end_seen = self.sealed = False
            yield Frame(kind, position + FRAME_HEADER_SIZE, length, store)

    def _pass_special(self, size: int) -> bool:
        """Pass a stream header or a tail at `position`. False: neither is there (yet)."""
        here = os.pread(self._fd, TAIL_SIZE, self.position)[: max(0, size - self.position)]
        if self._footer is not None:
            start, length = self._footer
            if len(here) < TAIL_SIZE and (here[:4] != MAGIC or start.to_bytes(8, "little").startswith(here[:8])):
                # Fewer bytes than a tail has: wait for them, unless a new stream's header is on its way. (A footer
                # that starts at byte 0x32465252 has a tail that begins like a header.)
                return False
            tail = parse_tail(here)
            self._footer = None
            if tail is not None:
                self.sealed = (tail.start, tail.length) == (start, length) and self.headers <= 1
                self.position += TAIL_SIZE
            return True
        if self.end_seen and (empty := parse_tail(here)) is not None and empty.length == 0:
            # What newer SDKs write for a stream without chunks: a footer of no bytes, and yet a tail.
            self.sealed = empty.start == self.position and self.headers <= 1
            self.position += TAIL_SIZE
            return True
        if len(here) < HEADER_SIZE or (self.position and here[:4] != MAGIC):
            if self.position == 0 and here and not MAGIC.startswith(here[:4]):
                parse_header(here)  # says what was found instead
            return False
        header = parse_header(here, self.position)
        if self.header is None or header.version[:3] > self.header.version[:3]:
            self.header = header
        self.headers += 1
        self.position += HEADER_SIZE
        self.data_end = max(self.data_end, HEADER_SIZE)
        self.end_seen = self.sealed = False
        return True


__all__ = ["FormatError", "Frame", "Kind", "Scanner"]

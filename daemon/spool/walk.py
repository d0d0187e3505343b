"""Walks a whole .rrd file, damaged or not, piece by piece: what is there, and what is lost.

    piece = Header | Frame | End | Lost          every byte of the file is in exactly one piece, in order

Where the scanner of a live log (daemon/spool/scanner.py) stops and waits, this goes on: after damage it looks for the
next place where a frame begins. For files that nobody writes any more: finish, recover, merge, info.

Rules: reads with pread, never writes; memory is one window and, while somebody asks for it, one frame; a length is
believed only when the file is long enough for it. Whether a payload is sound is for others to say: they `reject` a
frame, and the walk goes on inside of it, for its length may have been what was wrong.
"""

from __future__ import annotations

import errno
import os
import re
from typing import NamedTuple, TypeAlias

import xxhash

from daemon.wire.logmsg import PEEK, parse_store_id, peek_store_id
from daemon.wire.rrd import (
    FOOTER_CRC_SEED,
    FRAME_HEADER,
    FRAME_HEADER_SIZE,
    HEADER_SIZE,
    MAGIC,
    TAIL_IDENT,
    TAIL_SIZE,
    FormatError,
    Kind,
    StreamHeader,
    parse_header,
    parse_tail,
)

WINDOW = 1 << 20
"""Bytes read at once where everything is read."""
PREFIX = 16384
"""Bytes read of a frame whose rest is skipped: what a footer needs of a big one, nearly always."""
BIG = 65536
"""Frames from here on are skipped where their payload is not asked for."""
SEARCH = 1 << 20
"""Bytes searched at once for the next frame."""

# A frame of data: kind 1 to 3, a length below 2^40, and a payload whose first field is a message numbered 1.
_FRAME = re.compile(rb"[\x01-\x03]\0{7}.{5}\0{3}\x0a|RRF2....\x02", re.DOTALL)
_FRAME_SIZE = FRAME_HEADER_SIZE + 1


class Header(NamedTuple):
    """A stream header: the file's, or one in its middle, where streams were concatenated."""

    start: int
    end: int
    header: StreamHeader


class Frame(NamedTuple):
    """A whole frame of data. `offset` is where its payload starts."""

    start: int
    end: int
    kind: int
    offset: int

    @property
    def length(self) -> int:
        """Length of the payload."""
        return self.end - self.offset


class End(NamedTuple):
    """An End frame with what belongs to it. `footer` is the length of its payload.

    `sealed`: it has a tail, and tail, footer and their place in the file fit each other.
    """

    start: int
    end: int
    footer: int
    sealed: bool


class Lost(NamedTuple):
    """Bytes that are none of the others. `data`: there may have been messages in them, not just a footer."""

    start: int
    end: int
    why: str
    data: bool = True


Piece: TypeAlias = Header | Frame | End | Lost


class Walk:
    """Pieces of one file; iterate over it.

    Args:
        fd: The file, readable. Its position is not touched.
        size: How much of it there is.
        everything: All payloads will be asked for, so read ahead through them.

    Raises:
        FormatError: when the first piece is taken: this is no .rrd, or none that can be read here.
    """

    def __init__(self, fd: int, size: int, *, everything: bool = False) -> None:
        self._fd = fd
        self._size = size
        self._everything = everything
        self._base = 0
        self._window = b""
        self._position = 0
        self._small = True
        self._big = bytearray()

    def __iter__(self) -> Walk:
        return self

    def __next__(self) -> Piece:
        # Small frames within the window, nearly all there are, without a further call.
        start = self._position
        at = start - self._base
        if start and 0 <= at <= len(self._window) - FRAME_HEADER_SIZE:
            kind, length = FRAME_HEADER.unpack_from(self._window, at)
            end = start + FRAME_HEADER_SIZE + length
            if 0 < kind <= 3 and length < BIG and end <= self._size:
                self._small = True
                self._position = end
                return Frame(start, end, kind, start + FRAME_HEADER_SIZE)
        piece = self._next()
        if piece is None:
            raise StopIteration
        self._position = piece.end
        return piece

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the file, as many of `size` as there are."""
        at = offset - self._base
        if at >= 0 and at + size <= len(self._window):
            return self._window[at : at + size]
        size = min(size, self._size - offset)
        if self._everything or self._small:
            if size <= WINDOW // 2:
                self._base, self._window = offset, self._pread(offset, WINDOW if self._everything else WINDOW // 4)
                return self._window[:size]
        elif size <= PREFIX:
            # A big frame's header and beginning in one call; the rest of it is nobody's business.
            self._base, self._window = offset, self._pread(offset, PREFIX + FRAME_HEADER_SIZE)
            return self._window[:size]
        return self._pread(offset, size)

    def _pread(self, offset: int, size: int) -> bytes:
        size = max(0, min(size, self._size - offset))
        data = os.pread(self._fd, size, offset)
        while 0 < len(data) < size:  # pread gives at most 2 GiB
            more = os.pread(self._fd, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def beginning(self, frame: Frame) -> bytes:
        """A frame's payload if it is small, else the beginning of it."""
        return self.read(frame.offset, frame.length if frame.length < BIG else PREFIX)

    def payload(self, frame: Frame) -> bytes:
        """A frame's whole payload."""
        return self.read(frame.offset, frame.length)

    def whole(self, frame: Frame) -> bytes | memoryview:
        """A frame with its header. A view is of a buffer that the next call uses again."""
        size = frame.end - frame.start
        if size <= WINDOW // 2:
            return self.read(frame.start, size)
        # Memory of megabytes, taken from the system and given back for every frame, costs more than the reading.
        if len(self._big) < size:
            self._big = bytearray(size + size // 4)
        view = memoryview(self._big)[:size]
        filled = 0
        while filled < size:
            got = os.preadv(self._fd, [view[filled:]], frame.start + filled)
            if not got:
                raise OSError(errno.EIO, "the file became shorter while it was read")
            filled += got
        return view

    def reject(self, frame: Frame, why: str) -> Lost:
        """A frame that was just given out is damaged: it is lost, up to where the next frame can be found.

        Returns:
            The piece that takes its place; the walk goes on after it.
        """
        end = self._search(frame.start + 1)
        self._position = end
        return Lost(frame.start, end, why)

    def _next(self) -> Piece | None:
        at, size = self._position, self._size
        left = size - at
        if left <= 0:
            return None
        here = self.read(at, FRAME_HEADER_SIZE)
        self._small = True
        if at == 0:
            return self._first(here)
        if here[: len(MAGIC)] == MAGIC:
            header = self._header(at)
            if header is not None:
                return header
        if left < FRAME_HEADER_SIZE:
            if not any(here):
                return Lost(at, size, "zeros")
            return Lost(at, size, "cut in a frame's header")
        kind, length = FRAME_HEADER.unpack(here)
        end = at + FRAME_HEADER_SIZE + length
        self._small = length < BIG
        if kind == Kind.END and end <= size:
            return self._end(at, length)
        if Kind.END < kind <= Kind.ACTIVATION and end <= size:
            return Frame(at, end, kind, at + FRAME_HEADER_SIZE)
        return self._lost_from(at, kind, length)

    def _first(self, here: bytes) -> Piece:
        try:
            return Header(0, HEADER_SIZE, parse_header(here[:HEADER_SIZE]))
        except FormatError:
            # A header may be damaged like anything else: if a frame follows where it should, this is a stream.
            if len(here) >= HEADER_SIZE and (here[:4] != MAGIC or here[9] != 1) and self._is_frame(HEADER_SIZE):
                return Lost(0, HEADER_SIZE, "a damaged stream header", data=False)
            raise

    def _header(self, at: int) -> Header | None:
        try:
            return Header(at, at + HEADER_SIZE, parse_header(self.read(at, HEADER_SIZE), at))
        except FormatError:
            return None

    def _end(self, at: int, length: int) -> Piece:
        start = at + FRAME_HEADER_SIZE
        end = start + length
        after = self.read(end, TAIL_SIZE)
        if length == 0 and (after and not any(after)):
            return self._zeros(at)
        tail = parse_tail(after)
        if tail is None:
            if length == 0:
                return End(at, end, length, sealed=False)
            if len(after) < TAIL_SIZE:
                return End(at, self._size, length, sealed=False)
            if MAGIC in after[20:24] or TAIL_IDENT in after:
                return End(at, end + TAIL_SIZE, length, sealed=False)
            # A footer has a tail. So this was another frame, of which the kind is damaged.
            return Lost(at, self._search(at + 1), "a damaged frame header")
        sealed = (tail.start, tail.length) == (start, length)
        if sealed:
            # The footer may be as long as memory is: its checksum is taken in pieces.
            checksum = xxhash.xxh32(seed=FOOTER_CRC_SEED)
            for place in range(start, end, WINDOW):
                checksum.update(self._pread(place, min(WINDOW, end - place)))
            sealed = checksum.intdigest() == tail.crc
        return End(at, end + TAIL_SIZE, length, sealed)

    def _zeros(self, at: int) -> Lost:
        end = at
        while end < self._size:
            block = self._pread(end, WINDOW)
            rest = block.lstrip(b"\0")
            end += len(block) - len(rest)
            if rest:
                # The low byte of the frame's kind was the first that is not zero, so this is where it starts.
                break
        if end < self._size:
            end = self._search(end)
        return Lost(at, end, "zeros")

    def _lost_from(self, at: int, kind: int, length: int) -> Lost:
        left = self._size - at - FRAME_HEADER_SIZE
        if kind == Kind.END and length > left:
            # Its own length says that it reaches beyond the end; only if no frame follows that is true.
            end = self._search(at + 1)
            return Lost(at, end, "cut in the footer" if end == self._size else "a damaged footer", data=False)
        end = self._search(at + 1)
        if kind <= Kind.ACTIVATION and end == self._size:
            return Lost(at, end, f"cut in a message: {left} of its {length} bytes are there")
        return Lost(at, end, f"not a frame (kind {kind:#x}, length {length})")

    def _search(self, at: int) -> int:
        """Where the next frame or header begins, from `at` on; the file's end if there is none."""
        while at < self._size:
            block = self._pread(at, SEARCH)
            for match in _FRAME.finditer(block):
                place = at + match.start()
                if block[match.start() : match.start() + 4] == MAGIC:
                    if self._header(place) is not None and self._is_frame(place + HEADER_SIZE):
                        return place
                elif self._is_frame(place):
                    return place
            if len(block) < SEARCH:
                break
            at += len(block) - _FRAME_SIZE
        return self._size

    def _is_frame(self, at: int) -> bool:
        """Whether a data frame stands at `at`: whole, and naming a store that could be one."""
        here = self._pread(at, FRAME_HEADER_SIZE + PEEK)
        if len(here) <= FRAME_HEADER_SIZE:
            return False
        kind, length = FRAME_HEADER.unpack_from(here)
        if not Kind.END < kind <= Kind.ACTIVATION or length > self._size - at - FRAME_HEADER_SIZE:
            return False
        raw = peek_store_id(kind, here[FRAME_HEADER_SIZE : FRAME_HEADER_SIZE + min(length, PEEK)])
        if raw is None:
            return False
        try:
            store = parse_store_id(raw)
        except ValueError:
            return False
        return store.kind in (1, 2) and bool(store.recording_id)


__all__ = ["End", "FormatError", "Frame", "Header", "Lost", "Piece", "Walk"]

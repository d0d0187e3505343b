"""The .rrd container: a header, then frames. Sans-IO.

    stream   = header frame*                        header = "RRF2" version[4] options[4]
    frame    = kind u64 LE · length u64 LE · payload[length]
    End      = frame of kind 0, whose payload is the footer (or nothing); after a footer come 32 bytes of tail
    concatenated streams: a new header stands where a frame was due

Rules: only headers are looked at here, payloads are nobody's business at this level; a length from outside is
compared with what is there before anything is allocated; positions are absolute offsets in the stream.
Source of the format: re_log_encoding of Rerun 0.41, re-measured with SDK 0.23 to 0.41.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

MAGIC = b"RRF2"
OLD_MAGICS = {b"RRF0": "0.2 to 0.3", b"RRF1": "0.4 to 0.5"}
HEADER_SIZE = 12
FRAME_HEADER_SIZE = 16
TAIL_SIZE = 32
TAIL_IDENT = b"FOOT"
FOOTER_CRC_SEED = 7850921
"""Seed of the XXH32 over the footer's payload."""

ENCODING_PROTOBUF = 2
"""Second option byte of the header. 1 is MsgPack, written by SDKs up to 0.22."""

MAX_FRAME = 1 << 40
"""A frame longer than this (1 TiB) is garbage: no SDK writes one, and no file system here holds many."""

FRAME_HEADER = struct.Struct("<QQ")
TAIL = struct.Struct("<QQI4s4sI")


class Kind(enum.IntEnum):
    """What a frame is."""

    END = 0
    STORE_INFO = 1
    ARROW = 2
    ACTIVATION = 3


class FormatError(ValueError):
    """The bytes are not an .rrd stream. The message says what was found, `offset` where."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(f"{message} at byte {offset}")
        self.offset = offset


@dataclass(frozen=True, slots=True)
class StreamHeader:
    """The 12 bytes that open a stream. `version` is (major, minor, patch, pre-release tag) as the SDK wrote them."""

    version: tuple[int, int, int, int]
    compression: int
    encoding: int

    @property
    def version_text(self) -> str:
        """`0.41.0`"""
        return "{}.{}.{}".format(*self.version[:3])

    def encode(self) -> bytes:
        """The 12 bytes."""
        return MAGIC + bytes(self.version) + bytes((self.compression, self.encoding, 0, 0))


def parse_header(data: bytes | memoryview, offset: int = 0) -> StreamHeader:
    """Read the 12 bytes at the start of a stream.

    Args:
        data: At least 12 bytes.
        offset: Where in the stream `data` stands, for the message.

    Raises:
        FormatError: not an .rrd stream, or one that this program cannot read (MsgPack).
    """
    magic = bytes(data[:4])
    if magic != MAGIC:
        if magic in OLD_MAGICS:
            raise FormatError(f"an .rrd of Rerun {OLD_MAGICS[magic]}, too old to be read", offset)
        raise FormatError(f"not an .rrd stream: found {magic!r}, expected {MAGIC!r},", offset)
    if len(data) < HEADER_SIZE:
        raise FormatError("not an .rrd stream: shorter than its 12-byte header,", offset)
    header = StreamHeader((data[4], data[5], data[6], data[7]), data[8], data[9])
    if header.encoding != ENCODING_PROTOBUF:
        what = "MsgPack, written by Rerun 0.22 or older" if header.encoding == 1 else f"encoding {header.encoding}"
        message = f"an .rrd of version {header.version_text} in {what}: only Protobuf (0.23 and newer) is read,"
        raise FormatError(message, offset)
    return header


def parse_frame_header(data: bytes | memoryview, at: int = 0, offset: int = 0) -> tuple[int, int]:
    """Read a frame's 16 bytes: (kind, payload length).

    Args:
        data: Holds the 16 bytes from index `at` on.
        at: Index in `data`.
        offset: Where in the stream the frame stands, for the message.

    Raises:
        FormatError: no known kind, or a length that no frame has.
    """
    kind, length = FRAME_HEADER.unpack_from(data, at)
    if kind > Kind.ACTIVATION:
        raise FormatError(f"not a frame: kind {kind:#x},", offset)
    if length > MAX_FRAME:
        raise FormatError(f"not a frame: a length of {length} bytes", offset)
    return kind, length


def frame_header(kind: int, length: int) -> bytes:
    """The 16 bytes before a payload."""
    return FRAME_HEADER.pack(kind, length)


@dataclass(frozen=True, slots=True)
class Tail:
    """The 32 bytes after a footer: where its payload starts, how long it is, and its checksum."""

    start: int
    length: int
    crc: int

    def encode(self) -> bytes:
        """The 32 bytes."""
        return TAIL.pack(self.start, self.length, self.crc, MAGIC, TAIL_IDENT, 1)


def parse_tail(data: bytes | memoryview) -> Tail | None:
    """Read 32 bytes as a tail; None if they are not one."""
    if len(data) != TAIL_SIZE:
        return None
    start, length, crc, magic, ident, count = TAIL.unpack(data)
    if magic != MAGIC or ident != TAIL_IDENT or count != 1:
        return None
    return Tail(start, length, crc)

"""The payload of an ArrowMsg frame: an envelope around an Arrow IPC stream of one record batch. Sans-IO.

    ArrowMsg  = {1: StoreId, 2: compression, 3: uncompressed size, 4: encoding, 5: payload, 6: chunk id, 7: is static}
    payload   = LZ4 block of, or plainly: schema message · record batch message · end of stream
    message   = FF FF FF FF · length i32 LE · flatbuffer[length] · body

Rules: nothing is decoded that is not asked for. Most of a big payload is pixels, and what a footer needs stands in its
first kilobytes, so a beginning of the frame is enough and NeedMore says when it is not. Lengths from outside are
compared with what is there, or with what LZ4 could possibly make of it, before memory is taken.
Source: log_msg.proto of Rerun; Message.fbs of Arrow; lz4.h, LZ4_decompress_safe_partial.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import lz4.block
import lz4.block._block as _lz4
import numpy as np

from daemon.wire.protobuf import fields, uvarint
from daemon.wire.sorbet import UnknownChunkError

UNCOMPRESSED = (0, 1)
LZ4 = 2
ARROW_IPC = (0, 1)

PREFIX = 8192
"""Bytes of an IPC stream that are decompressed of a big one at first: its schema, buffer list and times, mostly."""
PARTIAL_FROM = 16384
"""IPC streams from this size on are decompressed in part: below, the whole costs less than the second call."""
BIG = 1 << 18
"""IPC streams from this size on are decompressed to memory that is used again."""
INT_MAX = 0x7FFFFFFF

LZ4_RATIO = 255
"""An LZ4 block cannot expand more (each byte of a match length stands for at most 255)."""
LZ4_SLACK = 1024
"""Bytes of input allowed for the lengths of runs, and for what is not exact."""

Buffer = bytes | memoryview

_u16 = struct.Struct("<H").unpack_from
_i32 = struct.Struct("<i").unpack_from
_u32 = struct.Struct("<I").unpack_from
_i64 = struct.Struct("<q").unpack_from
_marker_length = struct.Struct("<Ii").unpack_from

_MESSAGE_RECORD_BATCH = 3


class BadChunkError(ValueError):
    """The bytes are damaged: no reader could make a chunk of them."""


class NeedMore(Exception):
    """The beginning of the payload that was given is too short: give all of it."""


class ArrowMsg(NamedTuple):
    """The envelope's fields. `start` and `length` are where the payload stands; `chunk_id` is None where unknown."""

    store: bytes
    compression: int
    uncompressed_size: int
    start: int
    length: int
    chunk_id: bytes | None


def parse_arrow_msg(buf: Buffer, size: int) -> ArrowMsg:
    """Read the envelope.

    Args:
        buf: The frame's payload, or a beginning of it.
        size: Length of the whole payload.

    Raises:
        BadChunkError: it is damaged.
        UnknownChunkError: a compression or an encoding that is not known.
        NeedMore: the payload does not even begin within `buf`.
    """
    if len(buf) > 2 and buf[0] == 0x0A and buf[1] < 0x80:
        usual = _USUAL.match(buf, 2 + buf[1])
        if usual is not None:
            return _usual(buf, size, usual)
    have = len(buf)
    i = compression = uncompressed = encoding = length = 0
    store, start, chunk_id = None, -1, None
    try:
        while i < size:
            tag = buf[i]
            i += 1
            value = buf[i]
            i += 1
            kind = tag & 7
            if value > 0x7F and kind != 1 and kind != 5:
                value, i = uvarint(buf, i - 1)
            if kind == 2:
                end = i + value
                if end > size:
                    raise BadChunkError(f"field {tag >> 3} is longer than its message")
                if tag == 0x2A:
                    start, length = i, value
                    if end > have:
                        break  # what follows is not in hand
                elif tag == 0x0A:
                    store = bytes(buf[i:end])
                elif tag == 0x32:
                    chunk_id = _tuid(buf[i:end])
                i = end
            elif kind == 0:
                if tag == 0x10:
                    compression = value
                elif tag == 0x18:
                    uncompressed = value
                elif tag == 0x20:
                    encoding = value
            elif kind == 1:
                i += 7
            elif kind == 5:
                i += 3
            else:
                raise BadChunkError(f"wire type {kind}")
    except (IndexError, ValueError) as error:
        if isinstance(error, BadChunkError):
            raise
        if have < size:
            raise NeedMore from None
        raise BadChunkError("the message is cut") from None
    if store is None or start < 0:
        raise BadChunkError("no store id or no payload")
    if i > size:
        raise BadChunkError("the message is cut")
    if compression not in (*UNCOMPRESSED, LZ4):
        raise UnknownChunkError(f"compression {compression}")
    if encoding not in ARROW_IPC:
        raise UnknownChunkError(f"encoding {encoding}")
    if compression == LZ4:
        if uncompressed > length * LZ4_RATIO + LZ4_RATIO:
            raise BadChunkError(f"{length} bytes cannot hold {uncompressed}")
    else:
        uncompressed = uncompressed or length
    return ArrowMsg(store, compression, uncompressed, start, length, chunk_id)


# Fields 2 to 5 in order, as every SDK writes them. A chunk is read in microseconds, and walking fields takes a third.
_USUAL = re.compile(rb"\x10\x02\x18([\x80-\xff]*[\0-\x7f])\x20\x01\x2a([\x80-\xff]*[\0-\x7f])")


def _usual(buf: Buffer, size: int, match: re.Match[bytes]) -> ArrowMsg:
    start = match.end()
    size_digits, length_digits = match.groups()
    if len(size_digits) == 2 == len(length_digits):
        uncompressed = size_digits[0] & 0x7F | size_digits[1] << 7
        length = length_digits[0] & 0x7F | length_digits[1] << 7
    else:
        uncompressed, _ = uvarint(size_digits, 0)
        length, _ = uvarint(length_digits, 0)
    end = start + length
    if end > size:
        raise BadChunkError("field 5 is longer than its message")
    if uncompressed > length * LZ4_RATIO + LZ4_RATIO:
        raise BadChunkError(f"{length} bytes cannot hold {uncompressed}")
    chunk_id = None
    if end < size:
        rest = buf[end:size]
        if len(rest) == size - end:
            chunk_id = _tuid(rest[2:20]) if rest[:2] == b"\x32\x12" else None
            if rest[20:] not in (b"\x38\x01", b"\x38\x00", b"") or chunk_id is None:
                chunk_id = _chunk_id(rest)
    return ArrowMsg(bytes(buf[2 : 2 + buf[1]]), LZ4, uncompressed, start, length, chunk_id)


def _chunk_id(rest: Buffer) -> bytes | None:
    """The chunk's id among the fields after the payload."""
    found = None
    try:
        for number, _, value in fields(rest):
            if number == 6 and not isinstance(value, int):
                found = _tuid(value)
    except ValueError as error:
        raise BadChunkError(str(error)) from None
    return found


def _tuid(raw: Buffer) -> bytes | None:
    """Tuid{1: time_ns fixed64, 2: inc fixed64} as 16 bytes big endian, as chunk ids are written everywhere else."""
    if len(raw) == 18 and raw[0] == 0x09 and raw[9] == 0x11:
        return bytes(raw[8:0:-1]) + bytes(raw[17:9:-1])
    return None


class Ipc:
    """The beginning of a chunk's IPC stream, as long as was needed so far.

    Args:
        buf: The frame's payload, or a beginning of it.
        msg: Its envelope.
        whole: Decompress all of it at once.
        scratch: Memory to decompress big ones to; `raw` is a view of it then.
        salvage: Make do with what is there of a message that was cut.

    Raises:
        BadChunkError: it cannot be decompressed.
        NeedMore: `buf` is too short.
    """

    __slots__ = ("_buf", "_msg", "_salvage", "raw", "whole")

    def __init__(
        self, buf: Buffer, msg: ArrowMsg, whole: bool = False, scratch: Scratch | None = None, *, salvage: bool = False
    ) -> None:
        self._buf = buf
        self._msg = msg
        self._salvage = salvage
        small = msg.uncompressed_size < PARTIAL_FROM and not salvage
        self.whole = whole or small or (msg.compression == LZ4 and _partial is None)
        self.raw: Buffer = b""
        if self.whole:
            self._load_all(scratch)
        else:
            self._load(min(PREFIX, msg.uncompressed_size))

    def upto(self, size: int) -> Buffer:
        """The first `size` bytes at least.

        Raises:
            BadChunkError: it is shorter.
            NeedMore: `buf` is too short.
        """
        if size > len(self.raw):
            if self.whole or size > self._msg.uncompressed_size:
                raise BadChunkError("an Arrow message that is longer than its payload")
            self._load(min(size + PREFIX // 8, self._msg.uncompressed_size), size)
            if size > len(self.raw):
                raise BadChunkError("an Arrow message that is longer than its payload")
        return self.raw

    def _load_all(self, scratch: Scratch | None) -> None:
        _, compression, size, start, length, _ = self._msg
        source = self._buf[start : start + length]
        if len(source) < length:
            raise NeedMore
        if compression == LZ4 and scratch is not None and size >= BIG:
            self.raw = scratch.decompress(source, size)
        elif compression == LZ4:
            try:
                self.raw = lz4.block.decompress(source, uncompressed_size=size)
            except lz4.block.LZ4BlockError:
                raise BadChunkError("LZ4 data is damaged") from None
        else:
            self.raw = source
        if len(self.raw) != size:
            raise BadChunkError(f"the payload has {len(self.raw)} bytes, not {size}")

    def _load(self, want: int, least: int = 0) -> None:
        """Decompress about `want` bytes, `least` at least."""
        _, compression, _, start, length, _ = self._msg
        # A prefix of the output needs about as much of the input: literals are one to one, but the length of a run of
        # them stands before it, a byte for each 255. Where a run is very long this is too little, and then all it is.
        need = min(length, want + want // LZ4_RATIO + LZ4_SLACK if compression == LZ4 else want)
        source = bytes(self._buf[start : start + need])
        if len(source) < need and not self._salvage:
            raise NeedMore
        if compression != LZ4:
            self.raw = source
            return
        out = ctypes.create_string_buffer(want)
        got = _decompress_prefix(source, out)
        if (got < 0 or got < least) and need < length and not self._salvage:
            source = bytes(self._buf[start : start + length])
            if len(source) < length:
                raise NeedMore
            got = _decompress_prefix(source, out)
        if got < 0:
            raise BadChunkError("LZ4 data is damaged")
        self.raw = out.raw[:got]


def _decompress_prefix(source: bytes, out: ctypes.Array[ctypes.c_char]) -> int:
    """Fill `out` from an LZ4 block or the beginning of one; how far it came, or a negative number."""
    return _partial(source, out, len(source), len(out), len(out)) if _partial is not None else -1


class Scratch:
    """Memory that is used again for every big payload: taking it from the system costs more than decompressing."""

    def __init__(self) -> None:
        self._memory = bytearray()

    def decompress(self, source: Buffer, size: int) -> Buffer:
        """Decompress an LZ4 block of `size` bytes; the view is good until the next call.

        Raises:
            BadChunkError: it is damaged.
        """
        if _safe is None or size > INT_MAX or len(source) > INT_MAX:
            try:
                return lz4.block.decompress(source, uncompressed_size=size)  # type: ignore[no-any-return]
            except (lz4.block.LZ4BlockError, OverflowError):
                raise BadChunkError("LZ4 data is damaged") from None
        if len(self._memory) < size:
            self._memory = bytearray(size + size // 4)
        # numpy gives the address of what is read-only, too.
        start = np.frombuffer(source, np.uint8).ctypes.data
        target = np.frombuffer(self._memory, np.uint8).ctypes.data
        if _safe(start, target, len(source), size) != size:
            raise BadChunkError("LZ4 data is damaged")
        return memoryview(self._memory)[:size]


def _find(name: str, *arguments: type[Any]) -> Callable[..., int] | None:
    """A function of the library that lz4 for Python is built on; None where it does not show it."""
    try:
        function = getattr(ctypes.CDLL(_lz4.__file__), name)
    except (OSError, AttributeError):
        return None
    function.argtypes = arguments
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


_text, _pointer, _int = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int
_partial = _find("LZ4_decompress_safe_partial", _text, _text, _int, _int, _int)
_safe = _find("LZ4_decompress_safe", _pointer, _pointer, _int, _int)


class RecordBatch(NamedTuple):
    """Where the parts of a record batch stand in its IPC stream.

    `nodes` and `buffers` are the places of its lists of (length, null count) and (offset, length), 16 bytes an entry.
    """

    rows: int
    nodes: int
    node_count: int
    buffers: int
    buffer_count: int
    body: int
    end: int


def schema_end(ipc: Ipc) -> int:
    """Where the schema message ends, which opens the stream.

    Raises:
        BadChunkError: there is none.
    """
    marker, length = _marker_length(ipc.raw, 0)
    # Before Arrow 0.15 there was no marker; no SDK writes that.
    if marker != 0xFFFFFFFF or length <= 0:
        raise BadChunkError("no Arrow message")
    return int(length) + 8


def record_batch_body(ipc: Ipc, at: int) -> int:
    """Where the header of the record batch message at `at` ends, and its body begins; so much is there then.

    Raises:
        BadChunkError: there is none.
        NeedMore: more of the payload is needed.
    """
    raw = ipc.upto(at + 8)
    marker, length = _marker_length(raw, at)
    if marker != 0xFFFFFFFF or length <= 0:
        raise BadChunkError("no record batch")
    body = at + 8 + int(length)
    ipc.upto(body)
    return body


def parse_record_batch(ipc: Ipc, at: int) -> RecordBatch:
    """Read the header of the record batch message that starts at `at`.

    Raises:
        BadChunkError: it is damaged.
        UnknownChunkError: its buffers are compressed one by one.
        NeedMore: more of the payload is needed.
    """
    body = record_batch_body(ipc, at)
    raw = ipc.raw
    at += 8
    try:
        table = at + _u32(raw, at)[0]
        vtable = table - _i32(raw, table)[0]
        if raw[table + _u16(raw, vtable + 6)[0]] != _MESSAGE_RECORD_BATCH:
            raise UnknownChunkError("an Arrow message that is no record batch (dictionaries?)")
        slot = _u16(raw, vtable + 10)[0]
        body_length = _i64(raw, table + slot)[0] if slot else 0
        header = table + _u16(raw, vtable + 8)[0]
        header += _u32(raw, header)[0]
        vtable = header - _i32(raw, header)[0]
        slots = _u16(raw, vtable)[0]
        slot = _u16(raw, vtable + 4)[0]
        rows = _i64(raw, header + slot)[0] if slot else 0
        nodes = header + _u16(raw, vtable + 6)[0]
        nodes += _u32(raw, nodes)[0] + 4
        buffers = header + _u16(raw, vtable + 8)[0]
        buffers += _u32(raw, buffers)[0] + 4
        node_count, buffer_count = _u32(raw, nodes - 4)[0], _u32(raw, buffers - 4)[0]
        if slots > 10 and _u16(raw, vtable + 10)[0]:
            raise UnknownChunkError("compressed Arrow buffers")
    except (struct.error, IndexError):
        raise BadChunkError("a record batch's header is damaged") from None
    if min(table, header, nodes, buffers) < at or nodes + 16 * node_count > body or buffers + 16 * buffer_count > body:
        raise BadChunkError("a record batch's header is damaged")
    if rows < 0 or body_length < 0:
        raise BadChunkError("a record batch of a negative length")
    return RecordBatch(rows, nodes, node_count, buffers, buffer_count, body, body + body_length)

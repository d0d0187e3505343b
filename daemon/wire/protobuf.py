"""Protobuf's wire format, as much of it as Rerun's messages need. Sans-IO.

    message = field*        field = tag varint · value        tag = field number << 3 | wire type
    wire types: 0 varint, 1 eight bytes LE, 2 length varint + that many bytes, 5 four bytes LE

Rules: a length is compared with what is there before anything is sliced; slices of a memoryview are not copied; no
schema is known here, so whoever asks must check field numbers and wire types.
Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

VARINT = 0
FIXED64 = 1
LENGTH_DELIMITED = 2
FIXED32 = 5

MAX_VARINT_BYTES = 10
"""64 bits, seven a byte."""

Buffer: TypeAlias = bytes | memoryview
Value: TypeAlias = int | bytes | memoryview


def uvarint(buf: Buffer, i: int) -> tuple[int, int]:
    """Read an unsigned varint.

    Args:
        buf: Where to read.
        i: Index of its first byte.

    Returns:
        Its value (below 2**64) and the index after it.

    Raises:
        ValueError: the bytes end inside it, or it is longer than 64 bits.
    """
    value = shift = 0
    try:
        while True:
            byte = buf[i]
            i += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift >= 7 * MAX_VARINT_BYTES:
                raise ValueError("a varint of more than ten bytes")
    except IndexError:
        raise ValueError("the message ends inside a varint") from None
    if value >> 64:
        raise ValueError("a varint of more than 64 bits")
    return value, i


def fields(buf: Buffer, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, Value]]:
    """Walk the fields of a message, in the order in which they stand.

    Args:
        buf: Holds the message.
        start: Index of its first byte.
        end: Index after its last byte; by default the buffer's end.

    Yields:
        Field number, wire type and value: an int for varints, else a slice of `buf` (of the same type as `buf`).

    Raises:
        ValueError: the message is truncated, or has a wire type or a field number that does not exist.
    """
    if end is None:
        end = len(buf)
    i = start
    while i < end:
        tag, i = uvarint(buf, i)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field numbered 0")
        value: Value
        if wire_type == VARINT:
            value, i = uvarint(buf, i)
            if i > end:
                raise ValueError("the message ends inside a varint")
            yield number, wire_type, value
            continue
        if wire_type == LENGTH_DELIMITED:
            size, i = uvarint(buf, i)
        elif wire_type == FIXED64:
            size = 8
        elif wire_type == FIXED32:
            size = 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if size > end - i:
            raise ValueError(f"the message ends inside field {number}")
        yield number, wire_type, buf[i : i + size]
        i += size


def encode_uvarint(value: int) -> bytes:
    """The bytes of an unsigned varint.

    Raises:
        ValueError: negative, or of more than 64 bits.
    """
    if value < 0 or value >> 64:
        raise ValueError(f"not an unsigned 64-bit number: {value}")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def length_delimited(field: int, payload: Buffer) -> bytes:
    """A field that holds bytes, text or a message."""
    return b"".join((encode_uvarint(field << 3 | LENGTH_DELIMITED), encode_uvarint(len(payload)), payload))


def varint_field(field: int, value: int) -> bytes:
    """A field that holds a number. Zero is not written, as proto3 has it."""
    return encode_uvarint(field << 3) + encode_uvarint(value) if value else b""

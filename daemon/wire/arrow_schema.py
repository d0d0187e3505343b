"""Arrow IPC schema messages, byte for byte as arrow-rs writes them. Sans-IO.

A footer carries the SHA-256 of its store's schema message (`sorbet_schema_sha256`), so that message has to come out
exactly as Rerun's own writer would have it: the same order of tables, strings and vectors in the flatbuffer, metadata
sorted by key, padding to 64 bytes.

    message = FF FF FF FF · length i32 LE · Message flatbuffer · zeros up to a multiple of 64

Rules: the order in which a table's slots are added is part of the format here, for it decides the layout; defaults are
left out, as both flatbuffers libraries do; a type that arrow-rs cannot write like this raises UnsupportedTypeError.
Source: arrow-ipc/src/convert.rs and writer.rs of arrow-rs 58, and Schema.fbs of Arrow.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping

import flatbuffers
import pyarrow as pa
from pyarrow import types

EOS = b"\xff\xff\xff\xff\0\0\0\0"
"""End of an IPC stream: a continuation marker and a length of zero."""

ALIGNMENT = 64
"""arrow-rs pads every message to 64 bytes (IpcWriteOptions::default)."""

METADATA_V5 = 4
SCHEMA_HEADER = 1

# The members of the `Type` union in Schema.fbs.
_NULL, _INT, _FLOAT, _BINARY, _UTF8, _BOOL, _DECIMAL, _DATE, _TIME, _TIMESTAMP, _INTERVAL, _LIST, _STRUCT = range(1, 14)
_UNION, _FIXED_BINARY, _FIXED_LIST, _MAP, _DURATION, _LARGE_BINARY, _LARGE_UTF8, _LARGE_LIST = range(14, 22)
_BINARY_VIEW, _UTF8_VIEW = 23, 24

_UNITS = {"s": 0, "ms": 1, "us": 2, "ns": 3}
_PRECISIONS = {16: 0, 32: 1, 64: 2}

Slot = Callable[[], None]


class UnsupportedTypeError(ValueError):
    """A data type whose schema message is not known to come out as arrow-rs has it."""


def schema_message(schema: pa.Schema) -> bytes:
    """The encapsulated schema message of an IPC stream, without the end-of-stream marker.

    Args:
        schema: Its fields are written in their order, its own metadata too.

    Raises:
        UnsupportedTypeError: a field has a type that is not known here.
    """
    builder = flatbuffers.Builder(1024)
    fields = _offsets(builder, [_field(builder, field) for field in schema])
    metadata = _metadata(builder, schema.metadata) if schema.metadata else None
    slots: list[Slot] = [lambda: builder.PrependUOffsetTRelativeSlot(1, fields, 0)]
    if metadata is not None:
        slots.append(lambda: builder.PrependUOffsetTRelativeSlot(2, metadata, 0))
    root = _table(builder, 4, slots)
    message = _table(
        builder,
        5,
        [
            lambda: builder.PrependInt16Slot(0, METADATA_V5, 0),
            lambda: builder.PrependUint8Slot(1, SCHEMA_HEADER, 0),
            lambda: builder.PrependInt64Slot(3, 0, 0),
            lambda: builder.PrependUOffsetTRelativeSlot(2, root, 0),
        ],
    )
    builder.Finish(message)
    flatbuffer = bytes(builder.Output())
    size = (len(flatbuffer) + 8 + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    return b"\xff\xff\xff\xff" + struct.pack("<i", size - 8) + flatbuffer.ljust(size - 8, b"\0")


def sorted_schema_message(fields: Iterable[pa.Field]) -> tuple[bytes, bytes]:
    """The schema message of fields sorted by name, and its SHA-256.

    Rerun hashes the message with its fields sorted; in which order they stand in a footer means nothing (its own order
    is a hash map's), so that the message which is hashed can be the one that is written.

    Raises:
        UnsupportedTypeError: see schema_message.
    """
    message = schema_message(pa.schema(sorted(fields, key=lambda field: field.name.encode())))
    return message, hashlib.sha256(message).digest()


def _table(builder: flatbuffers.Builder, slots: int, add: Iterable[Slot]) -> int:
    builder.StartObject(slots)
    for one in add:
        one()
    return int(builder.EndObject())


def _offsets(builder: flatbuffers.Builder, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _metadata(builder: flatbuffers.Builder, metadata: Mapping[bytes, bytes]) -> int:
    pairs = []
    for key in sorted(metadata):
        name = builder.CreateString(key.decode())
        value = builder.CreateString(metadata[key].decode())
        builder.StartObject(2)
        builder.PrependUOffsetTRelativeSlot(0, name, 0)
        builder.PrependUOffsetTRelativeSlot(1, value, 0)
        pairs.append(builder.EndObject())
    return _offsets(builder, pairs)


def _field(builder: flatbuffers.Builder, field: pa.Field) -> int:
    metadata = _metadata(builder, field.metadata) if field.metadata else None
    name = builder.CreateString(field.name)
    union, table, children = _type(builder, field.type)
    builder.StartObject(7)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUint8Slot(2, union, 0)
    builder.PrependBoolSlot(1, field.nullable, False)
    builder.PrependUOffsetTRelativeSlot(5, children, 0)
    builder.PrependUOffsetTRelativeSlot(3, table, 0)
    if metadata is not None:
        builder.PrependUOffsetTRelativeSlot(6, metadata, 0)
    return int(builder.EndObject())


_EMPTY: tuple[tuple[Callable[[pa.DataType], bool], int], ...] = (
    (types.is_string, _UTF8),
    (types.is_large_string, _LARGE_UTF8),
    (types.is_binary, _BINARY),
    (types.is_large_binary, _LARGE_BINARY),
    (types.is_boolean, _BOOL),
    (types.is_null, _NULL),
    (types.is_string_view, _UTF8_VIEW),
    (types.is_binary_view, _BINARY_VIEW),
)
"""Types without parameters: a table without slots, then an empty list of children."""


def _type(b: flatbuffers.Builder, kind: pa.DataType) -> tuple[int, int, int]:
    """Member of the union, offset of its table, offset of the vector of children."""
    if types.is_nested(kind):
        return _nested(b, kind)
    if types.is_integer(kind):
        none = _offsets(b, [])  # here the children come first
        signed, bits = types.is_signed_integer(kind), kind.bit_width
        slots = [lambda: b.PrependBoolSlot(1, signed, False), lambda: b.PrependInt32Slot(0, bits, 0)]
        return _INT, _table(b, 2, slots), none
    if types.is_floating(kind):
        none = _offsets(b, [])
        return _FLOAT, _table(b, 1, [lambda: b.PrependInt16Slot(0, _PRECISIONS[kind.bit_width], 0)]), none
    for is_type, union in _EMPTY:
        if is_type(kind):
            return union, _table(b, 0, []), _offsets(b, [])
    if types.is_fixed_size_binary(kind):
        return _FIXED_BINARY, _table(b, 1, [lambda: b.PrependInt32Slot(0, kind.byte_width, 0)]), _offsets(b, [])
    if types.is_date(kind):
        unit = 0 if types.is_date32(kind) else 1
        return _DATE, _table(b, 1, [lambda: b.PrependInt16Slot(0, unit, 1)]), _offsets(b, [])
    if types.is_time(kind):
        slots = [lambda: b.PrependInt32Slot(1, kind.bit_width, 32), lambda: b.PrependInt16Slot(0, _UNITS[kind.unit], 1)]
        return _TIME, _table(b, 2, slots), _offsets(b, [])
    if types.is_timestamp(kind):
        zone = b.CreateString(kind.tz or "")  # written even when it is empty and nothing points at it
        slots = [lambda: b.PrependInt16Slot(0, _UNITS[kind.unit], 0)]
        if kind.tz:
            slots.append(lambda: b.PrependUOffsetTRelativeSlot(1, zone, 0))
        return _TIMESTAMP, _table(b, 2, slots), _offsets(b, [])
    if types.is_duration(kind):
        return _DURATION, _table(b, 1, [lambda: b.PrependInt16Slot(0, _UNITS[kind.unit], 1)]), _offsets(b, [])
    if types.is_interval(kind):
        return _INTERVAL, _table(b, 1, [lambda: b.PrependInt16Slot(0, 2, 0)]), _offsets(b, [])
    if types.is_decimal(kind):
        slots = [
            lambda: b.PrependInt32Slot(0, kind.precision, 0),
            lambda: b.PrependInt32Slot(1, kind.scale, 0),
            lambda: b.PrependInt32Slot(2, kind.bit_width, 128),
        ]
        return _DECIMAL, _table(b, 3, slots), _offsets(b, [])
    raise UnsupportedTypeError(f"data type {kind}")


def _nested(b: flatbuffers.Builder, kind: pa.DataType) -> tuple[int, int, int]:
    if types.is_list(kind) or types.is_large_list(kind):
        child = _field(b, kind.value_field)
        return _LIST if types.is_list(kind) else _LARGE_LIST, _table(b, 0, []), _offsets(b, [child])
    if types.is_fixed_size_list(kind):
        child = _field(b, kind.value_field)
        return _FIXED_LIST, _table(b, 1, [lambda: b.PrependInt32Slot(0, kind.list_size, 0)]), _offsets(b, [child])
    if types.is_map(kind):
        child = _field(b, kind.field(0))
        keys_sorted = kind.keys_sorted
        return _MAP, _table(b, 1, [lambda: b.PrependBoolSlot(0, keys_sorted, False)]), _offsets(b, [child])
    if types.is_struct(kind):
        children = [_field(b, kind.field(i)) for i in range(kind.num_fields)]
        return _STRUCT, _table(b, 0, []), _offsets(b, children)
    if types.is_union(kind):
        children = [_field(b, kind.field(i)) for i in range(kind.num_fields)]
        b.StartVector(4, len(kind.type_codes), 4)
        for code in reversed(kind.type_codes):
            b.PrependInt32(code)
        codes = b.EndVector()
        mode = 0 if kind.mode == "sparse" else 1
        slots = [lambda: b.PrependInt16Slot(0, mode, 0), lambda: b.PrependUOffsetTRelativeSlot(1, codes, 0)]
        return _UNION, _table(b, 2, slots), _offsets(b, children)
    raise UnsupportedTypeError(f"data type {kind}")

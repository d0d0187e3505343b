"""Schema messages: byte for byte arrow-rs's, and readable by another implementation."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest

from daemon.wire import protobuf
from daemon.wire.arrow_schema import ALIGNMENT, EOS, UnsupportedTypeError, schema_message, sorted_schema_message
from daemon.wire.rrd import TAIL_SIZE, parse_tail
from tests.helpers.chunks import SAMPLES
from tests.helpers.footers import footer_of

TYPES = [
    pa.null(), pa.bool_(), pa.int8(), pa.uint16(), pa.int32(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(),
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(7),
    pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"), pa.timestamp("s"),
    pa.timestamp("ns"), pa.timestamp("us", "Europe/Stockholm"), pa.duration("ms"), pa.duration("ns"),
    pa.month_day_nano_interval(), pa.decimal128(10, 2), pa.decimal256(40, 3), pa.list_(pa.int8()),
    pa.large_list(pa.string()), pa.list_(pa.float32(), 3), pa.map_(pa.string(), pa.int32()),
    pa.map_(pa.string(), pa.int32(), keys_sorted=True),
    pa.struct([("a", pa.int8()), pa.field("b", pa.list_(pa.string()), nullable=False)]), pa.struct([]),
    pa.dense_union([pa.field("x", pa.int8()), pa.field("y", pa.string())], [3, 5]),
    pa.sparse_union([pa.field("x", pa.int8())]),
]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_another_implementation_reads_it(kind: pa.DataType) -> None:
    fields = [pa.field("ä", kind, metadata={"b": "2", "a": ""}), pa.field("n", kind, nullable=pa.types.is_null(kind))]
    schema = pa.schema(fields, metadata={"k": "v"})
    message = schema_message(schema)
    assert len(message) % ALIGNMENT == 0
    found = pa.ipc.read_schema(pa.py_buffer(message))
    assert found.equals(schema, check_metadata=True)
    assert pa.ipc.open_stream(pa.py_buffer(message + EOS)).schema.equals(schema, check_metadata=True)


@pytest.mark.parametrize("version", ["0.31.4", "0.36.3", "0.41.0"])
def test_the_same_bytes_as_the_sdk(version: str) -> None:
    data = SAMPLES[version].read_bytes()
    tail = parse_tail(data[-TAIL_SIZE:])
    assert tail is not None
    (manifest,) = footer_of(data)
    raw = next(value for n, _, value in protobuf.fields(data[tail.start : tail.start + tail.length]) if n == 1)
    part = next(value for n, _, value in protobuf.fields(raw) if n == 2)
    theirs = next(bytes(value) for n, _, value in protobuf.fields(part) if n == 1)
    assert theirs == schema_message(manifest.schema) + EOS
    message, digest = sorted_schema_message(reversed(list(manifest.schema)))
    assert digest == manifest.sha256 == hashlib.sha256(message).digest()


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int8(), pa.string()), pa.run_end_encoded(pa.int32(), pa.int8())])
def test_unknown_types_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(UnsupportedTypeError):
        schema_message(pa.schema([pa.field("x", kind)]))

"""Frames made by hand, for what no SDK would send."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lz4.block
import pyarrow as pa

from daemon.wire.protobuf import length_delimited, varint_field
from daemon.wire.rrd import ENCODING_PROTOBUF, Kind, StreamHeader, frame_header

SAMPLES = {path.stem: path for path in sorted((Path(__file__).parent.parent / "data" / "rrd").glob("*.rrd"))}
"""One small recording of each SDK: tests/helpers/logger.py made them."""

HEADER = StreamHeader((0, 41, 0, 0), 1, ENCODING_PROTOBUF).encode()


def store_id(recording: str = "rec", application: str | None = "app", kind: int = 1) -> bytes:
    end = b"" if application is None else length_delimited(3, length_delimited(1, application.encode()))
    return varint_field(1, kind) + length_delimited(2, recording.encode()) + end


def tuid(number: int) -> bytes:
    return b"\x09" + struct.pack("<Q", 0x1800 + number) + b"\x11" + struct.pack("<Q", number)


def chunk_name(number: int) -> str:
    return f"chunk_{0x1800 + number:016X}{number:016x}"


def store_info(store: bytes | None = None, application: str | None = None, version: int = 0x2900) -> bytes:
    """A SetStoreInfo payload. `application` is where SDK 0.23 has it."""
    info = length_delimited(1, length_delimited(1, application.encode())) if application is not None else b""
    info += length_delimited(2, store_id() if store is None else store)
    info += length_delimited(6, varint_field(1, version))
    return length_delimited(1, tuid(1)) + length_delimited(2, info)


def batch(
    number: int,
    *,
    entity: str = "/e",
    times: Mapping[str, pa.Array] | None = None,
    components: Mapping[str, pa.Array] | None = None,
    rows: int | None = None,
    metadata: Mapping[str, str] | None = None,
    is_sorted: bool = True,
) -> pa.RecordBatch:
    """A chunk's record batch, as SDK 0.41 has them; by default one row of one number on timeline `frame`."""
    times = {"frame": pa.array([number])} if times is None else times
    components = {"Scalars:scalars": pa.array([[float(number)]])} if components is None else components
    if rows is None:
        rows = next((len(a) for a in (*times.values(), *components.values())), 0)
    ids = pa.array([struct.pack(">QQ", 1, i) for i in range(rows)], pa.binary(16))
    fields = [pa.field("rerun.controls.RowId", pa.binary(16), False, {"rerun:kind": "control"})]
    arrays: list[pa.Array] = [ids]
    for name, array in times.items():
        text = "true" if is_sorted else "false"
        known = {"rerun:kind": "index", "rerun:index_name": name, "rerun:is_sorted": text}
        fields.append(pa.field(name, array.type, metadata=known))
        arrays.append(array)
    for name, array in components.items():
        known = {"rerun:kind": "data", "rerun:component": name}
        if ":" in name:
            known["rerun:archetype"] = "rerun.archetypes." + name.split(":")[0]
        fields.append(pa.field(name, array.type, metadata=known))
        arrays.append(array)
    top = {"rerun:entity_path": entity, "rerun:id": chunk_name(number), "sorbet:version": "0.1.4", **(metadata or {})}
    return pa.record_batch(arrays, schema=pa.schema(fields, metadata=top))


def ipc(*batches: pa.RecordBatch, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for one in batches:
            writer.write_batch(one)
    return sink.getvalue().to_pybytes()


def arrow_msg(
    data: bytes, number: int, *, store: bytes | None = None, compress: bool = True, with_id: bool = True
) -> bytes:
    """An ArrowMsg payload around an IPC stream."""
    body = lz4.block.compress(data, store_size=False) if compress else data
    parts = [length_delimited(1, store_id() if store is None else store), varint_field(2, 2 if compress else 1)]
    parts += [varint_field(3, len(data)), varint_field(4, 1), length_delimited(5, body)]
    if with_id:
        parts += [length_delimited(6, tuid(number))]
    return b"".join(parts)


def chunk(number: int, *, store: bytes | None = None, compress: bool = True, **options: Any) -> bytes:
    """An ArrowMsg payload; see `batch` for the options."""
    return arrow_msg(ipc(batch(number, **options)), number, store=store, compress=compress)


def frame(kind: int, payload: bytes) -> bytes:
    return frame_header(kind, len(payload)) + payload


def stream(chunks: Sequence[bytes], *, infos: Sequence[bytes] | None = None, header: bytes = HEADER) -> bytes:
    """A stream without an end: header, store infos, chunks."""
    first = [frame(Kind.STORE_INFO, info) for info in ([store_info()] if infos is None else infos)]
    return b"".join([header, *first, *(frame(Kind.ARROW, one) for one in chunks)])

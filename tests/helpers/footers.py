"""Comparing footers, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from daemon.wire.footer import FooterBuilder, Manifest, parse_footer
from daemon.wire.rrd import FRAME_HEADER_SIZE, HEADER_SIZE, TAIL_SIZE, Kind, parse_frame_header, parse_tail


def frames(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind, place and length of the payloads of one stream, its End included."""
    at = HEADER_SIZE
    while at < len(data):
        kind, length = parse_frame_header(data, at, at)
        yield kind, at + FRAME_HEADER_SIZE, length
        at += FRAME_HEADER_SIZE + length
        if kind == Kind.END:
            return


def footer_of(data: bytes) -> list[Manifest]:
    """The manifests that the tail of a file leads to."""
    tail = parse_tail(data[-TAIL_SIZE:])
    assert tail is not None, "no tail"
    assert tail.start + tail.length + TAIL_SIZE == len(data)
    return parse_footer(data[tail.start : tail.start + tail.length])


def rebuilt(data: bytes, *, check: bool = False) -> tuple[int, bytes]:
    """Where the frames of a stream end, and what our builder would have there."""
    builder = FooterBuilder()
    end = HEADER_SIZE
    for kind, start, length in frames(data):
        if kind == Kind.END:
            break
        payload = data[start : start + length]
        if kind == Kind.STORE_INFO:
            builder.add_store_info(payload)
        elif kind == Kind.ARROW:
            builder.add(payload, start, check=check)
        end = start + length
    return end, builder.finish(end)


def _values(column: pa.ChunkedArray) -> list[object]:
    if pa.types.is_timestamp(column.type) or pa.types.is_duration(column.type):
        column = column.cast(pa.int64())
    values: list[object] = column.to_pylist()
    return values


def _by_chunk(table: pa.Table) -> pa.Table:
    return table.take(pc.sort_indices(table["chunk_id"].cast(pa.binary())))


def compare_footers(left: list[Manifest], right: list[Manifest], *, bytes_too: bool = True) -> list[str]:
    """All differences between two footers, in words; an empty list if they say the same.

    Args:
        bytes_too: Compare where chunks stand and how long they are; off, chunks are matched by their ids instead of
            their order, for files that hold the same chunks differently.
    """
    found: list[str] = []
    lefts, rights = {m.store: m for m in left}, {m.store: m for m in right}
    if len(lefts) != len(left) or len(rights) != len(right):
        found.append("two manifests of one store")
    if lefts.keys() != rights.keys():
        found.append(f"stores: {sorted(lefts)} != {sorted(rights)}")
    for store in sorted(lefts.keys() & rights.keys()):
        found += [f"{store.recording_id}: {text}" for text in _compare(lefts[store], rights[store], bytes_too)]
    return found


def _compare(left: Manifest, right: Manifest, bytes_too: bool) -> Iterator[str]:
    fields_left = {f.name: (f.type, f.nullable, f.metadata) for f in left.schema}
    fields_right = {f.name: (f.type, f.nullable, f.metadata) for f in right.schema}
    if len(fields_left) != len(left.schema) or len(fields_right) != len(right.schema):
        yield "two columns of one name in the schema"
    for name in sorted(fields_left.keys() | fields_right.keys()):
        if fields_left.get(name) != fields_right.get(name):
            yield f"schema field {name}: {fields_left.get(name)} != {fields_right.get(name)}"
    if left.sha256 != right.sha256:
        yield f"sha256: {left.sha256.hex()} != {right.sha256.hex()}"
    a, b = left.data, right.data
    if not bytes_too:
        a, b = _by_chunk(a), _by_chunk(b)
    if a.schema.names != b.schema.names:
        names, others = a.schema.names, b.schema.names
        yield f"columns: {[n for n in names if n not in others]} != {[n for n in others if n not in names]}"
        return
    for i, name in enumerate(a.schema.names):
        if not bytes_too and name.startswith("chunk_byte_"):
            continue
        f, g = a.schema.field(i), b.schema.field(i)
        if (f.type, f.nullable, f.metadata) != (g.type, g.nullable, g.metadata):
            yield f"field {name}: {f} {f.metadata} != {g} {g.metadata}"
        elif not a.column(i).equals(b.column(i)):
            pairs = list(zip(_values(a.column(i)), _values(b.column(i)), strict=False))
            different = [(n, *pair) for n, pair in enumerate(pairs) if pair[0] != pair[1]]
            yield f"column {name}: {len(a)} and {len(b)} rows, {different[:4]}"


def compare_files(left: Path, right: Path, *, bytes_too: bool = True) -> list[str]:
    """compare_footers for two files."""
    return compare_footers(footer_of(left.read_bytes()), footer_of(right.read_bytes()), bytes_too=bytes_too)

"""The footer of an .rrd: an index of its chunks, built from the frames as they pass. Sans-IO.

    End frame  = header · RrdFooter{1: RrdManifest}*        then the tail (daemon/wire/rrd.py)
    RrdManifest{1: StoreId, 2: Schema{1: IPC schema · EOS}, 3: sha256 of that schema, 4: DataframePart}
    DataframePart{1: encoder (1: IPC), 2: data, 3: compression (2: LZ4), 4: uncompressed size}

One manifest per store that has a chunk. Its dataframe has a row a chunk, in the order of the file, and these columns:

    chunk_entity_path · chunk_id · chunk_is_static · chunk_num_rows · chunk_byte_offset · _size · _size_uncompressed
    <component>:has_static_data                 of every descriptor, sorted
    <timeline>:start, :end                      of every timeline, sorted
    <timeline>:<component>:start, :end, :num_rows       of every pair that occurs, sorted

Rules:
- Equal, field by field, to what Rerun's own encoder writes for the same frames; or none at all. Never a partial one:
  readers believe a footer, and show nothing of a chunk that is not in it.
- About 100 bytes are held for a chunk. The dataframe is dense, chunks times columns; above MAX_CELLS there is none.
- A chunk costs microseconds: its schema is recognised by its bytes, counts come from the record batch's header, and
  only times and validity bitmaps are read (daemon/wire/chunk.py).
- A damaged chunk raises and leaves the builder as it was.

Source: re_log_encoding/src/rrd/footer/builders.rs, raw_rrd_manifest.rs and rrd/encoder.rs, re_chunk/src/chunk.rs and
re_sorbet/src/schema_builder.rs of Rerun 0.36; compared with the footers that SDK 0.36 and 0.41 write.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import lz4.block
import numpy as np
import pyarrow as pa
import xxhash

from daemon.wire.arrow_schema import EOS, UnsupportedTypeError, sorted_schema_message
from daemon.wire.chunk import (
    BadChunkError,
    Buffer,
    Ipc,
    NeedMore,
    RecordBatch,
    Scratch,
    parse_arrow_msg,
    parse_record_batch,
    record_batch_body,
    schema_end,
)
from daemon.wire.logmsg import BLUEPRINT, StoreId, parse_store_id, parse_store_info
from daemon.wire.protobuf import fields, length_delimited, varint_field
from daemon.wire.rrd import FOOTER_CRC_SEED, FRAME_HEADER_SIZE, Kind, Tail, frame_header
from daemon.wire.sorbet import (
    CLEAR_IS_RECURSIVE,
    ChunkSchema,
    Descriptor,
    UnknownChunkError,
    UnsupportedChunkError,
    column_name,
    parse_chunk_schema,
)

MAX_CELLS = 50_000_000
"""Cells of all dataframes together: 400 MB of numbers, which every reader would have to hold as well."""

MAX_PLANS = 64
"""Record batch headers remembered for a schema. Chunks of one size repeat one; of varying sizes, none would repeat."""

STATIC = -(2**63)
"""The time of what has none; null in the dataframe."""
TIME_MIN = STATIC + 1
TIME_MAX = 2**63 - 1

LOG_TIME = "log_time"
"""Timeline that the SDK itself adds: nanoseconds since 1970."""

_qq = struct.Struct("<qq").unpack_from
_q = struct.Struct("<q").unpack_from

Range = tuple[int, int]

_ROW_ID = pa.field(
    "rerun.controls.RowId",
    pa.binary(16),
    nullable=False,
    metadata={
        "rerun:kind": "control",
        "ARROW:extension:name": "rerun.datatypes.TUID",
        "ARROW:extension:metadata": '{"namespace":"row"}',
    },
)

_PART_IPC, _PART_LZ4, _PART_PLAIN = 1, 2, 1
_LZ4_LIMIT = 0x7E000000
"""LZ4_MAX_INPUT_SIZE."""


class NoFooterError(Exception):
    """No footer can be made for these frames. The message says why, in a sentence that goes on after "no footer: "."""


def footer_is_trustworthy(version: Sequence[int], kinds: set[int]) -> bool:
    """Whether a footer that an SDK wrote may be believed.

    Args:
        version: The SDK's (major, minor, patch).
        kinds: Kinds of the stores in the file (daemon.wire.logmsg.RECORDING, BLUEPRINT).

    Returns:
        False for SDK 0.28.2 to 0.31.4 where a recording and a blueprint share a file: those are wrong (measured).
    """
    return not ((0, 28, 0) <= tuple(version[:3]) < (0, 32, 0) and BLUEPRINT in kinds and len(kinds) > 1)


# -- collecting --------------------------------------------------------------------------------------------------------


class _Sparse(NamedTuple):
    """A component of one chunk that is not there in every row: in how many it is, and its range on each timeline."""

    rows: int
    ranges: tuple[Range, ...]


class _Plan(NamedTuple):
    """What the header of a record batch tells, with its template. Chunks of equal headers share it."""

    rows: int
    end: int
    """Where the record batch ends, its body included. Places are in the IPC stream, as everywhere here."""
    times_end: int
    times: tuple[tuple[int, bool], ...]
    """Where the times of each timeline are, and whether they are sorted."""
    filled: tuple[int, ...]
    """Components that have a value."""
    sparse: tuple[tuple[int, int, int], ...]
    """Components that are not there in every row: index, rows that they are in, and where their validity bitmap is."""
    offsets: tuple[tuple[int, int, bytes], ...] | None
    """Where the offsets of its lists are, and what they must be: chunks of one row of numbers are sound if they are
    just that, and need not be decoded. None: not such a chunk."""

    @classmethod
    def of(cls, ipc: Ipc, at: int, template: _Template) -> _Plan:
        """Read the header that starts at `at`.

        Raises:
            BadChunkError, NeedMore, UnknownChunkError: see parse_record_batch.
        """
        batch, schema = parse_record_batch(ipc, at), template.schema
        if batch.node_count != schema.nodes or batch.buffer_count != schema.buffers:
            raise BadChunkError("a record batch that does not fit its schema")
        raw, rows, nodes, body = ipc.raw, batch.rows, batch.nodes, batch.body
        times = []
        for time in schema.times:
            if _qq(raw, nodes + 16 * time.node) != (rows, 0):
                raise BadChunkError("a timeline that is longer or shorter than its chunk, or has gaps")
            times.append((body + _place(raw, batch.buffers + 16 * (time.buffer + 1), 8 * rows), time.sorted))
        filled, sparse = [], []
        for i, component in enumerate(schema.components):
            length, nulls = _qq(raw, nodes + 16 * component.node)
            if length != rows or not 0 <= nulls <= length:
                raise BadChunkError("a column that is longer or shorter than its chunk")
            if _q(raw, nodes + 16 * component.node + 16)[0]:
                filled.append(i)
            if nulls and schema.times:
                place = -1
                if nulls < length:
                    place = body + _place(raw, batch.buffers + 16 * component.buffer, (rows + 7) // 8)
                sparse.append((i, length - nulls, place))
        times_end = max((place for place, _ in times), default=body) + 8 * rows
        offsets = cls._offsets(raw, batch, schema) if rows == 1 and not sparse else None
        return cls(rows, batch.end, times_end if times else body, tuple(times), tuple(filled), tuple(sparse), offsets)

    def is_sound(self, raw: Buffer) -> bool:
        """Whether a chunk can be told to be sound without decoding it, given that another one with this header was."""
        if self.offsets is None or raw[self.end :] != EOS:
            return False
        return all(raw[start:end] == wanted for start, end, wanted in self.offsets)

    @staticmethod
    def _offsets(raw: Buffer, batch: RecordBatch, schema: ChunkSchema) -> tuple[tuple[int, int, bytes], ...] | None:
        found = []
        for component in schema.components:
            if not component.is_plain:
                return None
            values = _q(raw, batch.nodes + 16 * (component.node + 1))[0]
            place = batch.body + _place(raw, batch.buffers + 16 * (component.buffer + 1), 8)
            found.append((place, place + 8, struct.pack("<ii", 0, values)))
        return tuple(found)


def _place(raw: Buffer, entry: int, needed: int) -> int:
    """Where a buffer is in its record batch's body."""
    place, length = _qq(raw, entry)
    if place < 0 or length < needed:
        raise BadChunkError("a buffer that is shorter than its column")
    return int(place)


class _Template:
    """Chunks that have the same schema: nearly all chunks of an entity. What differs is held in arrays."""

    __slots__ = ("arrow", "empty", "ends", "log_time", "plans", "rows", "schema", "sparse", "starts")

    def __init__(self, arrow: pa.Schema, schema: ChunkSchema) -> None:
        self.arrow = arrow
        self.schema = schema
        self.plans: dict[bytes, _Plan] = {}
        self.rows = array("I")
        """Their rows in the store's dataframe."""
        self.starts = [array("q") for _ in schema.times]
        self.ends = [array("q") for _ in schema.times]
        self.sparse: list[tuple[int, dict[int, _Sparse]]] = []
        """Index in `rows`, and the components that are sparse there."""
        self.empty = [True] * len(schema.components)
        """No chunk has had a value of that component so far."""
        names = [time.name for time in schema.times]
        self.log_time = names.index(LOG_TIME) if LOG_TIME in names else -1


class _Store:
    """One manifest under construction."""

    __slots__ = (
        "columns", "ids", "known", "offsets", "raw_id", "row_counts", "seen", "sizes", "templates", "uncompressed"
    )  # fmt: skip

    def __init__(self, raw_id: bytes) -> None:
        self.raw_id = raw_id
        self.templates: list[_Template] = []
        self.ids = bytearray()
        self.known: set[bytes] = set()
        """The same ids again, to look them up; only where a chunk is to be taken once."""
        self.offsets, self.sizes, self.uncompressed, self.row_counts = array("Q"), array("Q"), array("Q"), array("Q")
        self.seen: set[Any] = set()
        self.columns = 7

    def more_columns(self, schema: ChunkSchema) -> int:
        """How many columns the dataframe gets in addition when a chunk of this schema comes in."""
        names: set[Any] = set()
        more = 0
        for component in schema.components:
            names.add(component.descriptor)
        for time in schema.times:
            names.add(time.name)
            names.update((time.name, component.descriptor) for component in schema.components)
        for name in names - self.seen:
            more += 1 if isinstance(name, Descriptor) else 2 if isinstance(name, str) else 3
        self.seen |= names
        return more


@dataclass(slots=True)
class StoreSummary:
    """What the chunks of one store add up to. Ranges are nanoseconds, or numbers on a sequence timeline."""

    store: StoreId
    chunks: int
    rows: int
    bytes: int
    uncompressed_bytes: int
    entities: dict[str, int] = field(default_factory=dict)
    """Entity path to number of rows."""
    static_chunks: int = 0
    timelines: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """Name to (Arrow type, start, end)."""


_VARIABLE_VALUES = (b"rerun:id", b"rerun.id")
_VARIABLE_PREFIXES = (b"rerun:timestamp_", b"rerun:heap_size_bytes", b"rerun.heap_size_bytes")


class FooterBuilder:
    """Collects chunks and makes their footer.

        builder = FooterBuilder()
        builder.add_store_info(payload)                 # of every SetStoreInfo frame
        builder.add(payload, payload_offset)            # of every ArrowMsg frame
        file.write(builder.finish(end_of_the_last_frame))

    Args:
        max_cells: See MAX_CELLS.
        beyond: Go on collecting above it, for the summaries; there will be no footer all the same.
        once: Refuse a chunk whose id was there before. The set of ids costs another 100 bytes a chunk.
    """

    def __init__(self, *, max_cells: int = MAX_CELLS, beyond: bool = False, once: bool = False) -> None:
        self.problem = ""
        """Why there will be no footer; empty as long as there can be one."""
        self.lacks_ids = False
        """There was a message without its chunk's id, as SDK 0.23 writes them: see with_chunk_id."""
        self.newer_sdk = False
        """The stream is of an SDK that came after this program: it may write what is unknown here."""
        self._max_cells = max_cells
        self._beyond = beyond
        self._once = once
        self._cells = 0
        self._is_over = False
        self._stores: dict[StoreId, _Store] = {}
        self._by_raw_id: dict[bytes, _Store] = {}
        self._applications: dict[tuple[int, str], str] = {}
        self._templates: dict[tuple[bytes, ...], _Template] = {}
        self._layouts: dict[int, list[_Layout]] = {}
        self._last: _Template | None = None
        self._scratch = Scratch()

    @property
    def chunks(self) -> int:
        """Chunks taken so far."""
        return sum(len(store.offsets) for store in self._stores.values())

    @property
    def log_time(self) -> Range | None:
        """First and last log time of the chunk that was taken last, in nanoseconds since 1970; None if it has none."""
        last = self._last
        if last is None or last.log_time < 0:
            return None
        return last.starts[last.log_time][-1], last.ends[last.log_time][-1]

    def add_store_info(self, payload: Buffer) -> None:
        """Take note of a SetStoreInfo frame: chunks of SDK 0.23 and 0.24 do not name their application themselves.

        Raises:
            BadChunkError: it is damaged.
        """
        try:
            store = parse_store_info(payload).store
        except ValueError as error:
            raise BadChunkError(f"a damaged store info: {error}") from None
        if store.application_id:
            self._applications[store.kind, store.recording_id] = store.application_id

    def add(self, payload: Buffer, offset: int, *, size: int | None = None, check: bool = False) -> bool:
        """Take the next ArrowMsg frame.

        Args:
            payload: The frame without its 16-byte header.
            offset: Where in the file that payload starts.
            size: Its length, where `payload` is only a beginning of it.
            check: Decode it completely, so that damage is found wherever it can be. A message must have its chunk id
                then (see with_chunk_id for those of SDK 0.23), and what no known SDK writes is damage, too.

        Returns:
            False: it was there before, and was not taken; only if that was asked for (`once`).

        Raises:
            BadChunkError: it is damaged; as if it had not been given.
            NeedMore: `payload` must be longer; as if it had not been given.
        """
        try:
            return self._add(payload, offset, len(payload) if size is None else size, check)
        except UnsupportedChunkError as error:
            if check and isinstance(error, UnknownChunkError) and not self.newer_sdk:
                raise BadChunkError(str(error)) from None
            self.problem = self.problem or f"there is {error}"
            return True
        except (IndexError, struct.error, KeyError, OverflowError, OSError, pa.ArrowException) as error:
            raise BadChunkError(f"damaged ({(str(error).splitlines() or ['?'])[0]})") from None
        except ValueError as error:
            if isinstance(error, BadChunkError):
                raise
            raise BadChunkError(f"damaged ({error})") from None

    def _add(self, payload: Buffer, offset: int, size: int, check: bool) -> bool:
        msg = parse_arrow_msg(payload, size)
        ipc = Ipc(payload, msg, check, self._scratch)
        end = schema_end(ipc)
        head = bytes(ipc.upto(end)[:end])
        template, identity, is_new = self._template(msg.store, head)
        if msg.chunk_id != identity and (check or msg.chunk_id is not None):
            raise BadChunkError("a chunk of two ids, or without one")
        self.lacks_ids |= msg.chunk_id is None and len(payload) == size
        if self._once and (seen := self._by_raw_id.get(msg.store)) is not None and identity in seen.known:
            return False
        body = record_batch_body(ipc, end)
        header = bytes(ipc.raw[end:body])
        plan = template.plans.get(header)
        is_known = plan is not None
        if plan is None:
            plan = _Plan.of(ipc, end, template)
        if check and not (is_known and plan.is_sound(ipc.raw)):
            _check(ipc.raw, end, plan, template)
        rows = plan.rows
        raw = ipc.raw if len(ipc.raw) >= plan.times_end else ipc.upto(plan.times_end)
        if rows == 1:
            ranges = [(time, time) for place, _ in plan.times for time in _q(raw, place)]
        else:
            ranges = [_time_range(raw, place, rows, is_sorted) for place, is_sorted in plan.times]
        sparse = _sparse(ipc, plan) if plan.sparse else None
        if self._is_over or (not template.schema.components and template.schema.version <= "0.1.0"):
            # Chunks of indicators alone, as old SDKs sent them: readers drop the column, and then the chunk.
            self._last = None
            return True
        if is_new is not None:
            self._remember(msg.store, head, template, is_new)
        # From here on nothing fails any more.
        store = self._by_raw_id[msg.store]
        self._last = template
        self._cells += store.columns
        if self._cells > self._max_cells:
            self.problem = self.problem or f"its index would have more than {self._max_cells:,} cells"
            if not self._beyond:
                self._give_up()
                return True
        if not is_known:
            if len(template.plans) >= MAX_PLANS:
                template.plans.clear()
            template.plans[header] = plan
        for i in plan.filled:
            template.empty[i] = False
        for i, (first, last) in enumerate(ranges):
            template.starts[i].append(first if first > STATIC else TIME_MIN)
            template.ends[i].append(last if last > STATIC else TIME_MIN)
        if sparse is not None:
            template.sparse.append((len(template.rows), sparse))
        template.rows.append(len(store.offsets))
        store.ids += identity
        if self._once:
            store.known.add(identity)
        store.offsets.append(offset)
        store.sizes.append(size)
        store.uncompressed.append(msg.uncompressed_size)
        store.row_counts.append(rows)
        return True

    def _give_up(self) -> None:
        """Too many cells: from now on chunks are looked at, and nothing is kept of them."""
        self._is_over = True
        self._last = None
        for store in self._stores.values():
            store.templates.clear()
            store.ids.clear()
            store.offsets, store.sizes, store.uncompressed = array("Q"), array("Q"), array("Q")
            store.row_counts = array("Q")
        for template in self._templates.values():
            template.rows, template.sparse = array("I"), []
            template.starts = [array("q") for _ in template.starts]
            template.ends = [array("q") for _ in template.ends]

    # -- templates: schemas recognised by their bytes ------------------------------------------------------------------

    def _template(self, store: bytes, head: bytes) -> tuple[_Template, bytes, _Layout | None]:
        """The template of a schema message, the chunk's id, and, if the template is new, the message's layout."""
        for layout in self._layouts.get(len(head), ()):
            template = self._templates.get((store, *layout.constant_parts(head)))
            if template is not None:
                at = layout.chunk_id
                return template, bytes.fromhex(head[at : at + 32].decode()), None
        arrow = pa.ipc.read_schema(pa.py_buffer(head))
        schema = parse_chunk_schema(arrow)
        return _Template(arrow, schema), schema.chunk_id, _Layout.of(head, arrow.metadata)

    def _remember(self, raw_id: bytes, head: bytes, template: _Template, layout: _Layout) -> None:
        store = self._store(raw_id)
        more = store.more_columns(template.schema)
        store.columns += more
        self._cells += more * len(store.offsets)
        store.templates.append(template)
        if layout.chunk_id >= 0:
            known = self._layouts.setdefault(len(head), [])
            if layout not in known:
                known.append(layout)
            self._templates[(raw_id, *layout.constant_parts(head))] = template

    def _store(self, raw_id: bytes) -> _Store:
        store = self._by_raw_id.get(raw_id)
        if store is None:
            key = parse_store_id(raw_id)
            full = raw_id
            if not key.application_id:
                application = self._applications.get((key.kind, key.recording_id))
                if application is None:
                    raise UnsupportedChunkError(f"a chunk of recording {key.recording_id} before its store info")
                key = key._replace(application_id=application)
                full = encode_store_id(key)
            store = self._by_raw_id[raw_id] = self._stores.setdefault(key, _Store(full))
        return store

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(self, end: int) -> bytes:
        """The End frame with its footer and tail, to be written at `end`.

        Without any chunk the footer is empty, as Rerun's own encoder has it.

        Raises:
            NoFooterError: there cannot be one: see `problem`.
        """
        if self.problem:
            raise NoFooterError(self.problem)
        try:
            manifests = [_manifest(store) for store in self._stores.values() if store.offsets]
        except UnsupportedTypeError as error:
            raise NoFooterError(f"there is a component of {error}") from None
        payload = b"".join(length_delimited(1, manifest) for manifest in manifests)
        tail = Tail(end + FRAME_HEADER_SIZE, len(payload), xxhash.xxh32_intdigest(payload, FOOTER_CRC_SEED))
        return b"".join((frame_header(Kind.END, len(payload)), payload, tail.encode()))

    def summaries(self) -> Iterator[StoreSummary]:
        """What was taken, store by store. Empty once there were too many cells, unless `beyond`."""
        for key, store in self._stores.items():
            counts = np.frombuffer(store.row_counts, np.uint64)
            summary = StoreSummary(
                key, len(counts), int(counts.sum()), int(sum(store.sizes)), int(sum(store.uncompressed))
            )
            for template in store.templates:
                path = template.schema.entity_path
                rows = int(counts[np.frombuffer(template.rows, np.uint32)].sum())
                summary.entities[path] = summary.entities.get(path, 0) + rows
                summary.static_chunks += template.schema.is_static * len(template.rows)
                for i, time in enumerate(template.schema.times):
                    kind, first, last = summary.timelines.get(time.name, (str(time.type), TIME_MAX, TIME_MIN))
                    first, last = min(first, *template.starts[i]), max(last, *template.ends[i])
                    summary.timelines[time.name] = kind, first, last
            yield summary


class _Layout(NamedTuple):
    """Which bytes of a schema message differ from chunk to chunk: values of its metadata, always of the same length.

    Two messages that are equal everywhere else are the same flatbuffer, and hold those values in the same places.
    """

    parts: tuple[slice, ...]
    """What is constant."""
    chunk_id: int
    """Where the 32 digits of the chunk id are; -1: it cannot be told, so the template must not be reused."""

    def constant_parts(self, head: bytes) -> list[bytes]:
        return [head[part] for part in self.parts]

    @classmethod
    def of(cls, head: bytes, metadata: dict[bytes, bytes]) -> _Layout:
        values = {
            key: value
            for key, value in metadata.items()
            if key in _VARIABLE_VALUES or key.startswith(_VARIABLE_PREFIXES)
        }
        cuts: list[tuple[int, int]] = []
        chunk_id = -1
        for key, value in values.items():
            # As a flatbuffer string: its length before it, NUL after it. Another string can still be the same (an
            # entity named after a chunk id, say); then the place is not known and the message is read every time.
            string = struct.pack("<I", len(value)) + value + b"\0"
            found = [match.start() + 4 for match in re.finditer(re.escape(string), head)]
            if len(found) != list(values.values()).count(value):
                return cls((), -1)
            cuts += [(at, at + len(value)) for at in found]
            if key in _VARIABLE_VALUES:
                chunk_id = found[0] + len(b"chunk_")
        edges = [0, *(edge for cut in sorted(set(cuts)) for edge in cut), len(head)]
        return cls(tuple(slice(edges[i], edges[i + 1]) for i in range(0, len(edges), 2)), chunk_id)


def log_time_of(payload: Buffer, size: int) -> Range | None:
    """First and last log time of a chunk of which only a beginning is left; None if that cannot be told.

    Args:
        payload: What there is of an ArrowMsg frame.
        size: The length that it should have.
    """
    try:
        msg = parse_arrow_msg(payload, size)
        ipc = Ipc(payload, msg, salvage=True)
        end = schema_end(ipc)
        schema = parse_chunk_schema(pa.ipc.read_schema(pa.py_buffer(bytes(ipc.upto(end)[:end]))))
        batch = parse_record_batch(ipc, end)
        for time in schema.times:
            if time.name == LOG_TIME:
                place = batch.body + _qq(ipc.raw, batch.buffers + 16 * (time.buffer + 1))[0]
                return _time_range(ipc.upto(place + 8 * batch.rows), place, batch.rows, time.sorted)
    except (ValueError, NeedMore, IndexError, KeyError, OverflowError, struct.error, OSError, pa.ArrowException):
        return None
    return None


def with_chunk_id(payload: bytes) -> bytes:
    """A chunk of SDK 0.23, whose envelope does not say its id, as newer SDKs send it; others as they are.

    `rerun rrd verify` (0.41) takes that id for granted where there is a footer, and panics.

    Raises:
        BadChunkError: it is damaged.
    """
    try:
        msg = parse_arrow_msg(payload, len(payload))
        if msg.chunk_id is not None:
            return payload
        ipc = Ipc(payload, msg)
        end = schema_end(ipc)
        schema = parse_chunk_schema(pa.ipc.read_schema(pa.py_buffer(bytes(ipc.upto(end)[:end]))))
    except UnsupportedChunkError:
        return payload
    except (IndexError, struct.error, KeyError, OverflowError, OSError, ValueError, pa.ArrowException) as error:
        raise BadChunkError(f"damaged ({error})") from None
    time, increment = schema.chunk_id[7::-1], schema.chunk_id[:7:-1]
    tuid = b"\x09" + time + b"\x11" + increment
    return payload + length_delimited(6, tuid) + varint_field(7, int(schema.is_static))


def _check(raw: Buffer, schema_end: int, plan: _Plan, template: _Template) -> None:
    """See that a record batch can be decoded.

    Raises:
        BadChunkError: it does not fill its payload.
        pa.ArrowException: it cannot be decoded.
    """
    if raw[plan.end :] not in (EOS, b""):
        raise BadChunkError("bytes between the record batch and the end of its payload")
    batch = pa.ipc.read_record_batch(pa.py_buffer(raw)[schema_end : plan.end], template.arrow)
    batch.validate(full=True)


def _time_range(raw: Buffer, place: int, rows: int, is_sorted: bool) -> Range:
    if rows == 0:
        return TIME_MIN, TIME_MAX  # what TimeColumn::new makes of an empty column
    if is_sorted:
        first, last = _q(raw, place)[0], _q(raw, place + 8 * (rows - 1))[0]
    else:
        times = np.frombuffer(raw, "<i8", rows, place)
        first, last = int(times.min()), int(times.max())
    return first, last


def _sparse(ipc: Ipc, plan: _Plan) -> dict[int, _Sparse]:
    found = {}
    for i, count, bitmap in plan.sparse:
        if bitmap < 0:
            found[i] = _Sparse(0, ((STATIC, STATIC),) * len(plan.times))
            continue
        raw = ipc.upto(bitmap + (plan.rows + 7) // 8)
        bits = np.frombuffer(raw, np.uint8, (plan.rows + 7) // 8, bitmap)
        valid = np.unpackbits(bits, bitorder="little", count=plan.rows).view(bool)
        if not valid.any():
            raise BadChunkError("a validity bitmap that does not fit its null count")
        ranges = []
        for place, _ in plan.times:
            times = np.frombuffer(raw, "<i8", plan.rows, place)[valid]
            ranges.append((max(int(times.min()), TIME_MIN), max(int(times.max()), TIME_MIN)))
        found[i] = _Sparse(count, tuple(ranges))
    return found


# -- writing -----------------------------------------------------------------------------------------------------------


def encode_store_id(store: StoreId) -> bytes:
    """A StoreId message."""
    recording = length_delimited(2, store.recording_id.encode())
    application = length_delimited(3, length_delimited(1, store.application_id.encode()))
    return varint_field(1, store.kind) + recording + application


def _manifest(store: _Store) -> bytes:
    schema, digest = sorted_schema_message(_sorbet_fields(store))
    batch = _dataframe(store)
    buffer = pa.allocate_buffer(_ipc_size(batch))
    with pa.ipc.new_stream(pa.FixedSizeBufferWriter(buffer), batch.schema) as writer:
        writer.write_batch(batch)
    size = buffer.size
    del batch
    if size < _LZ4_LIMIT:
        data = length_delimited(2, lz4.block.compress(buffer, store_size=False))
        data += varint_field(3, _PART_LZ4) + varint_field(4, size)
    else:
        data = length_delimited(2, memoryview(buffer)) + varint_field(3, _PART_PLAIN)
    return b"".join(
        (
            length_delimited(1, store.raw_id),
            length_delimited(2, length_delimited(1, schema + EOS)),
            length_delimited(3, digest),
            length_delimited(4, varint_field(1, _PART_IPC) + data),
        )
    )


def _ipc_size(batch: pa.RecordBatch) -> int:
    """Length of an IPC stream of one batch, so that it is written where it stays."""
    counter = pa.MockOutputStream()
    with pa.ipc.new_stream(counter, batch.schema) as writer:
        writer.write_batch(batch)
    return int(counter.size())


def _sorbet_fields(store: _Store) -> list[pa.Field]:
    """The store's columns as a dataframe query would show them (re_sorbet's SchemaBuilder)."""
    times: dict[str, pa.DataType] = {}
    columns: dict[str, _SorbetColumn] = {}
    # The first chunk with a column says what it is, and templates are in the order of their first chunks.
    for template in store.templates:
        schema = template.schema
        for time in schema.times:
            if time.name not in columns:
                times.setdefault(time.name, time.type)
        for component, empty in zip(schema.components, template.empty, strict=True):
            name = f"{schema.column_prefix}:{component.descriptor.component}"
            if name in times:
                continue
            column = columns.get(name)
            if column is None:
                column = _SorbetColumn(component.descriptor, component.type, schema.entity_path)
                columns[name] = column
            column.is_static |= schema.is_static
            column.is_empty &= empty
    return [
        _ROW_ID,
        *(pa.field(n, t, metadata={"rerun:kind": "index", "rerun:index_name": n}) for n, t in times.items()),
        *(column.field(name) for name, column in columns.items()),
    ]


@dataclass(slots=True)
class _SorbetColumn:
    descriptor: Descriptor
    type: pa.DataType
    entity_path: str
    is_static: bool = False
    is_empty: bool = True

    def field(self, name: str) -> pa.Field:
        metadata = {
            "rerun:kind": "data",
            "rerun:component": self.descriptor.component,
            "rerun:entity_path": self.entity_path,
        }
        if self.descriptor.archetype is not None:
            metadata["rerun:archetype"] = self.descriptor.archetype
        if self.descriptor.type is not None:
            metadata["rerun:component_type"] = self.descriptor.type
        if self.is_static:
            metadata["rerun:is_static"] = "true"
        if self.descriptor == CLEAR_IS_RECURSIVE:
            metadata["rerun:is_tombstone"] = "true"
        if self.is_empty:
            metadata["rerun:is_semantically_empty"] = "true"
        return pa.field(name, self.type, metadata=metadata)


class _Users(NamedTuple):
    """The templates that have a column, each with the index of its timeline and of its component (-1: not asked)."""

    type: pa.DataType
    of: list[tuple[_Template, int, int]]


def _dataframe(store: _Store) -> pa.RecordBatch:
    count = len(store.offsets)
    paths: dict[str, int] = {}
    entity = np.empty(count, np.int32)
    is_static = np.zeros(count, bool)
    static: dict[Descriptor, list[_Template]] = {}
    timelines: dict[str, _Users] = {}
    pairs: dict[tuple[str, Descriptor], _Users] = {}
    for template in store.templates:
        schema, rows = template.schema, np.frombuffer(template.rows, np.uint32)
        entity[rows] = paths.setdefault(schema.entity_path, len(paths))
        is_static[rows] = schema.is_static
        for component in schema.components:
            static.setdefault(component.descriptor, [])
            if schema.is_static:
                static[component.descriptor].append(template)
        for i, time in enumerate(schema.times):
            timelines.setdefault(time.name, _Users(time.type, [])).of.append((template, i, -1))
            for k, component in enumerate(schema.components):
                key = time.name, component.descriptor
                pairs.setdefault(key, _Users(time.type, [])).of.append((template, i, k))
    frame = _Frame()
    frame.add("chunk_entity_path", pa.array(list(paths), pa.string()).take(pa.array(entity)))
    ids = [None, pa.py_buffer(bytes(store.ids))]
    frame.add("chunk_id", pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), count, ids))
    frame.add("chunk_is_static", pa.array(is_static))
    row_counts = np.frombuffer(store.row_counts, np.uint64)
    frame.add("chunk_num_rows", pa.array(row_counts))
    frame.add("chunk_byte_offset", pa.array(np.frombuffer(store.offsets, np.uint64)))
    frame.add("chunk_byte_size", pa.array(np.frombuffer(store.sizes, np.uint64)))
    frame.add("chunk_byte_size_uncompressed", pa.array(np.frombuffer(store.uncompressed, np.uint64)))
    for descriptor in sorted(static, key=lambda one: one.order):
        has = np.zeros(count, bool)
        for template in static[descriptor]:
            has[np.frombuffer(template.rows, np.uint32)] = True
        name = descriptor.column(None, "has_static_data")
        frame.add(name, pa.array(has), metadata=_index("rerun:static", descriptor))
    for name in sorted(timelines, key=str.encode):
        starts, ends, _ = _ranges(count, row_counts, timelines[name])
        for suffix, times in (("start", starts), ("end", ends)):
            frame.add(column_name(name, suffix), _times(times, timelines[name].type), True, {"rerun:index": name})
    for key in sorted(pairs, key=lambda pair: (pair[0].encode(), pair[1].order)):
        name, descriptor = key
        starts, ends, numbers = _ranges(count, row_counts, pairs[key])
        metadata = _index(name, descriptor)
        frame.add(descriptor.column(name, "start"), _times(starts, pairs[key].type), True, metadata)
        frame.add(descriptor.column(name, "end"), _times(ends, pairs[key].type), True, metadata)
        frame.add(descriptor.column(name, "num_rows"), pa.array(numbers), True, metadata)
    return pa.RecordBatch.from_arrays(frame.arrays, schema=pa.schema(frame.fields))


class _Frame:
    """Columns of a dataframe in the making."""

    def __init__(self) -> None:
        self.fields: list[pa.Field] = []
        self.arrays: list[pa.Array] = []

    def add(self, name: str, values: pa.Array, nullable: bool = False, metadata: dict[str, str] | None = None) -> None:
        self.fields.append(pa.field(name, values.type, nullable, metadata))
        self.arrays.append(values)


def _index(name: str, descriptor: Descriptor) -> dict[str, str]:
    metadata = {"rerun:index": name, "rerun:component": descriptor.component}
    if descriptor.type is not None:
        metadata["rerun:component_type"] = descriptor.type
    if descriptor.archetype is not None:
        metadata["rerun:archetype"] = descriptor.archetype
    return metadata


Numbers = np.ndarray[Any, np.dtype[Any]]


def _ranges(count: int, row_counts: Numbers, users: _Users) -> tuple[Numbers, Numbers, Numbers]:
    """Start, end and number of rows of one column, for all chunks."""
    starts, numbers = np.full(count, STATIC, np.int64), np.zeros(count, np.uint64)
    ends = starts.copy()
    for template, time, component in users.of:
        rows = np.frombuffer(template.rows, np.uint32)
        starts[rows] = np.frombuffer(template.starts[time], np.int64)
        ends[rows] = np.frombuffer(template.ends[time], np.int64)
        numbers[rows] = row_counts[rows]
        for i, sparse in template.sparse:
            if component in sparse:
                row = template.rows[i]
                numbers[row] = sparse[component].rows
                starts[row], ends[row] = sparse[component].ranges[time]
    return starts, ends, numbers


def _times(values: Numbers, kind: pa.DataType) -> pa.Array:
    valid = values != STATIC
    if valid.all():
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
    bitmap = pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())
    return pa.Array.from_buffers(kind, len(values), [bitmap, pa.py_buffer(np.where(valid, values, 0))])


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Manifest:
    """A manifest as it stands in a footer."""

    store: StoreId
    schema: pa.Schema
    sha256: bytes
    data: pa.Table


def parse_footer(payload: Buffer) -> list[Manifest]:
    """Read the payload of an End frame.

    Raises:
        ValueError: it is damaged, or not a footer.
    """
    manifests = []
    try:
        for number, _, value in fields(payload):
            if number == 1 and not isinstance(value, int):
                manifests.append(_parse_manifest(value))
    except (pa.ArrowException, OSError, lz4.block.LZ4BlockError, KeyError) as error:
        raise ValueError(f"a damaged footer: {error}") from None
    return manifests


def listed_chunks(payload: Buffer) -> set[tuple[int, int]]:
    """Where the chunks are that a footer lists, and how long: (offset, size) of their payloads.

    Raises:
        ValueError: it is damaged, or lacks those columns.
    """
    listed: set[tuple[int, int]] = set()
    for manifest in parse_footer(payload):
        data = manifest.data
        try:
            listed.update(zip(data["chunk_byte_offset"].to_pylist(), data["chunk_byte_size"].to_pylist(), strict=True))
        except KeyError as error:
            raise ValueError(f"a footer without {error}") from None
    return listed


def lists_all(listed: set[tuple[int, int]], chunks: set[tuple[int, int]], version: Sequence[int]) -> bool:
    """Whether a footer lists the chunks that are in its file.

    Args:
        listed: From listed_chunks.
        chunks: The ArrowMsg frames' payloads: offset, length.
        version: The SDK's, from the file's header.
    """
    # One of ours leaves out what readers make nothing of: chunks of indicators, as SDKs up to 0.25 sent them.
    return listed == chunks or (listed < chunks and tuple(version) < _FIRST_WITHOUT_INDICATORS)


_FIRST_WITHOUT_INDICATORS = (0, 26, 0)


def _parse_manifest(raw: Buffer) -> Manifest:
    parts = {number: value for number, _, value in fields(raw) if not isinstance(value, int)}
    schema = next(value for number, _, value in fields(parts[2]) if number == 1)
    part = {number: value for number, _, value in fields(parts[4])}
    data, size = part[2], part.get(4, 0)
    if part.get(3, _PART_PLAIN) == _PART_LZ4:
        if not isinstance(size, int) or isinstance(data, int) or size > len(data) * 256:
            raise ValueError("a damaged footer: a length that cannot be")
        data = lz4.block.decompress(data, uncompressed_size=size)
    return Manifest(
        parse_store_id(parts[1]),
        pa.ipc.open_stream(pa.py_buffer(schema)).schema,
        bytes(parts[3]),
        pa.ipc.open_stream(pa.py_buffer(data)).read_all().combine_chunks(),
    )


__all__ = [
    "LOG_TIME",
    "MAX_CELLS",
    "BadChunkError",
    "FooterBuilder",
    "Manifest",
    "NeedMore",
    "NoFooterError",
    "StoreSummary",
    "footer_is_trustworthy",
    "listed_chunks",
    "lists_all",
    "log_time_of",
    "parse_footer",
    "with_chunk_id",
]

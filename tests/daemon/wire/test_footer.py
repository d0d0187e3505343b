"""Footers: equal to the SDK's, or none, whatever comes in."""

from __future__ import annotations

import math
import struct

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.wire import chunk as wire_chunk
from daemon.wire.footer import (
    BadChunkError,
    FooterBuilder,
    Manifest,
    NeedMore,
    NoFooterError,
    footer_is_trustworthy,
    log_time_of,
    parse_footer,
    with_chunk_id,
)
from daemon.wire.logmsg import BLUEPRINT, RECORDING, StoreId
from daemon.wire.rrd import FRAME_HEADER_SIZE, TAIL_SIZE, Kind, parse_tail
from tests.helpers.chunks import SAMPLES, arrow_msg, batch, chunk, chunk_name, ipc, store_id, store_info
from tests.helpers.footers import compare_footers, footer_of, frames, rebuilt

END = 10_000


def built(*payloads: bytes, builder: FooterBuilder | None = None, check: bool = False) -> list[Manifest]:
    """The manifests of chunks that stand one after the other from byte 100 on."""
    builder = builder or FooterBuilder()
    offset = 100
    for payload in payloads:
        assert builder.add(payload, offset, check=check)
        offset += len(payload) + FRAME_HEADER_SIZE
    return parse_footer(builder.finish(END)[FRAME_HEADER_SIZE:-TAIL_SIZE])


def column(manifest: Manifest, name: str) -> list[object]:
    values = manifest.data[name]
    if pa.types.is_timestamp(values.type) or pa.types.is_duration(values.type):
        values = values.cast(pa.int64())
    return values.to_pylist()


@pytest.mark.parametrize("version", ["0.31.4", "0.36.3", "0.41.0"])
@pytest.mark.parametrize("check", [False, True])
def test_equal_to_the_sdks_own(version: str, check: bool) -> None:
    data = SAMPLES[version].read_bytes()
    _, footer = rebuilt(data, check=check)
    assert compare_footers(footer_of(data), parse_footer(footer[FRAME_HEADER_SIZE:-TAIL_SIZE])) == []


def test_compare_footers_can_fail() -> None:
    data = SAMPLES["0.41.0"].read_bytes()
    other = built(chunk(1))
    assert compare_footers(footer_of(data), other)
    one, two = built(chunk(1)), built(chunk(1, times={"frame": pa.array([2])}))
    assert compare_footers(one, two, bytes_too=False) == [
        "rec: column frame:start: 1 and 1 rows, [(0, 1, 2)]",
        "rec: column frame:end: 1 and 1 rows, [(0, 1, 2)]",
        "rec: column frame:Scalars:scalars:start: 1 and 1 rows, [(0, 1, 2)]",
        "rec: column frame:Scalars:scalars:end: 1 and 1 rows, [(0, 1, 2)]",
    ]


@pytest.mark.parametrize("version", SAMPLES)
def test_beginnings_are_enough(version: str) -> None:
    """Decompressed in part, given in part, from memory views: always the same footer."""
    data = SAMPLES[version].read_bytes()
    end, whole = rebuilt(data)
    builder = FooterBuilder()
    for kind, start, length in frames(data):
        payload = memoryview(data)[start : start + length]
        if kind == Kind.STORE_INFO:
            builder.add_store_info(payload)
        # What stands after the Arrow data, the chunk's id, may be missing: the data has it too.
        for size in range(0, length - 30, 97) if kind == Kind.ARROW else ():
            with pytest.raises(NeedMore):
                builder.add(payload[:size], start, size=length)
        if kind == Kind.ARROW:
            builder.add(payload[: length if version == "0.23.4" else length - 3], start, size=length)
    assert builder.finish(end) == whole


@pytest.mark.parametrize("compress", [True, False])
def test_big_payloads_are_read_in_part(compress: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = pa.array([float(i) * math.pi for i in range(20_000)])
    payload = chunk(1, components={"Tensor:data": pa.array([numbers.to_pylist()])}, compress=compress)
    assert len(payload) > 100_000
    builder = FooterBuilder()
    builder.add(payload[:16384], 100, size=len(payload))
    (manifest,) = parse_footer(builder.finish(END)[FRAME_HEADER_SIZE:-TAIL_SIZE])
    monkeypatch.setattr(wire_chunk, "_partial", None)
    assert compare_footers([manifest], built(payload)) == []
    if compress:
        with pytest.raises(NeedMore):  # without the library's function it takes all of it
            FooterBuilder().add(payload[:16384], 100, size=len(payload))


def test_far_away_times_and_bitmaps_are_asked_for() -> None:
    rows = 6000
    times = pa.array([(i * 7919) % rows for i in range(rows)])
    values = pa.array([[float(i)] if i % 3 == 1 else None for i in range(rows)], pa.list_(pa.float64()))
    payload = chunk(1, times={"frame": times}, components={"Scalars:scalars": values}, is_sorted=False)
    builder = FooterBuilder()
    with pytest.raises(NeedMore):
        builder.add(payload[:9000], 100, size=len(payload))
    (manifest,) = built(payload, builder=builder)
    there = [t for i, t in enumerate(times.to_pylist()) if i % 3 == 1]
    assert column(manifest, "frame:start") == [0]
    assert column(manifest, "frame:end") == [rows - 1]
    assert column(manifest, "frame:Scalars:scalars:start") == [min(there)]
    assert column(manifest, "frame:Scalars:scalars:end") == [max(there)]
    assert column(manifest, "frame:Scalars:scalars:num_rows") == [rows // 3]


TIMES = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20)


@settings(deadline=None)
@given(st.lists(st.tuples(TIMES, st.lists(st.sampled_from(["value", "empty", "null"]), min_size=20)), max_size=5))
def test_ranges_against_a_simple_model(chunks: list[tuple[list[int], list[str]]]) -> None:
    payloads, expected = [], []
    for number, (times, states) in enumerate(chunks):
        cells = [{"value": [1.0], "empty": [], "null": None}[s] for s in states[: len(times)]]
        payloads.append(
            chunk(
                number,
                times={"t": pa.array(times, pa.timestamp("ns"))},
                components={"A:b": pa.array(cells, pa.list_(pa.float64()))},
                is_sorted=False,
            )
        )
        clamped = [max(t, -(2**63) + 1) for t in times]  # the smallest number means "static" to Rerun
        valid = [t for t, cell in zip(clamped, cells, strict=True) if cell is not None]
        expected.append((min(clamped), max(clamped), min(valid, default=None), max(valid, default=None), len(valid)))
    manifests = built(*payloads, check=True)
    if not chunks:
        assert manifests == []
        return
    (manifest,) = manifests
    names = ["t:start", "t:end", "t:A:b:start", "t:A:b:end", "t:A:b:num_rows"]
    assert list(zip(*(column(manifest, name) for name in names), strict=True)) == expected
    assert column(manifest, "chunk_num_rows") == [len(times) for times, _ in chunks]
    empty = all(s != "value" for times, states in chunks for s in states[: len(times)])
    assert (b"rerun:is_semantically_empty" in manifest.schema.field("/e:A:b").metadata) == empty


def test_stores_are_told_by_kind_recording_and_application() -> None:
    ids = [store_id("a", "x"), store_id("a", "y"), store_id("b", "x"), store_id("a", "x", kind=2)]
    manifests = built(*(chunk(i, store=store) for i, store in enumerate([*ids, *ids])))
    assert [m.store for m in manifests] == [
        StoreId(1, "a", "x"), StoreId(1, "a", "y"), StoreId(1, "b", "x"), StoreId(2, "a", "x"),
    ]
    assert [column(m, "frame:start") for m in manifests] == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_application_of_old_sdks_comes_from_the_store_info() -> None:
    old = store_id("rec", None)
    builder = FooterBuilder()
    builder.add_store_info(store_info(old, application="app"))
    (manifest,) = built(chunk(1, store=old), chunk(2), builder=builder)
    assert manifest.store == StoreId(1, "rec", "app")
    assert column(manifest, "frame:start") == [1, 2]


def test_no_footer_for_a_recording_without_store_info() -> None:
    with pytest.raises(NoFooterError, match="recording rec before its store info"):
        built(chunk(1, store=store_id("rec", None)))


def test_static_and_temporal_chunks_of_one_component() -> None:
    (manifest,) = built(chunk(1, times={}), chunk(2), chunk(3, times={}, entity="/other"))
    assert column(manifest, "chunk_is_static") == [True, False, True]
    assert column(manifest, "Scalars:scalars:has_static_data") == [True, False, True]
    assert column(manifest, "frame:start") == [None, 2, None]
    assert manifest.schema.field("/e:Scalars:scalars").metadata[b"rerun:is_static"] == b"true"


def test_columns_stand_in_rerun_s_order() -> None:
    """Descriptors by archetype (none first), component, type; names as bytes; odd characters replaced."""
    odd = {"z": pa.array([[1]]), "B:b": pa.array([[1]]), "A:c": pa.array([[1]]), "_, -.\\x": pa.array([[1]])}
    (manifest,) = built(chunk(1, components=odd, times={"é": pa.array([1]), "z": pa.array([1])}))
    assert manifest.data.schema.names[7:15] == [
        "____x:has_static_data".lstrip("_"), "z:has_static_data", "A:c:has_static_data", "B:b:has_static_data",
        "z:start", "z:end", "é:start", "é:end",
    ]


def test_properties_have_their_own_prefix() -> None:
    (manifest,) = built(chunk(1, entity="/__properties"), chunk(2, entity="/__properties/mine/x"), chunk(3))
    assert set(manifest.schema.names) == {
        "rerun.controls.RowId", "frame", "property:Scalars:scalars", "property:mine/x:Scalars:scalars",
        "/e:Scalars:scalars",
    }


def test_an_entity_named_after_a_chunk_id() -> None:
    """The id cannot be told from the name then: nothing may be taken for granted about where it stands."""
    (manifest,) = built(*(chunk(i, entity=chunk_name(i)) for i in (1, 2, 3)), chunk(4, entity=chunk_name(2)))
    assert column(manifest, "chunk_entity_path") == [chunk_name(i) for i in (1, 2, 3, 2)]
    assert [int.from_bytes(i[8:]) for i in column(manifest, "chunk_id")] == [1, 2, 3, 4]


def test_too_many_cells_is_no_footer_and_no_memory() -> None:
    builder = FooterBuilder(max_cells=1000)
    for i in range(200):
        builder.add(chunk(i), i)
    assert builder.problem == "its index would have more than 1,000 cells"
    assert builder.chunks == 0
    with pytest.raises(NoFooterError, match="more than 1,000 cells"):
        builder.finish(END)


@pytest.mark.parametrize(("cells", "fits"), [(2 * 13, True), (2 * 13 - 1, False)])
def test_the_limit_is_exact(cells: int, fits: bool) -> None:
    builder = FooterBuilder(max_cells=cells)
    builder.add(chunk(1), 1)
    builder.add(chunk(2), 2)
    assert (builder.problem == "") == fits
    if fits:
        (manifest,) = parse_footer(builder.finish(END)[FRAME_HEADER_SIZE:-TAIL_SIZE])
        assert manifest.data.num_rows * manifest.data.num_columns == cells


def test_an_empty_footer_is_as_the_sdk_writes_it() -> None:
    """Seen with SDK 0.31, 0.36 and 0.41 for a recording without any chunk: an End of length 0, and a tail."""
    ending = FooterBuilder().finish(186)
    assert ending[:16] == bytes(16)
    tail = parse_tail(ending[16:])
    assert tail is not None
    assert (tail.start, tail.length, tail.crc) == (202, 0, 0x2A973671)


# -- what is not to be listed ------------------------------------------------------------------------------------------


def dictionary(number: int) -> bytes:
    values = pa.array([["a", "b"]], pa.list_(pa.string()))
    encoded = pa.ListArray.from_arrays([0, 2], values.values.dictionary_encode())
    return chunk(number, components={"Text:text": encoded})


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (chunk(1, metadata={"sorbet:version": "0.2.0"}), "Sorbet version 0.2.0"),
        (chunk(1, components={"A:b": pa.array([1.0])}), "a component of type double"),
        (chunk(1, times={"t": pa.array([1], pa.int32())}), "a timeline of type int32"),
        (dictionary(1), "a column of type dictionary"),
        (arrow_msg(ipc(batch(1), compression="lz4"), 1), "compressed Arrow buffers"),
        (chunk(1, components={"A:b": pa.array([["x"]], pa.list_(pa.string_view()))}), "a column of type string_view"),
    ],
)
def test_unsupported_chunks_mean_no_footer(payload: bytes, why: str) -> None:
    builder = FooterBuilder()
    builder.add(chunk(7), 1)
    builder.add(payload, 2)
    builder.add(chunk(8), 3)
    assert why in builder.problem
    with pytest.raises(NoFooterError, match=why):
        builder.finish(END)


def flipped(data: bytes) -> list[bytes]:
    return [data[:i] + bytes((data[i] ^ (1 << i % 8),)) + data[i + 1 :] for i in range(len(data))]


@pytest.mark.parametrize("check", [True, False])
def test_damage_raises_and_changes_nothing(check: bool) -> None:
    """Every cut and many a flipped bit: the chunk is taken, or BadChunkError says no and all is as before."""
    good, other = chunk(1), chunk(2)
    expected = built(good, chunk(3))
    for damaged in [other[:i] for i in range(len(other))] + flipped(other):
        builder = FooterBuilder()
        builder.add(good, 100)
        try:
            builder.add(damaged, 200, check=check)
        except BadChunkError:
            builder.add(chunk(3), 100 + len(good) + FRAME_HEADER_SIZE)
            assert compare_footers(parse_footer(builder.finish(END)[FRAME_HEADER_SIZE:-TAIL_SIZE]), expected) == []
        else:
            # Without its last field, the id, it is still a message; but not one that newer tools can do without.
            assert len(damaged) == len(other) or (len(damaged) == len(other) - 20 and not check)


def test_check_sees_damage_inside_of_values() -> None:
    text = pa.array([["äöü"]])
    data = bytearray(ipc(batch(1, components={"Text:text": text})))
    data[data.index("äöü".encode())] = 0xFF
    payload = arrow_msg(bytes(data), 1)
    FooterBuilder().add(payload, 1)
    with pytest.raises(BadChunkError, match="UTF8"):
        FooterBuilder().add(payload, 1, check=True)


def test_check_sees_damage_of_chunks_like_others_before() -> None:
    """Chunks of one row of numbers are not decoded again when one with that header was; their offsets still count."""
    builder = FooterBuilder()
    builder.add(chunk(1), 1, check=True)
    builder.add(chunk(2), 2, check=True)
    data = bytearray(ipc(batch(3)))
    offsets = data.rindex(b"\0\0\0\0\1\0\0\0", 0, data.rindex(struct.pack("<d", 3.0)))
    data[offsets + 4] = 9
    with pytest.raises(BadChunkError):
        builder.add(arrow_msg(bytes(data), 3), 3, check=True)
    with pytest.raises(BadChunkError, match="end of its payload"):
        builder.add(arrow_msg(ipc(batch(3)) + b"more", 3), 3, check=True)
    builder.add(chunk(3), 3, check=True)
    assert builder.chunks == 3


def test_timelines_have_no_gaps() -> None:
    with pytest.raises(BadChunkError, match="has gaps"):
        FooterBuilder().add(chunk(1, times={"t": pa.array([1, None])}, components={}), 1)


def test_two_ids_are_damage() -> None:
    with pytest.raises(BadChunkError, match="two ids"):
        FooterBuilder().add(arrow_msg(ipc(batch(1)), 2), 1)


def test_a_length_that_lz4_cannot_reach_takes_no_memory() -> None:
    payload = chunk(1).replace(b"\x18" + b"", b"\x18", 1)
    start = payload.index(b"\x10\x02\x18") + 3
    huge = payload[:start] + b"\xff\xff\xff\xff\xff\x7f" + payload[payload.index(b"\x20\x01\x2a") :]
    with pytest.raises(BadChunkError, match="cannot hold"):
        FooterBuilder().add(huge, 1)


def test_once_refuses_what_was_there() -> None:
    builder = FooterBuilder(once=True)
    for i in (1, 2):
        assert builder.add(chunk(i), i)
    assert not builder.add(chunk(1), 3)
    assert builder.add(chunk(3), 4)
    assert not builder.add(chunk(3), 5)
    assert builder.add(chunk(3, store=store_id("other")), 6)
    assert builder.chunks == 4


def test_log_time_of_the_last_chunk() -> None:
    builder = FooterBuilder()
    builder.add(chunk(1, times={"log_time": pa.array([5, 9], pa.timestamp("ns"))}, components={}), 1)
    assert builder.log_time == (5, 9)
    builder.add(chunk(2), 2)
    assert builder.log_time is None


def test_log_time_of_a_cut_chunk() -> None:
    payload = chunk(1, times={"log_time": pa.array([5, 9], pa.timestamp("ns"))},
                    components={"A:b": pa.array([list(range(5000)), [7]])}, compress=False)
    assert log_time_of(payload[:2000], len(payload)) == (5, 9)
    assert log_time_of(payload[:200], len(payload)) is None
    assert log_time_of(chunk(1), len(chunk(1))) is None
    assert log_time_of(b"", 5) is None


def test_with_chunk_id() -> None:
    bare = arrow_msg(ipc(batch(5)), 5, with_id=False)
    assert with_chunk_id(bare) == chunk(5)
    assert with_chunk_id(chunk(5)) == chunk(5)
    with pytest.raises(BadChunkError):
        with_chunk_id(bare[:-1])


def test_summaries() -> None:
    builder = FooterBuilder()
    builder.add(chunk(4), 1)
    builder.add(chunk(2), 2)
    builder.add(chunk(9, times={}, entity="/s"), 3)
    (summary,) = builder.summaries()
    assert (summary.store.recording_id, summary.chunks, summary.rows, summary.static_chunks) == ("rec", 3, 3, 1)
    assert summary.entities == {"/e": 2, "/s": 1}
    assert summary.timelines == {"frame": ("int64", 2, 4)}


@pytest.mark.parametrize(
    ("version", "kinds", "trust"),
    [
        ((0, 31, 4), {RECORDING}, True),
        ((0, 31, 4), {RECORDING, BLUEPRINT}, False),
        ((0, 28, 2), {RECORDING, BLUEPRINT}, False),
        ((0, 32, 0), {RECORDING, BLUEPRINT}, True),
        ((0, 41, 0), {RECORDING, BLUEPRINT}, True),
    ],
)
def test_which_footers_are_believed(version: tuple[int, int, int], kinds: set[int], trust: bool) -> None:
    assert footer_is_trustworthy(version, kinds) == trust


def test_damaged_footers_are_errors() -> None:
    data = SAMPLES["0.41.0"].read_bytes()
    tail = parse_tail(data[-TAIL_SIZE:])
    assert tail is not None
    payload = data[tail.start : tail.start + tail.length]
    for damaged in [payload[:i] for i in range(1, len(payload), 31)] + flipped(payload)[::17]:
        try:
            parse_footer(damaged)
        except ValueError:
            continue
        assert len(damaged) == len(payload), "a cut footer was read"

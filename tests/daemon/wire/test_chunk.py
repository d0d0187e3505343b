"""Envelopes and beginnings of chunks."""

from __future__ import annotations

import os

import lz4.block
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.wire import chunk as wire
from daemon.wire.chunk import ArrowMsg, BadChunkError, Ipc, NeedMore, Scratch, parse_arrow_msg
from daemon.wire.protobuf import length_delimited, varint_field
from daemon.wire.sorbet import UnknownChunkError
from tests.helpers.chunks import store_id, tuid

STORE = store_id()


def message(*, order: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7), compression: int = 2, size: int = 500,
            encoding: int = 1, payload: bytes = b"p" * 300) -> bytes:
    """An ArrowMsg with its fields in any order."""
    parts = {
        1: length_delimited(1, STORE), 2: varint_field(2, compression), 3: varint_field(3, size),
        4: varint_field(4, encoding), 5: length_delimited(5, payload), 6: length_delimited(6, tuid(7)),
        7: varint_field(7, 1),
    }  # fmt: skip
    return b"".join(parts[number] for number in order)


@given(st.permutations(range(1, 8)))
def test_fields_in_any_order(order: list[int]) -> None:
    data = message(order=tuple(order))
    found = parse_arrow_msg(data, len(data))
    assert found == ArrowMsg(STORE, 2, 500, found.start, 300, (0x1807).to_bytes(8) + (7).to_bytes(8))
    assert data[found.start : found.start + 300] == b"p" * 300
    assert parse_arrow_msg(memoryview(data), len(data)) == found


@given(st.binary(max_size=60), st.integers(0, 80))
def test_any_bytes_are_a_message_or_an_error(data: bytes, more: int) -> None:
    for start in (b"", b"\x0a\x02\x08\x01\x10\x02\x18"):
        try:
            parse_arrow_msg(start + data, len(start + data) + more)
        except (BadChunkError, NeedMore, UnknownChunkError):
            continue


def test_unknown_fields_are_passed_over() -> None:
    extra = b"\x41" + bytes(8) + b"\x45" + bytes(4) + varint_field(9, 300)
    data = extra + message() + extra
    assert parse_arrow_msg(data, len(data)).length == 300


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (message(order=(1, 2, 3, 4)), "no store id or no payload"),
        (message(order=(2, 3, 4, 5)), "no store id or no payload"),
        (message()[:-30], "cut|longer"),
        (message(size=301 * 255 + 1), "cannot hold"),
        (message() + b"\x0b", "wire type"),
        (message(order=(2, 1, 3, 4, 5)) + b"\x0b\x00", "wire type"),
    ],
)
def test_damage(data: bytes, complaint: str) -> None:
    with pytest.raises(BadChunkError, match=complaint):
        parse_arrow_msg(data, len(data))


@pytest.mark.parametrize("options", [{"compression": 3}, {"encoding": 2}])
def test_what_is_not_known(options: dict[str, int]) -> None:
    data = message(**options)  # type: ignore[arg-type]
    with pytest.raises(UnknownChunkError):
        parse_arrow_msg(data, len(data))


def test_without_compression_the_size_is_the_payload_s() -> None:
    data = message(compression=1, size=0)
    assert parse_arrow_msg(data, len(data)).uncompressed_size == 300


PLAIN = os.urandom(30_000) + bytes(30_000) + os.urandom(40_000)
BLOCK = lz4.block.compress(PLAIN, store_size=False)


@pytest.mark.parametrize("compression", [1, 2])
def test_only_as_much_as_is_asked_for(compression: int) -> None:
    source = BLOCK if compression == 2 else PLAIN
    msg = ArrowMsg(STORE, compression, len(PLAIN), 0, len(source), None)
    ipc = Ipc(source, msg)
    assert wire.PREFIX - 100 < len(ipc.raw) <= wire.PREFIX
    for size in (10, 9000, 31_000, len(PLAIN)):
        assert bytes(ipc.upto(size)[:size]) == PLAIN[:size]
    with pytest.raises(BadChunkError):
        ipc.upto(len(PLAIN) + 1)


@pytest.mark.parametrize("compression", [1, 2])
def test_what_is_missing_is_asked_for(compression: int) -> None:
    source = BLOCK if compression == 2 else PLAIN
    msg = ArrowMsg(STORE, compression, len(PLAIN), 0, len(source), None)
    with pytest.raises(NeedMore):
        Ipc(source[:4000], msg)
    ipc = Ipc(source[:16384], msg)
    with pytest.raises(NeedMore):
        ipc.upto(50_000)
    salvaged = Ipc(source[:4000], msg, salvage=True)
    assert bytes(salvaged.raw) == PLAIN[: len(salvaged.raw)]
    assert len(salvaged.raw) > 3800


def test_one_long_run_of_literals() -> None:
    """Its length takes 20 kB of input before the first byte comes out: the beginning of it is not damage."""
    size = 5_000_000
    plain = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    block = b"\xf0" + b"\xff" * ((size - 15) // 255) + bytes(((size - 15) % 255,)) + plain
    assert lz4.block.decompress(block, uncompressed_size=size) == plain
    msg = ArrowMsg(STORE, 2, size, 0, len(block), None)
    with pytest.raises(NeedMore):
        Ipc(block[:16384], msg)
    ipc = Ipc(block, msg)
    for wanted in (10, 5000, 20_000, size):
        assert bytes(ipc.upto(wanted)[:wanted]) == plain[:wanted]


@pytest.mark.parametrize("library", [True, False])
def test_scratch_is_used_again(library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not library:
        monkeypatch.setattr(wire, "_safe", None)
    scratch = Scratch()
    assert bytes(scratch.decompress(BLOCK, len(PLAIN))) == PLAIN
    short = lz4.block.compress(b"abc" * 100, store_size=False)
    assert bytes(scratch.decompress(memoryview(short), 300)) == b"abc" * 100
    for damaged, size in ((BLOCK[:-5], len(PLAIN)), (BLOCK, len(PLAIN) - 1), (b"\xff" * 50, 1000)):
        with pytest.raises(BadChunkError):
            scratch.decompress(damaged, size)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.wire.rrd import (
    FRAME_HEADER_SIZE,
    HEADER_SIZE,
    MAX_FRAME,
    TAIL_SIZE,
    FormatError,
    Kind,
    StreamHeader,
    Tail,
    frame_header,
    parse_frame_header,
    parse_header,
    parse_tail,
)

BYTE = st.integers(0, 255)
U64 = st.integers(0, 2**64 - 1)


@given(st.tuples(BYTE, BYTE, BYTE, BYTE), BYTE)
def test_header_round_trip(version: tuple[int, int, int, int], compression: int) -> None:
    header = StreamHeader(version, compression, 2)
    data = header.encode()
    assert len(data) == HEADER_SIZE
    assert parse_header(data + b"more") == header
    assert header.version_text == f"{version[0]}.{version[1]}.{version[2]}"


def test_header_as_the_sdk_writes_it() -> None:
    assert StreamHeader((0, 41, 0, 0), 1, 2).encode() == bytes.fromhex("525246320029000001020000")


@pytest.mark.parametrize(("data", "message"), [
    (b"RRF0\0\x04\0\0\0\0\0\0", r"Rerun 0\.2 to 0\.3, too old to be read at byte 7"),
    (b"RRF1\0\x05\0\0\0\0\0\0", r"Rerun 0\.4 to 0\.5"),
    (b"hello world.", r"found b'hell', expected b'RRF2', at byte 7"),
    (b"RRF2\0\x29", "shorter than its 12-byte header"),
    (b"RRF2\0\x16\0\0\x01\x01\0\0", r"version 0\.22\.0 in MsgPack, written by Rerun 0\.22 or older"),
    (b"RRF2\0\x29\0\0\x01\x07\0\0", "encoding 7"),
])
def test_header_says_what_was_found(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        parse_header(data, 7)
    assert caught.value.offset == 7


@given(st.sampled_from(Kind), st.integers(0, MAX_FRAME))
def test_frame_header_round_trip(kind: Kind, length: int) -> None:
    data = frame_header(kind, length)
    assert len(data) == FRAME_HEADER_SIZE
    assert parse_frame_header(b"xx" + data, 2) == (kind, length)


@pytest.mark.parametrize(("kind", "length", "message"), [
    (4, 0, "kind 0x4"),
    (2**63, 0, "kind 0x8000000000000000"),
    (2, MAX_FRAME + 1, "a length of 1099511627777 bytes"),
    (2, 2**63, "a length of 9223372036854775808 bytes"),
])
def test_frame_header_refuses(kind: int, length: int, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        parse_frame_header(frame_header(kind, length), 0, 99)
    assert caught.value.offset == 99


@given(U64, U64, st.integers(0, 2**32 - 1))
def test_tail_round_trip(start: int, length: int, crc: int) -> None:
    tail = Tail(start, length, crc)
    data = tail.encode()
    assert len(data) == TAIL_SIZE
    assert parse_tail(data) == tail
    assert parse_tail(data[:-1]) is None
    assert parse_tail(data + b"\0") is None
    for place in (20, 24, 28):  # the magic, the ident, the count
        assert parse_tail(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]) is None

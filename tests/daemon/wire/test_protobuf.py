from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.wire.protobuf import encode_uvarint, fields, length_delimited, uvarint, varint_field

U64 = st.integers(min_value=0, max_value=2**64 - 1)


@given(U64, st.binary(max_size=4))
def test_uvarint_round_trip(value: int, rest: bytes) -> None:
    encoded = encode_uvarint(value)
    assert uvarint(encoded + rest, 0) == (value, len(encoded))
    for cut in range(len(encoded)):
        with pytest.raises(ValueError, match="ends inside a varint"):
            uvarint(encoded[:cut], 0)


def test_uvarint_too_long() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        uvarint(b"\xff" * 9 + b"\x02", 0)
    with pytest.raises(ValueError, match="ten bytes"):
        uvarint(b"\xff" * 11, 0)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_encode_uvarint_refuses(value: int) -> None:
    with pytest.raises(ValueError, match="64-bit"):
        encode_uvarint(value)


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.one_of(U64.filter(bool), st.binary(max_size=300)))))
def test_fields_round_trip(items: list[tuple[int, int | bytes]]) -> None:
    parts = [varint_field(f, v) if isinstance(v, int) else length_delimited(f, v) for f, v in items]
    message = b"".join(parts)
    assert [(f, v) for f, _, v in fields(message)] == items
    assert [(f, v) for f, _, v in fields(memoryview(message))] == items
    assert [(f, v) for f, _, v in fields(b"xy" + message + b"z", 2, 2 + len(message))] == items
    # A cut message either ends between two fields or says that it is truncated; nothing is invented.
    for cut in range(len(message)):
        try:
            got = [(f, v) for f, _, v in fields(message[:cut])]
        except ValueError:
            continue
        assert got == items[: len(got)]
        assert cut == sum(map(len, parts[: len(got)]))


def test_fixed_width_fields() -> None:
    message = b"\x09" + bytes(range(8)) + b"\x15" + bytes(range(4))
    assert list(fields(message)) == [(1, 1, bytes(range(8))), (2, 5, bytes(range(4)))]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (b"\x0b", "wire type 3"),
        (b"\x0f", "wire type 7"),
        (b"\x02\x00", "numbered 0"),
        (b"\x0a\x05abcd", "ends inside field 1"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "ends inside field 1"),
        (b"\x09\x00", "ends inside field 1"),
        (b"\x15\x00", "ends inside field 2"),
    ],
)
def test_fields_refuses(message: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        list(fields(message))


def test_fields_stay_before_the_end() -> None:
    with pytest.raises(ValueError, match="ends inside a varint"):
        list(fields(b"\x08\x80\x01", 0, 2))
    with pytest.raises(ValueError, match="ends inside field 1"):
        list(fields(b"\x0a\x02ab", 0, 3))


def test_zero_is_not_written() -> None:
    assert varint_field(3, 0) == b""

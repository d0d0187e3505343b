from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.wire.logmsg import (
    BLUEPRINT,
    PEEK,
    RECORDING,
    StoreId,
    StoreInfo,
    parse_store_id,
    parse_store_info,
    peek_store_id,
)
from daemon.wire.protobuf import length_delimited, varint_field
from daemon.wire.rrd import FRAME_HEADER_SIZE, Kind
from tests.helpers import frames

TEXT = st.text(max_size=40)


def payload(frame: bytes) -> bytes:
    return frame[FRAME_HEADER_SIZE:]


@given(TEXT, TEXT, st.sampled_from([RECORDING, BLUEPRINT]))
def test_store_id_round_trip(recording: str, application: str, kind: int) -> None:
    raw = frames.store_id(recording, application, kind)
    assert parse_store_id(raw) == StoreId(kind, recording, application)


@pytest.mark.parametrize(("kind", "frame"), [
    (Kind.STORE_INFO, frames.store_info("r", "a")),
    (Kind.ARROW, frames.arrow("r", "a")),
    (Kind.ARROW, frames.arrow("r" * 300, "a")),
])
def test_peek_finds_the_store_id(kind: Kind, frame: bytes) -> None:
    found = peek_store_id(kind, payload(frame)[:PEEK])
    assert found is not None
    assert parse_store_id(found).application_id == "a"


def test_peek_of_an_activation() -> None:
    found = peek_store_id(Kind.ACTIVATION, payload(frames.activation("bp", "a")))
    assert found == frames.store_id("bp", "a", BLUEPRINT)


def test_peek_where_other_fields_come_first() -> None:
    raw = frames.store_id()
    before = varint_field(9, 300) + b"\x49" + bytes(8) + b"\x4d" + bytes(4) + length_delimited(5, b"payload")
    assert peek_store_id(Kind.ARROW, before + length_delimited(1, raw)) == raw


def test_peek_does_not_reach_further_than_it_may() -> None:
    whole = payload(frames.arrow("r" * 60))
    for cut in range(1, 2 + len(frames.store_id("r" * 60))):
        assert peek_store_id(Kind.ARROW, whole[:cut]) is None
    assert peek_store_id(Kind.ARROW, length_delimited(5, bytes(5000)) + length_delimited(1, b"x")) == b"x"
    assert peek_store_id(Kind.ARROW, length_delimited(5, bytes(5000))[:PEEK]) is None


@given(st.sampled_from([*Kind, 7]), st.binary(max_size=80))
def test_peek_takes_any_bytes(kind: int, data: bytes) -> None:
    found = peek_store_id(kind, data)
    assert found is None or found in data
    assert peek_store_id(kind, memoryview(data)) == found


@pytest.mark.parametrize("old", [False, True])
def test_store_info(old: bool) -> None:
    info = parse_store_info(payload(frames.store_info("r", "a", version=(0, 23, 4), old=old)))
    assert info == StoreInfo(StoreId(RECORDING, "r", "a"), (0, 23, 4))


def test_store_info_without_a_version() -> None:
    assert parse_store_info(length_delimited(2, length_delimited(2, frames.store_id()))).version is None


@given(st.binary(max_size=60))
def test_parsing_any_bytes_gives_a_value_or_a_value_error(data: bytes) -> None:
    for parse in (parse_store_id, parse_store_info):
        try:
            parse(data)
        except ValueError:  # UnicodeDecodeError is one
            continue


def test_store_id_of_bad_text() -> None:
    with pytest.raises(UnicodeDecodeError):
        parse_store_id(length_delimited(2, b"\xff"))

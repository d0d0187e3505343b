"""The control protocol's codec, against the vectors that every shim is held to, and against bytes of any kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.wire import control

VECTORS = Path(__file__).parents[2] / "data" / "control"


def load(name: str) -> list[Any]:
    return [pytest.param(one, id=one["name"]) for one in json.loads((VECTORS / f"{name}.json").read_text())]


def decode_all(decoder: control.Decoder) -> list[control.Message]:
    found = []
    while (message := decoder.next_message()) is not None:
        found.append(message)
    return found


@pytest.mark.parametrize("vector", load("encode"))
def test_encode(vector: dict) -> None:
    data = bytes.fromhex(vector["hex"])
    assert control.encode(vector["message"]) == data
    decoder = control.Decoder()
    decoder.receive_data(data)
    assert decode_all(decoder) == [vector["message"]]
    assert decoder.pending == 0


@pytest.mark.parametrize("vector", load("decode"))
def test_decode(vector: dict) -> None:
    """At once, byte by byte, and cut in two anywhere."""
    data = bytes.fromhex(vector["hex"])
    halves = [[data[:at], data[at:]] for at in range(len(data))]
    cuts = [[data], [data[at : at + 1] for at in range(len(data))], *halves]
    for pieces in cuts:
        decoder, found = control.Decoder(), []
        for piece in pieces:
            decoder.receive_data(piece)
            found += decode_all(decoder)
        assert found == vector["messages"]


@pytest.mark.parametrize("vector", load("errors"))
def test_errors(vector: dict) -> None:
    decoder = control.Decoder()
    decoder.receive_data(bytes.fromhex(vector["hex"]))
    with pytest.raises(control.ProtocolError) as caught:
        decoder.next_message()
    assert vector["error"] in str(caught.value)


def test_error_vectors_say_which_code() -> None:
    """Codes in the vectors are codes that exist."""
    codes = {one.values[0]["message"]["error"]["code"] for one in load("encode") if "error" in one.values[0]["message"]}
    assert codes
    assert codes <= control.CODES


def test_longest_message() -> None:
    """1 MiB goes through; a byte more goes neither out nor in."""
    overhead = len(control.encode({"id": 1, "ok": {"a": "x" * 70000}})) - 4 - 70000
    fits = {"id": 1, "ok": {"a": "x" * (control.MAX_MESSAGE - overhead)}}
    data = control.encode(fits)
    assert len(data) == control.MAX_MESSAGE + 4
    decoder = control.Decoder()
    decoder.receive_data(data)
    assert decoder.next_message() == fits
    with pytest.raises(control.ProtocolError, match="1048577 bytes"):
        control.encode({"id": 1, "ok": {"a": "x" * (control.MAX_MESSAGE - overhead + 1)}})


@pytest.mark.parametrize("message", [{"path": "/x/\udcff.rrd"}, {"paths": [{"/x/\udcff.rrd": 1}]}])
def test_a_path_that_is_no_text(message: control.Message) -> None:
    """Python has bytes that are not UTF-8 as lone surrogates; CBOR has no place for them."""
    with pytest.raises(control.ProtocolError, match=r"not UTF-8: /x/\\udcff\.rrd"):
        control.encode(message)


def test_refused_before_it_is_there() -> None:
    """Of a message that is too long nothing but the length is kept."""
    decoder = control.Decoder()
    decoder.receive_data((control.MAX_MESSAGE + 1).to_bytes(4, "big"))
    with pytest.raises(control.ProtocolError):
        decoder.next_message()
    assert decoder.pending == 4


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """A map with text keys, or ProtocolError; nothing else comes out."""
    decoder = control.Decoder()
    decoder.receive_data(len(data).to_bytes(4, "big") + data)
    try:
        message = decoder.next_message()
    except control.ProtocolError:
        return
    assert isinstance(message, dict)
    assert all(isinstance(key, str) for key in message)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8), _VALUES, max_size=5))
def test_there_and_back(message: control.Message) -> None:
    decoder = control.Decoder()
    decoder.receive_data(control.encode(message))
    assert decoder.next_message() == message


def test_protocol_mismatch_says_who_is_older() -> None:
    newer = control.protocol_mismatch(control.PROTOCOL + 1, "rrd-cli 9.0.0", "0.1.0")
    assert newer.code == "protocol"
    assert "restart" in newer.hint
    older = control.protocol_mismatch(0, "rrd-cli 0.0.1", "0.1.0")
    assert "upgrade" in older.hint
    for failure in (newer, older):
        assert "rrd-cli" in failure.message
        assert "0.1.0" in failure.message
    assert "speaks protocol None" in control.protocol_mismatch(None, "", "0.1.0").message


def test_messages_have_the_shapes_that_are_written_down() -> None:
    assert control.hello("rrd-cli 0.1.0", 4711) == load("encode")[0].values[0]["message"]
    assert control.ok(2, {"a": 1}) == {"id": 2, "ok": {"a": 1}}
    assert control.progress(2, {"a": 1}) == {"id": 2, "progress": {"a": 1}}
    assert control.event("ended", {"stream": "s"}) == {"event": "ended", "data": {"stream": "s"}}
    failure = control.VerbError("exists", "file exists: /x", "say --force")
    assert control.error(2, failure) == {
        "id": 2, "error": {"code": "exists", "message": "file exists: /x", "hint": "say --force"}}

"""The shim's codec, against the vectors that every implementation is held to, and against the daemon's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.wire import control
from rrd import _wire

VECTORS = Path(__file__).parents[2] / "data" / "control"


def load(name: str) -> list[Any]:
    return [pytest.param(one, id=one["name"]) for one in json.loads((VECTORS / f"{name}.json").read_text())]


def decode_all(data: bytes) -> list[_wire.Message]:
    decoder, found = _wire.Decoder(), []
    decoder.receive_data(data)
    while (message := decoder.next_message()) is not None:
        found.append(message)
    return found


@pytest.mark.parametrize("vector", load("encode"))
def test_encode(vector: dict) -> None:
    assert _wire.encode(vector["message"]).hex() == vector["hex"]
    assert decode_all(bytes.fromhex(vector["hex"])) == [vector["message"]]


@pytest.mark.parametrize("vector", load("decode"))
def test_decode(vector: dict) -> None:
    data = bytes.fromhex(vector["hex"])
    assert decode_all(data) == vector["messages"]
    decoder, found = _wire.Decoder(), []
    for at in range(len(data)):
        decoder.receive_data(data[at : at + 1])
        while (message := decoder.next_message()) is not None:
            found.append(message)
    assert found == vector["messages"]


@pytest.mark.parametrize("vector", load("errors"))
def test_errors(vector: dict) -> None:
    with pytest.raises(_wire.ProtocolError) as caught:
        decode_all(bytes.fromhex(vector["hex"]))
    assert vector["error"] in str(caught.value)


def test_a_path_that_is_not_utf8() -> None:
    """Python has such bytes as lone surrogates; CBOR has no place for them."""
    with pytest.raises(_wire.ProtocolError, match=r"^not UTF-8: /run\\udcff\.rrd$"):
        _wire.encode({"path": "/run\udcff.rrd"})


def test_too_long_to_send() -> None:
    with pytest.raises(_wire.ProtocolError):
        _wire.encode({"id": 1, "verb": "save", "args": {"path": "x" * _wire.MAX_MESSAGE}})


@given(st.binary(max_size=200))
def test_the_two_codecs_agree(data: bytes) -> None:
    """Both take the same bytes, for the same message, and refuse the same."""
    framed = len(data).to_bytes(4, "big") + data
    theirs = control.Decoder()
    theirs.receive_data(framed)
    try:
        expected = theirs.next_message()
    except control.ProtocolError:
        with pytest.raises(_wire.ProtocolError):
            decode_all(framed)
    else:
        assert repr(decode_all(framed)) == repr([expected])


def test_same_protocol() -> None:
    assert (_wire.PROTOCOL, _wire.MAX_MESSAGE, _wire.MAX_DEPTH) == (
        control.PROTOCOL, control.MAX_MESSAGE, control.MAX_DEPTH)

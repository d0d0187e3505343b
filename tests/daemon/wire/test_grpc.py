"""gRPC without I/O: readers whole and byte by byte, the two sides of a connection against each other."""

from __future__ import annotations

import random

import h2.config
import h2.connection
import h2.settings
import hyperframe.frame
import pytest

from daemon.wire import grpc
from daemon.wire.grpc import (
    CallError,
    Closing,
    Connection,
    ConnectionFailed,
    Data,
    Finished,
    FrameReader,
    HalfClosed,
    Identity,
    Opened,
    SmallReader,
    Status,
    envelope,
    parse_cloud_version,
    parse_identity,
    parse_url,
)
from daemon.wire.protobuf import length_delimited
from daemon.wire.rrd import Kind

CLOUD_VERSION_0_36 = (
    b"\n\xc8\x01\n\tre_server\x12\x05lance\x1a\x0f\r\x00\x00\x00\x00\x15$\x00\x00\x00\x1d\x03\x00\x00\x00"
    b'"\x1d1.95.0 (59807616e 2026-04-14)*\x0622.1.22(6ded109d33c549e98185f7c95fa8009d44e4adef'
    b":\x16prepare-release-0.36.3B\x18x86_64-unknown-linux-gnuJ\x1e2026-08-24T17:21:35.483296709ZP\x00"
    b"\x12\x15exposed-version-unset*\x18per_segment_index_values"
)
"""What a headless viewer 0.36.3 answered."""

PAYLOADS = [
    (Kind.STORE_INFO, b"info"), (Kind.ARROW, b""), (Kind.ARROW, bytes(range(256)) * 300), (Kind.ACTIVATION, b"a"),
]


def encoded(frames: list[tuple[int, bytes]]) -> bytes:
    return b"".join(envelope(kind, len(payload)) + payload for kind, payload in frames)


def read_all(reader: FrameReader) -> list[tuple[int, bytes]]:
    found = []
    while (frame := reader.next_frame()) is not None:
        assert frame.length == len(frame.payload())
        found.append((frame.kind, frame.payload()))
    return found


# -- frames ------------------------------------------------------------------------------------------------------------


def test_frames_whole_byte_by_byte_and_in_random_pieces() -> None:
    data = encoded(PAYLOADS)
    whole = FrameReader()
    whole.receive_data(data)
    assert read_all(whole) == PAYLOADS
    assert whole.at_boundary
    single, found = FrameReader(), []
    for position in range(len(data)):
        single.receive_data(data[position : position + 1])
        found += read_all(single)
    assert found == PAYLOADS
    dice = random.Random(7)
    for _ in range(50):
        reader, found, position = FrameReader(), [], 0
        while position < len(data):
            step = dice.choice((1, 5, 17, 1000, 60000))
            reader.receive_data(data[position : position + step])
            found += read_all(reader)
            position += step
        assert found == PAYLOADS
        assert reader.at_boundary


def test_pieces_are_the_frame_as_it_stands_in_a_file() -> None:
    reader = FrameReader()
    reader.receive_data(encoded([(Kind.ARROW, b"payload")]))
    frame = reader.next_frame()
    assert frame is not None
    assert b"".join(frame.pieces()) == (2).to_bytes(8, "little") + (7).to_bytes(8, "little") + b"payload"


def test_a_cut_message_is_pending() -> None:
    data = encoded([(Kind.ARROW, b"x" * 1000)])
    for cut in (1, 4, 5, 7, 11, 500, len(data) - 1):
        reader = FrameReader()
        reader.receive_data(data[:cut])
        assert reader.next_frame() is None
        assert not reader.at_boundary
        assert 0 < reader.pending <= cut


def test_a_payload_is_not_copied() -> None:
    chunk = encoded([(Kind.ARROW, b"x" * 100000)])
    reader = FrameReader()
    reader.receive_data(chunk)
    frame = reader.next_frame()
    assert frame is not None
    (part,) = frame.parts
    assert isinstance(part, memoryview)
    assert part.obj is chunk


@pytest.mark.parametrize("body", [
    length_delimited(2, b"before") + length_delimited(1, length_delimited(2, b"payload")),
    length_delimited(1, length_delimited(9, b"unknown") + length_delimited(2, b"payload")),
    length_delimited(1, length_delimited(2, b"payload") + b"\x50\x01") + b"\x58\x07",
])
def test_other_fields_and_orders_are_read_too(body: bytes) -> None:
    reader = FrameReader()
    reader.receive_data(grpc.message(body) + encoded([(Kind.ARROW, b"next")]))
    assert read_all(reader) == [(Kind.ARROW, b"payload"), (Kind.ARROW, b"next")]


@pytest.mark.parametrize("body", [b"", length_delimited(1, b""), length_delimited(3, b"x"), b"\x50\x01",
                                  length_delimited(1, length_delimited(9, b"newer"))])
def test_a_message_without_a_log_message_is_passed_over(body: bytes) -> None:
    reader = FrameReader()
    reader.receive_data(grpc.message(body) + encoded([(Kind.ARROW, b"next")]))
    assert read_all(reader) == [(Kind.ARROW, b"next")]


@pytest.mark.parametrize(("data", "status"), [
    (b"\x01\x00\x00\x00\x05hello", Status.UNIMPLEMENTED),
    (b"\x00\xff\xff\xff\xff", Status.RESOURCE_EXHAUSTED),
    (grpc.message(b"\x0a\x7f\x12"), Status.INVALID_ARGUMENT),
    (grpc.message(b"\x08\x01"), Status.INVALID_ARGUMENT),
    (grpc.message(b"\xff" * 30), Status.INVALID_ARGUMENT),
])
def test_what_is_no_message_is_the_calls_fault(data: bytes, status: Status) -> None:
    reader = FrameReader()
    reader.receive_data(data)
    with pytest.raises(CallError) as caught:
        reader.next_frame()
    assert caught.value.status == status


def test_a_length_beyond_the_limit_is_refused_before_anything_is_held() -> None:
    reader = FrameReader(max_message=1000)
    reader.receive_data(encoded([(Kind.ARROW, b"x" * 900)]))
    assert len(read_all(reader)) == 1
    reader.receive_data(b"\x00" + (1001).to_bytes(4, "big"))
    with pytest.raises(CallError):
        reader.next_frame()
    with pytest.raises(ValueError, match="at most"):
        envelope(Kind.ARROW, grpc.MAX_MESSAGE)


def test_small_messages() -> None:
    reader = SmallReader()
    for byte in grpc.message(b"abc")[:-1]:
        reader.receive_data(bytes([byte]))
        assert reader.next_message() is None
    reader.receive_data(b"c" + grpc.message(b""))
    assert (reader.next_message(), reader.next_message(), reader.next_message()) == (b"abc", b"", None)
    reader.receive_data(b"\0" + (grpc.MAX_SMALL_MESSAGE + 1).to_bytes(4, "big"))
    with pytest.raises(CallError):
        reader.next_message()


def test_who_we_are() -> None:
    identity = Identity("0.1.0", 4711, "abc")
    assert parse_identity(identity.encode()) == identity
    assert parse_identity(b"") is None
    assert parse_identity(b"\xff\xff") is None


def test_a_viewers_version() -> None:
    assert parse_cloud_version(CLOUD_VERSION_0_36) == (0, 36, 3)
    assert parse_cloud_version(b"") is None
    assert parse_cloud_version(b"\x0a\x05") is None


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "host", "port", "secure"), [
    ("rerun+http://127.0.0.1:9876/proxy", "127.0.0.1", 9876, False),
    ("rerun://example.com:1234/proxy", "example.com", 1234, True),
    ("rerun+https://example.com/proxy", "example.com", 9876, True),
    ("rerun+http://[::1]:77/proxy", "::1", 77, False),
    ("10.0.0.7:9877", "10.0.0.7", 9877, False),
    ("9877", "127.0.0.1", 9877, False),
    ("http://localhost:9876", "localhost", 9876, False),
])
def test_urls(text: str, host: str, port: int, secure: bool) -> None:
    address = parse_url(text)
    assert (address.host, address.port, address.secure) == (host, port, secure)
    assert parse_url(address.url) == address


@pytest.mark.parametrize("text", ["", "ftp://x", "rerun+http://", "x:0", "x:99999", "x:y", "a:b@c:1", "x:1/other"])
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_url(text)


# -- connections -------------------------------------------------------------------------------------------------------


class Pair:
    """A client and a server, and what each has been told."""

    def __init__(self) -> None:
        self.client = Connection(client=True, authority="test:1")
        self.server = Connection(client=False)
        self.at_client: list[grpc.Event] = []
        self.at_server: list[grpc.Event] = []

    def exchange(self, step: int = 0) -> None:
        """Carry bytes both ways until nobody has anything to say; `step` bytes at a time."""
        while True:
            up, down = self.client.data_to_send(), self.server.data_to_send()
            if not up and not down:
                return
            for data, side, heard in ((up, self.server, self.at_server), (down, self.client, self.at_client)):
                size = step or max(1, len(data))
                for start in range(0, len(data), size):
                    heard += side.receive_data(data[start : start + size])


@pytest.mark.parametrize("step", [0, 1, 7])
def test_a_call_from_end_to_end(step: int) -> None:
    pair = Pair()
    call = pair.client.start(grpc.WRITE_MESSAGES)
    pair.exchange(step)
    assert pair.at_server == [Opened(call, grpc.WRITE_MESSAGES, None)]
    pair.server.bulk(call)
    pair.server.answer(call)
    data = encoded(PAYLOADS)
    for start in range(0, len(data), 10000):
        pair.client.send_data(call, data[start : start + 10000])
        pair.exchange(step)
    reader, found = FrameReader(), []
    for event in pair.at_server:
        if isinstance(event, Data):
            pair.server.acknowledge(event)
            reader.receive_data(event.data)
            found += read_all(reader)
    assert found == PAYLOADS
    pair.client.half_close(call)
    pair.exchange(step)
    assert pair.at_server[-1] == HalfClosed(call)
    pair.server.send_small(call, grpc.EMPTY_MESSAGE)
    pair.server.finish(call, Status.OK)
    pair.exchange(step)
    assert pair.at_client[-1] == Finished(call, Status.OK, "")
    assert not pair.client.is_open(call)
    assert not pair.server.is_open(call)
    # The connection goes on.
    again = pair.client.start(grpc.IDENTIFY)
    pair.exchange(step)
    assert pair.at_server[-1] == Opened(again, grpc.IDENTIFY, None)


def test_an_error_carries_its_message_and_stops_the_client() -> None:
    pair = Pair()
    call = pair.client.start("/x/Y")
    pair.client.send_data(call, b"half a message")
    pair.exchange()
    pair.server.finish(call, Status.UNIMPLEMENTED, "no such thing: 100 % ü")
    pair.exchange()
    assert Finished(call, Status.UNIMPLEMENTED, "no such thing: 100 % ü") in pair.at_client
    assert not pair.client.is_open(call)
    pair.server.finish(call, Status.OK)  # twice is harmless
    pair.exchange()


def test_a_cancelled_call() -> None:
    pair = Pair()
    call = pair.client.start(grpc.WRITE_MESSAGES)
    pair.exchange()
    pair.client.cancel(call)
    pair.exchange()
    assert isinstance(pair.at_server[-1], Finished)
    assert pair.at_server[-1].status == Status.CANCELLED
    pair.server.answer(call)
    pair.server.finish(call, Status.OK)
    pair.exchange()


def test_windows_are_given_back() -> None:
    """Far more than the first window passes, and h2's own account of it stays right."""
    pair = Pair()
    call = pair.client.start(grpc.WRITE_MESSAGES)
    pair.exchange()
    pair.server.bulk(call)
    window = pair.client.window(call)
    assert window > 1 << 29
    block, sent, seen = bytes(1 << 24), 0, 0
    while sent < 2 * window:
        assert pair.client.window(call) >= len(block)
        pair.client.send_data(call, block)
        sent += len(block)
        pair.exchange()
        for event in pair.at_server:
            if isinstance(event, Data):
                seen += len(event.data)
                pair.server.acknowledge(event)
        pair.at_server.clear()
    assert seen == sent


def test_a_small_window_holds_back() -> None:
    client = Connection(client=True, authority="test:1")
    config = h2.config.H2Configuration(client_side=False)
    server = h2.connection.H2Connection(config)
    server.initiate_connection()
    call = client.start(grpc.WRITE_MESSAGES)
    server.receive_data(client.data_to_send())
    client.receive_data(server.data_to_send())
    assert client.window(call) == 65535
    client.send_data(call, bytes(65535))
    assert client.window(call) == 0
    with pytest.raises(ValueError, match="flow control"):
        client.send_data(call, b"x")
    server.receive_data(client.data_to_send())
    server.acknowledge_received_data(65535, call)
    client.receive_data(server.data_to_send())
    assert client.window(call) > 0


@pytest.mark.parametrize("piece", [1, 5, 13, 26])
def test_room_arrives_in_pieces(piece: int) -> None:
    pair = Pair()
    call = pair.client.start(grpc.WRITE_MESSAGES)
    pair.exchange()
    before = pair.client.window(call)
    pair.client.send_data(call, bytes(1000))
    room = b"".join(hyperframe.frame.WindowUpdateFrame(window, window_increment=1000).serialize()
                    for window in (0, call))
    for start in range(0, len(room), piece):
        assert pair.client.window(call) == before - 1000
        pair.client.receive_data(room[start : start + piece])
    assert pair.client.window(call) == before


@pytest.mark.parametrize("room", [0, (1 << 31) - 1])
def test_impossible_room_is_a_fault(room: int) -> None:
    pair = Pair()
    pair.client.start(grpc.WRITE_MESSAGES)
    pair.exchange()
    with pytest.raises(ConnectionFailed):
        pair.client.receive_data(bytes((0, 0, 4, 8, 0, 0, 0, 0, 0)) + room.to_bytes(4, "big"))


def test_deadlines() -> None:
    server = Connection(client=False)
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    expected = {"250m": 0.25, "3S": 3.0, "1H": 3600.0, "": None, "x": None, "123456789S": None}
    for text in expected:
        headers = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/a/B"),
                   ("content-type", "application/grpc+proto")]
        client.send_headers(client.get_next_available_stream_id(), headers + ([("grpc-timeout", text)] if text else []))
    opened = [event for event in server.receive_data(client.data_to_send()) if isinstance(event, Opened)]
    assert [event.timeout for event in opened] == list(expected.values())


def test_what_is_not_grpc_gets_an_http_status() -> None:
    server = Connection(client=False)
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    client.initiate_connection()
    for method, content in (("GET", "application/grpc"), ("POST", "text/html")):
        client.send_headers(client.get_next_available_stream_id(),
                            [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", "/"),
                             ("content-type", content)])
    assert server.receive_data(client.data_to_send()) == []
    answers = [dict(event.headers)[":status"] for event in client.receive_data(server.data_to_send())
               if hasattr(event, "headers")]
    assert answers == ["405", "415"]


@pytest.mark.parametrize("nonsense", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
                                      b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"x" * 50])
def test_a_server_is_told_nonsense(nonsense: bytes) -> None:
    with pytest.raises(ConnectionFailed):
        Connection(client=False).receive_data(nonsense)


@pytest.mark.parametrize("nonsense", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 400 Bad Request\r\n", b"\x00" * 40])
def test_a_client_is_told_nonsense(nonsense: bytes) -> None:
    with pytest.raises(ConnectionFailed):
        Connection(client=True, authority="x").receive_data(nonsense)


def test_random_bytes_never_do_more_than_fail() -> None:
    dice = random.Random(3)
    for _ in range(300):
        pair = Pair()
        call = pair.client.start(grpc.WRITE_MESSAGES)
        pair.client.send_data(call, encoded(PAYLOADS[:2]))
        data = bytearray(pair.client.data_to_send())
        for _ in range(dice.randrange(1, 6)):
            data[dice.randrange(24, len(data))] = dice.randrange(256)
        server = Connection(client=False)
        try:
            for event in server.receive_data(bytes(data)):
                if isinstance(event, Opened):
                    server.bulk(event.call)
        except ConnectionFailed:
            continue


def test_going_away_is_heard() -> None:
    pair = Pair()
    pair.exchange()
    pair.server.go_away()
    pair.exchange()
    assert isinstance(pair.at_client[-1], Closing)


def test_nothing_said_after_the_other_side_went_away_is_an_error() -> None:
    """A client that says GOAWAY has heard enough; the server goes on without it."""
    pair = Pair()
    call, other = pair.client.start(grpc.WRITE_MESSAGES), pair.client.start("/a/B")
    pair.exchange()
    pair.client.go_away()
    pair.exchange()
    pair.server.answer(call)
    pair.server.send_small(call, grpc.EMPTY_MESSAGE)
    pair.server.finish(call, Status.OK)
    pair.server.finish(other, Status.UNIMPLEMENTED, "no")
    pair.server.data_to_send()
    with pytest.raises(ConnectionFailed):
        pair.client.start("/a/B")

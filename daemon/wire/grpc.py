"""gRPC, as much of it as Rerun's log streams need: messages in HTTP/2, and log messages in them. Sans-IO.

    call      = HTTP/2 stream: POST /<service>/<method>, DATA..., answered by headers, DATA..., trailers (grpc-status)
    message   = compressed u8 (0) · length u32 BE · body[length]              in DATA, cut anywhere
    body      = LogMsg as field 1 of WriteMessagesRequest and of ReadMessagesResponse:
                0A len · tag len · payload          tag = frame kind << 3 | 2: 0A store info, 12 arrow, 1A activation
    frame     = the same payload behind the 16 bytes of wire/rrd.py

Rules: between .rrd and gRPC only the envelope changes, payloads are not looked at and, cut into parts, not copied; a
length from outside is compared with a limit, and only what has arrived is held; every fault is either the call's
(CallError: the connection goes on) or the connection's (ConnectionFailed: it is of no further use). h2 carries HTTP/2;
flow control is the caller's: data is acknowledged when it has been dealt with, and sent no further than `window`.

Source: gRPC's PROTOCOL-HTTP2.md; rerun/sdk_comms/v1alpha1 of Rerun, measured with SDK 0.23.4 to 0.41.0.
"""

from __future__ import annotations

import contextlib
import enum
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import quote, unquote, urlsplit

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import hyperframe.frame

from daemon.wire.protobuf import FIXED32, encode_uvarint, fields, length_delimited, uvarint, varint_field
from daemon.wire.rrd import Kind, frame_header

Buffer: TypeAlias = bytes | memoryview

PROXY_SERVICE = "/rerun.sdk_comms.v1alpha1.MessageProxyService/"
WRITE_MESSAGES = PROXY_SERVICE + "WriteMessages"
READ_MESSAGES = PROXY_SERVICE + "ReadMessages"
CLOUD_VERSION = "/rerun.cloud.v1alpha1.RerunCloudService/Version"
IDENTIFY = "/rrd.v1.Daemon/Identify"
"""Our own method: Request{} -> Reply{1: version text, 2: pid, 3: instance id}. Only an rrd daemon answers it."""

DEFAULT_PORT = 9876
"""Rerun's own port."""

MAX_MESSAGE = (1 << 31) - 1
"""Protobuf itself stops here. gRPC's usual 4 MiB would lose data while the program exits 0."""
MAX_SMALL_MESSAGE = 1 << 20
"""Answers to questions (who are you, which version) are short."""
RECEIVE_WINDOW = 1 << 30
"""Flow control never holds a program back: reading from the socket does, and only when the disk is full."""
MAX_INBOUND_FRAME = (1 << 24) - 1
"""The largest DATA frame HTTP/2 has: few big frames cost less than many small ones."""
MAX_WINDOW = (1 << 31) - 1
"""RFC 9113, 6.9.1."""
MAX_CALLS = 100
"""At once on one connection. The SDK has one for each recording stream."""

PREFACE_SIZE = 24
"""`PRI * HTTP/2.0...`: what a client says before its first frame (RFC 9113, 3.4)."""
FRAME_HEADER_SIZE = 9
DATA_FRAME, SETTINGS_FRAME, WINDOW_UPDATE_FRAME = 0, 4, 8
"""HTTP/2's frame header: length u24, type u8, flags u8, stream u31 (RFC 9113, 4.1)."""

_PREFIX = struct.Struct(">BI")
EMPTY_MESSAGE = _PREFIX.pack(0, 0)
"""A message without fields, with its prefix."""

_REQUEST_TAG = 0x0A
_KIND_OF_TAG = {kind << 3 | 2: kind for kind in (Kind.STORE_INFO, Kind.ARROW, Kind.ACTIVATION)}
_LONGEST_PREFIX = _PREFIX.size + 2 * (1 + 5)


class Status(enum.IntEnum):
    """The gRPC status codes that are used here."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class CallError(Exception):
    """A call cannot go on; the connection can. `status` and the message are for the other side."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


class ConnectionFailed(Exception):
    """The other side broke HTTP/2, or never spoke it. Send what `data_to_send` still has, then close."""


# ---------------------------------------------------------------- addresses


@dataclass(frozen=True, slots=True)
class Address:
    """A Rerun server, as its URL names it."""

    host: str
    port: int
    secure: bool = False

    @property
    def authority(self) -> str:
        """`host:port`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """What `connect_grpc` takes."""
        return f"rerun+{'https' if self.secure else 'http'}://{self.authority}/proxy"


_SCHEMES = {"rerun": True, "rerun+https": True, "rerun+http": False, "https": True, "http": False}
"""Whether TLS carries it; `rerun://` is TLS, as in Rerun. The plain ones are what people paste."""


def parse_url(text: str) -> Address:
    """Read `rerun+http://HOST:PORT/proxy`, `rerun://`, `rerun+https://`, `HOST:PORT`, or a port of this machine.

    Raises:
        ValueError: it is none of these. The message says what is wrong.
    """
    if text.isdecimal():
        text = f"127.0.0.1:{text}"
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "rerun+http", text
    if scheme not in _SCHEMES:
        raise ValueError(f"unknown scheme {scheme}:// (there are rerun+http://, rerun+https:// and rerun://): {text}")
    authority, _, path = rest.partition("/")
    if path not in ("", "proxy"):
        raise ValueError(f"the path must be /proxy, found /{path}: {text}")
    parts = urlsplit(f"//{authority}")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"not a port: {text}") from None
    if not parts.hostname or parts.username or port == 0:
        raise ValueError(f"not a server's address: {text}")
    return Address(parts.hostname, port or DEFAULT_PORT, _SCHEMES[scheme])


# ---------------------------------------------------------------- messages


@dataclass(frozen=True, slots=True)
class Frame:
    """One log message: its kind, and its payload as the parts in which it arrived."""

    kind: int
    length: int
    parts: tuple[Buffer, ...]

    def payload(self) -> bytes:
        """The payload in one piece (a copy)."""
        return b"".join(self.parts)

    def pieces(self) -> Iterator[Buffer]:
        """The frame as it stands in an .rrd: 16 bytes, then the payload's parts."""
        yield frame_header(self.kind, self.length)
        yield from self.parts


class FrameReader:
    """DATA of a WriteMessages request (or a ReadMessages answer) in, frames out.

    Holds at most one message, as views of the chunks that carried it.
    """

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self._max = max_message
        self._chunk = memoryview(b"")
        self._kind = 0
        self._length = 0
        self._missing = 0
        self._parts: list[Buffer] | None = None  # None: between two messages

    def receive_data(self, data: Buffer) -> None:
        """Store bytes that arrived; `next_frame` must have returned None before."""
        self._chunk = memoryview(bytes(self._chunk) + data) if self._chunk else memoryview(data)

    def next_frame(self) -> Frame | None:
        """The next whole message, or None until more arrives. Messages that hold no log message are passed over.

        Raises:
            CallError: not a gRPC message, a compressed one, one that is too long, or no log message.
        """
        while True:
            if self._parts is None and not self._begin():
                return None
            assert self._parts is not None
            if self._missing:
                part = self._chunk[: self._missing]
                if part:
                    self._parts.append(part)
                    self._missing -= len(part)
                    self._chunk = self._chunk[len(part) :]
                if self._missing:
                    return None
            frame = self._finish()
            if frame is not None:
                return frame

    @property
    def at_boundary(self) -> bool:
        """Whether everything that arrived was whole messages."""
        return self._parts is None and not self._chunk

    @property
    def pending(self) -> int:
        """Bytes held of a message that has not arrived whole."""
        return len(self._chunk) + sum(len(part) for part in self._parts or ())

    def _begin(self) -> bool:
        """Read a message's prefix and envelope; False if they are not all there."""
        chunk = self._chunk
        if len(chunk) < _PREFIX.size:
            return False
        compressed, size = _PREFIX.unpack_from(chunk)
        if compressed:
            # grpc-encoding is never offered, so a peer that compresses has not looked.
            raise CallError(Status.UNIMPLEMENTED, f"compressed message (flag {compressed})")
        if size > self._max:
            raise CallError(Status.RESOURCE_EXHAUSTED, f"a message of {size} bytes, at most {self._max} are possible")
        self._kind, self._length, start = 0, size, _PREFIX.size
        if size:
            if len(chunk) < min(_LONGEST_PREFIX, _PREFIX.size + size):
                return False
            envelope = _usual_envelope(chunk, _PREFIX.size, size)
            if envelope is not None:
                self._kind, self._length, start = envelope
        self._missing = self._length
        self._parts = []
        self._chunk = chunk[start:]
        return True

    def _finish(self) -> Frame | None:
        parts, self._parts = tuple(self._parts or ()), None
        if self._kind:
            return Frame(self._kind, self._length, parts)
        return _unusual_envelope(b"".join(parts))


def _usual_envelope(data: memoryview, at: int, size: int) -> tuple[int, int, int] | None:
    """Kind, length and start of the payload, if the message is one log message and no more, as every SDK writes it."""
    end = at + size
    if data[at] != _REQUEST_TAG:
        return None
    try:
        length, at = uvarint(data, at + 1)
        if at + length != end or not length:
            return None
        kind = _KIND_OF_TAG.get(data[at])
        length, at = uvarint(data, at + 1)
    except (ValueError, IndexError):
        return None
    return (kind, length, at) if kind is not None and at + length == end else None


def _unusual_envelope(body: bytes) -> Frame | None:
    """A message with other fields, another order, or nothing in it."""
    found: Frame | None = None
    try:
        for number, wire_type, message in fields(memoryview(body)):
            if number != 1:
                continue
            if wire_type != 2 or isinstance(message, int):
                raise CallError(Status.INVALID_ARGUMENT, "field 1 of the request is no message")
            for inner, inner_type, payload in fields(message):
                if (kind := _KIND_OF_TAG.get(inner << 3 | inner_type)) is not None and not isinstance(payload, int):
                    found = Frame(kind, len(payload), (payload,))
    except ValueError as error:
        raise CallError(Status.INVALID_ARGUMENT, f"no log message: {error}") from error
    return found


def envelope(kind: int, length: int) -> bytes:
    """What stands before a payload of `length` bytes on its way to a viewer: gRPC's prefix and the envelope.

    Raises:
        ValueError: gRPC cannot carry a message that long.
    """
    inner = encode_uvarint(kind << 3 | 2) + encode_uvarint(length)
    outer = b"\x0a" + encode_uvarint(len(inner) + length)
    size = len(outer) + len(inner) + length
    if size > MAX_MESSAGE:
        raise ValueError(f"a message of {size} bytes, gRPC carries at most {MAX_MESSAGE}")
    return _PREFIX.pack(0, size) + outer + inner


def message(body: bytes) -> bytes:
    """A small message with gRPC's prefix."""
    return _PREFIX.pack(0, len(body)) + body


@dataclass(frozen=True, slots=True)
class Identity:
    """What our own method answers. `instance` is new for each daemon process."""

    version: str
    pid: int
    instance: str

    def encode(self) -> bytes:
        """The message's body."""
        return b"".join((
            length_delimited(1, self.version.encode()),
            varint_field(2, self.pid),
            length_delimited(3, self.instance.encode()),
        ))


def parse_identity(body: bytes) -> Identity | None:
    """Read an Identity; None if it is none."""
    version, pid, instance = "", 0, ""
    try:
        for number, _, value in fields(body):
            if number == 2 and isinstance(value, int):
                pid = value
            elif number == 1 and not isinstance(value, int):
                version = bytes(value).decode()
            elif number == 3 and not isinstance(value, int):
                instance = bytes(value).decode()
    except ValueError:
        return None
    return Identity(version, pid, instance) if version else None


def parse_cloud_version(body: bytes) -> tuple[int, int, int] | None:
    """The version in an answer of CLOUD_VERSION, or None.

    Source: VersionResponse{1: BuildInfo{3: SemanticVersion{1 major, 2 minor, 3 patch: fixed32}}}, seen with
    0.36.3 and 0.41.0 (headless and windowed; `--serve-grpc` does not know the method).
    """
    try:
        numbers: dict[int, int] = {}
        for number, _, build in fields(body):
            if number != 1 or isinstance(build, int):
                continue
            for inner, _, version in fields(build):
                if inner != 3 or isinstance(version, int):
                    continue
                for part, wire_type, raw in fields(version):
                    if wire_type == FIXED32 and not isinstance(raw, int):
                        numbers[part] = int.from_bytes(raw, "little")
    except ValueError:
        return None
    return (numbers.get(1, 0), numbers.get(2, 0), numbers.get(3, 0)) if numbers else None


class SmallReader:
    """DATA of an answer in, message bodies out; nothing longer than MAX_SMALL_MESSAGE."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: Buffer) -> None:
        """Store bytes that arrived."""
        self._buffer += data

    def next_message(self) -> bytes | None:
        """The next whole body, or None until more arrives.

        Raises:
            CallError: compressed, or too long.
        """
        if len(self._buffer) < _PREFIX.size:
            return None
        compressed, size = _PREFIX.unpack_from(self._buffer)
        if compressed or size > MAX_SMALL_MESSAGE:
            raise CallError(Status.UNIMPLEMENTED, "compressed or overlong answer")
        if len(self._buffer) < _PREFIX.size + size:
            return None
        body = bytes(self._buffer[_PREFIX.size : _PREFIX.size + size])
        del self._buffer[: _PREFIX.size + size]
        return body


# ---------------------------------------------------------------- connection


@dataclass(frozen=True, slots=True)
class Opened:
    """A client began a call. `timeout` (seconds) is its deadline, from now."""

    call: int
    method: str
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Data:
    """DATA of a call. `credit` is what to give back with `acknowledge` when the data has been dealt with."""

    call: int
    data: Buffer
    credit: int


@dataclass(frozen=True, slots=True)
class HalfClosed:
    """The other side has said all it had to say in this call."""

    call: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The server's headers arrived: it has taken the call on."""

    call: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The call is over: the server's trailers, or a reset by the other side (then CANCELLED, or what fits)."""

    call: int
    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Closing:
    """The other side will take no new calls (GOAWAY)."""

    message: str


Event: TypeAlias = Opened | Data | HalfClosed | Answered | Finished | Closing

_RESET_STATUS: dict[int, Status] = {
    h2.errors.ErrorCodes.REFUSED_STREAM: Status.UNAVAILABLE,
    h2.errors.ErrorCodes.CANCEL: Status.CANCELLED,
    h2.errors.ErrorCodes.ENHANCE_YOUR_CALM: Status.RESOURCE_EXHAUSTED,
}
_UNHEARD = contextlib.suppress(h2.exceptions.ProtocolError)
"""Whoever has said GOAWAY, or left a call, hears no more of it: h2 then says nothing, and there is nothing to say."""
_TIMEOUT_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class Connection:
    """One HTTP/2 connection that carries gRPC calls: bytes in, events out.

    Args:
        client: Which side we are.
        authority: `host:port` of the server, for the client side.
        secure: Whether TLS carries the connection.
    """

    def __init__(self, *, client: bool, authority: str = "", secure: bool = False) -> None:
        self._client = client
        self._authority = authority
        self._scheme = "https" if secure else "http"
        self._out: list[Buffer] = []
        self._open: set[int] = set()
        self._answered: set[int] = set()
        self._bulk: set[int] = set()
        self._bulk_left = self._bulk_call = 0
        self._credit: dict[int, int] = {}
        self._head = b""
        self._settled = False
        self._other_left = 0 if client else PREFACE_SIZE
        config = h2.config.H2Configuration(client_side=client, header_encoding="utf-8")
        self._h2 = h2.connection.H2Connection(config)
        codes = h2.settings.SettingCodes
        values = {
            codes.INITIAL_WINDOW_SIZE: RECEIVE_WINDOW,
            codes.MAX_FRAME_SIZE: MAX_INBOUND_FRAME,
            codes.MAX_HEADER_LIST_SIZE: 1 << 16,
        }
        if client:
            values[codes.ENABLE_PUSH] = 0
        else:
            values[codes.MAX_CONCURRENT_STREAMS] = MAX_CALLS
        self._h2.local_settings = h2.settings.Settings(client=client, initial_values=values)
        # The other side may use these as soon as it has read them, h2 allows them only once acknowledged.
        self._h2.max_inbound_frame_size = MAX_INBOUND_FRAME
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(RECEIVE_WINDOW)

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes from the socket.

        h2 copies and prints every DATA frame it sees, which takes longer than everything else together; so DATA of bulk
        calls goes past it, as it comes, and h2 gets the rest.

        Raises:
            ConnectionFailed: they are no HTTP/2, or break its rules.
        """
        events: list[Event] = []
        view = memoryview(data)
        while view:
            if self._bulk_left:
                part, view = view[: self._bulk_left], view[self._bulk_left :]
                self._bulk_left -= len(part)
                events.append(Data(self._bulk_call, part, len(part)))
                continue
            if not self._other_left:
                missing = FRAME_HEADER_SIZE - len(self._head)
                self._head += view[:missing]
                view = view[missing:]
                if len(self._head) < FRAME_HEADER_SIZE:
                    break
                head, self._head = self._head, b""
                length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                call = int.from_bytes(head[5:], "big") & 0x7FFF_FFFF
                if not self._settled and kind != SETTINGS_FRAME:
                    raise ConnectionFailed(f"it begins with {bytes(data[:12])!r}")
                self._settled = True
                if kind == DATA_FRAME and flags == 0 and call in self._bulk and call in self._open:
                    self._bulk_left, self._bulk_call = length, call
                    continue
                if kind == WINDOW_UPDATE_FRAME and length == 4 and len(view) >= 4 and self._widen(call, view[:4]):
                    view = view[4:]
                    continue
                self._other_left = length
                events += self._pass(head)
            if self._other_left:
                part, view = view[: self._other_left], view[self._other_left :]
                self._other_left -= len(part)
                if part:
                    events += self._pass(part)
        return events

    def _pass(self, data: Buffer) -> Iterator[Event]:
        try:
            received = self._h2.receive_data(bytes(data))
        except h2.exceptions.ProtocolError as error:
            raise ConnectionFailed(str(error) or type(error).__name__) from error
        for event in received:
            yield from self._translate(event)

    def _widen(self, call: int, body: Buffer) -> bool:
        """Take more room to send in; False leaves it to h2, which takes ten times as long and knows what is wrong.

        A viewer says this for every few frames that it has read.
        """
        room = int.from_bytes(body, "big")
        window = self._h2 if call == 0 else self._h2.streams.get(call) if call in self._open else None
        if window is None or not 0 < room <= MAX_WINDOW - window.outbound_flow_control_window:
            return False
        window.outbound_flow_control_window += room
        return True

    def bulk(self, call: int) -> None:
        """Expect much DATA in this call."""
        self._bulk.add(call)

    def data_to_send(self) -> bytes:
        """What is to be written to the socket now."""
        return b"".join(self.parts_to_send())

    def parts_to_send(self) -> list[Buffer]:
        """The same in parts, in order, as they were said: big ones are not copied."""
        self._drain()
        out, self._out = self._out, []
        return out

    @property
    def unsent(self) -> int:
        """Bytes that `data_to_send` would return."""
        self._drain()
        return sum(len(part) for part in self._out)

    def _drain(self) -> None:
        """Take what h2 has to say, behind what was said before."""
        data = self._h2.data_to_send()
        if data:
            self._out.append(data)

    def acknowledge(self, event: Data) -> None:
        """Give the other side back the room that this data took."""
        if event.call not in self._bulk:
            if event.credit:
                with _UNHEARD:
                    self._h2.acknowledge_received_data(event.credit, event.call)
            return
        for window in (0, event.call):
            credit = self._credit.get(window, 0) + event.credit
            if credit >= RECEIVE_WINDOW // 4:
                if window == 0 or window in self._open:
                    update = hyperframe.frame.WindowUpdateFrame(window, window_increment=credit)
                    self._drain()
                    self._out.append(update.serialize())
                credit = 0
            self._credit[window] = credit

    def forget(self, call: int) -> None:
        """Nothing more is asked about this call."""
        self._bulk.discard(call)
        self._credit.pop(call, None)

    def is_open(self, call: int) -> bool:
        """Whether anything can still be said in the call."""
        return call in self._open

    def window(self, call: int) -> int:
        """Bytes that may be sent now; 0 while flow control holds us back."""
        return max(0, self._h2.local_flow_control_window(call)) if call in self._open else 0

    def send_data(self, call: int, data: Buffer) -> None:
        """Send at most `window(call)` bytes.

        h2 takes 40 us for a DATA frame, and servers allow 16 KiB a frame: so the frames are made here, and h2's two
        windows, which are public, are told of them.
        """
        view, size = memoryview(data), len(data)
        if size > self.window(call):
            raise ValueError(f"{size} bytes, flow control allows {self.window(call)}")
        self._drain()
        most = self._h2.max_outbound_frame_size
        out, tail = self._out, bytes(2) + call.to_bytes(4, "big")
        for start in range(0, size, most):
            part = view[start : start + most]
            out.append(len(part).to_bytes(3, "big") + tail)
            out.append(part)
        self._h2.outbound_flow_control_window -= size
        self._h2.streams[call].outbound_flow_control_window -= size

    # ---- client side

    def start(self, method: str) -> int:
        """Begin a call; its number.

        Raises:
            ConnectionFailed: the server takes no more calls on this connection.
        """
        try:
            call: int = self._h2.get_next_available_stream_id()
            self._h2.send_headers(
                call,
                [
                    (":method", "POST"),
                    (":scheme", self._scheme),
                    (":authority", self._authority),
                    (":path", method),
                    ("te", "trailers"),
                    ("content-type", "application/grpc"),
                    ("user-agent", "rrd"),
                ],
            )
        except (h2.exceptions.ProtocolError, h2.exceptions.NoAvailableStreamIDError) as error:
            raise ConnectionFailed(f"no new call: {error}") from error
        self._open.add(call)
        return call

    def half_close(self, call: int) -> None:
        """Say that nothing more comes in this call."""
        if call in self._open:
            with _UNHEARD:
                self._h2.end_stream(call)

    def cancel(self, call: int) -> None:
        """Give the call up."""
        if call in self._open:
            self._open.discard(call)
            with _UNHEARD:
                self._h2.reset_stream(call, h2.errors.ErrorCodes.CANCEL)

    # ---- server side

    def answer(self, call: int) -> None:
        """Send the headers of an answer, once; data may follow."""
        if call in self._open and call not in self._answered:
            self._answered.add(call)
            with _UNHEARD:
                self._h2.send_headers(call, [(":status", "200"), ("content-type", "application/grpc")])

    def send_small(self, call: int, data: bytes) -> None:
        """Send a short answer at once. A client that leaves no room for a few bytes goes without it."""
        if len(data) <= self.window(call):
            self.send_data(call, data)

    def finish(self, call: int, status: int, text: str = "") -> None:
        """End a call with a status. Does nothing when the client has already gone from it."""
        if call not in self._open:
            return
        self._open.discard(call)
        trailers = [("grpc-status", str(int(status)))]
        if text:
            trailers.append(("grpc-message", quote(text, safe=" !#$&'()*+,/:;=?@[]")))
        if call not in self._answered:
            trailers = [(":status", "200"), ("content-type", "application/grpc"), *trailers]
        self._answered.discard(call)
        with _UNHEARD:
            self._h2.send_headers(call, trailers, end_stream=True)
            if status != Status.OK:
                # The client may still be sending: NO_ERROR after the answer tells it to stop (RFC 9113, 8.1).
                self._h2.reset_stream(call, h2.errors.ErrorCodes.NO_ERROR)

    def go_away(self) -> None:
        """Tell the other side that the connection ends; what it has sent stays valid."""
        with _UNHEARD:
            self._h2.close_connection()

    # ---- h2's events

    def _translate(self, event: h2.events.Event) -> Iterator[Event]:
        if isinstance(event, h2.events.DataReceived):
            yield Data(event.stream_id, event.data, event.flow_controlled_length)
        elif isinstance(event, h2.events.StreamEnded):
            if not self._client:
                yield HalfClosed(event.stream_id)
            elif event.stream_id in self._open:
                self._open.discard(event.stream_id)
                yield Finished(event.stream_id, Status.UNKNOWN, "the server ended the call without a status")
        elif isinstance(event, h2.events.RequestReceived):
            yield from self._request(event.stream_id, _text(event.headers))
        elif isinstance(event, h2.events.ResponseReceived):
            yield from self._response(event.stream_id, _text(event.headers))
        elif isinstance(event, h2.events.TrailersReceived):
            if self._client and event.stream_id in self._open:
                yield self._status(event.stream_id, _text(event.headers))
        elif isinstance(event, h2.events.StreamReset):
            if event.stream_id in self._open:
                self._open.discard(event.stream_id)
                self._answered.discard(event.stream_id)
                status = _RESET_STATUS.get(int(event.error_code or 0), Status.CANCELLED)
                yield Finished(event.stream_id, status, f"reset by the other side ({event.error_code})")
        elif isinstance(event, h2.events.ConnectionTerminated):
            text = bytes(event.additional_data or b"").decode("utf-8", "replace")
            yield Closing(text or f"going away ({event.error_code})")

    def _request(self, call: int, headers: dict[str, str]) -> Iterator[Event]:
        content = headers.get("content-type", "")
        if headers.get(":method") != "POST" or not content.startswith("application/grpc"):
            status = "405" if headers.get(":method") != "POST" else "415"
            with _UNHEARD:
                self._h2.send_headers(call, [(":status", status)], end_stream=True)
            return
        self._open.add(call)
        yield Opened(call, headers.get(":path", ""), _parse_timeout(headers.get("grpc-timeout", "")))

    def _response(self, call: int, headers: dict[str, str]) -> Iterator[Event]:
        if headers.get(":status") != "200":
            self._open.discard(call)
            yield Finished(call, Status.UNAVAILABLE, f"HTTP status {headers.get(':status')}")
        elif "grpc-status" in headers:  # an answer that is only trailers
            yield self._status(call, headers)
        else:
            yield Answered(call)

    def _status(self, call: int, headers: dict[str, str]) -> Finished:
        self._open.discard(call)
        text = headers.get("grpc-status", "")
        status = int(text) if text.isdecimal() else Status.UNKNOWN
        return Finished(call, status, unquote(headers.get("grpc-message", "")))


def _text(headers: Iterable[tuple[bytes, bytes] | tuple[str, str]]) -> dict[str, str]:
    """Headers as text. h2 decodes them as its configuration says; its types cannot say so."""
    return {str(name): str(value) for name, value in headers}


def _parse_timeout(text: str) -> float | None:
    """`grpc-timeout`: at most eight digits and a unit. Nonsense counts as no deadline."""
    if 2 <= len(text) <= 9 and text[:-1].isdecimal() and text[-1] in _TIMEOUT_UNITS:
        return int(text[:-1]) * _TIMEOUT_UNITS[text[-1]]
    return None

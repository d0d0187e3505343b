"""The control protocol: what a client says to the daemon over the Unix socket. Sans-IO.

    message  = length u32 BE · CBOR map[length]                     at most 1 MiB
    client:    {"id": n, "verb": "hello", "args": {"protocol": 1, "agent": "rrd-cli 0.1.0", "pid": 4711}}   always first
               {"id": n, "verb": "save", "args": {...}}              descriptors ride along as SCM_RIGHTS
    daemon:    {"id": n, "ok": {...}}                                the end of request n
               {"id": n, "error": {"code": "...", "message": "...", "hint": "..."}}   likewise
               {"id": n, "progress": {...}}                          any number before the end
               {"event": "ended", "data": {...}}                     unasked, to the client it concerns

Rules: `id` is chosen by the client, a positive integer, and is echoed; requests of one connection are answered
in any order; unknown keys are ignored, unknown verbs are an error of code "unknown-verb"; both sides say which
protocol they speak in hello and neither goes on with one it does not know. ARCHITECTURE.md has the verbs and
their arguments; tests/data/control/ holds the vectors that every shim is tested with.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import cbor2

PROTOCOL = 1
MAX_MESSAGE = 1 << 20
"""One message is a verb with its arguments: 1 MiB is a thousand times what they need, and little to lose."""
MAX_DEPTH = 16
"""No message nests deeper; a bound keeps the decoder's recursion small."""
MAX_DESCRIPTORS = 4
"""Descriptors that may ride along with one request."""

_LENGTH = struct.Struct(">I")

Message = dict[str, Any]


class ProtocolError(Exception):
    """Something is no message. When the other side sent it, the connection is of no further use."""


class VerbError(Exception):
    """A verb failed or was refused: what the client is told.

    Args:
        code: One of CODES.
        message: One line for a person, without "error:".
        hint: What to do about it, or empty.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


CODES = frozenset({
    "usage",          # the request makes no sense as written
    "unknown-verb",   # a newer client, an older daemon
    "protocol",       # the two sides have no protocol in common
    "not-found",      # no such recording, stream, sink, file
    "ambiguous",      # several recordings fit: the message lists them
    "exists",         # the target exists, or is being written by another sink
    "refused",        # not allowed, or not safe
    "failed",         # tried, and did not work
    "not-built",      # a verb of a later version
    "stopping",       # the daemon is on its way out
})


def encode(message: Message) -> bytes:
    """A message as it goes over the socket.

    Raises:
        ProtocolError: it is longer than MAX_MESSAGE, or a text in it is a path whose bytes are not UTF-8.
    """
    try:
        body = cbor2.dumps(message)
    except UnicodeEncodeError as error:
        raise ProtocolError(f"not UTF-8: {error.object.encode(errors='backslashreplace').decode()}") from error
    if len(body) > MAX_MESSAGE:
        raise ProtocolError(f"message of {len(body)} bytes, at most {MAX_MESSAGE} are allowed")
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Bytes in, messages out. Keeps at most one message and what followed it in the same read."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> None:
        """Store bytes that arrived."""
        self._buffer += data

    def next_message(self) -> Message | None:
        """The next whole message, or None until more bytes arrive.

        Raises:
            ProtocolError: the bytes are no message: too long, no CBOR, no map, trailing bytes.
        """
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_MESSAGE:
            raise ProtocolError(f"a message of {length} bytes is announced, at most {MAX_MESSAGE} are allowed")
        if len(self._buffer) < _LENGTH.size + length:
            return None
        body = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
        del self._buffer[: _LENGTH.size + length]
        return _decode(body)

    @property
    def pending(self) -> int:
        """Bytes of a message that has not arrived whole."""
        return len(self._buffer)


def _decode(body: bytes) -> Message:
    stream = io.BytesIO(body)
    try:
        message = cbor2.CBORDecoder(stream).decode()
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError, OverflowError, MemoryError) as error:
        raise ProtocolError(f"not CBOR: {error}") from error
    if stream.tell() != len(body):
        raise ProtocolError(f"{len(body) - stream.tell()} bytes after the message")
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise ProtocolError("a message must be a CBOR map with text keys")
    if _depth(message) > MAX_DEPTH:
        raise ProtocolError(f"a message nested deeper than {MAX_DEPTH}")
    return message


def _depth(value: object) -> int:
    deepest, todo = 0, [(value, 1)]
    while todo and deepest <= MAX_DEPTH:
        item, level = todo.pop()
        deepest = max(deepest, level)
        if isinstance(item, dict):
            todo += [(child, level + 1) for child in item.values()]
        elif isinstance(item, list | tuple):
            todo += [(child, level + 1) for child in item]
    return deepest


def hello(agent: str, pid: int) -> Message:
    """The first message of every client."""
    return {"id": 1, "verb": "hello", "args": {"protocol": PROTOCOL, "agent": agent, "pid": pid}}


def ok(request_id: int, result: Message) -> Message:
    """The answer to a request that worked."""
    return {"id": request_id, "ok": result}


def error(request_id: int, failure: VerbError) -> Message:
    """The answer to a request that did not."""
    return {
        "id": request_id,
        "error": {"code": failure.code, "message": failure.message, "hint": failure.hint},
    }


def progress(request_id: int, state: Message) -> Message:
    """How far a request has come."""
    return {"id": request_id, "progress": state}


def event(name: str, data: Message) -> Message:
    """Something the client did not ask for just now, but should know."""
    return {"event": name, "data": data}


def protocol_mismatch(client: object, client_agent: str, version: str) -> VerbError:
    """What is said when a client speaks a protocol that this daemon does not."""
    newer = isinstance(client, int) and client > PROTOCOL
    return VerbError(
        "protocol",
        f"{client_agent or 'the client'} speaks protocol {client}, the daemon (rrd {version}) speaks {PROTOCOL}",
        "the daemon is older: run `rrd daemon restart` (nothing is lost)"
        if newer
        else f"the client is older: upgrade it (pip install -U rrd-cli) to {version}",
    )

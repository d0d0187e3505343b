"""The control protocol as the shim speaks it. Sans-IO.

    message = length u32 BE · CBOR map[length]          at most 1 MiB

Rules: this is an own implementation, held to the vectors in tests/data/control/ like every shim's, because the
daemon may live in another environment than the program; cbor2 is imported at the first message, not before.
"""

from __future__ import annotations

import io
import struct
from typing import Any

PROTOCOL = 1
MAX_MESSAGE = 1 << 20
"""The longest message either side accepts."""
MAX_DEPTH = 16
"""No message nests deeper."""

_LENGTH = struct.Struct(">I")

Message = dict[str, Any]


class ProtocolError(Exception):
    """Something is no message. When the other side sent it, the connection is of no further use."""


def encode(message: Message) -> bytes:
    """A message as it goes over the socket.

    Raises:
        ProtocolError: it is longer than MAX_MESSAGE, or a text in it is a path whose bytes are not UTF-8.
    """
    import cbor2

    try:
        body: bytes = cbor2.dumps(message)
    except UnicodeEncodeError as error:
        raise ProtocolError(f"not UTF-8: {error.object.encode(errors='backslashreplace').decode()}") from error
    if len(body) > MAX_MESSAGE:
        raise ProtocolError(f"message of {len(body)} bytes, at most {MAX_MESSAGE} are allowed")
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Bytes in, messages out."""

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
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return _decode(body)


def _decode(body: bytes) -> Message:
    import cbor2

    stream = io.BytesIO(body)
    try:
        message = cbor2.CBORDecoder(stream).decode()
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError, OverflowError, MemoryError) as error:
        raise ProtocolError(f"not CBOR: {error}") from error
    if stream.tell() != len(body):
        raise ProtocolError(f"{len(body) - stream.tell()} bytes after the message")
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise ProtocolError("a message must be a CBOR map with text keys")
    if _too_deep(message, MAX_DEPTH):
        raise ProtocolError(f"a message nested deeper than {MAX_DEPTH}")
    return message


def _too_deep(value: object, levels: int) -> bool:
    # Like the daemon: a scalar counts as a level too.
    if levels == 0:
        return True
    if isinstance(value, dict):
        return any(_too_deep(item, levels - 1) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_too_deep(item, levels - 1) for item in value)
    return False

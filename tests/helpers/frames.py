"""Little .rrd streams made by hand: valid frames and envelopes with payloads of any bytes, no pyarrow.

Nothing but the store ids and store infos in them means anything; where a footer is wanted it is one that fits its place
(`sealed`), not one that describes the chunks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import xxhash

from daemon.wire.logmsg import BLUEPRINT, RECORDING
from daemon.wire.protobuf import length_delimited, varint_field
from daemon.wire.rrd import FOOTER_CRC_SEED, FRAME_HEADER_SIZE, Kind, StreamHeader, Tail, frame_header

VERSION = (0, 41, 0, 0)
BARE_END = frame_header(Kind.END, 0)


def header(version: tuple[int, int, int, int] = VERSION) -> bytes:
    """The 12 bytes that open a stream."""
    return StreamHeader(version, 1, 2).encode()


def frame(kind: int, payload: bytes) -> bytes:
    """A frame of any kind."""
    return frame_header(kind, len(payload)) + payload


def store_id(recording: str = "rec", application: str = "app", kind: int = RECORDING) -> bytes:
    """A raw StoreId; without an application as SDKs before 0.25 write it."""
    app = length_delimited(3, length_delimited(1, application.encode())) if application else b""
    return varint_field(1, kind) + length_delimited(2, recording.encode()) + app


def store_info(recording: str = "rec", application: str = "app", *, kind: int = RECORDING,
               version: tuple[int, int, int] = VERSION[:3], old: bool = False) -> bytes:
    """A SetStoreInfo frame. `old` is the shape of SDKs before 0.25: the application stands beside the store id."""
    ours = store_id(recording, "" if old else application, kind)
    app = length_delimited(1, length_delimited(1, application.encode())) if old else b""
    bits = int.from_bytes(bytes(version), "little")
    info = app + length_delimited(2, ours) + length_delimited(6, varint_field(1, bits))
    return frame(Kind.STORE_INFO, length_delimited(1, b"row") + length_delimited(2, info))


def arrow(recording: str = "rec", application: str = "app", *, kind: int = RECORDING, body: bytes = b"chunk",
          static: bool = False, made: float | None = None) -> bytes:
    """An ArrowMsg frame whose payload is no Arrow at all.

    Args:
        made: When, Unix seconds. Without it the id is none, so that readers look into the payload for all they want.
    """
    envelope = length_delimited(1, store_id(recording, application, kind)) + length_delimited(5, body)
    tuid = bytes(16) if made is None else b"\x09" + int(made * 1e9).to_bytes(8, "little") + b"\x11" + bytes(8)
    return frame(Kind.ARROW, envelope + length_delimited(6, tuid) + bytes([0x38, static]))


def activation(recording: str = "bp", application: str = "app") -> bytes:
    """A BlueprintActivationCommand frame."""
    return frame(Kind.ACTIVATION, length_delimited(1, store_id(recording, application, BLUEPRINT)))


def sealed(at: int, footer: bytes = b"\x0a\x00") -> bytes:
    """End, footer and tail for a stream whose frames end at `at`."""
    crc = xxhash.xxh32_intdigest(footer, FOOTER_CRC_SEED)
    return frame(Kind.END, footer) + Tail(at + FRAME_HEADER_SIZE, len(footer), crc).encode()


def stream(*frames: bytes, end: str = "") -> bytes:
    """A whole stream: header, frames, and as `end` nothing, "bare" or "sealed"."""
    data = header() + b"".join(frames)
    return data + {"": b"", "bare": BARE_END, "sealed": sealed(len(data))}[end]


def numbered(count: int, recording: str = "rec", application: str = "app", *, size: int = 8) -> list[bytes]:
    """A store info and `count` messages that can be told from each other."""
    body = [number.to_bytes(4, "little") * (size // 4) for number in range(count)]
    return [store_info(recording, application), *(arrow(recording, application, body=one) for one in body)]


def write(path: Path, *parts: bytes) -> Path:
    """A file of these parts."""
    path.write_bytes(b"".join(parts))
    return path


def opened(path: Path) -> int:
    """A descriptor to read; the test process gives it back at its end."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def frames_of(data: bytes) -> list[tuple[int, bytes]]:
    """Kind and payload of the frames of data, by the plainest reading there is; End, footers and headers left out."""
    found, at = [], 0
    while at < len(data):
        if data[at : at + 4] == b"RRF2":
            at += 12
            continue
        kind, length = int.from_bytes(data[at : at + 8], "little"), int.from_bytes(data[at + 8 : at + 16], "little")
        end = at + 16 + length
        if len(data) < at + 16 or len(data) < end:
            break
        if kind == 0:
            at = end + 32 * (length > 0 or data[end + 24 : end + 28] == b"FOOT")
            continue
        if kind > 3:
            break  # a part of a tail
        found.append((kind, data[at + 16 : end]))
        at = end
    return found


def payloads(frames: Iterable[bytes]) -> list[tuple[int, bytes]]:
    """The same of frames that are in hand."""
    return frames_of(header() + b"".join(frames))

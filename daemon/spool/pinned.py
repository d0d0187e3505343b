"""Which frames every late reader must get: store infos, blueprints with their activation, static chunks.

Rules: a frame's kind and store decide where they can; else two bytes at its end (SDK 0.27 and newer write there
whether the chunk is static), else its schema; what cannot be told counts as not pinned. Synchronous: reads with pread.

Source: log_msg.proto of Rerun (ArrowMsg: 2 compression, 3 uncompressed_size, 5 payload, 7 is_static, last and always
written since 0.27); the column metadata of SDK 0.23 to 0.26, where every time column names its index.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import lz4.block

from daemon.spool.scanner import Frame, Scanner
from daemon.wire.logmsg import BLUEPRINT, parse_store_id
from daemon.wire.protobuf import fields
from daemon.wire.rrd import Kind

STATIC_ENDINGS = {b"\x38\x01": True, b"\x38\x00": False}
"""Field 7 as the last two bytes of an ArrowMsg."""
CHUNK_ID_BEFORE = b"\x32\x12"
"""Field 6, 18 bytes long, which stands before it."""
_LAST_FIELDS = 2 + 18 + 2
BLOCK = 1 << 20
BLOCK_FRAMES = 2000
"""Walked in some 5 ms: a block is walked at once when it is delivered."""
INDEX_NAME = b"index_name"
LZ4 = 2
MAX_OLD = 64 << 20
"""Chunks of old SDKs larger than this are not unpacked to see whether they are static."""


class Skimmed(NamedTuple):
    """What lies between two positions of a log.

    Attributes:
        pinned: Frames to deliver nevertheless, in order.
        messages, bytes: Of the selected frames, with headers.
        position: Where the reader stands now.
        blocks: Where to begin reading to get it piece by piece: each of at most BLOCK bytes and BLOCK_FRAMES,
            or of one frame.
    """

    pinned: list[Frame]
    messages: int
    bytes: int
    position: int
    blocks: list[int]


def skim(fd: int, position: int, end: int, wanted: set[bytes] | None) -> Skimmed:
    """Walk a log and pick the pinned frames.

    Args:
        fd: The log.
        position: A frame boundary.
        end: Where to stop; a frame boundary too.
        wanted: Raw store ids that are selected; None is all.

    Raises:
        OSError: the log cannot be read.
        FormatError: it is damaged.
    """
    scanner = Scanner(fd, position)
    kept: list[Frame] = []
    messages = size = inside = 0
    blocks = [position]
    blueprints: dict[bytes | None, bool] = {}
    for frame in scanner.frames(end):
        if (frame.end - blocks[-1] > BLOCK or inside == BLOCK_FRAMES) and frame.start > blocks[-1]:
            blocks.append(frame.start)
            inside = 0
        inside += 1
        if wanted is not None and frame.store not in wanted:
            continue
        messages += 1
        size += frame.end - frame.start
        if frame.store not in blueprints:
            blueprints[frame.store] = _is_blueprint(frame.store)
        if frame.kind != Kind.ARROW or blueprints[frame.store] or is_static(fd, frame):
            kept.append(frame)
    return Skimmed(kept, messages, size, scanner.position, blocks)


def _is_blueprint(raw: bytes | None) -> bool:
    try:
        return raw is not None and parse_store_id(raw).kind == BLUEPRINT
    except (ValueError, UnicodeDecodeError):
        return False


def is_static(fd: int, frame: Frame) -> bool:
    """Whether a chunk has no time.

    Raises:
        OSError: the log cannot be read.
    """
    if frame.length < _LAST_FIELDS:
        return False
    ending = os.pread(fd, _LAST_FIELDS, frame.end - _LAST_FIELDS)
    if ending.startswith(CHUNK_ID_BEFORE) and ending[-2:] in STATIC_ENDINGS:
        return STATIC_ENDINGS[ending[-2:]]
    return frame.length <= MAX_OLD and _has_no_index(os.pread(fd, frame.length, frame.offset))


def _has_no_index(payload: bytes) -> bool:
    compression = size = 0
    chunk: bytes | memoryview = b""
    try:
        for number, _, value in fields(memoryview(payload)):
            if number == 2 and isinstance(value, int):
                compression = value
            elif number == 3 and isinstance(value, int):
                size = value
            elif number == 5 and not isinstance(value, int):
                chunk = value
        if compression == LZ4:
            if size > MAX_OLD:
                return False
            chunk = lz4.block.decompress(chunk, uncompressed_size=size)
    except (ValueError, lz4.block.LZ4BlockError):
        return False
    return bool(chunk) and INDEX_NAME not in bytes(chunk)

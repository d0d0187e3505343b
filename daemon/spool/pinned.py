"""Which frames every late reader must get: store infos, blueprints with their activation, static chunks; and when the
others were made.

Rules: a frame's kind and store decide where they can; else two bytes at its end (SDK 0.27 and newer write there
whether the chunk is static), else its schema; what cannot be told counts as not pinned. A chunk was made when its id
was, whose first half is a time; older SDKs have it in the schema. Synchronous: reads with pread.

Source: log_msg.proto of Rerun (ArrowMsg: 2 compression, 3 uncompressed_size, 5 payload, 6 chunk_id, a Tuid{1: time_ns
fixed64, 2: inc fixed64}, and 7 is_static, which are always the last two since 0.27); the metadata of SDK 0.23 to 0.26,
where every time column names its index.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Generator
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
ID_IN_SCHEMA = re.compile(rb"chunk_([0-9A-Fa-f]{16})[0-9A-Fa-f]{16}")
"""The chunk's id in its schema's metadata: time, then counter."""
NEWEST = 2000
"""Of so many frames at a log's end the newest is looked for: programs send chunks in about the order they make them."""
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


STEP_FRAMES = 500
"""Frames that a walk passes between two yields: a few milliseconds."""


def skim(
    fd: int, position: int, end: int, wanted: set[bytes] | None, since: int | None = None
) -> Generator[None, None, Skimmed]:
    """Walk a log and pick the pinned frames, a few frames at each step.

    Args:
        fd: The log.
        position: A frame boundary.
        end: Where to stop; a frame boundary too.
        wanted: Raw store ids that are selected; None is all.
        since: Stop before the first other frame that was made then (Unix nanoseconds) or later.

    Raises:
        OSError: the log cannot be read.
        FormatError: it is damaged.
    """
    scanner = Scanner(fd, position)
    kept: list[Frame] = []
    messages = size = inside = 0
    blocks = [position]
    blueprints: dict[bytes | None, bool] = {}
    for number, frame in enumerate(scanner.frames(end), 1):
        if number % STEP_FRAMES == 0:
            yield
        if (frame.end - blocks[-1] > BLOCK or inside == BLOCK_FRAMES) and frame.start > blocks[-1]:
            blocks.append(frame.start)
            inside = 0
        inside += 1
        if wanted is not None and frame.store not in wanted:
            continue
        if frame.store not in blueprints:
            blueprints[frame.store] = _is_blueprint(frame.store)
        if frame.kind != Kind.ARROW or blueprints[frame.store]:
            kept.append(frame)
        else:
            static, made = _peek(fd, frame)
            if static:
                kept.append(frame)
            elif since is not None and made is not None and made >= since:
                return Skimmed(kept, messages, size, frame.start, blocks)
        messages += 1
        size += frame.end - frame.start
    return Skimmed(kept, messages, size, scanner.position, blocks)


def newest(fd: int, end: int, wanted: set[bytes] | None) -> Generator[None, None, int | None]:
    """Walk a log and see when its newest chunk was made; of the last NEWEST ones.

    Returns:
        Unix nanoseconds of the clock of the program; None if there is none, or none says.

    Raises:
        OSError, FormatError: as in `skim`.
    """
    last: deque[Frame] = deque(maxlen=NEWEST)
    for number, frame in enumerate(Scanner(fd).frames(end), 1):
        if number % STEP_FRAMES == 0:
            yield
        if frame.kind == Kind.ARROW and (wanted is None or frame.store in wanted):
            last.append(frame)
    return max((made for frame in last if (made := _peek(fd, frame)[1]) is not None), default=None)


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
    return _peek(fd, frame)[0]


def _peek(fd: int, frame: Frame) -> tuple[bool, int | None]:
    """Whether a chunk is static, and when it was made: Unix nanoseconds, None if that cannot be told.

    Raises:
        OSError: the log cannot be read.
    """
    if frame.length < _LAST_FIELDS:
        return False, None
    ending = os.pread(fd, _LAST_FIELDS, frame.end - _LAST_FIELDS)
    if ending.startswith(CHUNK_ID_BEFORE) and ending[-2:] in STATIC_ENDINGS:
        return STATIC_ENDINGS[ending[-2:]], _time_of(ending[2:20])
    if frame.length > MAX_OLD:
        return False, None
    return _peek_old(os.pread(fd, frame.length, frame.offset))


def _time_of(raw: bytes) -> int | None:
    """The time in a Tuid message."""
    return int.from_bytes(raw[1:9], "little") if len(raw) == 18 and raw[0] == 0x09 and raw[9] == 0x11 else None


def _peek_old(payload: bytes) -> tuple[bool, int | None]:
    """The same of an envelope that does not say: from the chunk in it."""
    compression = size = 0
    chunk: bytes | memoryview = b""
    made, has_id = None, False
    try:
        for number, _, value in fields(memoryview(payload)):
            if number == 2 and isinstance(value, int):
                compression = value
            elif number == 3 and isinstance(value, int):
                size = value
            elif number == 5 and not isinstance(value, int):
                chunk = value
            elif number == 6 and not isinstance(value, int):
                made, has_id = _time_of(bytes(value)), True
        if compression == LZ4:
            chunk = lz4.block.decompress(chunk, uncompressed_size=size) if size <= MAX_OLD else b""
    except (ValueError, lz4.block.LZ4BlockError):
        return False, made
    ipc = bytes(chunk)
    if not has_id and (found := ID_IN_SCHEMA.search(ipc)):
        made = int(found[1], 16)
    return bool(ipc) and INDEX_NAME not in ipc, made

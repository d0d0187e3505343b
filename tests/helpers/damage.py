"""Damaged files, one of each kind: what a disk, a kill or a user can make of a stream."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from daemon.wire.rrd import FRAME_HEADER_SIZE, HEADER_SIZE, Kind
from tests.helpers.footers import frames


@dataclass(frozen=True)
class Case:
    """`kept` are the indices of the intact file's frames that must be in the result, in that order."""

    name: str
    data: bytes
    kept: list[int]
    footer: str = "missing"
    """What is to be said of the input's own footer: whether it is sound itself, not whether the frames are."""


def cases(intact: bytes, other: bytes) -> Iterator[Case]:
    """All kinds of damage done to `intact`; `other` is a complete file of another recording."""
    parts = list(frames(intact))
    starts = [start - FRAME_HEADER_SIZE for _, start, _ in parts]
    end = starts[-1]
    every = list(range(len(parts) - 1))
    middle = len(parts) // 2
    cut = every[:middle]
    without = [i for i in every if i != middle]
    kind, start, length = parts[middle]
    assert kind == Kind.ARROW

    def patched(at: int, data: bytes) -> bytes:
        return intact[:at] + data + intact[at + len(data) :]

    noise = bytes((i * 37 + 11) % 251 + 4 for i in range(500))
    yield Case("intact", intact, every, "complete")
    yield Case("cut in a payload", intact[: start + length // 2], cut)
    yield Case("cut in a header", intact[: start - 9], cut)
    yield Case("cut between frames", intact[: starts[middle]], cut)
    yield Case("no end", intact[:end], every)
    yield Case("bare end", intact[:end] + bytes(16), every, "empty")
    yield Case("cut in the end's header", intact[: end + 7], every)
    yield Case("cut in the footer", intact[: end + 16 + 300], every, "cut")
    yield Case("cut before the tail", intact[:-32], every, "wrong")
    yield Case("cut in the tail", intact[:-10], every, "wrong")
    yield Case("zeros after the footer", intact + bytes(4096), every, "wrong")
    yield Case("garbage after the footer", intact + noise, every, "wrong")
    yield Case("zeros after the frames", intact[:end] + bytes(4096), every)
    yield Case("zeros from the middle of a frame", intact[: start + 40] + bytes(len(intact) - start - 40), cut)
    yield Case("garbage after the frames", intact[:end] + noise, every)
    yield Case("a hole in a frame", patched(start + 10, bytes(length - 20)), without, "complete")
    yield Case("a hole over a frame and its header", patched(starts[middle], bytes(length + 16)), without, "complete")
    yield Case("a flipped kind", patched(starts[middle], b"\x4d"), without, "complete")
    yield Case("a kind that became End", patched(starts[middle], b"\0"), without, "complete")
    yield Case("a kind that became another", patched(starts[middle], b"\3"), without, "complete")
    lengths = {"too long": length + 64, "too short": length - 64, "huge": 1 << 40, "2^63": 1 << 63}
    for name, number in lengths.items():
        yield Case(f"a length: {name}", patched(starts[middle] + 8, struct.pack("<Q", number)), without, "complete")
    byte = bytes((intact[start + 60] ^ 0xFF,))
    yield Case("a flipped byte in LZ4 data", patched(start + 60, byte), without, "complete")
    yield Case("a flipped store id", patched(start + 8, bytes((intact[start + 8] ^ 1,))), without, "complete")
    yield Case("a flipped bit in the footer", patched(end + 500, bytes((intact[end + 500] ^ 1,))), every, "wrong")
    yield Case("a flipped bit in the tail", patched(len(intact) - 8, b"\0"), every, "wrong")
    yield Case("a damaged stream header", patched(0, b"RRX2\xff"), every, "complete")
    yield Case("frames after the footer", intact + intact[HEADER_SIZE:end], every)
    yield Case("twice", intact + intact, every, "wrong")
    yield Case("twice, without ends", intact[:end] + intact[:end], every)
    footer = other[list(frames(other))[-1][1] - FRAME_HEADER_SIZE :]
    yield Case("another's footer", intact[:end] + footer, every, "wrong")
    yield Case("a header cut in two", intact[:end] + intact[:7], every)

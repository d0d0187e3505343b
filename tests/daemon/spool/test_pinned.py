from __future__ import annotations

import lz4.block
import pytest

from daemon.spool import pinned
from daemon.wire.logmsg import BLUEPRINT
from daemon.wire.protobuf import length_delimited, varint_field
from daemon.wire.rrd import Kind
from tests.helpers.frames import arrow, frame, opened, store_id, store_info, stream, write

SCHEMA = b"...rerun.id...chunk_18EC563DD247D4592edfc4b8624cb5a3...index_name..."
"""As SDK 0.23 has it: no id in the envelope."""
MADE = 0x18EC563DD247D459


def old(compressed: bool) -> bytes:
    """A chunk of an SDK that wrote neither an id nor whether it is static."""
    body = lz4.block.compress(SCHEMA, store_size=False) if compressed else SCHEMA
    return frame(Kind.ARROW, length_delimited(1, store_id()) + varint_field(2, 2 if compressed else 1)
                 + varint_field(3, len(SCHEMA)) + length_delimited(5, body))


def through(steps):
    """What a walk finds."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def newest(*args):
    return through(pinned.newest(*args))


def skim(*args):
    return through(pinned.skim(*args))


def log(tmp_path, *parts: bytes) -> tuple[int, int]:
    """Descriptor and size."""
    data = stream(*parts)
    return opened(write(tmp_path / "log.rrd", data)), len(data)


@pytest.mark.parametrize("compressed", [False, True])
def test_old_chunks_have_a_time_too(tmp_path, compressed):
    fd, size = log(tmp_path, store_info(), old(compressed))
    assert newest(fd, size, None) == MADE
    assert skim(fd, 0, size, None, MADE).messages == 1
    assert skim(fd, 0, size, None, MADE + 1).messages == 2


def test_an_id_without_the_last_field(tmp_path):
    """As SDK 0.25 and 0.26 have it."""
    tuid = b"\x09" + (5).to_bytes(8, "little") + b"\x11" + bytes(8)
    body = length_delimited(1, store_id()) + length_delimited(5, b"index_name") + length_delimited(6, tuid)
    fd, size = log(tmp_path, frame(Kind.ARROW, body))
    assert newest(fd, size, None) == 5


def test_what_has_no_time_is_never_where_it_stops(tmp_path):
    """But it is news: who logs nothing else is not idle."""
    fd, size = log(tmp_path, store_info(), arrow(static=True, made=3.0), arrow(kind=BLUEPRINT, made=2.0), arrow())
    assert newest(fd, size, None) == 3 * 10**9
    found = skim(fd, 0, size, None, 0)
    assert len(found.pinned) == found.messages == 4
    assert found.position == size


def test_nothing_says_when(tmp_path):
    fd, size = log(tmp_path, store_info(), arrow())
    assert newest(fd, size, None) is None


def test_a_walk_goes_in_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(pinned, "STEP_FRAMES", 10)
    fd, size = log(tmp_path, *(arrow(made=float(number)) for number in range(25)))
    assert len(list(pinned.skim(fd, 0, size, None))) == len(list(pinned.newest(fd, size, None))) == 2


def test_where_it_stops(tmp_path):
    """Before the first chunk that is new enough, whatever is older after it."""
    parts = [store_info(), arrow(made=1.0), arrow(made=9.0, static=True), arrow(made=5.0), arrow(made=2.0)]
    fd, size = log(tmp_path, *parts)
    found = skim(fd, 0, size, None, 5 * 10**9)
    assert found.position == len(stream(*parts[:3]))
    assert found.messages == 3
    assert [one.start for one in found.pinned] == [12, len(stream(*parts[:2]))]
    assert found.bytes == sum(map(len, parts[:3]))


def test_the_newest_is_looked_for_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(pinned, "NEWEST", 2)
    fd, size = log(tmp_path, arrow(made=9.0), arrow(made=4.0), arrow(made=3.0), arrow("b", made=7.0))
    assert newest(fd, size, None) == 7 * 10**9
    assert newest(fd, size, {store_id()}) == 4 * 10**9

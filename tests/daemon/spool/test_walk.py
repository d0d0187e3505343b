"""Walking files: every byte is in one piece, whatever the file is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.spool import walk as module
from daemon.spool.walk import End, FormatError, Frame, Header, Lost, Piece, Walk
from tests.helpers.chunks import SAMPLES, chunk, stream
from tests.helpers.damage import cases
from tests.helpers.footers import frames, rebuilt

INTACT = SAMPLES["0.41.0"].read_bytes()


@pytest.fixture
def walked(tmp_path: Path) -> Iterator[object]:
    """Call it with bytes: their pieces."""
    path = tmp_path / "file.rrd"
    opened: list[int] = []

    def pieces(data: bytes, *, everything: bool = False) -> list[Piece]:
        path.write_bytes(data)
        fd = os.open(path, os.O_RDONLY)
        opened.append(fd)
        found = list(Walk(fd, len(data), everything=everything))
        at = 0
        for piece in found:
            assert piece.start == at, "a gap"
            assert piece.end > at
            at = piece.end
        assert at == len(data)
        return found

    yield pieces
    for fd in opened:
        os.close(fd)


def test_a_sound_file(walked) -> None:
    found = walked(INTACT)
    assert [type(piece) for piece in found] == [Header, *[Frame] * (len(found) - 2), End]
    assert [(p.kind, p.offset, p.length) for p in found[1:-1]] == list(frames(INTACT))[:-1]
    assert found[-1].sealed


@pytest.mark.parametrize("everything", [True, False])
@pytest.mark.parametrize("case", list(cases(INTACT, SAMPLES["0.36.3"].read_bytes())), ids=lambda case: case.name)
def test_damage_leaves_no_gaps(case, everything: bool, walked) -> None:
    walked(case.data, everything=everything)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    patches=st.lists(st.tuples(st.integers(12, 4000), st.binary(min_size=1, max_size=30)), max_size=4),
    cut=st.integers(12, 9000),
)
def test_any_damage_leaves_no_gaps(patches: list[tuple[int, bytes]], cut: int, walked) -> None:
    sound = stream([chunk(i) for i in range(4)])
    data = bytearray(sound + rebuilt(sound)[1])
    for at, patch in patches:
        data[at : at + len(patch)] = patch
    walked(bytes(data[:cut]))


def test_windows_do_not_matter(walked, monkeypatch: pytest.MonkeyPatch) -> None:
    data = INTACT[:3000] + b"\x99" * 700 + INTACT[3000:]
    expected = walked(data)
    for window in (64, 100, 1000):
        monkeypatch.setattr(module, "WINDOW", window)
        monkeypatch.setattr(module, "SEARCH", max(window, 64))
        assert walked(data) == expected
        assert walked(data, everything=True) == expected


def test_a_frame_is_found_across_the_edges_of_searches(walked, monkeypatch: pytest.MonkeyPatch) -> None:
    after = stream([chunk(1), chunk(2)])
    for size in range(64, 64 + 40):
        monkeypatch.setattr(module, "SEARCH", size)
        found = walked(stream([chunk(0)]) + b"\x99" * 301 + after[12:])
        assert [type(p) for p in found] == [Header, Frame, Frame, Lost, Frame, Frame, Frame]
        assert found[3].end - found[3].start == 301


def test_a_rejected_frame_is_searched_for_others(tmp_path: Path) -> None:
    """Its length may have been what was wrong."""
    data = bytearray(stream([chunk(1), chunk(2), chunk(3)]))
    starts = [start - 16 for _, start, _ in frames(bytes(data))]
    data[starts[1] + 8 : starts[1] + 16] = (len(data) - starts[1] - 16).to_bytes(8, "little")
    path = tmp_path / "file.rrd"
    path.write_bytes(data)
    with open(path, "rb") as file:
        walk = Walk(file.fileno(), len(data))
        found = []
        for piece in walk:
            found.append(piece)
            if isinstance(piece, Frame) and piece.start == starts[1]:
                assert piece.end == len(data)
                found[-1] = walk.reject(piece, "damaged")
    assert [(type(p), p.start) for p in found[2:]] == [(Lost, starts[1]), (Frame, starts[2]), (Frame, starts[3])]


def test_payloads_and_beginnings(tmp_path: Path) -> None:
    data = INTACT
    path = tmp_path / "file.rrd"
    path.write_bytes(data)
    with open(path, "rb") as file:
        for everything in (True, False):
            walk = Walk(file.fileno(), len(data), everything=everything)
            for piece in walk:
                if isinstance(piece, Frame):
                    assert walk.payload(piece) == data[piece.offset : piece.end]
                    assert bytes(walk.whole(piece)) == data[piece.start : piece.end]
                    assert walk.beginning(piece) == data[piece.offset : piece.end]


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    path = tmp_path / "file.rrd"
    data = stream([bytes(1)]) + bytes.fromhex("0200000000000000") + (2 << 20).to_bytes(8, "little") + bytes(2 << 20)
    path.write_bytes(data)
    with open(path, "rb") as file:
        walk = Walk(file.fileno(), len(data), everything=True)
        frame = [piece for piece in walk if isinstance(piece, Frame)][-1]
        os.truncate(path, len(data) - 1000)
        with pytest.raises(OSError, match="became shorter"):
            walk.whole(frame)


@pytest.mark.parametrize("data", [b"RRF2", b"RRF1" + bytes(20), b"nonsense and more nonsense", bytes(100)])
def test_what_is_no_stream(data: bytes, walked) -> None:
    with pytest.raises(FormatError):
        walked(data)

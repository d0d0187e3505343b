from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.spool.scanner import WINDOW, Scanner
from daemon.wire.logmsg import BLUEPRINT
from daemon.wire.rrd import HEADER_SIZE, MAX_FRAME, FormatError, Kind, Tail, frame_header
from tests.helpers import frames
from tests.helpers.frames import arrow, header, numbered, sealed, stream


class File:
    """A file in memory that grows, and what a scanner makes of it."""

    def __init__(self, data: bytes = b"", position: int = 0) -> None:
        self.fd = os.memfd_create("log")
        self.data = b""
        self.scanner = Scanner(self.fd, position)
        self.write(data)

    def write(self, data: bytes) -> None:
        os.write(self.fd, data)
        self.data += data

    def scan(self, size: int | None = None) -> list[tuple[int, bytes]]:
        size = len(self.data) if size is None else size
        return [(f.kind, os.pread(self.fd, f.length, f.offset)) for f in self.scanner.frames(size)]

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


STREAMS = {
    "nothing": b"",
    "header": header(),
    "open": stream(*numbered(3)),
    "bare end": stream(*numbered(3), end="bare"),
    "footer": stream(*numbered(3), end="sealed"),
    "two": stream(*numbered(2), end="bare") + stream(*numbered(2, "other")),
    "two with footers": stream(*numbered(2), end="sealed") + stream(*numbered(2, "other"), end="sealed"),
    "two, the first without chunks": stream() + sealed(12, b"") + stream(*numbered(2)),
    "blueprint": stream(frames.store_info("bp", kind=BLUEPRINT), arrow("bp", kind=BLUEPRINT), frames.activation()),
    "empty payloads": stream(frames.frame(2, b""), frames.frame(1, b""), frames.frame(3, b"")),
    "zeros": stream(*numbered(1)) + bytes(48),
}


@pytest.mark.parametrize("name", STREAMS)
def test_whole(name: str) -> None:
    data = STREAMS[name]
    with File(data) as file:
        assert file.scan() == frames.frames_of(data)
        assert file.scanner.position == len(data)
        assert file.scan() == []


@pytest.mark.parametrize("name", STREAMS)
def test_byte_by_byte(name: str) -> None:
    data = STREAMS[name]
    with File() as file:
        found: list[tuple[int, bytes]] = []
        for number in range(len(data)):
            file.write(data[number : number + 1])
            found += file.scan()
            assert found == frames.frames_of(data[: number + 1])
            assert file.scanner.position <= number + 1
        assert file.scanner.position == len(data)


@pytest.mark.parametrize("name", STREAMS)
def test_cut_at_every_byte(name: str) -> None:
    """What is not whole is not there yet; what is said of the end is true at every length."""
    data = STREAMS[name]
    for cut in range(len(data)):
        with File(data[:cut]) as file:
            assert file.scan() == frames.frames_of(data[:cut])
            assert file.scanner.data_end <= file.scanner.position <= cut
            if file.scanner.sealed:
                assert data[:file.scanner.position].endswith(b"FOOT\1\0\0\0")


def test_the_size_counts_not_the_file() -> None:
    data = stream(*numbered(4))
    with File(data) as file:
        found = [frame for size in range(len(data) + 1) for frame in file.scan(size)]
        assert found == frames.frames_of(data)


@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_flipped_bytes(bit: int) -> None:
    """Everything before the flip is kept; after it there may be anything but a crash or a wrong position."""
    data = stream(*numbered(3), end="sealed")
    for place in range(len(data)):
        flipped = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
        before = frames.frames_of(data[:place])
        with File(flipped) as file:
            found: list[tuple[int, bytes]] = []
            try:
                for frame in file.scanner.frames(len(flipped)):
                    found.append((frame.kind, os.pread(file.fd, frame.length, frame.offset)))
            except FormatError:
                with pytest.raises(FormatError, match=f"at byte {file.scanner.position}"):
                    file.scan()
            assert found[: len(before)] == before
            assert file.scanner.position <= len(flipped)


@pytest.mark.parametrize(("kind", "length"), [(2, 2**63), (0, 2**63), (1, MAX_FRAME + 1), (2**63, 5), (4, 0)])
def test_no_frame(kind: int, length: int) -> None:
    data = stream(*numbered(2))
    with File(data + frame_header(kind, length) + bytes(100)) as file:
        found = []
        with pytest.raises(FormatError, match=f"at byte {len(data)}"):
            found.extend(file.scanner.frames(len(file.data)))
        assert file.scanner.position == file.scanner.data_end == len(data)


def test_a_long_frame_is_waited_for() -> None:
    """A length that could be one costs nothing until the bytes are there."""
    with File(stream(*numbered(1)) + frame_header(Kind.ARROW, MAX_FRAME)) as file:
        assert len(file.scan()) == 2
        assert file.scan() == []


@pytest.mark.parametrize(("start", "message"), [
    (b"hello", "found b'hell'"), (b"x", "found b'x'"), (b"RRF1", "0.4 to 0.5"),
    (b"RRF2\0\x16\0\0\x01\x01\0\0", "MsgPack"),
])
def test_not_a_stream(start: bytes, message: str) -> None:
    with File(start) as file, pytest.raises(FormatError, match=message):
        file.scan()
    with File(start + bytes(100)) as file:
        with pytest.raises(FormatError):
            file.scan()
        assert file.scanner.position == 0


@pytest.mark.parametrize("cut", range(1, HEADER_SIZE))
def test_a_header_in_pieces(cut: int) -> None:
    with File(header()[:cut]) as file:
        assert file.scan() == []
        assert file.scanner.header is None
        file.write(header()[cut:])
        assert file.scan() == []
        assert file.scanner.header is not None
        assert file.scanner.position == file.scanner.data_end == HEADER_SIZE


def test_the_newest_of_several_headers() -> None:
    versions = [(0, 31, 4, 0), (0, 41, 0, 0), (0, 23, 4, 0)]
    with File(b"".join(header(version) for version in versions)) as file:
        assert file.scan() == []
        assert file.scanner.header is not None
        assert file.scanner.header.version == (0, 41, 0, 0)
        assert file.scanner.headers == 3


def test_a_header_of_another_kind_in_the_middle() -> None:
    data = stream(*numbered(1), end="bare")
    with File(data + b"RRF2\0\x16\0\0\x01\x01\0\0" + bytes(20)) as file:
        with pytest.raises(FormatError, match=f"MsgPack.* at byte {len(data)}"):
            file.scan()
        assert file.scanner.position == len(data)


class TestEnd:
    """What is known of how a stream ended."""

    @pytest.mark.parametrize(("end", "at_end", "is_sealed"), [
        ("", False, False), ("bare", True, False), ("sealed", True, True),
    ])
    def test_kinds(self, end: str, at_end: bool, is_sealed: bool) -> None:
        with File(stream(*numbered(2), end=end)) as file:
            file.scan()
            assert (file.scanner.at_end, file.scanner.sealed) == (at_end, is_sealed)
            assert file.scanner.data_end == len(stream(*numbered(2)))

    def test_not_before_the_tail_is_whole(self) -> None:
        data = stream(*numbered(1), end="sealed")
        for cut in range(1, 33):
            with File(data[:-cut]) as file:
                file.scan()
                assert not file.scanner.at_end
                file.write(data[-cut:])
                file.scan()
                assert file.scanner.at_end
                assert file.scanner.sealed

    def test_data_after_it(self) -> None:
        with File(stream(*numbered(1), end="sealed")) as file:
            file.scan()
            file.write(arrow())
            assert len(file.scan()) == 1
            assert not file.scanner.at_end
            assert not file.scanner.sealed
            assert file.scanner.data_end == len(file.data)

    def test_a_footer_that_was_made_elsewhere(self) -> None:
        """As `cat a b` makes one: it is passed, and not believed."""
        first = stream(*numbered(1), end="sealed")
        with File(first + stream(*numbered(1), end="sealed")) as file:
            assert len(file.scan()) == 4
            assert file.scanner.at_end
            assert not file.scanner.sealed
        with File(stream(*numbered(1)) + sealed(12345)) as file:
            file.scan()
            assert file.scanner.at_end
            assert not file.scanner.sealed

    def test_a_footer_without_a_tail(self) -> None:
        """What follows it is read as what it is."""
        data = stream(*numbered(1)) + frames.frame(0, b"footer")
        with File(data) as file:
            file.scan()
            assert not file.scanner.at_end
            file.write(stream(*numbered(1, "second")))
            assert len(file.scan()) == 2
            assert file.scanner.headers == 2

    @pytest.mark.parametrize("end", ["bare", "sealed"])
    def test_two_writers(self, end: str) -> None:
        """The end of one is not the end of the other, who began meanwhile."""
        mine, theirs = numbered(4), stream(*numbered(2, "other"), end=end)
        with File(stream(*mine[:3]) + theirs) as file:
            assert len(file.scan()) == 6
            assert not file.scanner.at_end
            file.write(b"".join(mine[3:]))
            assert len(file.scan()) == 2
            file.write(frames.BARE_END)
            file.scan()
            assert file.scanner.at_end

    def test_an_empty_footer(self) -> None:
        """SDKs from 0.28 on end a stream without chunks so: End without payload, and a tail all the same."""
        data = stream(frames.store_info())
        data += sealed(len(data), b"")
        for cut in range(33):
            with File(data[: len(data) - cut]) as file:
                assert len(file.scan()) == 1
                assert file.scanner.at_end
                assert file.scanner.sealed == (cut == 0)
                file.write(data[len(data) - cut :])
                assert file.scan() == []
                assert file.scanner.sealed
                assert file.scanner.position == len(data)
                assert file.scanner.data_end == len(data) - 48
                file.write(stream(*numbered(1)))
                assert len(file.scan()) == 2

    def test_an_empty_footer_that_is_none(self) -> None:
        """Only after an End, and only where all 32 bytes are a tail's."""
        tail = Tail(500, 0, 7).encode()
        for data in (stream(*numbered(1)) + tail, stream(*numbered(1), end="bare") + tail[:24] + b"FOUT" + tail[28:]):
            with File(data) as file:
                with pytest.raises(FormatError, match="kind 0x1f4"):
                    file.scan()
                assert file.scanner.position == len(data) - 32

    def test_a_tail_that_begins_like_a_header(self) -> None:
        start = int.from_bytes(b"RRF2", "little")
        with File(position=start - 16) as file:
            os.pwrite(file.fd, frames.frame(0, b"foot") + Tail(start, 4, 0).encode(), start - 16)
            for size in range(start + 4, start + 36):
                assert list(file.scanner.frames(size)) == []
                assert file.scanner.position == start + 4
            assert list(file.scanner.frames(start + 36)) == []
            assert file.scanner.position == start + 36
            assert file.scanner.sealed


def test_stores_are_told() -> None:
    with File(stream(frames.store_info("a"), arrow("a"), arrow("b"), frames.activation("bp"))) as file:
        stores = [frame.store for frame in file.scanner.frames(len(file.data))]
    assert stores == [frames.store_id("a"), frames.store_id("a"), frames.store_id("b"),
                      frames.store_id("bp", kind=BLUEPRINT)]


@pytest.mark.parametrize("size", [WINDOW - 100, WINDOW, WINDOW + 1, 3 * WINDOW])
def test_big_and_small_frames_in_turn(size: int) -> None:
    """Frames at and across the edges of the window."""
    data = stream(*(arrow(body=bytes(n)) for n in (0, size, 1, 2, size, size, 5)), *numbered(40, size=4000))
    with File(data) as file:
        assert file.scan() == frames.frames_of(data)


def test_from_a_position_and_another_descriptor() -> None:
    data = stream(*numbered(4), end="sealed")
    with File(data) as file:
        ends = [frame.end for frame in file.scanner.frames(len(data))]
        for end, rest in zip(ends, range(len(ends), 0, -1), strict=True):
            scanner = Scanner(-1, end)
            scanner.use(file.fd)
            assert len(list(scanner.frames(len(data)))) == rest - 1
            assert scanner.data_end == ends[-1]


def test_stopping_in_the_middle() -> None:
    data = stream(*numbered(4))
    with File(data) as file:
        for _ in file.scanner.frames(len(data)):
            break
        assert len(file.scan()) == 4


PIECE = st.one_of(
    st.sampled_from([header(), frames.BARE_END, arrow(), arrow("b", body=bytes(90_000)), frames.store_info()]),
    st.binary(max_size=6).map(lambda body: arrow(body=body)),
    st.binary(max_size=6).map(lambda footer: frames.frame(0, footer) + Tail(0, 0, 0).encode() if footer else b""),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECE, max_size=8), st.lists(st.integers(1, 5000), max_size=12))
def test_any_pieces_in_any_portions(pieces: list[bytes], portions: list[int]) -> None:
    data = b"".join([header(), *pieces])
    with File() as file:
        found, at = [], 0
        for portion in [*portions, len(data)]:
            file.write(data[at : at + portion])
            at += portion
            found += file.scan()
        assert found == frames.frames_of(data)
        assert file.scanner.position == len(data)


def test_a_file_that_is_shorter_than_it_was_said(tmp_path: Path) -> None:
    """Somebody cut it: nothing is made up."""
    data = stream(*numbered(3))
    path = frames.write(tmp_path / "cut.rrd", data[:-10])
    fd = frames.opened(path)
    scanner = Scanner(fd)
    assert len(list(scanner.frames(len(data) - 10))) == 3
    os.close(fd)

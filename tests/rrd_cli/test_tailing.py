"""Whole messages of growing files: against a stream made frame by frame."""

from __future__ import annotations

import fcntl
import os

import pytest

from daemon.wire.rrd import Tail, frame_header
from rrd_cli import tailing
from rrd_cli.errors import CliError

HEADER = b"RRF2" + bytes((0, 41, 0, 0, 1, 2, 0, 0))


def store(recording: str, *, kind: int = 1) -> bytes:
    name = recording.encode()
    return bytes((0x08, kind, 0x12, len(name))) + name


def message(recording: str, text: str, *, static: bool = False, kind: int = 1) -> bytes:
    """An ArrowMsg: its store id first, then whatever, then whether it is static."""
    raw = store(recording, kind=kind)
    body = bytes((0x0A, len(raw))) + raw + b"\x2a" + bytes((len(text),)) + text.encode()
    body += b"\x32\x12" + bytes(18) + b"\x38" + bytes((static,))
    return frame_header(2, len(body)) + body


def info(recording: str) -> bytes:
    raw = store(recording)
    inner = bytes((0x12, len(raw))) + raw
    body = bytes((0x12, len(inner))) + inner
    return frame_header(1, len(body)) + body


def end(at: int, footer: bytes = b"footer") -> bytes:
    return frame_header(0, len(footer)) + footer + Tail(at + 16, len(footer), 0).encode()


MESSAGES = [message("a", f"row {number}") for number in range(20)]
DATA = HEADER + info("a") + b"".join(MESSAGES)
WHOLE = DATA + end(len(DATA))


class Sink:
    """A pipe that is emptied as it is filled, or a file."""

    def __init__(self, path):
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self.out = tailing.Output(self.fd)

    @property
    def bytes(self):
        return self.path.read_bytes()


@pytest.fixture
def sink(tmp_path):
    found = Sink(tmp_path / "out")
    yield found
    os.close(found.fd)


@pytest.fixture
def reader(tmp_path):
    made = []

    def make(data=b"", **options):
        path = tmp_path / "in.rrd"
        path.write_bytes(data)
        made.append(tailing.Reader(str(path), os.open(path, os.O_RDONLY), **{"verbatim": True, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_complete_file_comes_out_byte_for_byte(reader, sink):
    one = reader(WHOLE)
    assert one.pump(sink.out)
    assert sink.bytes == WHOLE
    assert one.ended
    assert not one.pump(sink.out)


@pytest.mark.parametrize("cut", range(0, len(WHOLE), 7))
def test_a_growing_file_is_whole_messages_at_any_moment(reader, sink, tmp_path, cut):
    one = reader(WHOLE[:cut])
    one.pump(sink.out)
    written = sink.bytes
    assert WHOLE.startswith(written)
    boundaries = {0, len(HEADER)}
    at = len(HEADER)
    for frame in (info("a"), *MESSAGES):
        at += len(frame)
        boundaries.add(at)
    assert len(written) in boundaries | {at + 16 + 6, len(WHOLE)}
    assert max(one for one in boundaries if one <= cut) <= len(written) <= cut
    (tmp_path / "in.rrd").write_bytes(WHOLE)
    one.pump(sink.out)
    assert sink.bytes == WHOLE
    assert one.ended


def test_pieces_and_windows_do_not_show(reader, sink, monkeypatch):
    monkeypatch.setattr(tailing, "PIECE", 100)
    monkeypatch.setattr(tailing, "WINDOW", 50)
    monkeypatch.setattr(tailing, "SEND", 33)
    one = reader(DATA)
    one.pump(sink.out)
    assert sink.bytes == DATA
    assert not one.ended


@pytest.mark.parametrize("window", [16, 40, 100, 1 << 16])
def test_the_fast_walk_ends_where_a_frame_ends(reader, monkeypatch, window):
    monkeypatch.setattr(tailing, "WINDOW", window)
    one = reader(WHOLE)
    boundaries = [len(HEADER), len(HEADER + info("a"))]
    for frame in MESSAGES:
        boundaries.append(boundaries[-1] + len(frame))
    for limit in range(len(HEADER), len(WHOLE) + 1):
        passed = tailing.skip_data(one.fd, len(HEADER), limit)
        assert passed == max(boundary for boundary in boundaries if boundary <= limit)


def test_several_files_lose_ends_and_headers_and_nothing_else(reader, sink, monkeypatch):
    monkeypatch.setattr(tailing, "PIECE", 150)
    one = reader(WHOLE + DATA[:-1], verbatim=False)
    one.pump(sink.out)
    assert sink.bytes == DATA[12:] + DATA[12 : -len(MESSAGES[-1])]


def test_where_sendfile_does_not_work_it_is_copied(reader, tmp_path):
    path = tmp_path / "out"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # sendfile refuses such a target
    reader(WHOLE).pump(tailing.Output(fd))
    os.close(fd)
    assert path.read_bytes() == WHOLE


def test_a_pipe_that_is_full_and_non_blocking_is_waited_for(reader, tmp_path):
    data = HEADER + message("a", "x" * 100) * 20_000
    one = reader(data)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    child = os.fork()
    if child == 0:
        os.close(write_end)
        with open(tmp_path / "copy", "wb") as copy:
            while piece := os.read(read_end, 10_000):
                copy.write(piece)
        os._exit(0)
    os.close(read_end)
    one.pump(tailing.Output(write_end))
    os.close(write_end)
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "copy").read_bytes() == data


def test_garbage_is_an_error_after_what_is_whole(reader, sink):
    one = reader(DATA + b"\xff" * 40)
    with pytest.raises(CliError) as caught:
        one.pump(sink.out)
    assert caught.value.message == f"not a frame: kind 0xffffffffffffffff, at byte {len(DATA)}: {one.path}"
    assert sink.bytes == DATA
    assert "rrd recover" in caught.value.hint


def test_what_is_no_rrd_is_an_error(reader, sink):
    with pytest.raises(CliError, match=r"not an \.rrd stream: found b'hell'"):
        reader(b"hello, world, this is a text").pump(sink.out)
    assert sink.bytes == b""


def test_a_footer_that_does_not_fit_is_not_believed(reader, sink):
    data = DATA + end(len(DATA) + 1)
    one = reader(data)
    one.pump(sink.out)
    assert sink.bytes == data  # the scanner walks it instead
    assert one.ended


class TestEdited:
    def test_some_recordings_of_a_file(self, reader, sink):
        data = HEADER + info("a") + info("b") + message("b", "1") + message("a", "2") + message("b", "3")
        one = reader(data, verbatim=False, stores=[store("b")])
        one.pump(sink.out)
        assert sink.bytes == info("b") + message("b", "1") + message("b", "3")

    def test_neither_end_nor_footer_nor_second_header(self, reader, sink):
        one = reader(WHOLE + WHOLE, verbatim=False)
        one.pump(sink.out)
        assert sink.bytes == DATA[12:] * 2
        assert one.header.version_text == "0.41.0"

    def test_the_last_messages_and_what_they_need(self, reader, sink):
        static, blueprint = message("a", "static", static=True), message("b", "layout", kind=2)
        frames = [info("a"), MESSAGES[0], static, blueprint, *MESSAGES[1:]]
        one = reader(HEADER + b"".join(frames), verbatim=False)
        one.pump_last(sink.out, 2)
        assert sink.bytes == info("a") + static + blueprint + MESSAGES[18] + MESSAGES[19]

    @pytest.mark.parametrize("count", [0, 1, 22, 1000])
    def test_any_number_of_last_messages(self, reader, sink, count):
        one = reader(DATA, verbatim=False)
        one.pump_last(sink.out, count)
        frames = [info("a"), *MESSAGES]
        assert sink.bytes == b"".join([*frames[:1], *frames[1:][max(0, 20 - count) :]])
        assert not one.pump(sink.out)


class TestLive:
    def test_the_end_waits_until_it_is_final(self, reader, sink, tmp_path):
        one = reader(WHOLE, live=True)
        one.pump(sink.out)
        assert sink.bytes == DATA
        better = DATA + end(len(DATA), b"a better footer")
        (tmp_path / "in.rrd").write_bytes(better)
        one.finish()
        one.pump(sink.out)
        assert sink.bytes == better

    def test_a_cut_last_message_is_never_seen(self, reader, sink, tmp_path):
        one = reader(DATA + MESSAGES[0][:-1], live=True)
        one.pump(sink.out)
        (tmp_path / "in.rrd").write_bytes(WHOLE)
        one.finish()
        one.pump(sink.out)
        assert sink.bytes == WHOLE

    def test_a_file_without_anything(self, reader, sink):
        one = reader(b"", live=True)
        assert not one.pump(sink.out)
        one.finish()
        assert not one.pump(sink.out)


class TestWriter:
    @pytest.fixture(params=["lease", "proc"])
    def has_writer(self, request, monkeypatch):
        if request.param == "proc":
            monkeypatch.delattr(fcntl, "F_SETLEASE")
        return tailing.has_writer

    def test_is_seen_and_missed(self, has_writer, tmp_path):
        path = tmp_path / "x"
        with open(path, "wb"):
            fd = os.open(path, os.O_RDONLY)
            assert has_writer(fd) is True
        assert has_writer(fd) is False
        os.close(fd)


def test_replaced_and_shrunk(reader, sink, tmp_path):
    one = reader(DATA)
    one.pump(sink.out)
    assert not one.replaced()
    assert not one.shrunk()
    os.truncate(one.path, 20)
    assert one.shrunk()
    os.rename(one.path, tmp_path / "old")
    assert not one.replaced()
    (tmp_path / "in.rrd").write_bytes(HEADER)
    assert one.replaced()

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.spool.log import (
    META_SUFFIX,
    Descriptor,
    Log,
    Meta,
    Readers,
    list_streams,
    new_stream_id,
    remove_leftovers,
    write_atomically,
)


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """A disk that takes no file longer than this: writes stop there, in the middle of a buffer too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    one = Log(tmp_path / "one.rrd")
    yield one
    one.close()


class TestLog:
    def test_append(self, log: Log) -> None:
        assert log.append([b"one", memoryview(b"two"), b""]) == 6
        assert log.append([]) == 0
        assert log.append([b"x"] * 3000) == 3000  # more buffers than writev(2) takes
        assert log.size == 3006
        assert log.path.read_bytes() == b"onetwo" + b"x" * 3000

    @pytest.mark.parametrize("buffers", [[b"y" * 40], [b"y" * 15, b"z" * 15], [b"y"] * 2000])
    def test_append_is_all_or_nothing(self, log: Log, buffers: list[bytes]) -> None:
        log.append([b"before"])
        with file_limit(20), pytest.raises(OSError, match="too large") as caught:
            log.append(buffers)
        assert caught.value.errno == errno.EFBIG
        assert log.path.read_bytes() == b"before"
        assert log.size == 6
        log.append([b" and after"])
        assert log.path.read_bytes() == b"before and after"

    def test_write_some_takes_what_fits(self, log: Log) -> None:
        with file_limit(5):
            assert log.write_some(memoryview(b"longer than five")) == 5
            with pytest.raises(OSError, match="too large"):
                log.write_some(memoryview(b"x"))
        assert log.size == 5

    def test_goes_on_at_its_end(self, log: Log) -> None:
        log.append([b"first"])
        again = Log(log.path)
        assert again.size == 5
        again.append([b" second"])
        assert log.path.read_bytes() == b"first second"
        again.close()

    def test_splice(self, log: Log) -> None:
        read, write = os.pipe()
        with pytest.raises(BlockingIOError):
            log.splice(read, 100)
        os.write(write, b"through the pipe")
        assert log.splice(read, 7) == 7
        assert log.splice(read, 100) == 9
        with file_limit(18):
            os.write(write, b"more")
            assert log.splice(read, 100) == 2
            with pytest.raises(OSError, match="too large"):
                log.splice(read, 100)
        os.close(write)
        assert log.splice(read, 100) == 2  # nothing has left the pipe
        assert log.splice(read, 100) == 0
        os.close(read)
        assert log.path.read_bytes() == b"through the pipemore"
        assert log.size == 20

    def test_splice_takes_pipes_only(self, log: Log, tmp_path: Path) -> None:
        fd = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(OSError, match="Invalid argument") as caught:
            log.splice(fd, 10)
        assert caught.value.errno == errno.EINVAL
        os.close(fd)

    def test_readers_keep_it_open(self, log: Log) -> None:
        log.append([b"data"])
        reader = log.descriptor
        log.close()
        log.close()
        assert log.fd == -1
        assert reader is not None
        assert os.pread(reader.fd, 10, 0) == b"data"


class TestDescriptors:
    def test_closed_with_its_last_user(self, tmp_path: Path) -> None:
        one = Descriptor(os.open(tmp_path, os.O_RDONLY))
        other, fd = one, one.fd
        del one
        assert is_open(fd)
        del other
        gc.collect()
        assert not is_open(fd)

    def test_the_last_used_stay_open(self, tmp_path: Path) -> None:
        paths = [tmp_path / str(number) for number in range(5)]
        for path in paths:
            path.write_text(path.name)
        readers = Readers(3)
        first = readers.get(paths[0])
        numbers = {path: readers.get(path).fd for path in paths[1:3]}
        assert readers.get(paths[0]) is first
        readers.get(paths[3])
        assert readers.get(paths[0]) is first
        assert readers.get(paths[2]).fd == numbers[paths[2]]
        kept = readers.get(paths[2])
        for path in (*paths[3:], paths[1]):
            readers.get(path)
        assert os.pread(kept.fd, 1, 0) == b"2"  # let go by the readers, not by us

    def test_never_more_than_the_limit(self, tmp_path: Path) -> None:
        paths = [tmp_path / str(number) for number in range(20)]
        for path in paths:
            path.touch()
        readers = Readers(4)
        numbers = {readers.get(path).fd for path in paths}
        assert sum(is_open(number) for number in numbers) <= 4

    def test_dropped_it_is_opened_again(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        path.write_text("old")
        readers = Readers()
        readers.get(path)
        (tmp_path / "b").write_text("new")
        os.replace(tmp_path / "b", path)
        assert os.pread(readers.get(path).fd, 3, 0) == b"old"
        readers.drop(path)
        readers.drop(path)
        assert os.pread(readers.get(path).fd, 3, 0) == b"new"

    def test_what_is_not_there_leaves_nothing(self, tmp_path: Path) -> None:
        readers = Readers()
        with pytest.raises(FileNotFoundError):
            readers.get(tmp_path / "none")
        (tmp_path / "none").touch()
        readers.get(tmp_path / "none")


class TestMeta:
    def test_round_trip(self, tmp_path: Path) -> None:
        meta = Meta("a", "shim", "app", "rec", "sdk", 4711, 12.0, "prog", 1.5, 2.5, "reason", "error", {"size": 3})
        meta.save(tmp_path)
        assert Meta.load(tmp_path / f"a{META_SUFFIX}") == meta
        assert os.listdir(tmp_path) == ["a.json"]

    def test_what_a_newer_version_added_is_ignored(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_text(json.dumps({"version": 9, "id": "a", "kind": "shim", "colour": "blue", "started_at": 3}))
        assert Meta.load(path) == Meta("a", "shim", started_at=3)

    @pytest.mark.parametrize("text", [
        "", "{", "[]", "{}", '{"id": 3, "kind": "x"}', '"id"', '{"id": "a", "kind": "shim", "summary": []}',
        '{"id": "a", "kind": "shim", "ended_at": "yesterday"}', '{"id": "a", "kind": null}',
        '{"id": "a", "kind": "shim", "pid": 1.5}',
    ])
    def test_damaged(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "a.json"
        path.write_text(text)
        with pytest.raises(ValueError, match=r"a\.json|Expecting"):
            Meta.load(path)

    @pytest.mark.parametrize("number", ["1e400", "-Infinity", "NaN", "9" * 400, "9" * 9999, "[" * 100_000])
    def test_numbers_that_are_none(self, tmp_path: Path, number: str) -> None:
        """JSON of other hands: with an infinite moment of its end in it the hub's clock would stand still for ever."""
        path = tmp_path / "a.json"
        path.write_text(f'{{"id": "a", "kind": "shim", "ended_moment": {number}}}')
        with pytest.raises(ValueError, match=r"number|too deep|Exceeds the limit"):
            Meta.load(path)

    def test_binary(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_bytes(b"\xff\xfe\0")
        with pytest.raises(UnicodeDecodeError):
            Meta.load(path)


class TestWriteAtomically:
    def test_the_old_one_survives(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        write_atomically(path, "old")
        with file_limit(10), pytest.raises(OSError, match="too large"):
            write_atomically(path, "new" * 10)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["file"]

    def test_where_it_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").mkdir()
        with pytest.raises(IsADirectoryError):
            write_atomically(tmp_path / "file", "x")
        assert os.listdir(tmp_path) == ["file"]


def test_ids_sort_by_time() -> None:
    assert new_stream_id(0.0).startswith("19700101-000000-")
    times = [0.0, 1.0, 86_400.0, 1_763_835_303.0]
    ids = [new_stream_id(time) for time in times]
    assert ids == sorted(ids)
    assert new_stream_id(5.0) != new_stream_id(5.0)


def test_leftovers_of_the_killed_go(tmp_path: Path) -> None:
    for name in ("b.rrd", "b.json", ".b.json.tmp", ".c.rrd.finishing", ".d.rrd", "notes.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".d.rrd", "b.json", "b.rrd", "notes.tmp"]


def test_list_streams(tmp_path: Path) -> None:
    for name in ("b.rrd", "a.rrd", "a.json", ".c.rrd.finishing", ".d.rrd", "notes.txt"):
        (tmp_path / name).touch()
    assert list_streams(tmp_path) == ["a", "b"]
    with pytest.raises(FileNotFoundError):
        list_streams(tmp_path / "none")

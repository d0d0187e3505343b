from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from daemon.hub import Hub
from daemon.ingest.pipe import F_GETPIPE_SZ, MOVE, PIPE_SIZES, SMALL_PIPE_SIZE, Pump, set_pipe_size
from daemon.stream import Stream
from tests.helpers import frames
from tests.helpers.frames import arrow, numbered, stream

DATA = stream(*numbered(20), end="sealed")
OPEN = stream(*numbered(20))
FULL = OSError(errno.ENOSPC, "No space left on device")


class Pipe:
    """A pipe, its pump, and the stream it fills."""

    def __init__(self, hub: Hub, kind: str = "shim") -> None:
        self.hub = hub
        self.stream = hub.open_stream(kind=kind)
        read, self.write_fd = os.pipe()
        os.set_blocking(self.write_fd, False)
        self.pump = Pump(hub, self.stream, read)

    def write(self, data: bytes) -> None:
        assert os.write(self.write_fd, data) == len(data)

    def close(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    async def has(self, messages: int) -> None:
        await until(self.hub, lambda: self.stream.messages >= messages)

    async def end(self) -> Stream:
        await until(self.hub, lambda: self.stream.complete)
        return self.stream


async def until(hub: Hub, condition: Any) -> None:
    while not condition():
        await hub.wait_change(hub.version)


@pytest.fixture
def pipe(hub: Hub) -> Iterator[Pipe]:
    one = Pipe(hub)
    yield one
    one.close()
    one.pump.release()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class TestEnds:
    async def test_the_sdks_own_end(self, pipe: Pipe, nursery: trio.Nursery) -> None:
        """What comes through one pipe ends with its End, though the pipe is still open."""
        fd = pipe.pump.fd
        nursery.start_soon(pipe.pump.run)
        pipe.write(DATA)
        one = await pipe.end()
        assert one.meta.reason == "ended by the SDK"
        assert one.path.read_bytes() == DATA
        assert not is_open(fd)
        assert pipe.pump.fd == -1

    @pytest.mark.parametrize("end", ["bare", "sealed"])
    async def test_in_pieces(self, pipe: Pipe, nursery: trio.Nursery, end: str) -> None:
        data = stream(*numbered(3), end=end)
        nursery.start_soon(pipe.pump.run)
        for number in range(len(data)):
            assert not pipe.stream.ended
            pipe.write(data[number : number + 1])
            await pipe.pump.drained()
        one = await pipe.end()
        assert one.path.read_bytes()[: len(data)] == data
        assert one.meta.reason == "ended by the SDK"

    async def test_end_of_file(self, pipe: Pipe, nursery: trio.Nursery) -> None:
        nursery.start_soon(pipe.pump.run)
        pipe.write(OPEN)
        pipe.close()
        one = await pipe.end()
        assert one.meta.reason == "end of file"
        assert one.messages == 21

    async def test_close_takes_what_is_there(self, pipe: Pipe, nursery: trio.Nursery) -> None:
        pipe.write(OPEN)
        pipe.pump.close("because")
        pipe.pump.close("for another reason")
        nursery.start_soon(pipe.pump.run)
        one = await pipe.end()
        assert one.meta.reason == "because"
        assert one.messages == 21

    async def test_close_while_it_waits(self, pipe: Pipe, nursery: trio.Nursery) -> None:
        nursery.start_soon(pipe.pump.run)
        pipe.write(OPEN)
        await pipe.has(21)
        await trio.testing.wait_all_tasks_blocked()
        pipe.pump.close("because")
        assert (await pipe.end()).meta.reason == "because"

    async def test_the_program_is_gone(self, hub: Hub, nursery: trio.Nursery) -> None:
        """A forked child may keep the pipe open for as long as it likes."""
        program = await trio.lowlevel.open_process(["cat"], stdin=subprocess.PIPE)
        pipe = Pipe(hub)
        pipe.pump.pidfd = os.pidfd_open(program.pid)
        nursery.start_soon(pipe.pump.run)
        pipe.write(OPEN)
        await pipe.has(21)
        assert not pipe.stream.ended
        pipe.write(arrow())
        assert program.stdin is not None
        await program.stdin.aclose()
        one = await pipe.end()
        assert one.meta.reason == "the program has ended"
        assert one.messages == 22
        await program.wait()
        pipe.close()

    async def test_stdin_goes_on_after_an_end(self, hub: Hub, nursery: trio.Nursery) -> None:
        """`cat a.rrd b.rrd | rrd save out.rrd -`"""
        pipe = Pipe(hub, kind="stdin")
        nursery.start_soon(pipe.pump.run)
        pipe.write(DATA)
        await pipe.has(21)
        assert not pipe.stream.ended
        pipe.write(stream(*numbered(2, "other"), end="bare"))
        await pipe.has(24)
        pipe.close()
        await until(hub, lambda: pipe.stream.ended)
        assert pipe.stream.meta.reason == "end of file"

    async def test_cancelled_it_leaves_everything(self, pipe: Pipe) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipe.pump.run)
            pipe.write(OPEN)
            await pipe.has(21)
            nursery.cancel_scope.cancel()
        assert not pipe.stream.ended
        assert is_open(pipe.pump.fd)
        pipe.write(b"the rest")
        assert os.read(pipe.pump.fd, 100) == b"the rest"


class TestGarbage:
    async def test_a_shims_program_must_not_hang(self, pipe: Pipe, nursery: trio.Nursery) -> None:
        nursery.start_soon(pipe.pump.run)
        pipe.write(OPEN + b"no frame, no frame")
        await until(pipe.hub, lambda: pipe.stream.error)
        for _ in range(5):
            pipe.write(bytes(50_000))
            await pipe.pump.drained()
        assert pipe.stream.dropped_bytes == 250_000
        assert pipe.stream.log is not None
        assert pipe.stream.log.size == len(OPEN) + 18
        assert not pipe.stream.ended
        pipe.close()
        one = await pipe.end()
        assert frames.frames_of(one.path.read_bytes()) == frames.frames_of(OPEN)
        assert one.dropped_bytes >= 250_000 + 18

    async def test_whoever_writes_to_stdin_is_told(self, hub: Hub, nursery: trio.Nursery) -> None:
        pipe = Pipe(hub, kind="stdin")
        nursery.start_soon(pipe.pump.run)
        pipe.write(b"hello, this is just text")
        one = await pipe.end()
        assert "found b'hell'" in one.meta.reason
        assert one.path.stat().st_size == 0
        with pytest.raises(BrokenPipeError):
            pipe.write(b"more")
        pipe.close()


class TestFullDisk:
    async def test_nothing_leaves_the_pipe(
        self, pipe: Pipe, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        log = pipe.stream.log
        assert log is not None
        room, splice = False, log.splice

        def full(source: int, count: int) -> int:
            if not room:
                raise FULL
            return splice(source, count)

        log.splice = full  # type: ignore[method-assign]
        nursery.start_soon(pipe.pump.run)
        pipe.write(DATA)
        with trio.fail_after(100):
            await until(pipe.hub, lambda: pipe.stream.stalled)
            await pipe.pump.drained()  # returns, for it may take for ever
        assert pipe.pump.pending == len(DATA)
        await trio.sleep(30)
        assert not pipe.stream.ended
        room = True
        one = await pipe.end()
        assert one.path.read_bytes() == DATA
        assert not one.stalled

    async def test_a_log_that_cannot_be_written(
        self, pipe: Pipe, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(source: int, count: int) -> int:
            raise OSError(errno.EIO, "Input/output error")

        nursery.start_soon(pipe.pump.run)
        pipe.write(OPEN)
        await pipe.has(21)
        pipe.stream.log.splice = broken  # type: ignore[union-attr, method-assign]
        pipe.write(arrow())
        await until(pipe.hub, lambda: pipe.stream.error)
        pipe.write(arrow())
        pipe.close()
        one = await pipe.end()
        assert "cannot be stored: [Errno 5]" in one.error
        assert one.dropped_bytes == 2 * len(arrow())
        assert one.messages == 21


class TestSources:
    """What may be standard input."""

    async def pumped(self, hub: Hub, fd: int) -> Stream:
        one = hub.open_stream(kind="stdin")
        pump = Pump(hub, one, fd)
        with trio.fail_after(20):
            await pump.run()
            await until(hub, lambda: one.complete)
        assert not is_open(fd)
        return one

    async def test_a_file(self, hub: Hub, tmp_path: Path) -> None:
        big = stream(*numbered(3, size=MOVE + 5), end="sealed")
        one = await self.pumped(hub, frames.opened(frames.write(tmp_path / "a.rrd", big)))
        assert one.path.read_bytes() == big
        assert one.meta.reason == "end of file"

    async def test_from_where_it_stands(self, hub: Hub, tmp_path: Path) -> None:
        fd = frames.opened(frames.write(tmp_path / "a", b"skipped" + DATA))
        os.lseek(fd, 7, os.SEEK_SET)
        assert (await self.pumped(hub, fd)).path.read_bytes() == DATA

    async def test_a_socket(self, hub: Hub) -> None:
        ours, theirs = socket.socketpair()
        with ours:
            ours.sendall(DATA)
        assert (await self.pumped(hub, theirs.detach())).path.read_bytes() == DATA

    async def test_a_device_that_cannot_be_waited_for(self, hub: Hub) -> None:
        one = await self.pumped(hub, os.open("/dev/null", os.O_RDONLY))
        assert (one.size, one.meta.reason) == (0, "end of file")

    async def test_a_device_without_an_end(self, hub: Hub) -> None:
        one = await self.pumped(hub, os.open("/dev/zero", os.O_RDONLY))
        assert "found b'\\x00\\x00\\x00\\x00'" in one.error

    async def test_what_cannot_be_read(self, hub: Hub, tmp_path: Path) -> None:
        one = await self.pumped(hub, os.open(tmp_path / "a", os.O_WRONLY | os.O_CREAT))
        assert one.meta.reason == "cannot be read: Bad file descriptor"

    async def test_a_pipe_without_splice(self, hub: Hub, nursery: trio.Nursery) -> None:
        pipe = Pipe(hub)
        pipe.pump._splice = False
        nursery.start_soon(pipe.pump.run)
        pipe.write(DATA[:50])
        await pipe.pump.drained()
        pipe.write(DATA[50:])
        assert (await pipe.end()).path.read_bytes() == DATA
        pipe.close()

    async def test_a_full_disk_without_splice(
        self, hub: Hub, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        pipe = Pipe(hub)
        pipe.pump._splice = False
        log = pipe.stream.log
        assert log is not None
        room, write = 7, log.write_some

        def full(data: memoryview) -> int:
            nonlocal room
            if not room:
                raise FULL
            done = write(data[:room])
            room -= done
            return done

        log.write_some = full  # type: ignore[method-assign]
        nursery.start_soon(pipe.pump.run)
        pipe.write(DATA)
        await until(hub, lambda: pipe.stream.stalled)
        assert pipe.pump.pending == len(DATA) - 7
        room = 1 << 20
        assert (await pipe.end()).path.read_bytes() == DATA
        pipe.close()

    async def test_a_broken_log_without_splice(self, hub: Hub, nursery: trio.Nursery) -> None:
        """What was read and cannot be written is dropped, and does not keep the pump busy."""
        pipe = Pipe(hub)
        pipe.pump._splice = False

        def broken(data: memoryview) -> int:
            raise OSError(errno.EIO, "Input/output error")

        pipe.stream.log.write_some = broken  # type: ignore[union-attr, method-assign]
        nursery.start_soon(pipe.pump.run)
        pipe.write(DATA)
        await until(hub, lambda: pipe.stream.dropped_bytes == len(DATA))
        await trio.testing.wait_all_tasks_blocked()
        pipe.close()
        assert (await pipe.end()).dropped_bytes == len(DATA)


async def test_one_move_a_wake_up(pipe: Pipe, nursery: trio.Nursery) -> None:
    """However much there is, others run in between."""
    fcntl.fcntl(pipe.write_fd, 1031, 1 << 20)
    moves = 0
    splice = pipe.stream.log.splice  # type: ignore[union-attr]

    def counting(source: int, count: int) -> int:
        nonlocal moves
        moves += 1
        return splice(source, min(count, 4096))

    pipe.stream.log.splice = counting  # type: ignore[union-attr, method-assign]
    data = stream(*numbered(3000))
    pipe.write(data)
    nursery.start_soon(pipe.pump.run)
    turns = 0
    while pipe.pump.moved < len(data):
        await trio.lowlevel.checkpoint()
        turns += 1
    assert turns >= moves >= len(data) // 4096


class TestPipeSize:
    @pytest.fixture
    def ends(self) -> Iterator[tuple[int, int]]:
        read, write = os.pipe()
        yield read, write
        os.close(read)
        os.close(write)

    def test_roomy(self, ends: tuple[int, int]) -> None:
        assert set_pipe_size(ends[0], 0) == PIPE_SIZES[0][0]
        assert fcntl.fcntl(ends[1], F_GETPIPE_SZ) == PIPE_SIZES[0][0]

    def test_many(self, ends: tuple[int, int]) -> None:
        """Fewer have the largest, and all together at most half of what a user may have: it is everybody's limit."""
        pages = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text())
        if pages == 0:
            pytest.skip("needs a limit on pipes (fs.pipe-user-pages-soft)")
        limit = pages * os.sysconf("SC_PAGESIZE")
        (large, quarter), (middle, half) = PIPE_SIZES
        assert (quarter, half) == (4, 2)
        assert set_pipe_size(ends[0], limit // 4 - large) == large
        assert set_pipe_size(ends[0], limit // 4 - large + 1) == middle
        assert set_pipe_size(ends[0], limit // 2 - middle) == middle
        assert set_pipe_size(ends[0], limit // 2 - middle + 1) == SMALL_PIPE_SIZE

    def test_what_is_in_it_stays(self, ends: tuple[int, int]) -> None:
        os.set_blocking(ends[1], False)
        fcntl.fcntl(ends[0], 1031, 256 << 10)
        written = os.write(ends[1], bytes(200_000))
        assert set_pipe_size(ends[0], 1 << 40) == 256 << 10
        assert len(os.read(ends[0], 1 << 20)) == written

    def test_no_pipe(self, tmp_path: Path) -> None:
        fd = os.open(tmp_path, os.O_RDONLY)
        assert set_pipe_size(fd, 0) == 0
        os.close(fd)

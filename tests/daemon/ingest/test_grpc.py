"""The gRPC service against a client that says just what a test wants, in one event loop."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from daemon.channel import INSTANCE, Channel, ChannelBroken
from daemon.hub import Hub
from daemon.ingest.grpc import GrpcServer
from daemon.spool.scanner import Scanner
from daemon.stream import Stream
from daemon.viewers.probe import connect
from daemon.wire import grpc
from daemon.wire.grpc import Address, Data, Finished, FrameReader, Status, envelope
from daemon.wire.protobuf import length_delimited
from daemon.wire.rrd import Kind
from tests.helpers.chunks import chunk, store_id, store_info

INFO = (int(Kind.STORE_INFO), store_info())


def arrow(number: int, size: int = 100) -> tuple[int, bytes]:
    """Something that routes like a chunk; its inside is nobody's business here."""
    inside = number.to_bytes(4, "big") * (size // 4)
    ending = length_delimited(6, bytes(18)) + b"\x38\x00"  # chunk id; not static
    return int(Kind.ARROW), length_delimited(1, store_id()) + length_delimited(5, inside) + ending


def encoded(frames: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(envelope(kind, len(payload)) + payload for kind, payload in frames)


def in_log(stream: Stream) -> list[tuple[int, bytes]]:
    """The whole frames in a stream's log."""
    data = stream.path.read_bytes()
    with open(stream.path, "rb") as file:
        return [(frame.kind, data[frame.offset : frame.offset + frame.length])
                for frame in Scanner(file.fileno()).frames(len(data))]


class Service:
    """A hub, a server, and clients of it."""

    def __init__(self, hub: Hub, server: GrpcServer) -> None:
        self.hub = hub
        self.server = server

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.server.port)

    @property
    def stream(self) -> Stream:
        (stream,) = self.hub.streams.values()
        return stream

    async def until(self, condition: object, seconds: float = 20) -> None:
        """Wait until a function of nothing is true, looking whenever something changes in the hub."""
        assert callable(condition)
        with trio.fail_after(seconds):
            while not condition():
                with trio.move_on_after(0.05):
                    await self.hub.wait_change(self.hub.version)


@asynccontextmanager
async def service(
    directory: Path, hub: Hub | None = None, *, newest_first: bool = False
) -> AsyncIterator[Service]:
    directory.mkdir(exist_ok=True)
    hub = hub or Hub(directory)
    server = GrpcServer(hub, 0, newest_first=newest_first)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        yield Service(hub, server)
        nursery.cancel_scope.cancel()


class Caller:
    """Calls over one channel, and what came back."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.finished: dict[int, Finished] = {}
        self.data: dict[int, bytes] = {}

    def start(self, method: str, data: bytes = b"", *, end: bool = False) -> int:
        call = self.channel.connection.start(method)
        if data:
            self.channel.connection.send_data(call, data)
        if end:
            self.channel.connection.half_close(call)
        self.channel.poke()
        return call

    async def result(self, call: int, seconds: float = 20) -> Finished:
        with trio.fail_after(seconds):
            while call not in self.finished:
                for event in await self.channel.receive():
                    if isinstance(event, Data):
                        self.channel.connection.acknowledge(event)
                        self.data[event.call] = self.data.get(event.call, b"") + bytes(event.data)
                    elif isinstance(event, Finished):
                        self.finished[event.call] = event
        return self.finished[call]


async def writable(channel: Channel) -> int:
    """A WriteMessages call, once the server's settings have arrived: before, 64 KiB may be sent and no more."""
    caller = Caller(channel)
    await caller.result(caller.start(grpc.IDENTIFY, grpc.EMPTY_MESSAGE, end=True))
    return caller.start(grpc.WRITE_MESSAGES)


async def test_ok_means_that_it_is_in_the_spool(tmp_path: Path) -> None:
    frames = [INFO, *(arrow(number) for number in range(100))]
    async with service(tmp_path / "spool") as at, connect(at.address) as channel:
        caller = Caller(channel)
        call = caller.start(grpc.WRITE_MESSAGES, encoded(frames), end=True)
        assert (await caller.result(call)).status == Status.OK
        assert in_log(at.stream) == frames
        assert at.stream.ended
        assert at.stream.header is not None
        assert at.stream.header.version[:3] == (0, 41, 0)
        assert at.stream.pid is not None


async def test_an_empty_call_leaves_nothing(tmp_path: Path) -> None:
    """That is how a probe asks."""
    async with service(tmp_path / "spool") as at, connect(at.address) as channel:
        caller = Caller(channel)
        assert (await caller.result(caller.start(grpc.WRITE_MESSAGES, end=True))).status == Status.OK
        assert at.hub.streams == {}
        assert list((tmp_path / "spool").iterdir()) == []


async def test_a_bug_ends_its_connection_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [INFO, arrow(1)]
    async with service(tmp_path / "spool") as at, connect(at.address) as other:
        opened = at.hub.open_stream
        monkeypatch.setattr(at.hub, "open_stream", lambda **_: 1 // 0)
        async with connect(at.address) as channel:
            caller = Caller(channel)
            call = caller.start(grpc.WRITE_MESSAGES, encoded(frames))
            with pytest.raises(ChannelBroken):
                await caller.result(call)
        assert "a bug in rrd: ZeroDivisionError" in caplog.text
        monkeypatch.setattr(at.hub, "open_stream", opened)
        caller = Caller(other)
        assert (await caller.result(caller.start(grpc.WRITE_MESSAGES, encoded(frames), end=True))).status == Status.OK
        assert in_log(at.stream) == frames


async def test_who_is_there(tmp_path: Path) -> None:
    async with service(tmp_path / "spool") as at, connect(at.address) as channel:
        caller = Caller(channel)
        call = caller.start(grpc.IDENTIFY, grpc.EMPTY_MESSAGE, end=True)
        assert (await caller.result(call)).status == Status.OK
        identity = grpc.parse_identity(caller.data[call][5:])
        assert identity is not None
        assert identity.instance == INSTANCE


async def test_unknown_methods_are_not_implemented(tmp_path: Path) -> None:
    async with service(tmp_path / "spool") as at, connect(at.address) as channel:
        caller = Caller(channel)
        for method in (grpc.PROXY_SERVICE + "WriteTable", grpc.CLOUD_VERSION, "/a/B"):
            assert (await caller.result(caller.start(method, b"", end=True))).status == Status.UNIMPLEMENTED


@pytest.mark.parametrize("bad", [b"\x01\x00\x00\x00\x01x", grpc.message(b"\x0a\x7f\x12"), b"\x00\xff\xff\xff\xff"])
async def test_nonsense_ends_its_call_and_no_other(tmp_path: Path, bad: bytes) -> None:
    async with service(tmp_path / "spool") as at, connect(at.address) as channel:
        caller = Caller(channel)
        good = caller.start(grpc.WRITE_MESSAGES, encoded([INFO, arrow(1)]))
        wrong = caller.start(grpc.WRITE_MESSAGES, encoded([INFO, arrow(2)]) + bad)
        assert (await caller.result(wrong)).status != Status.OK
        channel.connection.send_data(good, encoded([arrow(3)]))
        channel.connection.half_close(good)
        channel.poke()
        assert (await caller.result(good)).status == Status.OK
        one, other = sorted(at.hub.streams.values(), key=lambda stream: -stream.messages)
        assert in_log(one) == [INFO, arrow(1), arrow(3)]
        assert in_log(other) == [INFO, arrow(2)], "what came before the nonsense is kept"
        assert other.ended


async def test_a_call_that_ends_inside_a_message_is_told_so(tmp_path: Path) -> None:
    async with service(tmp_path / "spool") as at, connect(at.address) as channel:
        caller = Caller(channel)
        call = caller.start(grpc.WRITE_MESSAGES, encoded([INFO, arrow(1)])[:-1], end=True)
        assert (await caller.result(call)).status == Status.INVALID_ARGUMENT
        assert in_log(at.stream) == [INFO]
        assert at.stream.ended


async def test_a_program_that_dies_ends_its_stream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What had arrived whole is kept, what had not is counted."""
    async with service(tmp_path / "spool") as at:
        async with connect(at.address) as channel:
            Caller(channel).start(grpc.WRITE_MESSAGES, encoded([INFO, arrow(1), arrow(2)])[:-7])
            await at.until(lambda: at.hub.streams and at.stream.messages == 2)
        await at.until(lambda: at.stream.ended)
        assert in_log(at.stream) == [INFO, arrow(1)]
    assert "bytes of it are lost" in caplog.text


async def test_a_cancelled_call_ends_its_stream(tmp_path: Path) -> None:
    async with service(tmp_path / "spool") as at, connect(at.address) as channel:
        call = Caller(channel).start(grpc.WRITE_MESSAGES, encoded([INFO, arrow(1)]))
        await at.until(lambda: at.hub.streams and at.stream.messages == 2)
        channel.connection.cancel(call)
        channel.poke()
        await at.until(lambda: at.stream.ended)
        assert in_log(at.stream) == [INFO, arrow(1)]


async def test_a_stream_that_does_not_say_its_version(tmp_path: Path) -> None:
    async with service(tmp_path / "spool") as at, connect(at.address) as channel:
        caller = Caller(channel)
        call = caller.start(grpc.WRITE_MESSAGES, encoded([arrow(1)]), end=True)
        assert (await caller.result(call)).status == Status.OK
        assert in_log(at.stream) == [arrow(1)]
        assert at.stream.header is not None
        assert at.stream.header.version[:3] == (0, 23, 0)


async def test_a_blueprint_first_does_not_name_the_stream(tmp_path: Path) -> None:
    blueprint = (int(Kind.STORE_INFO), store_info(store_id("layout", kind=2)))
    async with service(tmp_path / "spool") as at, connect(at.address) as channel:
        caller = Caller(channel)
        await caller.result(caller.start(grpc.WRITE_MESSAGES, encoded([blueprint, INFO, arrow(1)]), end=True))
        assert at.stream.meta.recording_id == "rec"


class FullDisk(Hub):
    """Appends fail for a while."""

    failures = 3
    number = errno.ENOSPC

    def append(self, stream: Stream, frames: Iterable[tuple[int, Sequence[bytes | memoryview]]]) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(self.number, "as if", str(stream.path))
        super().append(stream, frames)


async def test_a_full_disk_holds_the_program_back_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.hub.STALL_RETRY_S", 0.05)
    (tmp_path / "spool").mkdir()
    async with service(tmp_path / "spool", FullDisk(tmp_path / "spool")) as at, connect(at.address) as channel:
        caller = Caller(channel)
        call = caller.start(grpc.WRITE_MESSAGES, encoded([INFO, arrow(1)]), end=True)
        assert (await caller.result(call)).status == Status.OK
        assert in_log(at.stream) == [INFO, arrow(1)]
        assert at.hub.failures == 0  # type: ignore[attr-defined]


async def test_a_broken_disk_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "spool").mkdir()
    hub = FullDisk(tmp_path / "spool")
    hub.number = errno.EIO
    async with service(tmp_path / "spool", hub) as at, connect(at.address) as channel:
        caller = Caller(channel)
        call = caller.start(grpc.WRITE_MESSAGES, encoded([INFO, arrow(1)]), end=True)
        result = await caller.result(call)
        assert result.status == Status.INTERNAL
        assert "as if" in result.message
        assert at.stream.ended
    assert "2 messages of a program are lost" in caplog.text


async def test_a_clients_own_deadline(tmp_path: Path) -> None:
    async with service(tmp_path / "spool") as at, connect(at.address) as channel:
        connection = channel.connection
        call = connection._h2.get_next_available_stream_id()
        connection._h2.send_headers(call, [
            (":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", grpc.WRITE_MESSAGES),
            ("te", "trailers"), ("content-type", "application/grpc"), ("grpc-timeout", "100m"),
        ])
        connection._open.add(call)
        connection.send_data(call, encoded([INFO, arrow(1)]))
        channel.poke()
        assert (await Caller(channel).result(call)).status == Status.DEADLINE_EXCEEDED
        assert at.stream.ended
        assert in_log(at.stream) == [INFO, arrow(1)]


async def test_readers_get_history_then_what_comes(tmp_path: Path) -> None:
    async with service(tmp_path / "spool") as at, connect(at.address) as writing, connect(at.address) as reading:
        writer = Caller(writing)
        call = writer.start(grpc.WRITE_MESSAGES, encoded([INFO, *(arrow(number) for number in range(50))]))
        await at.until(lambda: at.hub.streams and at.stream.messages == 51)
        wanted = Caller(reading).start(grpc.READ_MESSAGES, grpc.EMPTY_MESSAGE, end=True)
        reader, found = FrameReader(), list[tuple[int, bytes]]()

        async def read(count: int) -> None:
            with trio.fail_after(20):
                while len(found) < count:
                    for event in await reading.receive():
                        if isinstance(event, Data):
                            assert event.call == wanted
                            reading.connection.acknowledge(event)
                            reader.receive_data(event.data)
                            while (frame := reader.next_frame()) is not None:
                                found.append((frame.kind, frame.payload()))

        await read(51)
        assert found == [INFO, *(arrow(number) for number in range(50))]
        writing.connection.send_data(call, encoded([arrow(50)]))
        writing.poke()
        await read(52)
        assert found[-1] == arrow(50)


@pytest.mark.parametrize("newest_first", [False, True])
async def test_what_is_pinned_comes_first_in_a_long_history(tmp_path: Path, newest_first: bool) -> None:
    """A viewer needs names, layouts and static data before ten minutes of images, from whichever end."""
    static = (int(Kind.ARROW), chunk(7, times={}))
    frames = [INFO, *(arrow(number, 1 << 20) for number in range(6)), static]
    expected = [INFO, static, *(frames[-2:0:-1] if newest_first else frames)]
    async with service(tmp_path / "spool", newest_first=newest_first) as at, \
            connect(at.address) as writing, connect(at.address) as reading:
        call = await writable(writing)
        for frame in frames:
            await writing.send(call, encoded([frame]))
        await at.until(lambda: at.hub.streams and at.stream.messages == len(frames))
        Caller(reading).start(grpc.READ_MESSAGES, grpc.EMPTY_MESSAGE, end=True)
        reader, found = FrameReader(), list[tuple[int, bytes]]()
        with trio.fail_after(20):
            while len(found) < len(expected):
                for event in await reading.receive():
                    if isinstance(event, Data):
                        reading.connection.acknowledge(event)
                        reader.receive_data(event.data)
                        while (frame := reader.next_frame()) is not None:
                            found.append((frame.kind, frame.payload()))
        assert found == expected


async def test_a_reader_that_does_not_read_costs_nothing(tmp_path: Path) -> None:
    """The server stops reading the log when the reader's window and the socket are full."""
    async with service(tmp_path / "spool") as at, connect(at.address) as writing:
        call = await writable(writing)
        await writing.send(call, encoded([INFO]))
        for number in range(64):
            await writing.send(call, encoded([arrow(number, 1 << 20)]))
        await at.until(lambda: at.hub.streams and at.stream.messages == 65)
        sent: list[int] = []

        feeds = at.hub.feed

        def counting(selection):  # type: ignore[no-untyped-def]
            feed = feeds(selection)
            original = feed.next

            async def next_(max_bytes: int = 1 << 20):  # type: ignore[no-untyped-def]
                batch = await original(max_bytes)
                sent.append(batch.size if batch else 0)
                return batch

            feed.next = next_
            return feed

        at.hub.feed = counting  # type: ignore[method-assign]
        async with connect(at.address) as reading:
            Caller(reading).start(grpc.READ_MESSAGES, grpc.EMPTY_MESSAGE, end=True)
            await at.until(lambda: sum(sent) > 1 << 20)
            await trio.sleep(1)  # nothing to wait for: that nothing happens is what is tested
            assert sum(sent) < 40 << 20, "the log is being read although nobody takes it"


async def test_the_port_says_who_has_it(tmp_path: Path) -> None:
    holder = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = holder[0].socket.getsockname()[1]
    (tmp_path / "spool").mkdir()
    server = GrpcServer(Hub(tmp_path / "spool"), port)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        assert server.url == ""
        assert f"port {port} is taken by" in server.error
        nursery.cancel_scope.cancel()
    await holder[0].aclose()

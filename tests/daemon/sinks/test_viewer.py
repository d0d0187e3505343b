"""The viewer sink against servers that do just what a test wants; real ones: tests/integration/test_viewers.py."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from daemon.channel import Channel, ChannelBroken
from daemon.hub import Hub
from daemon.ingest.grpc import GrpcServer
from daemon.processes import process_started
from daemon.selection import resolve
from daemon.sinks import viewer
from daemon.sinks.runner import SinkFailed, SinkRetry
from daemon.sinks.viewer import ViewerSink
from daemon.stream import Stream
from daemon.wire.grpc import (
    EMPTY_MESSAGE,
    WRITE_MESSAGES,
    Address,
    Connection,
    Data,
    Finished,
    FrameReader,
    HalfClosed,
    Opened,
    Status,
    parse_url,
)
from daemon.wire.protobuf import length_delimited
from daemon.wire.rrd import Kind, StreamHeader
from tests.helpers.chunks import chunk, store_id, store_info

Frame = tuple[int, bytes]
INFO = (int(Kind.STORE_INFO), store_info())
STATIC = (int(Kind.ARROW), chunk(7, times={}))


def arrow(number: int, size: int = 100) -> Frame:
    """Something that routes like a chunk with a time; its inside is nobody's business here."""
    ending = length_delimited(6, bytes(18)) + b"\x38\x00"
    inside = number.to_bytes(4, "big") * (size // 4)
    return int(Kind.ARROW), length_delimited(1, store_id()) + length_delimited(5, inside) + ending


class Receiver:
    """A server that takes streams and remembers every frame.

    Attributes:
        frames: In the order of their arrival.
        cut_after: Hang up after so many frames, once.
        refuse: End calls with this status instead of OK.
        reading: Unset, it reads nothing more from any connection.
    """

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.calls = 0
        self.cut_after = 0
        self.refuse = Status.OK
        self.reading = trio.Event()
        self.reading.set()
        self.arrived = trio.lowlevel.ParkingLot()
        self.address = Address("127.0.0.1", 0)

    async def serve(self, stream: trio.SocketStream) -> None:
        channel = Channel(stream, Connection(client=False))
        readers: dict[int, FrameReader] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.pump)
            try:
                while events := await channel.receive():
                    for event in events:
                        if self._take(channel, readers, event):
                            await channel.aclose()
                            break
                    channel.poke()
                    await self.reading.wait()
            except ChannelBroken:
                pass
            nursery.cancel_scope.cancel()

    def _take(self, channel: Channel, readers: dict[int, FrameReader], event: object) -> bool:
        """True: hang up."""
        connection = channel.connection
        if isinstance(event, Opened):
            if event.method == WRITE_MESSAGES:
                readers[event.call] = FrameReader()
                connection.answer(event.call)
            else:
                connection.finish(event.call, Status.UNIMPLEMENTED)
        elif isinstance(event, Data) and event.call in readers:
            connection.acknowledge(event)
            reader = readers[event.call]
            reader.receive_data(event.data)
            while (frame := reader.next_frame()) is not None:
                self.frames.append((frame.kind, frame.payload()))
                self.arrived.unpark_all()
                if self.cut_after and len(self.frames) >= self.cut_after:
                    self.cut_after = 0
                    return True
        elif isinstance(event, HalfClosed) and event.call in readers:
            self.calls += 1
            connection.send_small(event.call, EMPTY_MESSAGE)
            connection.finish(event.call, self.refuse if self.frames else Status.OK, "as told")
        elif isinstance(event, Finished):
            readers.pop(event.call, None)
        return False

    async def until(self, count: int) -> None:
        with trio.fail_after(20):
            while len(self.frames) < count:
                await self.arrived.park()


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    one = Receiver()
    async with trio.open_nursery() as nursery:
        (listener, *_) = await nursery.start(trio.serve_tcp, one.serve, 0)
        one.address = Address("127.0.0.1", listener.socket.getsockname()[1])
        yield one
        nursery.cancel_scope.cancel()


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    (tmp_path / "spool").mkdir()
    return Hub(tmp_path / "spool")


def stream_of(hub: Hub, frames: Sequence[Frame], version: tuple[int, int, int] = (0, 41, 0)) -> Stream:
    stream = hub.open_stream(kind="grpc", application_id="app", recording_id="rec")
    stream.header = StreamHeader((*version, 0), 1, 2)
    if frames:
        hub.append(stream, [(kind, [payload]) for kind, payload in frames])
    return stream


def finish(hub: Hub, stream: Stream) -> None:
    """End it without the process that makes footers."""
    hub.end_stream(stream, "the test says so")
    stream.complete = True
    hub.reshaped()


def sink_for(hub: Hub, address: Address, *terms: str, **options: object) -> ViewerSink:
    selection = resolve(terms or ["@live"], hub.streams, time.time())
    return ViewerSink(hub, selection, address, **options)  # type: ignore[arg-type]


async def test_everything_in_order_then_the_end(hub: Hub) -> None:
    frames = [INFO, *(arrow(number) for number in range(500)), arrow(500, 5 << 20), arrow(501)]
    stream = stream_of(hub, frames)
    async with receiver() as server:
        sink = sink_for(hub, server.address, f"stream:{stream.id}")
        finish(hub, stream)
        with trio.fail_after(20):
            await sink.deliver()
        assert server.frames == frames
        assert sink.delivered_messages == len(frames)
        assert sink.lag() == (0, 0)
        assert server.calls == 2, "the handshake's, and one"


async def test_what_is_live_follows(hub: Hub) -> None:
    stream = stream_of(hub, [INFO])
    async with receiver() as server, trio.open_nursery() as nursery:
        sink = sink_for(hub, server.address)
        nursery.start_soon(sink.deliver)
        await server.until(1)
        for number in range(20):
            hub.append(stream, [(2, [arrow(number)[1]])])
            await server.until(number + 2)
        stream_of(hub, [INFO, arrow(100)])
        await server.until(23)
        assert server.frames == [INFO, *(arrow(number) for number in range(20)), INFO, arrow(100)]
        assert sink.state == "following"
        nursery.cancel_scope.cancel()


async def test_after_a_cut_a_known_process_gets_what_it_may_lack(hub: Hub) -> None:
    """Nothing that was not confirmed is taken for delivered; what was, is not sent again."""
    first = [INFO, *(arrow(number) for number in range(10))]
    stream = stream_of(hub, first)
    async with receiver() as server:
        sink = sink_for(hub, server.address, f"stream:{stream.id}")
        checkpoint = trio.Event()
        sink.saved = checkpoint.set
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.deliver)
            with trio.fail_after(20):
                await checkpoint.wait()
            nursery.cancel_scope.cancel()
        assert server.frames == first
        more = [arrow(number) for number in range(10, 20)]
        hub.append(stream, [(kind, [payload]) for kind, payload in more])
        finish(hub, stream)
        server.cut_after = len(first) + 3
        with trio.fail_after(20), pytest.raises(SinkRetry):
            await sink.deliver()
        with trio.fail_after(20):
            await sink.deliver()
        assert server.frames[: len(first)] == first
        assert server.frames[-len(more) :] == more, "in order, after the cut"
        assert server.frames.count(INFO) == 1


async def test_a_cut_while_history_goes_backwards(hub: Hub) -> None:
    """There is no position to go on from: it begins again, in the same order, and nothing is left out."""
    old = [arrow(number, 1 << 20) for number in range(4)]
    stream = stream_of(hub, [INFO, *old])
    async with receiver() as server:
        sink = sink_for(hub, server.address, f"stream:{stream.id}", newest_first=True)
        finish(hub, stream)
        server.cut_after = 3
        with trio.fail_after(20):
            with pytest.raises(SinkRetry):
                await sink.deliver()
            await sink.deliver()
        assert server.frames[:3] == [INFO, old[3], old[2]]
        assert server.frames[3:] == [INFO, *old[::-1]]
        assert ViewerSink.restore(hub, sink.selection, sink.target, sink.id, sink.options()).newest_first


async def test_a_cut_before_anything_is_confirmed_skips_nothing(hub: Hub) -> None:
    """Who wants what comes from now on wants it from when that was said."""
    async with receiver() as server, trio.open_nursery() as nursery:
        sink = sink_for(hub, server.address, from_now=True)
        failed = trio.Event()

        async def deliver() -> None:
            with pytest.raises(SinkRetry):
                await sink.deliver()
            failed.set()

        nursery.start_soon(deliver)
        with trio.fail_after(20):
            while sink.state != "following":
                await hub.wait_change(hub.version)
            server.cut_after = 2
            frames = [INFO, *(arrow(number) for number in range(5))]
            stream_of(hub, frames)
            await failed.wait()
            nursery.start_soon(sink.deliver)
            await server.until(2 + len(frames))
        assert server.frames[2:] == frames
        nursery.cancel_scope.cancel()


async def test_a_cut_before_all_that_is_pinned_is_confirmed(hub: Hub) -> None:
    """A viewer without store infos and static chunks would show nothing that comes after them."""
    statics = [(int(Kind.ARROW), chunk(number, times={})) for number in range(6)]
    stream = stream_of(hub, [INFO, *statics, *(arrow(number) for number in range(50))])
    async with receiver() as server:
        sink = sink_for(hub, server.address, f"stream:{stream.id}", from_now=True)
        server.cut_after = 1
        with trio.fail_after(20), pytest.raises(SinkRetry):
            await sink.deliver()
        hub.append(stream, [(2, [arrow(999)[1]])])
        finish(hub, stream)
        with trio.fail_after(20):
            await sink.deliver()
        assert server.frames[1:] == [INFO, *statics, arrow(999)]


async def test_somebody_else_gets_everything(hub: Hub) -> None:
    frames = [INFO, *(arrow(number) for number in range(10))]
    stream = stream_of(hub, frames)
    async with receiver() as server:
        sink = sink_for(hub, server.address, f"stream:{stream.id}")
        finish(hub, stream)
        with trio.fail_after(20):
            await sink.deliver()
            sink._peer = (1, 1.0)  # as if another process had been there
            await sink.deliver()
        assert server.frames == frames + frames


async def test_it_is_the_same_after_a_restart(hub: Hub) -> None:
    frames = [INFO, arrow(1)]
    stream = stream_of(hub, frames)
    async with receiver() as server:
        sink = sink_for(hub, server.address, f"stream:{stream.id}", max_lag=3.0, from_now=False)
        finish(hub, stream)
        with trio.fail_after(20):
            await sink.deliver()
        options = json.loads(json.dumps(sink.options()))
        again = ViewerSink.restore(hub, sink.selection, sink.target, sink.id, options)
        assert (again.address, again.max_lag, again.from_now, again.id) == (sink.address, 3.0, False, sink.id)
        with trio.fail_after(20):
            await again.deliver()
        assert server.frames == frames, "sent twice to a process that had confirmed it"


async def test_from_now_leaves_out_all_but_what_is_pinned(hub: Hub) -> None:
    stream = stream_of(hub, [INFO, *(arrow(number) for number in range(50)), STATIC])
    async with receiver() as server, trio.open_nursery() as nursery:
        sink = sink_for(hub, server.address, from_now=True)
        nursery.start_soon(sink.deliver)
        await server.until(2)
        hub.append(stream, [(2, [arrow(99)[1]])])
        await server.until(3)
        assert server.frames == [INFO, STATIC, arrow(99)]
        assert sink.skipped_messages == 50
        nursery.cancel_scope.cancel()


async def test_a_server_that_does_not_read_holds_nobody_up(hub: Hub) -> None:
    """Cancelling works in the middle of a message, and the lag is a number."""
    stream = stream_of(hub, [INFO])
    with trio.fail_after(30):
        async with receiver() as server, trio.open_nursery() as nursery:
            sink = sink_for(hub, server.address)
            nursery.start_soon(sink.deliver)
            await server.until(1)
            server.reading = trio.Event()
            # Its window is 1 GiB: here it is the socket's buffer that is full.
            for number in range(100):
                hub.append(stream, [(2, [arrow(number, 1 << 20)[1]])])
            await trio.testing.wait_all_tasks_blocked(0.2)
            assert sink.lag()[1] > 50 << 20
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("stream_version", "viewer_version", "fails", "warns"), [
    ((0, 41, 0), (0, 41, 0), False, False),
    ((0, 41, 0), (0, 36, 3), False, True),
    ((0, 41, 0), (0, 23, 4), True, True),
])
async def test_versions_are_compared_before_anything_is_sent(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, stream_version: tuple[int, int, int],
    viewer_version: tuple[int, int, int], fails: bool, warns: bool,
) -> None:
    frames = [(1, store_info(version=stream_version[1] << 8 | stream_version[2] << 16)), arrow(1)]
    stream = stream_of(hub, frames, stream_version)
    finish(hub, stream)
    monkeypatch.setattr("daemon.sinks.viewer.server_at", lambda port: None)
    async with receiver() as server:
        sink = sink_for(hub, server.address, f"stream:{stream.id}", version=viewer_version)
        with trio.fail_after(20):
            if fails:
                with pytest.raises(SinkFailed, match="would drop"):
                    await sink.deliver()
                assert server.frames == []
            else:
                await sink.deliver()
                assert server.frames == frames
        assert bool(sink.status()["warning"]) == warns


async def test_a_call_that_is_refused_is_tried_again(hub: Hub) -> None:
    stream = stream_of(hub, [INFO, arrow(1)])
    finish(hub, stream)
    async with receiver() as server:
        server.refuse = Status.RESOURCE_EXHAUSTED
        sink = sink_for(hub, server.address, f"stream:{stream.id}")
        with trio.fail_after(20), pytest.raises(SinkRetry, match="as told"):
            await sink.deliver()
        server.refuse = Status.OK
        server.frames.clear()
        with trio.fail_after(20):
            await sink.deliver()
        assert server.frames == [INFO, arrow(1)]


async def test_a_viewer_of_its_own_that_is_gone_ends_it(hub: Hub) -> None:
    stream_of(hub, [INFO])
    sink = sink_for(hub, parse_url("127.0.0.1:1"), process=(os.getpid(), 1.0))
    with trio.fail_after(20):
        await sink.deliver()
    sink.state = "complete"
    assert sink.closed
    assert sink.status()["state"] == "closed"


async def test_a_viewer_of_an_earlier_boot_is_gone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts are counted from the boot: after the next one another process may have its pid and its start."""
    sink = sink_for(hub, parse_url("127.0.0.1:1"), process=(os.getpid(), process_started(os.getpid())))
    sink._peer = sink.process
    options = json.loads(json.dumps(sink.options()))
    again = ViewerSink.restore(hub, sink.selection, sink.target, sink.id, options)
    assert not again._is_gone()
    assert again._peer == sink.process
    monkeypatch.setattr(viewer, "boot_id", lambda: "the next")
    again = ViewerSink.restore(hub, sink.selection, sink.target, sink.id, options)
    assert again._peer is None
    await again.deliver()
    assert again.closed


async def test_a_url_is_waited_for(hub: Hub) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    sink = sink_for(hub, Address("127.0.0.1", port))
    with trio.fail_after(20), pytest.raises(SinkRetry, match="nobody listens there"):
        await sink.deliver()


async def test_a_daemon_does_not_feed_itself(hub: Hub) -> None:
    server = GrpcServer(hub, 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        sink = sink_for(hub, Address("127.0.0.1", server.port))
        with trio.fail_after(20), pytest.raises(SinkFailed, match="this daemon itself"):
            await sink.deliver()
        nursery.cancel_scope.cancel()

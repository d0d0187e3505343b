"""A hub of one's own, fast: logs in a temporary directory, footers made in this process; and streams in it.

`core` is a whole daemon inside the test: no process, no keeper, no gRPC; verbs are said to it as its server would.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon import descriptors
from daemon.app import Daemon
from daemon.completing import complete_streams
from daemon.control.server import Call, Client, perform
from daemon.hub import Hub
from daemon.settings import Settings
from daemon.spool.finish import finish_log
from daemon.stream import Stream
from daemon.wire.control import Message, VerbError
from daemon.wire.rrd import Kind
from tests.conftest import Home
from tests.helpers import chunks, frames
from tests.helpers.frames import store_info

FULL = OSError(errno.ENOSPC, "No space left on device")


async def finish(path: Path) -> dict[str, Any]:
    """What a process of its own does for the daemon."""
    await trio.lowlevel.checkpoint()
    return asdict(finish_log(str(path)))


def make_hub(directory: Path) -> Hub:
    """A hub in this directory; its logs are not completed."""
    directory.mkdir(parents=True, exist_ok=True)
    return Hub(directory, finish=finish)


@pytest.fixture
async def hub(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Hub]:
    """A hub that completes its logs."""
    one = make_hub(tmp_path / "spool")
    await nursery.start(complete_streams, one)
    yield one
    for stream in one.streams.values():
        stream.close()


def append(hub: Hub, stream: Stream, *data: bytes) -> None:
    """What a pump does: bytes to the log, then look at them."""
    assert stream.log is not None
    stream.log.append(data)
    hub.advance(stream)


def opened(hub: Hub, *data: bytes, kind: str = "stdin", **more: Any) -> Stream:
    """A live stream with some bytes."""
    one = hub.open_stream(kind=kind, **more)
    append(hub, one, *data)
    return one


def real(numbers: Iterable[int]) -> list[bytes]:
    """A store info, and chunks that are some, one for each number."""
    return [store_info(), *(frames.frame(Kind.ARROW, chunks.chunk(number)) for number in numbers)]


async def completed(hub: Hub, stream: Stream) -> None:
    """Wait until a log is complete."""
    while not stream.complete:
        await hub.wait_reshaped(hub.shape)


async def ended(hub: Hub, *data: bytes, **more: Any) -> Stream:
    """A complete stream with some bytes."""
    one = opened(hub, *data, **more)
    hub.end_stream(one, "test")
    await completed(hub, one)
    return one


class Keeper(descriptors.Notifier):
    """Hears what a daemon tells its keeper."""

    def __init__(self) -> None:
        super().__init__("")
        self.told: list[str] = []
        self.ready = trio.Event()

    def tell(self, *lines: str, fds: Sequence[int] = ()) -> None:
        self.told += lines
        if "READY=1" in lines:
            self.ready.set()


class Asker(Client):
    """A connection that keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(None, 0)  # type: ignore[arg-type] - nothing is written to it
        self.agent = "test"
        self.got: list[Message] = []

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        self.got.append(message)

    @property
    def progress(self) -> list[Message]:
        """What it was told before its answers."""
        return [message["progress"] for message in self.got if "progress" in message]


@dataclass
class Core:
    """A daemon, and somebody who says verbs to it."""

    daemon: Daemon
    keeper: Keeper
    listener: socket.socket
    client: Asker = field(default_factory=Asker)
    status: int | None = None
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def hub(self) -> Hub:
        """Its streams."""
        return self.daemon.hub

    async def run(self, *inherited: tuple[str, int]) -> None:
        """Run it until it is stopped."""
        with self.listener:  # a process keeps it to its end: the keeper that it may become needs it
            listener = self.listener.dup()
            try:
                self.status = await self.daemon.run([(descriptors.CONTROL, listener.detach()), *inherited])
            finally:
                for one in self.daemon.server._listeners:
                    one.close()
            self.ended.set()

    async def say(self, verb: str, *, fds: Sequence[int] = (), **args: Any) -> Message:
        """Say a verb, and what is to be done after its answer."""
        call = Call(self.daemon, self.client, 1, verb, args, list(fds))
        result = await perform(call)
        if call.afterwards is not None:
            call.afterwards()
        return result

    async def refused(self, verb: str, **args: Any) -> tuple[str, str, str]:
        """Say a verb that is not done: code, message and hint of the error."""
        with pytest.raises(VerbError) as caught:
            await self.say(verb, **args)
        return caught.value.code, caught.value.message, caught.value.hint


def make_core(home: Home, monkeypatch: pytest.MonkeyPatch) -> Core:
    """A daemon that does not run yet."""
    for name, value in home.env.items():
        monkeypatch.setenv(name, value)
    keeper, listener = Keeper(), socket.socket(socket.AF_UNIX)
    daemon = Daemon(Settings(grpc_port=-1), keeper)
    daemon.hub.finish = finish
    listener.bind(str(home.path / "control.sock"))
    listener.listen()
    return Core(daemon, keeper, listener)


@pytest.fixture
async def core(home: Home, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Core]:
    """A daemon that is ready."""
    one = make_core(home, monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        await one.keeper.ready.wait()
        yield one
        nursery.cancel_scope.cancel()
    for stream in one.hub.streams.values():
        stream.close()

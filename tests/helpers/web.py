"""A web server in the test's own process, and a client that says exactly what it is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import h11
import trio

from daemon.completing import complete_streams
from daemon.hub import Hub
from daemon.stream import Stream
from daemon.web.assets import Library
from daemon.web.auth import Guard
from daemon.web.live import BLOCK, DATA
from daemon.web.pages import Site
from daemon.web.server import Handler, Limits, open_listeners, serve
from daemon.wire.protobuf import length_delimited, varint_field
from daemon.wire.rrd import Kind, StreamHeader

TOKEN = "t0ken"
HEADER = StreamHeader((0, 41, 0, 0), 1, 2)


def store(recording: str, application: str = "app") -> bytes:
    """A StoreId message."""
    app = length_delimited(1, application.encode())
    return varint_field(1, 1) + length_delimited(2, recording.encode()) + length_delimited(3, app)


def message(recording: str, body: bytes) -> tuple[int, list[bytes]]:
    """A frame for Hub.append: an ArrowMsg of a recording with an opaque payload."""
    return Kind.ARROW, [length_delimited(1, store(recording)) + length_delimited(5, body)]


def log_to(hub: Hub, recording: str, bodies: list[bytes], *, version: int = 41, pid: int | None = None) -> Stream:
    """A stream with these messages."""
    stream = hub.open_stream(kind="shim", application_id="app", recording_id=recording, program="test.py", pid=pid)
    stream.header = StreamHeader((0, version, 0, 0), 1, 2)
    hub.append(stream, [message(recording, body) for body in bodies])
    return stream


@dataclass
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        return json.loads(self.body)

    @property
    def blocks(self) -> list[tuple[int, bytes]]:
        """The blocks of /stream."""
        found, at = [], 0
        while at < len(self.body):
            kind, length = BLOCK.unpack_from(self.body, at)
            at += BLOCK.size
            found.append((kind, self.body[at : at + length]))
            at += length
        assert at == len(self.body), "the last block is cut"
        return found

    @property
    def data(self) -> list[bytes]:
        return [body for kind, body in self.blocks if kind == DATA]

    @property
    def states(self) -> list[dict[str, object]]:
        return [json.loads(body) for kind, body in self.blocks if kind != DATA]


@dataclass
class Served:
    """A server that listens."""

    port: int
    site: Site

    @property
    def hub(self) -> Hub:
        return self.site.hub

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def ask(self, target: str, *, method: str = "GET", body: bytes = b"", token: bool = True,
                  headers: dict[str, str] | None = None) -> Answer:
        """One request on a connection of its own."""
        stream = await self.connect()
        async with stream:
            return await exchange(stream, self.port, target, method, body, token=token, headers=headers or {})

    async def ask_anything(self, target: str, body: bytes) -> None:
        """A request that may be answered, cut or refused."""
        try:
            await self.ask(target, method="POST", body=body)
        except (AssertionError, h11.RemoteProtocolError, trio.BrokenResourceError):
            return


async def exchange(stream: trio.SocketStream, port: int, target: str, method: str = "GET", body: bytes = b"", *,
                   token: bool = True, headers: dict[str, str] | None = None) -> Answer:
    """One request on an open connection; reads the answer to its end."""
    client = h11.Connection(h11.CLIENT)
    credentials = {"Authorization": f"Bearer {TOKEN}"} if token else {}
    everything = {"Host": f"127.0.0.1:{port}", **credentials, **(headers or {})}
    if body:
        everything["Content-Length"] = str(len(body))
    await stream.send_all(client.send(h11.Request(method=method, target=target, headers=list(everything.items()))))
    if body:
        await stream.send_all(client.send(h11.Data(data=body)))
    await stream.send_all(client.send(h11.EndOfMessage()))
    return await read_answer(stream, client)


async def read_answer(stream: trio.SocketStream, client: h11.Connection) -> Answer:
    """Read one answer."""
    answer: Answer | None = None
    parts = []
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(await stream.receive_some(1 << 16))
        elif isinstance(event, h11.Response):
            named = {name.decode(): value.decode() for name, value in event.headers}
            answer = Answer(event.status_code, named, b"")
        elif isinstance(event, h11.Data):
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            assert answer is not None
            answer.body = b"".join(parts)
            return answer
        else:
            raise AssertionError(f"the server hung up: {event}")


@asynccontextmanager
async def serving(handler: Handler, **limits: float) -> AsyncIterator[int]:
    """A server with a handler of the test's; its port."""
    listeners = await open_listeners("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: serve(
            listeners, handler, limits=Limits(**limits), task_status=task_status))  # type: ignore[arg-type]
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def served(directory: Path, *, token: str | None = TOKEN) -> AsyncIterator[Served]:
    """A whole site over an empty spool."""
    spool = directory / "spool"
    spool.mkdir()
    hub = Hub(spool)
    site = Site(hub, Guard(token), Library())
    async with trio.open_nursery() as nursery:
        await nursery.start(complete_streams, hub)
        async with serving(site.handle) as port:
            yield Served(port, site)
        nursery.cancel_scope.cancel()


async def until_complete(hub: Hub, stream: Stream) -> None:
    """Wait until a stream's log is complete."""
    with trio.fail_after(30):
        while not stream.complete:
            await hub.wait_change(hub.version)

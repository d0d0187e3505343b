"""Who is there: every kind of listener, within its time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from daemon.channel import Channel, ChannelBroken
from daemon.hub import Hub
from daemon.ingest.grpc import GrpcServer
from daemon.viewers.probe import Unreachable, connect, probe
from daemon.wire.grpc import (
    EMPTY_MESSAGE,
    WRITE_MESSAGES,
    Address,
    Connection,
    HalfClosed,
    Opened,
    Status,
)

Handler = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[Address]:
    async with trio.open_nursery() as nursery:
        (listener, *_) = await nursery.start(trio.serve_tcp, handler, 0)
        yield Address("127.0.0.1", listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def hangs_up(stream: trio.SocketStream) -> None:
    await stream.aclose()


async def http(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    await stream.aclose()


async def python_http(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"<!DOCTYPE HTML>\n<html>...")
    await stream.aclose()


async def ssh(stream: trio.SocketStream) -> None:
    await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n")
    await trio.sleep_forever()


async def http2_without_answers(stream: trio.SocketStream) -> None:
    await stream.send_all(Connection(client=False).data_to_send())
    await trio.sleep_forever()


def answering(says: Callable[[str], tuple[int, bytes]]) -> Handler:
    """A gRPC server whose every method answers as told: status, message."""

    async def handler(stream: trio.SocketStream) -> None:
        channel = Channel(stream, Connection(client=False))
        methods: dict[int, str] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.pump)
            try:
                while events := await channel.receive():
                    for event in events:
                        if isinstance(event, Opened):
                            methods[event.call] = event.method
                        elif isinstance(event, HalfClosed):
                            status, body = says(methods[event.call])
                            if status == Status.OK:
                                channel.connection.answer(event.call)
                                channel.connection.send_small(event.call, body)
                            channel.connection.finish(event.call, status)
                    channel.poke()
            except ChannelBroken:
                pass
            nursery.cancel_scope.cancel()

    return handler


NO = (int(Status.UNIMPLEMENTED), b"")
viewer = answering(lambda method: (int(Status.OK), EMPTY_MESSAGE) if method == WRITE_MESSAGES else NO)
yes_man = answering(lambda method: (Status.OK, EMPTY_MESSAGE))
other_grpc = answering(lambda method: NO)


@pytest.mark.parametrize(("handler", "kind"), [
    (silent, "silent"),
    (hangs_up, "other"),
    (http, "http"),
    (python_http, "http"),
    (ssh, "other"),
    (http2_without_answers, "silent"),
    (viewer, "rerun"),
    (yes_man, "grpc"),
    (other_grpc, "grpc"),
])
async def test_who_is_there(handler: Handler, kind: str) -> None:
    async with listening(handler) as address:
        began = trio.current_time()
        answer = await probe(address, seconds=0.5)
        assert answer.kind == kind
        assert answer.takes_streams == (kind == "rerun")
        assert answer.describe()
        assert trio.current_time() - began < 5


async def test_nobody() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    assert (await probe(Address("127.0.0.1", port))).kind == "none"
    with pytest.raises(Unreachable) as caught:
        async with connect(Address("127.0.0.1", port)):
            pass
    assert caught.value.kind == "none"


async def test_a_machine_that_does_not_answer_takes_no_longer_than_its_time() -> None:
    """A listener whose backlog is full drops what comes, as a firewall does."""
    with trio.socket.socket() as full:
        await full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = []
        try:
            for _ in range(4):
                sock = trio.socket.socket()
                waiting.append(sock)
                with trio.move_on_after(0.2):
                    await sock.connect(("127.0.0.1", port))
            with trio.fail_after(5):
                assert (await probe(Address("127.0.0.1", port), seconds=0.3)).kind == "silent"
        finally:
            for sock in waiting:
                sock.close()


async def test_an_rrd_daemon_says_so(tmp_path: Path) -> None:
    server = GrpcServer(Hub(tmp_path), 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        answer = await probe(Address("127.0.0.1", server.port))
        assert answer.kind == "rrd"
        assert answer.identity is not None
        assert list(tmp_path.iterdir()) == [], "a probe leaves nothing"
        nursery.cancel_scope.cancel()


async def test_no_tls_there() -> None:
    async with listening(http) as address:
        with pytest.raises(Unreachable, match="TLS"):
            async with connect(Address(address.host, address.port, secure=True)):
                pass


async def test_what_is_raised_inside_comes_out_as_it_is() -> None:
    async with listening(viewer) as address:
        with pytest.raises(ZeroDivisionError):
            async with connect(address):
                raise ZeroDivisionError

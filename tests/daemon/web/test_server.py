from __future__ import annotations

import json

import h11
import pytest
import trio
import wsproto
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, RejectConnection, TextMessage
from wsproto.events import Request as Upgrade

from daemon.web.server import MAX_BODY, MAX_HEAD, Exchange, Gone, WebSocket
from daemon.wire.http import HttpError
from tests.helpers.web import exchange, read_answer, serving


@pytest.fixture
async def dial():
    """Opens connections to a port, and closes them after the test."""
    streams = []

    async def open_one(port: int) -> trio.SocketStream:
        streams.append(await trio.open_tcp_stream("127.0.0.1", port))
        return streams[-1]

    yield open_one
    for stream in streams:
        stream.socket.close()


async def echo(one: Exchange) -> None:
    body = await one.body() if one.request.method == "POST" else one.request.path.encode()
    await one.reply(200, body, "text/plain")


async def end_of(stream: trio.SocketStream) -> bytes:
    """All that still comes."""
    found = b""
    with trio.fail_after(10):
        try:
            while data := await stream.receive_some(1 << 16):
                found += data
        except trio.BrokenResourceError:
            pass
    return found


async def test_a_connection_takes_one_request_after_the_other(dial):
    async with serving(echo) as port:
        stream = await dial(port)
        for number in range(3):
            assert (await exchange(stream, port, f"/{number}")).body == f"/{number}".encode()
        assert (await exchange(stream, port, "/", "POST", b"hello")).body == b"hello"
        assert (await exchange(stream, port, "/head", "HEAD")).body == b""


async def test_pipelined_requests_and_bytes_one_by_one(dial):
    async with serving(echo) as port:
        stream = await dial(port)
        raw = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        for byte in raw:
            await stream.send_all(bytes([byte]))
        answers = await end_of(stream)
        assert answers.count(b"200 OK") == 2
        assert answers.index(b"/a") < answers.index(b"/b")


@pytest.mark.parametrize("raw", [
    b"\x16\x03\x01\x02\x00\x01\x00",  # TLS
    b"GET / HTTP/1.1\r\n\r\n",  # no Host
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (2 * MAX_HEAD),
    b"GET http://evil/ HTTP/1.1\r\nHost: x\r\n\r\n",
])
async def test_what_is_no_request_ends_its_connection_and_no_other(raw, dial):
    async with serving(echo) as port:
        other = await dial(port)
        bad = await dial(port)
        await bad.send_all(raw)
        answer = await end_of(bad)
        assert not answer or answer.startswith(b"HTTP/1.1 4")
        assert (await exchange(other, port, "/still")).body == b"/still"


async def test_a_body_that_is_too_long(dial):
    async with serving(echo) as port:
        stream = await dial(port)
        answer = await exchange(stream, port, "/", "POST", b"x" * (MAX_BODY + 1))
        assert answer.status == 413


async def test_a_body_that_nobody_reads(dial, caplog):
    """One that is too long ends the connection: where the next request would begin is not looked for."""
    async with serving(echo) as port:
        stream = await dial(port)
        for size, more in ((MAX_BODY, True), (MAX_BODY + 1, False)):
            await stream.send_all(f"PUT /unread HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
            client = h11.Connection(h11.CLIENT)
            client.send(h11.Request(method="PUT", target="/unread", headers=[("Host", "x")]))
            assert (await read_answer(stream, client)).body == b"/unread"
            await stream.send_all(b"x" * size)
            if more:
                assert (await exchange(stream, port, "/more")).body == b"/more"
        assert await end_of(stream) == b""
        await trio.testing.wait_all_tasks_blocked()
    assert "a bug in rrd" not in caplog.text


@pytest.mark.parametrize(("sent", "limit"), [
    (b"", "keep_alive_s"),
    (b"GET / HTTP/1.1\r\nHost: x\r\n", "head_s"),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx", "body_s"),
])
async def test_who_is_slow_to_ask_is_dropped(sent, limit, dial):
    """Slow loris: a deadline for the whole, not for each byte."""
    async with serving(echo, **{limit: 0.2}) as port:
        stream = await dial(port)
        await stream.send_all(sent)

        async def trickle() -> None:
            while True:
                await trio.sleep(0.05)
                try:
                    await stream.send_all(b"x" if limit == "body_s" else b"a")
                except trio.BrokenResourceError:
                    return

        async with trio.open_nursery() as nursery:
            if sent:
                nursery.start_soon(trickle)
            await end_of(stream)
            nursery.cancel_scope.cancel()


async def test_more_connections_than_allowed_are_turned_away(dial):
    async with serving(echo, connections=2) as port:
        kept = [await dial(port) for _ in range(2)]
        for stream in kept:
            await exchange(stream, port, "/")
        third = await dial(port)
        assert await end_of(third) == b""
        await kept[0].aclose()
        with trio.fail_after(10):
            while True:
                stream = await dial(port)
                try:
                    assert (await exchange(stream, port, "/again")).status == 200
                    break
                except (trio.BrokenResourceError, AssertionError, h11.RemoteProtocolError):
                    await trio.sleep(0.01)


async def test_a_handlers_refusal_and_its_client_that_hangs_up(dial):
    hung_up = trio.Event()

    async def handler(one: Exchange) -> None:
        if one.request.path == "/no":
            raise HttpError(404, "no such thing", "look elsewhere")
        await one.begin(200, [("Connection", "close")])
        try:
            async with one.until_hung_up():
                await trio.sleep_forever()
        finally:
            hung_up.set()

    async with serving(handler) as port:
        stream = await dial(port)
        answer = await exchange(stream, port, "/no")
        assert (answer.status, answer.body) == (404, b"no such thing\nlook elsewhere\n")
        waiting = await dial(port)
        await waiting.send_all(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await waiting.receive_some(1000)
        assert not hung_up.is_set()
        await waiting.aclose()
        with trio.fail_after(10):
            await hung_up.wait()


async def test_a_bug_ends_its_connection_and_no_other(dial, caplog):
    async def handler(one: Exchange) -> None:
        if one.request.path == "/bug":
            raise ZeroDivisionError
        await echo(one)

    async with serving(handler) as port:
        other = await dial(port)
        await exchange(other, port, "/before")
        stream = await dial(port)
        await stream.send_all(b"GET /bug HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await end_of(stream) == b""
        assert (await exchange(other, port, "/after")).body == b"/after"
    assert "a bug in rrd: ZeroDivisionError()" in caplog.text


async def test_an_error_within_until_hung_up_comes_out_as_itself(dial):
    seen = []

    async def handler(one: Exchange) -> None:
        try:
            async with one.until_hung_up():
                raise OSError("disk")
        except OSError as error:
            seen.append(error)
        raise Gone

    async with serving(handler) as port:
        stream = await dial(port)
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await end_of(stream) == b""
    assert len(seen) == 1


async def test_a_body_that_is_cut_shows_as_cut(dial):
    async def handler(one: Exchange) -> None:
        await one.begin(200)
        await one.send(b"half")
        raise Gone

    async with serving(handler) as port:
        stream = await dial(port)
        client = h11.Connection(h11.CLIENT)
        await stream.send_all(client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")])))
        await stream.send_all(client.send(h11.EndOfMessage()))
        with pytest.raises(h11.RemoteProtocolError, match="incomplete"):
            await read_answer(stream, client)


class Client:
    """The browser's side of a WebSocket."""

    def __init__(self, stream: trio.SocketStream, **headers: str) -> None:
        self.stream = stream
        self.protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def send(self, event) -> None:
        await self.stream.send_all(self.protocol.send(event))

    async def open(self) -> type:
        await self.send(Upgrade(host="x", target="/", extra_headers=self.headers))
        return type(await self.event())

    async def event(self):
        with trio.fail_after(10):
            while True:
                for event in self.protocol.events():
                    return event
                data = await self.stream.receive_some(1 << 16)
                self.protocol.receive_data(data or None)


def talking(*, then=None, ended: trio.Event | None = None):
    async def handler(one: Exchange) -> None:
        socket: WebSocket = await one.websocket()
        try:
            while (text := await socket.receive()) is not None:
                await socket.send_text(json.dumps(text))
                if then is not None:
                    await then(socket)
        finally:
            if ended is not None:
                ended.set()

    return handler


async def test_websocket_messages_pings_and_goodbye(dial):
    ended = trio.Event()
    async with serving(talking(ended=ended)) as port:
        client = Client(await dial(port))
        assert await client.open() is AcceptConnection
        await client.send(TextMessage(data="a", message_finished=False))
        await client.send(TextMessage(data="b"))
        assert (await client.event()).data == '"ab"'
        await client.send(Ping(payload=b"p"))
        answer = await client.event()
        assert isinstance(answer, Pong)
        assert answer.payload == b"p"
        await client.send(CloseConnection(code=1000))
        assert isinstance(await client.event(), CloseConnection)
        with trio.fail_after(10):
            await ended.wait()


async def test_a_long_message_goes_in_fragments(dial):
    async def send(socket: WebSocket) -> None:
        await socket.send_bytes(b"a" * 100_000, final=False)
        await socket.send_bytes(b"b" * 100_000, final=True)

    async with serving(talking(then=send)) as port:
        client = Client(await dial(port))
        await client.open()
        await client.send(TextMessage(data="go"))
        await client.event()
        found = b""
        while True:
            event = await client.event()
            assert isinstance(event, BytesMessage)
            found += event.data
            if event.message_finished:
                break
        assert found == b"a" * 100_000 + b"b" * 100_000


@pytest.mark.parametrize("bad", [
    lambda client: client.send(TextMessage(data="x" * (MAX_BODY + 1))),
    lambda client: client.send(BytesMessage(data=b"x")),
    lambda client: client.stream.send_all(b"\xff" * 20),
    lambda client: client.stream.aclose(),
])
async def test_who_breaks_the_rules_is_hung_up_on(bad, dial):
    ended = trio.Event()
    async with serving(talking(ended=ended)) as port:
        client = Client(await dial(port))
        await client.open()
        await bad(client)
        with trio.fail_after(10):
            await ended.wait()


async def test_what_is_no_handshake_is_refused(dial):
    async with serving(talking()) as port:
        stream = await dial(port)
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}  # no key
        assert (await exchange(stream, port, "/", headers=headers)).status == 400


async def test_a_stop_says_goodbye(dial):
    connected = trio.Event()

    async def handler(one: Exchange) -> None:
        await one.websocket()
        connected.set()
        await trio.sleep_forever()

    async with serving(handler) as port:
        client = Client(await dial(port))
        assert await client.open() is not RejectConnection
        await connected.wait()
    event = await client.event()
    assert isinstance(event, CloseConnection)
    assert event.code == 1001

from __future__ import annotations

import array
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import cbor2
import pytest
import trio
import trio.testing

from daemon.control import server as module
from daemon.control.server import UNREAD_LIMIT_S, Call, Server
from daemon.wire import control
from daemon.wire.control import MAX_MESSAGE, VerbError

NOT_UTF8 = os.fsdecode(b"/caf\xe9.rrd")


class Here:
    """A server with verbs of its own, and clients of it."""

    def __init__(self, path: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.listener.setblocking(False)
        self.path = path
        self.server = Server(None, [self.listener])  # type: ignore[arg-type] - no verb here looks at it
        self.got: list[tuple[str, list[int], bytes]] = []
        self.clients: list[Client] = []
        self.hold = trio.Event()
        self.cancelled = 0

    async def run_verb(self, call: Call) -> dict[str, Any]:
        """Whatever is asked: notes what came, reads from the descriptors."""
        self.got.append((call.verb, [len(call.fds)], b"".join(os.read(fd, 100) for fd in call.fds)))
        if call.args.get("wait"):
            try:
                await self.hold.wait()
            except trio.Cancelled:
                self.cancelled += 1
                raise
        if call.args.get("fail"):
            raise OSError(28, "No space left on device", "/the/disk")
        if call.args.get("refuse"):
            raise VerbError("refused", "no", "say please")
        if call.args.get("bug"):
            raise KeyError("nobody thought of this")
        await trio.lowlevel.checkpoint()
        if call.args.get("name") == "news":
            await call.progress({"file": NOT_UTF8})
        elif call.args.get("name") == "refuse":
            raise VerbError("refused", NOT_UTF8)
        elif call.args.get("name"):
            return {"file": NOT_UTF8}
        return {"args": call.args, **({"big": "x" * MAX_MESSAGE} if call.args.get("big") else {})}

    async def alone(self) -> None:
        """Wait until the server has let go of its clients."""
        with trio.fail_after(30):
            while self.server.clients:
                await trio.lowlevel.checkpoint()

    async def client(self, *, greet: bool = True) -> Client:
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.connect(self.path)
        client = Client(sock)
        self.clients.append(client)
        if greet:
            assert (await client.ask(1, "hello", protocol=control.PROTOCOL, agent="test"))["ok"]
        return client


class Client:
    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.socket = sock
        self.decoder = control.Decoder()

    async def send(self, data: bytes, fds: list[int] | None = None) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        assert await self.socket.sendmsg([data], rights) == len(data)

    async def receive(self) -> dict[str, Any] | None:
        while (message := self.decoder.next_message()) is None:
            with trio.fail_after(30):
                try:
                    data = await self.socket.recv(1 << 16)
                except ConnectionResetError:
                    return None
            if not data:
                return None
            self.decoder.receive_data(data)
        return message

    async def ask(self, number: int, verb: str, **args: Any) -> dict[str, Any]:
        await self.send(control.encode({"id": number, "verb": verb, "args": args}))
        message = await self.receive()
        assert message is not None
        return message


@pytest.fixture
async def here(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Here]:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    one = Here("s")
    find = module.find_handler
    monkeypatch.setattr(module, "find_handler", lambda verb: one.run_verb if verb in ("ls", "open") else find(verb))
    async with trio.open_nursery() as nursery:
        await nursery.start(one.server.run)
        yield one
        nursery.cancel_scope.cancel()
    one.listener.close()
    for client in one.clients:
        client.socket.close()


def request(number: object, verb: object = "ls", args: object = None) -> bytes:
    return control.encode({"id": number, "verb": verb, "args": {} if args is None else args})  # type: ignore[dict-item]


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


async def alive(here: Here) -> None:
    """The server serves others still."""
    client = await here.client()
    assert "ok" in await client.ask(2, "ls")


async def test_hello_then_verbs(here: Here) -> None:
    client = await here.client(greet=False)
    answer = await client.ask(1, "hello", protocol=control.PROTOCOL, agent="me", pid=4711)
    assert answer["ok"]["protocol"] == control.PROTOCOL
    assert answer["ok"]["pid"] == os.getpid()
    assert (await client.ask(7, "ls", colour="blue")) == {"id": 7, "ok": {"args": {"colour": "blue"}}}
    (ours,) = here.server.clients
    assert (ours.agent, ours.pid) == ("me", os.getpid())


async def test_answers_as_they_come(here: Here) -> None:
    client = await here.client()
    await client.send(request(2, args={"wait": True}) + request(3))
    message = await client.receive()
    assert message is not None
    assert message["id"] == 3
    here.hold.set()
    message = await client.receive()
    assert message is not None
    assert message["id"] == 2


@pytest.mark.parametrize(("args", "code", "text"), [
    ({"refuse": True}, "refused", "no"),
    ({"fail": True}, "failed", "No space left on device: /the/disk"),
    ({"bug": True}, "failed", "ls: a bug in rrd: KeyError('nobody thought of this')"),
])
async def test_what_does_not_work(here: Here, args: dict[str, Any], code: str, text: str) -> None:
    client = await here.client()
    answer = await client.ask(2, "ls", **args)
    assert answer["error"]["code"] == code
    assert text in answer["error"]["message"]
    assert "ok" in await client.ask(3, "ls")


async def test_unknown_verbs(here: Here) -> None:
    client = await here.client()
    answer = await client.ask(2, "fly")
    assert answer["error"]["code"] == "unknown-verb"
    assert "are both sides up to date" in answer["error"]["hint"]
    answer = await client.ask(3, "../../os")
    assert answer["error"]["code"] == "unknown-verb"
    assert (await client.ask(4, "__init__"))["error"]["code"] == "unknown-verb"


async def test_an_answer_that_is_too_long(here: Here) -> None:
    client = await here.client()
    assert "bytes" in (await client.ask(2, "ls", big=True))["error"]["message"]
    assert "ok" in await client.ask(3, "ls")


@pytest.mark.parametrize("how", ["answer", "refuse"])
async def test_an_answer_that_cannot_be_said(here: Here, how: str) -> None:
    """A path's bytes need not be UTF-8: the request fails, and nothing else happens."""
    client = await here.client()
    answer = await client.ask(2, "ls", name=how)
    assert answer["id"] == 2
    assert answer["error"]["code"] == "failed"
    assert "\\udce9" in answer["error"]["message"]
    assert "ok" in await client.ask(3, "ls")


async def test_news_that_cannot_be_said_are_left_out(here: Here) -> None:
    client = await here.client()
    assert "ok" in await client.ask(2, "ls", name="news")
    (ours,) = here.server.clients
    await ours.send(control.event("ended", {"stream": NOT_UTF8}))
    assert "ok" in await client.ask(3, "ls")


@pytest.mark.parametrize("protocol", [0, control.PROTOCOL + 1, None, "1"])
async def test_another_protocol(here: Here, protocol: object) -> None:
    client = await here.client(greet=False)
    answer = await client.ask(1, "hello", protocol=protocol, agent="future 9")
    assert answer["error"]["code"] == "protocol"
    assert "future 9 speaks protocol" in answer["error"]["message"]
    newer = isinstance(protocol, int) and protocol > control.PROTOCOL
    assert ("rrd daemon restart" if newer else "upgrade") in answer["error"]["hint"]
    while (message := await client.receive()) is not None:
        assert message["error"]["code"] == "protocol"
    await alive(here)


BAD = {
    "no hello": request(1, "ls"),
    "no CBOR": framed(b"\xff\xff\xff"),
    "no map": framed(cbor2.dumps([1, 2])),
    "keys that are no texts": framed(cbor2.dumps({1: 2})),
    "bytes after the message": framed(cbor2.dumps({"id": 1}) + b"\0"),
    "half a message": framed(cbor2.dumps({"id": 1, "verb": "ls"})[:-2]),
    "nothing": framed(b""),
    "too long": (MAX_MESSAGE + 1).to_bytes(4, "big") + b"x" * 100,
    "4 GB": b"\xff\xff\xff\xff",
    "too deep": framed(b"\xa1\x61a" + b"\x81" * 2000 + b"\0"),
    "a text of 2^62": framed(b"\xa1\x61a\x7b\x40\0\0\0\0\0\0\0"),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 30,
    "id 0": request(0), "id -1": request(-1), "id true": request(True), "id text": request("1"),
    "id 2^60": request(1 << 60),
    "no id": control.encode({"verb": "ls", "args": {}}),
    "verb 7": request(1, 7), "args list": request(1, "ls", [1]),
}


@pytest.mark.parametrize(("name", "greet"), [
    *((name, False) for name in BAD), *((name, True) for name in BAD if name != "no hello"),
])
async def test_what_is_no_request(here: Here, name: str, greet: bool) -> None:
    """It ends the connection, with the reason as the last thing said, and nothing else."""
    client = await here.client(greet=greet)
    await client.send(BAD[name])
    message = await client.receive()
    assert message is not None
    assert message["id"] == 0
    assert message["error"]["code"] == "protocol"
    assert message["error"]["message"]
    assert await client.receive() is None
    await alive(here)
    assert [verb for verb, _, _ in here.got] == ["ls"]


async def test_bytes_one_by_one(here: Here) -> None:
    client = await here.client()
    for byte in request(2) + request(3):
        await client.send(bytes([byte]))
    assert [(await client.receive() or {})["id"], (await client.receive() or {})["id"]] == [2, 3]


class TestDescriptors:
    def pipe(self, data: bytes) -> int:
        read, write = os.pipe()
        os.write(write, data)
        os.close(write)
        return read

    async def test_come_with_their_request(self, here: Here) -> None:
        client, fd = await here.client(), self.pipe(b"hello")
        before = len(os.listdir("/proc/self/fd"))
        await client.send(request(2, "open"), [fd])
        assert await client.receive()
        assert here.got == [("open", [1], b"hello")]
        assert len(os.listdir("/proc/self/fd")) == before
        os.close(fd)

    async def test_of_requests_that_were_not_waited_for(self, here: Here) -> None:
        client = await here.client()
        fds = [self.pipe(data) for data in (b"one", b"two")]
        await client.send(request(2))
        await client.send(request(3, "open"), [fds[0]])
        await client.send(request(4))
        await client.send(request(5, "open", {"padding": "x" * 100_000})[:60_000], [fds[1]])
        await client.send(request(5, "open", {"padding": "x" * 100_000})[60_000:] + request(6))
        for _ in range(5):
            assert await client.receive()
        assert sorted(here.got) == sorted([
            ("ls", [0], b""), ("open", [1], b"one"), ("ls", [0], b""), ("open", [1], b"two"), ("ls", [0], b"")])
        for fd in fds:
            os.close(fd)

    @pytest.mark.parametrize("split", [False, True])
    async def test_too_many(self, here: Here, split: bool) -> None:
        client, fd = await here.client(), self.pipe(b"")
        before = len(os.listdir("/proc/self/fd"))
        if split:
            await client.send(request(2)[:5], [fd] * 4)
            await client.send(request(2)[5:], [fd])
        else:
            await client.send(request(2), [fd] * 5)
        message = await client.receive()
        assert message is not None
        assert "more than 4 descriptors" in message["error"]["message"]
        assert await client.receive() is None
        await trio.testing.wait_all_tasks_blocked()
        assert len(os.listdir("/proc/self/fd")) < before
        os.close(fd)
        await alive(here)

    @pytest.mark.parametrize("data", [b"", request(2)[:5], BAD["no map"], request(0)])
    async def test_of_what_is_no_request_are_closed(self, here: Here, data: bytes) -> None:
        client, fd = await here.client(), self.pipe(b"")
        before = len(os.listdir("/proc/self/fd"))
        await client.send(data or b"\0", [fd])
        client.socket.close()
        await here.alone()
        assert len(os.listdir("/proc/self/fd")) == before - 2
        os.close(fd)

    async def test_with_hello_are_closed(self, here: Here) -> None:
        client, fd = await here.client(greet=False), self.pipe(b"")
        await client.send(control.encode(control.hello("x", 1))[:3])
        await trio.testing.wait_all_tasks_blocked(0.01)
        before = len(os.listdir("/proc/self/fd"))
        await client.send(control.encode(control.hello("x", 1))[3:], [fd])
        assert await client.receive()
        assert len(os.listdir("/proc/self/fd")) == before
        os.close(fd)


async def test_a_client_that_hangs_up_in_a_request(here: Here) -> None:
    client = await here.client()
    await client.send(request(2, args={"wait": True}))
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert here.got
    client.socket.close()
    await here.alone()
    assert here.cancelled == 1
    await alive(here)


async def test_a_client_that_does_not_read(
    here: Here, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is dropped, and costs nobody else anything."""
    client = await here.client()
    padding = "x" * 900_000
    await client.send(request(2, args={"padding": padding})[:1000])
    (ours,) = here.server.clients
    with trio.fail_after(3 * UNREAD_LIMIT_S):
        await ours.send({"event": "ended", "data": {"padding": padding}})
    assert "does not read, dropping it" in caplog.text
    await here.alone()
    await ours.send({"event": "ended", "data": {}})  # it is gone: no concern of the caller
    await alive(here)


async def test_done_after_the_answer(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb that ends the daemon is answered first."""
    said: list[str] = []

    async def run(call: Call) -> dict[str, Any]:
        call.afterwards = lambda: said.append("afterwards")
        send = call.client.send

        async def sending(message: dict[str, Any]) -> None:
            await send(message)
            said.append("answered")

        call.client.send = sending  # type: ignore[method-assign]
        await trio.lowlevel.checkpoint()
        return {}

    here.run_verb = run  # type: ignore[method-assign]
    client = await here.client()
    assert await client.ask(2, "ls") == {"id": 2, "ok": {}}
    await trio.testing.wait_all_tasks_blocked()
    assert said == ["answered", "afterwards"]


@pytest.mark.parametrize(("method", "args", "message"), [
    ("text", {"x": 3}, "x must be a text"), ("text", {}, "x must be a text"), ("text", {"x": "a\0b"}, "NUL"),
    ("texts", {"x": "a"}, "list of texts"), ("texts", {"x": ["a", 3]}, "list of texts"),
    ("flag", {"x": 1}, "true or false"), ("flag", {"x": None}, "true or false"),
    ("number", {"x": "3"}, "must be a number"), ("number", {"x": True}, "must be a number"),
])
def test_arguments_of_the_wrong_kind(method: str, args: dict[str, Any], message: str) -> None:
    call = Call(None, None, 1, "verb", args)  # type: ignore[arg-type]
    with pytest.raises(VerbError, match=message) as caught:
        getattr(call, method)("x")
    assert caught.value.code == "usage"


def test_arguments() -> None:
    call = Call(None, None, 1, "verb", {"t": "a", "l": ["b"], "f": True, "n": 3})  # type: ignore[arg-type]
    assert (call.text("t"), call.text("none", "d"), call.texts("l"), call.texts("none")) == ("a", "d", ["b"], [])
    assert (call.flag("f"), call.flag("none"), call.number("n"), call.number("none")) == (True, False, 3.0, None)

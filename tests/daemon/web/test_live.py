from __future__ import annotations

import json
import tracemalloc

import pytest
import trio
import wsproto
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.events import Request as Upgrade

from daemon.web import live
from tests.helpers.web import HEADER, TOKEN, log_to, message, served, until_complete

MB = 1 << 20


class Page:
    """The browser's side of /ws: what it was told, and what it was sent."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.data: list[bytes] = []
        self.states: list[dict] = []
        self.closed: int | None = None
        self.pongs = 0
        self._parts: list[bytes] = []

    async def open(self, port: int, **asked: object) -> None:
        headers = [(b"Authorization", f"Bearer {TOKEN}".encode())]
        await self._send(Upgrade(host=f"127.0.0.1:{port}", target="/ws", extra_headers=headers))
        await self.until(lambda: self._accepted)
        await self._send(TextMessage(data=json.dumps(asked)))

    _accepted = False

    async def _send(self, event) -> None:
        await self.stream.send_all(self.protocol.send(event))

    async def until(self, condition) -> None:
        """Read until the condition is true."""
        with trio.fail_after(20):
            while not condition():
                self.protocol.receive_data(await self.stream.receive_some(1 << 16) or None)
                for event in self.protocol.events():
                    self._take(event)

    def _take(self, event) -> None:
        if isinstance(event, AcceptConnection):
            self._accepted = True
        elif isinstance(event, BytesMessage):
            self._parts.append(bytes(event.data))
            if event.message_finished:
                self.data.append(b"".join(self._parts))
                self._parts = []
        elif isinstance(event, TextMessage):
            self._parts.append(event.data.encode())
            if event.message_finished:
                self.states.append(json.loads(b"".join(self._parts)))
                self._parts = []
        elif isinstance(event, CloseConnection):
            self.closed = event.code
        elif isinstance(event, Pong):
            self.pongs += 1

    async def say(self, word: str) -> None:
        """Say a word, and see that it was heard."""
        await self._send(TextMessage(data=word))
        await self._send(Ping())
        pongs = self.pongs
        await self.until(lambda: self.pongs > pongs)

    @property
    def frames(self) -> bytes:
        """All data without the headers that each message has."""
        assert all(body.startswith(HEADER.encode()) for body in self.data)
        return b"".join(body[12:] for body in self.data)


@pytest.fixture
async def page_of():
    """Opens pages on a site, and closes them after the test."""
    pages = []

    async def open_one(site, **asked) -> Page:
        page = Page(await site.connect())
        pages.append(page)
        await page.open(site.port, **asked)
        return page

    yield open_one
    for page in pages:
        page.stream.socket.close()


def frames_of(stream) -> bytes:
    return stream.path.read_bytes()[12:stream.data_end]


async def test_a_page_gets_what_is_there_then_what_comes_then_the_end(tmp_path, page_of):
    async with served(tmp_path) as site:
        stream = log_to(site.hub, "one", [b"a"])
        page = await page_of(site, source=["one"])
        await page.until(lambda: page.frames == frames_of(stream))
        for number in range(20):
            site.hub.append(stream, [message("one", b"%d" % number)])
        await page.until(lambda: page.frames == frames_of(stream))
        assert page.states[-1]["live"] == 1 if page.states else True
        site.hub.end_stream(stream, "test")
        await until_complete(site.hub, stream)
        await page.until(lambda: page.states and page.states[-1].get("ended"))
        assert page.states[-1]["lag_bytes"] == 0


async def test_many_small_messages_are_sent_together(tmp_path, page_of):
    async with served(tmp_path) as site:
        stream = log_to(site.hub, "one", [b"a"])
        page = await page_of(site, source=["one"])
        await page.until(lambda: page.data)
        for number in range(500):
            site.hub.append(stream, [message("one", b"%d" % number)])
            await trio.lowlevel.checkpoint()
        await page.until(lambda: page.frames == frames_of(stream))
        assert len(page.data) < 100


async def test_a_page_goes_on_where_it_was(tmp_path, page_of):
    async with served(tmp_path) as site:
        stream = log_to(site.hub, "one", [b"a"])
        first = await page_of(site, source=["one"])
        await first.until(lambda: first.states and first.states[-1]["resume"]["cursors"])
        await first.stream.aclose()
        site.hub.append(stream, [message("one", b"b")])
        second = await page_of(site, resume=first.states[-1]["resume"])
        await second.until(lambda: second.data)
        assert first.frames + second.frames == frames_of(stream)


async def test_a_message_longer_than_a_batch_arrives_whole(tmp_path, page_of):
    async with served(tmp_path) as site:
        stream = log_to(site.hub, "one", [b"a", b"b" * (5 * MB), b"c"])
        page = await page_of(site, source=["one"])
        await page.until(lambda: page.frames == frames_of(stream))
        history = await site.ask("/stream?source=one")
        assert b"".join(body[12:] for body in history.data) == frames_of(stream)


async def test_what_no_browser_can_take_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "MAX_FRAME", 2 * MB)
    async with served(tmp_path) as site:
        log_to(site.hub, "one", [b"a", b"b" * (3 * MB), b"c"])
        history = await site.ask("/stream?source=one")
        everything = b"".join(history.data)
        assert b"b" * 100 not in everything
        assert everything.endswith(b"c")


@pytest.mark.parametrize("asked", [{"source": ["nothing"]}, {"source": ["/etc/passwd"]}, {"resume": 3}])
async def test_a_page_that_asks_for_nonsense_is_told(tmp_path, page_of, asked):
    async with served(tmp_path) as site:
        log_to(site.hub, "one", [b"a"])
        page = await page_of(site, **asked)
        await page.until(lambda: page.closed is not None)
        assert page.states[0]["error"]


async def test_a_page_that_does_not_read_costs_nobody_anything(tmp_path, page_of):
    """80 MB go by: the other page has them at once, the server holds none of them, and the lag is a number."""
    async with served(tmp_path) as site:
        stream = log_to(site.hub, "one", [b"a"])
        stuck = await page_of(site, source=["one"])
        await stuck.until(lambda: stuck.data)
        quick = await page_of(site, source=["one"])
        await quick.until(lambda: quick.data)
        received = 0
        tracemalloc.start()
        try:
            for _ in range(80):
                site.hub.append(stream, [message("one", b"x" * MB)])
                await quick.until(lambda: quick.data)
                received += len(quick.data.pop())
            grown = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert received > 79 * MB
        assert grown < 16 * MB
        lags = sorted(feed.lag()[1] for feed in site.site.feeds)
        assert lags[0] < 2 * MB
        assert lags[-1] > 60 * MB


async def test_a_page_that_asks_to_hold_is_sent_nothing_until_it_says_go(tmp_path, page_of):
    async with served(tmp_path) as site:
        stream = log_to(site.hub, "one", [b"a"])
        page, other = await page_of(site, source=["one"]), await page_of(site, source=["one"])
        await page.until(lambda: page.data)
        await page.say("hold")
        await page.say("hold")
        site.hub.append(stream, [message("one", b"x" * MB)])
        await other.until(lambda: other.frames == frames_of(stream))
        await page.say("or whatever else")
        assert len(page.data) == 1
        assert max(feed.lag()[1] for feed in site.site.feeds) > MB
        await page.say("go")
        await page.until(lambda: page.frames == frames_of(stream))


async def test_a_page_that_is_far_behind_is_told_to_fetch(tmp_path, page_of, monkeypatch):
    monkeypatch.setattr(live, "BULK_LAG", MB)
    monkeypatch.setattr(live, "STATE_S", 0.0)
    async with served(tmp_path) as site:
        stream = log_to(site.hub, "one", [b"x" * MB for _ in range(5)])
        page = await page_of(site, source=["one"])
        await page.until(lambda: page.closed is not None)
        assert page.states[-1]["bulk"] is True
        body = json.dumps({"resume": page.states[-1]["resume"]}).encode()
        rest = await site.ask("/stream", method="POST", body=body)
        assert page.frames + b"".join(part[12:] for part in rest.data) == frames_of(stream)


async def test_a_page_that_left_is_forgotten(tmp_path, page_of):
    async with served(tmp_path) as site:
        log_to(site.hub, "one", [b"a"])
        page = await page_of(site, source=["one"])
        await page.until(lambda: page.data)
        assert len(site.site.feeds) == 1
        await page.stream.aclose()
        with trio.fail_after(10):
            while site.site.feeds:
                await trio.testing.wait_all_tasks_blocked()

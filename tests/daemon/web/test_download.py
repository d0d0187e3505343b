from __future__ import annotations

import itertools
import os

import h11
import pyarrow as pa
import pytest
import trio

from daemon.hub import Hub
from daemon.stream import Stream
from daemon.web.download import file_name
from daemon.wire.rrd import FRAME_HEADER_SIZE, HEADER_SIZE, TAIL_SIZE, Kind, frame_header, parse_tail
from tests.helpers import chunks, web
from tests.helpers.web import TOKEN, served, until_complete

_numbers = itertools.count(1)


def message(recording: str, body: bytes) -> tuple[int, list[bytes]]:
    """A chunk that a footer can be made of, with a text in it that can be found again."""
    components = {"TextLog:text": pa.array([[body.decode()]])}
    owner = chunks.store_id(recording)
    return Kind.ARROW, [chunks.chunk(next(_numbers), store=owner, compress=False, components=components)]


def log_to(hub: Hub, recording: str, bodies: list[bytes], *, version: int = 41) -> Stream:
    stream = web.log_to(hub, recording, [], version=version)
    hub.append(stream, [message(recording, body) for body in bodies])
    return stream


async def ended(site, recording: str, bodies: list[bytes], **options):
    stream = log_to(site.hub, recording, bodies, **options)
    site.hub.end_stream(stream, "test")
    await until_complete(site.hub, stream)
    return stream


async def test_an_ended_recording_is_its_log(tmp_path):
    async with served(tmp_path) as site:
        stream = await ended(site, "one", [b"a" * 5000, b"b"])
        answer = await site.ask("/recordings/one.rrd")
        whole = stream.path.read_bytes()
        assert answer.body == whole
        assert answer.headers["content-length"] == str(len(whole))
        assert answer.headers["content-disposition"] == 'attachment; filename="one.rrd"'
        head = await site.ask("/recordings/one.rrd", method="HEAD")
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(whole)))


@pytest.mark.parametrize(("asked", "expected"), [
    ("bytes=0-99", slice(0, 100)), ("bytes=100-", slice(100, None)), ("bytes=-7", slice(-7, None)),
])
async def test_ranges(tmp_path, asked, expected):
    async with served(tmp_path) as site:
        stream = await ended(site, "one", [b"a" * 5000, b"b"])
        whole = stream.path.read_bytes()
        answer = await site.ask("/recordings/one.rrd", headers={"Range": asked})
        assert (answer.status, answer.body) == (206, whole[expected])
        start = range(len(whole))[expected][0]
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(answer.body) - 1}/{len(whole)}"


async def test_a_range_outside_and_a_file_that_is_known(tmp_path):
    async with served(tmp_path) as site:
        await ended(site, "one", [b"a"])
        assert (await site.ask("/recordings/one.rrd", headers={"Range": "bytes=99999-"})).status == 416
        tag = (await site.ask("/recordings/one.rrd")).headers["etag"]
        again = await site.ask("/recordings/one.rrd", headers={"If-None-Match": tag})
        assert (again.status, again.body) == (304, b"")
        other = await site.ask("/recordings/one.rrd", headers={"Range": "bytes=0-1", "If-Range": '"old"'})
        assert other.status == 200


async def test_a_recording_of_two_streams_is_merged_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))
    async with served(tmp_path) as site:
        await ended(site, "one", [b"first"])
        await ended(site, "one", [b"second"], version=36)
        answer = await site.ask("/recordings/one.rrd")
        assert b"first" in answer.body
        assert b"second" in answer.body
        assert answer.body[5] == 41, "the newest version opens the file"
        assert parse_tail(answer.body[-TAIL_SIZE:]) is not None, "a footer of its own closes it"
        made = list((tmp_path / "cache" / "rrd" / "web" / "recordings").iterdir())
        assert len(made) == 1
        assert (await site.ask("/recordings/one.rrd", headers={"Range": "bytes=0-3"})).body == b"RRF2"
        assert list((tmp_path / "cache" / "rrd" / "web" / "recordings").iterdir()) == made


async def test_merged_files_do_not_pile_up(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))
    async with served(tmp_path) as site:
        for number in range(6):
            for body in (b"a", b"b"):
                await ended(site, f"rec-{number}", [body])
            assert (await site.ask(f"/recordings/rec-{number}.rrd")).status == 200
        assert len(list((tmp_path / "cache" / "rrd" / "web" / "recordings").iterdir())) == 4


async def test_a_snapshot_of_a_live_recording_is_a_complete_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))
    async with served(tmp_path) as site:
        stream = log_to(site.hub, "one", [b"a", b"b"])
        answer = await site.ask("/recordings/one.rrd?snapshot=1")
        assert answer.body.startswith(stream.path.read_bytes())
        assert parse_tail(answer.body[-TAIL_SIZE:]) is not None
        assert int(answer.headers["content-length"]) == len(answer.body)
        log_to(site.hub, "one", [b"c"])
        both = await site.ask("/recordings/one.rrd?snapshot=1")
        assert parse_tail(both.body[-TAIL_SIZE:]) is not None
        assert len(both.body) > len(answer.body)
        assert list((tmp_path / "cache" / "rrd" / "web" / "recordings").iterdir()) == []


class Growing:
    """Reads the body of an answer as it comes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.client = h11.Connection(h11.CLIENT)
        self.body = b""
        self.over = False

    async def ask(self, port: int, target: str) -> None:
        headers = [("Host", f"127.0.0.1:{port}"), ("Authorization", f"Bearer {TOKEN}")]
        await self.stream.send_all(self.client.send(h11.Request(method="GET", target=target, headers=headers)))
        await self.stream.send_all(self.client.send(h11.EndOfMessage()))

    async def until(self, size: int) -> None:
        with trio.fail_after(20):
            while len(self.body) < size and not self.over:
                event = self.client.next_event()
                if event is h11.NEED_DATA:
                    self.client.receive_data(await self.stream.receive_some(1 << 16))
                elif isinstance(event, h11.Data):
                    self.body += event.data
                self.over = isinstance(event, h11.EndOfMessage)


async def test_a_live_recording_grows_and_ends_as_its_log(tmp_path):
    async with served(tmp_path) as site:
        stream = log_to(site.hub, "one", [b"a"])
        async with await site.connect() as connection:
            growing = Growing(connection)
            await growing.ask(site.port, "/recordings/one.rrd")
            await growing.until(stream.data_end)
            assert growing.body == stream.path.read_bytes()
            site.hub.append(stream, [message("one", b"b" * 3_000_000)])
            await growing.until(stream.data_end)
            assert growing.body == stream.path.read_bytes()
            site.hub.end_stream(stream, "test")
            await growing.until(1 << 30)
            assert growing.over
            assert growing.body == stream.path.read_bytes()
            assert parse_tail(growing.body[-TAIL_SIZE:]) is not None


async def test_a_live_recording_of_two_sdks_ends_without_a_footer(tmp_path):
    async with served(tmp_path) as site:
        first, second = log_to(site.hub, "one", [b"a"]), log_to(site.hub, "one", [b"b"], version=36)
        async with await site.connect() as connection:
            growing = Growing(connection)
            await growing.ask(site.port, "/recordings/one.rrd")
            await growing.until(first.data_end + second.data_end)
            bodies = [stream.path.read_bytes()[:stream.data_end] for stream in (first, second)]
            assert growing.body == b"".join(bodies)
            for stream in (first, second):
                site.hub.end_stream(stream, "test")
            await growing.until(1 << 30)
            assert growing.body[len(b"".join(bodies)):] == frame_header(Kind.END, 0)


async def test_only_what_was_asked_for_of_a_log_with_several_recordings(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))
    async with served(tmp_path) as site:
        stream = log_to(site.hub, "one", [b"mine"])
        site.hub.append(stream, [message("two", b"other")])
        site.hub.end_stream(stream, "test")
        await until_complete(site.hub, stream)
        answer = await site.ask("/recordings/one.rrd")
        assert b"mine" in answer.body
        assert b"other" not in answer.body
        assert parse_tail(answer.body[-TAIL_SIZE:]) is not None


async def test_head_of_a_live_recording_does_not_wait(tmp_path):
    async with served(tmp_path) as site:
        log_to(site.hub, "one", [b"a"])
        with trio.fail_after(10):
            assert (await site.ask("/recordings/one.rrd", method="HEAD")).status == 200


async def test_who_hangs_up_is_not_waited_for(tmp_path):
    async with served(tmp_path) as site:
        stream = log_to(site.hub, "one", [b"a"])
        for _ in range(3):
            async with await site.connect() as connection:
                growing = Growing(connection)
                await growing.ask(site.port, "/recordings/one.rrd")
                await growing.until(HEADER_SIZE + FRAME_HEADER_SIZE)
        site.hub.append(stream, [message("one", b"b")])
        assert (await site.ask("/recordings/one.rrd?snapshot=1")).status == 200


def test_names_of_files():
    assert file_name("app/2026 11:22") == "app-2026-11-22.rrd"
    assert file_name('..";\r\nX: y') == "X-y.rrd"
    assert file_name("///") == "recording.rrd"
    assert len(file_name("x" * 1000)) == 104

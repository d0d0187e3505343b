from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from daemon.hub import FILES_KEPT_S, STALL_RETRY_S, Hub
from daemon.selection import Selection, resolve
from daemon.spool.log import Meta
from daemon.stream import PROOF, UNKNOWN, RecordingKey, Stream
from daemon.wire.logmsg import BLUEPRINT
from daemon.wire.rrd import FormatError, StreamHeader
from tests.daemon.conftest import FULL, append, completed, ended, make_hub, opened, real
from tests.helpers import frames
from tests.helpers.frames import arrow, numbered, stream

HEADER = StreamHeader((0, 41, 0, 0), 1, 2)


async def read(hub: Hub, one: Stream) -> list[tuple[int, bytes]]:
    batch = await hub.feed(Selection("one", streams=frozenset([one.id]))).take()
    assert batch is not None
    return [(frame.kind, batch.payload(frame)) for frame in batch.frames]


class TestStreams:
    async def test_a_stream_from_open_to_complete(self, hub: Hub) -> None:
        one = hub.open_stream(kind="shim", application_id="app", recording_id="rec", pid=4711, program="prog")
        assert hub.streams == {one.id: one}
        assert one.path.read_bytes() == b""
        assert one.recordings == {RecordingKey("app", "rec"): one.recordings[RecordingKey("app", "rec")]}
        data = stream(*numbered(3), end="sealed")
        append(hub, one, data[:100])
        assert 0 < one.committed <= 100
        append(hub, one, data[100:])
        assert (one.committed, one.messages) == (len(data), 4)
        assert one.data_end == len(stream(*numbered(3)))
        assert one.recordings[RecordingKey("app", "rec")].messages == 4
        assert one.recordings[RecordingKey("app", "rec")].bytes == one.data_end - 12
        assert one.sdk_version == (0, 41, 0)
        hub.end_stream(one, "over")
        hub.end_stream(one, "twice")
        assert one.ended
        assert one.meta.reason == "over"
        await completed(hub, one)
        assert one.path.read_bytes() == data  # not a byte of a complete log is touched
        assert one.log is None

    async def test_garbage_after_whole_frames(self, hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
        whole = stream(*real((1, 2)))
        one = opened(hub, whole, b"this is no frame at all.....")
        assert one.error.endswith(f"at byte {len(whole)}")
        assert (one.committed, one.messages) == (len(whole), 3)
        assert "everything before it is kept" in caplog.text
        append(hub, one, *real((3,)))
        assert one.messages == 3
        hub.end_stream(one, "test")
        await completed(hub, one)
        # Completing finds the frames after the damage too.
        assert frames.frames_of(one.path.read_bytes()) == frames.frames_of(whole) + frames.payloads(real((3,)))
        assert one.messages == 5

    async def test_on_end_is_told_once(self, hub: Hub) -> None:
        told: list[str] = []
        hub.on_end = lambda stream: told.append(stream.meta.reason)
        await ended(hub, stream(*numbered(1), end="sealed"))
        assert told == ["test"]


class TestAppend:
    async def test_the_header_comes_first(self, hub: Hub) -> None:
        one = hub.open_stream(kind="grpc")
        with pytest.raises(ValueError, match="no header"):
            hub.append(one, [(1, [b"x"])])
        one.header = HEADER
        info, message = (frames.payloads([frame])[0] for frame in numbered(1))
        hub.append(one, [(info[0], [info[1]])])
        hub.append(one, [(message[0], [message[1][:5], message[1][5:]])])
        assert one.path.read_bytes() == stream(*numbered(1))
        assert one.messages == 2

    async def test_not_after_the_end(self, hub: Hub) -> None:
        one = await ended(hub, stream(*numbered(1), end="sealed"))
        with pytest.raises(ValueError, match="has ended"):
            hub.append(one, [(2, [b"x"])])

    async def test_a_full_disk_is_waited_for(
        self, hub: Hub, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        one = opened(hub, stream(*numbered(1)))
        room, really = False, one.log.append  # type: ignore[union-attr]

        def full(data: Any) -> int:
            if not room:
                raise FULL
            return really(data)

        one.log.append = full  # type: ignore[union-attr, method-assign]
        nursery.start_soon(hub.append_wait, one, [(2, [b"payload"])])
        await trio.testing.wait_all_tasks_blocked()
        assert "No space left" in one.stalled
        assert "is stalled, the program buffers" in caplog.text
        await trio.sleep(3 * STALL_RETRY_S)
        assert one.stalled
        room = True
        await trio.sleep(1.5 * STALL_RETRY_S)  # at its next try itself, which comes first is chance
        assert not one.stalled
        assert one.messages == 3
        assert caplog.text.count("is stalled") == 1
        assert "flows again" in caplog.text

    async def test_room_is_made_first(self, hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
        one = opened(hub)
        hub.make_room = lambda full: 4096 if full else 0
        await hub.stalled(one, FULL)  # without waiting
        assert not one.stalled
        assert "removed 4096 bytes" in caplog.text

    async def test_room_is_looked_at_while_bytes_come(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not only when a stream ends: one that logs for days would fill the disk."""
        looked: list[int] = []
        hub.make_room = lambda full: full or looked.append(hub.arrived) or 0
        one = opened(hub, stream(*numbered(1)))
        monkeypatch.setattr("daemon.hub.LOOK_BYTES", size := 3 * len(arrow()))
        for _ in range(7):
            append(hub, one, arrow())
        assert looked == [looked[0], looked[0] + size, looked[0] + 2 * size]

    async def test_other_errors_are_not_waited_for(self, hub: Hub) -> None:
        one = opened(hub)
        with pytest.raises(OSError, match="read-only"):
            await hub.stalled(one, OSError(errno.EROFS, "read-only"))


class TestFullDisk:
    async def test_a_stream_opens_all_the_same(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        def save(self: Meta, directory: Path) -> None:
            raise FULL

        with monkeypatch.context() as patch:
            patch.setattr(Meta, "save", save)
            one = hub.open_stream(kind="shim")
            patch.setattr(Meta, "save", lambda *_: (_ for _ in ()).throw(OSError(errno.EACCES, "no")))
            with pytest.raises(OSError, match="no"):
                hub.open_stream(kind="shim")
        assert [path.suffix for path in hub.directory.iterdir()] == [".rrd"]
        one.stalled = "full"
        hub.flowing(one)
        assert Meta.load(one.path.with_suffix(".json")).id == one.id

class TestLoad:
    async def test_complete_logs_are_not_read_again(self, hub: Hub) -> None:
        one = await ended(hub, stream(*numbered(3), end="sealed"), kind="shim", program="prog")
        two = await ended(hub, stream(*numbered(1, "b"), arrow("bp", kind=BLUEPRINT)))
        again = make_hub(hub.directory)
        again.load()
        assert again.unfinished() == []
        for old in (one, two):
            new = again.streams[old.id]
            assert (new.messages, new.size, new.committed, new.data_end, new.header, new.sdk_version, new.generation) \
                == (old.messages, old.size, old.committed, old.data_end, old.header, old.sdk_version, old.generation)
            assert new.recordings == old.recordings
            assert new.meta == old.meta
            assert new.complete

    async def test_what_the_killed_left_goes(self, hub: Hub) -> None:
        left = frames.write(hub.directory / ".20260101-000000-abcdef.rrd.finishing", stream(*numbered(3)))
        hub.load()
        assert not left.exists()
        assert hub.streams == {}

    async def test_a_summary_of_another_length_is_not_believed(self, hub: Hub) -> None:
        one = await ended(hub, stream(*numbered(3), end="sealed"))
        frames.write(one.path, one.path.read_bytes(), stream(*numbered(1, "appended")))
        again = make_hub(hub.directory)
        again.load()
        assert again.unfinished() == [again.streams[one.id]]

    @pytest.mark.parametrize("damage", [
        {"stores": "none"}, {"stores": [["zz", [1, "a", "b"], 1, 1]]}, {"version": [1]}, {"messages": "many"}, {},
        {"stores": None}, {"stores": [["", [1, "a", "b"], "x", 1]]}, {"sdk_version": [1]},
    ])
    async def test_a_damaged_summary(self, hub: Hub, damage: dict[str, Any]) -> None:
        one = await ended(hub, stream(*numbered(3), end="sealed"))
        path = one.path.with_suffix(".json")
        meta = json.loads(path.read_text())
        meta["summary"] = {"size": one.size} if not damage else meta["summary"] | damage
        path.write_text(json.dumps(meta))
        again = make_hub(hub.directory)
        again.load()
        assert again.unfinished() == [again.streams[one.id]]

    @pytest.mark.parametrize("text", [None, "", "{", "[1]", '{"id": "other", "kind": 7}'])
    async def test_a_log_without_a_description(self, hub: Hub, text: str | None) -> None:
        path = frames.write(hub.directory / "copied.rrd", stream(*numbered(3)))
        if text is not None:
            (hub.directory / "copied.json").write_text(text)
        hub.load()
        one = hub.streams["copied"]
        assert (one.kind, one.ended_at) == (UNKNOWN, path.stat().st_mtime)
        hub.end_stream(one, "found")
        await completed(hub, one)
        assert one.messages == 4

    async def test_a_copy_of_a_description_does_not_name_the_other(self, hub: Hub) -> None:
        one = await ended(hub, stream(*numbered(3), end="sealed"))
        for suffix in (".rrd", ".json"):
            (hub.directory / f"copy{suffix}").write_bytes(one.path.with_suffix(suffix).read_bytes())
        again = make_hub(hub.directory)
        again.load()
        assert {name: stream.id for name, stream in again.streams.items()} == {one.id: one.id, "copy": "copy"}

    async def test_take_up(self, hub: Hub) -> None:
        """The next daemon goes on where the log ends, in the middle of a frame too."""
        data = stream(*numbered(5), end="sealed")
        one = opened(hub, data[:-60])
        one.close()
        again = make_hub(hub.directory)
        again.load()
        two = again.streams[one.id]
        await again.take_up(two)
        assert (two.committed, two.messages, two.recordings) == (one.committed, one.messages, one.recordings)
        log = two.log
        await again.take_up(two)
        assert two.log is log
        append(again, two, data[-60:])
        assert (two.committed, two.messages) == (len(data), 6)
        two.close()

    @pytest.fixture
    def marked(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Stream:
        """A live stream of a daemon that has died, whose first ten messages were noted."""
        monkeypatch.setattr("daemon.hub.MARK_MESSAGES", 10)
        one = opened(hub, stream(*numbered(4)))
        append(hub, one, *numbered(5, "more"), arrow()[:7])
        append(hub, one, arrow()[7:], *numbered(2, "last"), arrow()[:9])  # too soon after the other for a second mark
        one.close()
        return one

    async def again(self, one: Stream) -> Stream:
        """The same stream, taken up by the next daemon."""
        hub = make_hub(one.path.parent)
        hub.load()
        two = hub.streams[one.id]
        await hub.take_up(two)
        append(hub, two, arrow()[9:])
        two.close()
        return two

    async def test_what_was_walked_is_not_walked_again(self, marked: Stream) -> None:
        mark = Meta.load(marked.path.with_suffix(".json")).mark
        assert (mark["messages"], mark["size"]) == (11, len(stream(*numbered(4), *numbered(5, "more"))))
        walked = mark["size"] - PROOF
        marked.path.write_bytes(bytes(walked) + marked.path.read_bytes()[walked:])  # only the proof is looked at
        two = await self.again(marked)
        assert two.messages == marked.messages + 1 == 16
        assert two.committed == two.data_end == two.size == marked.size + len(arrow()[9:])
        assert [stats.messages for stats in two.stores.values()] == [7, 6, 3]
        assert (two.header, two.sdk_version, two.keys) == (marked.header, marked.sdk_version, marked.keys)

    @pytest.mark.parametrize("damage", [
        {"size": 10**9}, {"size": -1}, {"size": 0}, {"size": "1"}, {"before": ""}, {"generation": 1}, {"version": None},
        {"stores": [1]}, {"messages": "many"},
    ])
    async def test_a_mark_that_is_not_to_be_believed(
        self, marked: Stream, damage: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        meta = Meta.load(marked.path.with_suffix(".json"))
        meta.mark |= damage
        meta.save(marked.path.parent)
        two = await self.again(marked)
        assert "is not to be believed" in caplog.text
        assert (two.messages, len(two.stores)) == (16, 3)
        assert (two.header, two.sdk_version, two.keys) == (marked.header, marked.sdk_version, marked.keys)

    async def test_a_mark_where_no_frame_ends(self, marked: Stream) -> None:
        meta = Meta.load(marked.path.with_suffix(".json"))
        at = meta.mark["size"] + 1
        meta.mark |= {"size": at, "before": marked.path.read_bytes()[at - PROOF : at].hex()}
        meta.save(marked.path.parent)
        assert (await self.again(marked)).messages == 16

    async def test_where_there_is_more_than_one_stream_no_mark_is_made(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What would have to be kept to go on there, too, is not worth it."""
        monkeypatch.setattr("daemon.hub.MARK_MESSAGES", 1)
        for data in (stream(*numbered(2), end="sealed"), stream(*numbered(2)) * 2, stream(*numbered(2)) + b"g" * 30):
            one = opened(hub, data)
            assert one.meta.mark == {}
            one.close()

    async def test_a_complete_log_has_no_mark(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("daemon.hub.MARK_MESSAGES", 1)
        one = opened(hub, stream(*real(range(3))))
        assert one.meta.mark
        hub.end_stream(one, "test")
        await completed(hub, one)
        assert Meta.load(one.path.with_suffix(".json")).mark == {}
        assert one.messages == 4

    async def test_take_up_of_garbage(self, hub: Hub) -> None:
        one = opened(hub, stream(*numbered(2)), b"g" * 30)
        one.close()
        again = make_hub(hub.directory)
        again.load()
        two = again.streams[one.id]
        await again.take_up(two)
        assert two.error == one.error
        assert two.messages == 3
        two.close()

    async def test_ended_while_it_was_being_taken_up(self, hub: Hub) -> None:
        """Two who take up the same log do not disturb each other."""
        one = opened(hub, stream(*numbered(50)))
        one.close()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(hub.take_up, one)
            hub.end_stream(one, "meanwhile")
        await completed(hub, one)
        assert one.messages == 51
        assert frames.frames_of(one.path.read_bytes()) == frames.frames_of(stream(*numbered(50)))

    async def test_what_is_no_log(self, hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
        """It is left alone: nothing of it may keep the daemon from its start."""
        (hub.directory / "link.rrd").symlink_to("/nowhere")
        (hub.directory / "directory.rrd").mkdir()
        os.mkfifo(hub.directory / "pipe.rrd")
        one = await ended(hub, stream(*numbered(1)))
        again = make_hub(hub.directory)
        again.load()
        assert list(again.streams) == [one.id]
        for name in ("link", "directory", "pipe"):
            assert f"{name}.rrd is left alone: no" in caplog.text.lower()

    async def test_a_spool_that_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Hub(tmp_path / "none").load()


class TestFiles:
    async def test_a_file_in_place(self, hub: Hub, tmp_path: Path) -> None:
        path = frames.write(tmp_path / "a.rrd", stream(*numbered(3), end="sealed"))
        one = await hub.open_file(path)
        assert (one.id, one.kind, one.messages, one.complete) == (f"file:{path}", "file", 4, True)
        assert await hub.open_file(path) is one
        frames.write(path, stream(*numbered(5), end="sealed"))
        two = await hub.open_file(path)
        assert two is not one
        assert two.generation != one.generation
        assert two.messages == 6

    async def test_a_damaged_file_is_read_up_to_the_damage(self, hub: Hub, tmp_path: Path) -> None:
        path = frames.write(tmp_path / "a.rrd", stream(*numbered(3)), b"x" * 40)
        one = await hub.open_file(path)
        assert one.messages == 4
        assert f"at byte {path.stat().st_size - 40}" in one.error

    async def test_no_rrd(self, hub: Hub, tmp_path: Path) -> None:
        path = frames.write(tmp_path / "a.rrd", b"hello world, this is text")
        with pytest.raises(FormatError, match="found b'hell'"):
            await hub.open_file(path)
        with pytest.raises(FileNotFoundError):
            await hub.open_file(tmp_path / "none.rrd")
        assert hub.streams == {}

    async def test_let_go_when_nobody_reads_it(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = time.monotonic()
        one, two, three = [await hub.open_file(frames.write(tmp_path / f"{name}.rrd", stream(*numbered(1))))
                           for name in "abc"]
        log = await ended(hub, stream(*numbered(1)))
        feed = hub.feed(Selection("a", streams=frozenset([one.id])))
        assert await feed.take() is not None
        hub.close_files({two.id})
        assert set(hub.streams) == {one.id, two.id, three.id, log.id}  # just opened: about to be read
        monkeypatch.setattr("daemon.hub.time.monotonic", lambda: now + FILES_KEPT_S)
        shape = hub.shape
        hub.close_files({two.id})
        assert set(hub.streams) == {one.id, two.id, log.id}
        assert hub.shape > shape
        del feed
        assert await hub.open_file(two.path) is two  # asked for again
        hub.close_files(set())
        assert set(hub.streams) == {two.id, log.id}


class TestForget:
    async def test_log_and_description_go(self, hub: Hub) -> None:
        one = await ended(hub, stream(*numbered(3), end="sealed"))
        assert hub.forget(one) > one.size
        assert hub.streams == {}
        assert list(hub.directory.iterdir()) == []
        assert hub.forget(one) == 0

    async def test_what_cannot_be_removed_stays(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        one = await ended(hub, stream(*numbered(3), end="sealed"))

        def no(path: Path) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted", os.fspath(path))

        monkeypatch.setattr(Path, "unlink", no)
        with pytest.raises(PermissionError):
            hub.forget(one)
        assert hub.streams == {one.id: one}
        assert len(await read(hub, one)) == 4

    async def test_a_file_elsewhere_keeps_the_bytes(self, hub: Hub, tmp_path: Path) -> None:
        one = await ended(hub, stream(*numbered(3), end="sealed"))
        os.link(one.path, tmp_path / "saved.rrd")
        meta = one.path.with_suffix(".json").stat().st_size
        assert hub.forget(one) == meta
        assert (tmp_path / "saved.rrd").read_bytes() == stream(*numbered(3), end="sealed")


class TestMoments:
    async def test_a_clock_that_is_set_back(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was live when @live was said is taken, what had ended is not, in this run and in the next."""
        before = await ended(hub, stream(*numbered(1)))
        live = opened(hub, stream(*numbered(1)))
        selection = resolve(["@live"], hub.streams, hub.moment())
        monkeypatch.setattr("daemon.hub.time.time", lambda: 1000.0)
        later = await ended(hub, stream(*numbered(1)))
        hub.end_stream(live, "test")
        await completed(hub, live)
        again = make_hub(hub.directory)
        again.load()
        for one in (hub, again):
            assert [selection.takes(one.streams[stream.id]) for stream in (before, live, later)] == [False, True, True]
            none = resolve(["@live"], one.streams, one.moment())
            assert not any(none.takes(stream) for stream in one.streams.values())
        assert (live.ended_at, later.started_at) == (1000.0, 1000.0)  # what people are shown is what their clock said

    async def test_never_twice_the_same(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("daemon.hub.time.time", lambda: 1000.0)
        first = [hub.moment() for _ in range(3)]
        assert first == sorted(set(first))
        hub.witness(5000.0)
        hub.witness(None)
        assert hub.moment() > 5000.0


class TestWaiting:
    async def test_changes(self, hub: Hub, nursery: trio.Nursery) -> None:
        seen = hub.version
        got: list[int] = []

        async def wait() -> None:
            got.append(await hub.wait_change(seen))

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        hub.changed()
        await trio.testing.wait_all_tasks_blocked()
        assert got == [seen + 1]
        assert await hub.wait_change(seen) == seen + 1

    async def test_only_new_stores_reshape(self, hub: Hub) -> None:
        one = opened(hub, stream(*numbered(1)))
        shape, version = hub.shape, hub.version
        append(hub, one, arrow())
        assert (hub.shape, hub.version) == (shape, version + 1)
        append(hub, one, arrow()[:-1])
        assert hub.version == version + 1  # nothing is whole yet
        append(hub, one, arrow()[-1:], arrow("other"))
        assert hub.shape == shape + 1

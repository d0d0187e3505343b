from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from daemon.completing import complete_streams
from daemon.hub import Hub
from daemon.selection import Selection
from daemon.sinks import file, runner
from daemon.sinks.file import FileSink, refuse_target
from daemon.sinks.runner import SinkSet
from daemon.stream import RecordingKey, Stream
from daemon.wire.rrd import TAIL_SIZE, parse_tail
from tests.daemon.conftest import append, completed, ended, make_hub, opened, real
from tests.helpers import frames
from tests.helpers.disks import small_disk
from tests.helpers.frames import sealed, stream

PARTS = real(range(20))
OPEN = stream(*PARTS)
WHOLE = stream(*PARTS, end="sealed")


@pytest.fixture
async def sinks(hub: Hub, tmp_path: Path) -> AsyncIterator[SinkSet]:
    (tmp_path / "sinks").mkdir()
    async with trio.open_nursery() as nursery:
        yield SinkSet(hub, tmp_path / "sinks", nursery, {"file": FileSink})
        nursery.cancel_scope.cancel()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "out.rrd"


def one_stream(stream: Stream) -> Selection:
    return Selection(f"stream:{stream.id}", streams=frozenset([stream.id]))


def recording(*names: str) -> Selection:
    return Selection(" ".join(names), recordings=frozenset(RecordingKey("app", name) for name in names))


def saved(sinks: SinkSet, selection: Selection, path: Path, *, force: bool = False, copy: bool = False,
          last: float = 0.0) -> FileSink:
    sink = FileSink(sinks.hub, selection, path, copy=copy, force=force, last=last)
    sinks.add(sink)
    return sink


async def until(sink: FileSink, condition: Callable[[], Any]) -> None:
    with trio.fail_after(60):
        while not condition():
            with trio.move_on_after(0.05):  # not everything that is asked for here is a change of the hub's
                await sink.hub.wait_change(sink.hub.version)


async def done(sink: FileSink, state: str = "complete") -> FileSink:
    with trio.fail_after(60):
        await sink.done.wait()
    assert sink.state == state, sink.last_error
    return sink


async def gone(sinks: SinkSet, sink: FileSink) -> None:
    """Its daemon is no more."""
    idle = sinks._idle[sink.id]
    sinks._scopes[sink.id].cancel()
    await idle.wait()


async def finish(hub: Hub, one: Stream) -> Stream:
    """Its program ends."""
    append(hub, one, sealed(one.data_end))
    hub.end_stream(one, "test")
    await completed(hub, one)
    return one


def chunks_of(path: Path) -> list[tuple[int, bytes]]:
    """The frames of a file, but for store infos, which a concatenation may lose."""
    return [frame for frame in frames.frames_of(path.read_bytes()) if frame[0] != 1]


class TestLink:
    async def test_the_file_is_the_log(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = opened(hub, OPEN[:200])
        sink = saved(sinks, one_stream(one), out)
        assert sink.mode == "link"
        assert out.samefile(one.path)
        append(hub, one, OPEN[200:])
        assert out.read_bytes() == OPEN
        assert (sink.lag(), sink.delivered_messages) == ((0, 0), 21)
        await finish(hub, one)
        await done(sink)
        assert out.read_bytes() == WHOLE
        assert list((out.parent.parent / "sinks").iterdir()) == []

    async def test_of_a_recording_that_has_ended(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = await ended(hub, WHOLE)
        await done(saved(sinks, recording("rec"), out))
        assert out.samefile(one.path)

    async def test_a_log_that_is_written_anew(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = opened(hub, stream(*real((1, 2)), end="bare"), stream(*real((3,)), end="bare"))
        sink = saved(sinks, one_stream(one), out)
        hub.end_stream(one, "test")
        await done(sink)
        assert frames.frames_of(out.read_bytes()) == frames.payloads(real((1, 2, 3)))
        assert out.read_bytes() == one.path.read_bytes()

    async def test_becomes_a_merge_when_another_stream_joins(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = opened(hub, OPEN)
        sink = saved(sinks, recording("rec"), out)
        await until(sink, lambda: sink.state == "following")
        two = opened(hub, stream(*real(range(20, 25))))
        await until(sink, lambda: sink.mode == "merge" and sink.lag() == (0, 0))
        assert not out.samefile(one.path)
        for stream_ in (one, two):
            await finish(hub, stream_)
        await done(sink)
        assert sorted(frames.frames_of(out.read_bytes())) == sorted(frames.payloads([*PARTS, *real(range(20, 25))]))
        assert one.path.read_bytes() == WHOLE  # the log itself is untouched

    async def test_becomes_a_merge_when_another_recording_shows(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = opened(hub, OPEN)
        sink = saved(sinks, recording("rec"), out)
        await until(sink, lambda: sink.state == "following")
        append(hub, one, frames.store_info("other"), frames.arrow("other"), PARTS[-1])
        await until(sink, lambda: sink.mode == "merge" and sink.lag() == (0, 0))
        assert frames.frames_of(out.read_bytes()) == frames.payloads([*PARTS, PARTS[-1]])

    async def test_detached_while_live(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = opened(hub, OPEN, PARTS[1][:-1])
        sink = saved(sinks, one_stream(one), out)
        await sinks.detach(sink)
        assert sink.state == "detached"
        append(hub, one, PARTS[1][-1:], *PARTS)
        assert frames.frames_of(out.read_bytes()) == frames.payloads(PARTS)
        assert out.stat().st_size > len(OPEN)  # it has an end of its own
        assert os.listdir(out.parent) == ["out.rrd"]
        assert one.messages == 43

    async def test_detach_without_room_keeps_the_link(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        async def full(path: Path) -> dict[str, Any]:
            raise OSError(errno.ENOSPC, "No space left on device")

        one = opened(hub, OPEN)
        sink = saved(sinks, one_stream(one), out)
        hub.finish = full
        with pytest.raises(OSError, match="No space"):
            await sinks.detach(sink)
        assert sink.state == "detached"
        assert out.samefile(one.path)
        assert os.listdir(out.parent) == ["out.rrd"]

    async def test_another_stream_joins_in_the_moment_it_is_detached(
        self, hub: Hub, sinks: SinkSet, out: Path
    ) -> None:
        """It must not stay a link, which would grow on."""
        one = opened(hub, OPEN)
        sink = FileSink(hub, recording("rec"), out)
        sink.hold()
        opened(hub, stream(*real((20, 21))))
        await sink.detached()
        assert not out.samefile(one.path)
        assert sorted(frames.frames_of(out.read_bytes())) == sorted(frames.payloads([*PARTS, *real((20, 21))]))
        assert os.listdir(out.parent) == ["out.rrd"]

    async def test_a_detach_that_is_given_up_changes_nothing(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        """Its asker was interrupted, or the daemon stops."""
        one = opened(hub, OPEN)
        sink = saved(sinks, one_stream(one), out)
        finishing, usual = trio.Event(), hub.finish

        async def slow(path: Path) -> dict[str, Any]:
            finishing.set()
            await trio.sleep_forever()
            raise AssertionError

        hub.finish = slow
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sinks.detach, sink)
            await finishing.wait()
            assert out.samefile(one.path)  # the new one is made beside it
            assert sink.progress() | {"done_messages": 0} == {
                "done_bytes": len(OPEN), "total_bytes": len(OPEN), "done_messages": 0, "lag_messages": 0}
            nursery.cancel_scope.cancel()
        hub.finish = usual
        assert (sink.state, os.listdir(out.parent)) == ("following", ["out.rrd"])
        await finish(hub, one)
        await done(sink)
        assert out.samefile(one.path)
        assert out.read_bytes() == WHOLE

    async def test_killed_in_the_middle_of_a_detach(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = opened(hub, OPEN)
        sink = FileSink(hub, one_stream(one), out)
        states: list[dict[str, Any]] = []
        sink.hold()
        sink.saved = lambda: states.append(sink.options())
        assert await die(hub, sink.detached)
        assert len(os.listdir(out.parent)) == 2
        again = FileSink.restore(hub, one_stream(one), str(out), "again", states[-1])
        await finish(hub, one)
        await again.deliver()
        assert os.listdir(out.parent) == ["out.rrd"]
        assert out.samefile(one.path)

    @pytest.mark.parametrize("replaced", [False, True])
    async def test_the_target_is_taken_away(self, hub: Hub, sinks: SinkSet, out: Path, replaced: bool) -> None:
        one = opened(hub, OPEN)
        sink = saved(sinks, one_stream(one), out)
        await until(sink, lambda: sink.state == "following")
        out.unlink()
        if replaced:
            out.write_text("somebody's own")
        assert sink.status()["state"] == "failed"
        assert str(out) in sink.status()["last_error"]
        await sinks.detach(sink)
        assert out.exists() == replaced
        assert not replaced or out.read_text() == "somebody's own"


class TestCopy:
    async def test_live(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = opened(hub, OPEN[:-30])
        sink = saved(sinks, one_stream(one), out, copy=True)
        await until(sink, lambda: sink.delivered_messages == one.messages)
        assert out.read_bytes() == OPEN[: one.data_end]
        append(hub, one, OPEN[-30:])
        await until(sink, lambda: sink.delivered_messages == 21)
        assert sink.lag() == (0, 0)
        await finish(hub, one)
        await done(sink)
        assert out.read_bytes() == WHOLE
        assert not out.samefile(one.path)

    async def test_a_log_that_is_written_anew(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = opened(hub, stream(*real((1, 2)), end="bare"), stream(*real((3,)), end="bare"))
        sink = saved(sinks, one_stream(one), out, copy=True)
        await until(sink, lambda: sink.size == one.data_end)
        hub.end_stream(one, "test")
        await done(sink)
        assert out.read_bytes() == one.path.read_bytes()

    async def test_written_anew_while_there_was_no_daemon(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        """The bytes of a file that is no more are not taken for those of the new one."""
        one = opened(hub, stream(*real((1, 2)), end="bare"), stream(*real((3,)), end="bare"))
        sink = saved(sinks, one_stream(one), out, copy=True)
        await until(sink, lambda: sink.size == one.data_end)
        options = sink.options()
        await gone(sinks, sink)
        hub.end_stream(one, "test")
        await completed(hub, one)
        out.write_bytes(b"old" * 100)
        again = FileSink.restore(hub, one_stream(one), str(out), "again", options)
        await again.deliver()
        assert out.read_bytes() == one.path.read_bytes()

    async def test_becomes_a_merge(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        opened(hub, OPEN)
        sink = saved(sinks, recording("rec"), out, copy=True)
        await until(sink, lambda: sink.delivered_messages == 21)
        opened(hub, stream(*real(range(20, 22))))
        await until(sink, lambda: sink.mode == "merge" and sink.lag() == (0, 0))
        await sinks.detach(sink)
        assert sorted(frames.frames_of(out.read_bytes())) == sorted(frames.payloads([*PARTS, *real(range(20, 22))]))

    async def test_detached_while_live(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = opened(hub, OPEN)
        sink = saved(sinks, one_stream(one), out, copy=True)
        await until(sink, lambda: sink.delivered_messages == 21)
        await sinks.detach(sink)
        append(hub, one, *PARTS)
        assert frames.frames_of(out.read_bytes()) == frames.payloads(PARTS)

    async def test_detached_has_what_came_before(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        """A copy is paced; what was logged and flushed when detach was said is in the file all the same."""
        one = opened(hub, OPEN)
        sink = saved(sinks, one_stream(one), out, copy=True)
        await until(sink, lambda: sink.delivered_messages == 21)
        append(hub, one, *real(range(20, 22))[1:])
        await sinks.detach(sink)
        append(hub, one, *real(range(30, 32))[1:])
        assert frames.frames_of(out.read_bytes()) == frames.payloads([*PARTS, *real(range(20, 22))[1:]])

    @pytest.mark.parametrize("killed", [False, True])
    async def test_a_detach_that_is_given_up_leaves_no_footer_inside(
        self, hub: Hub, sinks: SinkSet, out: Path, killed: bool
    ) -> None:
        one = opened(hub, OPEN)
        sink = saved(sinks, one_stream(one), out, copy=True)
        await until(sink, lambda: sink.delivered_messages == 21)
        states: list[dict[str, Any]] = []
        sink.saved = lambda: states.append(sink.options())
        if killed:
            await gone(sinks, sink)
            assert await die(hub, sink.detached, late=True)
        else:
            assert await die(hub, lambda: sinks.detach(sink), late=True)
        assert out.stat().st_size > len(OPEN)  # it had got its footer
        append(hub, one, *PARTS[1:])
        if killed:
            sink = FileSink.restore(hub, one_stream(one), str(out), "again", states[-1])
            sinks._start(sink)
        await until(sink, lambda: sink.delivered_messages == 41)
        assert out.read_bytes() == OPEN + b"".join(PARTS[1:])

    async def test_of_a_file_that_was_cut(self, hub: Hub, sinks: SinkSet, out: Path, tmp_path: Path) -> None:
        """A file that is written is complete, whatever it was made from."""
        source = await hub.open_file(frames.write(tmp_path / "cut.rrd", OPEN, PARTS[1][:-9]))
        sink = saved(sinks, one_stream(source), out)
        assert sink.mode == "copy"
        await done(sink)
        assert frames.frames_of(out.read_bytes()) == frames.payloads(PARTS)
        assert source.path.read_bytes() == OPEN + PARTS[1][:-9]

    async def test_of_whose_end_a_power_cut_has_taken_a_part(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        """What was noted when it was being detached is more than what is on disk: no hole takes its place."""
        one = await ended(hub, WHOLE)
        sink = FileSink(hub, one_stream(one), out, copy=True)
        sink.hold()
        out.write_bytes(OPEN[:200])
        options = {**sink.options(), "size": len(OPEN), "ending": True}
        await FileSink.restore(hub, one_stream(one), str(out), "again", options).deliver()
        assert out.read_bytes() == WHOLE

    async def test_without_a_descriptor_for_the_new_file(
        self, hub: Hub, sinks: SinkSet, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The old one is closed once, when there is a new one: its number would be another file's by then."""
        one = opened(hub, OPEN)
        open_target, targets, inodes = FileSink._open_target, [], []

        def none_left(sink: FileSink) -> int:
            if sink.beside and not inodes:
                inodes.append(os.fstat(targets[-1]).st_ino)
                raise OSError(errno.EMFILE, "Too many open files")
            targets.append(open_target(sink))
            return targets[-1]

        monkeypatch.setattr(FileSink, "_open_target", none_left)
        sink = saved(sinks, one_stream(one), out, copy=True)
        await until(sink, lambda: sink.delivered_messages == 21)
        claimed = sink.inode
        one.generation += 1
        hub.changed()
        await until(sink, lambda: inodes and not sink.beside)
        assert inodes == [claimed]
        assert out.read_bytes() == OPEN

    async def test_durable(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = opened(hub, OPEN[:-30])
        sink = saved(sinks, one_stream(one), out, copy=True)
        await until(sink, lambda: sink.size == one.data_end)
        append(hub, one, OPEN[-30:])
        with trio.fail_after(20):
            await sink.durable()
        assert out.read_bytes() == OPEN


def held_writing(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Have a merge's thread wait before it writes. Set once it has begun; and to be set when it may go on."""
    writing, go_on, write = threading.Event(), threading.Event(), file.write_batch

    def slow(*args: Any) -> int:
        writing.set()
        assert go_on.wait(30)
        return write(*args)

    monkeypatch.setattr(file, "write_batch", slow)
    return writing, go_on


LAST = 3e-9
"""Seconds: chunks of tests/helpers/chunks.py are made a nanosecond after each other."""
LAST_PARTS = [PARTS[0], *PARTS[-4:]]
LATER = real(range(100, 110))[1:]


class TestLast:
    @pytest.mark.parametrize("live", [False, True])
    async def test_only_what_was_made_then(self, hub: Hub, sinks: SinkSet, out: Path, live: bool) -> None:
        """It is complete at once, and has its footer, even if the recording goes on."""
        one = opened(hub, OPEN) if live else await ended(hub, WHOLE)
        sink = await done(saved(sinks, one_stream(one), out, last=LAST))
        assert frames.frames_of(out.read_bytes()) == frames.payloads(LAST_PARTS)
        parse_tail(out.read_bytes()[-TAIL_SIZE:])
        assert out.stat().st_nlink == 1
        assert (sink.delivered_messages, sink.lag(), sink.last_error) == (5, (0, 0), "")
        assert sink.status()["last"] == LAST

    async def test_of_whatever_is_live(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        """Streams that may still come are not waited for."""
        other = [frames.store_info("other"), frames.arrow("other", made=1.0), frames.arrow("other", made=2.0)]
        opened(hub, frames.header(), *other)
        opened(hub, OPEN)
        await done(saved(sinks, Selection("@live", live_since=0.0), out, last=LAST))
        found = frames.frames_of(out.read_bytes())
        assert sorted(found) == sorted(frames.payloads([*LAST_PARTS, other[0], other[2]]))

    @pytest.mark.parametrize("step", ["write_batch", "finish"])
    async def test_a_full_disk_does_not_move_them(
        self, hub: Hub, sinks: SinkSet, out: Path, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever asked for what just happened gets that, however long it takes to make room."""
        monkeypatch.setattr(runner, "BACKOFF_FIRST_S", 0.01)
        place: Any = {"write_batch": file, "finish": hub}[step]
        works, room = getattr(place, step), trio.Event()

        def write(*args: Any) -> Any:
            if not room.is_set():
                raise OSError(errno.ENOSPC, "No space left on device")
            return works(*args)

        monkeypatch.setattr(place, step, write)
        one = opened(hub, OPEN)
        sink = saved(sinks, one_stream(one), out, last=LAST)
        await until(sink, lambda: sink.state == "retrying")
        append(hub, one, *LATER)
        room.set()
        await done(sink)
        assert frames.frames_of(out.read_bytes()) == frames.payloads(LAST_PARTS)
        assert sink.delivered_messages == 5

    async def test_killed_at_every_step(
        self, hub: Hub, sinks: SinkSet, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two streams, written in small steps; more comes before the next daemon goes on."""
        monkeypatch.setattr(file, "STEP", 100)
        pinned = [frames.arrow("other", static=True, made=float(number), body=bytes(100)) for number in range(4)]
        streams = [opened(hub, stream(frames.store_info("other"), *pinned)), opened(hub, OPEN)]
        selection = Selection("two", streams=frozenset(one.id for one in streams))
        sink = FileSink(hub, selection, out, last=LAST)
        sink.hold()
        states: list[tuple[dict[str, Any], bytes]] = []
        sink.saved = lambda: states.append((json.loads(json.dumps(sink.options())), out.read_bytes()))
        await sink.deliver()
        wanted = sorted(frames.payloads([*LAST_PARTS, frames.store_info("other"), *pinned]))
        assert sorted(frames.frames_of(out.read_bytes())) == wanted
        assert sink.delivered_messages == len(wanted) == 10
        assert len(states) > 10
        append(hub, streams[1], *LATER)
        for options, written in states:
            for garbage in (b"", b"half a frame" * 50):
                out.write_bytes(written + garbage)
                again = FileSink.restore(hub, selection, str(out), "again", options | {"inode": out.stat().st_ino})
                await again.deliver()
                assert sorted(frames.frames_of(out.read_bytes())) == wanted
                assert again.delivered_messages == len(wanted)

    async def test_of_a_log_that_is_written_anew(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        """Its places mean nothing any more, the time does."""
        one = opened(hub, OPEN)
        sink = FileSink(hub, one_stream(one), out, last=LAST)
        sink.hold()
        sink.windows = await sink.feed.last_seconds(LAST)
        await sink._seek({})
        options = sink.options()
        one.generation += 1
        again = FileSink.restore(hub, one_stream(one), str(out), "again", options)
        await again.deliver()
        assert frames.frames_of(out.read_bytes()) == frames.payloads(LAST_PARTS)
        assert again.delivered_messages == 5

    async def test_detached_meanwhile(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = opened(hub, OPEN)
        sink = FileSink(hub, one_stream(one), out, last=LAST)
        sink.hold()
        await sink.detached()
        assert frames.frames_of(out.read_bytes()) == frames.payloads(LAST_PARTS)


class TestMerge:
    async def test_part_of_a_stream(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        theirs = [frames.store_info("other"), frames.arrow("other", body=bytes(50_000))]
        one = opened(hub, stream(PARTS[0], *theirs, *PARTS[1:], theirs[1]))
        sink = saved(sinks, recording("rec"), out)
        assert sink.mode == "merge"
        await until(sink, lambda: sink.delivered_messages == 21)
        assert out.read_bytes() == OPEN
        await finish(hub, one)
        await done(sink)
        assert frames.frames_of(out.read_bytes()) == frames.payloads(PARTS)
        assert not sink.last_error

    async def test_durable_with_what_is_not_selected(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        """There is nothing to wait for in what will never be in the file; nor in a log that has nothing yet."""
        one = opened(hub, OPEN)
        sink = saved(sinks, Selection("@live", live_since=0.0), out)
        part = saved(sinks, recording("rec", "nobody"), out.with_name("part.rrd"))
        append(hub, one, frames.store_info("other"))
        await until(sink, lambda: sink.delivered_messages == 22)
        await until(part, lambda: part.mode == "merge" and part.delivered_messages == 21 and part.lag() == (0, 0))
        opened(hub, frames.header())
        append(hub, one, frames.arrow("other"))
        with trio.fail_after(20):
            await sink.durable()
            await part.durable()
        assert len(frames.frames_of(out.read_bytes())) == 23
        assert part.path.read_bytes() == OPEN

    async def test_the_newest_header(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        for version in ((0, 31, 4, 0), (0, 41, 0, 0), (0, 23, 4, 0)):
            await ended(hub, frames.header(version) + b"".join(real((1,))))
        await done(saved(sinks, recording("rec"), out))
        assert out.read_bytes()[:12] == frames.header((0, 41, 0, 0))

    async def test_nothing(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        sink = saved(sinks, recording("nobody"), out)
        await done(sink)
        assert out.read_bytes() == b""

    async def test_killed_at_every_step(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        """What was written and not noted is cut off and written again."""
        two = await ended(hub, stream(*real(range(20, 24))))
        one = await ended(hub, OPEN)
        selection = recording("rec")
        sink = FileSink(hub, selection, out)
        sink.hold()
        states = [sink.options()]
        sink.saved = lambda: states.append(sink.options())
        await sink.deliver()
        assert len(states) == 3
        whole = out.read_bytes()
        for options in states:
            for garbage in (b"", b"half a frame" * 5000, PARTS[1]):
                out.write_bytes(whole[: options["size"]] + garbage)
                again = FileSink.restore(hub, selection, str(out), "again", {**options, "inode": out.stat().st_ino})
                await again.deliver()
                assert sorted(frames.frames_of(out.read_bytes())) == sorted(frames.frames_of(whole))
        assert (one.complete, two.complete) == (True, True)

    async def test_of_which_a_power_cut_has_taken_a_part(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        """What was noted is more than what is on disk: no row is lost, and what is left stays until all is there."""
        one, two = opened(hub, OPEN), opened(hub, stream(*real(range(20, 40))))
        selection = Selection("two", streams=frozenset([one.id, two.id]))
        sink = saved(sinks, selection, out)
        await until(sink, lambda: sink.lag() == (0, 0) and sink.delivered_messages == 42)
        await gone(sinks, sink)
        os.truncate(out, sink.size // 2)
        again = FileSink.restore(hub, selection, str(out), "again", sink.options())
        sinks._start(again)
        for each in (one, two):
            await finish(hub, each)
        await done(again)
        assert sorted(frames.frames_of(out.read_bytes())) == sorted(frames.payloads([*PARTS, *real(range(20, 40))]))

    async def test_a_log_that_is_written_anew(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        other = opened(hub, stream(*real((7, 8))))
        one = opened(hub, stream(*real((1, 2)), end="bare"), stream(*real((3,)), end="bare"))
        sink = saved(sinks, recording("rec"), out)
        await until(sink, lambda: sink.lag() == (0, 0) and sink.delivered_messages == 8)
        for stream_ in (one, other):
            hub.end_stream(stream_, "test")
            await completed(hub, stream_)
        await done(sink)
        infos = [frame for frame in frames.frames_of(out.read_bytes()) if frame[0] == 1]
        assert len(infos) == 2
        chunks = sorted(frame for frame in frames.frames_of(out.read_bytes()) if frame[0] == 2)
        assert chunks == sorted(frames.payloads(real((1, 2, 3, 7, 8))[1:]))

    async def test_detached_while_live(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        opened(hub, OPEN)
        sink = saved(sinks, Selection("@live", live_since=0.0), out)
        await until(sink, lambda: sink.delivered_messages == 21)
        await sinks.detach(sink)
        assert frames.frames_of(out.read_bytes()) == frames.payloads(PARTS)

    async def test_detached_has_what_came_before(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = opened(hub, OPEN)
        sink = saved(sinks, Selection("@live", live_since=0.0), out)
        await until(sink, lambda: sink.delivered_messages == 21)
        append(hub, one, *real(range(20, 22))[1:])
        await sinks.detach(sink)
        append(hub, one, *real(range(30, 32))[1:])
        expected = [*PARTS, *real(range(20, 22))[1:]]
        assert sorted(frames.frames_of(out.read_bytes())) == sorted(frames.payloads(expected))

    async def test_detached_while_more_comes_than_is_written(
        self, hub: Hub, sinks: SinkSet, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has what was there when detach was said; it does not run after a program that is as fast."""
        one, write = opened(hub, OPEN), file.write_batch
        sink = saved(sinks, Selection("@live", live_since=0.0), out)
        await until(sink, lambda: sink.delivered_messages == 21)
        comes, written = iter(real(range(30, 80))[1:]), 0

        def more_comes(*args: Any) -> int:
            nonlocal written
            written += 1
            trio.from_thread.run_sync(append, hub, one, next(comes), trio_token=token)
            return write(*args)

        token = trio.lowlevel.current_trio_token()
        monkeypatch.setattr(file, "write_batch", more_comes)
        expected = [*PARTS, *real(range(20, 22))[1:]]
        append(hub, one, *expected[21:])
        await sinks.detach(sink)
        assert written == 1
        assert frames.frames_of(out.read_bytes()) == frames.payloads(expected)

    async def test_not_detached_while_a_thread_writes(
        self, hub: Hub, sinks: SinkSet, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Completing a file that is still being copied into would cut it in the middle."""
        writing, go_on = held_writing(monkeypatch)
        opened(hub, OPEN)
        sink = saved(sinks, Selection("@live", live_since=0.0), out)
        async with trio.open_nursery() as nursery:
            await trio.to_thread.run_sync(writing.wait, 30)
            nursery.start_soon(sinks.detach, sink)
            nursery.start_soon(sinks.detach, sink)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert out.stat().st_size <= 12
            go_on.set()
        assert sink.state == "detached"
        assert frames.frames_of(out.read_bytes()) == frames.payloads(PARTS)


class Killed(BaseException):
    """The daemon is no more."""


async def die(hub: Hub, work: Callable[[], Awaitable[None]], *, late: bool = False) -> bool:
    """Do something, and have it end where a footer is about to be made, or just has been."""
    usual, reached = hub.finish, False
    scope = trio.CancelScope()

    async def last(path: Path) -> dict[str, Any]:
        nonlocal reached
        reached = True
        if late:
            await usual(path)
        else:
            shutil.copy(path, path.with_name(f"{path.name}.left"))  # what a killed process leaves lies there still
        scope.cancel()
        await trio.sleep_forever()
        raise AssertionError

    hub.finish = last
    with scope:
        await work()
    hub.finish = usual
    for left in list((hub.directory.parent / "out").glob(".*.left")):
        left.rename(left.with_suffix(""))
    return reached


class TestAnew:
    """A target that must be written anew is whole meanwhile."""

    @pytest.mark.parametrize("copy", [False, True])
    async def test_the_old_one_stays_until_the_new_one_has_caught_up(
        self, hub: Hub, sinks: SinkSet, out: Path, monkeypatch: pytest.MonkeyPatch, copy: bool
    ) -> None:
        writing, go_on = held_writing(monkeypatch)
        opened(hub, OPEN)
        sink = saved(sinks, recording("rec"), out, copy=copy)
        await until(sink, lambda: out.stat().st_size == len(OPEN) and sink.state == "following")
        two = opened(hub, stream(*real((20, 21))))
        await trio.to_thread.run_sync(writing.wait, 30)
        assert out.read_bytes() == OPEN
        assert (sink.mode, len(os.listdir(out.parent))) == ("merge", 2)
        assert sink.lag()[0] == 24
        go_on.set()
        with trio.fail_after(20):
            await sink.durable()
        assert sorted(frames.frames_of(out.read_bytes())) == sorted(frames.payloads([*PARTS, *real((20, 21))]))
        assert os.listdir(out.parent) == ["out.rrd"]
        append(hub, two, real((22,))[1])
        await until(sink, lambda: sink.delivered_messages == 25)
        assert len(frames.frames_of(out.read_bytes())) == 25

    @pytest.mark.parametrize("kind", ["link", "copy", "anew"])
    async def test_killed_at_every_step(self, nursery: trio.Nursery, tmp_path: Path, kind: str) -> None:
        """Wherever a daemon dies: the target is the old or the new one, and the next daemon ends it all."""
        number = 0
        while await self.killed(nursery, tmp_path / str(number), kind, number // 2, late=bool(number % 2)):
            number += 1
        assert number >= 6

    async def killed(self, nursery: trio.Nursery, place: Path, kind: str, step: int, *, late: bool) -> bool:
        """A daemon that dies before, or after, it has noted a step. False: it has come to its end before that."""
        hub, out = make_hub(place / "spool"), place / "out" / "out.rrd"
        out.parent.mkdir()
        await nursery.start(complete_streams, hub)
        if kind == "anew":  # a concatenation, which is made one
            one = opened(hub, stream(*PARTS, end="bare"), stream(*real((20, 21))))
            sink = FileSink(hub, one_stream(one), out, copy=True)
            sink.hold()
            async with trio.open_nursery() as following:
                following.start_soon(sink.deliver)
                await until(sink, lambda: sink.size == one.data_end)
                following.cancel_scope.cancel()
            hub.end_stream(one, "test")
            await completed(hub, one)
        else:
            await ended(hub, OPEN)
            sink = FileSink(hub, recording("rec"), out, copy=kind == "copy")
            sink.hold()
            if kind == "copy":
                await sink.deliver()
            await ended(hub, stream(*real((20, 21))))
        before, stored, steps = sorted(chunks_of(out)), sink.options(), 0

        def save() -> None:
            nonlocal stored, steps
            steps += 1
            if late or steps <= step:
                stored = sink.options()
            if steps == step + 1:
                raise Killed

        sink.saved = save
        dead = False
        try:
            await sink.deliver()
        except Killed:
            dead = True
        whole = sorted(frames.payloads([*PARTS[1:], *real((20, 21))[1:]]))
        assert sorted(chunks_of(out)) in (before, whole)
        again = FileSink.restore(hub, sink.selection, str(out), "again", stored)
        await again.deliver()
        assert sorted(chunks_of(out)) == whole
        assert os.listdir(out.parent) == ["out.rrd"]
        return dead


class TestRestart:
    @pytest.mark.parametrize("copy", [False, True])
    async def test_a_log_that_is_gone_leaves_the_file_alone(
        self, hub: Hub, sinks: SinkSet, out: Path, copy: bool
    ) -> None:
        one = opened(hub, OPEN)
        sink = saved(sinks, one_stream(one), out, copy=copy)
        await until(sink, lambda: out.stat().st_size == len(OPEN))
        options = sink.options()
        await gone(sinks, sink)
        hub.forget(one)
        again = FileSink.restore(hub, one_stream(one), str(out), "again", options)
        await again.deliver()
        assert frames.frames_of(out.read_bytes()) == frames.payloads(PARTS)

    async def test_a_file_is_opened_again(self, hub: Hub, sinks: SinkSet, out: Path, tmp_path: Path) -> None:
        source = await hub.open_file(frames.write(tmp_path / "a.rrd", WHOLE))
        sink = FileSink(hub, one_stream(source), out)
        sink.hold()
        sink.saved = lambda: None
        sinks._save(sink)
        del hub.streams[source.id]
        sinks.restore()
        (again,) = sinks.active()
        assert isinstance(again, FileSink)
        await done(again)
        assert frames.frames_of(out.read_bytes()) == frames.payloads(PARTS)

    async def test_a_source_that_is_none_any_more(self, hub: Hub, sinks: SinkSet, out: Path, tmp_path: Path) -> None:
        source = await hub.open_file(frames.write(tmp_path / "a.rrd", WHOLE))
        sink = FileSink(hub, one_stream(source), out)
        sink.hold()
        sinks._save(sink)
        del hub.streams[source.id]
        source.path.write_text("something else altogether")
        sinks.restore()
        (again,) = sinks.active()
        assert isinstance(again, FileSink)
        await done(again, "failed")
        assert "found b'some'" in again.last_error


class TestAdding:
    """A daemon that dies while a sink is added leaves no target that nobody owns."""

    @pytest.mark.parametrize("held", [False, True])
    @pytest.mark.parametrize("copy", [False, True])
    @pytest.mark.parametrize("force", [False, True])
    async def test_killed_before_and_after(
        self, hub: Hub, sinks: SinkSet, out: Path, held: bool, copy: bool, force: bool
    ) -> None:
        one = await ended(hub, WHOLE)
        if force:
            out.write_text("mine")
        sink = FileSink(hub, one_stream(one), out, copy=copy, force=force)
        sinks._save(sink)
        if held:
            sink.hold()
        sinks.restore()
        (again,) = sinks.active()
        assert isinstance(again, FileSink)
        await done(again)
        assert out.read_bytes() == WHOLE
        assert out.samefile(one.path) != copy
        assert list(sinks.directory.iterdir()) == []

    @pytest.mark.parametrize("copy", [False, True])
    async def test_killed_while_it_takes_the_place_of_another(
        self, hub: Hub, sinks: SinkSet, out: Path, monkeypatch: pytest.MonkeyPatch, copy: bool
    ) -> None:
        one = await ended(hub, WHOLE)
        out.write_text("mine")
        sink = FileSink(hub, one_stream(one), out, copy=copy, force=True)
        sinks._save(sink)

        def dies(*_: object) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(FileSink, "_take_place", dies)
            with pytest.raises(Killed):
                sink.hold()
        assert len(os.listdir(out.parent)) == 2
        sinks.restore()
        (again,) = sinks.active()
        assert isinstance(again, FileSink)
        await done(again)
        assert os.listdir(out.parent) == ["out.rrd"]
        assert out.read_bytes() == WHOLE

    async def test_somebody_elses_file_stays(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = await ended(hub, WHOLE)
        out.write_text("mine")
        sinks._save(FileSink(hub, one_stream(one), out))
        sinks.restore()
        (again,) = sinks.active()
        assert isinstance(again, FileSink)
        await done(again, "failed")
        assert again.last_error == f"file exists: {out}"
        assert out.read_text() == "mine"

    async def test_it_is_written_down_before_the_target_is_made(
        self, hub: Hub, sinks: SinkSet, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sink = FileSink(hub, one_stream(await ended(hub, WHOLE)), out)
        written = []
        monkeypatch.setattr(sink, "hold", lambda: written.extend(sinks.directory.iterdir()))
        sinks.add(sink)
        assert [path.stem for path in written] == [sink.id]
        sinks._scopes[sink.id].cancel()

    async def test_what_cannot_be_is_not_written_down(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = await ended(hub, WHOLE)
        out.write_text("mine")
        with pytest.raises(FileExistsError):
            saved(sinks, one_stream(one), out)
        assert list(sinks.directory.iterdir()) == []
        assert sinks.sinks == {}


class TestHold:
    async def test_what_is_there_is_not_overwritten(self, hub: Hub, out: Path) -> None:
        one = await ended(hub, WHOLE)
        out.write_text("mine")
        for copy in (False, True):
            with pytest.raises(FileExistsError):
                FileSink(hub, one_stream(one), out, copy=copy).hold()
        assert out.read_text() == "mine"

    @pytest.mark.parametrize("copy", [False, True])
    async def test_force(self, hub: Hub, sinks: SinkSet, out: Path, copy: bool) -> None:
        one = await ended(hub, WHOLE)
        out.write_text("mine")
        os.link(out, out.with_name("other"))
        await done(saved(sinks, one_stream(one), out, force=True, copy=copy))
        assert out.read_bytes() == WHOLE
        assert out.with_name("other").read_text() == "mine"
        assert sorted(os.listdir(out.parent)) == ["other", "out.rrd"]

    async def test_the_longest_name(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        """There is a name for what is made beside it, in whatever letters it is written."""
        one = opened(hub, OPEN)
        path = out.with_name("あ" * 83 + ".rrd")
        frames.write(path, b"old")
        sink = saved(sinks, one_stream(one), path, force=True)
        assert sink.mode == "link"
        await sinks.detach(sink)
        assert frames.frames_of(path.read_bytes()) == frames.payloads(PARTS)
        assert list(out.parent.iterdir()) == [path]

    async def test_force_onto_itself(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        one = await ended(hub, WHOLE)
        for _ in range(2):
            await done(saved(sinks, one_stream(one), out, force=True))
        assert os.listdir(out.parent) == ["out.rrd"]
        assert out.samefile(one.path)

    async def test_where_it_cannot_be_the_old_one_stays(self, hub: Hub, out: Path) -> None:
        one = await ended(hub, WHOLE)
        path = out.parent / "none" / "out.rrd"
        with pytest.raises(FileNotFoundError):
            FileSink(hub, one_stream(one), path, force=True).hold()
        (out.parent / "dir").mkdir()
        for copy in (False, True):
            with pytest.raises(IsADirectoryError):
                FileSink(hub, one_stream(one), out.parent / "dir", copy=copy, force=True).hold()
        assert os.listdir(out.parent) == ["dir"]

    async def test_taken_back(self, hub: Hub, out: Path) -> None:
        one = await ended(hub, WHOLE)
        sink = FileSink(hub, one_stream(one), out)
        sink.hold()
        sink.let_go()
        assert not out.exists()
        sink.hold()
        out.unlink()
        out.write_text("mine")
        sink.let_go()
        assert out.read_text() == "mine"

    def test_what_can_never_be_an_output(self, tmp_path: Path) -> None:
        assert "is a directory" in refuse_target(tmp_path)
        assert "not a regular file" in refuse_target(Path("/dev/null"))
        assert refuse_target(tmp_path / "new") == ""


class TestTrouble:
    """A file that fails: the sink says so, and resumes."""

    @pytest.mark.parametrize("merge", [False, True])
    async def test_a_full_disk(
        self, hub: Hub, sinks: SinkSet, tmp_path: Path, merge: bool
    ) -> None:
        big = [frames.arrow(body=bytes([number]) * 40_000) for number in range(10)]
        one = opened(hub, stream(*big))
        with small_disk(tmp_path / "small", "256k") as disk:
            selection = Selection("@live", live_since=0.0) if merge else one_stream(one)
            sink = saved(sinks, selection, disk / "out.rrd")
            assert sink.mode == ("merge" if merge else "copy")  # EXDEV: another file system
            await until(sink, lambda: sink.state == "retrying")
            assert "No space left" in sink.last_error
            assert sink.lag()[0] > 0
            append(hub, one, frames.arrow())  # nobody else notices
            await trio.run_process(["mount", "-o", "remount,size=1m", disk])
            await until(sink, lambda: sink.lag() == (0, 0))
            assert (sink.state, sink.last_error) == ("following", "")
            assert frames.frames_of((disk / "out.rrd").read_bytes()) == frames.payloads([*big, frames.arrow()])
            await sinks.detach(sink)

    async def test_another_file_system_gets_the_same_bytes(self, hub: Hub, sinks: SinkSet, tmp_path: Path) -> None:
        one = opened(hub, OPEN)
        with small_disk(tmp_path / "other", "1m") as disk:
            copy, link = (saved(sinks, one_stream(one), path) for path in (disk / "a.rrd", tmp_path / "b.rrd"))
            assert (copy.mode, link.mode) == ("copy", "link")
            await finish(hub, one)
            for sink in (copy, link):
                await done(sink)
            assert copy.path.read_bytes() == link.path.read_bytes() == WHOLE

    @pytest.mark.parametrize("kind", ["copy", "merge"])
    async def test_directory_removed_and_back(
        self, hub: Hub, sinks: SinkSet, out: Path, kind: str
    ) -> None:
        one = opened(hub, OPEN[:-30])
        selection = one_stream(one) if kind == "copy" else Selection("@live", live_since=0.0)
        sink = saved(sinks, selection, out, copy=True)
        await until(sink, lambda: sink.lag() == (0, 0))
        shutil.rmtree(out.parent)
        append(hub, one, OPEN[-30:])
        await until(sink, lambda: sink.state == "retrying")
        assert sink.last_error == f"directory is gone: {out.parent}"
        out.parent.mkdir()
        await until(sink, lambda: sink.state == "following" and sink.lag() == (0, 0))
        assert out.read_bytes() == OPEN

    @pytest.mark.parametrize("kind", ["copy", "merge"])
    @pytest.mark.parametrize("replaced", [False, True])
    async def test_target_removed_or_replaced(
        self, hub: Hub, sinks: SinkSet, out: Path, kind: str, replaced: bool
    ) -> None:
        one = opened(hub, OPEN[:-30])
        selection = one_stream(one) if kind == "copy" else Selection("@live", live_since=0.0)
        sink = saved(sinks, selection, out, copy=True)
        await until(sink, lambda: sink.lag() == (0, 0))
        out.rename(out.with_name("moved"))
        if replaced:
            out.write_bytes(stream(*real((1,))))
        append(hub, one, OPEN[-30:])
        await done(sink, "failed")
        assert ("replaced" if replaced else "removed") in sink.last_error
        assert out.exists() == replaced
        assert not replaced or out.read_bytes() == stream(*real((1,)))

    async def test_permission_lost(
        self, hub: Hub, sinks: SinkSet, tmp_path: Path
    ) -> None:
        """A disk that becomes read-only: the one permission that root cannot do without."""
        one = opened(hub, OPEN[:-30])
        with small_disk(tmp_path / "disk", "1m") as disk:
            sink = saved(sinks, one_stream(one), disk / "out.rrd")
            await until(sink, lambda: sink.lag() == (0, 0))
            options = sink.options()
            sinks.sinks.clear()
            await trio.run_process(["mount", "--bind", disk, disk])
            await trio.run_process(["mount", "-o", "remount,bind,ro", disk])
            append(hub, one, OPEN[-30:])
            again = FileSink.restore(hub, one_stream(one), str(sink.path), "again", options)
            sinks._start(again)
            await until(again, lambda: again.state == "retrying")
            assert "Read-only file system" in again.last_error
            await trio.run_process(["umount", disk])
            await until(again, lambda: again.state == "following" and again.lag() == (0, 0))
            assert (disk / "out.rrd").read_bytes() == OPEN

    async def test_a_full_state_disk_does_not_stop_a_merge(self, hub: Hub, sinks: SinkSet, out: Path) -> None:
        opened(hub, OPEN)
        sink = saved(sinks, Selection("@live", live_since=0.0), out)
        sink.saved = lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
        await until(sink, lambda: sink.delivered_messages == 21)
        assert sink.state == "following"
        assert out.read_bytes() == OPEN

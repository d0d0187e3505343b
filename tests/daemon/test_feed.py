from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from daemon import feed as feed_module
from daemon.feed import Batch, Feed
from daemon.hub import Hub
from daemon.selection import Selection
from daemon.spool.pinned import BLOCK_FRAMES
from daemon.stream import RecordingKey, Stream
from daemon.wire.logmsg import BLUEPRINT
from tests.daemon.conftest import append, completed, ended, make_hub, opened, real
from tests.helpers import frames
from tests.helpers.frames import arrow, numbered, store_info, stream


def whole(*streams: Stream) -> Selection:
    return Selection("test", streams=frozenset(one.id for one in streams))


async def taken(feed: Feed, max_bytes: int = 1 << 20) -> list[tuple[int, bytes]]:
    """Everything that is there now."""
    found = []
    while (batch := await feed.take(max_bytes)) is not None:
        found += [(frame.kind, batch.payload(frame)) for frame in batch.frames]
        assert batch.read() == b"".join(
            frames.frame(frame.kind, batch.payload(frame)) for frame in batch.frames)
    return found


async def test_frames_of_one_log(hub: Hub) -> None:
    one = opened(hub, stream(*numbered(5)))
    feed = hub.feed(whole(one))
    assert feed.lag() == (6, one.data_end - 12)
    assert await taken(feed) == frames.payloads(numbered(5))
    assert feed.lag() == (0, 0)
    assert feed.caught_up
    assert not feed.finished
    append(hub, one, frames.sealed(one.data_end))
    hub.end_stream(one, "test")
    await completed(hub, one)
    assert await taken(feed) == []
    assert feed.finished
    assert feed.delivered_messages == 6


def temporal(count: int, size: int) -> list[bytes]:
    """Chunks with a time, as far as spool/pinned.py looks at them."""
    return [arrow(body=b"index_name" + bytes([number]) * size) for number in range(count)]


async def test_newest_first(hub: Hub) -> None:
    """What is pinned, what comes, and then, block by block and once, what was there."""
    old, static = temporal(7, 500_000), arrow()
    one = opened(hub, stream(store_info(), *old[:3], static, *old[3:]))
    feed = hub.feed(whole(one))
    await feed.newest_first()
    assert feed.lag()[0] == 7
    live = temporal(2, 100)
    append(hub, one, *live)
    backwards = [old[6], *old[4:6], *old[2:4], *old[:2]]
    assert await taken(feed) == frames.payloads([store_info(), static, *live, *backwards])
    assert feed.lag() == (0, 0)
    assert feed.caught_up
    assert feed.delivered_messages == one.messages
    append(hub, one, *live)
    assert await taken(feed) == frames.payloads(live)


async def test_newest_first_has_no_position_while_history_is_left(hub: Hub) -> None:
    """Who would go on from one would never get the rest of it."""
    one = opened(hub, stream(store_info(), *temporal(4, 600_000)))
    feed = hub.feed(whole(one))
    await feed.newest_first()
    while not feed.caught_up:
        assert feed.cursors() == {}
        assert not feed.finished
        assert await feed.take() is not None
    assert feed.cursors()[one.id].messages == 5


async def test_newest_first_of_a_log_that_is_written_anew(hub: Hub) -> None:
    every = [store_info(), *temporal(4, 600_000), arrow()]
    one = opened(hub, stream(*every[:-1]))
    feed = hub.feed(whole(one))
    await feed.newest_first()
    append(hub, one, every[-1])
    assert await feed.take() is not None
    one.generation += 1
    assert set(await taken(feed)) == set(frames.payloads(every))


def large_statics(count: int) -> list[bytes]:
    """So large that each is a batch of its own."""
    return [arrow(body=bytes([number]) * 600_000) for number in range(count)]


async def test_a_position_before_all_that_is_pinned_is_delivered(hub: Hub) -> None:
    """Who goes on from it gets what is pinned once more, what came since the skip, and nothing else."""
    statics, old, live = large_statics(3), temporal(3, 100), temporal(2, 200)
    one = opened(hub, stream(store_info(), *statics, *old))
    feed = hub.feed(whole(one))
    assert await feed.skip_to_now() == 3
    append(hub, one, *live)
    for _ in range(3):
        place = feed.cursors()
        assert place[one.id].skipped
        again = hub.feed(whole(one))
        again.seek(place)
        assert not again.caught_up
        assert again.cursors() == place
        assert await taken(again) == frames.payloads([store_info(), *statics, *live])
        assert await feed.take() is not None
    assert feed.cursors()[one.id].skipped == 0
    assert await taken(feed) == frames.payloads(live)


async def test_a_position_in_a_log_that_is_written_anew(hub: Hub) -> None:
    every = [store_info(), *large_statics(2), *temporal(2, 100)]
    one = opened(hub, stream(*every))
    feed = hub.feed(whole(one))
    await feed.skip_to_now()
    place = feed.cursors()
    one.generation += 1
    feed.seek(place)
    assert await taken(feed) == frames.payloads(every)


@pytest.mark.parametrize("resumed", [False, True])
async def test_skipping_twice(hub: Hub, resumed: bool) -> None:
    """What is pinned and was not delivered before the second time is not lost."""
    statics, more = large_statics(3), arrow()
    one = opened(hub, stream(store_info(), *statics, *temporal(2, 100)))
    feed = hub.feed(whole(one))
    await feed.skip_to_now()
    if resumed:
        feed.seek(feed.cursors())
    append(hub, one, *temporal(2, 200), more)
    assert await feed.skip_to_now() == 2
    assert await taken(feed) == frames.payloads([store_info(), *statics, more])


async def test_what_is_pinned_in_a_log_that_is_gone_is_not_waited_for(hub: Hub) -> None:
    one = await ended(hub, stream(store_info(), *large_statics(2)))
    feed = hub.feed(whole(one))
    await feed.skip_to_now()
    place = feed.cursors()
    hub.forget(one)
    assert feed.caught_up
    feed.seek(place)
    assert feed.caught_up
    assert feed.cursors() == {}


@pytest.mark.parametrize(("seconds", "left"), [(0.5, 1), (1.0, 2), (3.5, 4), (100.0, 5)])
async def test_the_last_seconds(hub: Hub, seconds: float, left: int) -> None:
    """Counted back from the newest message; what is pinned before is delivered first, later it has its place."""
    chunks = [arrow(made=1000.0 + number, body=bytes([number])) for number in range(5)]
    early, late = arrow(made=900.0, static=True), arrow(made=1004.0, static=True)
    one = opened(hub, stream(store_info(), early, *chunks, late))
    feed = hub.feed(whole(one))
    assert await feed.skip_to(await feed.last_seconds(seconds)) == 5 - left
    assert not feed.caught_up
    assert await taken(feed) == frames.payloads([store_info(), early, *chunks[5 - left :], late])
    assert feed.lag() == (0, 0)
    later = arrow(made=1005.0)
    append(hub, one, later)
    assert await taken(feed) == frames.payloads([later])


async def last(feed: Feed, seconds: float) -> list[tuple[int, bytes]]:
    await feed.skip_to(await feed.last_seconds(seconds))
    return await taken(feed)


async def test_the_last_seconds_of_what_is_selected(hub: Hub) -> None:
    one = opened(hub, stream(*numbered(0, "a"), *numbered(0, "b"), arrow("a", made=10.0), arrow("a", made=20.0),
                             arrow("b", made=50.0)))
    feed = hub.feed(Selection("a", recordings=frozenset([RecordingKey("app", "a")])))
    assert await last(feed, 5.0) == frames.payloads([store_info("a"), arrow("a", made=20.0)])
    assert one.messages == 5


async def test_the_last_seconds_where_nothing_has_a_time(hub: Hub) -> None:
    """Better all than nothing."""
    every = [store_info(), arrow(body=b"index_name"), arrow(body=b"static")]
    assert await last(hub.feed(whole(opened(hub, stream(*every)))), 5.0) == frames.payloads(every)


async def test_the_last_seconds_of_programs_whose_clocks_differ(hub: Hub) -> None:
    one = opened(hub, stream(store_info("a"), *(arrow("a", made=float(time)) for time in range(10))))
    two = opened(hub, stream(store_info("b"), *(arrow("b", made=1e6 + time) for time in range(10))))
    mine = [store_info("a"), *(arrow("a", made=float(time)) for time in range(7, 10))]
    theirs = [store_info("b"), *(arrow("b", made=1e6 + time) for time in range(7, 10))]
    assert sorted(await last(hub.feed(whole(one, two)), 2.5)) == sorted(frames.payloads([*mine, *theirs]))


async def test_who_ended_before_has_so_much_less_of_the_last_seconds(hub: Hub) -> None:
    """By this machine's clock: one ended two seconds before the other, one an hour."""
    ages = {"now": 0.0, "before": 2.0, "old": 3600.0}
    streams = []
    for name, age in ages.items():
        one = await ended(hub, stream(store_info(name), *(arrow(name, made=float(time)) for time in range(10))))
        one.meta.ended_at = 1_000_000 - age
        streams.append(one)
    left = {"now": range(4, 10), "before": range(6, 10), "old": range(0)}
    wanted = [part for name, times in left.items() for part in
              (store_info(name), *(arrow(name, made=float(time)) for time in times))]
    assert sorted(await last(hub.feed(whole(*streams)), 5.5)) == sorted(frames.payloads(wanted))


async def test_the_last_seconds_are_those_of_one_moment(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes while a long log is walked moves nothing."""
    one, two = (opened(hub, stream(store_info(name), *(arrow(name, made=float(time)) for time in range(10))))
                for name in ("a", "b"))
    ends = {each.id: each.data_end for each in (one, two)}
    look = Feed._look

    async def slow(feed: Feed, which: Stream, walk: Any) -> Any:
        found = await look(feed, which, walk)
        for name, each in (("a", one), ("b", two)):
            append(hub, each, *(arrow(name, made=100.0 + time) for time in range(10)))
        return found

    monkeypatch.setattr(Feed, "_look", slow)
    found = await hub.feed(whole(one, two)).last_seconds(2.5)
    assert {name: window.end for name, window in found.items()} == ends
    assert {window.since for window in found.values()} == {6_500_000_000}


async def test_a_long_walk_can_be_stopped(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "SLICE_S", 0.0)
    one = opened(hub, stream(store_info(), *(arrow(made=float(time)) for time in range(10))))
    with trio.move_on_after(0.2) as scope:
        await hub.feed(whole(one)).last_seconds(1.0)
    assert scope.cancelled_caught


async def test_next_waits_and_ends(hub: Hub, nursery: trio.Nursery) -> None:
    one = opened(hub)
    feed = hub.feed(whole(one))
    got: list[Batch | None] = []

    async def read() -> None:
        while True:
            got.append(await feed.next())
            if got[-1] is None:
                return

    nursery.start_soon(read)
    await trio.testing.wait_all_tasks_blocked()
    assert got == []
    append(hub, one, stream(*numbered(1)), arrow()[:-1])
    await trio.testing.wait_all_tasks_blocked()
    assert [len(batch.frames) for batch in got if batch] == [2]
    append(hub, one, arrow()[-1:], frames.BARE_END)
    await trio.testing.wait_all_tasks_blocked()
    assert [len(batch.frames) for batch in got if batch] == [2, 1]
    hub.end_stream(one, "test")
    await completed(hub, one)
    await trio.testing.wait_all_tasks_blocked()
    assert got[-1] is None


async def test_a_live_selection_never_ends(hub: Hub) -> None:
    feed = hub.feed(Selection("@live", live_since=0.0))
    one = await ended(hub, stream(*numbered(1), end="sealed"))
    assert len(await taken(feed)) == 2
    assert not feed.finished
    two = opened(hub, stream(*numbered(2)))
    assert len(await taken(feed)) == 3
    assert feed.streams() == [one, two]


@pytest.mark.parametrize("max_bytes", [1, 100, 1000, 5000, 1 << 20])
async def test_batches_are_as_large_as_was_said(hub: Hub, max_bytes: int) -> None:
    """A longer frame comes alone."""
    parts = [*numbered(20), arrow(body=bytes(3000)), *numbered(3), arrow(body=bytes(90_000)), arrow()]
    one = opened(hub, stream(*parts))
    feed, found = hub.feed(whole(one)), []
    while (batch := await feed.take(max_bytes)) is not None:
        assert len(batch.frames) == 1 or sum(frame.length for frame in batch.frames) <= max_bytes
        assert batch.size == sum(length for _, length in batch.ranges())
        found += [(frame.kind, batch.payload(frame)) for frame in batch.frames]
    assert found == frames.payloads(parts)


async def test_only_what_is_selected(hub: Hub) -> None:
    mine = [store_info("a"), arrow("a"), arrow("bp", kind=BLUEPRINT), arrow("a", body=b"last")]
    parts = [mine[0], store_info("b"), mine[1], *[arrow("b", body=bytes(2000))] * 5, mine[2], arrow("b"), mine[3],
             arrow("x", "elsewhere"), arrow("bp", "elsewhere", kind=BLUEPRINT)]
    one = opened(hub, stream(*parts))
    for max_bytes in (1, 500, 1 << 20):
        feed = hub.feed(Selection("a", recordings=frozenset([RecordingKey("app", "a")])))
        assert feed.lag() == (4, sum(map(len, mine)))
        assert await taken(feed, max_bytes) == frames.payloads(mine)
        assert feed.lag() == (0, 0)
        assert feed.cursors()[one.id].messages == 4


async def test_what_is_left_out_does_not_hold_up_the_loop(
    hub: Hub, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much of a log lies before the next frame that is selected, others get their turn."""
    others = [store_info("b"), *[arrow("b")] * 5000]
    opened(hub, stream(store_info("a"), *others, arrow("a")))
    two = opened(hub, stream(*numbered(3, "a")))
    monkeypatch.setattr("daemon.feed.HOLD_S", 0.0)
    turns = 0

    async def somebody_else() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    nursery.start_soon(somebody_else)
    feed = hub.feed(Selection("a", recordings=frozenset([RecordingKey("app", "a")])))
    expected = [*frames.payloads([store_info("a"), arrow("a")]), *frames.payloads(numbered(3, "a"))]
    assert sorted(await taken(feed)) == sorted(expected)
    assert feed.caught_up
    assert turns >= len(others)
    # The log that has something is not kept waiting by the one that has not.
    feed.rewind()
    first = [batch.stream for _ in range(5) if (batch := await feed.take()) is not None]
    assert first.count(two) == 4


async def test_nobody_who_is_cancelled_loses_a_frame(hub: Hub) -> None:
    feed = hub.feed(whole(opened(hub, stream(*numbered(3)))))
    with trio.CancelScope() as scope:
        scope.cancel()
        await feed.next()
    assert scope.cancelled_caught
    assert await taken(feed) == frames.payloads(numbered(3))


async def test_delivered_logs_are_not_opened_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A selection of thousands of logs costs nothing but looking at their sizes when one of them grows."""
    done = [await ended(hub, stream(*numbered(1, f"r{number}"), end="sealed")) for number in range(3)]
    one = opened(hub, stream(*numbered(1)))
    feed = hub.feed(whole(*done, one))
    assert len(await taken(feed)) == 8
    for stream_ in done:
        stream_.path.unlink()
        hub.readers.drop(stream_.path)
    append(hub, one, arrow())
    assert len(await taken(feed)) == 1


async def test_logs_take_turns(hub: Hub) -> None:
    logs = [opened(hub, stream(*numbered(50, f"rec-{name}"))) for name in "abc"]
    feed = hub.feed(whole(*logs))
    turns = [batch.stream for _ in range(9) if (batch := await feed.take(200)) is not None]
    assert turns == logs * 3


async def test_seek_and_rewind(hub: Hub) -> None:
    one, two = opened(hub, stream(*numbered(20))), opened(hub, stream(*numbered(7, "b")))
    feed = hub.feed(whole(one, two))
    first = [await feed.take(300), await feed.take(300)]
    place = feed.cursors()
    rest = await taken(feed)
    again = hub.feed(whole(one, two))
    again.seek({**place, "gone": place[one.id]})
    assert again.delivered_messages == sum(len(batch.frames) for batch in first if batch)
    assert sorted(await taken(again)) == sorted(rest)
    again.rewind()
    assert len(await taken(again)) == again.delivered_messages == 29


async def test_a_batch_outlives_its_log(hub: Hub) -> None:
    """Completed, written anew, forgotten: what a batch names can be read."""
    parts = real((1, 2))
    one = opened(hub, stream(*parts, end="bare"), stream(*real((3,))))
    feed = hub.feed(whole(one))
    batch = await feed.take()
    assert batch is not None
    data = batch.read()
    generation = one.generation
    hub.end_stream(one, "test")
    await completed(hub, one)
    assert one.generation != generation
    assert batch.read() == data
    hub.forget(one)
    assert batch.read() == data


async def test_a_log_that_was_written_anew_is_read_again(hub: Hub) -> None:
    """What was left out of it cannot be known, so nothing may be taken as delivered."""
    one = opened(hub, stream(*real((1, 2)), end="bare"), stream(*real((3, 4))))
    feed = hub.feed(whole(one))
    assert await feed.take(1500) is not None
    hub.end_stream(one, "test")
    await completed(hub, one)
    assert await taken(feed) == frames.payloads(real((1, 2, 3, 4)))
    assert feed.finished


@pytest.mark.parametrize("numbers", [range(30), range(2)])
async def test_a_file_that_was_changed_in_place_is_read_again(hub: Hub, tmp_path: Path, numbers: range) -> None:
    """Grown or shrunk, and another verb has opened it since."""
    path = frames.write(tmp_path / "f.rrd", stream(*real(range(3))))
    feed = hub.feed(whole(await hub.open_file(path)))
    assert await taken(feed) == frames.payloads(real(range(3)))
    assert feed.finished
    path.write_bytes(stream(*real(numbers)))
    await hub.open_file(path)
    assert not feed.caught_up
    assert await taken(feed) == frames.payloads(real(numbers))
    assert feed.finished
    assert feed.lag() == (0, 0)


async def test_a_damaged_log_is_the_disks_fault(hub: Hub) -> None:
    one = opened(hub, stream(*numbered(3)))
    feed = hub.feed(whole(one))
    os.pwrite(one.fd(), b"\xff" * 16, 12)
    with pytest.raises(OSError, match="log is damaged: not a frame"):
        await feed.take()
    two = opened(hub, stream(*numbered(3)))
    other = hub.feed(whole(two))
    batch = await other.take()
    assert batch is not None
    os.ftruncate(two.fd(), 40)
    with pytest.raises(OSError, match="shorter than it was"):
        batch.read()


async def test_many_ended_logs_need_few_descriptors(hub: Hub) -> None:
    for number in range(90):
        frames.write(hub.directory / f"log-{number:03}.rrd", stream(*numbered(1, f"r{number}"), end="sealed"))
    hub.load()
    for one in hub.unfinished():
        hub.end_stream(one, "found")
    for one in list(hub.streams.values()):
        await completed(hub, one)
    before = len(os.listdir("/proc/self/fd"))
    feed = hub.feed(whole(*hub.streams.values()))
    assert len(await taken(feed)) == 180
    assert len(os.listdir("/proc/self/fd")) - before <= 70


async def test_history_comes_in_blocks_that_are_quickly_walked(hub: Hub) -> None:
    one = opened(hub, stream(*numbered(0), *temporal(1, 10) * 5000))
    feed = hub.feed(whole(one))
    await feed.newest_first()
    sizes = []
    while (batch := await feed.take()) is not None:
        sizes.append(len(batch.frames))
    assert max(sizes) <= BLOCK_FRAMES
    assert sum(sizes) == 5001


class SpoolMachine(RuleBasedStateMachine):
    """Append, cut, reopen and read in any order: a list is the model.

    `sent` is what a program writes, byte after byte; the log has a prefix of it, and readers must get just the frames
    that are whole in that prefix, once each, whatever dies in between.
    """

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.hub = make_hub(Path(self.directory.name))
        self.stream = self.hub.open_stream(kind="shim")
        self.sent = b""
        self.written = 0
        self.feed = self.hub.feed(whole(self.stream))
        self.read: list[tuple[int, bytes]] = []
        self.saved = (self.feed.cursors(), 0)

    @rule(count=st.integers(0, 4), size=st.sampled_from([0, 5, 400, 70_000]),
          end=st.sampled_from(["", "bare", "sealed"]))
    def program_logs(self, count: int, size: int, end: str) -> None:
        self.sent = self.sent or stream()
        self.sent += b"".join(arrow(body=bytes([len(self.sent) % 251]) * size) for _ in range(count))
        if end == "bare":
            self.sent += frames.BARE_END
        elif end == "sealed":
            self.sent += frames.sealed(len(self.sent))

    @precondition(lambda self: self.written < len(self.sent))
    @rule(share=st.floats(0, 1), pieces=st.integers(1, 3))
    def append(self, share: float, pieces: int) -> None:
        until = self.written + max(1, int(share * (len(self.sent) - self.written)))
        step = max(1, (until - self.written) // pieces)
        while self.written < until:
            piece = self.sent[self.written : min(until, self.written + step)]
            append(self.hub, self.stream, piece)
            self.written += len(piece)

    @rule(max_bytes=st.sampled_from([1, 100, 1000, 1 << 20]), batches=st.integers(1, 4))
    def some_are_read(self, max_bytes: int, batches: int) -> None:
        for _ in range(batches):
            batch = trio.run(self.feed.take, max_bytes)
            if batch is None:
                break
            self.read += [(frame.kind, batch.payload(frame)) for frame in batch.frames]

    @rule()
    def reader_saves(self) -> None:
        self.saved = (self.feed.cursors(), len(self.read))

    @rule()
    def reader_dies(self) -> None:
        self.feed = self.hub.feed(whole(self.stream))
        self.feed.seek(self.saved[0])
        del self.read[self.saved[1] :]

    @rule()
    def daemon_dies(self) -> None:
        self.stream.close()
        self.hub = make_hub(Path(self.directory.name))
        self.hub.load()
        self.stream = next(iter(self.hub.streams.values()))
        trio.run(self.hub.take_up, self.stream)
        self.reader_dies()

    @rule()
    def everything_is_read(self) -> None:
        self.read += trio.run(taken, self.feed)
        assert self.read == frames.frames_of(self.sent[: self.written])
        assert self.feed.caught_up

    @invariant()
    def what_is_read_is_what_was_sent(self) -> None:
        model = frames.frames_of(self.sent[: self.written])
        assert self.read == model[: len(self.read)]
        assert self.stream.messages == len(model)
        assert self.feed.lag()[0] == len(model) - len(self.read)
        assert self.stream.data_end <= self.stream.committed <= self.stream.size == self.written
        assert self.stream.path.read_bytes() == self.sent[: self.written]
        assert not self.stream.error

    def teardown(self) -> None:
        self.stream.close()
        self.directory.cleanup()


TestSpool = SpoolMachine.TestCase
TestSpool.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from daemon.hub import FILES_KEPT_S, Hub
from daemon.selection import Selection
from daemon.sinks.runner import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    KEPT_DONE,
    Sink,
    SinkFailed,
    SinkRetry,
    SinkSet,
    describe,
)
from tests.helpers import frames

NOTHING = Selection("nothing")


class Paper(Sink):
    """Does what it is told."""

    kind = "paper"

    def __init__(self, hub: Hub, script: list[Any] | None = None, *, target: str = "/t", id: str = "") -> None:  # noqa: A002
        super().__init__(hub, NOTHING, target, id=id)
        self.script = script or []
        self.tried: list[float] = []
        self.tidied = 0
        self.on_detached: Callable[[], None] = lambda: None

    async def deliver(self) -> None:
        self.tried.append(trio.current_time())
        step = self.script.pop(0) if self.script else "wait"
        if step == "follow":
            self.following()
            step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        if step == "wait":
            self.following()
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    async def detached(self) -> None:
        self.tidied += 1
        await trio.lowlevel.checkpoint()
        self.on_detached()

    def options(self) -> dict[str, Any]:
        return {"colour": "blue"}

    @classmethod
    def restore(cls, hub: Hub, selection: Selection, target: str, id: str,  # noqa: A002
                options: Mapping[str, Any]) -> Paper:
        assert options["colour"].upper() == "BLUE"
        return cls(hub, target=target, id=id)


@pytest.fixture
async def sinks(hub: Hub, tmp_path: Path) -> AsyncIterator[SinkSet]:
    (tmp_path / "sinks").mkdir()
    async with trio.open_nursery() as nursery:
        yield SinkSet(hub, tmp_path / "sinks", nursery, {"paper": Paper})
        nursery.cancel_scope.cancel()


def files(sinks: SinkSet) -> list[str]:
    return sorted(path.stem for path in sinks.directory.iterdir())


async def test_complete(hub: Hub, sinks: SinkSet) -> None:
    sink = Paper(hub, ["end"])
    assert sink.state == "starting"
    sinks.add(sink)
    assert files(sinks) == [sink.id]
    assert sinks.active() == [sink]
    await sink.done.wait()
    assert (sink.state, files(sinks), sinks.active()) == ("complete", [], [])
    assert sinks.sinks == {sink.id: sink}


async def test_no_two_have_one_id(hub: Hub, sinks: SinkSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of one that is done either, nor that of a file which could not be restored."""
    drawn = iter(["0001", "0001", "0001", "0002", "0003", "0001", "0004"])
    monkeypatch.setattr("daemon.sinks.runner.secrets.token_hex", lambda _: next(drawn))
    (sinks.directory / "paper-0003.json").write_text("from another day")
    complete, second, third = Paper(hub, ["end"]), Paper(hub), Paper(hub)
    sinks.add(complete)
    await complete.done.wait()
    sinks.add(second)
    sinks.add(third)
    assert list(sinks.sinks) == ["paper-0001", "paper-0002", "paper-0004"]
    assert files(sinks) == ["paper-0002", "paper-0003", "paper-0004"]
    await sinks.detach(third)
    assert (sinks.active(), files(sinks)) == ([second], ["paper-0002", "paper-0003"])


async def test_failed(hub: Hub, sinks: SinkSet, caplog: pytest.LogCaptureFixture) -> None:
    sink = Paper(hub, [SinkFailed("it is broken")])
    sinks.add(sink)
    await sink.done.wait()
    assert (sink.state, sink.last_error, files(sinks)) == ("failed", "it is broken", [])
    assert "it is broken" in caplog.text


async def test_a_bug_in_one_is_not_the_others_end(
    hub: Hub, sinks: SinkSet, caplog: pytest.LogCaptureFixture
) -> None:
    other, sink = Paper(hub), Paper(hub, ["follow", ZeroDivisionError("a bug")])
    sinks.add(other)
    sinks.add(sink)
    await sink.done.wait()
    assert sink.state == "failed"
    assert sink.last_error.startswith("a bug in rrd: ZeroDivisionError('a bug')")
    assert "Traceback" in caplog.text
    assert files(sinks) == [other.id]  # not restored: the next daemon would meet it again
    assert other.state == "following"
    await sinks.detach(other)
    assert other.state == "detached"


async def test_retried_ever_more_slowly(
    hub: Hub, sinks: SinkSet, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    full = [OSError(28, "No space left", "/disk")] * 8
    sink = Paper(hub, [*full, SinkRetry("busy"), "follow", SinkRetry("again"), "end"])
    sinks.add(sink)
    await sink.done.wait()
    assert sink.state == "complete"
    gaps = [round(after - before, 3) for before, after in zip(sink.tried, sink.tried[1:], strict=False)]
    doubling = [min(BACKOFF_FIRST_S * 2**n, BACKOFF_MAX_S) for n in range(9)]
    assert gaps == [*map(pytest.approx, doubling), pytest.approx(BACKOFF_FIRST_S)]  # it had worked in between
    assert caplog.text.count("No space left: /disk; trying again") == 1


async def test_what_is_shown(hub: Hub, sinks: SinkSet) -> None:
    sink = Paper(hub, [SinkRetry("not yet")])
    sinks.add(sink)
    await trio.testing.wait_all_tasks_blocked()
    shown = sink.status()
    assert (shown["state"], shown["last_error"]) == ("retrying", "not yet")
    assert list(shown) == ["id", "kind", "target", "state", "source", "lag_messages", "lag_bytes", "delivered_messages",
                           "skipped_messages", "last_error", "created_at"]


async def test_detach(hub: Hub, sinks: SinkSet) -> None:
    sink = Paper(hub)
    sinks.add(sink)
    await trio.testing.wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(sinks.detach, sink)
    await sinks.detach(sink)
    assert (sink.state, sink.tidied, files(sinks)) == ("detached", 1, [])


async def test_detach_that_does_not_work(hub: Hub, sinks: SinkSet) -> None:
    def broken() -> None:
        raise OSError(5, "Input/output error", "/t")

    sink = Paper(hub)
    sink.on_detached = broken
    sinks.add(sink)
    with pytest.raises(OSError, match="Input"):
        await sinks.detach(sink)
    assert (sink.state, sink.last_error, files(sinks)) == ("detached", "Input/output error: /t", [])


async def test_two_detach_one_that_completes(hub: Hub, sinks: SinkSet) -> None:
    """In the same moment, and nothing else happens that would wake the second; whose turn is first is chance."""
    for _ in range(20):
        sink, ending, end = Paper(hub), trio.Event(), trio.Event()

        async def at_its_end(ending: trio.Event = ending, end: trio.Event = end) -> None:
            with trio.CancelScope(shield=True):
                ending.set()
                await end.wait()

        sink.deliver = at_its_end  # type: ignore[method-assign]
        sinks.add(sink)
        await ending.wait()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(sinks.detach, sink)
                await trio.testing.wait_all_tasks_blocked()
                end.set()
        assert (sink.state, sink.tidied) == ("complete", 0)


async def test_a_detach_that_is_given_up(hub: Hub, sinks: SinkSet) -> None:
    """Who waits for the same sink then has it detached after all."""
    sink = Paper(hub)
    sinks.add(sink)
    await trio.testing.wait_all_tasks_blocked()
    tidying = trio.Event()

    async def slow() -> None:
        tidying.set()
        await trio.sleep_forever()

    quick, sink.detached = sink.detached, slow  # type: ignore[method-assign]
    async with trio.open_nursery() as others:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sinks.detach, sink)
            await tidying.wait()
            others.start_soon(sinks.detach, sink)
            await trio.testing.wait_all_tasks_blocked()
            sink.detached = quick  # type: ignore[method-assign]
            nursery.cancel_scope.cancel()
        assert (sink.state, files(sinks)) == ("following", [sink.id])
    assert (sink.state, sink.tidied, files(sinks)) == ("detached", 1, [])


async def test_a_detach_that_is_given_up_lets_it_go_on(hub: Hub, sinks: SinkSet) -> None:
    sink = Paper(hub)
    sinks.add(sink)
    await trio.testing.wait_all_tasks_blocked()
    with trio.CancelScope() as scope:
        scope.cancel()
        await sinks.detach(sink)
    await trio.testing.wait_all_tasks_blocked()
    assert (len(sink.tried), sinks.active(), files(sinks)) == (2, [sink], [sink.id])


async def test_one_that_completes_while_it_is_detached(hub: Hub, sinks: SinkSet) -> None:
    sink = Paper(hub, ["end"])
    sinks.add(sink)
    await sinks.detach(sink)
    assert sink.done.is_set()
    assert sink.state in ("complete", "detached")


async def test_they_survive_the_daemon(hub: Hub, sinks: SinkSet, nursery: trio.Nursery) -> None:
    sink = Paper(hub, target="/some/where")
    sinks.add(sink)
    again = SinkSet(hub, sinks.directory, nursery, {"paper": Paper})
    again.restore()
    (other,) = again.active()
    assert (other.id, other.target, other.selection, other.created_at) == \
        (sink.id, "/some/where", NOTHING, sink.created_at)
    await again.detach(other)
    assert files(sinks) == []


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", {"kind": "unknown"}, {"options": {}}, {"selection": {}},
                                    {"created_at": "long ago"}, "[" * 100_000, {"created_at": 9**999},
                                    {"selection": NOTHING.to_json() | {"live_since": []}},
                                    {"options": {"colour": ["blue"]}}])
async def test_a_damaged_file_is_left_out(
    hub: Hub, sinks: SinkSet, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Paper(hub)
    sinks._save(sink)
    path = sinks.directory / f"{sink.id}.json"
    path.write_text(damage if isinstance(damage, str) else json.dumps(json.loads(path.read_text()) | damage))
    sinks.restore()
    assert sinks.active() == []
    assert f"cannot restore sink {sink.id}" in caplog.text


async def test_one_that_cannot_be_kept_is_not_taken_in(hub: Hub, sinks: SinkSet) -> None:
    sinks.directory.rmdir()
    with pytest.raises(FileNotFoundError):
        sinks.add(Paper(hub))
    assert sinks.sinks == {}


async def test_those_that_are_done_are_listed_for_a_while(hub: Hub, sinks: SinkSet) -> None:
    for _ in range(KEPT_DONE + 5):
        sink = Paper(hub, ["end"])
        sinks.add(sink)
        await sink.done.wait()
    assert len(sinks.sinks) == KEPT_DONE


async def test_files_that_are_read_in_place_are_let_go_of(
    hub: Hub, sinks: SinkSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock
) -> None:
    start = time.monotonic()
    monkeypatch.setattr("daemon.hub.time.monotonic", lambda: start + trio.current_time())
    one, two = [await hub.open_file(frames.write(tmp_path / f"{name}.rrd", frames.stream(*frames.numbered(1))))
                for name in "ab"]
    done, going_on = Paper(hub, ["end"]), Paper(hub)
    done.selection = Selection("both", streams=frozenset([one.id, two.id]))
    going_on.selection = Selection("one", streams=frozenset([one.id]))
    for sink in (going_on, done):
        sinks.add(sink)
    await done.done.wait()
    assert set(hub.streams) == {one.id, two.id}  # `save` still wants to say what was wrong with them
    await trio.sleep(FILES_KEPT_S + 1)
    assert set(hub.streams) == {one.id}
    await sinks.detach(going_on)
    await trio.sleep(FILES_KEPT_S + 1)
    assert hub.streams == {}


@pytest.mark.parametrize(("error", "text"), [
    (OSError(28, "No space", "/disk"), "No space: /disk"), (OSError(28, "No space"), "No space"),
    (SinkRetry("busy"), "busy"), (SinkRetry(), "SinkRetry"), (OSError("odd"), "odd"),
])
def test_describe(error: Exception, text: str) -> None:
    assert describe(error) == text

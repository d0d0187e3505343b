from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon.control.verbs import detach
from daemon.sinks.file import FileSink
from tests.daemon.conftest import FULL, Core, append, ended, opened, real
from tests.helpers import frames
from tests.helpers.frames import stream

OPEN = stream(*real(range(5)))


async def saved(core: Core, path: Path, **args: Any) -> FileSink:
    answer = await core.say("save", path=str(path), **args)
    sink = core.daemon.sinks.sinks[answer["sink"]["id"]]
    assert isinstance(sink, FileSink)
    return sink


async def test_by_id_by_target_and_all(core: Core, tmp_path: Path) -> None:
    opened(core.hub, OPEN)
    sinks = [await saved(core, tmp_path / f"{name}.rrd") for name in "abcd"]
    for name, gone in ((sinks[0].id, sinks[:1]), (sinks[1].target, sinks[1:2]), ("all", sinks[2:])):
        answer = await core.say("detach", sink=name)
        assert [(one["id"], one["state"]) for one in answer["sinks"]] == [(one.id, "detached") for one in gone]
    assert await core.say("detach", sink="all") == {"sinks": []}
    for sink in sinks:
        assert frames.frames_of(sink.path.read_bytes()) == frames.payloads(real(range(5)))


async def test_what_is_not_there(core: Core, tmp_path: Path) -> None:
    assert await core.refused("detach", sink="x") == (
        "not-found", "no output is called x", "outputs that are active: none")
    one = await ended(core.hub, OPEN)
    done = await saved(core, tmp_path / "a.rrd", stream=one.id)
    opened(core.hub, OPEN)
    sink = await saved(core, tmp_path / "b.rrd", source=["@live"])
    assert await core.refused("detach", sink="x") == (
        "not-found", "no output is called x", f"outputs that are active: {sink.id}")
    assert await core.refused("detach", sink=done.id) == (
        "not-found", f"sink {done.id} is complete already", "rrd status lists the outputs")
    assert (await core.refused("detach"))[:2] == ("usage", "detach: sink must be a text, found None")


async def test_a_file_that_cannot_be_completed(core: Core, tmp_path: Path) -> None:
    async def full(path: Path) -> dict[str, Any]:
        raise FULL

    opened(core.hub, OPEN)
    sink = await saved(core, tmp_path / "a.rrd")
    core.hub.finish = full
    assert await core.refused("detach", sink=sink.id) == (
        "failed", f"sink {sink.id} is detached, its file is not complete: No space left on device",
        f"rrd recover {sink.target}")


async def test_how_far_it_is(core: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to a long log is copied first: that can be seen, and given up."""
    monkeypatch.setattr(detach, "PROGRESS_S", 0.0)
    monkeypatch.setattr("daemon.sinks.file.STEP", 100)
    one = opened(core.hub, OPEN)
    sink = await saved(core, tmp_path / "a.rrd", stream=one.id)
    usual, finishing = core.hub.finish, trio.Event()

    async def never(path: Path) -> dict[str, Any]:
        finishing.set()
        await trio.sleep_forever()
        raise AssertionError

    core.hub.finish = never
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: core.say("detach", sink=sink.id))
        await finishing.wait()
        nursery.cancel_scope.cancel()  # Ctrl-C: its asker has hung up
    done = [told["done_bytes"] for told in core.client.progress]
    assert done == sorted(done)
    assert len(set(done)) > 5
    assert {(told["sink"], told["target"]) for told in core.client.progress} == {(sink.id, sink.target)}
    assert {told["total_bytes"] for told in core.client.progress} == {len(OPEN)}
    assert sink.path.samefile(one.path)
    assert os.listdir(tmp_path) == ["a.rrd"]
    core.hub.finish = usual
    append(core.hub, one, *real((5,)))
    await core.say("detach", sink=sink.id)
    assert frames.frames_of(sink.path.read_bytes()) == frames.payloads([*real(range(5)), *real((5,))])


async def test_a_stop_of_the_daemon_does_not_wait_for_it(core: Core, tmp_path: Path) -> None:
    async def never(path: Path) -> dict[str, Any]:
        await core.say("stop", force=True)
        await trio.sleep_forever()
        raise AssertionError

    one = opened(core.hub, OPEN)
    sink = await saved(core, tmp_path / "a.rrd", stream=one.id)
    core.hub.finish = never
    core.daemon.nursery.start_soon(lambda: core.say("detach", sink=sink.id))
    with trio.fail_after(30):
        await core.ended.wait()
    assert sink.path.samefile(one.path)
    assert [path.stem for path in core.daemon.sinks.directory.iterdir()] == [sink.id]  # the next daemon goes on with it

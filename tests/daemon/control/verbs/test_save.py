from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from daemon.control.verbs import save
from daemon.hub import FILES_KEPT_S
from daemon.stream import Stream
from tests.daemon.conftest import Core, append, ended, opened, real
from tests.helpers import frames
from tests.helpers.frames import arrow, numbered, sealed, stream

DATA = stream(*real(range(3)))
WHOLE = stream(*real(range(3)), end="sealed")


async def test_of_what_has_ended(core: Core, tmp_path: Path) -> None:
    await ended(core.hub, WHOLE)
    answer = await core.say("save", path=str(tmp_path / "a.rrd"))
    assert (answer["chose"], answer["complete"], answer["warnings"]) == ("the newest recording app/rec", True, [])
    assert (answer["sink"]["state"], answer["sink"]["mode"]) == ("complete", "link")
    assert (tmp_path / "a.rrd").read_bytes() == WHOLE


async def test_of_what_is_live(core: Core, tmp_path: Path) -> None:
    one = opened(core.hub, DATA)
    answer = await core.say("save", path=str(tmp_path / "a.rrd"))
    assert (answer["chose"], answer["complete"]) == ("the live recording app/rec", False)
    assert answer["sink"]["state"] == "following"
    async with trio.open_nursery() as nursery:
        finished: list[bool] = []

        async def wait() -> None:
            finished.append((await core.say("save", path=str(tmp_path / "b.rrd"), wait=True))["complete"])

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert finished == []
        append(core.hub, one, sealed(one.data_end))
        core.hub.end_stream(one, "test")
    assert finished == [True]


async def test_the_last_seconds_of_what_is_live(core: Core, tmp_path: Path) -> None:
    """They are in the file in a moment, whatever goes on."""
    for _ in range(2):
        assert (await core.refused("save", path=str(tmp_path / "x.rrd"), source=["@live"], last=1))[:2] == (
            "not-found", "nothing was logged yet")
        silent = opened(core.hub)
    core.hub.end_stream(silent, "test")
    opened(core.hub, stream(*numbered(0), *(arrow(made=float(second)) for second in range(10))))
    for last, count in ((2.5, 3), (1000, 10)):
        answer = await core.say("save", path=str(tmp_path / f"{count}.rrd"), last=last, wait=True)
        assert (answer["complete"], answer["sink"]["state"]) == (True, "complete")
        assert answer["sink"]["delivered_messages"] == 1 + count
        assert len(frames.frames_of((tmp_path / f"{count}.rrd").read_bytes())) == 1 + count
    for last in (0, -1, 1e12, float("nan")):
        code, message, _ = await core.refused("save", path=str(tmp_path / "x.rrd"), last=last)
        assert (code, message[:14]) == ("usage", "save: last is ")
    assert not (tmp_path / "x.rrd").exists()


async def test_what_it_says_meanwhile(core: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "PROGRESS_S", 0.001)
    one = opened(core.hub, DATA)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: core.say("save", path=str(tmp_path / "a.rrd"), copy=True, wait=True))
        with trio.fail_after(30):
            while not any(told["done_bytes"] == len(DATA) for told in core.client.progress):
                await trio.lowlevel.checkpoint()
        core.hub.end_stream(one, "test")
    assert set(core.client.progress[-1]) == {
        "done_bytes", "total_bytes", "done_messages", "lag_messages", "state", "last_error"}


async def test_warnings(core: Core, tmp_path: Path) -> None:
    one = await ended(core.hub, DATA, arrow()[:-3])
    answer = await core.say("save", path=str(tmp_path / "a.rrd"), stream=one.id)
    cut = len(arrow()) - 3
    assert answer["warnings"] == [
        f"standard input stopped in the middle of a message: its last {cut} bytes are left out"]
    bad = await ended(core.hub, DATA, b"this is no frame at all.....", kind="shim")
    (warning,) = (await core.say("save", path=str(tmp_path / "b.rrd"), stream=bad.id))["warnings"]
    assert warning.startswith(f"stream {bad.id}: ")
    assert warning.endswith(f"at byte {len(DATA)}; everything before it is kept")
    none = await ended(core.hub, b"no stream at all, but long")
    code, message, _ = await core.refused("save", path=str(tmp_path / "c.rrd"), stream=none.id)
    assert (code, message) == ("failed", none.error)
    assert not (tmp_path / "c.rrd").exists()


async def test_files_in_place(core: Core, tmp_path: Path) -> None:
    one, two = [frames.write(tmp_path / f"{name}.rrd", stream(*numbered(1, name), end="sealed")) for name in "ab"]
    answer = await core.say("save", path=str(tmp_path / "m.rrd"), source=[str(one), str(two)])
    assert (answer["chose"], answer["complete"]) == (f"{one} {two}", True)
    assert len(frames.frames_of((tmp_path / "m.rrd").read_bytes())) == 4
    (tmp_path / "text").write_text("just some text, and not so short")
    for source, code, message in (
        (tmp_path / "none.rrd", "not-found", f"file does not exist: {tmp_path / 'none.rrd'}"),
        (tmp_path, "refused", f"is a directory: {tmp_path}"),
    ):
        assert (await core.refused("save", path=str(tmp_path / "x.rrd"), source=[str(source)]))[:2] == (code, message)
    code, message, hint = await core.refused("save", path=str(tmp_path / "x.rrd"), source=[str(tmp_path / "text")])
    assert (code, hint) == ("failed", "rrd info says what is in a file")
    assert "found b'just'" in message
    assert message.endswith(f": {tmp_path / 'text'}")
    assert (await core.refused("save", path=str(one), source=[str(one)], force=True))[:2] == (
        "refused", f"input and output are the same file: {one}")


async def test_files_that_take_long_to_open(
    core: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Those that were opened first are still there when the last one is."""
    files = [frames.write(tmp_path / f"{name}.rrd", stream(*numbered(1, name), end="sealed")) for name in "abc"]
    opening = core.hub.open_file

    async def slowly(path: Path) -> Stream:
        await trio.sleep(0.7 * FILES_KEPT_S)
        return await opening(path)

    monkeypatch.setattr("time.monotonic", trio.current_time)
    monkeypatch.setattr(core.hub, "open_file", slowly)
    # Somebody else's files are let go of meanwhile, again and again.
    async with trio.open_nursery() as nursery:
        async def others() -> None:
            while True:
                await trio.sleep(1)
                core.hub.close_files(frozenset())

        nursery.start_soon(others)
        answer = await core.say("save", path=str(tmp_path / "m.rrd"), source=[str(path) for path in files])
        nursery.cancel_scope.cancel()
    assert answer["complete"]
    assert len(frames.frames_of((tmp_path / "m.rrd").read_bytes())) == 6
    await trio.sleep(2 * FILES_KEPT_S)
    assert core.hub.streams == {}, "and nobody keeps them afterwards"


async def test_where_it_cannot_be(core: Core, tmp_path: Path) -> None:
    one = opened(core.hub, DATA)
    out = tmp_path / "a.rrd"
    assert (await core.refused("save"))[:2] == ("usage", "save: path must be a text, found None")
    assert (await core.refused("save", path="a.rrd"))[:2] == ("usage", "save: path must be absolute, found a.rrd")
    assert (await core.refused("save", path="/a\0"))[:2] == ("usage", "save: path contains a NUL character")
    assert (await core.refused("save", path=str(tmp_path)))[:2] == ("refused", f"output is a directory: {tmp_path}")
    inside = core.hub.directory / "x.rrd"
    assert (await core.refused("save", path=str(inside)))[:2] == ("refused", f"output is inside the spool: {inside}")
    assert await core.refused("save", path=str(tmp_path / "no" / "a.rrd")) == (
        "failed", f"directory does not exist: {tmp_path / 'no'}", f"mkdir -p {tmp_path / 'no'}")
    out.write_text("mine")
    assert await core.refused("save", path=str(out)) == (
        "exists", f"file exists: {out}", "say --force to replace it, or choose another name")
    assert out.read_text() == "mine"
    sink = (await core.say("save", path=str(out), force=True))["sink"]
    assert out.samefile(one.path)
    again = tmp_path / "no" / ".." / "a.rrd"
    assert await core.refused("save", path=str(again), force=True) == (
        "exists", f"sink {sink['id']} is writing this file: {out}", f"rrd detach {sink['id']} ends that")
    assert os.listdir(tmp_path) == ["a.rrd"]


async def test_which_recording(core: Core, tmp_path: Path) -> None:
    out = str(tmp_path / "a.rrd")
    code, message, hint = await core.refused("save", path=out)
    assert (code, message) == ("not-found", "there is no recording yet")
    assert "rrd.attach()" in hint
    one, _ = (opened(core.hub, stream(*numbered(1, name))) for name in ("run-a", "run-b"))
    assert await core.refused("save", path=out) == (
        "ambiguous", "2 recordings are live: app/run-a, app/run-b", "name one, or say @latest or @all")
    assert (await core.refused("save", path=out, source=["run-"]))[0] == "ambiguous"
    assert (await core.refused("save", path=out, source=["@new"]))[:2] == ("usage", "unknown selector @new")
    assert (await core.refused("save", path=out, stream="x"))[:2] == ("not-found", "no such stream: x")
    assert (await core.refused("save", path=out, source="run-a"))[0] == "usage"
    assert not Path(out).exists()
    assert (await core.say("save", path=out, stream=one.id))["chose"] == "run-a"

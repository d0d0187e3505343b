from __future__ import annotations

import itertools
import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from daemon import runs
from daemon.control.verbs import run
from daemon.stream import Stream
from tests.daemon.conftest import Core, append, opened
from tests.helpers import frames
from tests.helpers.frames import numbered, stream

TOKEN = "t0ken"


class Running:
    """The verb `run`, while its program runs."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.token = TOKEN
        self.answer: dict[str, Any] = {}

    async def start(self, nursery: trio.Nursery, *, token: str = TOKEN, **args: Any) -> None:
        async def say() -> None:
            self.answer = await self.core.say("run", token=token, **args)

        self.token = token

        nursery.start_soon(say)
        await self.told("ready")

    async def told(self, key: str) -> Any:
        """The first progress message that has this."""
        with trio.fail_after(30):
            while not (found := [told for told in self.core.client.progress if key in told]):
                await trio.lowlevel.checkpoint()
        return found[0]

    def logs(self, recording: str, application: str = "app") -> Stream:
        """A stream of the program: this process is it, its environment is not."""
        one = opened(self.core.hub, stream(*numbered(2, recording, application)), pid=os.getpid())
        current = self.core.daemon.runs._runs[self.token]
        if one not in current.streams:
            self.core.daemon.runs._take(one, current)
        self.core.hub.reshaped()
        return one


async def test_files_for_what_a_program_logs(core: Core, tmp_path: Path) -> None:
    out = tmp_path / "out.rrd"
    running = Running(core)
    async with trio.open_nursery() as nursery:
        await running.start(nursery, save=str(out))
        assert running.core.client.progress == [{"ready": True, "port": 0, "error": ""}]
        one, two = running.logs("one"), running.logs("two")
        assert (await running.told("file"))["file"] == str(out)
        for each in (one, two):
            core.hub.end_stream(each, "test")
        await core.say("run_end", token=TOKEN)
    assert running.answer["problems"] == []
    assert [(found["recording_id"], found["messages"], found["live"], found["file"])
            for found in running.answer["recordings"]] == [
        ("one", 3, False, str(out)), ("two", 3, False, str(tmp_path / "out-2.rrd"))]
    for name, path in (("one", out), ("two", tmp_path / "out-2.rrd")):
        assert frames.frames_of(path.read_bytes()) == frames.payloads(numbered(2, name))


async def test_another_run_of_the_same_recording_is_not_in_the_file(core: Core, tmp_path: Path) -> None:
    """A program gives each run the same recording id; a run of several processes is still one file."""
    for token, processes in (("first", 1), ("second", 2)):
        running = Running(core)
        core.client.got.clear()
        async with trio.open_nursery() as nursery:
            await running.start(nursery, token=token, save=str(tmp_path / f"{token}.rrd"))
            for one in [running.logs("same") for _ in range(processes)]:
                core.hub.end_stream(one, "test")
            await core.say("run_end", token=token)
        (found,) = running.answer["recordings"]
        written = frames.frames_of((tmp_path / f"{token}.rrd").read_bytes())
        assert len(written) == found["messages"] == 3 * processes


async def test_a_file_that_another_output_is_writing(core: Core, tmp_path: Path) -> None:
    """Whatever --force says: that one would go on, and the run's rows would be nowhere."""
    out = tmp_path / "out.rrd"
    other = opened(core.hub, stream(*numbered(1, "same")))
    running = Running(core)
    async with trio.open_nursery() as nursery:
        await running.start(nursery, save=str(out), force=True)
        sink = (await core.say("save", path=str(out), stream=other.id))["sink"]
        core.hub.end_stream(running.logs("same"), "test")
        said, hint = f"sink {sink['id']} is writing this file: {out}", f"rrd detach {sink['id']} ends that"
        assert (await running.told("problem"))["problem"] == f"{said}   ({hint})"
        await core.say("run_end", token=TOKEN)
    assert [found["file"] for found in running.answer["recordings"]] == [""]
    assert await core.refused("run", token=TOKEN, save=str(out), force=True) == ("exists", said, hint)


async def test_said_again_to_the_next_daemon(core: Core, tmp_path: Path) -> None:
    """Which files were made is sent along: they are not taken for somebody else's."""
    out = tmp_path / "out.rrd"
    running = Running(core)
    out.write_text("made by the daemon before")
    async with trio.open_nursery() as nursery:
        await running.start(nursery, save=str(out), files={"app/one": str(out)})
        one = running.logs("one")
        core.hub.end_stream(one, "test")
        await core.say("run_end", token=TOKEN)
    assert frames.frames_of(out.read_bytes()) == frames.payloads(numbered(2, "one"))


@pytest.mark.parametrize("application", ["org/app", ""])
async def test_a_file_is_found_again_by_its_recordings_label(core: Core, tmp_path: Path, application: str) -> None:
    """A slash in an application's id: the next daemon goes on with the file that was told, and makes no second."""
    out = tmp_path / "out.rrd"
    running = Running(core)
    told: dict[str, str] = {}
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            core.client.got.clear()
            await running.start(nursery, save=str(out), files=told, force=True)
            if not told:
                running.logs("one", application)
            news = await running.told("file")
            nursery.cancel_scope.cancel()
        told = {news["recording"]: news["file"]}
    assert told == {f"{application or '?'}/one": str(out)}
    assert os.listdir(tmp_path) == ["out.rrd"]


async def test_others_that_log_do_not_keep_a_run(
    core: Core, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A stream of it that stays open is waited for only while that one brings something."""
    running = Running(core)
    with trio.move_on_after(20 * run.DRAIN_S) as scope:
        async with trio.open_nursery() as nursery:
            await running.start(nursery)
            one, other = running.logs("one"), opened(core.hub, stream(*numbered(1, "other")))
            await core.say("run_end", token=TOKEN)
            began = trio.current_time()
            for second in itertools.count(1):
                await trio.sleep(1)
                append(core.hub, other, frames.arrow("other"))
                if second == run.DRAIN_S // 2:
                    append(core.hub, one, frames.arrow("one"))
                if running.answer:
                    break
    assert not scope.cancelled_caught
    assert trio.current_time() - began == pytest.approx(1.5 * run.DRAIN_S, abs=2)
    assert running.answer["recordings"][0]["live"]


async def test_a_run_that_logs_nothing(core: Core, tmp_path: Path) -> None:
    await core.say("run_end", token=TOKEN)
    assert await core.say("run", token=TOKEN, save=str(tmp_path / "out.rrd")) == {"recordings": [], "problems": []}
    assert list(tmp_path.iterdir()) == []


class TestPort:
    """Rerun's own, as far as these tests are concerned any that is free."""

    @pytest.fixture(autouse=True)
    def port(self, monkeypatch: pytest.MonkeyPatch) -> int:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        monkeypatch.setattr(runs, "PORT", port)
        monkeypatch.setattr(run, "PORT", port)
        return port

    async def given_up(self, core: Core) -> None:
        with trio.fail_after(30):
            while core.daemon.runs._server is not None:
                await trio.lowlevel.checkpoint()
        assert core.daemon.runs._holders == 0

    async def test_given_up_in_its_first_moment(self, core: Core, port: int) -> None:
        """Whenever it was cancelled, nothing is left that the next run would believe in."""
        for moment in range(8):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(core.say, "run", token="gone", port=True))
                for _ in range(moment):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            await self.given_up(core)
        await self.connects(core, port)

    async def test_given_up_while_another_waits_too(self, core: Core, port: int) -> None:
        async with trio.open_nursery() as nursery, trio.open_nursery() as first:
            first.start_soon(partial(core.say, "run", token="gone", port=True))
            await trio.lowlevel.checkpoint()
            nursery.start_soon(self.connects, core, port)
            await trio.lowlevel.checkpoint()
            first.cancel_scope.cancel()
        await self.given_up(core)

    async def connects(self, core: Core, port: int) -> None:
        running = Running(core)
        async with trio.open_nursery() as nursery:
            await running.start(nursery, port=True)
            assert running.core.client.progress == [{"ready": True, "port": port, "error": ""}]
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            nursery.cancel_scope.cancel()


async def test_what_a_program_saved_by_itself(core: Core, tmp_path: Path) -> None:
    saved = frames.write(tmp_path / "own.rrd", stream(*numbered(2, "own"), end="sealed"))
    await core.say("run_end", token=TOKEN, saved=[str(saved), str(tmp_path / "gone.rrd")])
    out = tmp_path / "out.rrd"
    answer = await core.say("run", token=TOKEN, save=str(out))
    (found,) = answer["recordings"]
    assert (found["recording_id"], found["messages"], found["file"], found["saved"]) == ("own", 3, str(out), str(saved))
    assert frames.frames_of(out.read_bytes()) == frames.payloads(numbered(2, "own"))
    (problem,) = answer["problems"]
    assert problem.startswith("cannot read what the program saved: ")


async def test_an_output_that_cannot_be(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "DRAIN_S", 0.05)
    running = Running(core)
    async with trio.open_nursery() as nursery:
        await running.start(nursery, connect="ftp://nowhere")
        one = running.logs("one")
        assert (await running.told("problem"))["problem"].startswith("connect: ")
        core.hub.end_stream(one, "test")
        await core.say("run_end", token=TOKEN)
    assert len(running.answer["problems"]) == 1


async def test_where_it_cannot_save(core: Core, tmp_path: Path) -> None:
    (tmp_path / "there.rrd").touch()
    for path, error in (
        ("x.rrd", ("refused", "output is not absolute: x.rrd", "")),
        (str(tmp_path), ("refused", f"output is a directory: {tmp_path}", "")),
        (str(tmp_path / "no" / "x.rrd"), (
            "failed", f"directory does not exist: {tmp_path / 'no'}", f"mkdir -p {tmp_path / 'no'}")),
        (str(tmp_path / "there.rrd"), (
            "exists", f"file exists: {tmp_path / 'there.rrd'}",
            "say --force to replace it, or choose another name")),
    ):
        assert await core.refused("run", token=TOKEN, save=path) == error
    assert (await core.refused("run", token="../x"))[:2] == (
        "usage", "run: token must be letters and digits, found '../x'")

"""Which executable is chosen, and how it is started. What comes of it with a real one: tests/integration."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

from daemon.viewers.process import (
    Executable,
    StartFailed,
    Wish,
    arguments,
    behind_launcher,
    candidates,
    choose,
    ends_within,
    environment_of,
    free_port,
    settles,
    start,
    viewer_environment,
)

OLD = Executable("/old/rerun", (0, 31, 4), "PATH")
NEW = Executable("/new/rerun", (0, 41, 0), "PATH")
NEWER = Executable("/newer/rerun", (0, 42, 0), "cargo")
ANCIENT = Executable("/ancient/rerun", (0, 23, 4), "PATH")
MUTE = Executable("/mute/rerun", None, "PATH")


@pytest.mark.parametrize(("found", "streams", "chosen"), [
    ([OLD, NEW], [(0, 41, 0)], NEW),
    ([NEW, NEWER], [(0, 41, 0)], NEW),
    ([OLD, NEW], [(0, 27, 0)], OLD),
    ([OLD, NEW], [], OLD),
    ([OLD, NEW], [(0, 27, 0), (0, 41, 0)], NEW),
    ([ANCIENT, OLD], [(0, 41, 0)], OLD),
    ([OLD, NEW], [(0, 43, 0)], NEW),
    ([MUTE, NEW], [(0, 41, 0)], MUTE),
])
def test_the_first_that_can_show_it_else_the_newest(
    found: list[Executable], streams: list[tuple[int, int, int]], chosen: Executable
) -> None:
    assert choose(found, streams, Wish())[0] is chosen


def test_nothing_fits() -> None:
    with pytest.raises(StartFailed, match="no Rerun viewer is installed"):
        choose([], [], Wish())
    with pytest.raises(StartFailed, match="would drop every message") as caught:
        choose([ANCIENT], [(0, 41, 0)], Wish())
    assert "/ancient/rerun" in caught.value.hint
    with pytest.raises(StartFailed, match="cannot run headless"):
        choose([OLD], [(0, 27, 0)], Wish(headless=True))
    assert choose([OLD, NEW], [(0, 27, 0)], Wish(headless=True))[0] is NEW


def test_pips_launcher_is_seen_through(rerun: Path, tmp_path: Path) -> None:
    launcher = Path(sys.executable).with_name("rerun")
    assert os.path.samefile(behind_launcher(str(launcher)), rerun)
    assert behind_launcher(str(rerun)) == str(rerun)
    other = tmp_path / "rerun"
    other.write_text("#!/bin/sh\nexec something else\n")
    assert behind_launcher(str(other)) == str(other)
    assert behind_launcher(str(tmp_path / "nothing")) == str(tmp_path / "nothing")


def test_where_executables_are_looked_for(rerun: Path, tmp_path: Path) -> None:
    mine = tmp_path / "bin" / "rerun"
    mine.parent.mkdir()
    mine.write_text("#!/bin/sh\necho rerun-cli 0.40.1\n")
    mine.chmod(0o755)
    environment = {"PATH": str(mine.parent), "HOME": str(tmp_path)}
    found = candidates(Wish(), environment, [])
    assert (found[0].path, found[0].version) == (str(mine), (0, 40, 1))
    assert any(os.path.samefile(one.path, rerun) for one in found), "the daemon's own environment is a last resort"
    assert candidates(Wish(), environment | {"RERUN_CLI_PATH": str(rerun)}, [])[0].path == str(rerun)
    (named,) = candidates(Wish(executable=str(mine)), environment, [])
    assert named.path == str(mine)
    with pytest.raises(StartFailed, match="no such executable"):
        candidates(Wish(executable="/nowhere/rerun"), environment, [])


def test_the_command_line() -> None:
    wish = Wish(headless=True, memory_limit="4GB", server_memory_limit="1GB", hide_welcome_screen=True)
    argv = arguments(NEW, wish, 9877)
    assert argv[:5] == ["/new/rerun", "--port", "9877", "--bind", "127.0.0.1"]
    assert {"--headless", "--hide-welcome-screen"} < set(argv)
    assert argv[argv.index("--memory-limit") + 1] == "4GB"
    assert argv[argv.index("--server-memory-limit") + 1] == "1GB"
    assert "--memory-limit" not in arguments(NEW, Wish(), 9877)


def test_the_callers_environment_and_nothing_of_ours() -> None:
    given = {"DISPLAY": ":1", "HOME": "/h", "RRD_GRPC_PORT": "1", "LISTEN_FDS": "2", "NOTIFY_SOCKET": "x", "LANG": "C",
             "INVOCATION_ID": "y"}
    assert viewer_environment(given) == {"DISPLAY": ":1", "HOME": "/h", "LANG": "C"}
    assert environment_of(os.getpid())["PATH"]
    assert environment_of(0) == dict(os.environ)


def test_a_free_port_is_free() -> None:
    assert 0 < free_port() < 65536


async def test_an_early_death_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    program = tmp_path / "rerun"
    program.write_text("#!/bin/sh\nfor i in $(seq 100); do echo line $i; done\n"
                       "printf '\\033[31mError:\\033[0m no display: WAYLAND_DISPLAY is not set\\n' >&2\nexit 3\n")
    program.chmod(0o755)
    with trio.fail_after(30), pytest.raises(StartFailed) as caught:
        await start(Executable(str(program), None, "test"), Wish(), {"PATH": os.defpath})
    text = str(caught.value)
    assert "ended with status 3" in text
    assert "Error: no display" in text
    assert "\x1b" not in text
    assert "line 100" in text
    assert "line 80\n" not in text
    assert "rrd serve" in caught.value.hint


async def test_a_program_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(StartFailed, match="cannot start"):
        await start(Executable(str(tmp_path), None, "test"), Wish(), {"PATH": os.defpath})


async def test_waiting_for_an_end() -> None:
    process = await trio.lowlevel.open_process([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)
    from daemon.viewers.discover import owner_of

    owner = owner_of(process.pid)
    assert owner is not None
    assert not await ends_within(owner.pid, owner.started, seconds=0.1)
    assert await ends_within(owner.pid, owner.started + 100, seconds=0.1)
    assert process.stdin is not None
    await process.stdin.aclose()
    assert await ends_within(owner.pid, owner.started, seconds=20)
    await process.wait()


BUSY = "while True: pass"
IDLE = "import time; time.sleep(1000)"
DYING = "import time; time.sleep(0.2)"


@pytest.mark.parametrize(("source", "cpu", "seconds", "settled"), [
    (BUSY, 0.1, 1000.0, True), (IDLE, 0.1, 0.3, True), (DYING, 1000.0, 1000.0, False),
])
async def test_what_works_or_waits_lives(source: str, cpu: float, seconds: float, settled: bool) -> None:
    from daemon.viewers.discover import owner_of

    process = await trio.lowlevel.open_process([sys.executable, "-c", source])
    try:
        owner = owner_of(process.pid)
        assert owner is not None
        with trio.fail_after(60):
            assert await settles(owner, cpu=cpu, seconds=seconds) is settled
        assert (process.poll() is None) is settled
    finally:
        process.kill()
        await process.wait()

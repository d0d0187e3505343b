"""Daemon, keeper or program die, or were never there: what the Python shim makes of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import NEWEST, Home, wait_for
from tests.helpers.shim import Program, ended, rows, run, warnings


@pytest.fixture(params=["0.23.4", NEWEST])
def python(request: pytest.FixtureRequest, sdk_python: Callable[[str], Path]) -> Path:
    return sdk_python(request.param)


@pytest.fixture
def newest(sdk_python: Callable[[str], Path]) -> Path:
    return sdk_python(NEWEST)


def kill_all(home: Home) -> None:
    """Kill keeper and daemon, so that neither brings the other back."""
    daemon, keeper = home.daemon_pid(), home.keeper_pid()
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in (keeper, daemon):
            os.kill(pid, number)
    wait_for(lambda: not home.keeper_pid(), "the keeper's end")


def all_rows(home: Home) -> list[int]:
    """The rows of the only recording there is."""
    ended(home)
    (recording,) = home.recordings()
    home.cli("save", "--force", "all.rrd", recording["recording_id"])
    return rows(home.path / "all.rrd")


def assert_whole(home: Home) -> None:
    """All 200 rows are there, once, in the spool and in the file."""
    assert all_rows(home) == list(range(200))
    assert rows(home.path / "out.rrd") == list(range(200))


HALF_LOGGED = """
rr.init("app")
rrd.save("out.rrd")
log(0, 100)
assert rrd.flush()
say("ready")
wait_for_test()
"""
"""A program that has a file and half of its rows in it, and waits."""
STEADY = """
rr.init("app")
rrd.save("out.rrd")
say("ready")
row = 0
while not os.path.exists("stop"):
    log(row, row + 20)
    row += 20
    time.sleep(0.005)
"""


@pytest.mark.parametrize("how", ["kill -9", "kill", "os._exit", "exception"])
def test_program_dies(daemon: Home, python: Path, verify, how: str) -> None:
    """Whatever had left the SDK is in the file, and the file is complete."""
    source = """
rr.init("app")
rrd.save("out.rrd")
log(0, 300)
assert rrd.flush()
log(300, 400)
how = sys.argv[1]
if how == "kill -9": os.kill(os.getpid(), signal.SIGKILL)
if how == "kill": os.kill(os.getpid(), signal.SIGTERM)
if how == "os._exit": os._exit(3)
raise SystemError("as planned")
"""
    code = {"kill -9": -signal.SIGKILL, "kill": -signal.SIGTERM, "os._exit": 3, "exception": 1}[how]
    run(daemon, python, source, how, code=code)
    ended(daemon)
    out = daemon.path / "out.rrd"
    found = rows(out)
    assert found == list(range(len(found)))
    assert len(found) >= (400 if how == "exception" else 300)
    if python == Path(sys.executable):
        verify(out)


def test_daemon_is_killed_again_and_again(daemon: Home, python: Path) -> None:
    """The program goes on and reconnects; verbs said meanwhile work; nothing is lost or doubled, no warning is due."""
    chance = random.Random(7)
    with Program(daemon, python, """
rr.init("app")
assert rrd.save("0.rrd")
say("ready")
row = turn = 0
while not os.path.exists("stop"):
    log(row, row + 20)
    row += 20
    time.sleep(0.005)
    if os.path.exists(f"go{turn + 1}"):
        turn += 1
        assert rrd.save(f"{turn}.rrd")
        assert rrd.flush(timeout=30)
        say("saved")
""") as program:
        program.line()
        for turn in range(1, 6):
            (daemon.path / f"go{turn}").touch()
            time.sleep(chance.uniform(0.0, 0.03))  # the moment is what is being varied
            os.kill(daemon.daemon_pid(), signal.SIGKILL)
            assert program.line() == "saved"
        (daemon.path / "stop").touch()
        errors = program.finish()
    assert warnings(errors) == []
    ended(daemon)
    found = [rows(daemon.path / f"{turn}.rrd") for turn in range(6)]
    assert found[0] == list(range(len(found[0])))
    assert all(one == found[0] for one in found)


def test_daemon_and_keeper_are_killed(daemon: Home, python: Path) -> None:
    """Nobody is left: the shim starts a daemon, and the stream goes on where it was, outputs included."""
    with Program(daemon, python, STEADY) as program:
        program.line()
        wait_for(lambda: daemon.status()["streams"][0]["messages"] > 10, "rows")
        kill_all(daemon)
        wait_for(lambda: daemon.keeper_pid(), "a new keeper")
        wait_for(lambda: daemon.status()["streams"], "the stream")
        before = daemon.status()["streams"][0]["messages"]
        wait_for(lambda: daemon.status()["streams"][0]["messages"] > before + 2, "more rows")
        (daemon.path / "stop").touch()
        errors = program.finish()
    assert warnings(errors) == []
    found = all_rows(daemon)
    assert found == list(range(len(found)))
    assert rows(daemon.path / "out.rrd") == found


@pytest.mark.parametrize("size", [100, 4_000_000], ids=["little", "much"])
def test_killed_and_the_program_ends(daemon: Home, python: Path, size: int) -> None:
    """Keeper and daemon die and the program ends at once: one warning, in bounded time, and the log has it all."""
    with Program(daemon, python, HALF_LOGGED + """
import numpy as np
for row in range(20):
    rr.log("image", rr.EncodedImage(contents=os.urandom(int(sys.argv[1])), media_type="image/png"))
log(100, 200)
""", size) as program:
        program.line()
        kill_all(daemon)
        begin = time.monotonic()
        program.go_on()
        errors = program.finish(seconds=30)
        assert time.monotonic() - begin < 15
    assert len(warnings(errors)) == 1, errors
    assert "went to the log directly" in errors
    assert not daemon.keeper_pid(), "nobody was to start a daemon for this"
    daemon.cli("daemon", "start")
    assert_whole(daemon)


def test_the_end_waits_for_no_daemon(daemon: Home, python: Path) -> None:
    """The daemon hangs, the program ends, the daemon dies: no wait, no warning, and the keeper has what is missing."""
    with Program(daemon, python, HALF_LOGGED + """
log(100, 200)
""") as program:
        program.line()
        pid = daemon.daemon_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            program.go_on()
            assert warnings(program.finish()) == []
        finally:
            os.kill(pid, signal.SIGKILL)
    assert_whole(daemon)


def test_killed_while_the_daemon_is_dead(daemon: Home, python: Path) -> None:
    """What had left the SDK of a killed program waits in the pipe for the next daemon; the file gets its footer."""
    with Program(daemon, python, HALF_LOGGED + """
log(100, 200)
rr.get_global_data_recording().flush()
say("flushed")
wait_for_test()
""") as program:
        program.line()
        pid = daemon.daemon_pid()
        os.kill(pid, signal.SIGSTOP)  # it cannot move a byte any more
        try:
            program.go_on()
            assert program.line() == "flushed"
            program.process.kill()
            program.process.wait()
        finally:
            os.kill(pid, signal.SIGKILL)
    assert_whole(daemon)


def test_all_die_in_the_sdks_own_flush(daemon: Home, python: Path) -> None:
    """The program is at its end, and waits for a hung daemon to empty the pipe; then daemon and keeper are killed."""
    with Program(daemon, python, HALF_LOGGED + """
import atexit
for row in range(20):
    rr.log("image", rr.EncodedImage(contents=os.urandom(1_000_000), media_type="image/png"))
log(100, 200)
atexit.register(say, "ending")  # before our handler and Rerun's, which waits: more was logged than a pipe holds
""") as program:
        program.line()
        daemon_pid, keeper = daemon.daemon_pid(), daemon.keeper_pid()
        for pid in (keeper, daemon_pid):
            os.kill(pid, signal.SIGSTOP)
        program.go_on()
        assert program.line() == "ending"
        with pytest.raises(subprocess.TimeoutExpired):
            program.process.wait(1.0)
        for pid in (keeper, daemon_pid):
            os.kill(pid, signal.SIGKILL)
        begin = time.monotonic()
        errors = program.finish(seconds=30)
        assert time.monotonic() - begin < 20
    assert len(warnings(errors)) <= 1, errors
    wait_for(lambda: daemon.keeper_pid(), "a new keeper")
    assert_whole(daemon)


def test_flush_waits_no_longer_than_told(daemon: Home, newest: Path) -> None:
    """A daemon that is dead, and a keeper that cannot start the next: neither is waited for longer."""
    keeper = daemon.keeper_pid()
    with Program(daemon, newest, HALF_LOGGED + """
begin = time.monotonic()
try:
    rrd.flush(timeout=0.5)
except rrd.Error as error:
    assert error.code == "timeout", error
else:
    raise AssertionError("flushed")
assert time.monotonic() - begin < 5
say("late")
wait_for_test()
assert rrd.flush()
log(100, 200)
""") as program:
        assert program.line() == "ready"
        os.kill(keeper, signal.SIGSTOP)
        try:
            os.kill(daemon.daemon_pid(), signal.SIGKILL)
            program.go_on()
            assert program.line() == "late"
        finally:
            os.kill(keeper, signal.SIGCONT)
        program.go_on()
        program.finish()
    assert_whole(daemon)


def test_stopped_on_purpose(daemon: Home, newest: Path) -> None:
    """`rrd daemon stop`: one warning, nobody starts it again, the program neither stops nor swells; then it goes on."""
    with Program(daemon, newest, """
rr.init("app")
rrd.save("out.rrd")
log(0, 100)
say("ready")
wait_for_test()
for row in range(40):
    rr.log("image", rr.EncodedImage(contents=os.urandom(1_000_000), media_type="image/png"))
log(100, 200)
rr.get_global_data_recording().flush()
say("logged")
wait_for_test()
log(200, 300)
""") as program:
        program.line()
        daemon.cli("daemon", "stop", "--force")
        wait_for(lambda: not daemon.keeper_pid(), "the keeper's end")
        program.go_on()
        # More than any pipe holds has left the SDK: it went to the log.
        assert program.line() == "logged"
        assert not daemon.keeper_pid()
        daemon.cli("daemon", "start")
        wait_for(lambda: daemon.status()["streams"], "the stream")
        program.go_on()
        errors = program.finish()
    assert len(warnings(errors)) == 1, errors
    assert "stopped" in errors
    assert all_rows(daemon) == list(range(300))
    assert rows(daemon.path / "out.rrd") == list(range(300))


def test_restarted(daemon: Home, newest: Path) -> None:
    """`rrd daemon restart` is no event for a program."""
    with Program(daemon, newest, STEADY) as program:
        program.line()
        daemon.cli("daemon", "restart")
        wait_for(lambda: daemon.status()["streams"], "the stream")
        (daemon.path / "stop").touch()
        assert warnings(program.finish()) == []
    found = all_rows(daemon)
    assert found == list(range(len(found)))


def test_no_daemon_and_none_to_be_had(home: Home, python: Path) -> None:
    """One warning that says why; the program's own output works as ever, and no call takes long."""
    errors = run(home, python, """
rr.init("app")
log(0, 50)
begin = time.monotonic()
sink = rrd.save("ours.rrd")
assert not sink and sink.path.endswith("/ours.rrd")
assert not rrd.attach()
assert not rrd.flush(durable=True)
rrd.detach(sink)
rrd.save("again.rrd")
assert time.monotonic() - begin < 5
log(50, 100)
rr.save("theirs.rrd")
""", RRD_DAEMON="/bin/false")
    assert len(warnings(errors)) == 1, errors
    assert "no daemon" in errors
    assert not (home.path / "ours.rrd").exists()
    assert rows(home.path / "theirs.rrd") == list(range(100))


def test_socket_path_too_long(home: Home, newest: Path) -> None:
    """A reason that the user can mend is told with how."""
    deep = home.path / ("x" * 100)
    deep.mkdir()
    errors = run(home, newest, """
rr.init("app")
assert not rrd.attach()
""", XDG_RUNTIME_DIR=str(deep))
    (warning,) = warnings(errors)
    assert "XDG_RUNTIME_DIR" in warning


def test_first_call_starts_it(home: Home, newest: Path) -> None:
    """Ten programs at once, no daemon yet: one is started, and all are served; it is nobody's child."""
    source = """
rr.init("app", recording_id=sys.argv[1])
assert rrd.save(sys.argv[1] + ".rrd")
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    pass
else:
    raise AssertionError("a child was left")
log(0, 10)
"""
    programs = [Program(home, newest, source, number) for number in range(10)]
    for program in programs:
        with program:
            assert warnings(program.finish()) == []
    ended(home)
    assert all(rows(home.path / f"{number}.rrd") == list(range(10)) for number in range(10))
    assert len(home.recordings()) == 10


def test_fork(daemon: Home, python: Path, verify) -> None:
    """A forked child neither writes to its parent's stream nor keeps it open; it can have one of its own."""
    with Program(daemon, python, """
rr.init("app", recording_id="parent")
rrd.save("parent.rrd")
log(0, 50)
child = os.fork()
if child == 0:
    try:
        rrd.attach()
    except rrd.Error as error:
        assert error.code == "usage", error
    else:
        raise AssertionError("attached its parent's recording")
    # Not rr.init: since 0.31 it raises in every forked child whose parent has a recording.
    own = rr.RecordingStream("app", recording_id="child")
    rrd.save("child.rrd", recording=own)
    log(0, 10, own)
    assert rrd.flush(recording=own)
    say("child", os.getpid())
    signal.pause()
log(50, 100)
os._exit(0) if rrd.flush() else os._exit(1)
""") as program:
        child = int(program.line().split()[1])
        try:
            program.process.wait(60)
            assert program.process.returncode == 0

            def parent_ended() -> bool:
                return {one["recording_id"]: one["state"] for one in daemon.recordings()}["parent"] == "ended"

            wait_for(parent_ended, "the parent's stream to end while the child lives")
            assert rows(daemon.path / "parent.rrd") == list(range(100))
        finally:
            os.kill(child, signal.SIGKILL)
    ended(daemon)
    assert rows(daemon.path / "child.rrd") == list(range(10))


def test_multiprocessing(daemon: Home, python: Path) -> None:
    """Workers that attach: what they logged arrives, although they leave without atexit handlers."""
    run(daemon, python, """
import multiprocessing
def work(number):
    global own  # alive when the worker leaves
    own = rr.RecordingStream("app", recording_id=f"worker{number}")
    rrd.attach(own)
    log(number * 10, number * 10 + 10, own)
if __name__ == "__main__":
    rr.init("app", recording_id="main")
    rrd.attach()
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(number,)) for number in range(3)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    log(0, 5)
""")
    ended(daemon)
    for name, expected in [("main", range(5)), *((f"worker{n}", range(n * 10, n * 10 + 10)) for n in range(3))]:
        daemon.cli("save", f"{name}.rrd", name)
        assert rows(daemon.path / f"{name}.rrd") == list(expected)


def test_nothing_wakes_up(daemon: Home, newest: Path) -> None:
    """Attached and idle, the shim's thread sleeps: the kernel counts no switch to it."""
    with Program(daemon, newest, """
rr.init("app")
rrd.attach()
rrd.flush()
(thread,) = [thread for thread in threading.enumerate() if thread.name == "rrd"]
say(thread.native_id)
wait_for_test()
""") as program:
        status = Path(f"/proc/{program.process.pid}/task/{program.line()}/status")

        def switches() -> str:
            return next(line for line in status.read_text().splitlines() if line.startswith("voluntary"))

        before = switches()
        time.sleep(2.0)  # what must not happen has this long to happen
        assert switches() == before
        program.go_on()
        program.finish()

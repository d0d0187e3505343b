"""Where a daemon lives: two of them apart, and one for all sessions of its user."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import Home, wait_for
from tests.helpers.programs import Program as Logging
from tests.helpers.programs import rows as frames
from tests.helpers.shim import Program, ended, rows, run, warnings

SAVES = """
rr.init("app", recording_id=sys.argv[1])
assert rrd.save(sys.argv[1] + ".rrd")
log(0, 20)
"""


@pytest.fixture
def other(home: Home) -> Iterator[Home]:
    """A second home."""
    with tempfile.TemporaryDirectory(prefix="rrd-") as path:
        (Path(path) / "h").mkdir()
        one = Home(Path(path) / "h")
        try:
            yield one
        finally:
            one.stop()


def test_two_daemons(home: Home, other: Home) -> None:
    """Each has its own socket, recordings and lock; the end of one is not the other's."""
    run(home, Path(sys.executable), SAVES, "mine")
    run(other, Path(sys.executable), SAVES, "yours")
    for one, name in ((home, "mine"), (other, "yours")):
        ended(one)
        assert [found["recording_id"] for found in one.recordings()] == [name]
        assert rows(one.path / f"{name}.rrd") == list(range(20))
        assert [path.suffix for path in sorted(one.spool.iterdir())] == [".json", ".rrd"]
    assert home.daemon_pid() != other.daemon_pid()
    home.cli("daemon", "stop")
    assert not home.keeper_pid()
    assert other.recordings()


def test_no_runtime_directory(home: Home) -> None:
    """A directory of one's own in the temporary one; command and shim meet there, and nobody else can look in."""
    temporary = home.path / "t"
    temporary.mkdir()
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        del home.env[name]
    home.env["TMPDIR"] = str(temporary)
    home.cli("daemon", "start")
    private = temporary / f"rrd-{os.getuid()}"
    keeper = int((home.path / ".local" / "state" / "rrd" / "keeper.lock").read_text())
    try:
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert stat.S_IMODE((private / "control.sock").stat().st_mode) == 0o600
        with Program(home, Path(sys.executable), SAVES + 'assert rrd.flush()\nsay("ready")\nwait_for_test()',
                     "mine") as program:
            program.line()
            assert '"recording_id":"mine"' in home.cli("ls", "--json").stdout.replace(" ", "")
            program.go_on()
            assert warnings(program.finish()) == []
        assert list((home.path / ".local" / "state" / "rrd" / "spool").glob("*.rrd"))
        assert not list((home.path / "r").iterdir())
    finally:
        home.cli("daemon", "stop", "--force")
        wait_for(lambda: not psutil.pid_exists(keeper), "the keeper's end")
    assert rows(home.path / "mine.rrd") == list(range(20))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory to somebody else")
def test_somebody_elses_directory(home: Home) -> None:
    """Is not believed: whoever made it could listen there."""
    runtime = home.path / "r" / "rrd"
    runtime.mkdir(mode=0o777)
    os.chown(runtime, 61234, 61234)
    done = subprocess.run([sys.executable, "-m", "rrd_cli", "ls"], env=home.env, cwd=home.path, capture_output=True,
                          text=True, check=False, timeout=60)
    assert done.returncode in (1, 3)
    assert "61234" in done.stderr
    (warning,) = warnings(run(home, Path(sys.executable), """
rr.init("app")
assert not rrd.attach()
rr.save("theirs.rrd")
log(0, 20)
"""))
    assert "belongs to uid 61234, not to you" in warning
    assert rows(home.path / "theirs.rrd") == list(range(20))


@pytest.fixture
def cron(home: Home) -> Home:
    """The same user's other session, with a runtime directory of its own: only the recordings are the same."""
    elsewhere = home.path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    session = copy.copy(home)
    session.env = {**home.env, "XDG_RUNTIME_DIR": str(elsewhere)}
    return session


def test_one_daemon_for_all_sessions(home: Home, cron: Home, verify) -> None:
    """Commands and programs of cron, or of a user who came by su, meet the daemon that has the recordings."""
    home.cli("daemon", "start")
    pid = home.daemon_pid()
    with Logging(home, "robot", rows=100000, pause=0.01) as program:
        program.wait_row(20)
        assert "robot" in cron.cli("ls").stdout
        assert str(pid) in cron.cli("daemon", "status").stdout
        run(cron, Path(sys.executable), SAVES, "job")
        assert rows(home.path / "job.rrd") == list(range(20))
        os.kill(pid, signal.SIGKILL)  # its successor has the locks, and both sockets
        wait_for(lambda: home.daemon_pid() != pid, "the successor")
        assert cron.cli("save", "all.rrd", "robot").returncode == 0
    ended(home)
    verify(home.path / "all.rrd")
    found = frames(home.path / "all.rrd")
    assert found == list(range(len(found)))
    assert not list((home.path / "elsewhere").iterdir()), "no other daemon was tried"
    cron.cli("daemon", "stop")
    assert not home.keeper_pid()
    assert not home.socket.exists()
    assert not (home.path / "s" / "rrd" / "daemon.sock").exists()


def test_the_last_session_ends(home: Home, verify) -> None:
    """logind removes the runtime directory at the user's last logout. A program that runs on stays recorded, whatever
    dies, and who logs in again finds everything.
    """
    source = Path(sys.executable)
    with Program(home, source, """
rr.init("night", recording_id="night")
assert rrd.save("night.rrd")
for begin in range(0, 400, 100):
    log(begin, begin + 100)
    assert rrd.flush()
    say(begin)
    wait_for_test()
""") as program:
        assert program.line() == "0"
        shutil.rmtree(home.path / "r")
        program.go_on()
        assert program.line() == "100"
        pid = home_status(home)["pid"]
        os.kill(pid, signal.SIGKILL)
        program.go_on()
        assert program.line() == "200"
        (home.path / "r").mkdir(mode=0o700)  # logged in again
        assert home_status(home)["pid"] != pid
        run(home, source, SAVES, "morning")
        assert rows(home.path / "morning.rrd") == list(range(20))
        keeper = home.keeper_pid()
        os.kill(keeper, signal.SIGKILL)  # the daemon becomes a keeper, which listens where the session is now
        wait_for(lambda: home.keeper_pid() not in (0, keeper) and home.socket.exists(), "another keeper")
        program.go_on()
        assert program.line() == "300"
        program.go_on()
        assert warnings(program.finish()) == []
    wait_for(lambda: all(one["state"] != "live" for one in json.loads(home.cli("ls", "--json").stdout)), "its end")
    assert rows(home.path / "night.rrd") == list(range(400))
    verify(home.path / "night.rrd")


def test_two_sessions_start_it_at_once(home: Home, cron: Home) -> None:
    """One keeper, and both are served: whoever loses finds the other's socket beside the recordings."""
    for _ in range(3):
        callers = [subprocess.Popen([sys.executable, "-m", "rrd_cli", "status", "--json"], env=one.env, cwd=home.path,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                   for one in (home, cron, home, cron)]
        answers = [caller.communicate(timeout=60) for caller in callers]
        assert [caller.returncode for caller in callers] == [0] * 4, answers
        assert len({json.loads(out)["daemon"]["pid"] for out, _ in answers}) == 1
        home.cli("daemon", "stop")
        wait_for(lambda: not home.keeper_pid(), "the keeper's end")


def home_status(home: Home) -> dict[str, Any]:
    """What `rrd status --json` says of the daemon."""
    return json.loads(home.cli("status", "--json").stdout)["daemon"]

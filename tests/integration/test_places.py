"""Where a daemon lives: two of them apart, and one where the session has no runtime directory."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

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
    keeper = int((private / "keeper.lock").read_text())
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


def test_one_spool_has_one_daemon(home: Home, verify) -> None:
    """A session with another runtime directory, or none, must not take a live daemon's streams for dead ones."""
    home.cli("daemon", "start")
    elsewhere = home.path / "elsewhere"
    elsewhere.mkdir()
    with Logging(home, "robot", rows=100000, pause=0.01) as program:
        program.wait_row(20)
        refused = home.cli("ls", check=False, env={**home.env, "XDG_RUNTIME_DIR": str(elsewhere)})
        assert refused.returncode == 3
        assert f"another daemon (pid {home.daemon_pid()}, {home.socket}) has the recordings in" in refused.stderr
        assert [one["state"] for one in home.recordings()] == ["live"]
        os.kill(home.daemon_pid(), signal.SIGKILL)  # its successor has the lock at once
        wait_for(lambda: [one["state"] for one in home.recordings()] == ["live"], "the successor")
    home.cli("save", "all.rrd", "--wait")
    verify(home.path / "all.rrd")
    found = frames(home.path / "all.rrd")
    assert found == list(range(len(found)))

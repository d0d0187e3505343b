"""The daemon, its keeper, both, or the program die, under load, with the real SDK: no row is lost, none is doubled."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from daemon.wire import control
from tests.conftest import ROOT, Home, wait_for
from tests.helpers.programs import Program, rows

KILLS = 20


def test_twenty_kills_under_load(daemon: Home, verify, tmp_path: Path) -> None:
    """SIGKILL at random moments, with a link, a copy and a merge attached: all resume by themselves."""
    chance = random.Random(4711)
    with Program(daemon, "steady", rows=24_000, pause=0.0004) as program:
        stream = program.stream
        link, copy, merge = (daemon.path / f"{name}.rrd" for name in ("link", "copy", "merge"))
        daemon.cli("save", link, f"stream:{stream}")
        daemon.cli("save", "--copy", copy, f"stream:{stream}")
        daemon.cli("save", merge, "@live")
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.02, 0.4))  # the moment is what is being varied
            os.kill(daemon.daemon_pid(), signal.SIGKILL)
        program.finish()
    sinks = wait_for(lambda: settled(daemon), "all sinks to be up to date")
    (live,) = (sink["id"] for sink in sinks if sink["state"] == "following")
    daemon.cli("detach", live)
    verify(link, copy, merge)
    expected = list(range(24_000))
    assert rows(link) == expected
    assert link.read_bytes() == copy.read_bytes()
    assert rows(merge) == expected


def test_killed_ever_again_it_is_back_within_a_second(daemon: Home) -> None:
    """Deaths that are nobody's fault do not add up to a long wait, however short the lives between them."""
    waits = []
    for _ in range(8):
        os.kill(daemon.daemon_pid(), signal.SIGKILL)
        before = time.monotonic()
        daemon.daemon_pid()
        waits.append(time.monotonic() - before)
    # The quickest shows how long a start takes on this machine, as busy as it is.
    assert sorted(waits)[len(waits) // 2] < max(1.0, 2 * min(waits)), waits


def settled(home: Home) -> list[dict]:
    """The sinks, once nothing is left for them to do."""
    status = home.status()
    sinks = status["sinks"]
    done = not status["streams"] and all(sink["lag_bytes"] == 0 for sink in sinks)
    return sinks if done else []


SLOW_FINISHER = """
import os, sys, time
if "daemon.spool.finish" in sys.orig_argv and not os.path.exists({begun!r}):
    usual = os.ftruncate
    def slow(*arguments):
        open({begun!r}, "w").close()
        while not os.path.exists({go!r}):
            time.sleep(0.01)
        usual(*arguments)
    os.ftruncate = slow
"""


def test_a_finisher_dies_with_its_daemon(home: Home, verify) -> None:
    """It would write the footer of a file that is being detached where the next daemon goes on."""
    begun, go, copy = (home.path / name for name in ("begun", "go", "copy.rrd"))
    (home.path / "sitecustomize.py").write_text(SLOW_FINISHER.format(begun=str(begun), go=str(go)))
    home.env["PYTHONPATH"] = f"{home.path}{os.pathsep}{ROOT}"
    home.cli("daemon", "start")
    with Program(home, "detached", rows=2_000, pause=0.001) as program:
        program.wait_row(100)
        sink = home.call("save", path=str(copy), stream=program.stream, copy=True)["sink"]
        client = home.client()
        client.send(control.encode({"id": 7, "verb": "detach", "args": {"sink": sink["id"]}}))
        wait_for(begun.exists, "the finisher")
        os.kill(home.daemon_pid(), signal.SIGKILL)
        home.daemon_pid()
        go.touch()
        client.close()
        program.finish()
    wait_for(lambda: settled(home), "the file")
    verify(copy)
    assert rows(copy) == list(range(2_000))


def test_program_exits_while_the_daemon_is_dead(daemon: Home, verify) -> None:
    """The keeper holds the pipe: what the program wrote before it ended is there for the next daemon."""
    out = daemon.path / "out.rrd"
    with Program(daemon, "last words", rows=2_000, pause=0.001, save=out) as program:
        pid = daemon.daemon_pid()
        os.kill(pid, signal.SIGSTOP)  # it cannot move a byte any more
        program.finish()
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: settled(daemon), "the file")
    verify(out)
    assert rows(out) == list(range(2_000))


def test_keeper_dies(daemon: Home) -> None:
    """The daemon becomes the keeper of the next one; streams go on."""
    with Program(daemon, "orphan", rows=2_000, pause=0.0005) as program:
        old_keeper, old_daemon = daemon.keeper_pid(), daemon.daemon_pid()
        os.kill(old_keeper, signal.SIGKILL)
        wait_for(lambda: daemon.keeper_pid() == old_daemon, "the daemon to become keeper")
        assert daemon.daemon_pid() not in (old_daemon, old_keeper)
        program.finish()
    wait_for(lambda: settled(daemon) == [] and not daemon.status()["streams"], "the stream's end")
    daemon.cli("save", "out.rrd", program.recording)
    assert rows(daemon.path / "out.rrd") == list(range(2_000))


def test_restart_is_not_noticed(daemon: Home) -> None:
    """`rrd daemon restart`: a new process, the same streams and sinks."""
    with Program(daemon, "restart", rows=2_000, pause=0.0005) as program:
        out = daemon.path / "out.rrd"
        daemon.cli("save", out, f"stream:{program.stream}")
        before = daemon.daemon_pid()
        daemon.cli("daemon", "restart")
        assert daemon.daemon_pid() != before
        program.finish()
    wait_for(lambda: settled(daemon), "the file")
    assert rows(out) == list(range(2_000))


def test_a_restart_into_a_broken_upgrade_is_refused(home: Home) -> None:
    """The keeper would die of it, and nobody would hold the pipes: the old version goes on until it is mended."""
    installed = home.path / "lib"
    for package in ("daemon", "rrd_cli"):
        shutil.copytree(ROOT / package, installed / package)
    home.env["PYTHONPATH"] = f"{installed}{os.pathsep}{ROOT}"
    home.cli("daemon", "start")
    keeper, before = home.keeper_pid(), home.daemon_pid()
    with Program(home, "upgrade", rows=1_000, pause=0.001) as program:
        (installed / "daemon" / "app.py").write_text("from daemon.of_tomorrow import Daemon\n")
        done = home.cli("daemon", "restart", check=False)
        assert done.returncode == 1
        assert "cannot be started: ModuleNotFoundError: No module named 'daemon.of_tomorrow'" in done.stderr
        assert (home.keeper_pid(), home.daemon_pid()) == (keeper, before)
        shutil.copy(ROOT / "daemon" / "app.py", installed / "daemon" / "app.py")
        home.cli("daemon", "restart")
        assert home.daemon_pid() != before
        program.finish()
    wait_for(lambda: not home.status()["streams"], "the stream's end")
    home.cli("save", "out.rrd", program.recording)
    assert rows(home.path / "out.rrd") == list(range(1_000))


def test_a_hung_daemon_stops_nobody(daemon: Home) -> None:
    """SIGSTOP while 30 MB/s are logged: the program goes on, and everything is there after SIGCONT."""
    with Program(daemon, "hung", rows=300, image=1_000_000, pause=0.033) as program:
        pid = daemon.daemon_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            program.wait_row(280)
        finally:
            os.kill(pid, signal.SIGCONT)
        program.finish()
    wait_for(lambda: not daemon.status()["streams"], "the stream's end")
    daemon.cli("save", "out.rrd", program.recording)
    assert rows(daemon.path / "out.rrd") == list(range(300))


def test_the_program_is_killed(daemon: Home, verify) -> None:
    """SIGKILL: what had left the SDK is in the file, which has its footer within a second or so."""
    out = daemon.path / "out.rrd"
    with Program(daemon, "victim", rows=100_000, pause=0.001) as program:
        daemon.cli("save", out, f"stream:{program.stream}")
        program.wait_row(1_500)
        program.process.kill()
        program.process.wait()
        wait_for(lambda: settled(daemon), "the footer", 10.0)
    verify(out)
    found = rows(out)
    assert found == list(range(len(found)))
    assert len(found) > 500


def test_many_start_at_once(home: Home) -> None:
    """Ten first verbs at the same moment: one daemon."""
    command = [sys.executable, "-m", "rrd_cli", "status", "--json"]
    options = {"env": home.env, "cwd": home.path, "stdout": subprocess.PIPE, "text": True}
    every = [subprocess.Popen(command, **options) for _ in range(10)]
    pids = set()
    for one in every:
        text, _ = one.communicate(timeout=60)
        assert one.returncode == 0
        pids.add(json.loads(text)["daemon"]["pid"])
    assert len(pids) == 1

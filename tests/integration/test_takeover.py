"""Rerun's own port in our hands: `rerun`, `rerun FILE` and `rr.spawn()` end in a viewer, and all is in the spool.

The port is 9876 and no other, so each test has a network of its own (a network namespace), and runs INSIDE there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Home, missing

INSIDE = """
import json, os, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.conftest import Home, wait_for
from tests.helpers.viewers import ask_viewer

home = Home.__new__(Home)
home.path, home.env = Path({path!r}), dict(os.environ)
what = sys.argv[1]
home.cli("daemon", "start")
status = home.status()["daemon"]
assert not status["grpc_error"], status
try:
    if what == "rerun":
        subprocess.run([{rerun!r}], env=home.env, timeout=60, check=True)
    elif what == "file":
        subprocess.run([{rerun!r}, "run.rrd"], env=home.env, cwd=home.path, timeout=60, check=True)
    else:
        source = "import rerun as rr; rr.init('app', recording_id='run'); rr.spawn(); " \
                 "[(rr.set_time('frame', sequence=i), rr.log('row', rr.TextLog(str(i)))) for i in range(50)]"
        subprocess.run([sys.executable, "-c", source], env=home.env, timeout=60, check=True)
    (sink,) = wait_for(lambda: [s for s in home.status()["sinks"] if s["state"] == "following"], "a viewer", 90)
    port = int(sink["target"].split(":")[2].split("/")[0])
    assert port != 9876, sink
    if what != "rerun":
        wait_for(lambda: ask_viewer(port).get("Recording:app:run", {{}}).get("frame") == [0, 49], "the rows in it", 60)
    print(json.dumps({{"recordings": [(r["recording_id"], r["messages"] > 0) for r in home.recordings()],
                      "sinks": len(home.status()["sinks"]), "error": home.status()["daemon"]["grpc_error"]}}))
finally:
    for sink in home.status()["sinks"]:
        if sink.get("viewer_pid"):
            os.kill(sink["viewer_pid"], 9)
    home.stop()
"""


TAKEN = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.conftest import Home, wait_for
from tests.helpers.viewers import Server

home = Home.__new__(Home)
home.path, home.env = Path({path!r}), dict(os.environ)
try:
    with Server(home, Path({rerun!r}), "--serve-grpc", port=9876) as server:
        home.cli("daemon", "start")
        text = home.cli("status").stdout
        own = home.status()["daemon"]["grpc_url"]
    wait_for(lambda: not home.status()["daemon"]["grpc_error"], "the port")
    print(json.dumps({{"text": text, "own": own, "pid": server.pid}}))
finally:
    home.stop()
"""


@pytest.fixture
def apart(home: Home, rerun: Path) -> Home:
    """A home whose daemon takes the port over, and where viewers need no display."""
    try:
        probe = subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    except FileNotFoundError:
        probe = None
    if probe is None or probe.returncode != 0:
        missing("network namespaces (unshare -n)")
    home.env["RRD_TAKEOVER"] = "true"
    launcher = home.path / "bin" / "rerun"
    launcher.parent.mkdir()
    launcher.write_text(f'#!/bin/sh\nexec "{rerun}" --headless "$@"\n')
    launcher.chmod(0o755)
    home.env["RERUN_CLI_PATH"] = str(launcher)
    return home


def run_inside(home: Home, source: str, rerun: Path, *argv: str) -> dict[str, Any]:
    """Run a program in a network of its own; what it prints last, JSON."""
    inside = source.format(root=str(ROOT), path=str(home.path), rerun=str(rerun))
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, "-c", inside, *argv],
        env=home.env, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{home.log[-3000:]}"
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.slow
def test_the_port_is_a_viewers(apart: Home, rerun: Path) -> None:
    """It stays with it, `rrd status` says who has it, and is ours once it is free."""
    found = run_inside(apart, TAKEN, rerun)
    assert found["text"].count(f"port 9876 is taken by rerun (pid {found['pid']})") == 1
    assert found["own"].startswith("rerun+http://127.0.0.1:")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["rerun", "file", "spawn"])
def test_it_still_ends_in_a_viewer(apart: Home, rerun: Path, what: str) -> None:
    if what == "file":
        source = ("import rerun as rr; rr.init('app', recording_id='run'); rr.save('run.rrd'); [(rr.set_time('frame', "
                  "sequence=i), rr.log('row', rr.TextLog(str(i)))) for i in range(50)]")
        subprocess.run([sys.executable, "-c", source], cwd=apart.path, env=apart.env, check=True)
    found = run_inside(apart, INSIDE, rerun, what)
    assert found["error"] == ""
    assert found["sinks"] == 1, "one viewer for all"
    assert found["recordings"] == ([] if what == "rerun" else [["run", True]])


"""Rerun's own port in our hands: `rerun`, `rerun FILE` and `rr.spawn()` end in a viewer, and all is in the spool.

The port is 9876 and no other, so each test has a network of its own (a network namespace), and runs INSIDE there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.slow
@pytest.mark.parametrize("what", ["rerun", "file", "spawn"])
def test_it_still_ends_in_a_viewer(apart: Home, rerun: Path, what: str) -> None:
    if what == "file":
        source = ("import rerun as rr; rr.init('app', recording_id='run'); rr.save('run.rrd'); [(rr.set_time('frame', "
                  "sequence=i), rr.log('row', rr.TextLog(str(i)))) for i in range(50)]")
        subprocess.run([sys.executable, "-c", source], cwd=apart.path, env=apart.env, check=True)
    inside = INSIDE.format(root=str(ROOT), path=str(apart.path), rerun=str(rerun))
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, "-c", inside, what],
        env=apart.env, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{apart.log[-3000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["error"] == ""
    assert found["sinks"] == 1, "one viewer for all"
    assert found["recordings"] == ([] if what == "rerun" else [["run", True]])


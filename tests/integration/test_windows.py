"""A viewer with a window, on a display of its own (Xvfb): started, found again, asked for what it shows.

It runs in a network of its own, INSIDE: an open window is used by whoever says `rrd spawn`, other tests included.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Home, missing

INSIDE = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.conftest import Home, wait_for
from tests.helpers.programs import Program
from tests.helpers.viewers import ask_viewer, colours, screenshot

home = Home.__new__(Home)
home.path, home.env = Path({path!r}), dict(os.environ)
home.cli("daemon", "start")
pids = set()
try:
    with Program(home, "app", rows=50) as program:
        program.finish()
    def spawn(*words):
        said = home.cli("spawn", "--executable", {rerun!r}, "--json", *words, timeout=120).stdout
        viewer = json.loads(said)["viewer"]
        pids.add(viewer["pid"])
        return viewer
    first = spawn()
    port = int(first["url"].split(":")[2].split("/")[0])
    wait_for(lambda: ask_viewer(port).get("Recording:app:app", {{}}).get("frame") == [0, 49], "the rows in it", 60)
    again = spawn()
    other = spawn("--new")
    listed = {{one["pid"]: one for one in json.loads(home.cli("viewers", "--json").stdout)}}
    print(json.dumps({{
        "port": port, "reused": [one["reused"] for one in (first, again, other)], "one": first["pid"] == again["pid"],
        "two": other["pid"] != first["pid"], "kinds": [listed[pid]["kind"] for pid in sorted(pids)],
        "fed": [bool(listed[pid]["sinks"]) for pid in sorted(pids)],
        "display": "DISPLAY={display}" in Path(f"/proc/{{first['pid']}}/environ").read_text().split(chr(0)),
        "colours": colours(screenshot(home, port, "window")),
    }}))
finally:
    for pid in pids:
        os.kill(pid, 9)
    home.stop()
"""


@pytest.fixture
def display() -> Iterator[str]:
    """A display that nobody looks at."""
    program = shutil.which("Xvfb")
    if program is None:
        missing("Xvfb")
    read, write = os.pipe()
    words = [str(program), "-displayfd", str(write), "-screen", "0", "1280x800x24", "-nolisten", "tcp"]
    process = subprocess.Popen(words, pass_fds=[write], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as number:
            yield f":{int(number.readline())}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.slow
def test_a_window(home: Home, rerun: Path, display: str) -> None:
    """`rrd spawn` opens one, uses it again, and opens another where that is wanted."""
    home.env |= {"DISPLAY": display, "WAYLAND_DISPLAY": ""}
    inside = INSIDE.format(root=str(ROOT), path=str(home.path), rerun=str(rerun), display=display)
    words = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, "-c", inside]
    try:
        subprocess.run([*words[:4], "ip link set lo up"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        missing("network namespaces (unshare -n)")
    done = subprocess.run(words, env=home.env, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{home.log[-3000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("colours") > 200
    assert found == {
        "port": 9876, "reused": [False, True, False], "one": True, "two": True, "kinds": ["windowed", "windowed"],
        "fed": [True, True], "display": True,
    }

"""The web viewer's page, fed by the daemon; how soon it is ready beside `rerun --serve-web`, in turns.

Run: python -m bench.serve [--rounds N]      (needs chromium and rerun-sdk[notebook]; prints medians)

    ready     from opening the page, in a fresh browser, to a viewer that takes data
    backlog   from there until 276 MB of images that were logged before are all in the viewer
    latency   from log() to the viewer having the row, 10 rows a second

The last two are of `rrd serve` alone: the page of `rerun --serve-web` 0.41 has no way to ask what its viewer holds.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.integration.chromium import Browser, BrowserError, Tab

ROWS = 50
IMAGES = 300
LOG = """
import sys, time
import numpy as np
import rerun as rr
kind = sys.argv[1]
rr.init("bench", recording_id=kind)
import rrd
rrd.serve(open_browser=False) if kind == "latency" else rrd.attach()
random = np.random.default_rng(0)
for number in range(int(sys.argv[2])):
    if kind == "latency":
        time.sleep(0.1)
    rr.set_time("frame", sequence=number)
    print(time.time(), flush=True)
    if kind == "latency":
        rr.log("value", rr.Scalars(number))
    else:
        rr.log("image", rr.Image(random.integers(0, 255, (480, 640, 3), dtype=np.uint8)))
rr.disconnect()
"""
RANGE = """(() => {
  try {
    const range = rrdViewer.get_time_range(ID, "frame");
    return range ? range.max : -1;
  } catch { return -1; }
})()"""
WATCH = """(() => {
  window.seen = [];
  const look = () => {
    const last = RANGE, now = performance.timeOrigin + performance.now();
    if (last >= 0 && last !== (seen.at(-1) ?? [-1])[0]) seen.push([last, now / 1000]);
    requestAnimationFrame(look);
  };
  look();
})()"""
READY = "window.rrd ? rrd.times.ready : window._handle && performance.now()"


class Ours:
    """The daemon, in a home of its own."""

    name = "rrd serve"

    def __init__(self, home: Path) -> None:
        for name in ("r", "s", "c"):
            (home / name).mkdir(mode=0o700, exist_ok=True)
        places = {"RUNTIME_DIR": "r", "STATE_HOME": "s", "CONFIG_HOME": "c", "CACHE_HOME": "c"}
        self.env = {**os.environ, "HOME": str(home), "RRD_GRPC_PORT": "0",
                    **{f"XDG_{name}": str(home / place) for name, place in places.items()}}
        self.env.pop("SSH_CONNECTION", None)

    def _rrd(self, *argv: str) -> str:
        return subprocess.run([sys.executable, "-m", "rrd_cli", *argv], env=self.env, check=True, capture_output=True,
                              text=True).stdout

    def __enter__(self) -> Ours:
        self._rrd("daemon", "start")
        return self

    def __exit__(self, *_: object) -> None:
        self._rrd("daemon", "stop", "--force")

    def url(self, kind: str) -> str:
        """The page for a recording."""
        source = "@live" if kind in ("latency", "ready") else kind
        return str(json.loads(self._rrd("serve", "--no-open", "--json", source))["url"])


class Theirs:
    """`rerun --serve-web`."""

    name = "rerun --serve-web"

    def __init__(self, home: Path) -> None:
        self.env = {**os.environ, "HOME": str(home), "NO_COLOR": "1", "RUST_LOG": "info"}

    def __enter__(self) -> Theirs:
        spec = importlib.util.find_spec("rerun_cli")
        assert spec is not None
        assert spec.origin is not None
        command = [str(Path(spec.origin).parent / "rerun"), "--serve-web", "--web-viewer-port", "0", "--bind",
                   "127.0.0.1", "http://127.0.0.1:9/x.rrd"]  # an address that leads nowhere: only the page
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, env=self.env, stdout=self.log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 20
        while True:
            self.log.seek(0)
            said = self.log.read()
            web = re.search(r"web-viewer at (http://\S+)", said)
            if web:
                break
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        self._web = web[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        self.log.close()

    def url(self, kind: str) -> str:
        """Its page."""
        del kind
        return self._web

def poll(tab: Tab, expression: str, done: Callable[[float], bool]) -> float:
    """Ask, as often as the page answers, until it is done; the answer."""
    deadline = time.monotonic() + 180
    while True:
        value = None
        with contextlib.suppress(BrowserError):
            value = tab.eval(expression)
        if value and done(value):
            return float(value)
        assert time.monotonic() < deadline, f"{expression}: {value}"
        time.sleep(0.005)


def log_rows(side: Ours, kind: str, rows: int) -> list[float]:
    """Run the program; when it logged each row, Unix seconds."""
    done = subprocess.run([sys.executable, "-c", LOG, kind, str(rows)], env=side.env, check=True,
                          stdout=subprocess.PIPE, text=True)
    return [float(line) for line in done.stdout.split()]


def measure(side: Ours | Theirs) -> dict[str, float]:
    """One round: seconds to ready, MB/s of the backlog, median milliseconds of latency."""
    found: dict[str, float] = {}
    with opened(side.url("ready")) as tab:
        found["ready"] = poll(tab, READY, bool) / 1000
    if isinstance(side, Theirs):
        return found
    log_rows(side, "backlog", IMAGES)
    with opened(side.url("backlog")) as tab:
        poll(tab, READY, bool)
        began = time.monotonic()
        poll(tab, RANGE.replace("ID", "'backlog'"), lambda last: last >= IMAGES - 1)
        found["backlog"] = IMAGES * 480 * 640 * 3 / 1e6 / (time.monotonic() - began)
    with opened(side.url("latency")) as tab:
        poll(tab, READY, bool)
        tab.eval(WATCH.replace("RANGE", RANGE.replace("ID", "'latency'")))
        sent = log_rows(side, "latency", ROWS)
        time.sleep(1)
        seen = tab.eval("seen")
        found["latency"] = statistics.median((at - sent[int(row)]) * 1000 for row, at in seen[5:])
    return found


@contextlib.contextmanager
def opened(url: str) -> Iterator[Tab]:
    """A page in a browser of its own."""
    with Browser(size=(640, 480)) as browser:
        tab = browser.tab()
        # The viewer describes each message to a console that somebody reads; the page of rrd switches that off.
        tab.command("Page.addScriptToEvaluateOnNewDocument", source="console.debug = () => {}")
        tab.goto(url)
        yield tab


def main() -> None:
    """Measure in turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    results: dict[str, list[dict[str, float]]] = {Ours.name: [], Theirs.name: []}
    for number in range(rounds):
        for kind in (Ours, Theirs) if number % 2 == 0 else (Theirs, Ours):
            with tempfile.TemporaryDirectory(prefix="rrd-bench-") as home, kind(Path(home)) as side:
                results[kind.name].append(measure(side))
                print(kind.name, {name: round(value, 2) for name, value in results[kind.name][-1].items()}, flush=True)
    for name, unit, better in (("ready", "s", "less"), ("backlog", "MB/s", "more"), ("latency", "ms", "less")):
        ours = statistics.median(one[name] for one in results[Ours.name])
        theirs = [one[name] for one in results[Theirs.name] if name in one]
        beside = f", rerun {statistics.median(theirs):.2f}: {ours / statistics.median(theirs):.2f} x" if theirs else ""
        print(f"{name}: {ours:.2f} {unit}{beside} ({better} is better)")


if __name__ == "__main__":
    main()

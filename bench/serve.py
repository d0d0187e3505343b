"""The web viewer's page fed by the daemon, beside `rerun --serve-web` with its own page and server, in turns.

Run: python -m bench.serve [--rounds N]      (needs chromium and rerun-sdk[notebook]; prints medians and ratios)

    ready     from opening the page, in a browser that has never seen it, to a viewer that takes data
    again     the same at the second visit
    backlog   from there until 276 MB of images that were logged before are all in the viewer
    whole     from opening the page to that
    latency   from log() to the viewer having the row, 10 rows a second

Both viewers are asked alike: what the last frame is that they hold. Rerun's own page has no function for that, but its
handle answers with the protobuf message that the notebook's get_time_range is made of.
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
from pathlib import Path

from bench.place import report
from tests.integration.chromium import Browser, BrowserError, Tab

ROWS = 50
IMAGES = 300
SIZE = (640, 480)
LOG = """
import sys, time
import numpy as np
import rerun as rr
kind, url = sys.argv[1], sys.argv[3]
rr.init("bench", recording_id=kind)
if url:
    rr.connect_grpc(url)
else:
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
RERUNS_PAGE = """
Object.defineProperty(window, "_handle", { set(handle) {
  const varint = (data, at) => {
    let value = 0, scale = 1;
    for (;; scale *= 128) {
      const byte = data[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return [value, at];
    }
  };
  const fields = (data) => {
    const found = [];
    for (let at = 0, tag, value; at < data.length; ) {
      [tag, at] = varint(data, at);
      if ((tag & 7) === 0) [value, at] = varint(data, at);
      else if ((tag & 7) === 2) { [value, at] = varint(data, at); value = data.subarray(at, at += value); }
      else { value = null; at += (tag & 7) === 1 ? 8 : 4; }
      found.push([tag >> 3, value]);
    }
    return found;
  };
  const all = (data, number) => fields(data).filter(([field]) => field === number).map(([, value]) => value);
  const text = (data) => new TextDecoder().decode(data);
  window.readyAt = performance.now();
  window.rrdViewer = { get_time_range(recording, timeline) {
    // GetStateResponse{3: recordings{1: store_id, 2: timelines{1: {1: name}, 3: {1: start, 2: end}}}}
    for (const one of all(handle.viewer_state(), 3)) {
      if (!text(all(one, 1)[0]).endsWith(recording)) continue;
      for (const line of all(one, 2)) {
        const range = all(line, 3)[0];
        if (range && text(all(all(line, 1)[0], 1)[0]) === timeline) return { max: all(range, 2)[0] ?? 0 };
      }
    }
    return null;
  } };
} });
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
WHEN = """(() => {
  const look = () => {
    if (RANGE >= LAST) window.completeAt = performance.now();
    else requestAnimationFrame(look);
  };
  look();
})()"""
READY = "window.rrd ? rrd.times.ready : window.readyAt"


class Ours:
    """The daemon, in a home of its own."""

    name = "rrd serve"
    logs_to = ""

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

    def url(self, source: str) -> str:
        """The page for a recording."""
        return str(json.loads(self._rrd("serve", "--no-open", "--json", source))["url"])


class Theirs:
    """`rerun --serve-web`."""

    name = "rerun --serve-web"

    def __init__(self, home: Path) -> None:
        self.env = {**os.environ, "HOME": str(home), "NO_COLOR": "1", "RUST_LOG": "info",
                    "RERUN_ANALYTICS_ENABLED": "0"}

    def __enter__(self) -> Theirs:
        spec = importlib.util.find_spec("rerun_cli")
        assert spec is not None
        assert spec.origin is not None
        command = [str(Path(spec.origin).parent / "rerun"), "--serve-web", "--port", "0", "--web-viewer-port", "0",
                   "--bind", "127.0.0.1"]
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(command, env=self.env, stdout=self._log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 20
        while True:
            self._log.seek(0)
            said = self._log.read()
            web, grpc = re.search(r"connect at (http://\S+)", said), re.search(r"(rerun\+http://[^`\s]+)", said)
            if web and grpc:
                break
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        self._web, self.logs_to = web[1], grpc[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def url(self, source: str) -> str:
        """Its page: it shows all that its server has."""
        del source
        return self._web


Side = Ours | Theirs


def poll(tab: Tab, expression: str) -> float:
    """Ask until there is an answer."""
    deadline = time.monotonic() + 180
    while True:
        value = None
        with contextlib.suppress(BrowserError):
            value = tab.eval(expression)
        if value:
            return float(value)
        assert time.monotonic() < deadline, expression
        time.sleep(0.02)


def log_rows(side: Side, kind: str, rows: int) -> list[float]:
    """Run the program; when it logged each row, Unix seconds."""
    done = subprocess.run([sys.executable, "-c", LOG, kind, str(rows), side.logs_to], env=side.env, check=True,
                          stdout=subprocess.PIPE, text=True)
    return [float(line) for line in done.stdout.split()]


def ready(side: Side) -> dict[str, float]:
    """Seconds to a viewer, at the first visit and at the second."""
    with Browser(size=SIZE) as browser:
        found = []
        for _ in range(2):
            tab = opened(browser, side.url("@live"))
            found.append(poll(tab, READY) / 1000)
            time.sleep(2)  # browsers write compiled code to their cache when they have time
            tab.close()
    return {"ready": found[0], "again": found[1]}


def backlog(side: Side) -> dict[str, float]:
    """MB/s from a viewer to a complete recording, and seconds from opening the page."""
    log_rows(side, "backlog", IMAGES)
    with Browser(size=SIZE) as browser:
        tab = opened(browser, side.url("backlog"))
        began = poll(tab, READY) / 1000
        tab.eval(WHEN.replace("RANGE", RANGE.replace("ID", "'backlog'")).replace("LAST", str(IMAGES - 1)))
        whole = poll(tab, "window.completeAt") / 1000
    return {"backlog": IMAGES * 480 * 640 * 3 / 1e6 / (whole - began), "whole": whole}


def latency(side: Side) -> dict[str, float]:
    """Median milliseconds from log() to the viewer."""
    with Browser(size=SIZE) as browser:
        tab = opened(browser, side.url("@live"))
        poll(tab, READY)
        tab.eval(WATCH.replace("RANGE", RANGE.replace("ID", "'latency'")))
        sent = log_rows(side, "latency", ROWS)
        tab.until(f"seen.at(-1)[0] === {ROWS - 1}")
        return {"latency": statistics.median((at - sent[int(row)]) * 1000 for row, at in tab.eval("seen")[5:])}


def opened(browser: Browser, url: str) -> Tab:
    """A page."""
    tab = browser.tab()
    # The viewer describes each message to a console that somebody reads; the page of rrd switches that off.
    tab.command("Page.addScriptToEvaluateOnNewDocument", source="console.debug = () => {};" + RERUNS_PAGE)
    tab.goto(url)
    return tab


def main() -> None:
    """Measure in turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("ready", "backlog", "latency"))
    args = parser.parse_args()
    sides: tuple[type[Ours], type[Theirs]] = (Ours, Theirs)
    results: dict[str, list[dict[str, float]]] = {side.name: [] for side in sides}
    for number in range(args.rounds):
        for measure in (ready, backlog, latency):
            if args.only not in (None, measure.__name__):
                continue
            for kind in sides if number % 2 == 0 else reversed(sides):
                with tempfile.TemporaryDirectory(prefix="rrd-bench-") as home, kind(Path(home)) as side:
                    results[kind.name].append(measure(side))
                    print(kind.name, {name: round(x, 2) for name, x in results[kind.name][-1].items()}, flush=True)
    for name, unit, aim in (("ready", "s", "<= 1.10"), ("again", "s", "<= 1.10"), ("backlog", "MB/s", ">= 1.00"),
                            ("whole", "s", "<= 1.10"), ("latency", "ms", "<= 1.10")):
        ours, theirs = ([one[name] for one in results[side.name] if name in one] for side in sides)
        if ours:
            mine, yours = statistics.median(ours), statistics.median(theirs)
            report(f"{name}: {mine:.2f} {unit}, rerun --serve-web {yours:.2f} {unit}", mine / yours, aim)


if __name__ == "__main__":
    main()

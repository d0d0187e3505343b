"""The picture of `rrd top` in README.md: python docs/top.py writes docs/top.svg.

What is drawn is `frame`, which draws the real screen; the figures are those of a robot with a camera.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console, Group
from rich.terminal_theme import DIMMED_MONOKAI

from rrd_cli.commands.top import Model, frame

WIDTH, HEIGHT = 80, 15
MB = 1_000_000


def status(second: int) -> dict:
    steady = 310 * second
    outputs = [
        {"id": "file-0bf8", "state": "following", "lag_bytes": 0, "target": "/home/me/recordings/robot/run-17.rrd",
         "delivered_messages": steady + second * second % 5 * 60},
        {"id": "viewer-920a", "state": "following", "lag_bytes": 0, "target": "rerun+http://127.0.0.1:9876/proxy",
         "delivered_messages": steady + second * second % 7 * 40},
        {"id": "viewer-77c1", "state": "retrying", "lag_bytes": 412 * MB, "delivered_messages": 0,
         "target": "rerun+http://10.0.0.7:9876/proxy", "last_error": "nobody listens there: 10.0.0.7:9876"},
    ]
    about = {"version": "0.1.0", "pid": 4711, "uptime_s": 7260, "rss_bytes": 41 * MB, "spool_bytes": 3180 * MB,
             "spool_free_bytes": 69_600 * MB}
    return {"daemon": about, "sinks": outputs}


def recordings(second: int, now: float) -> list[dict]:
    def one(application: str, recording: str, state: str, size: float, age: float, program: str) -> dict:
        return {"application_id": application, "recording_id": recording, "state": state, "bytes": int(size * MB),
                "started_at": now - age, "program": program}
    return [one("robot", "run-17", "live", 380 + 1.9 * second, 212, "drive.py"),
            one("camera", "cam-front", "live", 1400 + 27.6 * second, 212, "camera.py"),
            one("robot", "run-16", "ended", 1010, 2600, "drive.py"),
            one("calibration", "c-2026-11-22", "ended", 22.4, 5400, "calibrate")]


def main() -> None:
    model, now = Model(), 1_000_000.0
    for second in range(14):
        model.update(status(second), recordings(second, now), clock=second + 1.0, now=now, cpu_s=0.031 * second)
    console = Console(width=WIDTH, height=HEIGHT, record=True, file=io.StringIO(), force_terminal=True)
    console.print(Group(*frame(model, WIDTH, HEIGHT)))
    svg = console.export_svg(title="rrd top", theme=DIMMED_MONOKAI, unique_id="top")
    # The page that shows it has a monospaced font of its own: none is fetched from elsewhere.
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code, monospace", "monospace")
    Path(__file__).with_name("top.svg").write_text(re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE))


if __name__ == "__main__":
    main()

"""What somebody who presses Tab waits for: names that are asked of the daemon. Goal: under 150 ms.

Each figure is the median of fresh processes, run in turn, with recordings and a viewer to offer.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from bench.place import place, receiver
from rrd_cli.completions import ASKED

ROUNDS = 15
RECORDINGS = 50
GOAL_MS = 150.0
PROGRAM = """
import sys, rerun as rr
for number in range(int(sys.argv[1])):
    with rr.RecordingStream("bench", recording_id=f"recording-{number}") as recording:
        recording.connect_grpc(sys.argv[2])
        recording.log("row", rr.TextLog("one"))
"""


def main() -> None:
    with place() as one, receiver(one, "--serve-grpc"):
        url = next(line.split()[-1] for line in one.cli("status").splitlines() if "gRPC" in line)
        subprocess.run([sys.executable, "-c", PROGRAM, str(RECORDINGS), url], env=one.env, check=True)
        found: dict[str, list[float]] = {kind: [] for kind in ("python alone", *ASKED)}
        for _ in range(ROUNDS):
            for kind, times in found.items():
                words = ["-c", "pass"] if kind == "python alone" else ["-m", "rrd_cli", "_complete", kind]
                begin = time.perf_counter()
                subprocess.run([sys.executable, *words], env=one.env, check=True, capture_output=True)
                times.append((time.perf_counter() - begin) * 1000)
        for kind, times in found.items():
            goal = "" if kind == "python alone" else f"  (goal: under {GOAL_MS:.0f})"
            print(f"{kind:28} {statistics.median(times):7.1f} ms, at best {min(times):.1f}{goal}")


if __name__ == "__main__":
    main()

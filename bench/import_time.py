"""What `import rrd` costs beyond `import rerun`, and what the first attach imports on top. Goal: import under 30 ms.

Each figure is the median of fresh interpreters, run in turn. What is there already is imported before the clock starts.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

ROUNDS = 15
GOAL_MS = 30.0
PROGRAMS = {
    "rerun alone": ("pass", "import rerun"),
    "rrd alone": ("pass", "import rrd"),
    "rrd beyond rerun": ("import rerun", "import rrd"),
    "first attach, beyond both": ("import rerun, rrd", "import rrd._session, cbor2, ctypes, fcntl"),
}
"""What is there already, and what is measured."""


def measure(before: str, code: str) -> float:
    """Milliseconds that the second import takes after the first."""
    timed = f"import time; {before}; t = time.perf_counter(); {code}; print((time.perf_counter() - t) * 1000)"
    return float(subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    for program in PROGRAMS.values():
        measure(*program)  # compiled and in the page cache
    found: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(ROUNDS):
        for name, program in PROGRAMS.items():
            found[name].append(measure(*program))
    for name, times in found.items():
        goal = f"  (goal: under {GOAL_MS:.0f})" if name == "rrd beyond rerun" else ""
        print(f"{name:28} {statistics.median(times):7.1f} ms{goal}")


if __name__ == "__main__":
    main()

"""What `import rrd` costs beyond `import rerun`, and what the first attach imports on top. Goal: import under 30 ms.

Each figure is the median of fresh interpreters, the three programs run in turn.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 15
GOAL_MS = 30.0
PROGRAMS = {
    "import rerun": "import rerun",
    "import rerun, rrd": "import rerun, rrd",
    "import rrd": "import rrd",
    "all that attach imports": "import rerun, rrd, rrd._session, cbor2, ctypes, fcntl",
}


def measure(code: str) -> float:
    """Milliseconds that the imports take, interpreter start not counted."""
    timed = f"import time; t = time.perf_counter(); {code}; print((time.perf_counter() - t) * 1000)"
    return float(subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    for code in PROGRAMS.values():
        measure(code)  # compiled and in the page cache
    found: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(ROUNDS):
        for name, code in PROGRAMS.items():
            found[name].append(measure(code))
    medians = {name: statistics.median(times) for name, times in found.items()}
    for name, median in medians.items():
        print(f"{name:28} {median:7.1f} ms")
    extra = statistics.median(
        both - alone for both, alone in zip(found["import rerun, rrd"], found["import rerun"], strict=True))
    print(f"rrd beyond rerun             {extra:7.1f} ms (goal: under {GOAL_MS:.0f})")


if __name__ == "__main__":
    begin = time.monotonic()
    main()
    print(f"measured in {time.monotonic() - begin:.0f} s")

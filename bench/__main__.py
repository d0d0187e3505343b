"""`make bench`: all benchmarks, one after the other. Each can be run alone: python -m bench.NAME."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

for path in sorted(Path(__file__).parent.glob("*.py")):
    if path.stem not in ("__init__", "__main__", "load", "place"):
        print(f"\n== {path.stem}", flush=True)
        subprocess.run([sys.executable, "-m", f"bench.{path.stem}"], check=False)

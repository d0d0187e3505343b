"""Recovering and finishing files, against `rerun rrd merge` on the same file. Medians of alternating runs.

    python -m bench.recover [DIRECTORY]         files of 556 MB (images) and of 100k small chunks; DIRECTORY on a disk

Then the memory that each verb needs for a file of 1.2 GB.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOAD = Path(__file__).with_name("load.py")
RUNS = 5
IMAGES = 600
SMALL = 100_000


def seconds(*command: object) -> float:
    begin = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return time.perf_counter() - begin


def peak(*command: object) -> int:
    """Peak resident memory of a command, in MB."""
    program = (
        "import resource, subprocess, sys;"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
    )
    arguments = [sys.executable, "-c", program, *map(str, command)]
    return int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


def without_footer(path: Path) -> None:
    """Cut a file's End, as a kill would."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(size - 32)
        start = int.from_bytes(file.read(8), "little")
    os.truncate(path, start - 16)


def make(path: Path, kind: str, count: int, **environment: str) -> None:
    subprocess.run(
        [sys.executable, LOAD, kind, str(count), "save", str(path)], env={**os.environ, **environment}, check=True,
        capture_output=True,
    )
    without_footer(path)


def memory(directory: Path) -> None:
    """Peaks of what must not grow with the file: these are no more than for the 556 MB above."""
    long, output = directory / "long.rrd", directory / "output.rrd"
    make(long, "img", IMAGES * 13 // 6)
    rrd = [sys.executable, "-m", "rrd_cli"]
    commands = {
        "rrd info": [*rrd, "info", long],
        "rrd info --check": [*rrd, "info", "--check", long],
        "rrd tail": [*rrd, "tail", long],
        "rrd tail -n 100": [*rrd, "tail", "-n", "100", long],
        "rrd recover": [*rrd, "recover", "--force", long, "-o", output],
        "finish": [sys.executable, "-m", "daemon.spool.finish", long],
    }
    print(f"{long.stat().st_size / 1e6:.0f} MB: " + ", ".join(f"{name} {peak(*command)} MB"
                                                           for name, command in commands.items()))


def main(directory: Path) -> None:
    spec = importlib.util.find_spec("rerun_cli")
    assert spec is not None
    assert spec.origin is not None
    rerun = Path(spec.origin).parent / "rerun"
    images, small, output, log = (directory / f"{n}.rrd" for n in ("images", "small", "output", "log"))
    make(images, "img", IMAGES)
    make(small, "scalar", SMALL, RERUN_FLUSH_NUM_ROWS="1")
    for path, goal in ((images, 1.0), (small, 0.4)):
        merge = [rerun, "rrd", "merge", path, "-o", output]
        recover = [sys.executable, "-m", "rrd_cli", "recover", "--force", path, "-o", output]
        finish = [sys.executable, "-m", "daemon.spool.finish", log]
        theirs, ours, finished = [], [], []
        for _ in range(RUNS):
            theirs.append(seconds(*merge))
            output.unlink()
            ours.append(seconds(*recover))
            output.unlink()
            shutil.copyfile(path, log)
            finished.append(seconds(*finish))
            log.unlink()
        base = statistics.median(theirs)
        print(f"{path.stem}: {path.stat().st_size / 1e6:.0f} MB; `rerun rrd merge` {base:.2f} s, {peak(*merge)} MB")
        output.unlink()
        print(f"  rrd recover  {statistics.median(ours) / base:.2f} of that (goal {goal}), {peak(*recover)} MB")
        output.unlink()
        print(f"  finish       {statistics.median(finished) / base:.2f} of that, {statistics.median(finished):.2f} s")
    memory(directory)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory(prefix="rrd-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as made:
            main(Path(made))

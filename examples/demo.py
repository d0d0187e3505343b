"""`make demo`: the main job on this machine, said aloud. Leaves two files in demo-out/ and a running daemon."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "demo-out"
BIN = Path(sys.executable).parent


def say(text: str) -> None:
    print(f"\n\033[1m# {text}\033[0m" if sys.stdout.isatty() else f"\n# {text}", flush=True)


def run(*argv: object) -> None:
    words = [str(word) for word in argv]
    print(f"$ {' '.join([Path(words[0]).name, *words[1:]])}", flush=True)
    done = subprocess.run(words, cwd=OUT, check=False)
    if done.returncode:
        sys.exit(f"error: {words[0]} ended with {done.returncode}; `rrd daemon logs` may say why")


def main() -> None:
    OUT.mkdir(exist_ok=True)
    # A demo asks nobody for permission to count it.
    subprocess.run([BIN / "rerun", "analytics", "disable"], check=False, capture_output=True)
    rrd = BIN / "rrd"
    say("The daemon. It would start by itself, too.")
    run(rrd, "daemon", "start")
    say("A real Rerun program logs images, points and scalars through it, with one output chosen from the start.")
    print("$ python examples/walk.py --save chosen-at-the-start.rrd &", flush=True)
    walk = [sys.executable, ROOT / "examples" / "walk.py", "--save", "chosen-at-the-start.rrd"]
    program = subprocess.Popen(walk, cwd=OUT, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    time.sleep(2.5)
    say("While it runs:")
    run(rrd, "ls")
    run(rrd, "status")
    if program.wait():
        sys.exit("error: the program failed")
    say("The program has ended. Nobody asked for this one in time, and here it is:")
    run(rrd, "save", "asked-for-afterwards.rrd", "@latest", "--force")
    say("Rerun's own tool checks both:")
    run(BIN / "rerun", "rrd", "verify", "chosen-at-the-start.rrd", "asked-for-afterwards.rrd")
    say(f"The files are in {OUT}")
    for path in sorted(OUT.glob("*.rrd")):
        print(f"  {path}  {path.stat().st_size / 1e6:.1f} MB")
    print(f"\nLook at one: {BIN / 'rerun'} {OUT / 'chosen-at-the-start.rrd'}")
    print(f"The daemon stays; {rrd} daemon stop ends it.")


if __name__ == "__main__":
    main()

"""How fast a recording goes to a server: `rrd connect URL FILE` beside `rerun FILE`, which streams the file to it.

    python -m bench.replay [ROUNDS]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from bench.place import Place, alternate, place, receiver, report, rerun
from rrd_cli.client import Client

MEGABYTES = 556

MAKE = """
import sys, numpy, rerun as rr
rr.init("bench", recording_id="replay"); rr.save(sys.argv[1])
image = numpy.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=numpy.uint8)
for i in range(int(int(sys.argv[2]) * 1e6 / 0.9216e6)):
    rr.set_time("frame", sequence=i)
    rr.log("camera", rr.Image(image))
    rr.log("scalar", rr.Scalars(i))
"""


def ours(one: Place, path: Path) -> float:
    """From saying the verb until the server has confirmed all of it."""
    with receiver(one, "--serve-grpc") as server:
        began = time.perf_counter()
        name = json.loads(one.cli("connect", server.url, path, "--json"))["sink"]["id"]
        with Client(one.disk / "r" / "rrd" / "control.sock") as client:
            while True:
                (sink,) = (sink for sink in client.call("status", {})["sinks"] if sink["id"] == name)
                if sink["state"] == "complete":
                    return time.perf_counter() - began
                assert sink["state"] in ("starting", "following"), sink
                time.sleep(0.02)


def theirs(one: Place, path: Path) -> float:
    """Rerun's own way: who finds a server on the port streams the file to it."""
    with receiver(one, "--serve-grpc") as server:
        port = server.url.split(":")[2].split("/")[0]
        began = time.perf_counter()
        subprocess.run([rerun(), "--port", port, path], env=one.env, check=True, capture_output=True, timeout=300)
        return time.perf_counter() - began


def main(rounds: int = 5) -> None:
    with place() as one:
        path = one.disk / "replay.rrd"
        subprocess.run([sys.executable, "-c", MAKE, path, str(MEGABYTES)], env=one.env, check=True)
        found = alternate(rounds, ours=lambda: ours(one, path), theirs=lambda: theirs(one, path))
        print(f"-- {MEGABYTES} MB into a server: rrd connect {found['ours']:.2f} s, rerun FILE {found['theirs']:.2f} s")
        report("time of rrd connect / of rerun FILE", found["ours"] / found["theirs"], "<= 1.0")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:2]))

"""How fast a recording goes to a server: `rrd connect`'s sink beside `rerun FILE`, which streams the file to it.

Run: python bench/replay.py [--rounds N] [--megabytes M]     (needs rerun-sdk; prints both times and their ratio)
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.grpc_in import binary, free_port, server

MAKE = """
import sys, numpy, rerun as rr
rr.init("bench", recording_id="replay"); rr.save(sys.argv[1])
image = numpy.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=numpy.uint8)
for i in range(int(int(sys.argv[2]) * 1e6 / 0.9216e6)):
    rr.set_time("frame", sequence=i)
    rr.log("camera", rr.Image(image))
    rr.log("scalar", rr.Scalars(i))
"""

PUSH = """
import sys, time, trio
from pathlib import Path
from daemon.hub import Hub
from daemon.selection import resolve
from daemon.sinks.viewer import ViewerSink
from daemon.wire.grpc import parse_url
async def main():
    hub = Hub(Path(sys.argv[1]))
    stream = await hub.open_file(Path(sys.argv[2]))
    sink = ViewerSink(hub, resolve([stream.id], hub.streams, time.time()), parse_url(sys.argv[3]))
    began = time.perf_counter()
    await sink.deliver()
    print(time.perf_counter() - began, sink.delivered_messages)
trio.run(main)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=556)
    arguments = parser.parse_args()
    rerun = binary()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "replay.rrd"
        subprocess.run([sys.executable, "-c", MAKE, str(path), str(arguments.megabytes)], check=True)
        size = path.stat().st_size / 1e6
        ours, theirs = [], []
        for _ in range(arguments.rounds):
            for name in ("ours", "theirs"):
                port = free_port()
                with server([rerun, "--serve-grpc", "--port", str(port), "--bind", "127.0.0.1"], port):
                    url = f"rerun+http://127.0.0.1:{port}/proxy"
                    began = time.perf_counter()
                    if name == "ours":
                        subprocess.run([sys.executable, "-c", PUSH, directory, str(path), url], check=True,
                                       capture_output=True, timeout=300)
                        ours.append(time.perf_counter() - began)
                    else:
                        subprocess.run([rerun, "--port", str(port), str(path)], check=True, capture_output=True,
                                       timeout=300)
                        theirs.append(time.perf_counter() - began)
        mine, other = statistics.median(ours), statistics.median(theirs)
        print(f"{size:.0f} MB: sink {mine:.2f} s ({size / mine:.0f} MB/s, with the interpreter's start), "
              f"rerun FILE {other:.2f} s, ratio {mine / other:.2f}")


if __name__ == "__main__":
    main()

"""How fast an unmodified SDK streams into the daemon, beside `rerun --serve-grpc`, in turns.

Run: python bench/grpc_in.py [--rounds N]      (needs rerun-sdk; prints one line a load, the ratio of medians)
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

IMAGES = """
import sys, time, numpy, rerun as rr
rr.init("bench"); rr.connect_grpc(sys.argv[1])
image = numpy.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=numpy.uint8)
began = time.perf_counter()
for i in range(400):
    rr.set_time("frame", sequence=i)
    rr.log("camera", rr.Image(image))
rr.disconnect()
print("seconds", time.perf_counter() - began)
"""
POINTS = """
import sys, time, numpy, rerun as rr
rr.init("bench"); rr.connect_grpc(sys.argv[1])
points = numpy.random.default_rng(0).normal(size=(20000, 3)).astype(numpy.float32)
began = time.perf_counter()
for i in range(1000):
    rr.set_time("frame", sequence=i)
    rr.log("cloud", rr.Points3D(points))
rr.disconnect()
print("seconds", time.perf_counter() - began)
"""
SCALARS = """
import sys, time, rerun as rr
rr.init("bench"); rr.connect_grpc(sys.argv[1])
began = time.perf_counter()
for i in range(100000):
    rr.set_time("frame", sequence=i)
    rr.log("scalar", rr.Scalars(i))
rr.disconnect()
print("seconds", time.perf_counter() - began)
"""

DAEMON = """
import sys, trio
from pathlib import Path
from daemon.hub import Hub
from daemon.ingest.grpc import GrpcServer
async def main():
    hub = Hub(Path(sys.argv[2]))
    await GrpcServer(hub, int(sys.argv[1])).serve()
trio.run(main)
"""


def binary() -> str:
    """The `rerun` executable itself, not pip's launcher: a signal does not reach the launcher's child."""
    spec = importlib.util.find_spec("rerun_cli")
    assert spec is not None, "rerun-sdk is not installed"
    assert spec.origin is not None
    return os.path.join(os.path.dirname(spec.origin), "rerun")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def server(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(20)


def run(program: str, port: int) -> float:
    url = f"rerun+http://127.0.0.1:{port}/proxy"
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, timeout=300, check=True)
    found = re.search(r"seconds ([\d.]+)", done.stdout)
    assert found, done.stderr
    return float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rerun = binary()
    for name, program in (("images", IMAGES), ("points", POINTS), ("scalars", SCALARS)):
        ours, theirs = [], []
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as spool:
                port = free_port()
                with server([sys.executable, "-c", DAEMON, str(port), spool], port):
                    ours.append(run(program, port))
                    size = sum(path.stat().st_size for path in Path(spool).glob("*.rrd"))
            port = free_port()
            with server([rerun, "--serve-grpc", "--port", str(port), "--bind", "127.0.0.1"], port):
                theirs.append(run(program, port))
        mine, other = statistics.median(ours), statistics.median(theirs)
        print(f"{name}: daemon {mine:.2f} s ({size / 1e6 / mine:.0f} MB/s), rerun --serve-grpc {other:.2f} s, "
              f"speed {other / mine:.2f} times rerun's", flush=True)


if __name__ == "__main__":
    main()

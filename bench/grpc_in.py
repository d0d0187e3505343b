"""How fast an unmodified SDK streams into the daemon, beside `rerun --serve-grpc`, in turns.

    python -m bench.grpc_in [ROUNDS]
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

from bench.place import alternate, place, receiver, report

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

LOADS = (("400 images", IMAGES), ("1000 clouds", POINTS), ("100k scalars", SCALARS))


def seconds(program: str, url: str) -> float:
    """What the program says that it took, until the server has it all."""
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, timeout=300, check=True)
    found = re.search(r"seconds ([\d.]+)", done.stdout)
    assert found, done.stderr
    return float(found[1])


def main(rounds: int = 5) -> None:
    with place() as one:
        url = json.loads(one.cli("status", "--json"))["daemon"]["grpc_url"]
        for name, program in LOADS:
            def ours(program: str = program) -> float:
                took = seconds(program, url)
                one.clear()
                return took

            def theirs(program: str = program) -> float:
                with receiver(one, "--serve-grpc") as server:
                    return seconds(program, server.url)

            found = alternate(rounds, ours=ours, theirs=theirs)
            print(f"-- {name}: daemon {found['ours']:.2f} s, rerun --serve-grpc {found['theirs']:.2f} s")
            report(f"{name}: speed into the daemon / rerun --serve-grpc", found["theirs"] / found["ours"], ">= 1.0")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:2]))

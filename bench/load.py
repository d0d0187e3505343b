"""A program's wall time: prints seconds from choosing the output to its end.

    load.py KIND COUNT MODE [ARGUMENT...]        kinds: img, pts, scalar; modes:
    save PATH... | nothing | grpc URL... | rrd [PATH...] | rrd-copy PATH...

`nothing` is a pipe that somebody reads and forgets: what any tool costs that a program reaches through a pipe.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import rerun as rr

from daemon.ingest.pipe import set_pipe_size

FORGET = """
import os
print(flush=True)
with open(os.devnull, "wb") as no:
    while os.splice(0, no.fileno(), 1 << 20):
        pass
"""


def forgetful_pipe() -> str:
    """A pipe as large as the daemon's whose reader moves everything to /dev/null; its path."""
    read, write = os.pipe()
    set_pipe_size(read, 0)
    reader = subprocess.Popen([sys.executable, "-c", FORGET], stdin=read, stdout=subprocess.PIPE)
    assert reader.stdout is not None
    reader.stdout.readline()
    os.close(read)
    return f"/proc/self/fd/{write}"


def main(kind: str, count: int, mode: str, arguments: list[str]) -> None:
    rr.init("rrd_bench", recording_id=os.environ.get("RECORDING", "bench"))
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (480, 640, 3), dtype=np.uint8) for _ in range(8)]
    clouds = [random.random((20_000, 3), dtype=np.float32) for _ in range(8)]
    if mode.startswith("rrd"):
        import rrd
    if mode == "nothing":
        arguments = [forgetful_pipe()]
    begin = time.perf_counter()
    if mode in ("save", "nothing"):
        if len(arguments) == 1:
            rr.save(arguments[0])
        else:
            rr.set_sinks(*map(rr.FileSink, arguments))
    elif mode == "grpc":
        if len(arguments) == 1:
            rr.connect_grpc(arguments[0])
        else:
            rr.set_sinks(*map(rr.GrpcSink, arguments))
    else:
        rrd.attach()
        for path in arguments:
            rrd.save(path, copy=mode == "rrd-copy")
    for index in range(count):
        rr.set_time("frame", sequence=index)
        if kind == "img":
            rr.log("camera", rr.Image(images[index % 8]))
        elif kind == "pts":
            rr.log("points", rr.Points3D(clouds[index % 8]))
        else:
            rr.log(f"scalar/{index % 10}", rr.Scalars(index * 0.5))
    rr.disconnect()
    print(time.perf_counter() - begin)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:])

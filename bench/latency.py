"""From log() to a receiver: what the way through the daemon adds to the time that a row takes.

    python -m bench.latency [ROUNDS]

A program logs a row now and then; a receiver notes when each arrives. Directly (`connect_grpc` to the receiver),
through the daemon by gRPC, and through the daemon with the shim (`rrd.connect`), in turns, on one clock.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from bench.place import Place, alternate, place, report

ROWS = 100

PROGRAM = """
import json, sys, time, rerun as rr
way, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
if way == "shim":
    import rrd
rr.init("latency", recording_id="latency")
rrd.connect(url) if way == "shim" else rr.connect_grpc(url)
rr.log("row", rr.TextLog("first"))
rr.get_global_data_recording().flush()
time.sleep(1.0)
logged = []
for row in range(count):
    logged.append(time.monotonic())
    rr.log("row", rr.TextLog(str(row)))
    time.sleep(0.03)
time.sleep(0.5)
print(json.dumps(logged))
"""
RECEIVER = """
import json, sys, time, trio
from pathlib import Path
from daemon.hub import Hub
from daemon.ingest.grpc import GrpcServer

async def main():
    hub, arrived = Hub(Path(sys.argv[1])), []
    server = GrpcServer(hub, 0)

    async def watch():
        seen = -1
        while True:
            seen = await hub.wait_change(seen)
            messages = sum(stream.messages for stream in hub.streams.values())
            arrived.extend([time.monotonic()] * (messages - len(arrived)))

    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        nursery.start_soon(watch)
        print(server.url, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        print(json.dumps(arrived))
        nursery.cancel_scope.cancel()

trio.run(main)
"""


@contextlib.contextmanager
def receiver() -> Iterator[tuple[str, list[float]]]:
    """Its URL, and, when it has ended, when each message arrived."""
    arrived: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen([sys.executable, "-c", RECEIVER, directory], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        yield process.stdout.readline().strip(), arrived
        arrived += json.loads(process.communicate()[0])


def run(one: Place, way: str) -> float:
    """The median time of a row, milliseconds.

    Args:
        one: Where the daemon is.
        way: `direct`, `grpc` or `shim`.
    """
    with receiver() as (url, arrived):
        sink = ""
        if way == "grpc":
            sink = json.loads(one.cli("connect", url, "@live", "--json"))["sink"]["id"]
            url = json.loads(one.cli("status", "--json"))["daemon"]["grpc_url"]
        done = subprocess.run([sys.executable, "-c", PROGRAM, way, url, str(ROWS)], env=one.env, capture_output=True,
                              text=True, check=True)
        if sink:
            one.cli("detach", sink)
    logged = json.loads(done.stdout)
    if way != "direct":
        one.clear()
    times: list[float] = [then - began for began, then in zip(logged, arrived[-ROWS:], strict=True)]
    return 1000 * statistics.median(times)


def main(rounds: int = 5) -> None:
    with place() as one:
        found = alternate(rounds, **{way: lambda way=way: run(one, way) for way in ("direct", "grpc", "shim")})
    print(f"-- log() to arrival, median: direct {found['direct']:.1f} ms, grpc {found['grpc']:.1f} ms, "
          f"shim {found['shim']:.1f} ms")
    report("log() to arrival through the daemon, gRPC / direct", found["grpc"] / found["direct"], "<= 1.2")
    report("log() to arrival through the daemon, shim / direct", found["shim"] / found["direct"], "<= 1.2")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:2]))

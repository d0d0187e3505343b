"""A daemon, receivers and directories for a benchmark, all of its own and all gone afterwards."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from daemon.wire.rrd import FRAME_HEADER_SIZE, HEADER_SIZE, Kind, parse_frame_header

LOAD = Path(__file__).with_name("load.py")


@dataclass
class Place:
    """Directories on the disk (`disk`) and on another file system (`other`), and the environment of a daemon there."""

    disk: Path
    other: Path
    env: dict[str, str] = field(default_factory=dict)

    def load(self, kind: str, count: int, mode: str, *arguments: object) -> float:
        """Seconds that a program needs."""
        for argument in arguments:
            with contextlib.suppress(OSError):
                Path(str(argument)).unlink()
        done = subprocess.run([sys.executable, LOAD, kind, str(count), mode, *map(str, arguments)], env=self.env,
                              capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])

    def cli(self, *argv: object) -> str:
        """Say a verb."""
        return subprocess.run([sys.executable, "-m", "rrd_cli", *map(str, argv)], env=self.env, capture_output=True,
                              text=True, check=True).stdout

    def clear(self) -> None:
        """Forget what was logged."""
        deadline = time.monotonic() + 60
        while '"live"' in self.cli("ls", "--json") and time.monotonic() < deadline:
            time.sleep(0.05)
        self.cli("forget", "--ended", "--yes")


@contextlib.contextmanager
def place(other: str = "/dev/shm") -> Iterator[Place]:
    """Make one, with a daemon in it."""
    disk = Path(tempfile.mkdtemp(prefix="rrd-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    elsewhere = Path(tempfile.mkdtemp(prefix="rrd-bench-", dir=other))
    one = Place(disk, elsewhere)
    for name in ("r", "s", "c"):
        (disk / name).mkdir(mode=0o700)
    one.env = {**os.environ, "XDG_RUNTIME_DIR": str(disk / "r"), "XDG_STATE_HOME": str(disk / "s"),
               "XDG_CONFIG_HOME": str(disk / "c"), "RRD_GRPC_PORT": "0", "RERUN_ANALYTICS_ENABLED": "0"}
    try:
        one.cli("daemon", "start")
        yield one
    finally:
        subprocess.run([sys.executable, "-m", "rrd_cli", "daemon", "stop", "--force"], env=one.env, check=False,
                       capture_output=True)
        shutil.rmtree(disk, ignore_errors=True)
        shutil.rmtree(elsewhere, ignore_errors=True)


def rerun() -> str:
    """The `rerun` executable itself, not pip's launcher: a signal does not reach the launcher's child."""
    spec = importlib.util.find_spec("rerun_cli")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "rerun")


class Receiver(NamedTuple):
    """Where it listens, and its process."""

    url: str
    pid: int


@contextlib.contextmanager
def receiver(one: Place, *arguments: object) -> Iterator[Receiver]:
    """A real `rerun` that receives on a port of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [rerun(), *map(str, arguments), "--port", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, env=one.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if time.monotonic() > deadline:
                raise TimeoutError("the receiver does not listen")
            time.sleep(0.05)
        yield Receiver(f"rerun+http://127.0.0.1:{port}/proxy", process.pid)
    finally:
        process.terminate()
        process.wait()


def data_frames(path: Path) -> list[bytes]:
    """The frames of a file that the SDK made, without its End."""
    data, at, found = path.read_bytes(), HEADER_SIZE, []
    while (head := parse_frame_header(data, at))[0] != Kind.END:
        end = at + FRAME_HEADER_SIZE + head[1]
        found.append(data[at:end])
        at = end
    return found


def repeated(path: Path, kind: str, count: int, size: int) -> None:
    """Make a long stream without an end: what load.py logs, one row a chunk, again and again."""
    with tempfile.TemporaryDirectory() as directory:
        seed = Path(directory) / "seed.rrd"
        subprocess.run([sys.executable, LOAD, kind, str(count), "save", seed], check=True, capture_output=True,
                       env={**os.environ, "RERUN_FLUSH_NUM_ROWS": "1"})
        header, frames = seed.read_bytes()[:HEADER_SIZE], b"".join(data_frames(seed))
    with path.open("wb") as file:
        file.write(header)
        while file.tell() < size:
            file.write(frames)


def alternate(rounds: int, **candidates: Callable[[], float]) -> dict[str, float]:
    """Run all candidates in turn, `rounds` times; the median of each."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            times[name].append(run())
    return {name: statistics.median(values) for name, values in times.items()}


def report(title: str, value: float, limit: str) -> None:
    """One line: what, the ratio, and what was aimed at."""
    print(f"{title:<66} {value:6.2f}   aim {limit}", flush=True)

"""Programs that use the Python shim, run as a user would run them: with a real SDK, in a home of their own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from daemon.wire.rrd import HEADER_SIZE, Kind, parse_frame_header
from tests.conftest import DEADLINE_S, ROOT, Home, wait_for

PRELUDE = """
import faulthandler, os, signal, sys, threading, time
faulthandler.register(signal.SIGUSR1, all_threads=True)  # the test asks when this hangs
import rerun as rr
import rrd

def log(start, stop, recording=None):
    for row in range(start, stop):
        rr.set_time("frame", sequence=row, recording=recording)
        rr.log("row", rr.TextLog(f"row {row}"), recording=recording)

def say(*words):
    print(*words, flush=True)

def wait_for_test():
    assert sys.stdin.readline(), "the test is gone"

"""


class Program:
    """A Python program, its source given, after PRELUDE. Warnings are errors in it.

    Args:
        home: Where.
        python: The interpreter: it chooses the SDK's version.
        source: The program.
        argv: Its arguments.
        prefix: What comes before the interpreter in the command.
        env: Variables besides the home's.
    """

    def __init__(self, home: Home, python: Path, source: str, *argv: object, prefix: Sequence[str] = (),
                 **env: str) -> None:
        self.process = subprocess.Popen(
            [*prefix, str(python), "-W", "error::ResourceWarning", "-c", PRELUDE + source, *map(str, argv)],
            env=environment(home) | env,
            cwd=home.path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Program:
        return self

    def line(self) -> str:
        """What it says next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the program ended: {self.process.communicate()[1]}"
        return line.strip()

    def go_on(self) -> None:
        """Let it leave `wait_for_test`."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self, code: int = 0, seconds: float = 2 * DEADLINE_S) -> str:
        """Wait for its end; returns what it wrote to stderr."""
        try:
            out, errors = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
            self.process.kill()
            raise AssertionError(f"the program hangs: {self.process.communicate()}") from None
        assert self.process.returncode == code, f"{self.process.returncode}: {out}\n{errors}"
        return errors

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def environment(home: Home) -> dict[str, str]:
    """The home's, with the shim to be found from environments that do not have it, and the daemon from there."""
    return home.env | {
        "PYTHONPATH": str(ROOT / "sdk" / "python"),
        "RRD_DAEMON": str(Path(sys.executable).with_name("rrd-daemon")),
    }


def run(home: Home, python: Path, source: str, *argv: object, code: int = 0, **env: str) -> str:
    """Run a program to its end; returns what it wrote to stderr."""
    with Program(home, python, source, *argv, **env) as program:
        return program.finish(code)


def ended(home: Home) -> None:
    """Wait until all streams have ended, their logs are complete and all outputs have everything, footers included."""

    def settled() -> bool:
        status = home.status()
        files = [sink["state"] for sink in status["sinks"] if sink["kind"] == "file"]
        return (not status["streams"] and all(not sink["lag_bytes"] for sink in status["sinks"])
                and not {"starting", "following"}.intersection(files))

    wait_for(settled, "the streams' end")


def _chunks(path: Path) -> list[Any]:
    """A file's chunks; read by Rerun's own reader."""
    import warnings as python_warnings

    import rerun.chunk

    with python_warnings.catch_warnings():
        # "No footer": the SDK's own files of old versions have none.
        python_warnings.simplefilter("ignore")
        return list(rerun.chunk.RrdReader(str(path)).stream().to_chunks())


def entities(path: Path) -> set[str]:
    """The entities in a file."""
    return {chunk.entity_path for chunk in _chunks(path)}


def rows(path: Path) -> list[int]:
    """The numbers of the rows in a file, sorted, with doubles."""
    found: list[int] = []
    for chunk in _chunks(path):
        batch = chunk.to_record_batch()
        # SDK 0.23 has chunks of its own for indicator components.
        if chunk.entity_path == "/row" and "TextLog:text" in batch.schema.names:
            numbers = batch.column("frame").to_pylist()
            assert [[f"row {number}"] for number in numbers] == batch.column("TextLog:text").to_pylist()
            found += numbers
    return sorted(found)


def kinds(data: bytes) -> list[int]:
    """The frames' kinds, in order, to the End."""
    found, position = [], HEADER_SIZE
    while position + 16 <= len(data):
        kind, length = parse_frame_header(data, position)
        found.append(kind)
        position += 16 + length
        if kind == Kind.END:
            break
    return found


def warnings(errors: str) -> list[str]:
    """The shim's own lines."""
    return [line for line in errors.splitlines() if line.startswith("rrd: ")]

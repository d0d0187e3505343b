"""Real viewers and servers, and real programs that know nothing of rrd: they call connect_grpc and no more."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.conftest import DEADLINE_S, Home, wait_for

PRELUDE = """
import os, signal, sys, time
import rerun as rr

URL = sys.argv[1]

def log(start, stop, pause=0.0):
    for row in range(start, stop):
        if hasattr(rr, "set_time"):
            rr.set_time("frame", sequence=row)
        else:
            rr.set_time_sequence("frame", row)
        rr.log("row", rr.TextLog(f"row {row}"))
        if pause:
            time.sleep(pause)

def flush():
    recording = rr.get_global_data_recording()
    try:
        recording.flush()
    except TypeError:
        recording.flush(blocking=True)

def say(*words):
    print(*words, flush=True)

def wait_for_test():
    assert sys.stdin.readline(), "the test is gone"

"""


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def binary_beside(python: Path) -> Path:
    """The `rerun` that pip installed with an SDK: the binary, not its launcher."""
    code = "import importlib.util as u, os; print(os.path.dirname(u.find_spec('rerun').origin))"
    where = Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    for parent in where.parents:
        for place in ("rerun_cli/rerun", "rerun_sdk/rerun_cli/rerun"):
            if (parent / place).exists():
                return parent / place
    raise AssertionError(f"no rerun binary beside {where}")


class Server:
    """A `rerun` process that listens.

    Args:
        flags: `--serve-grpc`, `--headless`, `--save FILE`.
    """

    def __init__(self, home: Home, binary: Path, *flags: object, port: int = 0) -> None:
        self.port = port or free_port()
        self.url = f"rerun+http://127.0.0.1:{self.port}/proxy"
        self.output = home.path / f"viewer-{self.port}.txt"
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(
                [str(binary), "--port", str(self.port), "--bind", "127.0.0.1", *map(str, flags)],
                env=home.env, cwd=home.path, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        wait_for(self._up, f"the start of {flags}: {self.output.read_text()[-2000:]}", 2 * DEADLINE_S)

    def _up(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(signal.SIGKILL)


class GrpcProgram:
    """A Python program, its source given, after PRELUDE; URL is where it logs to."""

    def __init__(self, home: Home, python: Path | str, source: str, url: str, *argv: object) -> None:
        self.process = subprocess.Popen(
            [str(python), "-c", PRELUDE + source, url, *map(str, argv)], env=home.env, cwd=home.path,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

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

    def finish(self, code: int = 0) -> str:
        """Wait for its end; returns what it wrote to stderr."""
        try:
            out, errors = self.process.communicate(timeout=2 * DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the program hangs: {self.process.communicate()}") from None
        assert self.process.returncode == code, f"{self.process.returncode}: {out}\n{errors}"
        return errors

    def __enter__(self) -> GrpcProgram:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def grpc_url(home: Home) -> str:
    """Where programs stream to, as `rrd status` says."""
    url = home.status()["daemon"]["grpc_url"]
    assert url, home.status()["daemon"]["grpc_error"]
    return url


def ask_viewer(port: int) -> dict[str, dict[str, tuple[int, int]]]:
    """What a headless viewer shows, asked of itself: recording -> timeline -> (start, end)."""
    code = (
        "import sys, json, rerun.experimental as e\n"
        "state = e.ViewerClient.connect(sys.argv[1]).get_state()\n"
        "print(json.dumps({r.store_id: {t.name: (t.start, t.end) for t in r.timelines} for r in state.recordings}))"
    )
    done = subprocess.run([sys.executable, "-c", code, f"rerun+http://127.0.0.1:{port}/proxy"],
                          capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        return {}
    import json

    return json.loads(done.stdout)  # type: ignore[no-any-return]


def screenshot(home: Home, port: int, name: str) -> Path:
    """A picture of a viewer, made by itself; kept as NAME.png in the directory TEST_ARTIFACTS, if that is set."""
    path = Path(os.environ.get("TEST_ARTIFACTS") or home.path).absolute() / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    code = "import sys, rerun.experimental as e; e.ViewerClient.connect(sys.argv[1]).save_screenshot(sys.argv[2])"
    words = [sys.executable, "-c", code, f"rerun+http://127.0.0.1:{port}/proxy", path]

    def taken() -> bool:  # a viewer on a busy machine may not have painted it within the time that it allows itself
        return subprocess.run(words, check=False, timeout=60, capture_output=True).returncode == 0 and path.exists()

    wait_for(taken, f"{path}", 4 * DEADLINE_S)
    return path


def colours(path: Path) -> int:
    """How many colours a picture has: an empty window has few."""
    from PIL import Image

    with Image.open(path) as image:
        return len(image.convert("RGB").getcolors(1 << 24) or ())


class Relay:
    """A TCP relay in front of a port, whose connections can be cut or slowed down.

    Args:
        rate: Bytes a second that it passes on towards the server; 0 is as many as come.
    """

    def __init__(self, target: int, rate: int = 0) -> None:
        self.target = target
        self.rate = rate
        self.passed = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._open: list[socket.socket] = []
        self._closed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                if self._closed.is_set():
                    return
                with contextlib.suppress(OSError, UnboundLocalError):
                    near.close()
                continue
            self._open += [near, far]
            for one, other, counts in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._pass, args=(one, other, counts), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 14):
                if counts:
                    self.passed += len(data)
                    if self.rate:
                        self._closed.wait(len(data) / self.rate)
                other.sendall(data)
        for sock in (one, other):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Break every connection that is open."""
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self._open.clear()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()


def sink(home: Home, name: str) -> dict[str, Any]:
    """A sink as `rrd status` has it."""
    return next(one for one in home.status()["sinks"] if one["id"] == name)


def until(
    home: Home, name: str, fits: Callable[[dict[str, Any]], bool], what: str, seconds: float = DEADLINE_S
) -> None:
    """Wait until a sink's status is as wanted."""
    try:
        wait_for(lambda: fits(sink(home, name)), what, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}: {sink(home, name)}\n{home.log[-3000:]}") from None


__all__ = ["GrpcProgram", "Relay", "Server", "ask_viewer", "binary_beside", "colours", "free_port", "grpc_url",
           "screenshot", "sink", "until"]

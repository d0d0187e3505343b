"""What it is all for: one program, three viewers and two files at once, and all that can happen to viewers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Home, wait_for
from tests.helpers.shim import rows
from tests.helpers.viewers import (
    GrpcProgram,
    Server,
    ask_viewer,
    binary_beside,
    colours,
    free_port,
    grpc_url,
    screenshot,
    sink,
    until,
)

PROGRAM = """
import numpy
rr.init("app", recording_id="run")
rr.connect_grpc(URL)
rr.log("static", rr.TextDocument("kept"), static=True)
log(0, 100); flush(); say("100"); wait_for_test()
longest = 0.0
for row in range(100, 400):
    began = time.monotonic()
    if row % 10 == 0:
        rr.set_time("frame", sequence=row)
        rr.log("image", rr.Image(numpy.random.default_rng(row).integers(0, 255, (600, 800, 3), dtype=numpy.uint8)))
    log(row, row + 1)
    longest = max(longest, time.monotonic() - began)
    time.sleep(0.003)
flush(); say(longest); wait_for_test()
log(400, 500)
"""
NOISE = 50_000
"""Colours that the image of noise has, as it is drawn; everything else in a window has some thousands."""
FELT_S = 1.0
"""Who waits for a stopped viewer waits for ever; who shares two cores with them waits no longer than this."""


def shows(port: int, last: int) -> Callable[[], bool]:
    return lambda: tuple(ask_viewer(port).get("Recording:app:run", {}).get("frame", ())) == (0, last)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_one_is_stopped_one_is_killed_one_joins_later(
    daemon: Home, rerun: Path, sdk_python: Callable[[str], Path], verify: Callable[..., None]
) -> None:
    """All that run show everything, both files are complete, and the program feels nothing."""
    files = [daemon.path / "link.rrd", daemon.path / "copy.rrd"]
    late = 0
    with GrpcProgram(daemon, sys.executable, PROGRAM, grpc_url(daemon)) as program, \
            Server(daemon, rerun, "--headless") as stopped, \
            Server(daemon, binary_beside(sdk_python("0.36.3")), "--headless") as killed:
        assert program.line() == "100"
        daemon.cli("save", files[0])
        daemon.cli("save", files[1], "--copy")
        names = [json.loads(daemon.cli("connect", server.url, "--json").stdout)["sink"]["id"]
                 for server in (stopped, killed)]
        wait_for(shows(stopped.port, 99), "the first hundred rows", 60)
        until(daemon, names[1], lambda one: one["state"] == "following" and not one["lag_messages"], "delivery", 60)
        os.kill(stopped.pid, signal.SIGSTOP)
        killed.process.kill()
        killed.process.wait(10)
        try:
            program.go_on()
            assert float(program.line()) < FELT_S
            answer = json.loads(daemon.cli("spawn", "--new", "--headless", "--executable", rerun, "--port", free_port(),
                                           "--json", timeout=120).stdout)
            late, port = answer["viewer"]["pid"], int(answer["viewer"]["url"].split(":")[2].split("/")[0])
            wait_for(shows(port, 399), "everything so far in the one that joined later", 90)
            assert sink(daemon, names[0])["lag_bytes"] > 0
            program.go_on()
            program.finish()
            wait_for(shows(port, 499), "everything in the one that joined later", 90)
            assert colours(screenshot(daemon, port, "joined-later")) > NOISE
            os.kill(late, signal.SIGKILL)
            os.kill(stopped.pid, signal.SIGCONT)
            wait_for(shows(stopped.port, 499), "everything in the one that was stopped", 90)
            assert colours(screenshot(daemon, stopped.port, "was-stopped")) > NOISE
        finally:
            if late:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(late, signal.SIGKILL)
        until(daemon, names[1], lambda found: found["state"] == "retrying" and found["last_error"], "noticing")
    for path in files:
        wait_for(lambda path=path: next(
            one["state"] for one in daemon.status()["sinks"] if one["target"] == str(path)) == "complete", f"{path}")
        assert rows(path) == list(range(500))
    verify(*files)

"""Programs that know nothing of rrd: they call connect_grpc with the daemon's URL, in every SDK, and that is all."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SDKS, Home, wait_for
from tests.helpers.shim import ended, rows
from tests.helpers.viewers import GrpcProgram, Server, ask_viewer, free_port, grpc_url

HUNDRED = """
rr.init("app", recording_id="run")
rr.connect_grpc(URL)
log(0, 100)
"""


@pytest.mark.parametrize("version", SDKS)
def test_every_sdk(daemon: Home, sdk_python: Callable[[str], Path], version: str) -> None:
    """All rows arrive, under the right name and version; the file is complete and has a footer."""
    with GrpcProgram(daemon, sdk_python(version), HUNDRED, grpc_url(daemon)) as program:
        pid = program.process.pid
        program.finish()
    ended(daemon)
    (recording,) = daemon.recordings()
    assert (recording["application_id"], recording["recording_id"]) == ("app", "run")
    assert recording["sdk_version"] == version
    assert recording["state"] == "ended"
    assert not recording["error"]
    (log,) = daemon.spool.glob("*.rrd")
    assert f"pid {pid}" in daemon.log, "the program at the other end of the connection was not found"
    assert tuple(log.read_bytes()[4:7]) == tuple(map(int, version.split(".")))
    daemon.cli("save", "out.rrd", "app")
    assert rows(daemon.path / "out.rrd") == list(range(100))


def test_what_was_flushed_is_in_the_spool_when_the_program_is_killed(daemon: Home) -> None:
    source = HUNDRED + "flush(); say('flushed'); wait_for_test()"
    with GrpcProgram(daemon, sys.executable, source, grpc_url(daemon)) as program:
        assert program.line() == "flushed"
        # The SDK's flush means "handed to the connection": small messages are in the socket, and survive the program.
        program.process.send_signal(signal.SIGKILL)
        program.process.wait(10)
    ended(daemon)
    daemon.cli("save", "out.rrd", "app")
    assert rows(daemon.path / "out.rrd") == list(range(100))
    assert daemon.recordings()[0]["state"] == "ended"


@pytest.mark.parametrize("version", ["0.23.4", "0.41.0"])
def test_disconnect_returns_when_all_is_in_the_spool(
    daemon: Home, sdk_python: Callable[[str], Path], version: str
) -> None:
    """It waits for our OK; `flush` asks no server, so what it promises is not ours to keep."""
    source = HUNDRED + """
flush(); say("up"); wait_for_test()
log(100, 200); flush(); say("flushed")
rr.disconnect(); say("disconnected"); wait_for_test()
"""
    with GrpcProgram(daemon, sdk_python(version), source, grpc_url(daemon)) as program:
        assert program.line() == "up"
        stopped = daemon.daemon_pid()
        os.kill(stopped, signal.SIGSTOP)
        try:
            program.go_on()
            assert program.line() == "flushed"
            assert program.process.stdout is not None
            ready, _, _ = select.select([program.process.stdout], [], [], 1.0)
            assert not ready, "it did not wait"
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert program.line() == "disconnected"
        assert "ended (the program ended it)" in daemon.log, "its last row is not in the spool yet"
        program.process.kill()
    ended(daemon)
    daemon.cli("save", "out.rrd", "app")
    assert rows(daemon.path / "out.rrd") == list(range(200))


def test_many_programs_one_recording(daemon: Home) -> None:
    source = """
rr.init("app", recording_id="shared")
rr.connect_grpc(URL)
log(100 * int(sys.argv[2]), 100 * int(sys.argv[2]) + 100)
"""
    programs = [GrpcProgram(daemon, sys.executable, source, grpc_url(daemon), index) for index in range(4)]
    for program in programs:
        program.finish()
    ended(daemon)
    (recording,) = daemon.recordings()
    assert len(recording["streams"]) == 4
    daemon.cli("save", "out.rrd", "shared")
    assert rows(daemon.path / "out.rrd") == list(range(400))


def test_a_message_of_a_hundred_megabytes(daemon: Home) -> None:
    """gRPC's usual limit is 4 MiB; nothing of that kind here, and the daemon does not keep what it passed on."""
    source = """
import numpy
rr.init("app", recording_id="big")
rr.connect_grpc(URL)
noise = numpy.random.default_rng(0).integers(0, 255, (120, 1024, 1024), dtype=numpy.uint8)
rr.log("big", rr.Tensor(noise), static=True)
log(0, 10)
"""
    with GrpcProgram(daemon, sys.executable, source, grpc_url(daemon)) as program:
        program.finish()
    ended(daemon)
    assert daemon.recordings()[0]["bytes"] > 120 << 20
    daemon.cli("save", "out.rrd", "big")
    assert rows(daemon.path / "out.rrd") == list(range(10))
    wait_for(lambda: daemon.status()["daemon"]["rss_bytes"] < 120 << 20, "memory given back")


def say(port: int, words: bytes) -> bytes:
    """Say something and listen until the other side hangs up."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(10)
        sock.sendall(words)
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(1000):
                answer += data
    return answer


def test_ask_for_nothing(daemon: Home) -> None:
    """Connections that say nothing, or nonsense, leave no stream and hurt nobody."""
    port = int(grpc_url(daemon).split(":")[2].split("/")[0])
    silent = socket.create_connection(("127.0.0.1", port))
    for nonsense in (b"\x01\x00rerun", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"x" * 99, b"hello"):
        assert say(port, nonsense).count(b"HTTP/1") == 0
    assert b"400 Bad Request" in say(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with GrpcProgram(daemon, sys.executable, HUNDRED, grpc_url(daemon)) as program:
        program.finish()
    silent.close()
    ended(daemon)
    assert len(daemon.recordings()) == 1


def test_the_port_is_taken(home: Home) -> None:
    """It is said who has it; and once it is free, it is used."""
    port = free_port()
    home.env["RRD_GRPC_PORT"] = str(port)
    holder = subprocess.Popen([sys.executable, "-c", f"""
import socket, sys
server = socket.create_server(("127.0.0.1", {port}))
print("up", flush=True)
sys.stdin.read()
"""], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        home.cli("daemon", "start")
        status = home.status()["daemon"]
        assert status["grpc_url"] == ""
        assert f"port {port} is taken by" in status["grpc_error"]
        assert f"pid {holder.pid}" in status["grpc_error"]
    finally:
        holder.communicate()
    wait_for(lambda: home.status()["daemon"]["grpc_url"], "the port", 30)
    assert home.status()["daemon"]["grpc_url"] == f"rerun+http://127.0.0.1:{port}/proxy"


def test_a_viewer_pulls(daemon: Home, rerun: Path) -> None:
    """`rerun --connect URL`: history, then live."""
    url = grpc_url(daemon)
    source = HUNDRED + "flush(); say('half'); wait_for_test(); log(100, 200); flush(); say('all'); wait_for_test()"
    with GrpcProgram(daemon, sys.executable, source, url) as program:
        assert program.line() == "half"
        with Server(daemon, rerun, "--headless", "--connect", url) as viewer:
            def frames() -> tuple[int, int] | None:
                found = ask_viewer(viewer.port).get("Recording:app:run", {}).get("frame")
                return (found[0], found[1]) if found else None

            wait_for(lambda: frames() == (0, 99), "the history")
            program.go_on()
            assert program.line() == "all"
            wait_for(lambda: frames() == (0, 199), "what is live")
        program.go_on()
        program.finish()


def test_the_daemon_is_not_taken_for_a_viewer(daemon: Home) -> None:
    port = grpc_url(daemon).split(":")[2].split("/")[0]
    done = daemon.cli("connect", port, check=False)
    assert done.returncode == 1
    assert "this daemon's own" in done.stderr
    assert daemon.status()["sinks"] == []

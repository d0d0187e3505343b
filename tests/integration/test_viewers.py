"""Viewers and servers as outputs: real ones of several versions, slow ones, dead ones, and what looks like one."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from daemon.spool.scanner import Scanner
from daemon.viewers.discover import listener
from tests.conftest import DEADLINE_S, Home, missing, wait_for
from tests.helpers.programs import Program
from tests.helpers.shim import entities as file_entities
from tests.helpers.shim import rows as text_rows
from tests.helpers.viewers import (
    GrpcProgram,
    Relay,
    Server,
    ask_viewer,
    binary_beside,
    free_port,
    grpc_url,
    sink,
    until,
)

NOBODY = 65534
VIEWERS = ("0.27.3", "0.31.4", "0.36.3", "0.41.0")


def connect(home: Home, *argv: object) -> dict:
    """`rrd connect`, with its answer."""
    return json.loads(home.cli("connect", *argv, "--json").stdout)


def spawn(home: Home, *argv: object) -> dict:
    """`rrd spawn --headless`, with its answer."""
    return json.loads(home.cli("spawn", "--headless", *argv, "--json", timeout=90).stdout)


def row_counts(path: Path) -> list[int]:
    """The rows in a file that a server is still writing."""
    whole = whole_frames(path)
    return text_rows(whole) if whole is not None else []


def entities(path: Path) -> set[str]:
    """The entities in such a file."""
    whole = whole_frames(path)
    return file_entities(whole) if whole is not None else set()


def whole_frames(path: Path) -> Path | None:
    """A copy without the part of a frame that may stand at the end; None if there is no frame."""
    if not path.exists():
        return None
    whole = path.with_suffix(".whole.rrd")
    data = path.read_bytes()
    fd = os.open(path, os.O_RDONLY)
    try:
        scanner = Scanner(fd)
        frames = list(scanner.frames(len(data)))
    finally:
        os.close(fd)
    whole.write_bytes(data[: scanner.position])
    return whole if frames else None


@pytest.fixture
def finished(daemon: Home) -> Home:
    """A daemon with one recording of a hundred rows, which has ended."""
    with GrpcProgram(daemon, sys.executable, """
rr.init("app", recording_id="run")
rr.connect_grpc(URL)
rr.log("static", rr.TextDocument("kept"), static=True)
log(0, 100)
""", grpc_url(daemon)) as program:
        program.finish()
    wait_for(lambda: daemon.recordings() and daemon.recordings()[0]["state"] == "ended", "the recording's end")
    return daemon


@pytest.fixture
def viewers_end(daemon: Home) -> Iterator[list[int]]:
    """Put pids of viewers here that `rrd spawn` started: they outlive everything, as they should."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


# -- connect -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VIEWERS)
def test_a_server_of_each_version_gets_everything(
    finished: Home, sdk_python: Callable[[str], Path], version: str
) -> None:
    """Read back from what `rerun --save` wrote; a stream of 0.41 in older servers goes with a warning."""
    saved = finished.path / "saved.rrd"
    with Server(finished, binary_beside(sdk_python(version)), "--save", saved) as server:
        answer = connect(finished, server.url, "run")
        assert bool(answer["warning"]) == (version != "0.41.0"), answer
        until(finished, answer["sink"]["id"], lambda found: found["state"] == "complete", "delivery")
        wait_for(lambda: row_counts(saved) == list(range(100)), "all rows in the server's file")
        server.stop()
    assert row_counts(saved) == list(range(100))


def test_a_viewer_that_would_lose_everything_is_refused(finished: Home, sdk_python: Callable[[str], Path]) -> None:
    with Server(finished, binary_beside(sdk_python("0.23.4")), "--serve-grpc") as server:
        done = finished.cli("connect", server.url, "run", check=False)
    assert done.returncode == 1
    assert "would drop every message" in done.stderr
    assert "pip install" in done.stderr
    assert finished.status()["sinks"] == []


def test_nobody_there_yet(finished: Home, rerun: Path) -> None:
    """It is waited for, and said; then it gets everything."""
    port = free_port()
    done = finished.cli("connect", port, "run")
    assert "waiting" in done.stderr
    (waiting,) = finished.status()["sinks"]
    assert waiting["state"] in ("starting", "retrying")
    saved = finished.path / "saved.rrd"
    with Server(finished, rerun, "--save", saved, port=port):
        until(finished, waiting["id"], lambda found: found["state"] == "complete", "delivery")
        wait_for(lambda: row_counts(saved) == list(range(100)), "all rows")


def test_a_server_that_dies_and_comes_back_has_everything(daemon: Home, rerun: Path) -> None:
    """The new process gets the history again, and then what is live."""
    first, second = daemon.path / "first.rrd", daemon.path / "second.rrd"
    port = free_port()
    with GrpcProgram(daemon, sys.executable, """
rr.init("app", recording_id="run")
rr.connect_grpc(URL)
log(0, 100); flush(); say("100"); wait_for_test()
log(100, 200); flush(); say("200"); wait_for_test()
log(200, 300)
""", grpc_url(daemon)) as program:
        assert program.line() == "100"
        with Server(daemon, rerun, "--save", first, port=port) as server:
            name = connect(daemon, server.url)["sink"]["id"]
            wait_for(lambda: row_counts(first) == list(range(100)), "the first hundred")
            server.process.kill()
            server.process.wait(10)
        program.go_on()
        assert program.line() == "200"
        until(daemon, name, lambda found: found["state"] == "retrying", "noticing")
        assert sink(daemon, name)["last_error"]
        with Server(daemon, rerun, "--save", second, port=port):
            wait_for(lambda: row_counts(second) == list(range(200)), "the history in the new process")
            program.go_on()
            program.finish()
            wait_for(lambda: row_counts(second) == list(range(300)), "what was live")
    until(daemon, name, lambda found: found["state"] == "retrying", "waiting for a third one")


def test_a_link_that_breaks_loses_nothing(daemon: Home, rerun: Path) -> None:
    """Cut again and again, at any place in the stream: the server has every row, in order, and goes on."""
    saved = daemon.path / "saved.rrd"
    with Server(daemon, rerun, "--save", saved) as server, Relay(server.port, rate=400_000) as relay:
        with GrpcProgram(daemon, sys.executable, """
rr.init("app", recording_id="run")
rr.connect_grpc(URL)
import numpy
for part in range(40):
    rr.log("noise", rr.Tensor(numpy.random.default_rng(part).integers(0, 255, (20, 1000), dtype=numpy.uint8)))
    log(part * 25, part * 25 + 25)
    flush()
""", grpc_url(daemon)) as program:
            program.finish()
        name = connect(daemon, relay.port)["sink"]["id"]
        for count in range(6):
            until(daemon, name, lambda _: relay.passed > 100_000 * (count + 1), "some of it")  # noqa: B023 - at once
            relay.cut()
        relay.rate = 0
        until(daemon, name, lambda found: found["state"] == "following" and not found["lag_messages"], "delivery", 60)
        wait_for(lambda: sorted(set(row_counts(saved))) == list(range(1000)), "every row", 60)


def test_one_process_is_sent_nothing_twice(daemon: Home, rerun: Path) -> None:
    """A server that was only cut off, and is known again by its process, gets what is new and no more."""
    saved = daemon.path / "saved.rrd"
    with Server(daemon, rerun, "--save", saved) as server, GrpcProgram(daemon, sys.executable, """
rr.init("app", recording_id="run")
rr.connect_grpc(URL)
log(0, 100); flush(); say("100"); wait_for_test()
log(100, 200); flush(); say("200"); wait_for_test()
""", grpc_url(daemon)) as program:
        assert program.line() == "100"
        name = connect(daemon, server.url)["sink"]["id"]
        options = daemon.path / "s" / "rrd" / "sinks" / f"{name}.json"
        wait_for(lambda: json.loads(options.read_text())["options"]["confirmed"], "a checkpoint")
        os.kill(daemon.daemon_pid(), signal.SIGKILL)
        until(daemon, name, lambda found: found["state"] == "following", "the daemon's return")
        with Program(daemon, "other", rows=50) as other:
            other.finish()
        until(daemon, name, lambda found: not found["lag_messages"], "delivery")
        server.stop()
    assert row_counts(saved) == list(range(100)), "rows were sent twice, or lost"


def test_three_outputs_one_stopped_one_killed(daemon: Home, rerun: Path) -> None:
    """A viewer that is stopped costs the others and the program nothing, and has everything when it goes on."""
    files = [daemon.path / f"{name}.rrd" for name in ("good", "stopped", "killed")]
    servers = [Server(daemon, rerun, "--save", path) for path in files]
    _, stopped, killed = servers
    try:
        with GrpcProgram(daemon, sys.executable, """
import numpy
rr.init("app", recording_id="run")
rr.connect_grpc(URL)
log(0, 100); flush(); say("100"); wait_for_test()
began = time.monotonic()
image = numpy.zeros((1000, 1000), dtype=numpy.uint8)
for part in range(30):
    image[:] = numpy.random.default_rng(part).integers(0, 255, (1000, 1000))
    rr.log("image", rr.Image(image))
    log(100 + part * 10, 110 + part * 10)
flush()
say(time.monotonic() - began)
""", grpc_url(daemon)) as program:
            assert program.line() == "100"
            names = [connect(daemon, server.url)["sink"]["id"] for server in servers]
            for path in files:
                wait_for(lambda: row_counts(path) == list(range(100)), f"the first hundred in {path}")  # noqa: B023
            os.kill(stopped.pid, signal.SIGSTOP)
            killed.process.kill()
            killed.process.wait(10)
            before = daemon.status()["daemon"]["rss_bytes"]
            program.go_on()
            assert float(program.line()) < DEADLINE_S
            program.finish()
        wait_for(lambda: row_counts(files[0]) == list(range(400)), "everything in the good one")
        found = sink(daemon, names[1])
        assert found["state"] == "following"
        assert found["lag_bytes"] > 10 << 20
        until(daemon, names[2], lambda one: one["state"] == "retrying", "noticing")
        assert daemon.status()["daemon"]["rss_bytes"] < before + (30 << 20)
        os.kill(stopped.pid, signal.SIGCONT)
        wait_for(lambda: row_counts(files[1]) == list(range(400)), "everything in the one that was stopped", 60)
    finally:
        for server in servers:
            server.stop(signal.SIGKILL)


def test_from_now_keeps_what_is_static(finished: Home, rerun: Path) -> None:
    saved = finished.path / "saved.rrd"
    with Server(finished, rerun, "--save", saved) as server:
        answer = connect(finished, server.url, "run", "--from", "now")
        until(finished, answer["sink"]["id"], lambda found: found["state"] == "complete", "delivery")
        assert sink(finished, answer["sink"]["id"])["skipped_messages"] > 0
        wait_for(lambda: "/static" in entities(saved), "the static chunk")
        server.stop()
    assert "/row" not in entities(saved)


def test_newest_first_sends_all_of_it_backwards(daemon: Home, rerun: Path) -> None:
    """What is static, what is live, then from the newest megabyte to the oldest; each row once, whoever is cut off."""
    saved = daemon.path / "saved.rrd"
    with Server(daemon, rerun, "--save", saved) as server, GrpcProgram(daemon, sys.executable, """
import numpy
rr.init("app", recording_id="run")
rr.connect_grpc(URL)
for part in range(20):
    log(part * 10, part * 10 + 10); flush()
    noise = numpy.random.default_rng(part).integers(0, 255, (1000, 1100), dtype=numpy.uint8)
    rr.log("noise", rr.Tensor(noise)); flush()
rr.log("static", rr.TextDocument("kept"), static=True)
flush(); say("200"); wait_for_test()
log(200, 210)
""", grpc_url(daemon)) as program:
        assert program.line() == "200"
        wait_for(lambda: daemon.recordings()[0]["bytes"] > 20 << 20, "all of it in the spool")
        name = connect(daemon, server.url, "--newest-first")["sink"]["id"]
        until(daemon, name, lambda found: found["delivered_messages"] and not found["lag_messages"], "delivery")
        program.go_on()
        program.finish()
        wait_for(lambda: sorted(row_counts(saved)) == list(range(210)), "every row, once")
        server.stop()
    order = saved_order(saved)
    assert order.index("/static") < order.index("/noise") < order.index("/row 190") < order.index("/row 0")
    done = daemon.cli("connect", server.url, "--newest-first", "--from", "now", check=False)
    assert (done.returncode, "say one of them" in done.stderr) == (2, True), done.stderr


def saved_order(path: Path) -> list[str]:
    """Entities in the order in which they stand in a file, rows with the number of the first."""
    import rerun.chunk

    whole = whole_frames(path)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for chunk in rerun.chunk.RrdReader(str(whole)).stream().to_chunks():
            batch = chunk.to_record_batch()
            first = f" {batch.column('frame')[0].as_py()}" if chunk.entity_path == "/row" else ""
            found.append(f"{chunk.entity_path}{first}")
    return found


def test_max_lag_skips_ahead(daemon: Home, rerun: Path) -> None:
    """A viewer that hung shows what is live when it goes on, and what it did not get is counted."""
    saved = daemon.path / "saved.rrd"
    with Server(daemon, rerun, "--save", saved) as server, GrpcProgram(daemon, sys.executable, """
import numpy
rr.init("app", recording_id="run")
rr.connect_grpc(URL)
log(0, 10); flush(); say("10"); wait_for_test()
for part in range(60):
    rr.log("image", rr.Image(numpy.random.default_rng(part).integers(0, 255, (1000, 1000), dtype=numpy.uint8)))
    flush()
say("all"); wait_for_test()
log(1000, 1010)
""", grpc_url(daemon)) as program:
        assert program.line() == "10"
        name = connect(daemon, server.url, "--max-lag", "500ms")["sink"]["id"]
        wait_for(lambda: row_counts(saved) == list(range(10)), "the first rows")
        os.kill(server.pid, signal.SIGSTOP)
        program.go_on()
        assert program.line() == "all"
        until(daemon, name, lambda found: found["lag_bytes"] > 20 << 20, "the lag")
        time.sleep(0.6)  # the length that is tested: being behind for longer than --max-lag
        os.kill(server.pid, signal.SIGCONT)
        until(daemon, name, lambda found: found["skipped_messages"] > 5 and not found["lag_messages"], "skipping")
        program.go_on()
        program.finish()
        wait_for(lambda: row_counts(saved) == [*range(10), *range(1000, 1010)], "the rows that are live")


def test_detach_ends_it(finished: Home, rerun: Path) -> None:
    with Server(finished, rerun, "--serve-grpc") as server:
        name = connect(finished, server.url)["sink"]["id"]
        finished.cli("detach", name)
        assert sink(finished, name)["state"] == "detached"
        assert server.process.poll() is None
    assert not list((finished.path / "s" / "rrd" / "sinks").glob("*.json"))


@pytest.mark.parametrize("url", ["ftp://x", "rerun+http://127.0.0.1:9876/other", "127.0.0.1:0", "127.0.0.1:99999"])
def test_what_is_no_url(daemon: Home, url: str) -> None:
    done = daemon.cli("connect", url, check=False)
    assert done.returncode == 2, done.stderr
    assert url in done.stderr


# -- what only looks like a viewer -------------------------------------------------------------------------------------


def serve(answer: Callable[[socket.socket], None]) -> tuple[socket.socket, int]:
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(peer,), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    return server, server.getsockname()[1]


def hold(peer: socket.socket) -> None:
    time.sleep(60)
    peer.close()


def hang_up(peer: socket.socket) -> None:
    peer.close()


def speak_ssh(peer: socket.socket) -> None:
    peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    hold(peer)


def speak_http(peer: socket.socket) -> None:
    peer.recv(1000)
    peer.sendall(b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\n\r\n")
    peer.close()


@pytest.mark.parametrize("answer", [hold, hang_up, speak_ssh, speak_http])
@pytest.mark.parametrize("verb", ["spawn", "connect"])
def test_any_listener_is_not_a_viewer(daemon: Home, answer: Callable[[socket.socket], None], verb: str) -> None:
    """Refused with what it is, within a time, and with a way out."""
    server, port = serve(answer)
    try:
        began = time.monotonic()
        argv = ["spawn", "--port", port] if verb == "spawn" else ["connect", port]
        done = daemon.cli(*argv, check=False)
        assert time.monotonic() - began < 10
        assert done.returncode == 1, done.stdout
        assert f"port {port} is taken by" in done.stderr
        assert f"pid {os.getpid()}" in done.stderr
        assert "hint:" in done.stderr
        assert daemon.status()["sinks"] == []
    finally:
        server.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user, too")
def test_another_users_viewer_is_not_fed(finished: Home, rerun: Path, tmp_path: Path) -> None:
    """All that a program logs would be theirs; unless that is said to be right."""
    port, place = free_port(), Path(tempfile.mkdtemp())
    os.chown(place, NOBODY, NOBODY)
    saved = place / "saved.rrd"
    theirs = subprocess.Popen(
        [rerun, "--save", saved, "--port", str(port), "--bind", "127.0.0.1"], env={"HOME": str(place)}, cwd=place,
        user=NOBODY, group=NOBODY, extra_groups=(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: listener(port), "their viewer")
        user = pwd.getpwuid(NOBODY).pw_name
        for words in (["connect", port, "run"], ["spawn", "run", "--port", port]):
            done = finished.cli(*words, check=False)
            assert done.returncode == 1
            assert f"taken by another user, {user}: rerun --save 0.41.0 (pid {theirs.pid})" in done.stderr
            assert "hint: choose another port" in done.stderr
        assert finished.status()["sinks"] == []
        listed = {one["pid"]: one for one in json.loads(finished.cli("viewers", "--json").stdout)}
        assert (listed[theirs.pid]["user"], listed[theirs.pid]["mine"]) == (user, False)
        name = connect(finished, port, "run", "--force")["sink"]["id"]
        until(finished, name, lambda found: found["state"] == "complete", "delivery")
        wait_for(lambda: row_counts(saved) == list(range(100)), "all rows")
    finally:
        theirs.kill()
        theirs.wait(10)
        shutil.rmtree(place)


def test_viewers_lists_what_runs(finished: Home, rerun: Path, sdk_python: Callable[[str], Path]) -> None:
    """A server, an older one, a program that serves with the SDK; and which of them is fed."""
    source = """
import rerun as rr, sys
rr.init("served", recording_id="s")
print(rr.serve_grpc(grpc_port=int(sys.argv[1])), flush=True)
sys.stdin.read()
"""
    sdk_port = free_port()
    program = subprocess.Popen([sys.executable, "-c", source, str(sdk_port)], env=finished.env, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    try:
        assert program.stdout is not None
        program.stdout.readline()
        with Server(finished, rerun, "--serve-grpc") as new, \
                Server(finished, binary_beside(sdk_python("0.31.4")), "--serve-grpc") as old:
            name = connect(finished, new.url)["sink"]["id"]
            listed = {one["pid"]: one for one in json.loads(finished.cli("viewers", "--json").stdout)}
            assert (listed[new.pid]["version"], listed[new.pid]["kind"]) == ("0.41.0", "server")
            assert (listed[old.pid]["version"], listed[old.pid]["kind"]) == ("0.31.4", "server")
            assert (listed[program.pid]["version"], listed[program.pid]["kind"]) == ("0.41.0", "sdk")
            assert listed[new.pid]["sinks"] == [name]
            assert listed[old.pid]["sinks"] == []
            assert listed[new.pid]["url"] == new.url
            assert all(listed[one]["answers"] and listed[one]["mine"] for one in (new.pid, old.pid, program.pid))
            assert finished.daemon_pid() not in listed
            text = finished.cli("viewers").stdout
            assert str(new.pid) in text
            assert name in text
    finally:
        program.communicate()


# -- spawn -------------------------------------------------------------------------------------------------------------


def shows(port: int, frames: tuple[int, int], recording: str = "Recording:app:run") -> Callable[[], bool]:
    return lambda: tuple(ask_viewer(port).get(recording, {}).get("frame", ())) == frames


def test_spawn_use_again_and_close(finished: Home, viewers_end: list[int]) -> None:
    """A viewer is started and shows all; the next spawn uses it; closing it ends the output, not the recording."""
    first = spawn(finished, "run", "--port", free_port())
    viewers_end.append(first["viewer"]["pid"])
    port = int(first["viewer"]["url"].split(":")[2].split("/")[0])
    assert not first["viewer"]["reused"]
    wait_for(shows(port, (0, 99)), "everything in the viewer", 60)
    again = spawn(finished, "--port", port)
    assert again["viewer"]["reused"]
    assert again["viewer"]["pid"] == first["viewer"]["pid"]
    environment = Path(f"/proc/{first['viewer']['pid']}/environ").read_bytes()
    assert b"RRD_" not in environment
    assert os.getsid(first["viewer"]["pid"]) not in (os.getsid(0), os.getsid(finished.daemon_pid()))
    # The window outlives the daemon, and is fed by the next one.
    os.kill(finished.daemon_pid(), signal.SIGKILL)
    until(finished, again["sink"]["id"], lambda found: found["state"] == "following", "the daemon's return")
    with Program(finished, "later", rows=20, recording="later") as program:
        program.finish()
    wait_for(shows(port, (0, 19), "Recording:later:later"), "what came after the daemon's death", 60)
    os.kill(first["viewer"]["pid"], signal.SIGTERM)
    until(finished, again["sink"]["id"], lambda found: found["state"] == "closed", "noticing that it was closed")
    assert len(finished.recordings()) == 2


def test_spawn_chooses_the_executable_that_can_show_the_stream(
    daemon: Home, sdk_python: Callable[[str], Path], viewers_end: list[int]
) -> None:
    """The program's own environment comes first; one that is too old is passed over; --executable wins."""
    old = binary_beside(sdk_python("0.36.3"))
    daemon.env["PATH"] = f"{old.parent}:{daemon.env['PATH']}"
    source = 'rr.init("app", recording_id="run")\nrr.connect_grpc(URL)\nlog(0, 10); flush(); say("up"); wait_for_test()'
    with GrpcProgram(daemon, sdk_python("0.36.3"), source, grpc_url(daemon)) as program:
        assert program.line() == "up"
        beside = spawn(daemon, "--new", "--port", free_port())
        viewers_end.append(beside["viewer"]["pid"])
        assert beside["viewer"]["version"] == "0.36.3"
    with GrpcProgram(daemon, sys.executable, source, grpc_url(daemon)) as program:
        assert program.line() == "up"
        newer = spawn(daemon, "--new", "--port", free_port())
        viewers_end.append(newer["viewer"]["pid"])
        assert newer["viewer"]["version"] == "0.41.0"
        assert not newer["warning"]
        named = spawn(daemon, "--new", "--port", free_port(), "--executable", old)
        viewers_end.append(named["viewer"]["pid"])
        assert named["viewer"]["version"] == "0.36.3"
        assert "may be missing" in named["warning"]


def test_a_viewer_that_dies_says_why(daemon: Home) -> None:
    """Its last output is in the error, and nothing of it stays."""
    broken = daemon.path / "rerun"
    broken.write_text("#!/bin/sh\necho 'error while loading shared libraries: libvulkan.so.1'\nexit 127\n")
    broken.chmod(0o755)
    done = daemon.cli("spawn", "--executable", broken, "--port", free_port(), check=False)
    assert done.returncode == 1
    assert "ended with status 127" in done.stderr
    assert "libvulkan.so.1" in done.stderr
    assert "hint: a library is missing" in done.stderr or "hint: no graphics driver" in done.stderr
    assert daemon.status()["sinks"] == []


def test_a_viewer_that_dies_after_it_has_answered(daemon: Home, rerun: Path) -> None:
    """Its server is up before it looks for its display: held there, it answers, and is not taken for one that runs."""
    strace = shutil.which("strace")
    if strace is None:
        missing("strace")
    held = daemon.path / "rerun"
    held.write_text(f"#!/bin/sh\nexec {strace} -D -f -qq -o /dev/null -e trace=connect "
                    f'-e inject=connect:delay_enter=300000 {rerun} "$@"\n')
    held.chmod(0o755)
    daemon.env |= {"DISPLAY": ":777", "WAYLAND_DISPLAY": ""}
    done = daemon.cli("spawn", "--executable", held, "--port", free_port(), check=False, timeout=90)
    assert done.returncode == 1, done.stdout
    assert "the viewer ended with status 1" in done.stderr
    assert "rrd serve" in done.stderr
    assert daemon.status()["sinks"] == []


@pytest.mark.parametrize(("content", "said"), [
    ("#!/bin/sh\necho last words; kill -SEGV $$\n", "the viewer ended on signal 11"),
    ("#!/no/such/interpreter\n", "cannot start"),
    ("", "Exec format error"),
    (None, "no such executable"),
])
def test_what_is_no_viewer_executable(daemon: Home, content: str | None, said: str) -> None:
    """Said at once, with the file's name; and nothing of it stays."""
    wrong = daemon.path / "rerun"
    if content is not None:
        wrong.write_text(content)
        wrong.chmod(0o755)
    began = time.monotonic()
    done = daemon.cli("spawn", "--executable", wrong, "--port", free_port(), check=False)
    assert time.monotonic() - began < DEADLINE_S / 2
    assert done.returncode == 1
    assert said in done.stderr
    assert str(wrong) in done.stderr
    assert ("last words" in done.stderr) == bool(content and "words" in content)
    assert daemon.status()["sinks"] == []
    assert not psutil.Process(daemon.daemon_pid()).children(), "a zombie"


def test_no_display_no_window(daemon: Home) -> None:
    """What everybody sees who says `rrd spawn` over ssh."""
    daemon.env = {name: value for name, value in daemon.env.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = daemon.cli("spawn", "--port", free_port(), check=False, timeout=90)
    assert done.returncode == 1
    assert "the viewer ended" in done.stderr
    assert "rrd serve" in done.stderr


def test_two_spawns_at_once_share_a_viewer(finished: Home, viewers_end: list[int]) -> None:
    port = str(free_port())
    argv = [sys.executable, "-m", "rrd_cli", "spawn", "--headless", "--json", "--port", port]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(argv, env=finished.env, cwd=finished.path, stdout=pipe, stderr=pipe) for _ in range(2)]
    answers = [json.loads(one.communicate(timeout=90)[0]) for one in running]
    viewers_end.append(answers[0]["viewer"]["pid"])
    assert answers[0]["viewer"]["pid"] == answers[1]["viewer"]["pid"]
    assert len({answer["sink"]["id"] for answer in answers}) == 1
    assert sorted(answer["viewer"]["reused"] for answer in answers) == [False, True]

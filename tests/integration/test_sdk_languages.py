"""One program in every language (tests/sdk/*/driver): what a user may rely on is the same in all of them.

The real Rerun SDK is underneath each: its Python package, its crate, and for C++ its C library.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import pytest

from daemon.wire import control
from tests.conftest import DEADLINE_S, ROOT, Home, wait_for
from tests.helpers.shim import rows
from tests.helpers.viewers import Server, ask_viewer, free_port
from tests.sdk import drivers

pytestmark = pytest.mark.timeout(3600)  # the first one builds Rerun

RRD_DAEMON = str(Path(sys.executable).with_name("rrd-daemon"))


def _python() -> list[str]:
    return [sys.executable, str(ROOT / "tests/sdk/python/driver.py")]


LANGUAGES = {
    "python": _python,
    "rust": drivers.rust_driver,
    "cpp": drivers.cpp_driver,
    "c-api": lambda: [*drivers.cpp_driver(), "--c-api"],
}


@pytest.fixture(params=LANGUAGES)
def command(request: pytest.FixtureRequest) -> list[str]:
    """How to run the program of one language."""
    return LANGUAGES[request.param]()


def environment(home: Home) -> dict[str, str]:
    return home.env | {
        "RRD_DAEMON": RRD_DAEMON, "PYTHONPATH": str(ROOT / "sdk/python"), "PYTHONUNBUFFERED": "1", "RUST_LOG": "warn"}


class Driver:
    """The program, running and waiting for commands."""

    def __init__(self, home: Home, command: Sequence[str], *flags: str, **env: str) -> None:
        self.process = subprocess.Popen(
            [*command, *flags], env=environment(home) | env, cwd=home.path, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        assert self.answer() == "ready"

    def __enter__(self) -> Driver:
        return self

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, f"the program ended: {self.process.wait()}: {''.join(self.errors)}"
        return line

    def ask(self, line: str) -> str:
        self.send(line)
        return self.answer()

    def ok(self, line: str) -> list[str]:
        """Say something that must work; returns stream, sink and URL."""
        answer = self.ask(line)
        assert answer.split()[0] == "ok", f"{line}: {answer}: {''.join(self.errors)}"
        return answer.split()[1:]

    def finish(self, seconds: float = 2 * DEADLINE_S) -> str:
        """Let it end by returning from main; returns the warnings of the shim."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(seconds) == 0, "".join(self.errors)
        self._reader.join(DEADLINE_S)
        return "".join(line for line in self.errors if line.startswith("rrd: "))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(DEADLINE_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # it had ended before it heard the last command


def settled(home: Home, outputs: int) -> bool:
    """Whether all streams have ended, and so many outputs have everything."""
    status = home.status()
    sinks = [sink for sink in status["sinks"] if sink["state"] == "complete"]
    return not status["streams"] and len(sinks) == outputs


def test_save(home: Home, command: list[str], verify) -> None:
    """What was logged before is in the file; the daemon starts by itself; at the program's end the file is complete."""
    out = home.path / "run.rrd"
    with Driver(home, command) as program:
        program.ok("log 10")
        stream, sink, url = program.ok("save run.rrd")
        assert (bool(stream), bool(sink), url) == (True, True, "-")
        program.ok("log 10")
        (recording,) = home.recordings()
        names = [recording[name] for name in ("application_id", "recording_id", "state", "streams")]
        assert names == ["driver", "one", "live", [stream]]
        assert program.finish() == ""
    wait_for(lambda: settled(home, 1), "the file")
    verify(out)
    assert rows(out) == list(range(20))


def test_late_save(daemon: Home, command: list[str], verify) -> None:
    """Attached without an output: a file that is asked for after the program's end has everything."""
    with Driver(daemon, command) as program:
        program.ok("attach")
        program.ok("log 100")
        program.finish()
    wait_for(lambda: settled(daemon, 0), "the stream's end")
    daemon.cli("save", "late.rrd")
    verify(daemon.path / "late.rrd")
    assert rows(daemon.path / "late.rrd") == list(range(100))


def test_the_last_seconds(daemon: Home, command: list[str], verify) -> None:
    """A program that notices something saves what led to it, what it has only just logged included, and goes on."""
    event = daemon.path / "event.rrd"

    def saved() -> bool:
        return {sink["state"] for sink in daemon.status()["sinks"] if sink["target"] == str(event)} == {"complete"}

    with Driver(daemon, command) as program:
        program.ok("attach")
        program.ok("log 10")
        program.ok("flush")
        time.sleep(4)
        program.ok("log 10")
        _, sink, _ = program.ok("save event.rrd last=3")
        assert sink != "-"
        wait_for(saved, "the file")
        program.ok("log 10")
        program.ok("flush")
        assert program.ask("save event.rrd last=3").startswith("error exists ")
        verify(event)
        assert rows(event) == list(range(10, 20))
        program.ok("save event.rrd last=100 force")
        program.finish()
    wait_for(lambda: not daemon.status()["streams"] and saved(), "the end")
    verify(event)
    assert rows(event) == list(range(30))


def test_two_outputs(daemon: Home, command: list[str], verify) -> None:
    """A second output is added; one that is detached is complete, while the other goes on; no file is overwritten."""
    first, second = daemon.path / "first.rrd", daemon.path / "second.rrd"
    with Driver(daemon, command) as program:
        program.ok("log 10")
        stream, sink, _ = program.ok("save first.rrd")
        program.ok("log 10")
        program.ok("flush")
        same, _, _ = program.ok("save second.rrd copy")
        assert same == stream
        program.ok("log 10")
        program.ok("durable")
        assert rows(second) == list(range(30))
        program.ok(f"detach {sink}")
        verify(first)
        program.ok("log 10")
        (daemon.path / "mine.rrd").write_text("precious")
        assert program.ask("save mine.rrd").startswith("error exists ")
        assert (daemon.path / "mine.rrd").read_text() == "precious"
        program.ok("save mine.rrd force")
        program.finish()
    wait_for(lambda: settled(daemon, 2), "the files")
    verify(second, daemon.path / "mine.rrd")
    assert rows(first) == list(range(30))
    assert rows(second) == rows(daemon.path / "mine.rrd") == list(range(40))


def test_flush(daemon: Home, command: list[str]) -> None:
    """All that was logged before is in the log when flush returns."""
    with Driver(daemon, command) as program:
        stream, _, _ = program.ok("attach")
        for round_ in range(1, 4):
            program.ok("log 7")
            program.ok("flush")
            assert rows(daemon.spool / f"{stream}.rrd") == list(range(7 * round_))


def test_a_new_stream_after_the_sdk_ended_the_first(daemon: Home, command: list[str]) -> None:
    """The SDK's own disconnect ends the stream and its files; the next verb begins a new stream of the recording."""
    with Driver(daemon, command) as program:
        program.ok("log 5")
        old, _, _ = program.ok("save old.rrd")
        program.ok("disconnect")
        program.ok("log 5")
        new, _, _ = program.ok("save new.rrd")
        assert new != old
        program.ok("log 5")
        program.finish()
    wait_for(lambda: settled(daemon, 2), "the files")
    assert rows(daemon.path / "old.rrd") == list(range(5))
    # What was logged in between is the SDK's affair: Python and Rust buffer it, in C it went to another sink.
    assert rows(daemon.path / "new.rrd")[-5:] == list(range(10, 15))


def test_the_recording_ends_before_the_program(daemon: Home, command: list[str]) -> None:
    """Its file is complete then, and the program can end whenever it likes."""
    with Driver(daemon, command) as program:
        program.ok("save run.rrd")
        program.ok("log 5")
        program.ok("end")
        wait_for(lambda: settled(daemon, 1), "the file")
        assert rows(daemon.path / "run.rrd") == list(range(5))
        assert program.finish() == ""


def test_flags(daemon: Home, command: list[str], verify) -> None:
    """The standard flags; the program's own are its own."""
    flags = ["--save", "flags.rrd", "--count", "25", "--app", "flagged", "--recording-id", "f1"]
    done = subprocess.run([*command, *flags], cwd=daemon.path, env=environment(daemon), capture_output=True, text=True,
                          check=False, timeout=2 * DEADLINE_S)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: settled(daemon, 1), "the file")
    verify(daemon.path / "flags.rrd")
    assert rows(daemon.path / "flags.rrd") == list(range(25))
    (recording,) = daemon.recordings()
    assert (recording["application_id"], recording["recording_id"]) == ("flagged", "f1")


def test_stdout_flag(daemon: Home, command: list[str]) -> None:
    """--stdout writes the stream, whole, to standard output."""
    with open(daemon.path / "stdout.rrd", "wb") as out:
        subprocess.run([*command, "--stdout", "--count", "25"], cwd=daemon.path, env=environment(daemon), stdout=out,
                       stderr=subprocess.DEVNULL, check=True, timeout=2 * DEADLINE_S)

    def written() -> list[int]:
        try:
            return rows(daemon.path / "stdout.rrd")
        except RuntimeError:  # too little for a reader: who writes it may outlive the program a little
            return []

    wait_for(lambda: written() == list(range(25)), "all rows")


@pytest.mark.parametrize("command", ["rust", "cpp", "c-api"], indirect=True)
def test_flags_add_up(daemon: Home, command: list[str]) -> None:
    """Any number of outputs together; in Python the flags are those of the installed SDK, one of each."""
    (daemon.path / "a.rrd").write_text("old")
    url = "rerun+http://127.0.0.1:9/proxy"
    flags = ["--save", "a.rrd", "--save=b.rrd", "--force", "--connect", url, "--serve", "--bind", "127.0.0.1",
             "--headless"]
    done = subprocess.run([*command, *flags, "--count", "25"], cwd=daemon.path, env=environment(daemon),
                          capture_output=True, text=True, check=False, timeout=2 * DEADLINE_S)
    assert done.returncode == 0, done.stderr
    assert "http://127.0.0.1:" in done.stderr
    wait_for(lambda: settled(daemon, 2), "the files")
    assert rows(daemon.path / "a.rrd") == rows(daemon.path / "b.rrd") == list(range(25))
    kinds = sorted((found["kind"], found["target"]) for found in daemon.status()["sinks"] if found["kind"] != "file")
    assert ("viewer", url) in kinds
    assert len(kinds) == 2


def test_headless_flag(daemon: Home, command: list[str]) -> None:
    """No output, and everything is kept."""
    subprocess.run([*command, "--headless", "--count", "25"], cwd=daemon.path, env=environment(daemon),
                   capture_output=True, check=True, timeout=2 * DEADLINE_S)
    assert daemon.status()["sinks"] == []
    daemon.cli("save", "late.rrd", "--wait")
    assert rows(daemon.path / "late.rrd") == list(range(25))


def test_no_flag_and_no_display(daemon: Home, command: list[str]) -> None:
    """Without a flag a viewer is opened. Where none can be, that is said once, and the program does its work."""
    env = {name: value for name, value in environment(daemon).items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run([*command, "--count", "25"], cwd=daemon.path, env=env, capture_output=True, text=True,
                          check=False, timeout=4 * DEADLINE_S)
    assert done.returncode == 0, done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("rrd: ")]
    assert "no viewer" in warning
    daemon.cli("save", "later.rrd", "--wait")
    assert rows(daemon.path / "later.rrd") == list(range(25))
    asked = subprocess.run([*command, "--spawn", "--count", "25"], cwd=daemon.path, env=env, capture_output=True,
                           text=True, check=False, timeout=4 * DEADLINE_S)
    assert asked.returncode != 0, "who asks for a viewer is told that there is none"


def test_a_file_is_not_overwritten(daemon: Home, command: list[str]) -> None:
    """A flag that cannot be obeyed ends the program, and says why."""
    (daemon.path / "mine.rrd").write_text("precious")
    done = subprocess.run([*command, "--save", "mine.rrd", "--count", "25"], cwd=daemon.path, env=environment(daemon),
                          capture_output=True, text=True, check=False, timeout=2 * DEADLINE_S)
    assert done.returncode == 1
    assert "mine.rrd" in done.stderr
    assert (daemon.path / "mine.rrd").read_text() == "precious"


def test_switched_off(home: Home, command: list[str]) -> None:
    """RERUN=off: every verb does nothing, and no daemon is started or missed."""
    with Driver(home, command, RERUN="off") as program:
        assert program.ask("save run.rrd") == "buffering"
        assert program.ask("attach") == "buffering"
        program.ok("log 5")
        program.ok("flush")
        assert "warning" not in program.finish()
    assert not home.socket.exists()
    assert not (home.path / "run.rrd").exists()


def test_threads(daemon: Home, command: list[str], verify) -> None:
    """Many log, and many say verbs at once: one stream, all rows once, a file for each who asked."""
    with Driver(daemon, command) as program:
        (stream,) = program.ok("crowd 6")
        program.ok("threads 8 250")
        assert program.ok("attach")[0] == stream
        program.finish()
    wait_for(lambda: settled(daemon, 6), "the files")
    files = [daemon.path / f"crowd-{number}.rrd" for number in range(6)]
    verify(*files)
    assert [rows(file) for file in files] == [list(range(2000))] * 6
    assert len(daemon.recordings()) == 1


def test_two_recordings_at_once(daemon: Home, command: list[str], verify) -> None:
    """Each has its stream and its file; one dies with the daemon's help as little as the other."""
    with Driver(daemon, command) as program:
        one, _, _ = program.ok("save one.rrd")
        two, _, _ = program.ok("second two.rrd 30")
        assert one != two
        os.kill(daemon.daemon_pid(), signal.SIGKILL)
        program.ok("log 20")
        program.ok("end")
        wait_for(lambda: len(daemon.status()["streams"]) == 1, "the end of one of them")
        assert program.finish() == ""
    wait_for(lambda: settled(daemon, 2), "the files")
    verify(daemon.path / "one.rrd", daemon.path / "two.rrd")
    assert rows(daemon.path / "one.rrd") == list(range(20))
    assert rows(daemon.path / "two.rrd") == list(range(30))


def test_one_recording_after_another(daemon: Home, command: list[str]) -> None:
    """Dropped without a detach, and begun again where it was in memory: none is taken for the one before it."""
    streams = set()
    with Driver(daemon, command) as program:
        for number in range(4):
            program.ok(f"other run-{number}")
            streams |= {program.ok(f"save {number}.rrd")[0]}
            program.ok(f"log {10 * number + 10}")
        program.finish()
    wait_for(lambda: settled(daemon, 4), "the files")
    assert len(streams) == 4
    assert [rows(daemon.path / f"{number}.rrd") for number in range(4)] == [
        list(range(10 * number + 10)) for number in range(4)]


@pytest.mark.parametrize("command", ["rust", "cpp", "c-api"], indirect=True)
def test_a_moved_recording(daemon: Home, command: list[str]) -> None:
    """It is the same one, and is flushed to the disk, too."""
    with Driver(daemon, command) as program:
        program.ok("save run.rrd copy")
        for round_ in range(1, 4):
            program.ok("move")
            program.ok("log 10")
            program.ok("durable")
            assert rows(daemon.path / "run.rrd") == list(range(10 * round_))
        program.finish()
    wait_for(lambda: settled(daemon, 1), "the file")


def test_a_forked_child_ends(daemon: Home, command: list[str]) -> None:
    """It has copies of all descriptors, and leaves its parent's stream alone."""
    with Driver(daemon, command) as program:
        program.ok("save run.rrd")
        program.ok("log 100")
        program.ok("fork exit")
        program.ok("log 100")
        program.ok("save second.rrd copy")
        program.finish()
    wait_for(lambda: settled(daemon, 2), "the files")
    assert rows(daemon.path / "run.rrd") == rows(daemon.path / "second.rrd") == list(range(200))


def test_a_forked_child_stays(daemon: Home, command: list[str]) -> None:
    """The stream ends with the program that logs, whoever else still holds the pipe."""
    with Driver(daemon, command) as program:
        program.ok("save run.rrd")
        program.ok("log 100")
        child = int(program.ok("fork stay")[0])
        try:
            program.ok("log 100")
            program.ok("flush")
            program.process.kill()
            wait_for(lambda: settled(daemon, 1), "the file")
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)
    assert rows(daemon.path / "run.rrd") == list(range(200))


@pytest.mark.parametrize("command", ["rust"], indirect=True)
def test_one_line(daemon: Home, command: list[str]) -> None:
    """Rust's builder makes the recording and says the verb; each of these recordings is dropped at once."""
    url = "rerun+http://127.0.0.1:9/proxy"
    with Driver(daemon, command) as program:
        assert program.ok(f"builders {url}")[2].startswith("http://127.0.0.1:")
        wait_for(lambda: not daemon.status()["streams"], "the streams' end")
        program.finish()
    assert sorted(found["kind"] for found in daemon.status()["sinks"]) == ["file", "viewer", "web"]
    assert rows(daemon.path / "three.rrd") == [2]
    (recording,) = daemon.recordings()
    assert len(recording["streams"]) == 4
    daemon.cli("save", "all.rrd", "three", "--wait")
    assert rows(daemon.path / "all.rrd") == [0, 1, 2, 3]


def test_flags_that_make_no_sense(home: Home, command: list[str]) -> None:
    """A usage error, before anything is started."""
    done = subprocess.run([*command, "--save"], cwd=home.path, env=environment(home), capture_output=True, text=True,
                          check=False, timeout=DEADLINE_S)
    assert done.returncode in (1, 2)
    assert "--save" in done.stderr
    assert not home.socket.exists()


def test_serve(daemon: Home, command: list[str], verify) -> None:
    """A URL comes back, and the recording is to be had there, also after the program's end."""
    with Driver(daemon, command) as program:
        program.ok("log 50")
        _, _, url = program.ok("serve")
        assert url.startswith("http://127.0.0.1:")
        program.ok("log 50")
        program.finish()
    wait_for(lambda: not daemon.status()["streams"], "the stream's end")
    page, query = url.split("/view?")
    token = query.split("token=")[1].split("&")[0]
    with urllib.request.urlopen(f"{page}/recordings/one.rrd?token={token}", timeout=DEADLINE_S) as answer:
        (daemon.path / "web.rrd").write_bytes(answer.read())
    verify(daemon.path / "web.rrd")
    assert rows(daemon.path / "web.rrd") == list(range(100))


def test_spawn(daemon: Home, command: list[str]) -> None:
    """A real viewer shows what was logged before and after, and outlives program and daemon; the next one uses it."""
    port = free_port()
    with Driver(daemon, command) as program:
        program.ok("log 50")
        _, sink, url = program.ok(f"spawn {port}")
        viewer = next(found for found in daemon.call("viewers")["viewers"] if found["url"] == url)
        try:
            assert url == f"rerun+http://127.0.0.1:{port}/proxy"
            assert viewer["sinks"] == [sink]
            program.ok("log 50")
            os.kill(daemon.daemon_pid(), signal.SIGKILL)
            program.ok("log 50")
            program.ok("save run.rrd")
            program.finish()
            wait_for(lambda: shown(port, "one") == (0, 149), "all of it in the viewer", 2 * DEADLINE_S)
            with Driver(daemon, command, "--recording-id", "later") as second:
                second.ok("log 10")
                assert second.ok(f"spawn {port}")[2] == url
                second.finish()
            wait_for(lambda: shown(port, "later") == (0, 9), "the next one in the viewer", 2 * DEADLINE_S)
            wait_for(lambda: settled(daemon, 3), "delivery to the viewer, twice, and the file")
        finally:
            os.kill(viewer["pid"], signal.SIGKILL)
    assert rows(daemon.path / "run.rrd") == list(range(150))


def shown(port: int, recording: str) -> tuple[int, ...]:
    """The first and the last row of a recording that a viewer shows; nothing before it does."""
    return tuple(ask_viewer(port).get(f"Recording:driver:{recording}", {}).get("frame", ()))


def test_connect_to_a_server(daemon: Home, command: list[str], rerun: Path) -> None:
    """A real server has all rows of a program that was killed, and so has its other output."""
    saved = daemon.path / "saved.rrd"
    with Server(daemon, rerun, "--save", saved) as server, Driver(daemon, command) as program:
        program.ok("log 50")
        program.ok("save run.rrd")
        program.ok(f"connect {server.url}")
        program.ok("log 50")
        program.ok("flush")
        program.process.kill()
        wait_for(lambda: settled(daemon, 2), "delivery")
        server.stop()
    assert rows(saved) == rows(daemon.path / "run.rrd") == list(range(100))


def test_connect(daemon: Home, command: list[str]) -> None:
    """A viewer that is not there yet is waited for by the daemon, not by the program."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"rerun+http://127.0.0.1:{free.getsockname()[1]}/proxy"
    with Driver(daemon, command) as program:
        _, sink, _ = program.ok(f"connect {url}")
        program.ok("log 5")
        assert [found["kind"] for found in daemon.status()["sinks"] if found["id"] == sink] == ["viewer"]
        assert program.ask("connect ftp://host").startswith("error usage ")
        assert program.finish() == ""


@pytest.mark.parametrize("command", ["python", "rust"], indirect=True)
def test_low_latency(daemon: Home, command: list[str]) -> None:
    """With a viewer as first output the SDK writes at once, where it can be told to: not in C."""
    with Driver(daemon, command) as program:
        stream, _, _ = program.ok("connect rerun+http://127.0.0.1:9/proxy")
        program.ok("log 200 2000")
        program.ok("flush")
        chunks = next(found["messages"] for found in daemon.recordings() if stream in found["streams"])
        # 0.4 s of rows: some 50 chunks of 8 ms; with the file sink's 200 ms it would be 4 or so.
        assert chunks > 15


@pytest.mark.parametrize("how", ["kill", "abort"])
def test_program_killed(daemon: Home, command: list[str], verify, how: str) -> None:
    """All that had left the SDK is in the file, which is complete soon after."""
    with Driver(daemon, command) as program:
        program.ok("save run.rrd")
        program.ok("log 500")
        program.ok("flush")
        if how == "kill":
            program.send("log 100000 100")
            wait_for(lambda: daemon.recordings()[0]["messages"] > 6, "some more")
            program.process.kill()
        else:
            program.ok("log 100")
            program.send("abort")
        assert program.process.wait(DEADLINE_S) < 0
        wait_for(lambda: settled(daemon, 1), "the file")
    verify(daemon.path / "run.rrd")
    found = rows(daemon.path / "run.rrd")
    assert found == list(range(len(found)))
    assert len(found) >= 500


def test_daemon_killed_ten_times(daemon: Home, command: list[str], verify) -> None:
    """Under load: no row is lost, none is doubled, and the verbs that are said meanwhile work."""
    chance = random.Random(42)
    with Driver(daemon, command) as program:
        program.ok("save run.rrd")
        program.send("log 12000 500")
        for number in range(10):
            pid = daemon.daemon_pid()
            # The moment is what is being varied; the keeper lets one wait that dies young again and again.
            time.sleep(chance.uniform(0.05, 0.3) + number % 2)
            os.kill(pid, signal.SIGKILL)
        assert program.answer() == "ok"
        os.kill(daemon.daemon_pid(), signal.SIGKILL)
        program.ok("save second.rrd copy")
        program.ok("flush")
        assert program.finish() == ""
    wait_for(lambda: settled(daemon, 2), "the files")
    verify(daemon.path / "run.rrd", daemon.path / "second.rrd")
    assert rows(daemon.path / "run.rrd") == rows(daemon.path / "second.rrd") == list(range(12000))


def test_the_program_ends_while_the_daemon_is_dead(daemon: Home, command: list[str]) -> None:
    """The keeper holds the pipe."""
    with Driver(daemon, command) as program:
        program.ok("save run.rrd")
        program.ok("log 500")
        pid = daemon.daemon_pid()
        os.kill(pid, signal.SIGSTOP)  # it cannot move a byte any more
        program.ok("log 500")
        program.finish()
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: settled(daemon, 1), "the file")
    assert rows(daemon.path / "run.rrd") == list(range(1000))


def kill_both(home: Home) -> None:
    """Keeper and daemon at once. Stopped first: either would replace the other."""
    pids = [home.keeper_pid(), home.daemon_pid()]
    assert all(pids)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(pid, number)
    wait_for(lambda: not home.keeper_pid(), "their end")


def test_keeper_and_daemon_killed(daemon: Home, command: list[str], verify) -> None:
    """The program starts another daemon, which goes on with the stream where the last one left it."""
    with Driver(daemon, command) as program:
        program.ok("save run.rrd")
        program.ok("log 1000")
        program.send("log 3000 1000")
        kill_both(daemon)
        assert program.answer() == "ok"
        program.ok("flush")
        program.finish()
    wait_for(lambda: settled(daemon, 1), "the file")
    verify(daemon.path / "run.rrd")
    assert rows(daemon.path / "run.rrd") == list(range(4000))


def test_keeper_and_daemon_killed_for_good(daemon: Home, command: list[str], tmp_path: Path) -> None:
    """None can be started: the program goes on, ends soon, says one thing, and the next daemon has it all."""
    program_file = tmp_path / "rrd-daemon"
    with Driver(daemon, command, RRD_DAEMON=str(program_file)) as program:
        program.ok("save run.rrd")
        program.ok("log 500")
        kill_both(daemon)
        program.ok("log 4000 1000")  # long enough to see that nobody comes back
        before = time.monotonic()
        said = program.finish()
        assert time.monotonic() - before < DEADLINE_S
        assert said.count("rrd: ") == 1, said
    daemon.cli("daemon", "start")
    wait_for(lambda: settled(daemon, 1), "the file")
    assert rows(daemon.path / "run.rrd") == list(range(4500))


def test_of_another_session(daemon: Home, command: list[str], tmp_path: Path) -> None:
    """cron, su, the next login: another runtime directory, the same recordings, and so the same daemon."""
    absent = {"RRD_DAEMON": str(tmp_path / "rrd-daemon"), "XDG_RUNTIME_DIR": str(tmp_path)}
    with Driver(daemon, command, **absent) as program:
        program.ok("save run.rrd")
        program.ok("log 100")
        os.kill(daemon.daemon_pid(), signal.SIGKILL)
        program.ok("log 100")
        program.ok("flush")
        assert program.finish() == ""
    wait_for(lambda: settled(daemon, 1), "the file")
    assert rows(daemon.path / "run.rrd") == list(range(200))
    assert not list(tmp_path.iterdir())


def test_the_runtime_directory_goes_away(daemon: Home, command: list[str], tmp_path: Path) -> None:
    """At the user's last logout. Who dies afterwards is found again beside the recordings."""
    with Driver(daemon, command, RRD_DAEMON=str(tmp_path / "rrd-daemon")) as program:
        program.ok("save run.rrd")
        program.ok("log 100")
        pid = daemon.daemon_pid()
        shutil.rmtree(daemon.path / "r")
        os.kill(pid, signal.SIGKILL)
        program.ok("log 2000 1000")
        program.ok("flush")
        assert program.finish() == ""
    daemon.cli("save", "again.rrd", "--wait")
    for name in ("run.rrd", "again.rrd"):
        assert rows(daemon.path / name) == list(range(2100))


def test_daemon_stopped_on_purpose(daemon: Home, command: list[str]) -> None:
    """Nobody starts it again behind the user's back; what is logged meanwhile is kept for the next one."""
    with Driver(daemon, command) as program:
        program.ok("save run.rrd")
        program.ok("log 500")
        daemon.cli("daemon", "stop", "--force")
        program.ok("log 3500 1000")
        assert not daemon.keeper_pid()
        daemon.cli("daemon", "start")
        program.ok("log 500")
        program.ok("flush")
        assert program.finish().count("rrd: ") <= 1
    wait_for(lambda: settled(daemon, 1), "the file")
    assert rows(daemon.path / "run.rrd") == list(range(4500))


@pytest.mark.parametrize("command", ["python", "rust"], indirect=True)  # others die of such a pipe by themselves
def test_nobody_reads_stderr(home: Home, command: list[str]) -> None:
    """A warning that cannot be said does not end the program."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(command, input="attach\nlog 1\n", env=environment(home) | {"RRD_DAEMON": "/bin/false"},
                              cwd=home.path, stdout=subprocess.PIPE, stderr=write_end, text=True, check=False,
                              timeout=4 * DEADLINE_S)
    finally:
        os.close(write_end)
    assert done.stdout.split() == ["ready", "buffering", "ok"]


def test_no_home(home: Home, command: list[str]) -> None:
    """No directory comes into being where nobody would look for it; what is missing is said."""
    before = set(home.path.rglob("*"))
    with Driver(home, command, HOME="nowhere", XDG_STATE_HOME="") as program:
        assert program.ask("attach") == "buffering"
        said = program.finish()
    assert "HOME is not set and this user has no home directory" in said
    assert "set HOME, or XDG_STATE_HOME" in said
    assert set(home.path.rglob("*")) - before <= {home.path / "r" / "rrd", home.path / "r" / "rrd" / "start.lock"}


def test_daemon_absent(home: Home, command: list[str], tmp_path: Path) -> None:
    """It cannot be started: one clear warning, and no waiting; the next verb finds the one that is there by then."""
    program_file = tmp_path / "rrd-daemon"
    with Driver(home, command, RRD_DAEMON=str(program_file)) as program:
        program.ok("log 100")
        assert program.ask("save run.rrd") == "buffering"
        assert program.ask("attach") == "buffering"
        assert program.ask("flush") == "ok"
        wait_for(lambda: any("rrd: " in line for line in program.errors), "a warning")
        program.ok("log 100")
        before = time.monotonic()
        for _ in range(20):
            assert program.ask("save run.rrd") == "buffering"
        assert time.monotonic() - before < 5.0
        home.cli("daemon", "start")
        program.ok("save run.rrd")
        program.ok("log 100")
        said = program.finish()
    assert said.count("rrd: ") == 1, said
    wait_for(lambda: settled(home, 1), "the file")
    assert rows(home.path / "run.rrd") == list(range(300))


@pytest.fixture
def stranger(home: Home) -> Iterator[list[dict]]:
    """Somebody who listens where the daemon would, and speaks a protocol of the future; what was said to them."""
    said: list[dict] = []
    home.socket.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home.socket))
        listener.listen()

        def answer() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    decoder = control.Decoder()
                    while (message := decoder.next_message()) is None:
                        data = peer.recv(4096)
                        if not data:
                            break
                        decoder.receive_data(data)
                    if message is not None:
                        said.append(message)
                        failure = control.VerbError("protocol", "the daemon speaks protocol 99", "rrd daemon restart")
                        peer.sendall(control.encode(control.error(message["id"], failure)))

        thread = threading.Thread(target=answer)
        thread.start()
        yield said
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_version_mismatch(home: Home, command: list[str], stranger: list[dict]) -> None:
    """Both say so, neither goes on with the other, and the program does not mind."""
    with Driver(home, command) as program:
        program.ok("log 10")
        assert program.ask("save run.rrd") == "buffering"
        program.ok("log 10")
        said = program.finish()
    assert said.count("rrd: ") == 1
    assert "protocol 99" in said
    assert "rrd daemon restart" in said
    assert stranger[0]["verb"] == "hello"
    assert stranger[0]["args"]["protocol"] == control.PROTOCOL

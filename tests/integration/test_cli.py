"""`rrd` as people use it in a shell: real processes, real pipes, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import NEWEST, Home, wait_for
from tests.helpers.shim import Program, rows, run
from tests.rrd_cli.test_tailing import DATA, HEADER, MESSAGES, WHOLE, info, message

ROWS = """
rec = rr.RecordingStream("rows", recording_id=sys.argv[1])
rrd.attach(recording=rec)
log(0, 10, rec)
rrd.flush(recording=rec)
say("ten")
wait_for_test()
log(10, 20, rec)
rrd.flush(recording=rec)
say("twenty")
wait_for_test()
"""
PLAIN = """
import sys
import rerun as rr
rec = rr.RecordingStream("plain", recording_id="plain")
rec.save(sys.argv[1])
for row in range(500):
    rec.log("row", rr.TextLog(f"row {row}"))
"""


STDOUT = """
import select, sys
import rerun as rr
rr.init("prog", recording_id="prog")
rr.stdout()
count = 0
while not select.select([sys.stdin], [], [], 0.01)[0]:
    rr.set_time("frame", sequence=count)
    rr.log("row", rr.TextLog(f"row {count}"))
    count += 1
with open("count", "w") as file:
    file.write(str(count))
"""


@pytest.fixture
def rrd_command() -> list[str]:
    return [sys.executable, "-m", "rrd_cli"]


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that the SDK made, with footer."""
    path = tmp_path_factory.mktemp("plain") / "plain.rrd"
    subprocess.run([sys.executable, "-c", PLAIN, path], check=True, timeout=60)
    return path


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class TestStdin:
    def test_byte_for_byte(self, daemon: Home, plain: Path) -> None:
        with open(plain, "rb") as file, subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) as cat:
            done = daemon.cli("save", "out.rrd", "-", stdin=cat.stdout)
        assert "saved standard input to out.rrd" in done.stdout
        assert (daemon.path / "out.rrd").read_bytes() == plain.read_bytes()

    def test_the_same_file_again(self, daemon: Home, plain: Path, verify) -> None:
        """The spool has it twice then, but what is saved has each row once."""
        for _ in range(2):
            with open(plain, "rb") as file:
                daemon.cli("save", "out.rrd", "-", "--force", stdin=file)
        daemon.cli("save", "once.rrd", "plain")
        daemon.cli("save", "again.rrd", plain, "once.rrd", "out.rrd")
        daemon.cli("save", "once-more.rrd", "plain", "--force")
        whole, *others = json.loads(
            daemon.cli("info", "--json", plain, "once.rrd", "again.rrd", "once-more.rrd").stdout
        )
        for other in others:
            assert other["recordings"] == whole["recordings"]
            assert other["footer"]["state"] == "complete"
        verify(*(daemon.path / f"{name}.rrd" for name in ("once", "again", "once-more")))

    def test_a_file_redirected_in(self, daemon: Home, plain: Path) -> None:
        with open(plain, "rb") as file:
            daemon.cli("save", "out.rrd", "-", stdin=file)
        assert (daemon.path / "out.rrd").read_bytes() == plain.read_bytes()

    def test_the_daemon_is_killed_meanwhile(self, daemon: Home, plain: Path, rrd_command: list[str]) -> None:
        data = plain.read_bytes()
        with subprocess.Popen(
            [*rrd_command, "save", "out.rrd", "-"], cwd=daemon.path, env=daemon.env, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as saving:  # fmt: skip
            assert saving.stdin is not None
            for part in range(4):
                saving.stdin.write(data[len(data) * part // 4 : len(data) * (part + 1) // 4])
                saving.stdin.flush()
                wait_for(lambda: daemon.status()["sinks"], "the sink")
                os.kill(daemon.daemon_pid(), signal.SIGKILL)
            saving.stdin.close()
            assert saving.wait(60) == 0
            assert saving.stderr is not None
            assert saving.stderr.read() == b""
        assert (daemon.path / "out.rrd").read_bytes() == data

    @pytest.mark.parametrize("version", ["0.23.4", NEWEST])
    def test_a_program_whose_stdout_it_is(self, daemon: Home, rrd_command: list[str], sdk_python, version: str) -> None:
        """`prog | rrd save out.rrd -`, and the daemon is killed while the program logs."""
        out = daemon.path / "out.rrd"
        with (
            subprocess.Popen([sdk_python(version), "-c", STDOUT], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             cwd=daemon.path, env=daemon.env) as program,
            subprocess.Popen([*rrd_command, "save", out, "-"], stdin=program.stdout, stdout=subprocess.PIPE,
                             env=daemon.env) as saving,
        ):
            assert program.stdin is not None
            for _ in range(3):
                before = size(out)
                wait_for(lambda before=before: size(out) > before, "more rows")
                os.kill(daemon.daemon_pid(), signal.SIGKILL)
            program.stdin.close()
            assert saving.wait(60) == 0
            assert program.wait(60) == 0
        found = rows(out)
        assert found == list(range(len(found)))
        assert len(found) == int((daemon.path / "count").read_text())

    def test_attached(self, daemon: Home, plain: Path, rrd_command: list[str]) -> None:
        """`prog | rrd attach -`: no output, the daemon is killed meanwhile, and it can be saved afterwards."""
        data = plain.read_bytes()
        with subprocess.Popen(
            [*rrd_command, "attach", "-"], env=daemon.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=False,
        ) as attached:  # fmt: skip
            assert attached.stdin is not None
            attached.stdin.write(data[:5000])
            attached.stdin.flush()
            wait_for(lambda: daemon.status()["streams"], "the stream")
            os.kill(daemon.daemon_pid(), signal.SIGKILL)
            attached.stdin.write(data[5000:])
            attached.stdin.close()
            assert attached.wait(60) == 0
            assert attached.stdout is not None
            said = attached.stdout.read().decode()
            assert said.startswith("kept plain/")
            assert attached.stderr is not None
            assert attached.stderr.read() == b""
        assert daemon.status()["sinks"] == []
        daemon.cli("save", "out.rrd", "@latest")
        assert (daemon.path / "out.rrd").read_bytes() == data
        with open(plain, "rb") as file:  # again: what is said is of this stream, not of all that the recording has
            assert daemon.cli("attach", "-", stdin=file).stdout == said

    def test_attached_nonsense(self, daemon: Home) -> None:
        (daemon.path / "bad").write_bytes(b"hello, world, this is a text")
        with open(daemon.path / "bad", "rb") as file:
            done = daemon.cli("attach", "-", stdin=file, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("error: standard input is damaged")
        assert daemon.cli("attach", "@latest", check=False).returncode == 2

    def test_connected(self, daemon: Home, plain: Path) -> None:
        """A viewer that is not there yet is fed with standard input."""
        with open(plain, "rb") as file:
            done = daemon.cli("connect", "1", "-", stdin=file)
        assert "waiting: " in done.stderr
        (sink,) = daemon.status()["sinks"]
        assert sink["kind"] == "viewer"
        wait_for(lambda: not daemon.status()["streams"], "the stream's end")
        (recording,) = daemon.recordings()
        assert recording["application_id"] == "plain"
        wait_for(lambda: daemon.status()["sinks"][0]["lag_messages"] == recording["messages"], "what is to be sent")

    def test_garbage(self, daemon: Home, plain: Path) -> None:
        (daemon.path / "bad").write_bytes(DATA + b"\xee" * 1000)
        with open(daemon.path / "bad", "rb") as file:
            done = daemon.cli("save", "out.rrd", "-", stdin=file, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("error: standard input is damaged: not a frame: kind 0xeeee")
        assert (daemon.path / "out.rrd").read_bytes().startswith(DATA)

    @pytest.mark.parametrize("data", [b"", b"hello, world, this is a text"])
    def test_no_stream_at_all(self, daemon: Home, data: bytes) -> None:
        (daemon.path / "bad").write_bytes(data)
        with open(daemon.path / "bad", "rb") as file:
            done = daemon.cli("save", "out.rrd", "-", stdin=file, check=False)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")

    def test_cut_off(self, daemon: Home, plain: Path) -> None:
        (daemon.path / "cut").write_bytes(plain.read_bytes()[:5000])
        with open(daemon.path / "cut", "rb") as file:
            done = daemon.cli("save", "out.rrd", "-", stdin=file)
        assert "in the middle of a message" in done.stderr


class TestTailFile:
    @pytest.fixture
    def follow(self, home: Home, rrd_command: list[str]):
        """Start `rrd tail -f in.rrd > out.rrd`, without a daemon."""
        running = []

        def start(*words: str) -> subprocess.Popen[bytes]:
            with open(home.path / "out.rrd", "wb") as out:
                running.append(subprocess.Popen([*rrd_command, "tail", "-f", *(words or ("in.rrd",))], cwd=home.path,
                                                env=home.env, stdout=out, stderr=subprocess.PIPE))
            return running[-1]

        yield start
        for one in running:
            one.kill()  # nothing, if it has ended
            one.wait()
            assert one.stderr is not None
            one.stderr.close()
        assert not home.socket.exists()

    def test_until_its_end(self, home: Home, follow) -> None:
        path, out = home.path / "in.rrd", home.path / "out.rrd"
        with open(path, "wb", buffering=0) as file:
            file.write(DATA[:100])
            tail = follow()
            wait_for(lambda: size(out) > 12, "the beginning")
            for at in range(100, len(WHOLE), 97):
                file.write(WHOLE[at : at + 97])
            assert tail.wait(20) == 0  # though the writer still has it open: the stream has ended
        assert out.read_bytes() == WHOLE

    def test_until_its_writer_has_closed_it(self, home: Home, follow) -> None:
        path, out = home.path / "in.rrd", home.path / "out.rrd"
        with open(path, "wb", buffering=0) as file:
            file.write(DATA[:-1])
            tail = follow()
            wait_for(lambda: size(out) == len(DATA) - len(MESSAGES[-1]), "all that is whole")
            assert tail.poll() is None
        assert tail.wait(20) == 0
        assert out.read_bytes() == DATA[: -len(MESSAGES[-1])]
        assert b"bytes after the last whole message left out" in tail.communicate()[1]

    @pytest.mark.parametrize("how", ["replaced", "in place"])
    def test_written_anew(self, home: Home, follow, how: str) -> None:
        path, out = home.path / "in.rrd", home.path / "out.rrd"
        fresh = HEADER + info("b") + message("b", "fresh")
        with open(path, "wb", buffering=0) as file:
            file.write(DATA)
            tail = follow()
            wait_for(lambda: size(out) == len(DATA), "the first file")
            if how == "replaced":
                (home.path / "new").write_bytes(fresh)
                os.rename(home.path / "new", path)
            else:
                file.seek(0)
                file.truncate(0)
                file.write(fresh)
            wait_for(lambda: size(out) == len(DATA) + len(fresh) - 12, "the second file")
        assert tail.wait(20) == 0
        assert out.read_bytes() == DATA + fresh[12:]

    def test_a_name_with_everything(self, home: Home, rrd_command: list[str], plain: Path) -> None:
        for name in ("with space\nand newline.rrd", "-.rrd", "\udcff.rrd"):
            (home.path / name).write_bytes(plain.read_bytes())
            done = subprocess.run([*rrd_command, "tail", f"./{name}"], cwd=home.path, env=home.env,
                                  capture_output=True, check=True, timeout=60)
            assert done.stdout == plain.read_bytes()

    @pytest.mark.parametrize("make", ["directory", "pipe", "text", "nothing"])
    def test_what_is_no_file(self, home: Home, make: str) -> None:
        path = home.path / "x.rrd"
        {"directory": path.mkdir, "pipe": lambda: os.mkfifo(path), "text": lambda: path.write_text("hello, world"),
         "nothing": lambda: None}[make]()
        done = home.cli("tail", "x.rrd", check=False)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")

    def test_the_output_is_the_input(self, home: Home, rrd_command: list[str], plain: Path) -> None:
        path = home.path / "x.rrd"
        path.write_bytes(plain.read_bytes())
        with open(path, "ab") as out:
            done = subprocess.run([*rrd_command, "tail", path], env=home.env, stdout=out, stderr=subprocess.PIPE,
                                  check=False, timeout=60)
        assert done.returncode == 1
        assert b"input file is output file" in done.stderr
        assert path.read_bytes() == plain.read_bytes()

    def test_a_closed_pipe_is_quiet(self, home: Home, rrd_command: list[str]) -> None:
        path = home.path / "big.rrd"
        path.write_bytes(DATA + MESSAGES[0] * 50_000)
        with subprocess.Popen([*rrd_command, "tail", path], env=home.env, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as tail:
            assert tail.stdout is not None
            assert tail.stderr is not None
            tail.stdout.read(100)
            tail.stdout.close()
            assert tail.wait(20) == 0
            assert tail.stderr.read() == b""

    def test_interrupted(self, home: Home, follow) -> None:
        with open(home.path / "in.rrd", "wb", buffering=0) as file:
            file.write(DATA)
            tail = follow()
            wait_for(lambda: size(home.path / "out.rrd") == len(DATA), "the data")
            tail.send_signal(signal.SIGINT)
            assert tail.wait(20) == 130
        assert tail.communicate()[1] == b""


class TestTailRecording:
    def test_follows_a_program_and_ends_with_it(self, daemon: Home, rrd_command: list[str], verify) -> None:
        with Program(daemon, Path(sys.executable), ROWS, "r1") as program:
            assert program.line() == "ten"
            with open(daemon.path / "out.rrd", "wb") as out:
                tail = subprocess.Popen([*rrd_command, "tail", "-f", "r1"], env=daemon.env, stdout=out)
            wait_for(lambda: size(daemon.path / "out.rrd") > 100, "the first rows")
            os.kill(daemon.daemon_pid(), signal.SIGKILL)
            program.go_on()
            assert program.line() == "twenty"
            assert tail.poll() is None
            program.go_on()
        assert tail.wait(30) == 0
        daemon.cli("save", "saved.rrd", "r1")
        assert (daemon.path / "out.rrd").read_bytes() == (daemon.path / "saved.rrd").read_bytes()
        verify(daemon.path / "out.rrd")

    def test_one_of_two_recordings_of_a_stream(self, daemon: Home, rrd_command: list[str], plain: Path) -> None:
        data = HEADER + info("a") + info("b") + message("b", "1") + message("a", "2") + message("b", "3")
        (daemon.path / "in").write_bytes(data)
        with open(daemon.path / "in", "rb") as file:
            daemon.cli("save", "whole.rrd", "-", stdin=file)
        done = subprocess.run([*rrd_command, "tail", "b"], env=daemon.env, capture_output=True, check=True, timeout=60)
        assert done.stdout == HEADER + info("b") + message("b", "1") + message("b", "3")

    def test_several_programs_at_once(self, daemon: Home, rrd_command: list[str], verify) -> None:
        python = Path(sys.executable)
        with Program(daemon, python, ROWS, "r1") as one, Program(daemon, python, ROWS, "r2") as two:
            assert (one.line(), two.line()) == ("ten", "ten")
            with open(daemon.path / "out.rrd", "wb") as out:
                tail = subprocess.Popen([*rrd_command, "tail", "-f", "@all"], env=daemon.env, stdout=out)
            wait_for(lambda: size(daemon.path / "out.rrd") > 200, "the first rows")
            for program in (one, two):
                program.go_on()
                assert program.line() == "twenty"
                program.go_on()
        assert tail.wait(30) == 0
        (report,) = json.loads(daemon.cli("recover", "out.rrd", "--json").stdout)
        assert report["damage"] == []
        assert {store["store"][1] for store in report["stores"]} == {"r1", "r2"}
        verify(daemon.path / "out.recovered.rrd")

    def test_a_program_that_is_over_at_once(self, daemon: Home, rrd_command: list[str]) -> None:
        """Who waits for the first program gets all of it, however short it was; who does not wait is told."""
        assert "nothing is live" in daemon.cli("tail", "@live", check=False).stderr
        with open(daemon.path / "out.rrd", "wb") as out:
            tail = subprocess.Popen([*rrd_command, "tail", "-f", "@live"], env=daemon.env, stdout=out,
                                    stderr=subprocess.PIPE, text=True)
        assert tail.stderr is not None
        assert tail.stderr.readline() == "nothing is live: waiting for a program\n"
        os.kill(tail.pid, signal.SIGSTOP)  # however late it looks
        assert run(daemon, Path(sys.executable), "rr.init('a', recording_id='r')\nrrd.attach()\nlog(0, 3)") == ""
        wait_for(lambda: not daemon.status()["streams"], "the program's end")
        os.kill(tail.pid, signal.SIGCONT)
        assert tail.communicate(timeout=30)[1] == ""
        assert tail.returncode == 0
        assert rows(daemon.path / "out.rrd") == [0, 1, 2]

    def test_waiting_outlives_the_daemon(self, daemon: Home, rrd_command: list[str]) -> None:
        with open(daemon.path / "out.rrd", "wb") as out:
            tail = subprocess.Popen([*rrd_command, "tail", "-f", "@live"], env=daemon.env, stdout=out,
                                    stderr=subprocess.PIPE, text=True)
        assert tail.stderr is not None
        assert tail.stderr.readline() == "nothing is live: waiting for a program\n"
        daemon.cli("daemon", "restart")
        os.kill(daemon.daemon_pid(), signal.SIGKILL)
        wait_for(lambda: daemon.status()["streams"] == [], "the daemon")
        assert tail.poll() is None
        assert run(daemon, Path(sys.executable), "rr.init('a', recording_id='r')\nrrd.attach()\nlog(0, 3)") == ""
        assert tail.communicate(timeout=30)[1] == ""
        assert tail.returncode == 0
        assert rows(daemon.path / "out.rrd") == [0, 1, 2]

    def test_what_is_live_now_and_later(self, daemon: Home, rrd_command: list[str], verify) -> None:
        """It is there before any program and ends with the last; one ends before, one is too short to be seen."""
        python = Path(sys.executable)
        with open(daemon.path / "out.rrd", "wb") as out:
            tail = subprocess.Popen([*rrd_command, "tail", "-f", "@live"], env=daemon.env, stdout=out,
                                    stderr=subprocess.PIPE, text=True)
        assert tail.stderr is not None
        assert tail.stderr.readline() == "nothing is live: waiting for a program\n"
        with Program(daemon, python, ROWS, "r1") as one:
            assert one.line() == "ten"
            wait_for(lambda: size(daemon.path / "out.rrd") > 100, "the first rows")
            with Program(daemon, python, ROWS, "r2") as two:
                for line in ("ten", "twenty"):
                    assert two.line() == line
                    two.go_on()
                two.finish()
            assert run(daemon, python, "rr.init('short', recording_id='r3')\nrrd.attach()\nlog(0, 1)") == ""
            assert tail.poll() is None
            one.go_on()
            assert one.line() == "twenty"
            one.go_on()
        assert tail.wait(30) == 0
        assert tail.communicate()[1] == ""
        (report,) = json.loads(daemon.cli("recover", "out.rrd", "--json").stdout)
        assert report["damage"] == []
        assert {store["store"][1] for store in report["stores"]} == {"r1", "r2", "r3"}
        verify(daemon.path / "out.recovered.rrd")


def test_into_reruns_own_tools(daemon: Home, rrd_command: list[str], rerun: Path, plain: Path) -> None:
    """`rrd tail X | rerun rrd print`, as the help has it: a file, a recording, what its last 0 messages need."""
    with open(plain, "rb") as file:
        daemon.cli("save", "out.rrd", "-", stdin=file)
    shown = []
    for words in ([str(plain)], ["@latest"], ["-n", "0", "@latest"]):
        with subprocess.Popen([*rrd_command, "tail", *words], env=daemon.env, stdout=subprocess.PIPE) as tail:
            done = subprocess.run([rerun, "rrd", "print"], env=daemon.env, stdin=tail.stdout, capture_output=True,
                                  text=True, check=True, timeout=60)
        assert tail.wait(20) == 0
        shown.append([line for line in done.stdout.splitlines() if line.startswith("Chunk(")])
    assert shown[0] == shown[1]
    assert len(shown[0]) > 1
    assert shown[2] == [chunk for chunk in shown[0] if "/__properties" in chunk]


class TestDaemon:
    def test_life(self, home: Home) -> None:
        assert home.cli("daemon", "status", check=False).returncode == 3
        assert home.cli("daemon", "stop").stdout == "no daemon is running\n"
        assert "started" in home.cli("daemon", "start").stdout
        first = home.daemon_pid()
        assert f"is already running: rrd 0.1.0, pid {first}" in home.cli("daemon", "start").stdout
        assert "restarted" in home.cli("daemon", "restart").stdout
        assert home.daemon_pid() != first
        assert "is ready" in home.cli("daemon", "logs").stdout
        assert "stopped" in home.cli("daemon", "stop").stdout
        assert home.keeper_pid() == 0
        done = home.cli("daemon", "status", check=False)
        assert (done.returncode, done.stderr) == (3, "error: no daemon is running\nhint: rrd daemon start\n")

    def test_stop_is_refused_while_a_program_logs(self, daemon: Home) -> None:
        with Program(daemon, Path(sys.executable), ROWS, "r1") as program:
            assert program.line() == "ten"
            done = daemon.cli("daemon", "stop", check=False)
            assert done.returncode == 1
            assert "streaming" in done.stderr
            program.go_on()
            program.go_on()

    def test_a_verb_waits_while_the_daemon_is_away(self, daemon: Home) -> None:
        for _ in range(3):
            before = daemon.daemon_pid()
            os.kill(before, signal.SIGKILL)
            assert daemon.cli("ls", "--json").stdout == "[]\n"
            assert daemon.daemon_pid() != before



def test_ls_is_quick(daemon: Home, rrd_command: list[str]) -> None:
    """At most twice `python -c 'import typer'`: the best of some runs, alternating, on a machine that others use."""
    daemon.cli("ls")
    best = {"ls": 9.0, "typer": 9.0}
    for _ in range(12):
        for name, command in (("ls", [*rrd_command, "ls"]), ("typer", [sys.executable, "-c", "import typer"])):
            begin = time.perf_counter()
            subprocess.run(command, env=daemon.env, check=True, capture_output=True)
            best[name] = min(best[name], time.perf_counter() - begin)
    assert best["ls"] <= 2 * best["typer"], best

"""`rrd run` with real programs: what they log is found, what they are is untouched.

Rerun's own port, 9876, is needed: the tests run in a network of their own where one can be had.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from tests.conftest import DEADLINE_S, Home, wait_for
from tests.helpers.network import private_network
from tests.helpers.programs import Program, rows
from tests.helpers.terminal import BASH, Shell
from tests.helpers.viewers import Server

PROGRAM = """
import sys, time
import rerun as rr
how, recording, count, pause, code = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
rr.init("rrd_example_run", recording_id=recording)
if how == "connect": rr.connect_grpc()
elif how == "spawn": rr.spawn()
elif how == "--stdout": rr.stdout()
elif how.startswith("save="): rr.save(how[5:])
elif how.startswith("both="): rr.set_sinks(rr.GrpcSink(), rr.FileSink(how[5:]))
elif how == "shim":
    import rrd
    rrd.attach()
for row in range(count):
    rr.set_time("frame", sequence=row)
    rr.log("row", rr.TextLog(f"row {row}"))
    time.sleep(pause)
    if how != "--stdout" and row % 10 == 0: print("row", row, flush=True)
sys.exit(code)
"""
class Runner:
    """A home whose processes have a network of their own."""

    def __init__(self, home: Home, prefix: list[str]) -> None:
        self.home, self.prefix = home, prefix
        self.program = home.path / "prog.py"
        self.program.write_text(PROGRAM)

    def popen(self, *argv: object, **options: object) -> subprocess.Popen[str]:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([*self.prefix, sys.executable, "-m", "rrd_cli", "run", *map(str, argv)],
                                env=self.home.env, cwd=self.home.path, text=True, **options)

    def run(self, *argv: object, **options: object) -> tuple[int, str, str]:
        keys = ("input",)
        process = self.popen(*argv, **{k: v for k, v in options.items() if k not in keys},
                             **({"stdin": subprocess.PIPE} if "input" in options else {}))
        try:
            out, err = process.communicate(options.get("input"), timeout=2 * DEADLINE_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        return process.returncode, out, err

    def command(self, how: str, recording: str, count: int = 50, pause: float = 0.0, code: int = 0) -> list[object]:
        return ["--", sys.executable, self.program, how, recording, count, pause, code]


@pytest.fixture
def runner(home: Home) -> Iterator[Runner]:
    with private_network() as prefix:
        one = Runner(home, prefix)
        subprocess.run([*prefix, sys.executable, "-m", "rrd_cli", "daemon", "start"], env=home.env, check=True,
                       capture_output=True, timeout=DEADLINE_S)
        yield one
        home.stop()


@pytest.mark.parametrize("how", ["connect", "spawn", "shim", "--stdout"])
def test_what_a_program_logs_is_saved(runner, how, verify):
    target = runner.home.path / "run.rrd"
    options = ["--stdout"] if how == "--stdout" else []
    code, _, err = runner.run("--save", target, *options, *runner.command(how, "one", code=7))
    assert code == 7, err
    assert "rrd_example_run/one:" in err
    assert f"-> {target}" in err
    verify(target)
    assert rows(target) == list(range(50))


@pytest.mark.parametrize("where", ["own.rrd", "elsewhere/own.rrd"])
def test_what_a_program_saves_by_itself_comes_when_it_ends(runner, verify, where):
    home = runner.home
    (home.path / "elsewhere").mkdir()
    code, _, err = runner.run("--save", "out.rrd", *runner.command(f"save={where}", "own", 40, 0.01, code=3))
    assert code == 3, err
    (line,) = err.splitlines()
    assert line.startswith("rrd: rrd_example_run/own: ")
    assert line.endswith(f", saved by the program itself: {home.path / where} -> {home.path / 'out.rrd'}")
    for path in (home.path / where, home.path / "out.rrd"):
        verify(path)
        assert rows(path) == list(range(40))


def test_its_own_file_may_be_the_one_that_was_asked_for(runner, verify):
    code, _, err = runner.run("--save", "own.rrd", *runner.command("save=own.rrd", "own", 40, 0.01))
    assert code == 0, err
    assert err.endswith(f", saved by the program itself: {runner.home.path / 'own.rrd'}\n")
    verify(runner.home.path / "own.rrd")
    assert [path.name for path in runner.home.path.glob("*.rrd")] == ["own.rrd"]


def test_what_came_while_it_ran_is_not_taken_twice(runner):
    code, _, err = runner.run("--save", "out.rrd", *runner.command("both=own.rrd", "both", 40, 0.01))
    assert code == 0, err
    assert err.count("rrd_example_run/both") == 1
    assert rows(runner.home.path / "out.rrd") == rows(runner.home.path / "own.rrd") == list(range(40))
    assert sorted(path.name for path in runner.home.path.glob("*.rrd")) == ["out.rrd", "own.rrd"]


def test_two_at_once_do_not_mix(runner, verify):
    first = runner.popen("--save", "a.rrd", *runner.command("connect", "a", 150, 0.01))
    second = runner.popen("--save", "b.rrd", *runner.command("connect", "b", 100, 0.01))
    for process, name, count in ((first, "a", 150), (second, "b", 100)):
        _, err = process.communicate(timeout=2 * DEADLINE_S)
        assert process.returncode == 0, err
        assert f"rrd_example_run/{name}:" in err
        assert err.count("rrd: ") == 1
        verify(runner.home.path / f"{name}.rrd")
        assert rows(runner.home.path / f"{name}.rrd") == list(range(count))


def test_each_recording_has_its_file(runner):
    script = runner.home.path / "many.sh"
    script.write_text(textwrap.dedent(f"""
        {sys.executable} {runner.program} connect one 10 0 0 &
        {sys.executable} {runner.program} shim two 20 0 0 &
        wait
    """))
    code, _, err = runner.run("--save", "out.rrd", "--", "sh", script)
    assert code == 0, err
    found = {len(rows(path)) for path in (runner.home.path / "out.rrd", runner.home.path / "out-2.rrd")}
    assert found == {10, 20}


def test_several_processes_of_one_recording_are_one_file(runner, verify):
    script = runner.home.path / "chain.sh"
    script.write_text(f"{sys.executable} {runner.program} connect same 30 0 0\n"
                      f"{sys.executable} {runner.program} shim same 40 0 5\n")
    for name in ("same.rrd", "again.rrd"):  # and what the run before logged of it is not in it
        code, _, err = runner.run("--save", name, "--", "sh", script)
        assert code == 5, err
        verify(runner.home.path / name)
        assert rows(runner.home.path / name) == sorted([*range(30), *range(40)])
    assert sorted(path.name for path in runner.home.path.glob("*.rrd")) == ["again.rrd", "same.rrd"]


def test_a_run_is_one_page(runner):
    script = runner.home.path / "many.sh"
    script.write_text(f"{sys.executable} {runner.program} connect one 10 0 0\n"
                      f"{sys.executable} {runner.program} shim two 20 0 0\n")
    with Program(runner.home, "other", rows=5) as other:
        other.finish()
    code, _, err = runner.run("--serve", "--no-open", "--", "sh", script)
    assert code == 0, err
    (url,) = [line.removeprefix("rrd: ") for line in err.splitlines() if "http" in line]
    runner.home.cli("daemon", "restart")  # the page is for the run, not for the daemon
    fetch = "import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1]).read())"
    told = subprocess.run([*runner.prefix, sys.executable, "-c", fetch, url.replace("/view?", "/stream?")],
                          env=runner.home.env, capture_output=True, check=True, timeout=DEADLINE_S).stdout
    assert all(name in told for name in (b"one", b"two"))
    assert b"other" not in told


def test_every_process_is_shown_by_one_viewer(home, rerun):
    programs = home.path / "many.sh"
    (home.path / "prog.py").write_text(PROGRAM)
    programs.write_text("".join(f"{sys.executable} prog.py shim same 150 0.01 0 &\n" for _ in range(2)) + "wait\n")
    with Server(home, rerun, "--save", home.path / "seen.rrd") as server:
        home.cli("run", "--no-port", "--connect", server.url, "--", "sh", programs)
        wait_for(lambda: all(sink["state"] == "complete" for sink in home.status()["sinks"]), "the sinks' end")
        server.stop()
    home.cli("recover", "seen.rrd")
    assert rows(home.path / "seen.recovered.rrd") == sorted([*range(150), *range(150)])


@pytest.mark.parametrize(("output", "said"), [
    (["--connect", "127.0.0.1:1"], "rrd: error: connect: nobody listens there: 127.0.0.1:1; it is tried again"),
    (["--spawn"], "rrd: error: spawn: the viewer ended"),
    (["--save", "full/x.rrd"], "rrd: error: cannot save to"),
])
def test_an_output_that_fails_is_said_and_is_not_the_programs_fault(runner, output, said):
    (runner.home.path / "full").symlink_to("/proc")
    runner.home.env.pop("DISPLAY", None)
    runner.home.env.pop("WAYLAND_DISPLAY", None)
    code, _, err = runner.run(*output, *runner.command("shim", "x", code=6))
    assert code == 6
    assert said in err
    assert "\\n" not in err
    assert "rrd: rrd_example_run/x: " in err


def test_input_output_and_exit_code_are_the_programs(runner):
    code, out, err = runner.run("--", "sh", "-c", "tr a-z A-Z; echo oops >&2; exit 5", input="hello\n")
    assert (code, out) == (5, "HELLO\n")
    assert err.startswith("oops\n")
    assert "logged nothing" in err


@pytest.mark.parametrize(("command", "code"), [
    (["sh", "-c", "kill -9 $$"], 137), (["./nosuch"], 127), (["/"], 126), (["sh", "-c", "exit 0"], 0)])
def test_ends_as_shells_have_it(runner, command, code):
    assert runner.run("--", *command)[0] == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_go_to_the_program(runner, number):
    script = f"trap 'echo got; exit 9' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    process = runner.popen("--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (9, "got\n")


def test_signals_are_as_they_were_in_the_program(runner):
    code, out, _ = runner.run("--", sys.executable, "-c",
                              "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))")
    assert (code, out) == (0, "set()\n")


ON_A_TERMINAL = """
import os, signal, sys, time
import rrd, rerun as rr
rr.init("rrd_example_run", recording_id="terminal")
rrd.attach()
got = []
signal.signal(signal.SIGINT, lambda *_: got.append("interrupt"))
print("terminals", [os.isatty(fd) for fd in range(3)], os.tcgetpgrp(0) == os.getpgrp(), flush=True)
rr.log("row", rr.TextLog("one"))
said = sys.stdin.readline().strip()
print("said", said[::-1], flush=True)
while not got: time.sleep(0.01)
time.sleep(0.3)  # a second one would come now
sys.exit(f"{len(got)} interrupt")
"""


def test_the_terminal_is_the_programs(daemon, verify):
    (daemon.path / "prog.py").write_text(ON_A_TERMINAL)
    rrd = f"{sys.executable} -m rrd_cli run --no-port --save out.rrd -- {sys.executable} prog.py"
    with Shell(BASH, f"cd {daemon.path}", daemon.env) as shell:
        shell.type(f"{rrd}; echo code $?\n")
        shell.wait(r"terminals \[True, True, True\] True")
        shell.type("\x1a")
        shell.wait(r"Stopped")
        shell.type("jobs -s | wc -l\n")
        shell.wait(r"^1\r")
        shell.type("fg\n")
        shell.wait("prog.py")
        shell.type("hello\n")
        shell.wait("said olleh")
        shell.type("\x03")
        shell.wait(r"(?<!\d)1 interrupt\r\n")
        shell.wait(r"rrd_example_run/terminal: .* -> .*/out.rrd\r\n")
        shell.type("echo again $?\n")
        shell.wait(r"^again \d")
    verify(daemon.path / "out.rrd")


def test_ctrl_c_ends_the_waiting_for_outputs_and_not_the_exit_code(daemon):
    # The program's child goes on logging: its recording never ends, and the run would be waited for.
    (daemon.path / "prog.py").write_text(PROGRAM)
    (daemon.path / "leaves.sh").write_text(
        "trap '' INT\n"
        f"{sys.executable} prog.py shim stays 100000 0.01 0 > said & while ! grep -q 20 said; do :; done; exit 5")
    rrd = f"{sys.executable} -m rrd_cli run --no-port --save out.rrd -- sh leaves.sh"
    with Shell(BASH, f"cd {daemon.path}", daemon.env) as shell:
        shell.type(f"{rrd} || echo code $?\n")
        said = daemon.path / "said"
        wait_for(lambda: said.exists() and "row 20" in said.read_text(), "the program's child")
        shell.wait(r"rrd: not waited for: the outputs go on", pressing="\x03")
        shell.wait(r"^code 5")
    [stream] = daemon.status()["streams"]
    os.kill(stream["pid"], signal.SIGKILL)


def test_a_killed_program_leaves_a_complete_file(runner, verify):
    process = runner.popen("--save", "killed.rrd", *runner.command("connect", "killed", 3000, 0.01))
    assert process.stdout is not None
    while process.stdout.readline() != "row 60\n":
        pass
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=2 * DEADLINE_S)
    assert process.returncode == 128 + signal.SIGTERM, err
    verify(runner.home.path / "killed.rrd")
    found = rows(runner.home.path / "killed.rrd")
    assert found == list(range(len(found)))
    assert len(found) > 40


def test_a_killed_daemon_takes_nothing_from_a_shims_program(runner, verify):
    process = runner.popen("--save", "kept.rrd", *runner.command("shim", "kept", 200, 0.01))
    assert process.stdout is not None
    while process.stdout.readline() != "row 60\n":
        pass
    os.kill(runner.home.daemon_pid(), signal.SIGKILL)
    _, err = process.communicate(timeout=2 * DEADLINE_S)
    assert process.returncode == 0, err
    assert "rrd_example_run/kept:" in err
    verify(runner.home.path / "kept.rrd")
    assert rows(runner.home.path / "kept.rrd") == list(range(200))


def test_a_daemon_that_it_starts_is_as_good_as_any(home):
    home.cli("run", "--no-port", "--", "true")
    keeper, daemon = home.keeper_pid(), home.daemon_pid()
    for pid in (keeper, daemon):
        with open(f"/proc/{pid}/status") as file:
            masks = dict(line.split(":", 1) for line in file if line.startswith("SigBlk"))
        assert int(masks["SigBlk"], 16) == 0
    os.kill(daemon, signal.SIGKILL)
    wait_for(lambda: home.daemon_pid() != daemon, "the next daemon")


def test_a_file_that_is_there_is_refused_before_the_program_starts(runner):
    target = runner.home.path / "there.rrd"
    target.write_text("mine")
    code, out, err = runner.run("--save", target, "--", "echo", "ran")
    assert (code, out) == (1, "")
    assert err.splitlines()[0] == f"error: file exists: {target}"
    assert target.read_text() == "mine"


def test_a_taken_port_is_told_before_the_program_starts(runner):
    code = ("import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', 9876)); s.listen();"
            "print('up', flush=True); sys.stdin.read()")
    other = subprocess.Popen([*runner.prefix, sys.executable, "-c", code], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    other.stdout.readline()
    try:
        code, out, err = runner.run("--save", "x.rrd", "--", "echo", "ran")
        assert (code, out) == (1, "")
        assert "port 9876 is taken by" in err
        assert runner.run("--no-port", "--save", "x.rrd", *runner.command("shim", "x"))[0] == 0
        assert len(rows(runner.home.path / "x.rrd")) == 50
    finally:
        other.communicate("")


def test_the_port_is_given_back(runner):
    assert runner.run(*runner.command("connect", "x"))[0] == 0
    code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 9876)); print('free')"

    def free() -> bool:
        done = subprocess.run([*runner.prefix, sys.executable, "-c", code], capture_output=True, text=True, check=False)
        return done.stdout == "free\n"
    wait_for(free, "port 9876 to be free again")

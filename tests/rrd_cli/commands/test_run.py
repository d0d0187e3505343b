"""`rrd run`: what the daemon is asked for, and what is said of its answers. Real programs: tests/integration."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from rrd_cli.commands.run import _line

RUN = [sys.executable, "-m", "rrd_cli", "run"]

ANSWER = {"recordings": [{"application_id": "app", "recording_id": "rec", "messages": 5, "bytes": 1200,
                          "live": False, "file": "/x/out.rrd"}], "problems": []}


@pytest.fixture
def daemon_runs(fake):
    def run(call):
        call.progress(ready=True, port=9876, error="")
        return ANSWER
    fake.on("run", run)
    fake.on("run_end", {})
    return fake


def test_outputs_are_asked_for_before_the_program_starts(rrd, daemon_runs, tmp_path):
    target = tmp_path / "out.rrd"
    code, out, err = rrd("run", "--save", str(target), "--force", "--spawn", "--connect", "http://x", "--",
                         "sh", "-c", "echo $RRD_RUN; exit 4")
    assert code == 4
    (args,) = daemon_runs.said("run")
    assert args["save"] == str(target)
    assert (args["force"], args["spawn"], args["serve"], args["connect"], args["port"]) == (
        True, True, False, "http://x", True)
    assert out.strip() == args["token"]
    assert daemon_runs.said("run_end") == [{"token": args["token"], "saved": []}]
    assert err == "rrd: app/rec: 5 messages, 1.2 kB -> /x/out.rrd\n"


def test_quiet(rrd, daemon_runs):
    assert rrd("run", "--quiet", "--no-port", "--", "true") == (0, "", "")


def test_a_taken_port_matters_only_when_something_is_wanted(rrd, fake):
    def run(call):
        call.progress(ready=True, port=0, error="port 9876 is taken by rerun (pid 5)")
        return ANSWER
    fake.on("run", run)
    fake.on("run_end", {})
    code, _, err = rrd("run", "--", "true")
    assert code == 0
    assert err.startswith("rrd: port 9876 is taken by rerun (pid 5): what the program sends there does not come here\n")
    code, _, err = rrd("run", "--spawn", "--", "true")
    assert code == 1
    assert err.startswith("error: port 9876 is taken by rerun (pid 5)")
    assert "--no-port" in err


def test_what_went_wrong_is_said_once(rrd, fake):
    def run(call):
        call.progress(ready=True, port=9876, error="")
        call.progress(problem="spawn: it ended\nlast words")
        return ANSWER | {"problems": ["spawn: it ended\nlast words", "/x/out.rrd: disk full"]}
    fake.on("run", run)
    fake.on("run_end", {})
    assert rrd("run", "--quiet", "--", "true") == (0, "", (
        "rrd: error: spawn: it ended\n    last words\nrrd: error: /x/out.rrd: disk full\n"))


def test_who_started_us_ignores_the_end_of_children(rrd, daemon_runs):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert rrd("run", "--quiet", "--", "sh", "-c", "exit 5") == (5, "", "")
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.fixture(params=["closed pipe", "full disk"])
def deaf(request):
    """A standard error that nothing can be written to."""
    if request.param == "full disk":
        fd = os.open("/dev/full", os.O_WRONLY)
    else:
        read, fd = os.pipe()
        os.close(read)
    yield fd
    os.close(fd)


def test_a_standard_error_that_nobody_hears_changes_neither_outputs_nor_exit_code(fake, deaf):
    def run(call):
        call.progress(ready=True, port=9876, error="", url="http://x")
        call.progress(problem="spawn: it ended\nlast words")
        return ANSWER | {"problems": ["/x/out.rrd: disk full"]}
    fake.on("run", run)
    fake.on("run_end", {})
    assert subprocess.run([*RUN, "--", "sh", "-c", "exit 5"], stderr=deaf, check=False).returncode == 5
    assert len(fake.said("run_end")) == 1
    assert subprocess.run([*RUN, "--", "/"], stderr=deaf, check=False).returncode == 126


def test_files_that_nobody_saw_open_are_named_and_not_taken(rrd, fake, tmp_path, monkeypatch):
    def run(call):
        call.progress(ready=True, port=9876, error="")
        return {"recordings": [], "problems": []}
    fake.on("run", run)
    fake.on("run_end", {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rrd_cli.commands.run._open_files", lambda pid: iter(()))
    (tmp_path / "old.rrd").touch()
    os.utime(tmp_path / "old.rrd", (1, 1))
    code, _, err = rrd("run", "--", "sh", "-c", "echo > new.rrd")
    assert (code, fake.said("run_end")[0]["saved"]) == (0, [])
    assert err.splitlines() == ["rrd: the program logged nothing that came here",
                                f"rrd: written meanwhile, perhaps by it: {tmp_path}/new.rrd"]


def test_the_exit_code_is_the_programs_when_its_end_cannot_be_told(rrd, daemon_runs, tmp_path, monkeypatch):
    looked = tmp_path / "looked"

    def refuse(*args):
        raise OSError(24, "Too many open files")

    def look(pid):
        monkeypatch.setattr("rrd_cli.start.connect", refuse)
        looked.touch()
        return iter(())
    monkeypatch.setattr("rrd_cli.commands.run._open_files", look)
    assert rrd("run", "-q", "--", "sh", "-c", f"until [ -e {looked} ]; do sleep 0.01; done; exit 5") == (
        5, "", "rrd: error: [Errno 24] Too many open files\n")


def test_names_that_are_not_utf8(rrd, daemon_runs, tmp_path, monkeypatch):
    """An output of that name is refused before the program starts; a file that the program made is left out."""
    monkeypatch.chdir(tmp_path)
    code, out, err = rrd("run", "--save", "\udcff.rrd", "--", "echo", "ran")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: not UTF-8: {tmp_path}/\\udcff.rrd\nhint: ")
    made = [tmp_path / "\udcff.rrd", tmp_path / "made.rrd"]
    for path in made:
        path.touch()

    looked = tmp_path / "elsewhere" / "looked"  # where the program works, changes are signals
    looked.parent.mkdir()

    def look(pid):
        looked.touch()
        return map(str, made)
    monkeypatch.setattr("rrd_cli.commands.run._open_files", look)
    code, _, err = rrd("run", "-q", "--", "sh", "-c", "until [ -e elsewhere/looked ]; do sleep 0.01; done; exit 5")
    assert (code, err) == (5, f"rrd: error: not taken, since its name is not UTF-8: {tmp_path}/\\udcff.rrd\n")
    assert daemon_runs.said("run_end")[-1]["saved"] == [str(made[1])]


def test_what_follows_the_programs_name_is_the_programs(rrd, daemon_runs):
    code, out, _ = rrd("run", "-q", "echo", "--save", "x.rrd", "--", "-q")
    assert (code, out) == (0, "--save x.rrd -- -q\n")
    assert "save" not in daemon_runs.said("run")[0]


def test_no_program(rrd, fake):
    assert rrd("run")[0] == 2


def test_lines():
    assert _line({"application_id": "", "recording_id": "r", "messages": 1, "bytes": 5, "live": True}) == (
        "rrd: ?/r: 1 message, 5 B; it goes on")

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from daemon import paths
from rrd_cli import start
from rrd_cli.errors import CliError, NoDaemonError

KEEPER = """
    import os, pathlib, socket, sys, time
    log, socket_path, mode = sys.argv[1:]
    with open(log, "a") as file:
        file.write(f"{os.getpid()} {os.getsid(0)} {os.getcwd()}\\n")
    if mode == "dies":
        sys.exit("no luck today")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_path)
    listener.listen()
    listener.settimeout(20)
    if mode == "stays":
        held = []
        while True:
            try:
                held.append(listener.accept()[0])
            except TimeoutError:
                break
    else:
        listener.accept()
    os.unlink(socket_path)
"""


@pytest.fixture
def keeper(private, monkeypatch):
    """Stand-ins for the keeper; `.log` has a line for each that was started."""

    class Keeper:
        log = private / "started"

        def use(self, mode):
            command = [sys.executable, "-c", textwrap.dedent(KEEPER), str(self.log), str(paths.socket_path()), mode]
            monkeypatch.setattr(start, "keeper_command", lambda: command)
            return command

        def started(self):
            return [line.split() for line in self.log.read_text().splitlines()]

    yield (found := Keeper())
    if found.log.exists():
        for pid, *_ in found.started():
            subprocess.run(["kill", pid], check=False, capture_output=True)


def test_the_real_keeper_is_run_by_this_interpreter():
    assert start.keeper_command() == [sys.executable, "-m", "daemon.keeper"]


def test_a_daemon_is_started_detached(keeper):
    keeper.use("once")
    start.connect_or_start().close()
    [(pid, session, directory)] = keeper.started()
    assert session == pid
    assert directory == "/"


def test_directories_are_private(keeper):
    keeper.use("once")
    start.connect_or_start().close()
    for directory in (paths.runtime_dir(), paths.state_dir()):
        assert directory.stat().st_mode & 0o777 == 0o700
    assert paths.daemon_log_path().stat().st_mode & 0o777 == 0o600


def test_a_socket_that_nobody_listens_on_is_no_daemon(keeper):
    import socket

    paths.make_private(paths.runtime_dir())
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(paths.socket_path()))
    with pytest.raises(ConnectionRefusedError):
        start.connect()


def test_the_daemon_of_another_session(fake, private, monkeypatch):
    """Found beside the recordings, when nobody listens in this session's directory."""
    paths.make_private(paths.state_dir())
    os.link(paths.socket_path(), paths.spare_socket_path())
    other = private / "other"
    other.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(other))
    start.connect().close()
    start.connect_or_start().close()
    assert not list(other.iterdir()), "none is started here"
    monkeypatch.setenv("XDG_STATE_HOME", str(private / ("x" * 100)))
    with pytest.raises(FileNotFoundError):
        start.connect()


def test_a_keeper_that_leaves_the_field_to_another(private, monkeypatch):
    """It ends at once, and the other one's socket is there a moment later."""
    paths.make_private(paths.state_dir())
    other = f"""
import os, pathlib, socket, sys, time
if os.fork():
    sys.exit(0)
time.sleep(0.3)
listener = socket.socket(socket.AF_UNIX)
listener.bind({str(paths.spare_socket_path())!r})
listener.listen()
listener.accept()
"""
    monkeypatch.setattr(start, "keeper_command", lambda: [sys.executable, "-c", other])
    start.connect_or_start().close()


def test_a_daemon_that_dies_as_it_starts_says_why(keeper):
    keeper.use("dies")
    with pytest.raises(NoDaemonError, match=r"ended as it started \(exit status 1\): no luck today") as caught:
        start.connect_or_start()
    assert str(paths.daemon_log_path()) in caught.value.hint
    assert caught.value.exit_code == 3


def test_a_daemon_that_cannot_be_run(private, monkeypatch):
    monkeypatch.setattr(start, "keeper_command", lambda: ["/does/not/exist"])
    with pytest.raises(NoDaemonError, match="No such file or directory: /does/not/exist"):
        start.connect_or_start()


def test_a_daemon_that_never_listens(private, monkeypatch):
    monkeypatch.setattr(start, "START_DEADLINE", 0.2)
    monkeypatch.setattr(start, "keeper_command", lambda: [sys.executable, "-c", "import time; time.sleep(60)"])
    spawned, spawn = [], start._spawn
    monkeypatch.setattr(start, "_spawn", lambda state: spawned.append(spawn(state)) or spawned[0])
    with pytest.raises(NoDaemonError, match="did not answer within"):
        start.connect_or_start()
    os.kill(spawned[0].pid, signal.SIGKILL)
    os.waitpid(spawned[0].pid, 0)


def test_somebody_else_is_starting_it_for_too_long(private, monkeypatch):
    monkeypatch.setattr(start, "LOCK_DEADLINE", 0.1)
    paths.make_private(paths.runtime_dir())
    with open(paths.runtime_dir() / "start.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(NoDaemonError, match="another process has been starting the daemon"):
            start.connect_or_start()


def test_of_many_at_once_one_starts_it(keeper):
    command = keeper.use("stays")
    code = (
        f"from rrd_cli import start; start.keeper_command = lambda: {command!r}; "
        "start.connect_or_start().close(); print('connected')"
    )
    callers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(6)]
    for caller in callers:
        out, _ = caller.communicate(timeout=60)
        assert (caller.returncode, out) == (0, b"connected\n")
    assert len(keeper.started()) == 1


def test_a_path_too_long_for_a_socket(private, monkeypatch):
    long = private / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    with pytest.raises(CliError, match="at most 107") as caught:
        start.connect_or_start()
    assert "XDG_RUNTIME_DIR" in caught.value.hint


@pytest.mark.parametrize("place", [paths.runtime_dir, paths.state_dir])
def test_a_file_in_the_way(private, place):
    place().touch()
    with pytest.raises(FileNotFoundError):
        start.connect()
    with pytest.raises(CliError, match=f"not a directory: {place()}") as caught:
        start.connect_or_start()
    assert caught.value.hint == "remove it"


@pytest.mark.parametrize("name", ["start.lock", "daemon.log"])
def test_what_cannot_be_opened(private, name):
    path = (paths.runtime_dir() if name == "start.lock" else paths.state_dir()) / name
    path.mkdir(parents=True)
    with pytest.raises(NoDaemonError, match=f"cannot start the daemon: Is a directory: {path}") as caught:
        start.connect_or_start()
    assert caught.value.hint == f"what it is and whose: ls -ld {path.parent} {path}"


def test_a_directory_of_somebody_else_is_not_trusted(fake, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(CliError, match="not to you"):
        start.connect()

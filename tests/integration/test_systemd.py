"""systemd as the keeper: its protocol played against the real daemon; and a real user manager, where one can be had.

The manager runs in a mount namespace of its own, with directories of its own: it never meets the machine's.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from daemon import descriptors
from tests.conftest import DEADLINE_S, Home, Peer, missing, wait_for
from tests.helpers.programs import Program, rows
from tests.helpers.viewers import ask_viewer, free_port

WATCHDOG_S = 0.6


class Manager:
    """Plays systemd: listens on the control socket, starts the daemon, takes notifications and descriptors."""

    def __init__(self, home: Home) -> None:
        self.home = home
        home.socket.parent.mkdir(mode=0o700)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.fspath(home.socket))
        self.listener.listen()
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address = home.path / "r" / "notify"
        self.notify.bind(os.fspath(self.address))
        self.store: dict[str, int] = {}
        self.told: list[str] = []
        self.process: subprocess.Popen[str] | None = None

    def start(self, *, watchdog: float = 0.0, name: str = "control") -> None:
        held = [(name, self.listener.fileno()), *self.store.items()]
        environment = {**self.home.env, "NOTIFY_SOCKET": os.fspath(self.address)}
        if watchdog:
            environment["WATCHDOG_USEC"] = str(int(watchdog * 1e6))
        # bequeath() and the pids it writes are meant for the child: a small program in between does what systemd does.
        code = ("import os, sys\nfrom daemon import descriptors\n"
                "held = [(word.split('=')[0], int(word.split('=')[1])) for word in sys.argv[1:]]\n"
                "environment = descriptors.bequeath(held, os.environ)\n"
                "if 'WATCHDOG_USEC' in environment: environment['WATCHDOG_PID'] = str(os.getpid())\n"
                "os.execve(sys.executable, [sys.executable, '-m', 'daemon.app'], environment)")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *(f"{name}={fd}" for name, fd in held)], env=environment, cwd="/",
            pass_fds=[fd for _, fd in held], stderr=subprocess.PIPE, text=True)

    def take(self, seconds: float = DEADLINE_S) -> list[str]:
        """The lines of the next notification."""
        assert select.select([self.notify], [], [], seconds)[0], f"no notification; so far: {self.told}"
        data, fds, _, _ = socket.recv_fds(self.notify, 4096, 4)
        lines = data.decode().splitlines()
        fields = dict(line.split("=", 1) for line in lines)
        if "FDSTORE" in fields:
            assert fields["FDPOLL"] == "0"
            (self.store[fields["FDNAME"]],) = fds
        elif "FDSTOREREMOVE" in fields:
            os.close(self.store.pop(fields["FDNAME"]))
        self.told += lines
        return lines

    def take_until(self, line: str) -> None:
        while line not in self.take():
            pass

    def end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=DEADLINE_S)
        print(said)
        return self.process.returncode

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        for fd in self.store.values():
            os.close(fd)
        self.listener.close()
        self.notify.close()


@pytest.fixture
def manager(home: Home) -> Iterator[Manager]:
    one = Manager(home)
    yield one
    one.close()


def test_ready_comes_when_verbs_are_answered(manager):
    client = Peer(manager.home.socket, silent=True)  # activation: somebody waits before there is a daemon
    manager.start(name="rrd.socket")
    manager.take_until("READY=1")
    assert any(line.startswith("STATUS=rrd ") for line in manager.told)
    client.close()
    assert manager.home.recordings() == []
    assert manager.process is not None
    assert manager.home.daemon_pid() == manager.process.pid
    assert manager.end(signal.SIGTERM) == 0
    manager.take_until("STOPPING=1")
    assert "WATCHDOG=1" not in manager.told


def test_the_watchdog_is_fed_as_often_as_it_must(manager):
    manager.start(watchdog=WATCHDOG_S)
    manager.take_until("READY=1")
    for _ in range(4):
        assert manager.take(WATCHDOG_S) == ["WATCHDOG=1"]


def test_a_hung_daemon_stops_feeding(manager):
    manager.start(watchdog=WATCHDOG_S)
    manager.take_until("READY=1")
    assert manager.process is not None
    manager.process.send_signal(signal.SIGSTOP)
    while select.select([manager.notify], [], [], WATCHDOG_S)[0]:
        assert manager.take() == ["WATCHDOG=1"]  # said before it stopped
    manager.process.send_signal(signal.SIGCONT)
    assert manager.take(WATCHDOG_S) == ["WATCHDOG=1"]


def test_pipes_are_kept_over_a_crash(manager, verify, tmp_path):
    manager.start()
    manager.take_until("READY=1")
    with Program(manager.home, "kept", rows=300, pause=0.003) as program:
        wait_for(lambda: manager.take() and manager.store, "the pipe's descriptor")
        assert list(manager.store) == [descriptors.STREAM_PREFIX + program.stream]
        program.wait_row(40)
        assert manager.end(signal.SIGKILL) == -signal.SIGKILL
        program.wait_row(200)
        manager.start()
        manager.take_until("READY=1")
        program.finish()
        while manager.store:  # a quick program has ended before the second daemon is ready
            manager.take()
    target = tmp_path / "kept.rrd"
    manager.home.call("save", path=str(target), wait=True)
    verify(target)
    assert rows(target) == list(range(300))


def test_a_second_daemon_is_refused(manager):
    manager.start()
    manager.take_until("READY=1")
    second = subprocess.run([sys.executable, "-m", "daemon.app"], env=manager.home.env, cwd="/", capture_output=True,
                            text=True, check=False, timeout=DEADLINE_S)
    assert second.returncode == 78
    assert manager.process is not None
    assert f"another daemon runs here (pid {manager.process.pid})" in second.stderr


# -- a real manager --------------------------------------------------------------------------------------------------

ENTER = """
set -e
mkdir -p /run/systemd
mount -t tmpfs tmpfs /run/systemd
mkdir -p /run/systemd/system
exec "$0" --user --log-target=console --log-level=warning
"""


def systemd_program() -> str:
    for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd"):
        if os.access(path, os.X_OK):
            return path
    missing("systemd")
    raise AssertionError


@pytest.fixture
def user_manager(home: Home) -> Iterator[Home]:
    """A home in which `systemctl --user` works. Directories that it needs and nothing else of the machine's."""
    program = systemd_program()
    if not shutil.which("unshare"):
        missing("unshare")
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(home.path / "manager.log", "w"))
        enter = ["unshare", "--mount", "--propagation", "private"]
        process = subprocess.Popen([*enter, "sh", "-c", ENTER, program], env=home.env, cwd="/", stdout=log, stderr=log)
        try:
            def up() -> bool:
                if process.poll() is not None:
                    said = (home.path / "manager.log").read_text()
                    pytest.skip(f"no user manager can be run here: {said.strip()[-200:]}")
                return systemctl(home, "show", "--property=Version").stdout.startswith("Version=")
            wait_for(up, "the manager")
            yield home
        finally:
            if process.poll() is None:
                systemctl(home, "stop", "rrd.socket", "rrd.service")
                process.terminate()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def systemctl(home: Home, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemctl", "--user", *words], env=home.env, capture_output=True, text=True, check=False,
                          timeout=DEADLINE_S)


def property_of(home: Home, unit: str, name: str) -> str:
    return systemctl(home, "show", "--value", f"--property={name}", unit).stdout.strip()


def test_a_real_manager_keeps_the_daemon(user_manager, verify, tmp_path):
    home = user_manager
    said = home.cli("daemon", "install").stdout
    assert f"wrote {home.path}/c/systemd/user/rrd.service" in said
    assert property_of(home, "rrd.service", "ActiveState") == "active"
    assert property_of(home, "rrd.socket", "UnitFileState") == "enabled"
    pid = int(property_of(home, "rrd.service", "MainPID"))
    assert home.daemon_pid() == pid
    with Program(home, "serviced", rows=400, pause=0.004) as program:
        program.wait_row(40)
        wait_for(lambda: property_of(home, "rrd.service", "NFileDescriptorStore") == "1", "the stored pipe")
        refused = home.cli("daemon", "stop", check=False)
        assert refused.returncode == 1
        os.kill(pid, signal.SIGKILL)
        program.wait_row(120)
        wait_for(lambda: home.daemon_pid() != pid, "the next daemon")
        assert property_of(home, "rrd.service", "NRestarts") == "1"
        assert "restarted" in home.cli("daemon", "restart").stdout
        program.finish()
    target = tmp_path / "serviced.rrd"
    home.cli("save", target, "--wait")
    verify(target)
    assert rows(target) == list(range(400))

    stopped = home.cli("daemon", "stop")
    assert "systemd starts it again" in stopped.stderr
    assert property_of(home, "rrd.service", "ActiveState") == "inactive"
    assert property_of(home, "rrd.service", "Result") == "success"
    assert home.cli("daemon", "status", check=False).returncode == 3
    assert property_of(home, "rrd.service", "ActiveState") == "inactive"  # asking did not start it
    assert len(home.recordings()) == 1  # a verb did: the socket is still there

    home.cli("daemon", "stop")
    assert property_of(home, "rrd.service", "ActiveState") == "inactive"
    job = {name: value for name, value in home.env.items() if name != "XDG_RUNTIME_DIR"} | {"TMPDIR": str(tmp_path)}
    assert "serviced" in home.cli("ls", env=job).stdout, "of cron, without a runtime directory"
    assert property_of(home, "rrd.service", "ActiveState") == "active"

    removed = home.cli("daemon", "uninstall").stdout
    assert f"removed {home.path}/c/systemd/user/rrd.service" in removed
    assert property_of(home, "rrd.service", "LoadState") == "not-found"
    assert not home.socket.exists()
    assert not Path(home.path / "c/systemd/user/rrd.socket").exists()


def test_a_browser_is_opened_outside_of_what_the_service_forbids(user_manager):
    home = user_manager
    home.cli("daemon", "install")
    # What a browser needs for its own sandbox, and what it is told.
    browser = home.path / "browser"
    browser.write_text(f"#!/bin/sh\ncd {home.path}\n(unshare --user true && echo $HELLO $1) > said.new 2>&1\n"
                       "grep NoNewPrivs /proc/self/status >> said.new\nmv said.new said\n")
    browser.chmod(0o755)
    mine = home.env | {"BROWSER": str(browser), "HELLO": "hello there"}
    with Program(home, "robot", rows=5) as program:
        program.finish()
    url = home.cli("serve", env=mine).stdout.splitlines()[0]
    wait_for((home.path / "said").exists, "the browser")
    said = (home.path / "said").read_text()
    assert said.startswith(f"hello there {url.partition('&token')[0]}&ticket=")
    assert said.endswith("NoNewPrivs:\t0\n")


def test_install_takes_over_from_a_keeper(user_manager):
    home = user_manager
    home.cli("daemon", "start")
    keeper = home.keeper_pid()
    assert keeper
    home.cli("daemon", "install")
    wait_for(lambda: home.keeper_pid() == home.daemon_pid(), "the service to hold the lock")
    assert int(property_of(home, "rrd.service", "MainPID")) == home.daemon_pid()


def test_a_viewer_is_no_part_of_the_service(user_manager, rerun):
    """A window is its user's: in a scope of its own, there when the service is gone, and fed by the next daemon."""
    home = user_manager
    home.cli("daemon", "install")
    with Program(home, "first", rows=20) as program:
        program.finish()
    words = ("spawn", "@latest", "@live", "--headless", "--executable", rerun, "--port", free_port(), "--json")
    answer = json.loads(home.cli(*words, timeout=90).stdout)
    pid, port = answer["viewer"]["pid"], int(answer["viewer"]["url"].split(":")[2].split("/")[0])
    try:
        scope = f"rrd-viewer-{port}-{home.daemon_pid()}.scope"
        assert property_of(home, scope, "ActiveState") == "active"
        assert scope in Path(f"/proc/{pid}/cgroup").read_text()
        environment = Path(f"/proc/{pid}/environ").read_text()
        assert not [name for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_", "RRD_") if name in environment]
        wait_for(lambda: "Recording:first:first" in ask_viewer(port), "the recording in the viewer", 60)
        home.cli("daemon", "stop", "--force")
        assert property_of(home, "rrd.service", "ActiveState") == "inactive"
        assert psutil.pid_exists(pid)
        with Program(home, "second", rows=20) as program:  # starts the daemon by its socket
            program.finish()
        wait_for(lambda: "Recording:second:second" in ask_viewer(port), "what came later", 60)
        assert home.status()["sinks"][0]["viewer_pid"] == pid
    finally:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: property_of(home, scope, "LoadState") == "not-found", "the scope's end")

"""`rrd top` in a real terminal: tmux, 80x24, with and without colour."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.conftest import missing, wait_for
from tests.helpers.programs import Program


class Terminal:
    """A tmux of its own."""

    def __init__(self, home, **environment):
        self.home = home
        self.base = ["tmux", "-S", str(home.path / "tmux"), "-f", "/dev/null"]
        env = {**home.env, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color", **environment}
        env.pop("COLUMNS")
        subprocess.run([*self.base, "new-session", "-d", "-x", "80", "-y", "24",
                        f"{sys.executable} -m rrd_cli top --interval 0.3; echo ENDED $?; exec cat"],
                       env=env, cwd=home.path, check=True)

    def tmux(self, *words):
        return subprocess.run([*self.base, *words], env=self.home.env, capture_output=True, text=True,
                              check=True).stdout

    def screen(self, *options):
        return self.tmux("capture-pane", "-p", *options)

    def wait(self, text):
        wait_for(lambda: text in self.screen(), f"{text!r} on the screen")

    def press(self, *keys):
        self.tmux("send-keys", *keys)

    def close(self):
        subprocess.run([*self.base, "kill-server"], env=self.home.env, check=False)


@pytest.fixture
def terminal(daemon):
    if not shutil.which("tmux"):
        missing("tmux")
    opened = []

    def open_one(**environment):
        opened.append(Terminal(daemon, **environment))
        return opened[-1]
    yield open_one
    for one in opened:
        one.close()


def test_a_session(daemon, terminal):
    with Program(daemon, "robot", rows=100000, pause=0.01, save=daemon.path / "out.rrd") as program:
        program.wait_row(20)
        screen = terminal()
        screen.wait("robot/robot")
        screen.wait("kB/s")
        lines = screen.screen().splitlines()
        assert lines[0].startswith("rrd ")
        assert "1 live of 1 recording" in lines[1]
        assert any(line.startswith("> robot/robot") for line in lines)
        assert any(" following " in line and "out.rrd" in line for line in lines)
        screen.press("o")
        screen.wait("by rate")
        screen.press("Down", "d")
        wait_for(lambda: daemon.status()["sinks"][0]["state"] == "detached", "the detaching")
        screen.press("Up", "w")
        wait_for((daemon.path / "robot.rrd").exists, "the file")
        screen.press("q")
        screen.wait("ENDED 0")


def test_without_colour(terminal):
    screen = terminal(NO_COLOR="1")
    screen.wait("no recording yet")
    assert "\x1b[3" not in screen.screen("-e").replace("\x1b[39m", "")
    screen.press("C-c")
    screen.wait("ENDED 130")


def test_it_waits_for_a_daemon_that_is_gone(daemon, terminal):
    screen = terminal()
    screen.wait("no recording yet")
    daemon.cli("daemon", "stop")
    screen.wait("waiting for it")
    daemon.cli("daemon", "start")
    screen.wait("q quit")

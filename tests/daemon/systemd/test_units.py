"""The unit files: what systemd itself says of them, and what is written for a user."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.systemd import units
from tests.conftest import missing


@pytest.fixture
def written(tmp_path):
    def write(environment=None):
        for name, text in units.texts(units.command(), environment or {}).items():
            (tmp_path / name).write_text(text)
        return tmp_path
    return write


def analyze(where, *words):
    if not shutil.which("systemd-analyze"):
        missing("systemd-analyze")
    return subprocess.run(["systemd-analyze", "--user", *words], capture_output=True, text=True, check=False,
                          env={**os.environ, "XDG_RUNTIME_DIR": str(where)})


def test_systemd_has_nothing_to_say_against_them(written):
    where = written({"XDG_STATE_HOME": "/tmp/state with blank"})
    done = analyze(where, "verify", "--man=no", str(where / "rrd.service"), str(where / "rrd.socket"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_hardening_does_not_get_worse(written):
    where = written()
    done = analyze(where, "security", "--offline=yes", "--no-pager", str(where / "rrd.service"))
    exposure = re.search(r"Overall exposure level for rrd.service: ([\d.]+)", done.stdout)
    assert exposure, done.stderr
    assert float(exposure[1]) <= 6.5


def test_a_users_service_names_interpreter_and_directories():
    environment = {"XDG_STATE_HOME": "/my state", "XDG_CONFIG_HOME": "", "HOME": "/x"}
    text = units.texts(["/opt/my env/python", "-m", "daemon.app"], environment)[units.SERVICE]
    lines = text.splitlines()
    assert 'ExecStart="/opt/my env/python" -m daemon.app' in lines
    assert [line for line in lines if line.startswith("Environment")] == ['Environment="XDG_STATE_HOME=/my state"']
    assert len([line for line in lines if line.startswith("ExecStart=")]) == 1


@pytest.mark.parametrize(("state", "listens"), [
    ("", ["%t/rrd/control.sock", "%h/.local/state/rrd/daemon.sock"]),
    ("relative", ["%t/rrd/control.sock", "%h/.local/state/rrd/daemon.sock"]),
    ("/my 50% state", ["%t/rrd/control.sock", "/my 50%% state/rrd/daemon.sock"]),
    ("/" + 95 * "x", ["%t/rrd/control.sock"]),
])
def test_where_systemd_listens(state, listens):
    """In the session's directory, and beside the recordings, where that is not too long for a socket."""
    text = units.texts(units.command(), {"XDG_STATE_HOME": state})[units.SOCKET]
    assert re.findall("^ListenStream=(.*)$", text, re.MULTILINE) == listens


@pytest.mark.parametrize(("word", "expected"), [
    ("plain", "plain"), ("50%", "50%%"), ("$x", "$$x"), ('a "b"', '"a \\"b\\""'), ("a\\b", '"a\\\\b"'), ("", '""')])
def test_quoting(word, expected):
    assert units.quoted(word) == expected


def test_units_of_packagers_use_the_installed_command():
    assert "ExecStart=/usr/bin/rrd-daemon --no-keeper" in (units.HERE / units.SERVICE).read_text()


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """A systemctl of paper: it writes down what it is told, and refuses what the file `refuse` names."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    script = bin_ / "systemctl"
    script.write_text(f"#!{sys.executable}\n" + f"""
import sys, pathlib
where = pathlib.Path({str(tmp_path)!r})
words = sys.argv[2:]
with open(where / "said", "a") as file:
    print(*words, file=file)
answer = where / "answer"
if words[0] == "show" and answer.exists():
    print(answer.read_text())
refuse = where / "refuse"
if refuse.exists() and words[0] == refuse.read_text():
    sys.exit("Failed to connect to bus\\nmore")
""")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    return tmp_path


def test_install_and_uninstall(systemctl):
    assert not units.installed()
    assert units.install(units.command()) == [systemctl / "c/systemd/user" / name
                                              for name in (units.SERVICE, units.SOCKET)]
    assert units.installed()
    said = (systemctl / "said").read_text().splitlines()
    assert said == ["show-environment", "daemon-reload", "enable rrd.service rrd.socket", "restart rrd.socket",
                    "start rrd.service"]
    (systemctl / "said").unlink()
    assert [path.name for path in units.uninstall()] == [units.SERVICE, units.SOCKET]
    assert not units.installed()
    said = (systemctl / "said").read_text().splitlines()
    assert said == ["show-environment", "disable --now rrd.socket rrd.service", "daemon-reload"]
    assert units.uninstall() == []


def test_without_a_manager_nothing_is_written(systemctl):
    (systemctl / "refuse").write_text("show-environment")
    with pytest.raises(units.ServiceError, match="cannot be reached: Failed to connect to bus") as caught:
        units.install(units.command())
    assert "enable-linger" in caught.value.hint
    assert not units.directory().exists()


def test_what_systemd_refuses_is_told_in_its_words(systemctl):
    (systemctl / "refuse").write_text("enable")
    with pytest.raises(units.ServiceError, match=r"systemctl --user enable rrd.service rrd.socket: Failed to connect"):
        units.install(units.command())


def test_without_systemd(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(units.ServiceError, match="no systemd"):
        units.install(units.command())
    assert not units.listening(tmp_path)
    assert not units.running()


@pytest.mark.parametrize(("answer", "listening", "running"), [
    ("ActiveState=active\nListen=/run/x/control.sock (Stream)", True, True),
    ("ActiveState=active\nListen=/run/y/control.sock (Stream)", False, True),
    ("Listen=/run/x/control.sock (Stream)\nListen=/state/daemon.sock (Stream)\nActiveState=active", True, True),
    ("ActiveState=inactive\nListen=/run/x/control.sock (Stream)", False, False),
    ("ActiveState=failed", False, False),
    ("ActiveState=activating", False, True),
    ("", False, False),
])
def test_what_systemd_says(systemctl, answer, listening, running):
    (systemctl / "answer").write_text(answer)
    assert units.listening(Path("/run/x/control.sock")) is listening
    assert units.running() is running

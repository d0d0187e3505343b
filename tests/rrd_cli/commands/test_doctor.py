"""`rrd doctor`: what is wrong is found, each with its fix."""

from __future__ import annotations

import json
import os

import pytest

from daemon import paths
from rrd_cli.commands import doctor

OK = {"findings": [{"check": "disk", "level": "ok", "message": "plenty", "fix": ""}]}


@pytest.fixture
def found(rrd, fake, monkeypatch):
    fake.on("doctor", OK)
    os.chmod(paths.socket_path(), 0o600)
    monkeypatch.setenv("PATH", "/nowhere")

    def look():
        code, out, _ = rrd("doctor", "--json")
        entries = json.loads(out)
        assert all(list(one) == list(doctor.KEYS) for one in entries)
        assert all(one["fix"] for one in entries if one["level"] == "problem")
        return code, {(one["check"], one["level"]): one for one in entries}
    return look


def test_without_problems(found):
    code, entries = found()
    assert code == 0, entries
    assert ("socket", "ok") in entries
    assert entries["disk", "ok"]["message"] == "plenty"
    assert ("browser", "warning") in entries


def test_a_directory_that_others_may_enter(found, private):
    directory = private / "runtime_dir" / "rrd"
    os.chmod(directory, 0o755)
    code, entries = found()
    assert code == 1
    assert entries["runtime dir", "problem"]["fix"] == f"chmod 700 {directory}"


def test_bad_settings(found, private):
    path = private / "config_home" / "rrd" / "config.toml"
    path.parent.mkdir()
    path.write_text("nonsense = 1")
    code, entries = found()
    assert code == 1
    assert entries["settings", "problem"]["message"].startswith(f"{path}:1: unknown key nonsense")


def test_an_older_daemon(found, fake):
    fake.hello["version"] = "0.0.1"
    assert "rrd daemon restart" in found()[1]["daemon", "warning"]["fix"]


def test_problems_of_the_daemon_count(found, fake):
    fake.on("doctor", {"findings": [{"check": "disk", "level": "problem", "message": "full", "fix": "make room"}]})
    code, entries = found()
    assert code == 1
    assert entries["disk", "problem"]["fix"] == "make room"


@pytest.mark.parametrize(("environment", "level"), [({}, "warning"), ({"DISPLAY": ":0"}, "ok")])
def test_display(environment, level):
    (one,) = [one for one in doctor._desktop(environment) if one["check"] == "display"]
    assert one["level"] == level


def test_text_has_fixes_below(rrd, fake):
    fake.on("doctor", {"findings": [{"check": "disk", "level": "problem", "message": "full\x1b", "fix": "make room"}]})
    code, out, _ = rrd("doctor")
    lines = out.splitlines()
    at = next(index for index, line in enumerate(lines) if "full" in line)
    assert code == 1
    assert "full\\x1b" in lines[at]
    assert lines[at + 1].strip() == "fix: make room"


@pytest.mark.parametrize(("listening", "installed", "level", "message"), [
    (True, True, "ok", "systemd starts and watches the daemon"),
    (False, True, "warning", "installed, but systemd does not listen on the socket"),
    (False, False, "ok", "none: the daemon starts by itself"),
])
def test_service(monkeypatch, listening, installed, level, message):
    monkeypatch.setattr(doctor.service, "listening", lambda: listening)
    monkeypatch.setattr(doctor.service, "installed", lambda: installed)
    first = next(doctor._service())
    assert (first["check"], first["level"]) == ("service", level)
    assert first["message"].startswith(message)
    assert bool(first["fix"]) is (level != "ok")


def test_a_bare_machine_is_told_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "ICD_DIRECTORIES", (str(tmp_path),))
    found = {one["check"]: one for one in doctor._desktop({})}
    assert {one["level"] for one in found.values()} == {"warning"}
    assert "mesa-vulkan-drivers" in found["vulkan"]["fix"]
    assert "rrd serve" in found["browser"]["fix"]
    (tmp_path / "lvp_icd.json").touch()
    (tmp_path / "firefox").touch(0o755)
    found = {one["check"]: one for one in doctor._desktop({"DISPLAY": ":0"})}
    assert {one["level"] for one in found.values()} == {"ok"}

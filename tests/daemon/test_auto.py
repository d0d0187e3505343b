"""Rules that act by themselves: on real streams, once, and never outside their directory."""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace

import pytest

from daemon.auto import directory_of, harmless, path_for
from daemon.stream import RecordingKey
from tests.conftest import DEADLINE_S, wait_for
from tests.helpers.programs import Program, rows
from tests.helpers.viewers import Server, ask_viewer


def stream(program="prog.py"):
    return SimpleNamespace(program=program, started_at=time.mktime((2026, 3, 4, 5, 6, 7, 0, 0, -1)))


@pytest.mark.parametrize(("name", "expected"), [
    ("plain-1", "plain-1"), ("", "_"), (".", "_"), ("..", "__"), (".hidden", "_hidden"), ("a/b", "a_b"),
    ("../../etc/passwd", "___.._etc_passwd"), ("a\0b\n", "a_b_"), ("/", "_"),
    ("\ud800", "_"), ("日本", "日本"), ("   ", "_"), (" .. ", "__"),
])
def test_names_from_outside_are_harmless(name, expected):
    found = harmless(name)
    assert found == expected
    assert "/" not in found
    assert found not in ("", ".", "..")


def test_long_names_are_cut_at_a_character():
    assert len(harmless("日" * 300).encode()) <= 100
    assert harmless("x" * 1000) == "x" * 100


def test_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    key = RecordingKey("app/../..", "rec")
    path = path_for("~/runs/{app}/{date}-{time}-{recording}-{program}.rrd", key, stream())
    assert str(path) == "/home/me/runs/app_.._../2026-03-04-050607-rec-prog.py.rrd"
    assert str(directory_of("~/runs/x-{app}.rrd")) == "/home/me/runs"
    assert str(directory_of("/{app}.rrd")) == "/"


def settings(home, text):
    path = home.path / "c" / "rrd" / "config.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_every_recording_of_an_application_is_saved_once(home, verify):
    settings(home, f"""
[[auto]]
application = "robot*"
save = "{home.path}/runs/{{app}}/{{recording}}.rrd"
""")
    home.cli("daemon", "start")
    runs = home.path / "runs"
    with Program(home, "robot one", rows=300, pause=0.003, recording="../first") as program, \
            Program(home, "other", rows=10) as other:
        wait_for(lambda: list(runs.rglob("*.rrd")), "the file")
        os.kill(home.daemon_pid(), signal.SIGKILL)
        program.finish()
        other.finish()
    wait_for(lambda: all(one["state"] == "ended" for one in home.recordings()), "the recordings' end")
    wait_for(lambda: not [sink for sink in home.status()["sinks"] if sink["state"] == "following"], "the sinks' end")
    found = list(runs.rglob("*.rrd"))
    assert [str(path.relative_to(runs)) for path in found] == ["robot one/___first.rrd"]
    verify(found[0])
    assert rows(found[0]) == list(range(300))


def test_a_second_process_of_a_saved_recording_gets_a_file_with_both(home, verify):
    settings(home, f'[[auto]]\nsave = "{home.path}/runs/{{recording}}.rrd"\n')
    home.cli("daemon", "start")
    for count, name in ((20, "one.rrd"), (30, "one-2.rrd")):
        with Program(home, "robot", rows=count, recording="one") as program:
            program.finish()
        wait_for((home.path / "runs" / name).exists, name)
        wait_for(lambda: all(sink["state"] == "complete" for sink in home.status()["sinks"]), "the sink's end")
    verify(home.path / "runs" / "one-2.rrd")
    assert rows(home.path / "runs" / "one.rrd") == list(range(20))
    assert rows(home.path / "runs" / "one-2.rrd") == sorted([*range(20), *range(30)])


def test_new_rules_are_taken_by_reload_and_a_link_is_no_way_out(home):
    home.cli("daemon", "start")
    outside, runs = home.path / "outside", home.path / "runs"
    outside.mkdir()
    runs.mkdir()
    (runs / "robot").symlink_to(outside)
    with Program(home, "robot", rows=2000, pause=0.01, recording="live") as program:
        program.wait_row(20)
        settings(home, f'[[auto]]\nsave = "{runs}/{{app}}/{{recording}}.rrd"\n')
        assert home.call("reload")["changed"] == ["auto"]
        wait_for(lambda: "a way out" in home.log, "the refusal")
        assert list(outside.iterdir()) == []
        settings(home, f'[[auto]]\nsave = "{runs}/{{recording}}.rrd"\n')
        home.call("reload")
        wait_for((runs / "live.rrd").exists, "the file")


@pytest.fixture
def headless(home, rerun):
    """A program's `rerun` that has no window; those that were started end with the test."""
    wrapper = home.path / "headless-rerun"
    wrapper.write_text(f'#!/bin/sh\nexec {rerun} --headless "$@"\n')
    wrapper.chmod(0o755)
    yield wrapper
    for one in home.status()["sinks"]:
        if one["kind"] == "viewer" and (viewer := pid_of(home, one["target"])):
            os.kill(viewer, signal.SIGKILL)


def pid_of(home, url):
    return next((one["pid"] for one in home.call("viewers")["viewers"] if one["url"] == url), None)


def test_a_viewer_is_spawned_when_none_shows_what_comes(home, headless):
    settings(home, '[[auto]]\napplication = "robot"\nspawn = true\n')
    home.cli("daemon", "start")
    home.env["RERUN_CLI_PATH"] = str(headless)  # the program's: the daemon knows nothing of it
    with Program(home, "other", rows=5) as other, Program(home, "robot", rows=3000, pause=0.01) as program:
        other.finish()
        (sink,) = wait_for(lambda: home.status()["sinks"], "the viewer", 3 * DEADLINE_S)
        port = int(sink["target"].split(":")[-1].split("/")[0])
        shown = wait_for(lambda: ask_viewer(port), "what it shows")
        assert [name for name in shown if "robot" in name] == list(shown)
        os.kill(home.daemon_pid(), signal.SIGKILL)
        program.wait_row(20)
        wait_for(lambda: [one["id"] for one in home.status()["sinks"]] == [sink["id"]], "the same output")


def test_no_viewer_is_spawned_where_one_shows_everything(home, rerun):
    settings(home, '[[auto]]\nspawn = true\n')
    home.cli("daemon", "start")
    with Server(home, rerun, "--serve-grpc") as server:
        mine = home.call("connect", url=server.url, source=["@live"])["sink"]["id"]
        for name in ("one", "two"):
            with Program(home, name, rows=5) as program:
                program.finish()
        wait_for(lambda: [one["state"] for one in home.recordings()] == ["ended"] * 2, "the recordings' end")
        assert [one["id"] for one in home.status()["sinks"]] == [mine]
        assert "auto:" not in home.log


def test_connect_some_applications(home, rerun):
    with Server(home, rerun, "--save", home.path / "seen.rrd") as server:
        settings(home, f'[[auto]]\napplication = "robot"\nconnect = "{server.url}"\n')
        home.cli("daemon", "start")
        for name in ("other", "robot"):
            with Program(home, name, rows=30) as program:
                program.finish()
        wait_for(lambda: [one["state"] for one in home.status()["sinks"]] == ["complete"], "the output's end")
        server.stop()
    home.cli("recover", "seen.rrd")
    assert rows(home.path / "seen.recovered.rrd") == list(range(30))


def test_connect_always(home):
    settings(home, '[[auto]]\nconnect = "rerun+http://127.0.0.1:1/proxy"\n')
    home.cli("daemon", "start")
    (sink,) = wait_for(lambda: home.status()["sinks"], "the sink")
    assert (sink["kind"], sink["target"]) == ("viewer", "rerun+http://127.0.0.1:1/proxy")
    home.cli("daemon", "restart")
    assert [one["id"] for one in home.status()["sinks"]] == [sink["id"]]

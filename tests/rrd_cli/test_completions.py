"""The scripts are current, and real shells complete with them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rrd_cli import completions
from tests.helpers.terminal import BASH, ZSH, Shell

SCRIPTS = Path(__file__).parents[2] / "completions"
RECORDING = {"recording_id": "5f0c2a1b-77", "application_id": "my_app", "state": "ended", "started_at": None}


@pytest.fixture
def answers(fake):
    """A daemon with something to offer."""
    hostile = RECORDING | {"recording_id": "$(touch pwned)", "application_id": "two words"}
    fake.on("ls", {"recordings": [RECORDING, hostile]})
    sink = {"id": "file-1a2b", "kind": "file", "target": "/tmp/run.rrd", "state": "following"}
    fake.on("viewers", {"viewers": [{"kind": "windowed", "version": "0.41.0", "pid": 7, "ports": [9877]}]})
    fake.on("status", {"sinks": [sink, sink | {"id": "file-done", "state": "complete"}]})
    return fake


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`rrd` on PATH, as this tree has it; in an empty directory."""
    program = tmp_path / "bin" / "rrd"
    program.parent.mkdir()
    root = Path(__file__).parents[2]
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{root}" exec "{sys.executable}" -m rrd_cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "run one.rrd").touch()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


@pytest.mark.parametrize("name", ["rrd.bash", "_rrd", "rrd.fish"])
def test_scripts_are_current(name):
    assert completions.scripts()[name] == (SCRIPTS / name).read_text(), "python -m rrd_cli.completions"


def test_names(answers, rrd):
    code, out, _ = rrd("_complete", "sources")
    assert code == 0
    assert out.splitlines() == [
        "@latest\tthe newest recording",
        "@live\tall that are being logged, now and later",
        "@all\tall there are",
        "my_app\tall recordings of this application",
        "5f0c2a1b-77\tmy_app, ended, -",
    ]
    assert "@" not in rrd("_complete", "recordings")[1]
    assert rrd("_complete", "viewers") == (0, "9877\twindowed 0.41.0, pid 7\n", "")
    assert answers.said("viewers") == [{"unasked": True}]
    assert rrd("_complete", "sinks") == (0, "file-1a2b\tfile, /tmp/run.rrd\n", "")


def test_the_newest_of_very_many_is_offered_first(fake, rrd):
    fake.on("ls", lambda call: {"recordings": [RECORDING | {"recording_id": "new"}]} if call.args
            else {"recordings": [RECORDING], "more": 1})
    names = [line.split("\t")[0] for line in rrd("_complete", "recordings")[1].splitlines()]
    assert names == ["my_app", "new", "5f0c2a1b-77"]


def test_no_daemon_no_names_and_none_is_started(private, rrd):
    assert rrd("_complete", "recordings") == (0, "", "")
    assert rrd("_complete", "nonsense") == (2, "", "")
    assert not (private / "runtime_dir" / "rrd").exists()


def bash_completes(line: str) -> list[str]:
    script = f"""
        source "{SCRIPTS}/rrd.bash"
        COMP_LINE=$1; COMP_POINT=${{#1}}; COMP_WORDS=(rrd); _rrd; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script, "-", line], capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rrd sa", ["save"]),
        ("rrd daemon st", ["start", "stop", "status"]),
        ("rrd save --fo", ["--force"]),
        ("rrd save run", ["run one.rrd"]),
        ("rrd save out.rrd @la", ["@latest"]),
        ("rrd save --force out.rrd my", ["my_app"]),
        ("rrd tail -f 5f", ["5f0c2a1b-77"]),
        ("rrd tail -n ", [""]),
        ("rrd detach fi", ["file-1a2b"]),
        ("rrd connect 98", ["9877"]),
        ("rrd run --connect 98", ["9877"]),
        ("rrd run --save x.rrd -- run", ["run one.rrd"]),
        ("rrd recover -o r", ["run one.rrd"]),
        ("rrd forget tw", [""]),
        ("rrd nonsense ", [""]),
    ],
)
def test_bash(answers, command, line, expected):
    assert bash_completes(line) == expected


@pytest.mark.parametrize(
    ("typed", "until"),
    [
        ("rrd sa\t", "save "),
        ("rrd save o.rrd @la\t", "@latest "),
        ("rrd save run\t", "run\\ one.rrd "),
        ("rrd detach file-\t", "file-1a2b "),
    ],
)
def test_bash_on_a_terminal(answers, command, typed, until):
    setup = f"bind 'set bell-style none'; source '{SCRIPTS}/rrd.bash'"
    with Shell(BASH, setup) as shell:
        shell.type(typed)
        shell.wait(re.escape(until))


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rrd sa", ["save"]),
        ("rrd daemon sto", ["stop"]),
        ("rrd save out.rrd @la", ["@latest"]),
        ("rrd save --fo", ["--force"]),
        ("rrd detach file-", ["file-1a2b"]),
        ("rrd connect 98", ["9877"]),
        ("rrd run --connect 98", ["9877"]),
        ("rrd forget 5f", ["5f0c2a1b-77"]),
        ("rrd recover -o ru", ["run one.rrd"]),
    ],
)
def test_fish(answers, command, line, expected):
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source '{SCRIPTS}/rrd.fish'; complete -C $argv[1]", line],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stderr == ""
    assert [found.split("\t")[0].replace("\\", "") for found in done.stdout.splitlines()] == expected


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
@pytest.mark.parametrize(
    ("typed", "until"),
    [
        ("rrd sa\t", "save "),
        ("rrd daemon sto\t", "stop "),
        ("rrd save out.rrd @la\t", "@latest "),
        ("rrd save --fo\t", "--force "),
        ("rrd tail -f 5f\t", "5f0c2a1b-77 "),
        ("rrd recover ru\t", "run\\ one.rrd "),
        ("rrd connect 98\t", "9877 "),
        ("rrd run --connect 98\t", "9877 "),
    ],
)
def test_zsh(answers, command, typed, until):
    setup = f"autoload -U compinit; compinit -u -D; unsetopt beep; source '{SCRIPTS}/_rrd'"
    with Shell(ZSH, setup) as shell:
        shell.type(typed)
        shell.wait(re.escape(until))

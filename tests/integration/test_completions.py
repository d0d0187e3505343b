"""Completions as they are installed, in real shells, with a real daemon to ask."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import pytest

from tests.conftest import missing
from tests.helpers.programs import Program
from tests.helpers.viewers import Server

LIMIT_S = 0.15
"""What somebody who presses Tab may be made to wait."""


@pytest.fixture
def shell(daemon):
    """Call it with a shell and its code: what it prints, with `rrd` on PATH and its completions installed."""
    bin_ = daemon.path / "bin"
    bin_.mkdir()
    (bin_ / "rrd").write_text(f'#!/bin/sh\nexec {sys.executable} -m rrd_cli "$@"\n')
    (bin_ / "rrd").chmod(0o755)
    env = {**daemon.env, "PATH": f"{bin_}:{daemon.env['PATH']}", "XDG_DATA_HOME": str(daemon.path / "d")}

    def run(name, code):
        if not shutil.which(name):
            missing(name)
        daemon.cli("completion", "install", name, env=env)
        return subprocess.run([name, "-c", code], env=env, cwd=daemon.path, capture_output=True, text=True,
                              check=True, timeout=60).stdout
    return run


def test_fish_finds_an_installed_script_and_live_names(daemon, shell):
    with Program(daemon, "robot", rows=5, recording="rec-one") as program:
        program.finish()
    found = shell("fish", "complete -C 'rrd run --sp'; complete -C 'rrd forget rec'; complete -C 'rrd conf'")
    assert "--spawn" in found
    assert "rec-one" in found
    assert "config" in found


def test_bash_completes_from_the_installed_script(daemon, shell):
    with Program(daemon, "robot", rows=5, recording="rec-one") as program:
        program.finish()
    code = """source "$XDG_DATA_HOME/bash-completion/completions/rrd"
    try() { COMP_LINE=$1 COMP_POINT=${#1} COMPREPLY=(); read -ra COMP_WORDS <<< "$1"
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _rrd; echo "${COMPREPLY[@]}"; }
    try 'rrd doc'; try 'rrd forget rec'; try 'rrd daemon inst'"""
    found = shell("bash", code).split()
    assert found == ["doctor", "rec-one", "install"]


def test_connect_offers_a_real_viewer(daemon, rerun):
    with Server(daemon, rerun, "--serve-grpc") as server:
        offered = dict(line.split("\t") for line in daemon.cli("_complete", "viewers").stdout.splitlines())
        assert offered[str(server.port)] == f"server 0.41.0, pid {server.pid}"


def test_asking_is_quick(daemon):
    with Program(daemon, "robot", rows=5) as program:
        program.finish()
    best = float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        said = daemon.cli("_complete", "recordings").stdout
        best = min(best, time.perf_counter() - begin)
        assert "robot" in said
        if best < LIMIT_S:
            break
    assert best < LIMIT_S

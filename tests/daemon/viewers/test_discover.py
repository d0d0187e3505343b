"""Sockets and their owners, asked of /proc."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from daemon.viewers import discover
from daemon.viewers.discover import (
    alive,
    descends,
    kind_of,
    listener,
    owner_of,
    peer_owner,
    server_at,
    version_of,
)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
def test_who_listens(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        owner = listener(server.getsockname()[1])
        assert owner is not None
        assert owner.pid == os.getpid()
        assert owner.mine
        assert f"pid {os.getpid()}" in owner.describe()
        found = server_at(server.getsockname()[1])
        assert found is not None
        assert found.kind in ("other", "sdk")  # this process may have Rerun's library loaded by another test
        port = server.getsockname()[1]
    assert listener(port) is None
    assert server_at(port) is None


def test_another_users_socket_is_known_by_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose a socket is, everybody may know; which process holds it, only that user."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(discover, "_holders", lambda inodes: iter(()))
        assert listener(port) is None, "ours, in a process that has just gone"
        monkeypatch.setattr(os, "getuid", lambda: 54321)
        found = server_at(port)
    assert found is not None
    assert (found.kind, found.owner.pid, found.owner.mine) == ("other", 0, False)
    assert found.describe() == f"a process of user {pwd.getpwuid(os.geteuid()).pw_name}"


def test_who_is_at_the_other_end() -> None:
    """The client's process, not the server's: both ends are on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = subprocess.Popen(
            [sys.executable, "-c", "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); "
             "print('up', flush=True); sys.stdin.read()", str(server.getsockname()[1])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            peer, _ = server.accept()
            with peer:
                assert program.stdout is not None
                program.stdout.readline()
                owner = peer_owner(peer.getsockname()[:2], peer.getpeername()[:2])
            assert owner is not None
            assert owner.pid == program.pid
        finally:
            program.communicate()


def test_a_process_is_named_by_pid_and_start(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = owner_of(os.getpid())
    assert owner is not None
    assert alive(owner.pid, owner.started)
    assert not alive(owner.pid, owner.started - 100), "a pid that was used again is another process"
    booted = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted + 3600)
    assert alive(owner.pid, owner.started), "a clock that is set makes no other process"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert owner_of(ended.pid) is None
    assert not alive(ended.pid, owner.started)
    assert descends(os.getpid(), os.getppid())
    assert descends(os.getpid(), os.getpid())
    assert not descends(os.getppid(), os.getpid())


def test_a_script_is_called_by_its_name(tmp_path: Path) -> None:
    script, odd = tmp_path / "train.py", os.fsencode(tmp_path) + b"/caf\xe9.py"
    script.write_text("import sys\nprint('up', flush=True)\nsys.stdin.read()\n")
    os.symlink(script, odd)
    for argv, name in (([str(script)], "train.py"), (["-u", str(script), "x"], "train.py"), ([odd], "caf\ufffd.py")):
        program = subprocess.Popen([sys.executable, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert program.stdout is not None
            program.stdout.readline()
            owner = owner_of(program.pid)
            assert owner is not None
            assert owner.program == name
        finally:
            program.communicate()


@pytest.mark.parametrize(("arguments", "kind"), [
    (["--port", "9876", "--bind", "127.0.0.1"], "windowed"),
    (["--headless", "--port=1"], "headless"),
    (["--serve-grpc"], "server"),
    (["--serve-web", "--web-viewer-port", "0"], "web"),
    (["--web-viewer"], "web"),
    (["--save", "x.rrd"], "save"),
    (["--save=x.rrd"], "save"),
    (["file.rrd"], "windowed"),
])
def test_what_the_arguments_say(arguments: list[str], kind: str) -> None:
    assert kind_of(arguments) == kind


def test_an_executables_version(rerun: Path, tmp_path: Path) -> None:
    assert version_of(str(rerun)) == (0, 41, 0)
    says = tmp_path / "rerun"
    says.write_text("#!/bin/sh\necho rerun-cli 0.39.2 other words\n")
    says.chmod(0o755)
    assert version_of(str(says)) == (0, 39, 2)
    says.write_text("#!/bin/sh\nexit 1\n")
    assert version_of(str(says)) is None, "an executable that was replaced is asked again"
    assert version_of(str(tmp_path / "nothing")) is None

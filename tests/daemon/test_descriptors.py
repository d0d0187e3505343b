from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.descriptors import Notifier, inherited

HEIR = """
import json, os, sys
from daemon.descriptors import inherited
environment = dict(os.environ)
found = inherited(environment)
print(json.dumps([[name, os.read(fd, 10).decode(), os.get_inheritable(fd)] for name, fd in found]
                 + [[key for key in environment if key.startswith("LISTEN")]]))
"""
TESTATOR = f"""
import os, sys
from daemon.descriptors import bequeath
held = []
for number in range(int(sys.argv[1])):
    read, write = os.pipe()
    os.write(write, str(number).encode())
    os.close(write)
    held.append((f"stream-{{number}}", read))
held.reverse()  # so that places and numbers do not agree by chance
os.execve(sys.executable, [sys.executable, "-c", {HEIR!r}], bequeath(held, os.environ))
"""


@pytest.mark.parametrize("count", [0, 1, 40])
def test_handed_on(count: int) -> None:
    done = subprocess.run([sys.executable, "-c", TESTATOR, str(count)], capture_output=True, text=True, check=True)
    expected = [[f"stream-{number}", str(number), False] for number in reversed(range(count))]
    assert json.loads(done.stdout) == [*expected, []]


@pytest.mark.parametrize("environment", [
    {}, {"LISTEN_FDS": "many"}, {"LISTEN_FDS": "-1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
])
def test_what_is_not_for_us(environment: dict[str, str]) -> None:
    copy = {**environment, "OTHER": "stays"}
    assert inherited(copy) == []
    assert copy == {"OTHER": "stays"}


def test_the_keeper_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as keeper:
        keeper.bind("notify")
        notifier = Notifier.of({}, "notify")
        read, write = os.pipe()
        os.write(write, b"through")
        notifier.store("stream-a", read)
        data, (fd,), _, _ = socket.recv_fds(keeper, 1000, 4)
        assert data.split(b"\n") == [b"FDSTORE=1", b"FDNAME=stream-a", b"FDPOLL=0"]
        assert os.read(fd, 10) == b"through"
        notifier.remove("stream-a")
        assert keeper.recv(1000) == b"FDSTOREREMOVE=1\nFDNAME=stream-a"
        for one in (read, write, fd):
            os.close(one)
    with pytest.raises(OSError, match="refused"):
        notifier.tell("READY=1")
    notifier._socket.close()  # type: ignore[union-attr]


def test_our_own_keeper_is_told_on_what_it_handed_down() -> None:
    """Whatever NOTIFY_SOCKET says: that is for whoever runs the keeper."""
    ours, handed = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    notifier = Notifier.of({"notify": handed.detach()}, "/does/not/exist")
    notifier.tell("READY=1")
    assert ours.recv(1000) == b"READY=1"
    ours.close()
    notifier._socket.close()  # type: ignore[union-attr]


def test_nobody_is_told() -> None:
    Notifier.of({}, "").tell("READY=1")

from __future__ import annotations

from typing import Any

import pytest

from daemon.control.verbs import connect, spawn
from daemon.viewers.discover import Found, Owner
from daemon.viewers.probe import Answer
from daemon.viewers.process import Executable, StartFailed, Viewer
from daemon.wire.grpc import Address
from tests.daemon.conftest import Core, opened
from tests.helpers import frames
from tests.helpers.frames import numbered, stream

ADDRESS = Address("127.0.0.1", 1)
MINE = Owner(4711, 1.0, "rerun", "me", True)


def running(kind: str = "windowed", version: tuple[int, int, int] = (0, 41, 0), port: int = 1) -> Found:
    return Found(MINE, kind, version, "/bin/rerun", (("127.0.0.1", port),))


class Machine:
    """What runs, what is installed, and what was started."""

    def __init__(self) -> None:
        self.running: list[Found] = []
        self.answers: dict[int, Answer] = {}
        self.installed = [Executable("/bin/rerun", (0, 41, 0), "PATH")]
        self.started: list[Executable] = []
        self.error: StartFailed | None = None

    async def probe(self, address: Address) -> Answer:
        return self.answers.get(address.port, Answer("none"))

    async def start(self, executable: Executable, *_: Any) -> Viewer:
        if self.error is not None:
            raise self.error
        self.started.append(executable)
        return Viewer(ADDRESS, 4712, 2.0, executable.path, executable.version, "/log")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    one = Machine()
    monkeypatch.setattr(spawn, "find", lambda: one.running)
    monkeypatch.setattr(spawn, "server_at", lambda port: next(
        (found for found in one.running if port in [number for _, number in found.ports]), None))
    monkeypatch.setattr(spawn, "probe", one.probe)
    monkeypatch.setattr(spawn, "candidates", lambda *_: one.installed)
    monkeypatch.setattr(spawn, "start", one.start)
    monkeypatch.setattr(connect, "FIRST_WORD_S", 0.05)
    return one


async def test_one_is_started(core: Core, machine: Machine) -> None:
    opened(core.hub, stream(*numbered(1, "one")))
    answer = await core.say("spawn", connect=False)
    assert (answer["sink"], answer["chose"], answer["warning"]) == (None, "what is live now and later", "")
    assert answer["viewer"] == {"pid": 4712, "version": "0.41.0", "url": ADDRESS.url, "executable": "/bin/rerun",
                                "reused": False, "log": "/log"}
    assert machine.started == machine.installed


async def test_one_that_runs_is_used_again(core: Core, machine: Machine) -> None:
    machine.running = [running("headless", port=2), running()]
    machine.answers = {1: Answer("rerun", (0, 41, 0)), 2: Answer("rerun", (0, 41, 0))}
    answer = await core.say("spawn", connect=False)
    assert (answer["viewer"]["reused"], answer["viewer"]["url"], machine.started) == (True, ADDRESS.url, [])
    assert (await core.say("spawn", connect=False, headless=True))["viewer"]["url"] == Address("127.0.0.1", 2).url
    assert (await core.say("spawn", connect=False, new=True))["viewer"]["reused"] is False


async def test_one_that_would_show_nothing_is_not(core: Core, machine: Machine) -> None:
    opened(core.hub, frames.header((0, 36, 3, 0)), *numbered(1, "one"))
    machine.running, machine.answers = [running(version=(0, 22, 1))], {1: Answer("rerun", (0, 22, 1))}
    assert (await core.say("spawn", connect=False))["viewer"]["reused"] is False
    code, message, _ = await core.refused("spawn", port=1)
    assert (code, message) == ("refused", "a viewer of version 0.22.1 does not speak gRPC and would show nothing")


async def test_ports(core: Core, machine: Machine) -> None:
    machine.running = [running("other")]
    machine.answers = {1: Answer("http")}
    code, message, _ = await core.refused("spawn", port=1)
    assert code == "refused"
    assert message.startswith("port 1 is taken by ")
    assert await core.refused("spawn", port=1, new=True) == (
        "exists", "port 1 is taken", "leave --port out, and a free one is found")
    assert await core.refused("spawn", port=70000) == (
        "usage", "spawn: port is 70000", "a port is 1 to 65535, or 0 for any free one")
    machine.answers = {}
    assert (await core.say("spawn", port=1, connect=False))["viewer"]["reused"] is False


async def test_none_can_be_started(core: Core, machine: Machine) -> None:
    machine.error = StartFailed("it died at once", "no display")
    assert await core.refused("spawn") == ("failed", "it died at once", "no display")
    machine.installed = []
    assert await core.refused("spawn") == (
        "failed", "no Rerun viewer is installed", "pip install rerun-sdk, or name one with --executable")
    machine.installed = [Executable("/bin/rerun", (0, 31, 4), "PATH")]
    assert await core.refused("spawn", headless=True) == (
        "failed", "/bin/rerun (0.31.4) cannot run headless", "0.36 and newer can: pip install -U rerun-sdk")
    assert core.daemon.sinks.sinks == {}

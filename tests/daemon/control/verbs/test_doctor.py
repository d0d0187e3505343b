from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from daemon.control.verbs import doctor
from daemon.settings import Settings
from daemon.viewers.discover import Found, Owner
from daemon.viewers.process import Executable, StartFailed
from tests.daemon.conftest import Core, ended, opened
from tests.helpers.frames import numbered, stream


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find", list)
    monkeypatch.setattr(doctor, "server_at", lambda _: None)
    monkeypatch.setattr(doctor, "candidates", lambda *_: [Executable("/bin/rerun", (0, 41, 0), "PATH")])


async def findings(core: Core) -> dict[str, tuple[str, str, str]]:
    found = (await core.say("doctor"))["findings"]
    assert all(set(one) == {"check", "level", "message", "fix"} for one in found)
    assert all(one["fix"] for one in found if one["level"] != "ok")
    return {one["check"]: (one["level"], one["message"], one["fix"]) for one in found}


async def test_all_is_well(core: Core, healthy: None) -> None:
    found = await findings(core)
    assert found["grpc"][:2] == ("ok", "off: the settings say grpc_port = -1")
    assert found["port 9876"][:2] == ("ok", "free: rrd run and viewers may have it")
    assert found["viewer"][:2] == ("ok", "rerun 0.41.0 can be spawned")
    assert found["clock"][0] == "ok"
    assert set(found) == {"grpc", "port 9876", "viewer", "web viewer", "disk", "clock"}


async def test_what_is_wrong(core: Core, healthy: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = opened(core.hub, stream(*numbered(1)), program="prog")
    one.stalled = "No space left on device: /spool"
    one.meta.started_at += 7200
    sink = (await core.say("save", path=str(tmp_path / "a.rrd")))["sink"]
    core.daemon.sinks.sinks[sink["id"]].state = "retrying"
    core.daemon.sinks.sinks[sink["id"]].last_error = "directory is gone"
    core.daemon.settings = Settings(grpc_port=-1)
    owner = Owner(4711, 1.0, "prog", "me", True)
    other = Found(owner, "other", None, "/bin/x", (("127.0.0.1", 9876),))
    monkeypatch.setattr(doctor, "server_at", lambda _: other)
    monkeypatch.setattr(doctor, "find", lambda: [Found(owner, "windowed", (0, 22, 0), "/bin/rerun", ())])

    def none(*_: object) -> list[Executable]:
        raise StartFailed("none")

    monkeypatch.setattr(doctor, "candidates", none)
    found = await findings(core)
    assert found["stream"][:2] == ("problem", "prog is held up: No space left on device: /spool")
    assert found["output"] == (
        "warning", f"{sink['id']} is retrying: directory is gone: {sink['target']}",
        f"rrd detach {sink['id']}   if it is not wanted any more")
    assert found["clock"][0] == "warning"
    assert found["viewer"] == ("problem", "no `rerun` to spawn is installed", "pip install rerun-sdk==0.41.0")
    assert found["port 9876"][:2] == ("warning", f"Rerun's own port is taken by {other.describe()}")
    assert "kill 4711" in found["port 9876"][2]
    assert found["running viewer"][:2] == (
        "warning", "pid 4711: a viewer of version 0.22.0 does not speak gRPC and would show nothing")
    monkeypatch.setattr(doctor, "candidates", lambda *_: [Executable("/bin/rerun", (0, 31, 4), "PATH")])
    assert (await findings(core))["viewer"][:2] == (
        "warning", "the newest viewer here is 0.31.4, programs log with 0.41.0")


@pytest.mark.parametrize(("free", "total", "level", "said"), [
    (900, 1000, "ok", "900.0 GB free, the spool has 2.0 of 50.0 GB, and 3.0 live"),
    (12, 1000, "warning", "12.0 GB free, the spool has 2.0 of 50.0 GB, and 3.0 live"),
    (9, 1000, "problem", "9.0 GB free, the spool has 2.0 of 50.0 GB, and 3.0 live: less than 10.0 GB are free"),
    (9, 20, "ok", "9.0 GB free, the spool has 2.0 of 50.0 GB, and 3.0 live"),
    (0.9, 20, "problem", "0.9 GB free, the spool has 2.0 of 50.0 GB, and 3.0 live: less than 1.0 GB are free"),
])
async def test_the_disk(core: Core, healthy: None, monkeypatch: pytest.MonkeyPatch, free: float, total: int, level: str,
                        said: str) -> None:
    """As retention has it: what is live does not count, and a small disk is not asked for more than it has."""
    core.daemon.settings = Settings(grpc_port=-1, spool_max_bytes=50 * 10**9, spool_min_free_bytes=10 * 10**9)
    before = await ended(core.hub, stream(*numbered(1, "before")))
    now = opened(core.hub, stream(*numbered(1, "now")))
    before.size, now.size = 2 * 10**9, 3 * 10**9
    usage = SimpleNamespace(total=total * 10**9, free=int(free * 10**9))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert (await findings(core))["disk"][:2] == (level, said)

from __future__ import annotations

import pytest

from daemon.control.verbs import ls
from tests.daemon.conftest import Core, ended, opened
from tests.helpers.frames import numbered, stream


async def test_what_is_said_of_each(core: Core) -> None:
    one = await ended(core.hub, stream(*numbered(2, "rec-a")), kind="shim", program="prog.py")
    two = opened(core.hub, stream(*numbered(1, "rec-a")))
    first = opened(core.hub, stream(*numbered(1, "rec-b")))
    first.meta.started_at = two.meta.started_at + 1
    first.meta.error, two.stalled = "odd bytes", "disk full"
    shared, other = (await core.say("ls"))["recordings"]
    assert shared == {
        "recording_id": "rec-a", "application_id": "app", "state": "live", "messages": 5,
        "bytes": one.data_end + two.data_end - 24, "started_at": one.started_at, "ended_at": None,
        "sdk_version": "0.41.0", "streams": [one.id, two.id], "program": two.program,
        "paths": [str(one.path), str(two.path)], "error": "disk full",
    }
    assert (other["recording_id"], other["state"], other["error"]) == ("rec-b", "live", "odd bytes")
    core.hub.end_stream(first, "test")
    assert await core.say("ls") == await core.say("ls", after=0.0)


async def test_in_parts(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ls, "AT_ONCE", 2)
    for number in range(5):
        opened(core.hub, stream(*numbered(1, f"rec-{number}")))
    found, after = [], 0
    while True:
        answer = await core.say("ls", after=after)
        found.append([one["recording_id"] for one in answer["recordings"]])
        if "more" not in answer:
            break
        after = answer["more"]
    assert [len(part) for part in found] == [2, 2, 1]
    assert sorted(name for part in found for name in part) == [f"rec-{number}" for number in range(5)]
    assert (await core.refused("ls", after="x"))[:2] == ("usage", "ls: after must be a number, found 'x'")

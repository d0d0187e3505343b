from __future__ import annotations

import os
from pathlib import Path

from daemon import __version__
from daemon.wire.control import PROTOCOL
from tests.daemon.conftest import Core, ended, opened
from tests.helpers import frames
from tests.helpers.frames import numbered, stream


async def test_everything_as_it_is_now(core: Core, tmp_path: Path) -> None:
    done = await ended(core.hub, stream(*numbered(2, "done")))
    live = opened(core.hub, stream(*numbered(1, "live")), kind="shim", pid=os.getpid(), program="prog")
    full = opened(core.hub)
    full.stalled = "No space left on device"
    await core.hub.open_file(frames.write(tmp_path / "a.rrd", stream(*numbered(1))))
    sink = (await core.say("save", path=str(tmp_path / "out.rrd"), source=["live"]))["sink"]
    found = await core.say("status")
    daemon = found["daemon"]
    assert (daemon["pid"], daemon["version"], daemon["protocol"]) == (os.getpid(), __version__, PROTOCOL)
    assert daemon["spool"] == str(core.hub.directory)
    assert daemon["spool_bytes"] == done.size + live.size  # files in place are not the spool's
    assert daemon["rss_bytes"] > 1 << 20
    assert daemon["uptime_s"] >= 0
    assert daemon["spool_free_bytes"] > 0
    assert (daemon["grpc_url"], daemon["grpc_error"]) == ("", "")
    shown, stalled = found["streams"]
    assert shown == {
        "id": live.id, "kind": "shim", "state": "live",
        "recordings": [{"application_id": "app", "recording_id": "live"}], "pid": os.getpid(), "program": "prog",
        "sdk_version": "0.41.0", "messages": 2, "bytes": live.committed, "started_at": live.started_at, "error": "",
        "dropped_bytes": 0, "log": str(live.path),
    }
    assert (stalled["state"], stalled["error"]) == ("stalled", "No space left on device")
    assert [one["id"] for one in found["sinks"]] == [sink["id"]]

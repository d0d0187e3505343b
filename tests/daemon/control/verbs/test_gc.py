from __future__ import annotations

from pathlib import Path

from daemon.settings import Settings
from tests.daemon.conftest import Core, ended, opened
from tests.helpers.frames import numbered, stream


async def test_the_oldest_go(core: Core, tmp_path: Path) -> None:
    ages = [await ended(core.hub, stream(*numbered(20, f"rec-{number}"))) for number in range(4)]
    live = opened(core.hub, stream(*numbered(200, "live")))
    assert await core.say("gc") == {"streams": [], "recordings": [], "bytes": 0}
    second = (await core.say("save", path=str(tmp_path / "a.rrd"), source=["rec-1", "live"]))["sink"]
    core.daemon.settings = Settings(spool_max_bytes=ages[3].size + ages[1].size, spool_min_free_bytes=0)
    expected = [ages[0].id, ages[2].id]
    tried = await core.say("gc", dry_run=True)
    assert (tried["streams"], tried["recordings"]) == (expected, ["app/rec-0", "app/rec-2"])
    assert len(core.hub.streams) == 5
    done = await core.say("gc")
    assert done["streams"] == expected
    assert done["bytes"] >= ages[0].size + ages[2].size
    assert set(core.hub.streams) == {ages[1].id, ages[3].id, live.id}
    await core.say("detach", sink=second["id"])
    assert (await core.refused("gc", dry_run="yes"))[:2] == ("usage", "gc: dry_run must be true or false, found 'yes'")

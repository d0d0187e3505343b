from __future__ import annotations

from tests.daemon.conftest import Core, ended, opened
from tests.helpers.frames import numbered, stream


async def test_what_a_selector_means(core: Core) -> None:
    one = await ended(core.hub, stream(*numbered(2, "one")))
    two = opened(core.hub, stream(*numbered(1, "two")))
    assert await core.say("attach") == {"chose": "the live recording app/two", "streams": [two.id]}
    assert await core.say("attach", source=["one"]) == {"chose": "app/one", "streams": [one.id]}
    assert await core.say("attach", source=["@all"]) == {"chose": "app/one, app/two", "streams": [one.id, two.id]}
    assert core.daemon.sinks.sinks == {}


async def test_nothing_fits(core: Core) -> None:
    assert await core.refused("attach", stream="x") == (
        "not-found", "no such stream: x", "rrd status lists the streams")

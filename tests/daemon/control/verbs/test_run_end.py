from __future__ import annotations

from tests.daemon.conftest import Core


async def test_before_and_after_the_run_is_known(core: Core) -> None:
    known = core.daemon.runs.begin("t1", 1)
    assert await core.say("run_end", token="t1", saved=["/x/a.rrd"]) == {}
    assert (known.ended.is_set(), known.saved) == (True, ["/x/a.rrd"])
    await core.say("run_end", token="t2", saved=["/x/b.rrd"])
    late = core.daemon.runs.begin("t2", 1)
    assert (late.ended.is_set(), late.saved) == (True, ["/x/b.rrd"])
    assert not core.daemon.runs.begin("t3", 1).ended.is_set()


async def test_what_it_is_asked_wrongly(core: Core) -> None:
    assert (await core.refused("run_end"))[:2] == ("usage", "run_end: token must be a text, found None")
    assert (await core.refused("run_end", token="t", saved="/x"))[:2] == (
        "usage", "run_end: saved must be a list of texts, found '/x'")

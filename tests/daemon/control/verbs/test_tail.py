from __future__ import annotations

import pytest
import trio
import trio.testing

from daemon.control.verbs import tail
from tests.daemon.conftest import Core, ended, opened
from tests.helpers.frames import numbered, store_id, stream


async def test_where_the_logs_are(core: Core) -> None:
    one = await ended(core.hub, stream(*numbered(2, "one")))
    both = opened(core.hub, stream(*numbered(1, "two"), *numbered(1, "other")))
    answer = await core.say("tail", source=["one", "two"])
    assert answer == {"chose": "app/one, app/two", "logs": [
        {"stream": one.id, "path": str(one.path), "live": False, "whole": True, "stores": []},
        {"stream": both.id, "path": str(both.path), "live": True, "whole": False, "stores": [store_id("two", "app")]},
    ]}
    assert [log["stream"] for log in (await core.say("tail", stream=both.id))["logs"]] == [both.id]
    assert await core.say("attach", stream=both.id) == {"chose": both.id, "streams": [both.id]}


async def test_waiting_for_the_end(core: Core) -> None:
    one = opened(core.hub, stream(*numbered(2, "one")))
    answers: list[bool] = []

    async def wait() -> None:
        answers.append((await core.say("tail", wait=True))["logs"][0]["live"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert answers == []
        core.hub.end_stream(one, "test")
    assert answers == [False]


async def test_who_waits_is_told_that_the_daemon_lives(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "ALIVE_S", 0.01)
    with trio.move_on_after(1.0):
        await core.say("tail", source=["@live"], first=True)
    assert core.client.progress[:3] == [{"waiting": True}] * 3


async def test_waiting_for_the_first(core: Core) -> None:
    """It is told even if it has ended before anybody looked."""
    answers: list[list[str]] = []

    async def wait() -> None:
        answers.append([log["stream"] for log in (await core.say("tail", source=["@live"], first=True))["logs"]])

    await ended(core.hub, stream(*numbered(1, "before")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert answers == []
        one = opened(core.hub, stream(*numbered(2, "one")))
        core.hub.end_stream(one, "test")
    assert answers == [[one.id]]
    assert (await core.say("tail", source=["@live"]))["logs"] == []


async def test_more_than_one_answer_holds(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "MOST", 10)
    for number in range(11):
        await ended(core.hub, stream(*numbered(1, f"rec-{number:02}")))
    assert await core.refused("tail", source=["@all"]) == (
        "refused", "11 logs are meant, at most 10 can be read at once",
        "name fewer recordings, or rrd save them as one file")
    assert (await core.say("attach", source=["@all"]))["chose"].endswith("app/rec-06, app/rec-07 and 3 more")


async def test_nothing_fits(core: Core) -> None:
    for verb in ("tail", "attach"):
        assert (await core.refused(verb))[:2] == ("not-found", "there is no recording yet")
        assert await core.refused(verb, source=["x"]) == (
            "not-found", "no recording, application or file is called x", "there is no recording yet")

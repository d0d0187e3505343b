from __future__ import annotations

import trio

from tests.daemon.conftest import Core, ended, opened
from tests.helpers.frames import numbered, stream


async def test_nobody_streams(core: Core) -> None:
    await ended(core.hub, stream(*numbered(2, "done")))
    assert await core.say("stop") == {}
    with trio.fail_after(30):
        await core.ended.wait()
    assert core.status == 0
    assert core.keeper.told[-1] == "STOPPING=1"


async def test_programs_stream(core: Core) -> None:
    for number in range(7):
        opened(core.hub, stream(*numbered(1)), pid=100 + number, program=f"prog-{number}" if number else "")
    code, message, hint = await core.refused("stop")
    assert (code, message) == (
        "refused", "7 programs are streaming: stdin (pid 100), prog-1 (pid 101), prog-2 (pid 102), prog-3 (pid 103), "
        "prog-4 (pid 104)")
    assert hint.startswith("rrd daemon restart loses nothing; rrd daemon stop --force")
    assert not core.ended.is_set()
    assert (await core.refused("stop", force=1))[:2] == ("usage", "stop: force must be true or false, found 1")
    await core.say("stop", force=True)
    with trio.fail_after(30):
        await core.ended.wait()
    assert core.status == 0


async def test_one_program_streams(core: Core) -> None:
    opened(core.hub, pid=100, program="prog")
    assert (await core.refused("stop"))[1] == "1 program is streaming: prog (pid 100)"

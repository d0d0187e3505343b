from __future__ import annotations

import os

import trio

from tests.daemon.conftest import Core, opened, real
from tests.helpers.frames import stream

DATA = stream(*real(range(3)))


async def test_what_is_in_the_pipe_is_in_the_log(core: Core) -> None:
    read, write = os.pipe()
    name = (await core.say("open", kind="stdin", fds=[read]))["stream"]
    os.write(write, DATA)  # and the pipe stays open: a forked child may have it
    with trio.fail_after(30):
        answer = await core.say("close", stream=name)
    one = core.hub.streams[name]
    assert answer == {"messages": 4, "bytes": one.path.stat().st_size}
    assert (one.complete, one.meta.reason) == (True, "closed by the program")
    assert one.path.read_bytes().startswith(DATA)
    assert await core.say("close", stream=name) == answer  # twice is harmless
    os.close(write)


async def test_one_whose_pipe_is_gone(core: Core) -> None:
    one = opened(core.hub, DATA)
    assert (await core.say("close", stream=one.id))["messages"] == 4


async def test_what_cannot_be_closed(core: Core) -> None:
    one = opened(core.hub, DATA, kind="grpc")
    assert (await core.refused("close", stream=one.id))[:2] == (
        "refused", f"stream {one.id} comes over gRPC: it ends with its program's connection")
    assert not one.ended
    assert await core.refused("close", stream="x") == (
        "not-found", "no such stream: x", "rrd status lists the streams")
    assert (await core.refused("close"))[:2] == ("usage", "close: stream must be a text, found None")

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from tests.daemon.conftest import Core, ended, opened, real
from tests.helpers.frames import stream

DATA = stream(*real(range(3)))


async def opened_pipe(core: Core) -> tuple[str, int]:
    """A stream that comes through a pipe, and the pipe's other end."""
    read, write = os.pipe()
    return (await core.say("open", kind="stdin", fds=[read]))["stream"], write


async def test_what_was_in_the_pipes_is_in_the_logs(core: Core) -> None:
    name, write = await opened_pipe(core)
    other = opened(core.hub, DATA)
    os.write(write, DATA)
    assert await core.say("sync") == {"messages": 4, "bytes": len(DATA)}
    assert core.hub.streams[name].path.read_bytes() == DATA
    # None of them, which is not all of them.
    assert await core.say("sync", streams=[]) == {"messages": 0, "bytes": 0}
    assert await core.say("sync", streams=[name, other.id]) == {"messages": 8, "bytes": 2 * len(DATA)}
    os.close(write)


async def test_nobodys_stream(core: Core) -> None:
    assert await core.say("sync") == {"messages": 0, "bytes": 0}
    assert await core.refused("sync", streams=["x"]) == (
        "not-found", "no such stream: x", "rrd status lists the streams")
    assert (await core.refused("sync", streams="x"))[:2] == (
        "usage", "sync: streams must be a list of texts, found 'x'")


async def test_a_full_spool_is_told(core: Core) -> None:
    one = opened(core.hub, DATA)
    one.stalled = "No space left on device: /spool"
    assert await core.refused("sync", streams=[one.id]) == (
        "failed", "the spool cannot take more: No space left on device: /spool", "rrd gc frees space")


async def test_durable_waits_for_the_files(core: Core, tmp_path: Path) -> None:
    name, write = await opened_pipe(core)
    os.write(write, DATA[:-40])
    out = tmp_path / "a.rrd"
    await core.say("save", path=str(out), stream=name, copy=True)
    os.write(write, DATA[-40:])
    with trio.fail_after(30):
        await core.say("sync", durable=True)
    assert out.read_bytes() == DATA
    os.close(write)


async def test_durable_and_a_file_that_has_trouble(
    core: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, write = await opened_pipe(core)
    out = tmp_path / "a.rrd"
    await core.say("save", path=str(out), stream=name, copy=True)
    out.rename(tmp_path / "elsewhere")
    os.write(write, DATA)
    with trio.fail_after(30):
        code, message, hint = await core.refused("sync", durable=True)
    assert (code, hint) == ("failed", "rrd status shows every output")
    # Whichever of the two that look at it is first.
    assert message in (f"{out}: file was removed by somebody: {out}", f"{out}: No such file or directory: {out}")
    assert core.hub.streams[name].path.read_bytes() == DATA
    await ended(core.hub, DATA)
    os.close(write)

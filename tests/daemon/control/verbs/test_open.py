from __future__ import annotations

import os
import pty
from pathlib import Path

import trio

from daemon.keeper import EXIT_RESTART
from tests.daemon.conftest import Asker, Core, completed, ended, make_hub, opened, real
from tests.helpers.frames import stream

DATA = stream(*real(range(3)))


async def test_a_stream_begins(core: Core) -> None:
    read, write = os.pipe()
    answer = await core.say("open", kind="stdin", application_id="app", recording_id="rec", sdk="0.41.0",
                            program="/usr/bin/prog.py", fds=[read])
    one = core.hub.streams[answer["stream"]]
    assert answer == {"stream": one.id, "log": str(one.path)}
    assert (one.kind, one.program, one.meta.sdk) == ("stdin", "prog.py", "0.41.0")
    assert list(one.recordings) == [("app", "rec")]
    assert core.client.streams == {one.id}
    os.write(write, DATA)
    os.close(write)
    await completed(core.hub, one)
    assert one.path.read_bytes().startswith(DATA)
    with trio.fail_after(30):
        while not core.client.got:
            await trio.lowlevel.checkpoint()
    assert core.client.got == [{"event": "ended", "data": {"stream": one.id, "reason": one.meta.reason, "error": ""}}]
    assert core.client.streams == set()


async def test_what_can_be_read_from(core: Core, tmp_path: Path) -> None:
    assert (await core.refused("open"))[:2] == ("usage", "open: needs one descriptor to read from, 0 came")
    assert (await core.refused("open", kind="grpc"))[:2] == (
        "usage", "open: kind must be one of shim, stdin, found 'grpc'")
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        assert await core.refused("open", fds=[directory]) == (
            "refused", "standard input is a directory", "redirect an .rrd stream into it")
    finally:
        os.close(directory)
    master, terminal = pty.openpty()
    try:
        assert await core.refused("open", fds=[terminal]) == (
            "refused", "standard input is a terminal", "pipe an .rrd stream into it")
    finally:
        os.close(master)
        os.close(terminal)
    assert core.hub.streams == {}


async def test_a_spool_whose_name_cannot_be_said(core: Core, tmp_path: Path) -> None:
    """The answer could not name the log: no program is left waiting for one."""
    core.hub.directory = tmp_path / os.fsdecode(b"st\xe9")
    read, write = os.pipe()
    assert await core.refused("open", fds=[read]) == (
        "failed", f"the spool's name is not UTF-8: {tmp_path}/st\ufffd",
        "set XDG_STATE_HOME to a directory whose name is")
    assert core.hub.streams == {}
    os.close(read)
    os.close(write)


async def test_a_spool_that_cannot_be_written_to(core: Core) -> None:
    core.hub.directory.rmdir()
    read, write = os.pipe()
    assert await core.refused("open", fds=[read]) == (
        "failed", f"cannot write to the spool: No such file or directory: {core.hub.directory}",
        "rrd gc frees what may go")
    os.close(read)
    os.close(write)
    core.hub.directory.mkdir()


async def test_going_on_with_one(core: Core) -> None:
    """Its daemon and keeper had both died: the program has the pipe still, and brings it again."""
    one = opened(core.hub, DATA[:100])
    one.close()
    read, write = os.pipe()
    os.write(write, DATA[100:])
    assert (await core.say("open", stream=one.id, fds=[read]))["stream"] == one.id
    assert await core.say("sync", streams=[one.id]) == {"messages": 4, "bytes": len(DATA)}
    # The keeper held it: nothing is taken, but whoever asks is its owner now.
    again, unused = os.pipe()
    core.client = Asker()
    assert (await core.say("open", stream=one.id, fds=[again]))["stream"] == one.id
    assert core.client.streams == {one.id}
    for fd in (write, again, unused):
        os.close(fd)


async def test_going_on_with_one_that_has_ended(core: Core) -> None:
    one = await ended(core.hub, DATA)
    read, write = os.pipe()
    assert await core.refused("open", stream=one.id, fds=[read]) == (
        "not-found", f"stream {one.id} has ended: test", "open a new one")
    assert (await core.refused("open", stream="x", fds=[read]))[:2] == ("not-found", "no such stream: x")
    os.close(read)
    os.close(write)


async def test_streams_go_on_over_a_restart(core: Core) -> None:
    read, write = os.pipe()
    name = (await core.say("open", kind="stdin", fds=[read]))["stream"]
    await core.say("restart")
    with trio.fail_after(30):
        await core.ended.wait()
    assert core.status == EXIT_RESTART
    assert "FDSTORE=1" in core.keeper.told
    assert "FDSTOREREMOVE=1" not in core.keeper.told  # the keeper has it for the next daemon
    again = make_hub(core.hub.directory)
    again.load()
    assert [one.id for one in again.unfinished()] == [name]
    os.close(write)

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from daemon.control.verbs import forget
from tests.daemon.conftest import Core, ended, opened, real
from tests.helpers import frames
from tests.helpers.frames import numbered, stream

WAIT = "wait until its program has ended"


async def test_by_name(core: Core) -> None:
    one, two = [await ended(core.hub, stream(*numbered(2, name))) for name in ("rec-a", "rec-b")]
    tried = await core.say("forget", source=["rec-a"], dry_run=True)
    assert (tried["recordings"], tried["streams"], one.path.exists()) == (["app/rec-a"], [one.id], True)
    done = await core.say("forget", source=["rec-a"])
    assert done == tried | {"bytes": done["bytes"]}
    assert list(core.hub.streams) == [two.id]
    assert not one.path.exists()


async def test_more_than_one_answer_holds(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes that the answer does not name; what is left is said to be."""
    monkeypatch.setattr(forget, "AT_ONCE", 2)
    names = [(await ended(core.hub, stream(*numbered(1, f"rec-{number}")))).id for number in range(5)]
    tried = [await core.say("forget", ended=True, dry_run=True, after=after) for after in (0, 2, 4)]
    assert [(answer["streams"], answer.get("more")) for answer in tried] == [
        (names[:2], 2), (names[2:4], 4), (names[4:], None)]
    done = [await core.say("forget", ended=True, after=0) for _ in range(3)]
    assert [(answer["streams"], answer.get("more")) for answer in done] == [
        (names[:2], 0), (names[2:4], 0), (names[4:], None)]
    assert core.hub.streams == {}


async def test_a_stream_by_its_id(core: Core) -> None:
    """Also one that holds no recording."""
    one = await ended(core.hub, stream(*numbered(2, "rec-a"), *numbered(2, "rec-b")))
    empty = await ended(core.hub)
    done = await core.say("forget", source=[f"stream:{one.id}", f"stream:{empty.id}"])
    assert (done["recordings"], set(done["streams"])) == (["app/rec-a", "app/rec-b"], {one.id, empty.id})
    assert core.hub.streams == {}
    assert await core.refused("forget", source=[f"stream:{one.id}"]) == (
        "not-found", f"no such stream: {one.id}", "rrd status lists the streams")


async def test_what_cannot_go_is_named(core: Core, tmp_path: Path) -> None:
    live, silent = opened(core.hub, stream(*numbered(1, "live"))), opened(core.hub)
    both = await ended(core.hub, stream(*numbered(1, "one"), *numbered(1, "two")))
    assert await core.refused("forget", source=["live"]) == ("refused", "still live: app/live", WAIT)
    for one in (live, silent):
        assert await core.refused("forget", source=[f"stream:{one.id}"]) == ("refused", f"still live: {one.id}", WAIT)
    assert await core.refused("forget", source=["one"]) == (
        "refused", f"stream {both.id} holds other recordings too: app/two", f"name them too, or say stream:{both.id}")
    found = await core.hub.open_file(frames.write(tmp_path / "a.rrd", stream(*real((1,)))))
    assert (await core.refused("forget", source=[found.id]))[:2] == ("refused", f"not in the spool: {found.path}")
    assert (await core.refused("forget", source=["nobody"]))[0] == "not-found"
    assert (await core.refused("forget"))[:2] == (
        "usage", "forget: name recordings, or say --ended or --older-than")
    assert len(core.hub.streams) == 4
    assert (await core.say("forget", source=["one", "two"]))["streams"] == [both.id]


async def test_what_is_being_read_stays(core: Core, tmp_path: Path) -> None:
    one = await ended(core.hub, stream(*numbered(1, "one")))
    opened(core.hub, stream(*numbered(1, "one")))
    sink = (await core.say("save", path=str(tmp_path / "a.rrd"), source=["one"]))["sink"]
    assert await core.refused("forget", source=[f"stream:{one.id}"]) == (
        "refused", f"sink {sink['id']} still reads it: {tmp_path / 'a.rrd'}", f"rrd detach {sink['id']}")
    assert (await core.say("forget", ended=True))["streams"] == []


async def test_what_the_disk_keeps(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = [await ended(core.hub, stream(*numbered(2, name))) for name in ("rec-a", "rec-b")]
    unlink = Path.unlink

    def keeps(path: Path, missing_ok: bool = False) -> None:
        if path == one.path:
            raise PermissionError(1, "Operation not permitted", os.fspath(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", keeps)
    assert await core.refused("forget", ended=True) == (
        "failed", f"cannot remove stream {one.id}: Operation not permitted: {one.path}", "the others were removed")
    assert (one.id in core.hub.streams, two.id in core.hub.streams) == (True, False)
    assert one.path.exists()


async def test_by_age(core: Core) -> None:
    old, new = [await ended(core.hub, stream(*numbered(1, name))) for name in ("old", "new")]
    opened(core.hub, stream(*numbered(1, "live")))
    old.meta.ended_at = time.time() - 3600
    assert (await core.say("forget", older_than_s=60.0))["streams"] == [old.id]
    assert (await core.say("forget", ended=True))["streams"] == [new.id]
    assert (await core.say("forget", ended=True))["streams"] == []
    assert [one.recordings.keys() for one in core.hub.streams.values()] == [{("app", "live")}]

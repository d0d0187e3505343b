from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from daemon.selection import Selection, default_recording, recordings_of, resolve
from daemon.spool.log import Meta, Readers
from daemon.spool.scanner import Frame
from daemon.stream import RecordingKey, Stream
from daemon.wire.control import VerbError
from daemon.wire.logmsg import BLUEPRINT
from daemon.wire.rrd import Kind
from tests.helpers import frames


def made(name: str, *stores: tuple[str, str] | tuple[str, str, int], at: float = 0.0, live: bool = False,
         kind: str = "shim") -> Stream:
    """A stream with one message of each store, (recording, application[, kind])."""
    meta = Meta(name, kind, started_at=at, ended_at=None if live else at + 1)
    stream = Stream(meta, Path("/nowhere"), Readers())
    stream.ended = stream.complete = not live
    raws = [frames.store_id(*store) for store in stores]
    stream.note((Frame(Kind.ARROW, 0, 100, raw) for raw in raws), -1)
    return stream


def by_id(*streams: Stream) -> dict[str, Stream]:
    return {stream.id: stream for stream in streams}


ONE = made("s1", ("run-1", "robot"), at=1)
TWO = made("s2", ("run-2", "robot"), at=2)
THREE = made("s3", ("abcdef", "camera"), ("abcxyz", "camera"), ("bp", "camera", BLUEPRINT), at=3, live=True)
AGAIN = made("s4", ("run-1", "robot"), at=4)
FILE = made("file:/data/x.rrd", ("run-9", "elsewhere"), kind="file", at=9)
ALL = by_id(ONE, TWO, THREE, AGAIN, FILE)

RUN_1, RUN_2 = RecordingKey("robot", "run-1"), RecordingKey("robot", "run-2")
ABCDEF, ABCXYZ = RecordingKey("camera", "abcdef"), RecordingKey("camera", "abcxyz")


@pytest.mark.parametrize(("terms", "keys"), [
    (["run-1"], {RUN_1}),
    (["run-2"], {RUN_2}),
    (["robot"], {RUN_1, RUN_2}),
    (["camera"], {ABCDEF, ABCXYZ}),
    (["abcd"], {ABCDEF}),
    (["robot/run-2"], {RUN_2}),
    (["abcx", "run-2"], {ABCXYZ, RUN_2}),
    (["@latest"], {RUN_1}),
    (["@all"], {RUN_1, RUN_2, ABCDEF, ABCXYZ}),
])
def test_names(terms: list[str], keys: set[RecordingKey]) -> None:
    selection = resolve(terms, ALL, 10.0)
    assert selection.recordings == keys
    assert not selection.open_ended
    assert selection.text == " ".join(terms)


def test_a_run_is_all_its_streams_now_and_later() -> None:
    first, later, other = (made(name, (name, "app")) for name in ("first", "later", "other"))
    first.meta.run, other.meta.run = "t0ken", "another"
    selection = resolve(["run:t0ken"], by_id(first, other), 10.0)
    assert selection.open_ended
    assert (selection.whole(first), selection.takes(other)) == (True, False)
    later.meta.run = "t0ken"
    assert Selection.from_json(json.loads(json.dumps(selection.to_json()))).takes(later)
    assert not resolve(["run:"], by_id(ONE), 10.0).takes(ONE)


def test_a_recording_within_a_run_is_what_that_run_logged_of_it() -> None:
    mine, before, more = (made(name, ("same", "app")) for name in ("mine", "before", "more"))
    both = made("both", ("same", "app"), ("else", "app"))
    for stream in (mine, both):
        stream.meta.run = "t0ken"
    before.meta.run = "another"
    selection = Selection("app/same", frozenset([RecordingKey("app", "same")]), within="t0ken")
    selection = Selection.from_json(json.loads(json.dumps(selection.to_json())))
    assert [one.id for one in (mine, before, more, both) if selection.takes(one)] == ["mine", "both"]
    assert [one.id for one in (mine, before, more, both) if selection.whole(one)] == ["mine"]
    assert selection.stores(both) == {frames.store_id("same", "app")}
    assert not selection.open_ended


@pytest.mark.parametrize(("terms", "code", "message"), [
    ([], "usage", "no recording was named"),
    (["abc"], "ambiguous", "2 recordings are meant by abc: camera/abcdef, camera/abcxyz"),
    (["run"], "ambiguous", "robot/run-1, robot/run-2"),
    (["nothing"], "not-found", "no recording, application or file is called nothing"),
    (["@newest"], "usage", "unknown selector @newest"),
    (["stream:s9"], "not-found", "no such stream: s9"),
    (["file:/data/y.rrd"], "not-found", "no such stream"),
    (["elsewhere"], "not-found", "is called elsewhere"),
])
def test_what_does_not_fit(terms: list[str], code: str, message: str) -> None:
    with pytest.raises(VerbError, match=message) as caught:
        resolve(terms, ALL, 10.0)
    assert caught.value.code == code
    assert caught.value.hint


def test_what_there_is_is_said_newest_first() -> None:
    with pytest.raises(VerbError) as caught:
        resolve(["nothing"], ALL, 10.0)
    assert caught.value.hint.startswith("newest first there are: robot/run-1, camera/")
    many = by_id(*(made(f"s{n}", (f"rec-{n}", "app"), at=n) for n in range(30)))
    with pytest.raises(VerbError, match="and 22 more"):
        resolve(["rec"], many, 10.0)


@pytest.mark.parametrize("term", ["@latest", "@all", "name"])
def test_an_empty_spool(term: str) -> None:
    with pytest.raises(VerbError) as caught:
        resolve([term], {}, 10.0)
    assert caught.value.code == "not-found"


def test_hundreds_of_names_are_found_as_quickly_as_one() -> None:
    streams = by_id(*(made(f"s{n}", (f"rec-{n}", "app"), at=n) for n in range(2000)))
    took = []
    for count in (1, 500):
        began = time.process_time()
        assert len(resolve([f"app/rec-{n}" for n in range(count)], streams, 0.0).recordings) == count
        took.append(time.process_time() - began)
    assert took[1] < 5 * took[0], "a search for each takes 30 times as long, and holds up every program meanwhile"


def test_an_id_before_a_prefix_and_an_id_before_an_application() -> None:
    streams = by_id(made("a", ("run", "robot")), made("b", ("run-2", "run")), made("c", ("run-23", "x")))
    assert resolve(["run"], streams, 0.0).recordings == {RecordingKey("robot", "run")}
    assert resolve(["run-2"], streams, 0.0).recordings == {RecordingKey("run", "run-2")}
    same = by_id(made("a", ("run", "robot")), made("b", ("run", "camera")))
    with pytest.raises(VerbError, match="2 recordings are meant by run"):
        resolve(["run"], same, 0.0)
    assert resolve(["camera/run"], same, 0.0).recordings == {RecordingKey("camera", "run")}


def test_streams_and_files() -> None:
    selection = resolve(["stream:s3", "file:/data/x.rrd"], ALL, 0.0)
    assert selection.streams == {"s3", "file:/data/x.rrd"}
    assert [stream.id for stream in ALL.values() if selection.takes(stream)] == ["s3", "file:/data/x.rrd"]
    assert all(selection.whole(ALL[name]) and selection.stores(ALL[name]) is None for name in selection.streams)
    named = Selection("run-9", frozenset([RecordingKey("elsewhere", "run-9")]))
    assert not named.whole(FILE), "who is fed with a recording is not fed with a file that has it, too"


def test_live_is_what_had_not_ended_then() -> None:
    selection = resolve(["@live"], ALL, 2.5)
    assert selection.open_ended
    taken = [stream.id for stream in ALL.values() if selection.takes(stream)]
    assert taken == ["s2", "s3", "s4"]  # s2 ended at 3, and files are nobody's streams
    assert resolve(["@live", "run-1"], ALL, 100.0).takes(ONE)


class TestStores:
    def test_part_of_a_stream(self) -> None:
        selection = resolve(["abcdef"], ALL, 0.0)
        assert selection.takes(THREE)
        assert not selection.whole(THREE)
        blueprint = frames.store_id("bp", "camera", BLUEPRINT)
        assert selection.stores(THREE) == {frames.store_id("abcdef", "camera"), blueprint}

    def test_another_applications_blueprint_stays_away(self) -> None:
        stream = made("s", ("a", "one"), ("b", "two"), ("bp", "two", BLUEPRINT))
        assert resolve(["a"], by_id(stream), 0.0).stores(stream) == {frames.store_id("a", "one")}

    def test_all_recordings_of_a_stream_are_all_of_it(self) -> None:
        selection = resolve(["abcdef", "abcxyz"], ALL, 0.0)
        assert selection.whole(THREE)
        assert selection.stores(THREE) is None

    def test_a_store_that_appears_later(self) -> None:
        stream = made("s", ("a", "app"), live=True)
        selection = resolve(["a"], by_id(stream), 0.0)
        assert selection.stores(stream) is None
        stream.note(iter([Frame(Kind.ARROW, 0, 1, frames.store_id("b", "app"))]), -1)
        assert selection.stores(stream) == {frames.store_id("a", "app")}

    def test_a_stream_that_nobody_has_read(self) -> None:
        """What its program said of it counts until then."""
        stream = Stream(Meta("s", "shim", "app", "rec"), Path("/nowhere"), Readers())
        assert resolve(["rec"], by_id(stream), 0.0).takes(stream)


@pytest.mark.parametrize("terms", [["@live"], ["@all"], ["run-1", "stream:s3"], ["file:/data/x.rrd"]])
def test_what_is_kept_is_what_was_meant(terms: list[str]) -> None:
    selection = resolve(terms, ALL, 5.0)
    again = Selection.from_json(json.loads(json.dumps(selection.to_json())))
    assert again == selection
    assert [again.stores(stream) for stream in ALL.values()] == [selection.stores(stream) for stream in ALL.values()]


@pytest.mark.parametrize("damage", [
    {}, {"text": "x"}, {"text": "x", "recordings": 3, "streams": [], "live_since": None},
])
def test_damaged(damage: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError)):
        Selection.from_json(damage)


class TestRecordings:
    def test_of_several_streams(self) -> None:
        found = {one.key: one for one in recordings_of(ALL.values())}
        assert set(found) == {RUN_1, RUN_2, ABCDEF, ABCXYZ}
        one = found[RUN_1]
        assert one.streams == (ONE, AGAIN)
        assert (one.messages, one.bytes) == (2, 232)
        assert (one.started_at, one.newest_at, one.ended_at, one.live) == (1, 4, 5, False)
        assert one.label == "robot/run-1"
        assert found[ABCDEF].live
        assert found[ABCDEF].ended_at is None

    def test_newest_last(self) -> None:
        assert recordings_of(ALL.values())[-1].key == RUN_1

    def test_nameless_applications(self) -> None:
        (one,) = recordings_of([made("s", ("rec", ""))])
        assert one.label == "?/rec"


def chosen(*streams: Stream) -> tuple[RecordingKey, str]:
    recording, words = default_recording(recordings_of(streams))
    return recording.key, words


def test_the_default() -> None:
    live = made("l", ("live", "app"), at=0, live=True)
    assert chosen(ONE, TWO) == (RUN_2, "the newest recording robot/run-2")
    assert chosen(ONE, live, TWO) == (RecordingKey("app", "live"), "the live recording app/live")
    with pytest.raises(VerbError, match="2 recordings are live: app/live, app/other") as caught:
        chosen(live, made("m", ("other", "app"), live=True))
    assert caught.value.code == "ambiguous"
    with pytest.raises(VerbError, match="no recording yet"):
        chosen()


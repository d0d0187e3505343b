"""Describing files, sound and damaged."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from daemon.spool.info import describe
from daemon.spool.recovery import recover
from daemon.spool.walk import BIG, FormatError
from daemon.wire.footer import FooterBuilder
from tests.helpers.chunks import SAMPLES, chunk, store_id, store_info, stream
from tests.helpers.damage import Case, cases
from tests.helpers.footers import rebuilt

INTACT = SAMPLES["0.41.0"].read_bytes()
CASES = list(cases(INTACT, SAMPLES["0.36.3"].read_bytes()))


@pytest.mark.parametrize("version", SAMPLES)
@pytest.mark.parametrize("check", [False, True])
def test_samples(version: str, check: bool) -> None:
    found = describe(str(SAMPLES[version]), check=check)
    json.dumps(found)
    assert found["version"] == version
    assert found["damage"] == []
    assert found["streams"] == 1
    (recording,) = found["recordings"]
    assert recording["application_id"] == "app_logger"
    assert recording["recording_id"] == "rec_small"
    assert recording["sdk_version"] == version
    assert recording["kind"] == "recording"
    assert {"path": "/world/speed", "rows": 5} in recording["entities"]
    assert {"name": "frame", "type": "sequence", "start": 0, "end": 4} in recording["timelines"]
    assert {one["name"]: one["type"] for one in recording["timelines"]}["log_time"] == "timestamp"
    assert found["chunk_ids"] == (version != "0.23.4")
    assert found["footer"]["state"] == ("empty" if version in ("0.23.4", "0.27.3") else "complete")


def test_keys_are_pinned() -> None:
    found = describe(str(SAMPLES["0.41.0"]))
    assert list(found) == [
        "path", "bytes", "version", "streams", "messages", "recordings", "footer", "damage", "problem",
        "chunk_ids",
    ]
    assert list(found["recordings"][0]) == [
        "kind", "application_id", "recording_id", "sdk_version", "chunks", "static_chunks", "rows", "bytes",
        "uncompressed_bytes", "entities", "timelines",
    ]
    assert list(found["footer"]) == ["state", "bytes"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_damage_is_seen_as_recover_sees_it(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "in.rrd"
    path.write_bytes(case.data)
    report = recover(str(path), str(tmp_path / "out.rrd"))
    found = describe(str(path), check=True)
    # Recover drops what is there twice, and looks twice at names that are one bit off.
    if case.name != "a flipped store id":
        assert found["messages"] == report.kept_messages + report.repeated_messages
        assert [one["offset"] for one in found["damage"]] == [one.offset for one in report.damage]
    # A footer that is sound itself does not fit a file in which a chunk is damaged.
    state = "wrong" if case.footer == "complete" and len(case.kept) < len(CASES[0].kept) else case.footer
    if case.name not in ("a flipped store id", "a damaged stream header"):
        assert found["footer"]["state"] == state


def test_timelines_and_sizes(tmp_path: Path) -> None:
    path = tmp_path / "in.rrd"
    laps = {"lap": pa.array([5, -7], pa.duration("ns")), "frame": pa.array([3, 9])}
    first, second = chunk(1, times=laps, components={"A:b": pa.array([[1], [2]])}), chunk(2, times={}, entity="/s")
    path.write_bytes(stream([first, second]))
    found = describe(str(path))
    assert found["footer"] == {"state": "missing", "bytes": 0}
    assert found["messages"] == 3
    (recording,) = found["recordings"]
    assert recording["timelines"] == [
        {"name": "frame", "type": "sequence", "start": 3, "end": 9},
        {"name": "lap", "type": "duration", "start": 5, "end": -7},
    ]
    assert recording["entities"] == [{"path": "/e", "rows": 2}, {"path": "/s", "rows": 1}]
    assert (recording["chunks"], recording["static_chunks"], recording["rows"]) == (2, 1, 3)
    assert recording["bytes"] == len(first) + len(second)


def test_recordings_without_chunks_are_there(tmp_path: Path) -> None:
    path = tmp_path / "in.rrd"
    data = stream([], infos=[store_info(), store_info(store_id("b", kind=2))])
    path.write_bytes(data + rebuilt(data)[1])
    found = describe(str(path))
    assert [(one["kind"], one["recording_id"], one["chunks"]) for one in found["recordings"]] == [
        ("recording", "rec", 0), ("blueprint", "b", 0),
    ]
    assert found["footer"]["state"] == "complete"


def test_a_growing_file_is_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "in.rrd"
    path.write_bytes(INTACT[:4000])
    assert describe(str(path))["damage"][0]["what"].startswith("cut in a message")
    assert describe(str(path), growing=True)["damage"] == []
    path.write_bytes(b"")
    assert describe(str(path), growing=True)["recordings"] == []


def test_why_no_footer_can_be_made(tmp_path: Path) -> None:
    path = tmp_path / "in.rrd"
    path.write_bytes(stream([chunk(1, metadata={"sorbet:version": "9.0.0"})]))
    assert "Sorbet version 9.0.0" in describe(str(path))["problem"]


def test_ids_that_were_not_looked_at_do_not_lack(tmp_path: Path) -> None:
    path = tmp_path / "in.rrd"
    path.write_bytes(stream([chunk(1, components={"A:b": pa.array([[float(i) for i in range(40_000)]])})]))
    assert path.stat().st_size > BIG
    assert describe(str(path))["chunk_ids"]


def test_too_many_cells_for_a_footer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.spool.info.FooterBuilder", partial(FooterBuilder, max_cells=50))
    path = tmp_path / "in.rrd"
    path.write_bytes(INTACT)
    found = describe(str(path))
    assert found["problem"] == "its index would have more than 50 cells"
    assert found["footer"]["state"] == "complete", "the SDK has no such limit"
    monkeypatch.undo()
    assert found["recordings"] == describe(str(path))["recordings"], "it is described all the same"


@pytest.mark.parametrize(("data", "message"), [(b"", "empty file"), (b"hello world!!!", "not an .rrd stream")])
def test_what_is_no_rrd(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "in.rrd"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=message) as caught:
        describe(str(path))
    assert str(path) in str(caught.value)


def test_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        describe(str(tmp_path / "pipe"))
    with pytest.raises(FileNotFoundError):
        describe(str(tmp_path / "none"))


def test_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.spool.info.STEP", 1000)
    seen: list[tuple[int, int]] = []
    describe(str(SAMPLES["0.41.0"]), progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert seen[-1] == (len(INTACT), len(INTACT))

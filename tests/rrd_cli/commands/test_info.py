from __future__ import annotations

import json

import pytest

from rrd_cli.commands import info

FOUND = {
    "path": "/x/run.rrd", "bytes": 12_345_678, "version": "0.41.0", "streams": 1, "messages": 1204,
    "recordings": [
        {
            "kind": "recording", "application_id": "app", "recording_id": "rec", "sdk_version": "0.41.0", "chunks": 12,
            "static_chunks": 2, "rows": 1300, "bytes": 12_000_000, "uncompressed_bytes": 34_500_000,
            "entities": [{"path": "/camera", "rows": 120}, {"path": "/speed/left", "rows": 1180}],
            "timelines": [
                {"name": "frame", "type": "sequence", "start": -3, "end": 119},
                {"name": "lap", "type": "duration", "start": 500_000_000, "end": 65_500_000_000},
                {"name": "log_time", "type": "timestamp", "start": 1_700_000_000_123_000_000,
                 "end": 1_700_000_004_223_000_000},
            ],
        },
        {
            "kind": "blueprint", "application_id": "app", "recording_id": "layout", "sdk_version": "", "chunks": 1,
            "static_chunks": 0, "rows": 1, "bytes": 900, "uncompressed_bytes": 900, "entities": [], "timelines": [],
        },
    ],
    "footer": {"state": "complete", "bytes": 9000}, "damage": [], "problem": "",
    "chunk_ids": True,
}  # fmt: skip
WHOLE = """\
run.rrd
  12.3 MB, 1,204 messages, Rerun 0.41.0
  footer: complete, 9.0 kB
  recording app/rec
    12 chunks (2 static), 1,300 rows, 12.0 MB (34.5 MB uncompressed), SDK 0.41.0
    TIMELINE  FROM                      TO                        LENGTH
    frame     #-3                       #119
    lap       0.50 s                    1 min 6 s                 1 min 5 s
    log_time  2023-11-14 22:13:20.123Z  2023-11-14 22:13:24.223Z  4.10 s
    ENTITY        ROWS
    /camera        120
    /speed/left  1,180
  blueprint app/layout
    1 chunk, 1 row, 900 B (900 B uncompressed)"""


def show(limit=None, **changed):
    return "\n".join(info.lines(FOUND | changed, "run.rrd", limit=limit))


def test_a_whole_file():
    assert show() == WHOLE


def test_without_chunk_ids():
    assert "`rerun rrd verify` may panic   (rrd recover adds them)\n" in show(chunk_ids=False)


def test_more_entities_than_are_listed():
    assert "    /camera   120\n    and 1 more   (--all)\n" in show(limit=1)


def test_damage():
    damage = [{"offset": 1234, "bytes": 5, "what": "cut in a message"}] * 3
    shown = show(limit=2, damage=damage, footer={"state": "missing", "bytes": 0}, streams=2)
    assert "  footer: missing   (rrd recover makes one)\n  2 streams, one after the other\n" in shown
    assert shown.endswith(
        "  damage in 3 places   (rrd recover run.rrd)\n"
        "    at byte 1,234: cut in a message\n    at byte 1,234: cut in a message\n    and 1 more   (--all)"
    )


def test_a_live_log_has_no_footer_yet():
    assert "still being written\n  footer: not yet\n" in show(live=True, footer={"state": "missing", "bytes": 0})


def test_a_time_beyond_the_calendar():
    timeline = {"name": "t", "type": "timestamp", "start": -(1 << 63), "end": (1 << 63) - 1}
    assert " t " in show(recordings=[FOUND["recordings"][0] | {"timelines": [timeline]}])


@pytest.mark.parametrize(("content", "error"), [(b"", "an empty file"), (b"hello, world", "not an .rrd stream")])
def test_what_is_no_rrd(rrd, tmp_path, content, error):
    path = tmp_path / "x.rrd"
    path.write_bytes(content)
    code, out, err = rrd("info", str(path))
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {error}")


def test_logs_of_a_recording(fake, rrd, tmp_path):
    path = tmp_path / "log.rrd"
    path.write_bytes(b"RRF2" + bytes((0, 41, 0, 0, 1, 2, 0, 0)))
    fake.on("tail", {"logs": [{"stream": "s", "path": str(path), "live": True, "whole": True, "stores": []}]})
    code, out, _ = rrd("info", "@latest", "--json")
    [found] = json.loads(out)
    assert code == 0
    assert (found["path"], found["live"], found["version"]) == (str(path), True, "0.41.0")
    assert fake.said("tail") == [{"source": ["@latest"]}]

from __future__ import annotations

import json

from rrd_cli import render

SINK = {"id": "file-1", "kind": "file", "target": "/x/run.rrd", "state": "detached", "delivered_messages": 5}


def test_by_id_by_file_and_all(fake, rrd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake.on("detach", {"sinks": [SINK]})
    assert rrd("detach", "file-1") == (0, "detached file-1: /x/run.rrd, 5 messages delivered\n", "")
    rrd("detach", "run.rrd", "gone/run", "rerun+http://127.0.0.1:9876/proxy")
    rrd("detach", "--all")
    assert [args["sink"] for args in fake.said("detach")] == [
        "file-1", str(tmp_path / "run.rrd"), str(tmp_path / "gone/run"), "rerun+http://127.0.0.1:9876/proxy", "all",
    ]  # fmt: skip


def test_nothing_to_detach(fake, rrd):
    fake.on("detach", {"sinks": []})
    assert rrd("detach", "--all") == (0, "there was no output to detach\n", "")


def test_json(fake, rrd):
    fake.on("detach", {"sinks": [SINK]})
    assert json.loads(rrd("detach", "file-1", "--json")[1])["sinks"][0]["id"] == "file-1"


def test_names_or_all_not_both(private, rrd):
    assert rrd("detach", "--all", "file-1")[0] == 2


def test_how_far_it_is(fake, rrd, monkeypatch):
    """A long file is copied first: a bar on a terminal."""
    def detach(call):
        call.progress(sink="file-1", target="/x/run.rrd", done_bytes=512, total_bytes=1024)
        return {"sinks": [SINK]}

    fake.on("detach", detach)
    assert rrd("detach", "file-1")[2] == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    code, out, err = rrd("detach", "file-1")
    assert (code, out) == (0, "detached file-1: /x/run.rrd, 5 messages delivered\n")
    assert render.progress_line("detaching file-1", 512, 1024, 0, render.COLUMNS - 1) in err
    assert err.endswith("\r\x1b[K")

from __future__ import annotations

import json
import time

import pytest

from rrd_cli import render
from rrd_cli.commands import ls

NOW = 1_800_000_000.0
LIVE = {
    "recording_id": "5f0c2a1b-7d52-4e0a-8f11-0123456789ab",
    "application_id": "rrd_demo",
    "state": "live",
    "messages": 1204,
    "bytes": 12_345_678,
    "started_at": NOW - 12,
    "ended_at": None,
    "sdk_version": "0.41.0",
    "streams": ["20261122-181503-4f2a91"],
    "program": "demo.py",
    "paths": ["/spool/20261122-181503-4f2a91.rrd"],
    "error": "",
}
ENDED = LIVE | {
    "recording_id": "5f0c2a1b-7d52-0000-8f11-0123456789ab",
    "application_id": "my\x1b[31m app",
    "state": "ended",
    "messages": 3,
    "bytes": 999,
    "started_at": NOW - 7200,
    "ended_at": NOW - 7000,
    "program": "",
}

WHOLE = """\
RECORDING                             APPLICATION     STATE  MESSAGES     SIZE  STARTED   LENGTH  SDK     PROGRAM
5f0c2a1b-7d52-0000-8f11-0123456789ab  my\\x1b[31m app  ended         3    999 B  2 h ago   3 min   0.41.0  -
5f0c2a1b-7d52-4e0a-8f11-0123456789ab  rrd_demo        live      1,204  12.3 MB  12 s ago  12 s    0.41.0  demo.py
"""


def pinned(*recordings):
    return [render.pinned(one, render.RECORDING_KEYS) for one in recordings]


def test_table():
    lines = ls.lines(pinned(ENDED, LIVE), now=NOW, shorten=False)
    assert "\n".join(lines) + "\n" == WHOLE


def test_table_on_a_terminal_has_ids_short():
    lines = ls.lines(pinned(ENDED, LIVE), now=NOW, shorten=True)
    assert [line.split()[0] for line in lines] == ["RECORDING", "5f0c2a1b-7d52-0", "5f0c2a1b-7d52-4"]


def test_oldest_first_and_nothing_lost(fake, rrd):
    fake.on("ls", {"recordings": [LIVE, ENDED]})
    code, out, err = rrd("ls", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == [ENDED, LIVE]


def test_json_keys_are_pinned(fake, rrd):
    fake.on("ls", {"recordings": [{"recording_id": "x", "added_later": 1}]})
    [found] = json.loads(rrd("ls", "--json")[1])
    assert list(found) == [
        "recording_id", "application_id", "state", "messages", "bytes", "started_at", "ended_at", "sdk_version",
        "streams", "program", "paths", "error", "added_later",
    ]  # fmt: skip


def test_only_live_ones(fake, rrd):
    fake.on("ls", {"recordings": [LIVE, ENDED]})
    assert [one["recording_id"] for one in json.loads(rrd("ls", "--live", "--json")[1])] == [LIVE["recording_id"]]


def test_a_daemon_with_very_many_answers_in_parts(fake, rrd):
    fake.on("ls", lambda call: {"recordings": [LIVE]} if call.args else {"recordings": [ENDED], "more": "cursor"})
    assert len(json.loads(rrd("ls", "--json")[1])) == 2
    assert fake.said("ls") == [{}, {"after": "cursor"}]


def test_nothing_there(fake, rrd):
    fake.on("ls", {"recordings": []})
    code, out, _ = rrd("ls")
    assert code == 0
    assert out.startswith("no recordings yet")
    assert rrd("ls", "--json")[1] == "[]\n"


@pytest.mark.parametrize("missing", sorted(set(LIVE) - {"recording_id", "state"}))
def test_an_older_daemon_that_says_less(missing):
    found = pinned({key: value for key, value in LIVE.items() if key != missing})
    assert len(ls.lines(found, now=time.time(), shorten=True)) == 2

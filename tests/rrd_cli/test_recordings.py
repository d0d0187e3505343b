"""All recordings, whoever asks for them."""

from __future__ import annotations

import time

import pytest

from rrd_cli import recordings
from rrd_cli.client import Client
from rrd_cli.errors import NoDaemonError


@pytest.fixture
def parts(fake):
    """A daemon with three recordings, which has room for one in an answer."""
    fake.on("ls", lambda call: {"recordings": [{"recording_id": f"r{call.args.get('after', 0)}"}]}
            | ({"more": call.args.get("after", 0) + 1} if call.args.get("after", 0) < 2 else {}))
    return fake


def test_all_parts_in_order(parts):
    with Client(may_start=False) as client:
        assert [one["recording_id"] for one in recordings.fetch(client)] == ["r0", "r1", "r2"]
    assert parts.said("ls") == [{}, {"after": 1}, {"after": 2}]


def test_the_timeout_is_for_all_of_them(fake, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def ls(call):
        now[0] += 0.4
        return {"recordings": [], "more": 1}

    fake.on("ls", ls)
    with Client(may_start=False) as client, pytest.raises(NoDaemonError):
        recordings.fetch(client, timeout=1.0)
    assert len(fake.said("ls")) <= 4

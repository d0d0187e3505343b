"""When `rrd tail -f` looks again, and for what. What it does with files: test_tailing.py and tests/integration."""

from __future__ import annotations

import os
import threading
import time

import pytest

from daemon.wire.control import VerbError
from rrd_cli.commands import tail
from tests.rrd_cli.test_tailing import HEADER, info, message


@pytest.mark.parametrize(("quiet", "seconds"), [(0.0, 0.01), (0.02, 0.01), (0.2, 0.05), (0.6, 0.15), (1.0, 0.25),
                                               (3600.0, 0.25)])
def test_it_looks_less_often_the_longer_nothing_came(monkeypatch, quiet, seconds):
    monkeypatch.setattr(time, "monotonic", lambda: 10_000.0)
    assert tail.pause(10_000.0 - quiet) == pytest.approx(seconds)


class TestLive:
    """`rrd tail -f @live`: words mean what was live when they were said, so what they say later is less, or more."""

    @pytest.fixture
    def log(self, tmp_path):
        """Call it with a name: a log of the daemon as `tail` answers."""
        def make(name, *, live):
            path = tmp_path / f"{name}.rrd"
            path.write_bytes(HEADER + info(name) + message(name, "row"))
            return {"stream": name, "path": str(path), "live": live, "whole": True, "stores": []}
        return make

    @pytest.fixture
    def follow(self, rrd, tmp_path, monkeypatch):
        """Say `rrd tail -f @live`: (exit code, what came out, stderr)."""
        monkeypatch.setattr(tail, "LOOK_AGAIN", 0.01)
        monkeypatch.setattr(tail, "LATE", 0.01)
        out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
        monkeypatch.setattr(tail, "STDOUT", out)

        def run():
            code, _, err = rrd("tail", "-f", "@live")
            return code, (tmp_path / "out").read_bytes(), err

        yield run
        os.close(out)

    def test_ends_with_the_last_and_has_what_came_meanwhile(self, fake, log, follow):
        looked = threading.Event()

        def answer(call):
            if len(fake.said("tail")) == 1:
                return {"logs": [log("first", live=True), log("last", live=True)]}
            if call.args.get("wait"):
                assert looked.wait(10)
                return {"logs": [log("last", live=False), log("later", live=False), log("short", live=False)]}
            if len(fake.said("tail")) > 10:
                raise VerbError("failed", "it asks and asks")
            if len(fake.said("tail")) > 3:
                looked.set()
            return {"logs": [log("last", live=True), log("later", live=True)]}

        fake.on("tail", answer)
        code, out, err = follow()
        assert (code, err) == (0, "")
        assert out.startswith(HEADER)
        frames = [info(name) + message(name, "row") for name in ("first", "last", "later", "short")]
        assert all(frame in out for frame in frames)
        assert len(out) == len(HEADER) + sum(map(len, frames))

    def test_waits_for_the_first(self, fake, log, follow):
        """Asked once, so that nothing is too short to be seen."""
        def answer(call):
            if call.args.get("first"):
                call.progress(waiting=True)
            return {"logs": [log("only", live=not call.args.get("wait"))]}

        fake.on("tail", answer)
        assert follow() == (0, HEADER + info("only") + message("only", "row"),
                            "nothing is live: waiting for a program\n")
        assert [call for call in fake.said("tail") if call.get("first")] == [{"source": ["@live"], "first": True}]

    def test_does_not_wait_unless_told(self, fake, rrd, follow):
        fake.on("tail", {"logs": []})
        code, out, err = rrd("tail", "@live")
        assert (code, out) == (1, "")
        assert err == "error: nothing is live\nhint: -f waits for a program; what has ended: rrd tail @latest\n"
        assert fake.said("tail") == [{"source": ["@live"], "first": False}]

    def test_a_stop_ends_the_waiting(self, fake, follow, hangup):
        def answer(call):
            call.progress(waiting=True)
            call.event("stopping")
            raise hangup

        fake.on("tail", answer)
        code, out, err = follow()
        assert (code, out) == (1, b"")
        assert "error: the daemon was stopped meanwhile" in err
        assert len(fake.said("tail")) == 1

"""`rrd doctor` with a real daemon: what is true of this machine, and what was made wrong."""

from __future__ import annotations

import json

from tests.helpers.programs import Program


def look(home):
    done = home.cli("doctor", "--json", check=False)
    return done.returncode, json.loads(done.stdout)


def test_everything_is_looked_at(daemon):
    with Program(daemon, "robot", rows=5) as program:
        program.finish()
    _, found = look(daemon)
    checks = {one["check"] for one in found}
    assert {"runtime dir", "state dir", "socket", "settings", "daemon", "grpc", "port 9876", "viewer", "web viewer",
            "disk", "clock", "service", "display", "browser"} <= checks
    levels = {one["check"]: one["level"] for one in found}
    assert (levels["socket"], levels["daemon"], levels["grpc"], levels["viewer"]) == ("ok", "ok", "ok", "ok")


def test_a_dead_output_is_named_with_its_fix(daemon):
    sink = daemon.call("connect", url="rerun+http://127.0.0.1:1/proxy")["sink"]["id"]
    _, found = look(daemon)
    (one,) = [one for one in found if one["check"] == "output"]
    assert sink in one["message"]
    assert one["fix"].startswith(f"rrd detach {sink}")

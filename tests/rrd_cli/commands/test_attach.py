"""`rrd attach -` when a daemon goes. What it keeps: tests/integration/test_cli.py."""

from __future__ import annotations

import subprocess
import sys

from daemon.wire import control


def attach(data=b"RRF2 and so on"):
    command = [sys.executable, "-m", "rrd_cli", "attach", "-"]
    return subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)


def test_a_daemon_that_was_stopped_is_not_started_again(fake, hangup):
    def open_(call):
        call.send(control.ok(call.id, {"stream": "s1", "log": "/x"}))
        call.event("stopping")
        raise hangup

    fake.on("open", open_)
    done = attach()
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == (
        b"error: the daemon was stopped meanwhile\nhint: what came before is kept: rrd daemon start\n"
    )
    assert len(fake.said("open")) == 1


def test_one_that_died_goes_on_with_the_pipe(fake, hangup):
    def open_(call):
        if len(fake.said("open")) == 1:
            call.send(control.ok(call.id, {"stream": "s1", "log": "/x"}))
            raise hangup
        call.event("ended", stream="s1", reason="end of file", error="")
        return {}

    fake.on("open", open_)
    fake.on("close", {"messages": 3, "bytes": 99})
    fake.on("ls", {"recordings": [{"application_id": "app", "recording_id": "rec", "streams": ["s1"]}]})
    done = attach()
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"kept app/rec (3 messages)\n")
    assert fake.said("open")[1] == {"kind": "stdin", "stream": "s1"}

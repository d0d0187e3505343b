"""New settings for a real daemon that streams: taken by verb and by signal; bad ones are not."""

from __future__ import annotations

import os
import signal

import pytest

from daemon.wire.control import VerbError
from tests.conftest import wait_for
from tests.helpers.programs import Program


def write(home, text):
    path = home.path / "c" / "rrd" / "config.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_reload_by_verb_and_by_signal(daemon):
    with Program(daemon, "reloading", rows=3000, pause=0.01) as program:
        program.wait_row(20)
        write(daemon, "log_level = 'warning'\ngrpc_port = 5\n[spool]\nmax_bytes = 10_000_000_000\n")
        assert daemon.call("reload") == {"changed": ["spool_max_bytes", "log_level"], "restart": []}
        assert daemon.call("settings")["spool_max_bytes"] == 10**10
        write(daemon, "log_level = 'info'\n")
        os.kill(daemon.daemon_pid(), signal.SIGHUP)
        wait_for(lambda: daemon.call("settings")["log_level"] == "info", "the reload")
        assert [one["state"] for one in daemon.recordings()] == ["live"]


def test_a_bad_file_changes_nothing(daemon):
    before = daemon.call("settings")
    write(daemon, "log_level = 'info'\nspool_max_byte = 1\n")
    with pytest.raises(VerbError, match=r"config\.toml:2: unknown key spool_max_byte; the old settings stay"):
        daemon.call("reload")
    pid = daemon.daemon_pid()
    os.kill(pid, signal.SIGHUP)
    wait_for(lambda: "the old settings stay" in daemon.log, "the complaint")
    assert daemon.call("settings") == before
    assert daemon.daemon_pid() == pid

"""The daemon's side of being a service."""

from __future__ import annotations

import logging
import os
import re

import pytest

from daemon import descriptors
from daemon.systemd import service, units


@pytest.mark.parametrize(("environment", "period"), [
    ({}, None),
    ({"WATCHDOG_USEC": "0"}, None),
    ({"WATCHDOG_USEC": "x"}, None),
    ({"WATCHDOG_USEC": "3000000"}, 1.0),
    ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
    ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 20.0),
])
def test_the_watchdog_is_fed_only_when_it_is_hungry(environment, period):
    assert service.watchdog_period(environment) == period


async def test_feeding_ends_with_its_scope(autojump_clock, monkeypatch):
    import trio

    told = []
    notifier = descriptors.Notifier(None)
    monkeypatch.setattr(notifier, "tell", lambda *lines: told.append(lines))
    with trio.move_on_after(10.5):
        await service.feed_watchdog(notifier, 1.0)
    assert told == [("WATCHDOG=1",)] * 11


async def test_a_long_start_is_waited_for(autojump_clock, monkeypatch):
    """systemd hears of it before its patience is over, and again in time; usually nothing is said."""
    import trio

    [patience] = re.findall(r"^TimeoutStartSec=(\d+)$", (units.HERE / units.SERVICE).read_text(), re.MULTILINE)
    told = []
    notifier = descriptors.Notifier(None)

    def tell(*lines):
        told.append(trio.current_time() - began)
        assert lines == ("EXTEND_TIMEOUT_USEC=60000000", "STATUS=reading")
        if len(told) == 2:
            raise ConnectionRefusedError  # systemd executes itself anew

    monkeypatch.setattr(notifier, "tell", tell)
    began = trio.current_time()
    with trio.move_on_after(70):
        await service.ask_for_time(notifier, "reading")
    assert told == pytest.approx([20.0, 40.0, 60.0])
    assert told[0] < int(patience)


@pytest.mark.parametrize(("level", "priority"), [
    (logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 3)])
def test_journal_lines_have_levels(level, priority):
    record = logging.LogRecord("rrd", level, "", 0, "one\n%s", ("two",), None)
    assert service.JournalFormatter().format(record) == f"<{priority}>one\n<{priority}>two"


def test_the_journal_is_known_by_device_and_inode(tmp_path):
    with open(tmp_path / "journal", "w") as file:
        found = os.fstat(file.fileno())
        here = f"{found.st_dev}:{found.st_ino}"
        assert service.to_journal({"JOURNAL_STREAM": here}, file.fileno())
        assert not service.to_journal({"JOURNAL_STREAM": f"{found.st_dev}:1"}, file.fileno())
        assert not service.to_journal({"JOURNAL_STREAM": "x"}, file.fileno())
        assert not service.to_journal({}, file.fileno())


def test_there_is_one_daemon(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(service, "LOCK_PATIENCE_S", 0.1)
    first = service.be_the_only_one()
    with pytest.raises(BlockingIOError, match=f"another daemon runs here .pid {os.getpid()}"):
        service.be_the_only_one()
    os.close(first)
    os.close(service.be_the_only_one())


def test_there_is_one_daemon_for_a_spool(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    first = service.own_the_spool()
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "other"))
    with pytest.raises(BlockingIOError) as caught:
        service.own_the_spool()
    socket = tmp_path / "rrd" / "control.sock"
    assert f"pid {os.getpid()}, {socket}) has the recordings in {tmp_path}/s/rrd" in str(caught.value)
    os.close(first)
    os.close(service.own_the_spool())


def test_finishers_of_the_daemon_before_are_outlasted(monkeypatch, tmp_path, caplog):
    """It knows them by the lock that they inherited; one that does not end keeps nobody from the recordings."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(service, "LOCK_PATIENCE_S", 0.1)
    os.close(service.own_the_spool())
    before = service.outlast_finishers()
    finisher = os.dup(before)
    os.close(before)
    assert service.outlast_finishers() == -1
    assert f"a finisher of the daemon before (pid {os.getpid()}) does not end" in caplog.text
    os.close(finisher)
    os.close(service.outlast_finishers())

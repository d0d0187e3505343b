from __future__ import annotations

import sys

import pytest
import trio

from daemon.control.verbs import restart
from daemon.keeper import EXIT_RESTART
from tests.daemon.conftest import Core


async def test_the_daemon_ends_so_that_its_keeper_begins_anew(core: Core) -> None:
    assert await core.say("restart") == {}
    with trio.fail_after(30):
        await core.ended.wait()
    assert core.status == EXIT_RESTART


@pytest.mark.parametrize(("program", "said"), [
    ("import daemon.no_such_module", "No module named 'daemon.no_such_module'"),
    ("import os; os._exit(3)", "exit status 3"),
])
async def test_what_cannot_be_started_is_not(
    core: Core, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    """A keeper that executes a half-installed version would die, and take the pipes with it."""
    monkeypatch.setattr(restart, "TRY", [sys.executable, "-c", program])
    code, message, hint = await core.refused("restart")
    assert (code, hint) == (
        "refused", "finish the upgrade, or install rrd-cli again; the daemon goes on as it was")
    assert message.startswith("what is installed now cannot be started: ")
    assert message.endswith(said)
    assert not core.ended.is_set()
    assert (await core.say("status"))["daemon"]["uptime_s"] >= 0

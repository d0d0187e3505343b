from __future__ import annotations

from daemon.settings import config_path
from tests.daemon.conftest import Core


def write(text: str) -> None:
    path = config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


async def test_new_settings(core: Core) -> None:
    core.daemon.reload()
    write('log_level = "warning"\ntakeover = true\n[[auto]]\napplication = "x*"\nsave = "/runs/{recording}.rrd"\n')
    shape = core.hub.shape
    assert await core.say("reload") == {"changed": ["log_level", "auto"], "restart": ["takeover"]}
    assert core.hub.shape > shape  # new rules may fit what is there
    said = await core.say("settings")
    assert said["log_level"] == "warning"
    assert said["auto"] == [{"application": "x*", "save": "/runs/{recording}.rrd"}]
    assert await core.say("reload") == {"changed": [], "restart": []}


async def test_bad_ones_are_refused(core: Core) -> None:
    core.daemon.reload()
    before = core.daemon.settings
    write('log_level = "loud"\n')
    code, message, hint = await core.refused("reload")
    assert code == "refused"
    assert message.endswith("; the old settings stay")
    assert ":1: " in message
    assert "warning" in hint
    assert core.daemon.settings == before

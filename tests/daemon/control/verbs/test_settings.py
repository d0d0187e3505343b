from __future__ import annotations

from daemon import settings
from daemon.settings import Rule, Settings
from tests.daemon.conftest import Core


async def test_the_value_of_every_setting(core: Core) -> None:
    core.daemon.settings = Settings(
        grpc_port=-1, auto=(Rule("a*", save="/x/{app}.rrd"), Rule(spawn=True), Rule(connect="rerun+http://h:1/proxy")))
    said = await core.say("settings")
    assert set(said) == set(settings.described())
    assert said["spool_max_bytes"] == Settings().spool_max_bytes
    assert said["auto"] == [
        {"application": "a*", "save": "/x/{app}.rrd"}, {"application": "*", "spawn": True},
        {"application": "*", "connect": "rerun+http://h:1/proxy"}]

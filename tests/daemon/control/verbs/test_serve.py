from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from daemon.control.verbs import serve
from daemon.web.assets import NoViewer
from daemon.web.pages import Site
from tests.daemon.conftest import Core, opened
from tests.helpers import frames
from tests.helpers.frames import numbered, stream


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A viewer to serve, the client's environment, and the browsers that were opened."""
    about: dict[str, Any] = {"environment": {}, "opened": [], "error": None}

    async def viewer_for(_: Site, __: object) -> object:
        await trio.lowlevel.checkpoint()
        if about["error"] is not None:
            raise about["error"]
        return SimpleNamespace(version_text="0.41.0", origin="a test")

    async def browser(url: str, _: object) -> None:
        await trio.lowlevel.checkpoint()
        about["opened"].append(url)

    monkeypatch.setattr(Site, "viewer_for", viewer_for)
    monkeypatch.setattr(serve, "open_browser", browser)
    monkeypatch.setattr(serve, "environment_of", lambda _: about["environment"])
    return about


async def test_a_server_is_used_again(core: Core, page: dict[str, Any], tmp_path: Path) -> None:
    answer = await core.say("serve", port=0)
    assert (answer["viewer"], answer["opened"], answer["tunnel"], answer["warning"]) == (
        {"version": "0.41.0", "origin": "a test"}, False, "", "")
    assert answer["url"].startswith("http://127.0.0.1:")
    assert "source=@live" in answer["url"]
    assert answer["sink"]["state"] == "following"
    with socket.create_connection(("127.0.0.1", core.daemon.sinks.active()[0].port)):  # type: ignore[attr-defined]
        pass
    one = opened(core.hub, stream(*numbered(1, "one")))
    again = await core.say("serve", stream=one.id)
    assert again["sink"]["id"] == answer["sink"]["id"]
    assert f"source=stream:{one.id}" in again["url"]
    file = frames.write(tmp_path / "a.rrd", stream(*numbered(1)))
    assert f"source=file:{file}" in (await core.say("serve", source=[str(file)]))["url"]
    other = await core.say("serve", port=0, token="another")
    assert other["sink"]["id"] != answer["sink"]["id"]
    # What a page may show stays open for as long as it is served.
    core.hub.close_files(frozenset().union(*(sink.reads() for sink in core.daemon.sinks.active())))
    assert f"file:{file}" in core.hub.streams


async def test_browsers_and_tunnels(core: Core, page: dict[str, Any]) -> None:
    assert (await core.say("serve", port=0, open=True))["opened"] is False  # nowhere to open one in
    page["environment"] = {"DISPLAY": ":0"}
    assert (await core.say("serve", open=True))["opened"] is True
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(page["opened"]) == 1
    page["environment"] = {"DISPLAY": ":0", "USER": "me", "SSH_CONNECTION": "10.0.0.2 5555 10.0.0.1 2222"}
    answer = await core.say("serve", open=True)
    port = answer["url"].split(":")[2].split("/")[0]
    assert (answer["opened"], answer["tunnel"]) == (
        False, f"ssh -N -L {port}:127.0.0.1:{port} me@10.0.0.1 -p 2222")


async def test_more_recordings_than_a_page_takes(core: Core, page: dict[str, Any],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.web.live.MAX_TERMS", 1)
    opened(core.hub, stream(*numbered(1, "one"), *numbered(1, "two")))
    assert await core.refused("serve", port=0, source=["app"]) == (
        "refused", "2 recordings are more than one page takes, which is 1",
        "rrd serve @all takes all there are; /, without /view, lists them to choose from")
    assert core.daemon.sinks.sinks == {}
    assert (await core.say("serve", port=0, source=["@all"]))["sink"]["state"] == "following"


async def test_what_is_refused(core: Core, page: dict[str, Any], tmp_path: Path) -> None:
    assert await core.refused("serve", bind="0.0.0.0", no_token=True) == (
        "refused", "everyone who reaches 0.0.0.0 could see all recordings",
        "leave out --no-token, or say --allow-anyone if that is meant")
    assert await core.refused("serve", port=70000) == (
        "usage", "port is 70000", "a port is 0 to 65535; 0 takes a free one")
    assert (await core.refused("serve", port=0, token="a/b"))[:2] == ("usage", "a token is letters, digits, - and _")
    assert (await core.refused("serve", source=[str(tmp_path / "no.rrd")]))[:2] == (
        "not-found", f"file does not exist: {tmp_path / 'no.rrd'}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert await core.refused("serve", port=port) == (
            "exists", f"port {port} is taken", "choose another, or leave --port out")
    page["error"] = NoViewer("there is no web viewer", "pip install it")
    assert await core.refused("serve", port=0) == ("failed", "there is no web viewer", "pip install it")
    assert core.daemon.sinks.sinks == {}

from __future__ import annotations

import os

import pytest

from daemon.control.verbs import connect, viewers
from daemon.viewers.discover import Found, Owner
from daemon.viewers.probe import Answer
from daemon.wire.grpc import Address
from tests.daemon.conftest import Core

OTHERS = (("0.0.0.0", 1), ("127.0.0.1", 2))


def found(pid: int, kind: str, *ports: tuple[str, int], mine: bool = True) -> Found:
    return Found(Owner(pid, 1.0, "prog", "me", mine), kind, (0, 36, 3), "/bin/rerun", ports)


async def test_who_is_here(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Address] = []

    async def probe(address: Address) -> Answer:
        asked.append(address)
        return Answer("rerun", (0, 41, 0)) if address.port == 2 else Answer("http")

    async def nobody(_: Address) -> Answer:
        return Answer("none")

    here = [found(30, "windowed", *OTHERS), found(20, "other", ("127.0.0.1", 3)),
            found(10, "web", ("::", 4)), found(os.getpid(), "server", ("127.0.0.1", 5))]
    monkeypatch.setattr(viewers, "find", lambda: here)
    monkeypatch.setattr(viewers, "server_at", lambda _: found(5, "server", ("127.0.0.1", 9876)))
    monkeypatch.setattr(viewers, "probe", probe)
    monkeypatch.setattr(connect, "probe", nobody)
    monkeypatch.setattr(connect, "server_at", lambda _: None)
    monkeypatch.setattr(connect, "FIRST_WORD_S", 0.05)
    sink = (await core.say("connect", url=Address("127.0.0.1", 2).url))["sink"]
    listed = (await core.say("viewers"))["viewers"]
    assert [one["pid"] for one in listed] == [5, 10, 30]  # not ourselves, nor what is no viewer
    assert listed[-1] == {
        "pid": 30, "kind": "windowed", "version": "0.41.0", "url": Address("127.0.0.1", 2).url, "ports": [1, 2],
        "executable": "/bin/rerun", "program": "prog", "user": "me", "mine": True, "answers": True,
        "sinks": [sink["id"]], "lag_messages": 0, "lag_bytes": 0,
    }
    assert (listed[1]["version"], listed[1]["url"], listed[1]["answers"]) == ("0.36.3", "", False)
    # A listener on all addresses is asked where it surely is.
    assert {(one.host, one.port) for one in asked} == {
        ("127.0.0.1", 1), ("127.0.0.1", 2), ("127.0.0.1", 3), ("::1", 4), ("127.0.0.1", 9876)}
    asked.clear()
    assert [one["pid"] for one in (await core.say("viewers", unasked=True))["viewers"]] == [5, 10, 30]
    assert asked == []

from __future__ import annotations

import os

import pytest

from daemon.channel import INSTANCE
from daemon.control.verbs import connect
from daemon.viewers.discover import Found, Owner
from daemon.viewers.probe import Answer, Identity
from tests.daemon.conftest import Core, ended, opened
from tests.helpers import frames
from tests.helpers.frames import numbered, stream

NOWHERE = "rerun+http://127.0.0.1:1/proxy"
MINE = Owner(4711, 1.0, "prog", "me", True)
YOURS = Owner(4711, 1.0, "prog", "you", False)
HINT = "choose another port: rrd spawn --new, or rrd connect with the viewer's own URL"


def found(kind: str = "windowed", owner: Owner = MINE) -> Found:
    return Found(owner, kind, (0, 41, 0), "/bin/rerun", (("127.0.0.1", 1),))


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Who answers, and whose process it is."""
    who: dict[str, object] = {"answer": Answer("none"), "found": None}

    async def probe(_: object) -> object:
        return who["answer"]

    monkeypatch.setattr(connect, "probe", probe)
    monkeypatch.setattr(connect, "server_at", lambda _: who["found"])
    monkeypatch.setattr(connect, "FIRST_WORD_S", 0.05)
    return who


async def test_nobody_is_there_yet(core: Core, there: dict[str, object]) -> None:
    opened(core.hub, stream(*numbered(1, "one")))
    answer = await core.say("connect", url=NOWHERE)
    assert (answer["chose"], answer["waiting"], answer["warning"]) == ("what is live now and later", True, "")
    assert answer["viewer"] == {"kind": "none", "version": "", "pid": None, "url": NOWHERE}
    assert (answer["sink"]["kind"], answer["sink"]["target"]) == ("viewer", NOWHERE)
    # The same again is the same output; a narrower wish is served by it; another place is another.
    for more in ({}, {"source": ["one"]}):
        assert (await core.say("connect", url=NOWHERE, **more))["sink"]["id"] == answer["sink"]["id"]
    other = await core.say("connect", url="rerun+http://127.0.0.1:2/proxy")
    assert other["sink"]["id"] != answer["sink"]["id"]


async def test_nothing_is_live(core: Core, there: dict[str, object]) -> None:
    await ended(core.hub, stream(*numbered(1, "one")))
    assert (await core.say("connect", url=NOWHERE))["chose"] == "the newest recording app/one and what comes"


async def test_versions(core: Core, there: dict[str, object]) -> None:
    opened(core.hub, frames.header((0, 36, 3, 0)), *numbered(1, "one"))
    there["answer"] = Answer("rerun", (0, 22, 1))
    code, message, hint = await core.refused("connect", url=NOWHERE)
    assert (code, message) == ("refused", "a viewer of version 0.22.1 does not speak gRPC and would show nothing")
    assert "0.23 or newer" in hint
    forced = await core.say("connect", url=NOWHERE, force=True)
    assert forced["warning"].startswith("a viewer of version 0.22.1")
    assert forced["viewer"]["version"] == "0.22.1"


@pytest.mark.parametrize(("answer", "process", "error"), [
    (Answer("rrd", identity=Identity("0.1.0", os.getpid(), INSTANCE)), None,
     ("refused", "port 1 is this daemon's own", "viewers listen on other ports; Rerun's own is 9876")),
    (Answer("http"), None, ("refused", f"port 1 is taken by {Answer('http').describe()}", HINT)),
    (Answer("rerun"), found(owner=YOURS),
     ("refused", f"port 1 is taken by another user, you: {found(owner=YOURS).describe()}",
      "choose another port: rrd spawn --new; or, where that user may see it all: rrd connect --force")),
    (Answer("silent"), found("other"),
     ("refused", f"port 1 is taken by {MINE.describe()}: {Answer('silent').describe()}", HINT)),
    (Answer("tls", detail="it speaks TLS"), None,
     ("refused", "it speaks TLS",
      "rerun+http:// is without TLS; SSL_CERT_FILE in the daemon's environment names authorities")),
])
async def test_who_is_not_fed(
    core: Core, there: dict[str, object], answer: Answer, process: Found | None, error: tuple[str, str, str]
) -> None:
    there.update(answer=answer, found=process)
    assert await core.refused("connect", url=NOWHERE) == error
    assert core.daemon.sinks.sinks == {}


async def test_a_silent_viewer_is_waited_for(core: Core, there: dict[str, object]) -> None:
    there.update(answer=Answer("silent"), found=found())
    assert (await core.say("connect", url=NOWHERE))["waiting"] is True


@pytest.mark.parametrize(("args", "message"), [
    ({"url": "ftp://x"}, None), ({"from": "then"}, "connect: from is start or now, found 'then'"),
    ({"max_lag": 0.0}, "connect: max_lag is 0"), ({"max_lag": "x"}, "connect: max_lag must be a number, found 'x'"),
    ({"newest_first": True, "from": "now"}, "connect: newest_first sends everything, from now and max_lag do not"),
])
async def test_wrongly_asked(
    core: Core, there: dict[str, object], args: dict[str, object], message: str | None
) -> None:
    code, said, _ = await core.refused("connect", **args)
    assert code == "usage"
    assert message is None or said == message

"""`connect`: a viewer or Rerun server at a URL as an output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import trio

from daemon.channel import INSTANCE
from daemon.control.server import Call
from daemon.control.verbs.save import select
from daemon.selection import Selection, recordings_of, resolve
from daemon.sinks.runner import ACTIVE, describe
from daemon.sinks.viewer import LOOPBACK, ViewerSink
from daemon.viewers.discover import Found, server_at
from daemon.viewers.probe import Answer, probe
from daemon.viewers.process import worst
from daemon.viewers.version import Fit, Verdict, Version, compare, show
from daemon.wire.control import Message, VerbError
from daemon.wire.grpc import DEFAULT_PORT, Address, parse_url

DEFAULT_URL = f"rerun+http://127.0.0.1:{DEFAULT_PORT}/proxy"
FIRST_WORD_S = 2.0
"""How long the answer waits for the sink to work: a viewer that is there takes some milliseconds."""
MAX_LAG_LIMIT = 86400.0


async def run(call: Call) -> Message:
    """Feed a viewer or server; it is waited for if it is not there, and fed again when it comes back.

    Args of the verb: url (default: port 9876 of this machine); source (selectors, absolute paths; by default @live, and
    the newest recording when nothing is live) or stream; from ("start" or "now"); newest_first (what comes before what
    was there, and that backwards); max_lag (seconds); force (feed it although it is another user's or would lose
    data).

    Returns:
        sink (as in status), chose, waiting (nobody is there yet), warning, viewer {kind, version, pid, url}.

    Raises:
        VerbError: not a URL; something that is no viewer listens there; the versions do not fit; no such recording.
    """
    try:
        address = parse_url(call.text("url", DEFAULT_URL))
    except ValueError as error:
        raise VerbError("usage", str(error), f"for example {DEFAULT_URL}") from error
    how = feeding(call)
    selection, chose = await choose(call)
    answer = await probe(address)
    found = await trio.to_thread.run_sync(server_at, address.port) if address.host in LOOPBACK else None
    refuse(address, answer, found, anyone=call.flag("force"))
    version = answer.version or (found.version if found else None)
    verdict = judge(call, selection, version)
    if verdict.fit is Fit.LOSES and not call.flag("force"):
        raise VerbError("refused", verdict.message, verdict.hint)
    sink = existing(call, selection, address)
    if sink is None:
        sink = ViewerSink(
            call.daemon.hub, selection, address, anyone=call.flag("force"), version=version, **how)
        await take_in(call, sink)
    return {
        "sink": sink.status(),
        "chose": chose,
        "waiting": not answer.takes_streams,
        "warning": f"{verdict.message}; {verdict.hint}" if verdict.message else "",
        "viewer": {
            "kind": found.kind if found else answer.kind,
            "version": show(version) if version else "",
            "pid": found.owner.pid if found else None,
            "url": address.url,
        },
    }


class Feeding(TypedDict):
    """In which order a viewer is fed, and whether with everything: see ViewerSink."""

    from_now: bool
    newest_first: bool
    max_lag: float | None


def feeding(call: Call) -> Feeding:
    """`from`, `newest_first` and `max_lag`.

    Raises:
        VerbError: they make no sense.
    """
    start = call.text("from", "start")
    if start not in ("start", "now"):
        raise VerbError("usage", f"{call.verb}: from is start or now, found {start!r:.40}")
    max_lag = call.seconds("max_lag", MAX_LAG_LIMIT)
    newest_first = call.flag("newest_first")
    if newest_first and (start == "now" or max_lag is not None):
        raise VerbError("usage", f"{call.verb}: newest_first sends everything, from now and max_lag do not",
                        "say one of them")
    return Feeding(from_now=start == "now", newest_first=newest_first, max_lag=max_lag)


async def choose(call: Call) -> tuple[Selection, str]:
    """What is to be shown, and in words. By default what runs now and later; when nothing runs, the newest too.

    Raises:
        VerbError: nothing fits.
    """
    if call.text("stream", "") or call.texts("source"):
        return await select(call)
    streams = call.daemon.hub.streams
    recordings = recordings_of(streams.values())
    # Ended, not complete: a program's last footer takes a moment, and @live does not take what has ended.
    if recordings and all(stream.ended for recording in recordings for stream in recording.streams):
        return (resolve(["@latest", "@live"], streams, call.daemon.hub.moment()),
                f"the newest recording {recordings[-1].label} and what comes")
    return resolve(["@live"], streams, call.daemon.hub.moment()), "what is live now and later"


def refuse(address: Address, answer: Answer, found: Found | None, *, anyone: bool = False) -> None:
    """See that nothing that is no viewer would be fed, nor, but for `anyone`, another user's.

    Raises:
        VerbError: it would.
    """
    if answer.identity is not None and answer.identity.instance == INSTANCE:
        raise VerbError("refused", f"port {address.port} is this daemon's own",
                        f"viewers listen on other ports; Rerun's own is {DEFAULT_PORT}")
    if found is not None and not found.owner.mine and not anyone:
        who = f"another user, {found.owner.user}: {found.describe()}"
        raise VerbError("refused", f"port {address.port} is taken by {who}",
                        "choose another port: rrd spawn --new; or, where that user may see it all: rrd connect --force")
    if answer.takes_streams or answer.kind == "none":
        return
    if answer.kind == "tls":
        raise VerbError("refused", answer.detail,
                        "rerun+http:// is without TLS; SSL_CERT_FILE in the daemon's environment names authorities")
    if answer.kind == "silent" and (found is None or found.kind not in ("other", "sdk")):
        return  # a machine that is far, or a viewer that is stopped: it is waited for
    what = f"{found.owner.describe()}: " if found else ""
    raise VerbError("refused", f"port {address.port} is taken by {what}{answer.describe()}",
                    "choose another port: rrd spawn --new, or rrd connect with the viewer's own URL")


def judge(call: Call, selection: Selection, version: Version | None) -> Verdict:
    """How the selected streams go with a viewer."""
    return worst([compare(one, version) for one in versions(call, selection)])


def versions(call: Call, selection: Selection) -> list[Version]:
    """The SDK versions of the selected streams."""
    found = {stream.sdk_version for stream in call.daemon.hub.streams.values() if selection.takes(stream)}
    return sorted(one for one in found if one is not None)


def existing(call: Call, selection: Selection, address: Address) -> ViewerSink | None:
    """A sink that feeds this address with all that is selected already."""
    for sink in call.daemon.sinks.active():
        if isinstance(sink, ViewerSink) and sink.address.port == address.port and sink.target == address.url \
                and covers(sink.selection, selection, call):
            return sink
    return None


def covers(has: Selection, wants: Selection, call: Call) -> bool:
    """Whether whoever is fed with `has` gets all of `wants`."""
    if wants.live_since is not None and (has.live_since is None or has.live_since > wants.live_since):
        return False
    if not wants.runs <= has.runs and has.live_since is None:
        return False
    streams = call.daemon.hub.streams.values()
    named = bool(wants.recordings) and wants.recordings <= has.recordings and wants.streams <= has.streams
    return named or all(has.whole(stream) for stream in streams if wants.takes(stream))


async def take_in(call: Call, sink: ViewerSink) -> None:
    """Start a sink, and give it a moment to show how it goes.

    Raises:
        VerbError: it cannot be kept, or has failed already.
    """
    try:
        call.daemon.sinks.add(sink)
    except OSError as error:
        raise VerbError("failed", f"cannot keep the sink: {describe(error)}") from error
    with trio.move_on_after(FIRST_WORD_S):
        while sink.state == "starting":
            await call.daemon.hub.wait_change(call.daemon.hub.version)
    if sink.state not in (*ACTIVE, "complete"):
        raise VerbError("failed", sink.last_error)


def viewers_fed(call: Call, pid: int, ports: Sequence[int]) -> list[ViewerSink]:
    """Active sinks that feed a process of this machine."""
    return [
        sink for sink in call.daemon.sinks.active()
        if isinstance(sink, ViewerSink)
        and ((sink.process is not None and sink.process[0] == pid)
             or (sink.address.host in LOOPBACK and sink.address.port in ports))
    ]

"""`tail`: where a recording's logs lie; the client reads them itself."""

from __future__ import annotations

import os

import trio

from daemon.control.server import Call
from daemon.control.verbs.save import select
from daemon.wire.control import Message, VerbError

MOST = 4000
"""Logs that one answer has room for; whoever tails them has each of them open, and no more open files than that."""

ALIVE_S = 10.0
"""How often who waits is told that this daemon lives."""


async def run(call: Call) -> Message:
    """Describe the logs of a selection.

    Args of the verb: source or stream, as in save; wait (answer only when all of them have ended); first (where nothing
    is meant yet, as @live may, answer when something is, and say `waiting` as progress meanwhile).

    Returns:
        logs: stream, path, live, whole (all of the log is selected), stores (else the raw store ids that are).

    Raises:
        VerbError: nothing fits, or too much.
    """
    selection, chose = await select(call)
    hub = call.daemon.hub
    feed = hub.feed(selection)
    while call.flag("first") and not feed.streams():
        await call.progress({"waiting": True})
        with trio.move_on_after(ALIVE_S):
            while not feed.streams():
                await hub.wait_reshaped(hub.shape)
    if len(feed.streams()) > MOST:
        raise VerbError("refused", f"{len(feed.streams())} logs are meant, at most {MOST} can be read at once",
                        "name fewer recordings, or rrd save them as one file")
    if call.flag("wait"):
        while not all(stream.complete for stream in feed.streams()):
            await hub.wait_reshaped(hub.shape)
    logs = []
    for stream in feed.streams():
        stores = selection.stores(stream)
        logs.append({
            "stream": stream.id,
            "path": os.fspath(stream.path),
            "live": not stream.complete,
            "whole": stores is None,
            "stores": [] if stores is None else sorted(stores),
        })
    return {"logs": logs, "chose": chose}

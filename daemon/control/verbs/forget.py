"""`forget`: ended recordings leave the spool. Files that were saved stay."""

from __future__ import annotations

import time

from daemon.control.server import Call
from daemon.selection import recordings_of, resolve
from daemon.wire.control import Message, VerbError


async def run(call: Call) -> Message:
    """Remove ended recordings.

    Args of the verb: source (selectors), or ended (all that have), or older_than_s (seconds since they ended); dry_run.

    Returns:
        recordings (their names), bytes (freed on disk), streams.

    Raises:
        VerbError: nothing fits, or something that fits is live or being read.
    """
    daemon, hub = call.daemon, call.daemon.hub
    source, age = call.texts("source"), call.number("older_than_s")
    recordings = recordings_of(hub.streams.values())
    if source:
        keys = resolve(source, hub.streams, time.time()).recordings
        chosen = [one for one in recordings if one.key in keys]
        live = [one.label for one in chosen if one.live]
        if live:
            raise VerbError("refused", f"still live: {', '.join(live)}", "wait until its program has ended")
    elif age is not None or call.flag("ended"):
        limit = time.time() - (age or 0)
        chosen = [one for one in recordings if not one.live and (one.ended_at or 0) <= limit]
    else:
        raise VerbError("usage", "forget: name recordings, or say --ended or --older-than")
    wanted = {one.key for one in chosen}
    # A log goes when everything in it may go.
    streams = {stream.id: stream for one in chosen for stream in one.streams
               if stream.complete and all(key in wanted for key in stream.recordings)}
    for sink in daemon.sinks.active():
        for stream in sink.feed.streams():
            if streams.pop(stream.id, None) is not None and source:
                raise VerbError("refused", f"sink {sink.id} still reads it: {sink.target}", f"rrd detach {sink.id}")
    return daemon.forget(list(streams.values()), dry_run=call.flag("dry_run"))

"""`forget`: ended recordings leave the spool. Files that were saved stay."""

from __future__ import annotations

import time
from collections.abc import Iterable

from daemon.control.server import Call
from daemon.selection import Recording, recordings_of, resolve
from daemon.stream import Stream
from daemon.wire.control import Message, VerbError

AT_ONCE = 2000
"""Streams that one answer is about: 80 bytes each as a rule, and names may be longer."""


async def run(call: Call) -> Message:
    """Remove ended recordings.

    Args of the verb: source (selectors, `stream:ID` too), or ended (all that have), or older_than_s (seconds since they
    ended); dry_run; after (what `more` said in the answer before).

    Returns:
        recordings (their names), bytes (freed on disk), streams.
        more: only if there are more than one message holds: say it again with `after` set to it.

    Raises:
        VerbError: nothing fits; something that was named is live, being read, or cannot be removed.
    """
    daemon, hub = call.daemon, call.daemon.hub
    source, age = call.texts("source"), call.number("older_than_s")
    recordings = recordings_of(hub.streams.values())
    if source:
        selection = resolve(source, hub.streams, hub.moment())
        chosen = [one for one in recordings if one.key in selection.recordings]
        live = [one.label for one in chosen if one.live]
        if live:
            raise VerbError("refused", f"still live: {', '.join(live)}", "wait until its program has ended")
        named = {stream.id: stream for one in chosen for stream in one.streams}
        _only(chosen, [stream for stream in named.values() if stream.id not in selection.streams])
        named |= {name: hub.streams[name] for name in sorted(selection.streams)}
        _removable(named.values())
        for sink in daemon.sinks.active():
            if any(stream.id in named for stream in sink.feed.streams()):
                raise VerbError("refused", f"sink {sink.id} still reads it: {sink.target}", f"rrd detach {sink.id}")
        return forget_some(call, list(named.values()))
    if age is None and not call.flag("ended"):
        raise VerbError("usage", "forget: name recordings, or say --ended or --older-than")
    limit = time.time() - (age or 0)
    wanted = {one.key for one in recordings if not one.live and (one.ended_at or 0) <= limit}
    read = {stream.id for sink in daemon.sinks.active() for stream in sink.feed.streams()}
    # A log goes when everything in it may go.
    streams = {stream.id: stream for one in recordings if one.key in wanted for stream in one.streams
               if stream.complete and stream.id not in read and wanted.issuperset(stream.recordings)}
    return forget_some(call, list(streams.values()))


def forget_some(call: Call, streams: list[Stream]) -> Message:
    """Remove as many as one answer can name, before any more: what is gone must be told.

    Returns:
        What `run` returns.

    Raises:
        VerbError: one cannot be removed; `after` is no number.
    """
    dry_run, after = call.flag("dry_run"), int(call.number("after") or 0)
    answer = call.daemon.forget(streams[after : after + AT_ONCE], dry_run=dry_run)
    if after + AT_ONCE < len(streams):
        answer["more"] = after + AT_ONCE if dry_run else after
    return answer


def _only(chosen: list[Recording], streams: Iterable[Stream]) -> None:
    """See that streams hold nothing but some recordings.

    Raises:
        VerbError: one does.
    """
    keys = {one.key for one in chosen}
    for stream in streams:
        more = sorted(key.label for key in stream.recordings.keys() - keys)
        if more:
            raise VerbError("refused", f"stream {stream.id} holds other recordings too: {', '.join(more)}",
                            f"name them too, or say stream:{stream.id}")


def _removable(streams: Iterable[Stream]) -> None:
    """See that streams are the spool's, and have ended.

    Raises:
        VerbError: one is not, or has not.
    """
    for stream in streams:
        if stream.kind == "file":
            raise VerbError("refused", f"not in the spool: {stream.path}", "a file that is read in place is yours: rm")
        if not stream.complete:
            raise VerbError("refused", f"still live: {stream.id}", "wait until its program has ended")

"""`ls`: the recordings in the spool."""

from __future__ import annotations

import os

from daemon.control.server import Call
from daemon.selection import Recording, recordings_of
from daemon.wire.control import Message


async def run(call: Call) -> Message:
    """List recordings, oldest first.

    Args of the verb: after (what `more` said in the answer before).

    Returns:
        recordings: what `rrd ls --json` prints; times are Unix seconds.
        more: only if there are more than one message holds: say ls again with `after` set to it.

    Raises:
        VerbError: `after` is no number.
    """
    after = int(call.number("after") or 0)
    recordings = recordings_of(call.daemon.hub.streams.values())
    answer: Message = {"recordings": [_describe(one) for one in recordings[after : after + AT_ONCE]]}
    if after + AT_ONCE < len(recordings):
        answer["more"] = after + AT_ONCE
    return answer


AT_ONCE = 500
"""Recordings in one answer: a kilobyte each and a message has room to spare."""


def _describe(recording: Recording) -> Message:
    versions = {stream.sdk_version for stream in recording.streams if stream.sdk_version}
    return {
        "recording_id": recording.key.recording_id,
        "application_id": recording.key.application_id,
        "state": "live" if recording.live else "ended",
        "messages": recording.messages,
        "bytes": recording.bytes,
        "started_at": recording.started_at,
        "ended_at": recording.ended_at,
        "sdk_version": ", ".join(".".join(map(str, version)) for version in sorted(versions)),
        "streams": [stream.id for stream in recording.streams],
        "program": recording.streams[-1].program,
        "paths": [os.fspath(stream.path) for stream in recording.streams],
        "error": "; ".join(filter(None, (stream.error or stream.stalled for stream in recording.streams))),
    }

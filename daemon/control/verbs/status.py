"""`status`: the daemon, what comes in, what goes out."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from pathlib import Path

from daemon import __version__, paths
from daemon.control.server import Call
from daemon.stream import Stream
from daemon.wire.control import PROTOCOL, Message


async def run(call: Call) -> Message:
    """Describe everything as it is now. Times are Unix seconds, sizes bytes.

    Returns:
        daemon, streams (those that have not ended), sinks.
    """
    daemon = call.daemon
    hub = daemon.hub
    return {
        "daemon": {
            "pid": os.getpid(),
            "version": __version__,
            "protocol": PROTOCOL,
            "socket": os.fspath(paths.socket_path()),
            "uptime_s": time.monotonic() - daemon.started,
            "rss_bytes": rss_bytes(),
            "spool": os.fspath(hub.directory),
            "spool_bytes": sum(stream.size for stream in hub.own()),
            "spool_free_bytes": shutil.disk_usage(hub.directory).free,
            **daemon.extra_status(),
        },
        "streams": [_stream(stream) for stream in hub.streams.values() if not stream.complete],
        "sinks": [sink.status() for sink in daemon.sinks.sinks.values()],
    }


def _stream(stream: Stream) -> Message:
    return {
        "id": stream.id,
        "kind": stream.kind,
        "state": "stalled" if stream.stalled else "finishing" if stream.ended else "live",
        "recordings": [{"application_id": app, "recording_id": name} for app, name in stream.recordings],
        "pid": stream.pid,
        "program": stream.program,
        "sdk_version": ".".join(map(str, stream.sdk_version)) if stream.sdk_version else "",
        "messages": stream.messages,
        "bytes": stream.committed,
        "started_at": stream.started_at,
        "error": stream.error or stream.stalled,
        "dropped_bytes": stream.dropped_bytes,
        "log": os.fspath(stream.path),
    }


def rss_bytes() -> int:
    """Resident memory of this process, bytes: now where the system says so, else its peak."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

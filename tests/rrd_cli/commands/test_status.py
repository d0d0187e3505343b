from __future__ import annotations

import json

from rrd_cli.commands import status

NOW = 1_800_000_000.0
DAEMON = {
    "pid": 4711, "version": "0.1.0", "socket": "/run/rrd/control.sock", "uptime_s": 300.0, "rss_bytes": 29_900_000,
    "protocol": 1, "grpc_url": "rerun+http://127.0.0.1:9876/proxy", "grpc_error": "", "spool": "/state/spool",
    "spool_bytes": 12_000_000, "spool_free_bytes": 74_500_000_000,
}  # fmt: skip
STREAM = {
    "id": "20261122-184841-d1c230", "kind": "shim", "state": "live", "pid": 12, "program": "demo.py", "messages": 3,
    "recordings": [{"application_id": "app", "recording_id": "rec"}], "bytes": 1100, "started_at": NOW - 2,
    "error": "", "dropped_bytes": 0,
}  # fmt: skip
SINK = {
    "id": "file-3ba6", "kind": "file", "target": "/data/run.rrd", "state": "following", "lag_messages": 0,
    "lag_bytes": 0, "delivered_messages": 1234, "skipped_messages": 0, "last_error": "", "source": "app/rec",
}  # fmt: skip
BEHIND = SINK | {
    "id": "viewer-01", "kind": "viewer", "target": "rerun+http://127.0.0.1:9999/proxy", "state": "retrying",
    "lag_messages": 1, "lag_bytes": 2_000_000, "delivered_messages": 0, "skipped_messages": 7,
    "last_error": "Connection refused",
}  # fmt: skip

QUIET = """\
rrd 0.1.0, pid 4711, up 5 min, 29.9 MB of memory
  gRPC    rerun+http://127.0.0.1:9876/proxy
  spool   /state/spool  (12.0 MB, 74.5 GB free)
  socket  /run/rrd/control.sock

streams  none

sinks    none   (rrd save OUT adds one)"""
BUSY = """\
rrd 0.1.0, pid 4711, up 5 min, 29.9 MB of memory
  gRPC    off: port 9876 is taken
  spool   /state/spool  (12.0 MB, 74.5 GB free)
  socket  /run/rrd/control.sock

STREAM                  KIND  RECORDING           STATE    MESSAGES    SIZE  STARTED  PROGRAM
20261122-184841-d1c230  shim  app/rec             live            3  1.1 kB  2 s ago  demo.py (pid 12)
20261122-184842-000000  shim  app/rec and 1 more  stalled         3  1.1 kB  2 s ago  demo.py (pid 12)
  20261122-184842-000000: No space left on device
  20261122-184842-000000: 5 B lost

SINK       KIND    STATE      LAG                DELIVERED  TARGET
file-3ba6  file    following  none                   1,234  /data/run.rrd
viewer-01  viewer  retrying   1 message, 2.0 MB          0  rerun+http://127.0.0.1:9999/proxy
  viewer-01: Connection refused
  viewer-01: 7 messages skipped"""


def show(answer):
    class Client:
        def call(self, verb):
            assert verb == "status"
            return answer

    return "\n".join(status.lines(status.fetch(Client()), now=NOW))


def test_quiet():
    assert show({"daemon": DAEMON, "streams": [], "sinks": []}) == QUIET


def test_busy():
    second = STREAM | {
        "id": "20261122-184842-000000", "recordings": STREAM["recordings"] * 2, "state": "stalled",
        "error": "No space left on device", "dropped_bytes": 5,
    }  # fmt: skip
    daemon = DAEMON | {"grpc_url": "", "grpc_error": "port 9876 is taken"}
    assert show({"daemon": daemon, "streams": [STREAM, second], "sinks": [SINK, BEHIND]}) == BUSY


def test_json_keys_are_pinned(fake, rrd):
    fake.on("status", {"daemon": {"pid": 1}, "sinks": [{"id": "x"}]})
    found = json.loads(rrd("status", "--json")[1])
    assert list(found) == ["daemon", "streams", "sinks"]
    assert list(found["daemon"]) == [
        "pid", "version", "socket", "uptime_s", "rss_bytes", "protocol", "grpc_url", "grpc_error", "spool",
        "spool_bytes", "spool_free_bytes",
    ]  # fmt: skip
    assert list(found["sinks"][0]) == [
        "id", "kind", "target", "state", "lag_messages", "lag_bytes", "delivered_messages", "skipped_messages",
        "last_error", "source",
    ]  # fmt: skip

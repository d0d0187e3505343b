"""A program that logs, and does what it is told to: the commands are described in tests/sdk/rust/src/main.rs."""

from __future__ import annotations

import argparse
import os
import sys
import time

import rerun as rr

import rrd


def main() -> None:
    parser = argparse.ArgumentParser()
    rrd.script_add_args(parser)
    parser.add_argument("--app", default="driver")
    parser.add_argument("--recording-id", default="one")
    parser.add_argument("--count", type=int)
    args = parser.parse_args()
    if args.count is not None:
        rec = rrd.script_setup(args, args.app, recording_id=args.recording_id)
        for row in range(args.count):
            log(rec, row)
        rrd.script_teardown(args)
        return
    program = Program(rr.RecordingStream(args.app, recording_id=args.recording_id))
    say("ready")
    for line in sys.stdin:
        try:
            answer = program.obey(*line.split())
        except rrd.Error as error:
            answer = f"error {error.code} {error}"
        say(answer)


def log(rec: rr.RecordingStream, row: int) -> None:
    rec.set_time("row", sequence=row)
    rec.log("log", rr.TextLog(f"row {row}"))


def say(line: str) -> None:
    print(line, flush=True)


class Program:
    """One method a command."""

    def __init__(self, rec: rr.RecordingStream) -> None:
        self.rec: rr.RecordingStream | None = rec
        self.rows = 0

    def obey(self, name: str, *words: str) -> str:
        if name == "abort":
            os.abort()
        if name == "end":
            self.rec = None
            return "ok"
        if self.rec is None:
            return "error - the recording has ended"
        return getattr(self, f"do_{name}")(self.rec, *words) or "ok"

    def do_log(self, rec: rr.RecordingStream, count: str, pause: str = "0") -> None:
        for _ in range(int(count)):
            log(rec, self.rows)
            self.rows += 1
            if pause != "0":
                time.sleep(int(pause) / 1e6)

    def do_attach(self, rec: rr.RecordingStream) -> str:
        stream = rrd.attach(rec)
        return f"ok {stream.id} - -" if stream.id else "buffering"

    def do_save(self, rec: rr.RecordingStream, path: str, *options: str) -> str:
        return self._shown(rrd.save(path, recording=rec, force="force" in options, copy="copy" in options), "-")

    def do_connect(self, rec: rr.RecordingStream, url: str) -> str:
        sink = rrd.connect(url, recording=rec)
        return self._shown(sink, sink.path)

    def do_serve(self, rec: rr.RecordingStream) -> str:
        sink = rrd.serve(recording=rec, open_browser=False)
        return self._shown(sink, sink.path)

    def do_flush(self, rec: rr.RecordingStream) -> None:
        rrd.flush(recording=rec)

    def do_durable(self, rec: rr.RecordingStream) -> None:
        rrd.flush(recording=rec, durable=True)

    def do_detach(self, _: rr.RecordingStream, sink: str) -> None:
        rrd.detach(sink)

    def do_disconnect(self, rec: rr.RecordingStream) -> None:
        rec.disconnect()

    def _shown(self, sink: rrd.Sink, url: str) -> str:
        assert self.rec is not None
        return f"ok {rrd.attach(self.rec).id} {sink.id} {url or '-'}" if sink.id else "buffering"


if __name__ == "__main__":
    main()

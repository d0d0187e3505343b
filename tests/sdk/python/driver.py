"""A program that logs, and does what it is told to: the commands are described in tests/sdk/rust/src/main.rs."""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

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
    program = Program(args.app, args.recording_id)
    say("ready")
    for line in sys.stdin:
        try:
            answer = program.obey(*line.split())
        except rrd.Error as error:
            answer = f"error {error.code} {error}"
        say(answer)


def log(rec: rr.RecordingStream, row: int) -> None:
    rec.set_time("frame", sequence=row)
    rec.log("row", rr.TextLog(f"row {row}"))


def say(line: str) -> None:
    print(line, flush=True)


class Program:
    """One method a command."""

    def __init__(self, app: str, recording_id: str) -> None:
        self.app = app
        self.others: list[rr.RecordingStream] = []
        self.begin(recording_id)

    def begin(self, recording_id: str) -> None:
        self.rec: rr.RecordingStream | None = rr.RecordingStream(self.app, recording_id=recording_id)
        self.rows = itertools.count()

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
        for row in itertools.islice(self.rows, int(count)):
            log(rec, row)
            if pause != "0":
                time.sleep(int(pause) / 1e6)

    def do_threads(self, rec: rr.RecordingStream, number: str, count: str) -> str:
        return self._together(int(number), lambda _: self.do_log(rec, count) or "ok")

    def do_crowd(self, rec: rr.RecordingStream, number: str) -> str:
        return self._together(int(number), lambda one: " ".join(self.do_save(rec, f"crowd-{one}.rrd").split()[:2]))

    def do_other(self, rec: rr.RecordingStream, recording_id: str) -> None:
        self.begin(recording_id)

    def do_second(self, _: rr.RecordingStream, path: str, count: str) -> str:
        second = rr.RecordingStream(self.app, recording_id="two")
        self.others.append(second)
        rrd.save(path, recording=second)
        for row in range(int(count)):
            log(second, row)
        return f"ok {rrd.attach(second).id} - -"

    def do_fork(self, _: rr.RecordingStream, how: str) -> str:
        child = os.fork()
        if child == 0:
            if how == "stay":
                signal.pause()
            sys.exit(0)  # with all that is to be done then
        status = os.waitpid(child, 0)[1] if how == "exit" else 0
        return f"ok {child}" if status == 0 else f"error - the child ended with {status}"

    def do_attach(self, rec: rr.RecordingStream) -> str:
        stream = rrd.attach(rec)
        return f"ok {stream.id} - -" if stream.id else "buffering"

    def do_save(self, rec: rr.RecordingStream, path: str, *options: str) -> str:
        last = next((float(option.removeprefix("last=")) for option in options if option.startswith("last=")), None)
        force, copy = "force" in options, "copy" in options
        return self._shown(rrd.save(path, recording=rec, force=force, copy=copy, last=last), "-")

    def do_spawn(self, rec: rr.RecordingStream, port: str) -> str:
        sink = rrd.spawn(recording=rec, port=int(port), headless=True)
        return self._shown(sink, sink.path)

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

    @staticmethod
    def _together(number: int, work: Callable[[int], str]) -> str:
        """The same thing in several threads at once: what all of them say, or what they say otherwise."""
        said: list[str] = []
        threads = [threading.Thread(target=lambda one=one: said.append(work(one))) for one in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return said[0] if said == [said[0]] * number else f"error - {said}"

    def _shown(self, sink: rrd.Sink, url: str) -> str:
        assert self.rec is not None
        return f"ok {rrd.attach(self.rec).id} {sink.id} {url or '-'}" if sink.id else "buffering"


if __name__ == "__main__":
    main()

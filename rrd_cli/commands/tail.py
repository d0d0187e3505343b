"""`rrd tail`: the messages of files and recordings, whole ones only, to standard output."""

from __future__ import annotations

import os
import stat
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.wire.control import VerbError
from rrd_cli import render, sources, tailing
from rrd_cli.client import Client, LostError
from rrd_cli.errors import CliError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EXAMPLES = """
rrd tail @latest | rerun -               what a run has logged so far, in a viewer
rrd tail -f @latest | rerun -            and all that it will
rrd tail -f run.rrd > copy.rrd           a valid file at any moment
rrd tail -n 100 run.rrd | rerun rrd print
"""

SOON, LATE = 0.01, 0.25
"""Seconds between two looks at a file that grows: a quarter of the time that it has been quiet, within these. What
comes five times a second is 25 ms late on average, and a file that nobody writes to costs four looks a second. There is
no inotify: it sees nothing of network file systems, so looking would have to stay beside it."""
LOOK_AGAIN = 1.0
"""Seconds between two looks for streams that have begun, when following @live."""
GRACE = 1.0
"""Seconds without a writer and without growth after which a file is taken to be finished."""
STDOUT = 1
LIVE = "@live"


def run(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help=".rrd files, or @latest, @live, @all, an application, a recording (or how its id begins).",
            show_default=False,
        ),
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the writer ends.")] = False,
    count: Annotated[
        int | None,
        typer.Option(
            "--lines", "-n", metavar="N", min=0,
            help="Only the last N messages, after the store infos, blueprints and static data that they need.",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Write whole messages to standard output: a valid .rrd stream at any moment.

    A complete file comes out byte for byte. Files need no daemon. With -f it ends when the writer does: at the
    stream's End, or when nobody has the file open for writing any more. `-f @live` waits for the first program, takes
    in what begins meanwhile, and ends with the last.
    """
    if sources.STDIN in source:
        raise UsageError("tail reads files and recordings, not standard input", "a file called -: ./-")
    if os.isatty(STDOUT):
        raise UsageError(
            "standard output is a terminal, and an .rrd stream is not for reading",
            "rrd tail ... > copy.rrd, or ... | rerun -, or ... | rerun rrd print",
        )
    sys.stdout.flush()
    files = [word for word in source if sources.is_file_name(word)]
    if files and len(files) != len(source):
        raise UsageError("files and recordings in one tail", "tail them one after the other, or save them as one file")
    if files:
        _tail_files([sources.readable_file(word) for word in files], follow, count)
    else:
        with Client() as client:
            _tail_recordings(client, source, follow, count)


def _open(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CliError(f"cannot read file: {error.strerror}: {path}") from error
    mine, output = os.fstat(fd), os.fstat(STDOUT)
    if stat.S_ISREG(output.st_mode) and (mine.st_dev, mine.st_ino) == (output.st_dev, output.st_ino):
        os.close(fd)
        raise CliError(f"input file is output file: {path}")
    return fd


class Tail:
    """Several readers, one output: the header first, then what each has.

    Args:
        readers: In order.
        count: Only so many messages of the past; None is all.
    """

    def __init__(self, readers: Sequence[tailing.Reader], count: int | None) -> None:
        self.readers = list(readers)
        self._out = tailing.Output(STDOUT)
        self._count = count
        self._headed = bool(readers) and readers[0].verbatim

    def pump(self) -> bool:
        """Write out what there is. True if there was something."""
        if not self._headed:
            headers = [header for reader in self.readers if (header := reader.header) is not None]
            if not headers:
                return False
            self._out.write(max(headers, key=lambda header: header.version[:3]).encode())
            self._headed = True
            if self._count is not None:
                for reader in self.readers:
                    reader.pump_last(self._out, self._count)
        moved = [reader.pump(self._out) for reader in self.readers]  # all of them, not only up to the first
        return any(moved)

    def replace(self, old: tailing.Reader) -> None:
        """A file was written anew under the same name: go on with that one's data frames, after what was sent."""
        fd = _open(old.path)
        old.close()
        fresh = tailing.Reader(old.path, fd, verbatim=False)
        self.readers[self.readers.index(old)] = fresh
        if self._out.written == 0:
            self._headed = False

    def close(self) -> None:
        """Give the descriptors back."""
        for reader in self.readers:
            reader.close()


def _tail_files(paths: Sequence[str], follow: bool, count: int | None) -> None:
    verbatim = len(paths) == 1 and count is None
    tail = Tail([tailing.Reader(path, _open(path), verbatim=verbatim) for path in paths], count)
    try:
        if not follow:
            tail.pump()
            for reader in tail.readers:
                _note_rest(reader)
            return
        _follow_files(tail)
    finally:
        tail.close()


def pause(quiet_since: float) -> float:
    """Seconds until the next look at a file from which nothing has come since then (of time.monotonic)."""
    return min(LATE, max(SOON, (time.monotonic() - quiet_since) / 4))


def _follow_files(tail: Tail) -> None:
    quiet_since = time.monotonic()
    ask = quiet_since + GRACE
    while True:
        if tail.pump():
            quiet_since = time.monotonic()
        for reader in list(tail.readers):
            if reader.replaced() or reader.shrunk():
                tail.replace(reader)
                quiet_since = time.monotonic()
        if all(reader.ended for reader in tail.readers):
            return
        asked = time.monotonic()
        if asked >= max(ask, quiet_since + GRACE):
            open_ones = [reader for reader in tail.readers if not reader.ended]
            written = all(tailing.has_writer(reader.fd) is False for reader in open_ones)
            if written and not tail.pump():  # that may still find what came between our last look and the end
                for reader in open_ones:
                    _note_rest(reader)
                return
            # To look through all processes takes long where there are many: a hundredth of a core for that.
            ask = time.monotonic() + max(GRACE, 100 * (time.monotonic() - asked))
        time.sleep(pause(quiet_since))


def _note_rest(reader: tailing.Reader) -> None:
    if reader.rest > 0 and not reader.ended:
        render.note(f"{render.plural(reader.rest, 'byte')} after the last whole message left out: {reader.path}")


def _tail_recordings(client: Client, source: Sequence[str], follow: bool, count: int | None) -> None:
    said = False

    def waiting(_: dict[str, Any]) -> None:
        nonlocal said
        if not said:  # it is told again and again
            render.note("nothing is live: waiting for a program")
        said = True

    args = {"source": list(source), "first": follow}
    # Asked once, @live means all that begins from then on: nothing is too short to be seen.
    logs = client.call("tail", args, on_progress=waiting)["logs"]
    if not logs:
        raise CliError("nothing is live", "-f waits for a program; what has ended: rrd tail @latest")
    verbatim = len(logs) == 1 and count is None and bool(logs[0]["whole"]) and LIVE not in source
    readers = {str(log["stream"]): _reader(log, verbatim=verbatim) for log in logs}
    tail = Tail(list(readers.values()), count)
    try:
        if follow:
            _follow_recordings(client, tail, source, readers)
        while tail.pump():
            pass
    finally:
        tail.close()


def _follow_recordings(
    client: Client, tail: Tail, source: Sequence[str], readers: dict[str, tailing.Reader]
) -> None:
    """Write out what comes until all has ended, what begins meanwhile included."""

    def join(logs: Sequence[dict[str, Any]]) -> None:
        for log in logs:
            name = str(log["stream"])
            if name not in readers:
                readers[name] = _reader(log, verbatim=False)
                tail.readers.append(readers[name])

    with Client(may_start=False) as second:

        def look() -> None:
            try:
                logs = second.call("tail", {"source": [LIVE]})["logs"]
            except (CliError, VerbError):
                return  # the daemon is away, which the first connection is told
            join(logs)

        while asked := [name for name, reader in readers.items() if reader.live]:
            # The newest recording may be another one when it is asked again, and what has ended is no longer @live.
            words = [word for word in source if word != "@latest"] + [f"stream:{name}" for name in asked]
            logs = _pump_until_ended(client, tail, words, look if LIVE in source else None)
            join(logs)
            told = {str(log["stream"]): bool(log["live"]) for log in logs}
            for name in {*asked, *told}:
                if not told.get(name):
                    readers[name].finish()


def _pump_until_ended(
    client: Client, tail: Tail, words: Sequence[str], look: Callable[[], None] | None
) -> list[dict[str, Any]]:
    """Write out what comes until all has ended or the daemon was away; returns the logs as they are then.

    Args:
        words: What is followed. Said once, they mean all of @live that began since, however short it was.
        look: Called now and then, to join what has begun while it is live.
    """
    args = {"source": list(words)}
    request = client.begin("tail", args | {"wait": True})
    again = time.monotonic() + LOOK_AGAIN
    quiet_since = time.monotonic()
    try:
        while True:
            if tail.pump():
                quiet_since = time.monotonic()
            answer = client.poll(request, pause(quiet_since))
            if answer is not None:
                return list(answer["logs"])
            if look is not None and time.monotonic() > again:
                look()
                again = time.monotonic() + LOOK_AGAIN
    except LostError:
        if client.stopping:
            raise
    return list(client.call("tail", args)["logs"])


def _reader(log: dict[str, Any], *, verbatim: bool) -> tailing.Reader:
    path = str(log["path"])
    stores = None if log["whole"] else log["stores"]
    return tailing.Reader(path, _open(path), verbatim=verbatim, stores=stores, live=bool(log["live"]))

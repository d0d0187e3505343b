"""`rrd run`: whose streams are a run's, and what is done with them.

    rrd run ── `run` ──> a Run; port 9876 is answered      program ── gRPC, shim, stdin ──> streams, matched to the Run
                         its outputs join each stream       `run_end` ──> waits until all of it is delivered

Rules: a stream is a run's when its process has the run's token in its environment (children inherit it, whatever
becomes of their parents), or descends from `rrd run`: so runs at the same time do not mix, nor do others' programs on
the same port. Whoever asked may die or come back: outputs are sinks like any other, and go on.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from daemon.ingest.grpc import GrpcServer
from daemon.selection import Selection
from daemon.sinks.file import FileSink
from daemon.sinks.runner import ACTIVE
from daemon.stream import RecordingKey, Stream

if TYPE_CHECKING:
    from daemon.app import Daemon

log = logging.getLogger("rrd.runs")

PORT = 9876
"""Rerun's own: where rr.spawn and rr.connect_grpc go when nobody tells them otherwise."""
VARIABLE = "RRD_RUN"
DEPTH = 64
"""Ancestors that are looked at."""


class Run:
    """One run.

    Attributes:
        streams: Its streams in the order they came.
        saved: Files that its program wrote by itself; known when it has ended.
        ended: Its program has ended.
    """

    def __init__(self, token: str, pid: int) -> None:
        self.token = token
        self.pid = pid
        self.streams: list[Stream] = []
        self.saved: list[str] = []
        self.ended = trio.Event()

    @property
    def recordings(self) -> dict[RecordingKey, list[Stream]]:
        """Its recordings with the streams that carry them."""
        found: dict[RecordingKey, list[Stream]] = {}
        for stream in self.streams:
            for key in stream.recordings:
                found.setdefault(key, []).append(stream)
        return found


class Runs:
    """All runs, and the port that they share."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._runs: dict[str, Run] = {}
        self._over: dict[str, list[str]] = {}
        self._server: GrpcServer | None = None
        self._holders = 0
        self._scope = trio.CancelScope()
        self._up = trio.Event()

    def begin(self, token: str, pid: int) -> Run:
        """A run begins, or is said again by a client that had lost its daemon."""
        run = Run(token, pid)
        self._runs[token] = run
        if token in self._over:
            run.saved = self._over[token]
            run.ended.set()
        for stream in self._daemon.hub.streams.values():
            if stream.meta.run == token:
                run.streams.append(stream)
            elif not stream.ended and belongs(stream, run):
                self._take(stream, run)
        return run

    def forget(self, run: Run) -> None:
        """Nobody asks for it any more."""
        if self._runs.get(run.token) is run:
            del self._runs[run.token]

    def end(self, token: str, saved: list[str]) -> None:
        """The program of a run has ended, and has written these files by itself."""
        self._over[token] = saved
        if token in self._runs:
            self._runs[token].saved = saved
            self._runs[token].ended.set()
            self._daemon.hub.reshaped()

    def opened(self, stream: Stream) -> None:
        """A stream begins: see whose it is, while its process surely lives."""
        for run in self._runs.values():
            if belongs(stream, run):
                self._take(stream, run)
                return

    def _take(self, stream: Stream, run: Run) -> None:
        stream.meta.run = run.token
        self._daemon.hub.describe(stream)
        run.streams.append(stream)

    # -- the port ----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def port(self) -> AsyncIterator[str]:
        """Answer Rerun's own port for one more run, until it is left.

        The port is given up when no run wants it and nobody is connected.

        Yields:
            Why it cannot be answered, or nothing.
        """
        self._holders += 1
        try:
            yield await self._answer_port()
        finally:
            self._holders -= 1
            if self._holders == 0 and self._server is not None:
                self._daemon.nursery.start_soon(self._close_when_idle, self._server, self._scope)

    async def _answer_port(self) -> str:
        own = self._daemon.grpc
        if own is not None and own.port == PORT:
            return own.error
        if self._server is None:
            # Its start is nobody's: a run that is given up meanwhile must not take it from those that wait with it.
            self._server, self._scope, self._up = GrpcServer(self._daemon.hub, PORT), trio.CancelScope(), trio.Event()
            self._daemon.nursery.start_soon(self._serve, self._server, self._scope, self._up)
        server = self._server
        await self._up.wait()
        return server.error

    async def _serve(self, server: GrpcServer, scope: trio.CancelScope, up: trio.Event) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve)
                up.set()

    async def _close_when_idle(self, server: GrpcServer, scope: trio.CancelScope) -> None:
        hub = self._daemon.hub
        while self._holders == 0 and server.connections:
            await hub.wait_reshaped(hub.shape)
        if self._holders == 0 and self._server is server:
            self._server = None
            scope.cancel()


def belongs(stream: Stream, run: Run) -> bool:
    """Whether a stream's process is one of a run's."""
    pid = stream.pid
    if not pid:
        return False
    if pid == run.pid or f"{VARIABLE}={run.token}".encode() in _environment(pid):
        return True
    for _ in range(DEPTH):
        pid = _parent(pid)
        if pid <= 1:
            return False
        if pid == run.pid:
            return True
    return False


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rsplit(b")", 1)[1].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def start_file(daemon: Daemon, key: RecordingKey, path: Path, *, force: bool, run: str = "") -> FileSink:
    """Write one recording to a file.

    Args:
        daemon: Where it is.
        key: The recording.
        path: Absolute.
        force: Replace a file that is there.
        run: Only what this run logged of it: a program may give each run the same recording id.

    Raises:
        OSError: the file is there (FileExistsError), or cannot be made.
    """
    sink = FileSink(daemon.hub, Selection(key.label, frozenset([key]), within=run), path, force=force)
    daemon.sinks.add(sink)
    return sink


def file_sink_of(daemon: Daemon, path: Path) -> FileSink | None:
    """The active sink that writes a path."""
    real = os.path.realpath(path)
    for sink in daemon.sinks.sinks.values():
        if isinstance(sink, FileSink) and sink.state in ACTIVE and os.path.realpath(sink.path) == real:
            return sink
    return None

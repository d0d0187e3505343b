"""The daemon's process: what runs in it, in which order it comes up, and how it goes down.

    up     settings, spool, descriptors handed on -> streams flow again -> sinks -> control socket -> READY=1
    down   told to stop: clients are told, then everything is cancelled; logs and sinks are files, the next daemon
           goes on with them. Killed: the same without the telling.

    nursery
      ├ complete_streams     footers for logs that ended
      ├ a Pump a stream      pipe -> log
      ├ a sink each          log -> output
      ├ control.Server       verbs
      └ signals, the keeper's death

Rules: a stream's descriptor is stored with the keeper before its client hears of it; whatever is wrong with one stream,
sink or client stays there; what remains is a bug in what all share, ends the process, and the keeper starts the next
one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import trio

from daemon import __version__, descriptors, paths, settings
from daemon.auto import Auto
from daemon.completing import complete_streams, finish_file
from daemon.control.server import Client, Server, load_verbs
from daemon.hub import Hub
from daemon.ingest.grpc import GrpcServer
from daemon.ingest.pipe import Pump, set_pipe_size
from daemon.keeper import EXIT_CONFIG
from daemon.processes import open_pidfd, process_started, wait_ended
from daemon.runs import Runs
from daemon.selection import recordings_of
from daemon.sinks.file import FileSink
from daemon.sinks.runner import Sink, SinkSet, describe
from daemon.sinks.viewer import ViewerSink
from daemon.sinks.web import WebSink
from daemon.spool.retention import Candidate, choose
from daemon.stream import UNKNOWN, Stream
from daemon.systemd import service
from daemon.systemd.service import ask_for_time, feed_watchdog
from daemon.takeover import Takeover
from daemon.wire import control
from daemon.wire.control import Message, VerbError

log = logging.getLogger("rrd")

SINKS: dict[str, type[Sink]] = {sink.kind: sink for sink in (FileSink, ViewerSink, WebSink)}
"""Sink classes by kind, for what an earlier run left."""
LAST_WORDS_S = 1.0
"""How long clients get to read that the daemon stops."""
LOOK_S = 1.0
"""How often it is looked whether a program lives that nothing tells the end of."""
KEEPER_LOST = -1
"""Exit status inside this module: become the keeper."""


class Daemon:
    """Everything there is, for the verbs.

    Attributes:
        hub, sinks: Streams and outputs.
        pumps: By stream id.
        started: On the monotonic clock, seconds.
        watchdog_s: How often systemd wants to hear of us, seconds; None: never.
    """

    def __init__(self, config: settings.Settings, notifier: descriptors.Notifier) -> None:
        self.settings = config
        self.notifier = notifier
        self.hub = Hub(paths.make_private(paths.state_dir() / "spool"))
        self.hub.on_end = self._stream_ended
        self.hub.make_room = self.make_room
        self.runs = Runs(self)
        self.hub.on_open = self.runs.opened
        self.pumps: dict[str, Pump] = {}
        self.watchdog_s: float | None = None
        self.started = time.monotonic()
        self.sinks: SinkSet
        self.server: Server
        self.nursery: trio.Nursery
        self.grpc: GrpcServer | None = None
        self.takeover: Takeover | None = None
        self._owners: dict[str, Client] = {}
        self._stop = trio.Event()
        self._status = 0
        self._ready = False
        self._kept: set[str] = set()
        self._pipe_bytes: dict[str, int] = {}

    # -- running -----------------------------------------------------------------------------------------------------

    async def run(self, inherited: list[tuple[str, int]]) -> int:
        """Run until stopped.

        Args:
            inherited: Descriptors from the keeper, or systemd.

        Returns:
            The exit status.
        """
        by_name = dict(inherited)
        async with trio.open_nursery() as self.nursery:
            await self.nursery.start(complete_streams, self.hub)
            self.nursery.start_soon(self._signals)
            if self.watchdog_s:
                self.nursery.start_soon(feed_watchdog, self.notifier, self.watchdog_s)
            if descriptors.ALIVE in by_name:
                self.nursery.start_soon(self._watch_keeper, by_name[descriptors.ALIVE])
            await self._take_up(by_name)
            self.sinks = SinkSet(
                self.hub, paths.make_private(paths.state_dir() / "sinks"), self.nursery, SINKS)
            self.sinks.restore()
            self._ready = True
            self.server = Server(self, _listeners(inherited))
            await self._start_services()
            await self.nursery.start(self.server.run)
            self.make_room()
            self._tell("READY=1", f"STATUS=rrd {__version__}")
            log.info("rrd %s is ready: %d recordings", __version__, len(recordings_of(self.hub.streams.values())))
            self.nursery.start_soon(load_verbs)
            await self._stop.wait()
            if self._status == 0:
                self._tell("STOPPING=1")
                await self._last_words()
            self.nursery.cancel_scope.cancel()
        return self._status

    def _tell(self, *lines: str) -> None:
        try:
            self.notifier.tell(*lines)
        except OSError as error:
            log.debug("keeper: %s", error)  # it is gone: `_watch_keeper` sees to that

    async def _start_services(self) -> None:
        """Start what else listens or watches."""
        if self.settings.grpc_port >= 0:
            self.grpc = GrpcServer(self.hub, self.settings.grpc_port, newest_first=self.settings.newest_first)
            await self.nursery.start(self.grpc.serve)
        if self.settings.takeover:
            self.takeover = Takeover(self)
            await self.nursery.start(self.takeover.server.serve)
        self.nursery.start_soon(Auto(self, paths.state_dir() / "auto.json").run)

    def extra_status(self) -> Message:
        """What services add to `status`."""
        errors = [self.grpc.error] if self.grpc is not None else []
        if self.takeover is not None:
            errors.append(self.takeover.status)
        return {
            "grpc_url": self.grpc.url if self.grpc is not None else "",
            "grpc_error": "; ".join(error for error in errors if error),
        }

    def stop_soon(self, status: int) -> None:
        """End the process with a status once what is being answered is answered."""
        self._status = status
        self._stop.set()

    async def _last_words(self) -> None:
        with trio.move_on_after(LAST_WORDS_S):
            async with trio.open_nursery() as nursery:
                for client in list(self.server.clients):
                    nursery.start_soon(client.send, control.event("stopping", {}))

    async def _signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number != signal.SIGHUP:
                    log.info("stopping on %s", signal.Signals(number).name)
                    self.stop_soon(0)
                    continue
                try:
                    self.reload()
                except settings.SettingsError as error:
                    log.error("%s; the old settings stay", error)

    async def _watch_keeper(self, alive: int) -> None:
        await trio.lowlevel.wait_readable(alive)
        log.warning("the keeper is gone, becoming one")
        self.stop_soon(KEEPER_LOST)

    def reload(self) -> None:
        """Read the settings again.

        Raises:
            SettingsError: they cannot be used; the old ones stay.
        """
        self.settings = settings.load()
        logging.getLogger().setLevel(self.settings.log_level.upper())
        log.info("settings read again")
        self.hub.reshaped()  # new rules may fit what is there

    # -- streams -----------------------------------------------------------------------------------------------------

    async def _take_up(self, by_name: dict[str, int]) -> None:
        """Go on with the streams of the daemon before."""
        fds = {name.removeprefix(descriptors.STREAM_PREFIX): fd for name, fd in by_name.items()
               if name.startswith(descriptors.STREAM_PREFIX)}
        self._kept |= set(fds)
        unfinished = self.hub.unfinished()
        async with trio.open_nursery() as asking:
            asking.start_soon(ask_for_time, self.notifier, f"reading {len(unfinished)} unfinished recordings")
            async with trio.open_nursery() as nursery:
                for stream in unfinished:
                    nursery.start_soon(self._go_on, stream, fds.pop(stream.id, -1))
            asking.cancel_scope.cancel()
        for name, fd in fds.items():
            os.close(fd)
            self._give_back(name)

    async def _go_on(self, stream: Stream, fd: int) -> None:
        """Go on with one: all are read before the first sink runs, which could not know else what is in them.

        Args:
            fd: Its pipe; -1 if nobody kept it.
        """
        reason = stream.meta.reason or "ended while there was no daemon"
        if fd >= 0 and stream.kind == UNKNOWN:
            stream.meta.ended_at = stream.meta.ended_moment = None  # its description is lost, its pipe is not
        try:
            await self.hub.take_up(stream)
        except OSError as error:
            log.error("cannot go on with stream %s: %s", stream.id, error)
            reason = f"cannot go on: {error}"
        else:
            if fd >= 0 and not stream.ended_at:
                self._start_pump(stream, fd)
                return
            if not stream.ended_at and self._await_return(stream):
                return
        if fd >= 0:
            os.close(fd)
        self.hub.end_stream(stream, reason)

    def _await_return(self, stream: Stream) -> bool:
        """Nobody kept the pipe: if its program lives, the shim will bring it again. False: it does not live."""
        if stream.kind != "shim" or stream.pid is None:
            return False
        try:
            pidfd = self._open_program(stream)
        except ProcessLookupError:
            return False
        self.nursery.start_soon(self._end_with_process, stream, pidfd)
        return True

    async def _end_with_process(self, stream: Stream, pidfd: int) -> None:
        if pidfd >= 0:
            try:
                await wait_ended(pidfd)
            finally:
                os.close(pidfd)
        else:
            while (  # noqa: ASYNC110 - nothing tells
                stream.id not in self.pumps and process_started(stream.pid or 0) == stream.meta.pid_started
            ):
                await trio.sleep(LOOK_S)
        if stream.id not in self.pumps:
            self.hub.end_stream(stream, "the program has ended")

    def _open_program(self, stream: Stream) -> int:
        """A descriptor that becomes readable when a shim's program ends; see open_pidfd.

        Raises:
            ProcessLookupError: it has ended.
        """
        pid = stream.pid or 0
        pidfd = open_pidfd(pid)
        if process_started(pid) != stream.meta.pid_started:
            if pidfd >= 0:
                os.close(pidfd)
            raise ProcessLookupError(errno.ESRCH, "the pid is somebody else's by now")
        return pidfd

    async def open_stream(self, fds: list[int], client: Client, *, kind: str, application_id: str, recording_id: str,
                          sdk: str, program: str) -> Stream:
        """Begin a stream that a descriptor delivers.

        Args:
            fds: One descriptor; it is taken out.

        Raises:
            VerbError: the spool cannot be written to.
        """
        pid = client.pid or None
        started = process_started(pid) if pid else None
        program = os.path.basename(program) or (process_name(pid) if pid else "")
        try:
            stream = self.hub.open_stream(kind=kind, application_id=application_id, recording_id=recording_id,
                                          sdk=sdk, pid=pid, pid_started=started, program=program)
        except OSError as error:
            raise VerbError("failed", f"cannot write to the spool: {error.strerror}: {self.hub.directory}",
                            "rrd gc frees what may go") from error
        self._adopt(stream, fds.pop(), client)
        await trio.lowlevel.checkpoint()
        return stream

    async def resume_stream(self, name: str, fds: list[int], client: Client) -> Stream:
        """Go on with a stream whose program has come back after daemon and keeper had died.

        Raises:
            VerbError: there is no such stream, it has ended, or its log cannot be read.
        """
        stream = self.find_stream(name)
        if stream.ended:
            raise VerbError("not-found", f"stream {name} has ended: {stream.meta.reason}", "open a new one")
        if name in self.pumps:
            client.streams.add(name)  # the keeper held the pipe: it flows already
            self._owners[name] = client
            return stream
        try:
            await self.hub.take_up(stream)
        except OSError as error:
            raise VerbError("failed", f"cannot go on with stream {name}: {error}") from error
        if stream.ended:
            raise VerbError("not-found", f"stream {name} has ended: {stream.meta.reason}", "open a new one")
        if name not in self.pumps:
            self._adopt(stream, fds.pop(), client)
        return stream

    def _adopt(self, stream: Stream, fd: int, client: Client) -> None:
        os.set_inheritable(fd, False)
        client.streams.add(stream.id)
        self._owners[stream.id] = client
        try:
            self.notifier.store(descriptors.STREAM_PREFIX + stream.id, fd)
            self._kept.add(stream.id)
        except OSError as error:
            log.warning("nobody keeps stream %s: %s", stream.id, error)
        self._start_pump(stream, fd)

    def _start_pump(self, stream: Stream, fd: int) -> None:
        self._pipe_bytes[stream.id] = set_pipe_size(fd, sum(self._pipe_bytes.values()))
        pidfd, closing = -1, ""
        if stream.kind == "shim" and stream.pid:
            try:
                pidfd = self._open_program(stream)
            except ProcessLookupError:
                closing = "the program has ended"
        pump = self.pumps[stream.id] = Pump(self.hub, stream, fd, pidfd)
        if closing:
            pump.close(closing)
        self.nursery.start_soon(pump.run)

    def _stream_ended(self, stream: Stream) -> None:
        self.pumps.pop(stream.id, None)
        self._pipe_bytes.pop(stream.id, None)
        self._give_back(stream.id)
        owner = self._owners.pop(stream.id, None)
        if owner is not None:
            owner.streams.discard(stream.id)
            told = control.event("ended", {"stream": stream.id, "reason": stream.meta.reason, "error": stream.error})
            self.nursery.start_soon(owner.send, told)
        self.make_room()

    def _give_back(self, name: str) -> None:
        if name in self._kept:
            self._kept.discard(name)
            try:
                self.notifier.remove(descriptors.STREAM_PREFIX + name)
            except OSError as error:
                log.debug("keeper: %s", error)

    def find_stream(self, name: str) -> Stream:
        """A stream by its id.

        Raises:
            VerbError: there is none.
        """
        stream = self.hub.streams.get(name)
        if stream is None:
            raise VerbError("not-found", f"no such stream: {name}", "rrd status lists the streams")
        return stream

    # -- retention ---------------------------------------------------------------------------------------------------

    def expired(self, *, full: bool = False) -> list[Stream]:
        """Ended streams that retention would remove now; at least one, if there is one, where the disk is `full`."""
        hub = self.hub
        own = hub.own()
        free, min_free = self.room()
        chosen = choose(
            self._candidates(own),
            total=sum(stream.size for stream in own if stream.ended),
            free=free,
            max_bytes=self.settings.spool_max_bytes,
            min_free=min_free,
            full=full,
        )
        return [hub.streams[name] for name in chosen]

    def room(self) -> tuple[int, int]:
        """Bytes that are free on the spool's disk, and how many are to stay so.

        Of a small disk a twentieth: the default would leave nothing of it.
        """
        disk = shutil.disk_usage(self.hub.directory)
        return disk.free, min(self.settings.spool_min_free_bytes, disk.total // 20)

    def _candidates(self, streams: list[Stream]) -> Iterator[Candidate]:
        read = {stream.id for sink in self.sinks.active() for stream in sink.feed.streams()}
        for stream in streams:
            if stream.complete and stream.id not in read:
                with contextlib.suppress(OSError):
                    alone = stream.path.stat().st_nlink == 1
                    yield Candidate(stream.id, stream.ended_at or 0.0, stream.size, stream.size if alone else 0)

    def make_room(self, full: bool = False) -> int:
        """Apply retention.

        Args:
            full: The disk has just refused bytes: as `expired`.

        Returns:
            Bytes freed on disk.
        """
        if not self._ready:
            return 0  # what the sinks of the daemon before still read is not known yet
        try:
            freed = self.forget(self.expired(full=full), dry_run=False)
        except (VerbError, OSError) as error:
            log.error("retention: %s", error.message if isinstance(error, VerbError) else error)
            return 0
        if freed["streams"]:
            log.info("retention removed %s, %d bytes", ", ".join(freed["recordings"]), freed["bytes"])
        return int(freed["bytes"])

    def forget(self, streams: list[Stream], *, dry_run: bool) -> Message:
        """Remove ended streams from the spool.

        Returns:
            streams (ids), recordings (names), bytes (freed).

        Raises:
            VerbError: some could not be removed; the others were.
        """
        gone: list[Stream] = []
        problems: list[str] = []
        freed = 0
        for stream in streams:
            try:
                if dry_run:
                    with contextlib.suppress(FileNotFoundError):
                        found = stream.path.stat()
                        freed += found.st_size if found.st_nlink == 1 else 0
                else:
                    freed += self.hub.forget(stream)
            except OSError as error:
                problems.append(f"cannot remove stream {stream.id}: {describe(error)}")
            else:
                gone.append(stream)
        if problems:
            raise VerbError("failed", "; ".join(problems), "the others were removed" if gone else "")
        names = sorted({key.label for s in gone for key in s.recordings})
        return {"streams": [stream.id for stream in gone], "recordings": names, "bytes": freed}


def process_name(pid: int) -> str:
    """What a program is called: its script or module for Python, else its executable; empty if it is not known."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = [word.decode(errors="replace") for word in file.read(4096).split(b"\0") if word]
    except OSError:
        return ""
    if not words:
        return ""
    if os.path.basename(words[0]).startswith("python"):
        for word in words[1:]:
            if not word.startswith("-"):
                return os.path.basename(word)
    return os.path.basename(words[0])


def _listeners(inherited: list[tuple[str, int]]) -> list[socket.socket]:
    """The control sockets that were handed over."""
    # systemd calls a socket by its unit unless told otherwise.
    found = [socket.socket(fileno=fd) for name, fd in inherited
             if name not in (descriptors.ALIVE, descriptors.NOTIFY) and not name.startswith(descriptors.STREAM_PREFIX)]
    if not found:
        raise SystemExit("rrd-daemon: no socket was handed over; run `rrd daemon start`")
    for listener in found:
        listener.setblocking(False)
    return found


def _become_keeper(daemon: Daemon, inherited: list[tuple[str, int]]) -> None:
    """Execute the keeper in this process, with everything that it should hold."""
    held = [(name, fd) for name, fd in inherited if name in (descriptors.CONTROL, descriptors.SPARE)]
    held += [(descriptors.STREAM_PREFIX + name, pump.fd) for name, pump in daemon.pumps.items() if pump.fd >= 0]
    environment = descriptors.bequeath(held, os.environ)
    environment.pop("NOTIFY_SOCKET", None)
    os.execve(sys.executable, [sys.executable, "-m", "daemon.keeper"], environment)


def main() -> int:
    """Run the daemon under a keeper, or systemd. Returns the exit status."""
    environment = dict(os.environ)
    inherited = descriptors.inherited(environment)
    notify = environment.pop("NOTIFY_SOCKET", "")
    os.environ.clear()
    os.environ.update(environment)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    if service.to_journal(environment):
        logging.getLogger().handlers[0].setFormatter(service.JournalFormatter())
    try:
        config = settings.load()
        logging.getLogger().setLevel(config.log_level.upper())
        lock = -1 if descriptors.ALIVE in dict(inherited) else service.be_the_only_one()
        service.own_the_spool()
        finishers = service.outlast_finishers()
        daemon = Daemon(config, descriptors.Notifier.of(dict(inherited), notify))
        daemon.hub.finish = partial(finish_file, hold=[finishers] if finishers >= 0 else [])
        daemon.hub.load()
        daemon.watchdog_s = service.watchdog_period(environment)
    except settings.SettingsError as error:
        log.error("%s; %s", error, error.hint)
        return EXIT_CONFIG
    except (paths.PathError, OSError) as error:
        log.error("%s", error)
        return EXIT_CONFIG
    status: Any = trio.run(daemon.run, inherited)
    if lock >= 0:
        os.close(lock)
    if status == KEEPER_LOST:
        _become_keeper(daemon, inherited)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())

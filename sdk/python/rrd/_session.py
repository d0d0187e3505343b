"""The streams of this process, its connection to the daemon, and the one thread that watches over both.

    attach ── pipe ── open(read end) ──> daemon          the SDK saves to the write end's path
                │
                │   both ends stay open here, so that the SDK never meets a broken pipe, whatever happens to the daemon
                └── event "ended" ──> both ends closed

    connected ──EOF──> away ──dial, hello, open(stream=...)──> connected
                        │  nobody listens for 2 s, and it was no intended stop: start one, once
                        └─ nobody has the keeper's lock: the pipes are emptied into the logs (_spill)

Rules: no wake-ups while connected and idle; nothing here raises into the program because the daemon is missing; a
forked child has nothing of its parent's but must not disturb it either, and may attach anew; nothing blocks at exit
while a daemon or a keeper lives, for they hold the pipes.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from . import _launch, _sdk, _spill
from ._connection import Connection
from ._errors import ConnectionLost, Error, Unreachable, forget_warnings, warn
from ._wire import Message

if TYPE_CHECKING:
    import rerun as rr

RESTART_AFTER = 2.0
"""Seconds without anybody listening after which the keeper must be dead, too: it needs one at most."""
RETRY_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between attempts to reach the daemon again; the last one is repeated."""
EXIT_SECONDS = 10.0
"""How long the end of the program may take to find a home for what is still in the pipes."""
START_AGAIN_AFTER = 30.0
"""Seconds after a daemon could not be started in which calls do not try that again: each try may take ten."""
GREETINGS = 10
"""Daemons in a row that may die while they are greeted, before there is said to be none."""
SPILL_SLICE = 0.05
"""Seconds the locks are held at most in one go while the program runs: a keeper may want to start."""


class Stream:
    """One recording on its way to the daemon.

    Attributes:
        id: The stream's id at the daemon.
        log: Absolute path of its log.
        sinks: Sinks that this program asked for: id by absolute path.
    """

    def __init__(self, target: _sdk.Target, read_end: int, write_end: int, stream_id: str, log: str) -> None:
        self.id = stream_id
        self.log = log
        self.application_id = target.application_id
        self.recording_id = target.recording_id
        self.identity = target.identity
        self.sdk = _sdk.sdk_name()
        self.read_end = read_end
        self.write_end = write_end
        self.inode = os.fstat(read_end).st_ino
        self.sinks: dict[str, str] = {}

    def open_args(self) -> Message:
        """What the daemon is told of the stream when it is opened, or taken up again."""
        return {**describe(self.application_id, self.recording_id), "stream": self.id}

    def belongs_to(self, target: _sdk.Target) -> bool:
        """Is it this recording's?"""
        same_ids = (self.application_id, self.recording_id) == (target.application_id, target.recording_id)
        return same_ids and self.identity == target.identity

    def sdk_ends(self) -> list[int] | None:
        """The SDK's own descriptors of the pipe; none once its sink was replaced; None: the system does not say."""
        return _sdk.writes_to(self.inode, frozenset((self.read_end, self.write_end)))

    def alive(self) -> bool:
        """Does the SDK still write to it, as far as one can know?"""
        return self.sdk_ends() != []

    def close(self) -> None:
        """Close both ends."""
        os.close(self.read_end)
        os.close(self.write_end)


def describe(application_id: str, recording_id: str) -> Message:
    """The arguments of `open`, but for the stream."""
    return {
        "application_id": application_id,
        "recording_id": recording_id,
        "sdk": _sdk.sdk_name(),
        "kind": "shim",
        "pid": os.getpid(),
        "program": _sdk.program(),
    }


class Session:
    """Everything that the shim knows in one process.

    Two locks: `_door` is held while a connection is made or a stream opened, which may take seconds; `_table` guards
    the fields and is held for moments only. Whoever needs both takes `_door` first.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.streams: list[Stream] = []
        self._door = threading.RLock()
        self._table = threading.Lock()
        self._connection: Connection | None = None
        self._watcher: threading.Thread | None = None
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        self._stopping = False
        self._away_since = 0.0
        self._restarted = False
        self._not_startable_since = float("-inf")
        self._last_spill: _LastSpill | None = None

    # -- the connection ------------------------------------------------------------------------------------------

    def connected(self, *, start: bool, deadline: float = math.inf) -> Connection:
        """The connection; made now if there is none, and every live stream told about on it.

        Args:
            start: Start a daemon if nobody listens.
            deadline: When (`time.monotonic()`) to give up, if that is sooner than usual.

        Raises:
            Unreachable: there is no daemon, it does not answer, or nobody would read its answers.
        """
        with self._at_the_door(deadline):
            current = self._connection
            if current is not None and not current.hung_up():
                return current
            connection = self._greeted(start=start, deadline=deadline)
            try:
                self._watch()
            except Unreachable:
                connection.close()
                raise
            with self._table:
                self._connection = connection
                self._away_since = 0.0
                self._stopping = self._restarted = False
            forget_warnings("away", "absent")
            self._wake()
            return connection

    @contextlib.contextmanager
    def _at_the_door(self, deadline: float) -> Iterator[None]:
        """Hold `_door`. Who has it may be waiting for a daemon that hangs.

        Raises:
            Unreachable: it was not to be had in time.
        """
        seconds = -1 if deadline == math.inf else max(0.0, deadline - time.monotonic())
        if not self._door.acquire(timeout=seconds):
            raise Unreachable("another thread still waits for the daemon", "see `rrd daemon logs`")
        try:
            yield
        finally:
            self._door.release()

    def _greeted(self, *, start: bool, deadline: float) -> Connection:
        """A new connection on which hello and every live stream have been said.

        Raises:
            Unreachable: there is no daemon, or it does not answer.
        """
        for again in range(GREETINGS):
            connection = Connection(self._dial(start=start, deadline=deadline))
            try:
                connection.hello(deadline)
                for stream in list(self.streams):
                    self._resume(connection, stream, deadline)
            except ConnectionLost:
                # It died as it was asked. Its keeper listens on, and has the next one up within a second.
                connection.close()
                time.sleep(max(0.0, min(0.1 * again, deadline - time.monotonic())))
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise Unreachable("the daemon went away while it was asked", nobody=True)

    def _dial(self, *, start: bool, deadline: float) -> socket.socket:
        may_start = start and time.monotonic() > self._not_startable_since + START_AGAIN_AFTER
        try:
            return _launch.connect(start=may_start, deadline=deadline)
        except Unreachable:
            now = time.monotonic()
            if may_start and now < deadline:  # else it was not given the time to start
                self._not_startable_since = now
            raise

    def _resume(self, connection: Connection, stream: Stream, deadline: float) -> None:
        try:
            connection.exchange("open", stream.open_args(), [stream.read_end], deadline=deadline)
        except Error as error:
            # It has ended for the daemon: with nothing left to say that is as it should be.
            lost = _spill.unread(stream.read_end)
            if lost or stream.alive():
                warn(f"the daemon does not take stream {stream.id} up again: {error}", "what is logged now is not kept")
            self._remove(stream)

    def call(self, verb: str, args: Message, *, timeout: float | None = 60.0, repeat: bool = True) -> Message:
        """Say a verb; say it again if the daemon went away meanwhile.

        Args:
            verb: Which.
            args: Its arguments.
            timeout: Seconds to wait at most, for a connection and for the answer; None: as long as it takes.
            repeat: May it be said twice?

        Raises:
            Error: it was refused, or did not work; code "timeout" if there was no answer in time.
            Unreachable: there is no daemon, or no connection in time.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        for again in range(10):
            connection = self.connected(start=True, deadline=deadline)
            left = None if timeout is None else max(0.0, deadline - time.monotonic())
            try:
                return connection.request(verb, args, timeout=left)
            except ConnectionLost as error:
                if not repeat:
                    raise Error("failed", f"the daemon went away during {verb}", "see `rrd status`") from error
            except Error as error:
                if error.code != "stopping":
                    error.repeated = again > 0
                    raise
                connection.lose()
        raise Unreachable(f"the daemon keeps going away during {verb}", "see `rrd daemon logs`")

    # -- streams -------------------------------------------------------------------------------------------------

    def find(self, target: _sdk.Target) -> Stream | None:
        """The live stream of a recording."""
        with self._table:
            candidates = [stream for stream in self.streams if stream.belongs_to(target)]
        return next((stream for stream in reversed(candidates) if stream.alive()), None)

    def attach(
        self, target: _sdk.Target, default_blueprint: rr.BlueprintLike | None = None, *, low_latency: bool = False
    ) -> Stream:
        """The stream of a recording; opened now if it has none.

        Args:
            target: The recording.
            default_blueprint: As in `rerun.save`.
            low_latency: Batch as for a viewer, should the stream be opened now.

        Raises:
            Error: the daemon refuses the stream.
            Unreachable: there is no daemon.
        """
        with self._door:
            found = self.find(target)
            if found is not None:
                self.connected(start=True)
                if default_blueprint is not None:
                    _sdk.send_default_blueprint(target, default_blueprint)
                return found
            stream = self._open(target)
            with contextlib.ExitStack() as undo:
                # Without a sink that writes to it, it is of no use. The daemon sees the end of the pipe.
                undo.callback(self._remove, stream)
                _sdk.save_into(target, stream.write_end, default_blueprint, low_latency=low_latency)
                undo.pop_all()
            return stream

    def _open(self, target: _sdk.Target) -> Stream:
        for _ in range(10):
            connection = self.connected(start=True)
            # A new pipe each time: nobody knows whether a daemon that went away has begun to read the last one.
            read_end, write_end = os.pipe()
            with contextlib.ExitStack() as undo:
                undo.callback(os.close, read_end)
                undo.callback(os.close, write_end)
                try:
                    args = describe(target.application_id, target.recording_id)
                    answer = connection.request("open", args, [read_end], timeout=_launch.ANSWER_SECONDS)
                except ConnectionLost:
                    continue
                except Error as error:
                    if error.code == "timeout":
                        raise Unreachable(error.message, error.hint) from error
                    if error.code != "stopping":
                        raise
                    connection.lose()
                    continue
                stream = Stream(target, read_end, write_end, str(answer["stream"]), str(answer["log"]))
                undo.pop_all()
            with self._table:
                self.streams.append(stream)
            return stream
        raise Unreachable("the daemon keeps going away", "see `rrd daemon logs`")

    def _remove(self, stream: Stream) -> None:
        with self._table:
            if stream not in self.streams:
                return
            self.streams.remove(stream)
        stream.close()

    def own_sink(self, stream: Stream, path: str, *, last: bool) -> str:
        """The id of a sink that already writes this stream to this path, all of it or its last seconds; or empty."""
        try:
            sinks = self.call("status", {}).get("sinks", [])
        except (Error, Unreachable):
            return ""
        for sink in sinks:
            if sink.get("target") != path or sink.get("state") in ("failed", "detached") or ("last" in sink) != last:
                continue
            if sink.get("id") == stream.sinks.get(path) or stream.id in str(sink.get("source", "")):
                return str(sink.get("id", ""))
        return ""

    # -- the watcher ---------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Start the watcher, if it does not run.

        Raises:
            Unreachable: no thread can be started: there are too many, or the interpreter is ending (Python 3.12).
        """
        if self._watcher is None:
            watcher = threading.Thread(target=self._run, name="rrd", daemon=True)
            try:
                watcher.start()
            except RuntimeError as error:
                raise Unreachable(f"cannot watch the connection: {error}") from error
            self._watcher = watcher

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def _run(self) -> None:
        attempt = 0
        while True:
            if self._last_spill is not None:
                self._last_spill.run()
                return
            connection = self._connection
            if connection is None:
                attempt = self._away(attempt)
                continue
            attempt = 0
            if not connection.lost:
                # Events that came with the answers to `hello` and `open` are there already.
                self._handle_events(connection)
                self._poll(connection, None)
            if connection.lost:
                self._handle_events(connection)
                with self._table:
                    if self._connection is connection:
                        self._connection = None
                        self._away_since = time.monotonic()
                connection.close()

    def _poll(self, connection: Connection | None, seconds: float | None) -> None:
        """Wait for the connection to say something, for a wake-up, or for time to pass."""
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        if connection is not None:
            poller.register(connection, select.POLLIN)
        for descriptor, _ in poller.poll(None if seconds is None else seconds * 1000):
            if descriptor == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            elif connection is not None:
                connection.read()

    def _handle_events(self, connection: Connection) -> None:
        while connection.events:
            event = connection.events.popleft()
            data = event.get("data")
            if event.get("event") == "stopping":
                self._stopping = True
            elif event.get("event") == "ended" and isinstance(data, dict):
                with self._table:
                    ended = [stream for stream in self.streams if stream.id == data.get("stream")]
                for stream in ended:
                    self._remove(stream)

    def _away(self, attempt: int) -> int:
        """One attempt to have a daemon again, and the pause after it.

        Returns:
            The number of the next attempt.
        """
        if not self.streams:
            # Nothing to hold: whoever needs the daemon next connects.
            self._poll(None, None)
            return 0
        # Never wait for the door: whoever holds it may be waiting for an answer that only this thread reads.
        if self._door.acquire(blocking=False):
            try:
                if self._come_back():
                    return 0
                if self._spill():
                    attempt = -1
            finally:
                self._door.release()
        self._poll(None, RETRY_SECONDS[min(max(attempt, 0), len(RETRY_SECONDS) - 1)])
        return attempt + 1

    def _come_back(self) -> bool:
        try:
            self.connected(start=False)
        except Unreachable as error:
            if error.nobody:
                return time.monotonic() > self._away_since + RESTART_AFTER and self._start_again()
            warn(f"cannot reach the daemon: {error.message}", error.hint, once="away")
            return False
        return True

    def _start_again(self) -> bool:
        """Nobody listens any more: warn, and start a daemon unless somebody stopped it on purpose. Once."""
        if self._restarted:
            return False
        self._restarted = True
        if self._stopping:
            warn(
                "the daemon was stopped; what is logged meanwhile is kept",
                "`rrd daemon start` takes it up again",
                once="away",
            )
            return False
        try:
            self.connected(start=True)
        except Unreachable as error:
            warn(
                f"the daemon died and cannot be started again: {error.message}",
                error.hint or "`rrd daemon start` takes up what is logged meanwhile",
                once="away",
            )
            return False
        return True

    def _pipes(self) -> list[_spill.Pipe]:
        with self._table:
            return [_spill.Pipe(stream.read_end, stream.log) for stream in self.streams]

    def _spill(self) -> bool:
        """Make room in the pipes, if nobody else can: the SDK must not fill the memory for want of a daemon.

        Returns:
            True if there may be more to move at once.
        """
        if time.monotonic() < self._away_since + RESTART_AFTER:
            return False
        pipes = self._pipes()
        if not any(_spill.unread(pipe.read_end) for pipe in pipes):
            return False
        until = time.monotonic() + SPILL_SLICE
        with _spill.nobody_home(pipes[0].log) as alone:
            if not alone:
                return False
            spill = _spill.Spill(pipes)
            try:
                while time.monotonic() < until:
                    if not spill.move(drop=False):
                        return False
                    # The SDK refills a pipe as soon as it can; what it has to encode first takes a moment.
                    spill.wait(SPILL_SLICE)
            finally:
                spill.close()
        return True

    # -- the end -------------------------------------------------------------------------------------------------

    def at_exit(self) -> None:
        """Runs before Rerun's own flush. Does nothing while there is a daemon: it gets what Rerun flushes."""
        if os.getpid() != self.pid or not self.streams:  # first: a lock may be held for ever in a forked child
            return
        pipes = self._pipes()
        connection = self._connection
        if connection is not None and not connection.hung_up():
            return
        deadline = time.monotonic() + EXIT_SECONDS
        while time.monotonic() < deadline:
            with self._door:
                try:
                    self.connected(start=False)
                    return
                except Unreachable:
                    pass
                with _spill.nobody_home(pipes[0].log) as alone:
                    if alone:
                        self._spill_all()
                        return
            time.sleep(RETRY_SECONDS[1])
        warn("the daemon does not answer; it may still get what this program logged last", "see `rrd daemon logs`")

    def _spill_all(self) -> None:
        # No thread can be started any more at this point (Python 3.12), so the watcher lends its own.
        spill = _spill.Spill(self._pipes())
        last = self._last_spill = _LastSpill(spill)
        self._wake()
        try:
            _sdk.shutdown()
        finally:
            last.over.set()
            last.done.wait(EXIT_SECONDS)
            spill.close()
        if spill.dropped:
            warn(f"no daemon at the end of the program: {spill.dropped} bytes of what it logged last are lost")
        else:
            warn(
                f"no daemon at the end of the program: its last {spill.written} bytes went to the log directly",
                "`rrd ls` finds them",
                once="away",
            )

    def after_fork(self) -> None:
        """In the child: let go of everything, and leave the parent's stream alone."""
        connection = self._connection
        if connection is not None:
            connection.forget()
        for descriptor in (self._wake_read, self._wake_write):
            os.close(descriptor)
        for stream in self.streams:
            _silence(stream.sdk_ends() or ())
            stream.close()
        self.streams.clear()


class _LastSpill:
    """The watcher's last duty: empty the pipes into the logs while Rerun writes the rest of what it has."""

    def __init__(self, spill: _spill.Spill) -> None:
        self.over = threading.Event()
        self.done = threading.Event()
        self._spill = spill

    def run(self) -> None:
        """Move until `over` is set, then what is left; then set `done`."""
        try:
            while not self.over.is_set():
                self._spill.wait(0.02)
                self._spill.move(drop=True)
            self._spill.move(drop=True)
        finally:
            self.done.set()


def _silence(descriptors: Sequence[int]) -> None:
    """Point descriptors that the parent's SDK owns to nowhere: the child's copies would hold the pipe open.

    Not closed: the numbers are still the SDK's, and it may close them.
    """
    if not descriptors:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor, inheritable=False)
    os.close(nowhere)


_session: Session | None = None
_registered = False
_session_lock = threading.Lock()


def session() -> Session:
    """The session of this process; made at the first call."""
    global _session, _registered  # one process has one session
    with _session_lock:
        if _session is None:
            _session = Session()
            _at_exit_of_multiprocessing()
        if not _registered:
            # Registered after Rerun's own handler, so it runs before it.
            import rerun  # noqa: F401

            atexit.register(_at_exit)
            _registered = True
        return _session


def current() -> Session | None:
    """The session of this process, if there is one."""
    return _session


def _at_exit() -> None:
    if _session is not None:
        _session.at_exit()


def _at_exit_of_multiprocessing() -> None:
    """A forked worker of multiprocessing leaves with os._exit: no atexit handler runs there, Rerun's neither."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is None or multiprocessing.parent_process() is None:
        return
    from multiprocessing.util import Finalize

    Finalize(None, _leave_worker, exitpriority=0)


def _leave_worker() -> None:
    _at_exit()
    _sdk.shutdown()


def _after_fork() -> None:
    global _session, _session_lock
    _session_lock = threading.Lock()
    inherited, _session = _session, None
    if inherited is not None:
        inherited.after_fork()


os.register_at_fork(after_in_child=_after_fork)

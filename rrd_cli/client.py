"""The daemon as seen from a verb: connect, ask, get the answer. Blocking; the bytes are daemon.wire.control's business.

Rules: a daemon that is restarted meanwhile is a delay, not an error: requests that may be said twice are said again,
and so is any request that cannot have arrived. What may not be said twice fails with a message that says where to
look. Every wait has a deadline unless the caller says it has none.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from daemon import __version__
from daemon.wire import control
from rrd_cli import start
from rrd_cli.errors import CliError, NoDaemonError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

AGENT: Final = f"rrd-cli {__version__}"
HELLO_DEADLINE = 10.0
"""Seconds for the hello. The keeper listens before the daemon is up, so this spans a restart and its recovery."""
REPLY_DEADLINE = 30.0
"""Seconds for what a daemon answers from memory, unless the caller knows better."""
PATIENCE = 20.0
"""Seconds a request is repeated over while the daemon keeps going away."""
RETRY = 0.05

REPEATABLE: Final = frozenset({"hello", "ls", "status", "sync", "tail", "viewers", "gc", "forget", "settings"})
"""Verbs whose second saying does no harm. Others can be declared so by the caller, who then minds the outcome."""


class LostError(CliError):
    """The daemon went away, or was stopped, before it answered: nobody knows whether it did what was asked."""


class _Lost(Exception):
    """The connection ended. `sent`: the request may have arrived."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__()
        self.sent = sent


class Client:
    """A connection to the daemon, made at the first call and made again when it is lost.

    Args:
        path: The daemon's socket, if not the usual one; then none is started.
        may_start: Start a daemon where there is none.
        older: Speak an older protocol to a daemon that knows no other. For `stop` and `restart`, which are the same in
            all of them: they are how one gets rid of it.

    Not thread-safe, and one request at a time.
    """

    def __init__(self, path: Path | None = None, *, may_start: bool = True, older: bool = False) -> None:
        self._path = path
        self._older = older
        self._may_start = may_start and path is None
        self._socket: socket.socket | None = None
        self._decoder = control.Decoder()
        self._next_id = 1
        self.events: deque[control.Message] = deque()
        """Events that arrived and were not asked for yet, oldest first."""
        self.stopping = False
        """The daemon said that it stops, because somebody wants it to."""
        self.connections = 0
        """How often a connection was made: more than 1 means that the daemon was away in between."""
        self.daemon_pid = 0
        self.daemon_version = ""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def connect(self) -> None:
        """Be connected, and have said hello.

        Raises:
            NoDaemonError: there is none, it cannot be started, or it does not answer.
            VerbError: it speaks another protocol.
        """
        if self._socket is not None:
            return
        deadline = time.monotonic() + PATIENCE
        protocol, refused = control.PROTOCOL, None
        while True:
            self._open()
            try:
                self._hello(protocol)
            except (_Lost, control.VerbError) as error:
                self.close()
                if isinstance(error, control.VerbError) and error.code != "stopping":
                    refused = refused or error
                    if error.code != "protocol" or not self._older or protocol == 0:
                        raise refused from None
                    protocol -= 1
                    continue
                if time.monotonic() > deadline:
                    raise _keeps_dying() from None
            except (CliError, KeyboardInterrupt):
                self.close()  # half a conversation is of no use to the next caller
                raise
            else:
                self.connections += 1
                return
            time.sleep(RETRY)

    def call(
        self,
        verb: str,
        args: control.Message | None = None,
        *,
        fds: Sequence[int] = (),
        timeout: float | None = REPLY_DEADLINE,
        repeat: bool | None = None,
        on_progress: Callable[[control.Message], None] | None = None,
    ) -> control.Message:
        """Say a verb and wait for its answer.

        Args:
            verb: Its name, as in daemon/control/verbs.
            args: Its arguments.
            fds: Descriptors that ride along; they stay the caller's.
            timeout: Seconds between two signs of life; None waits as long as the daemon lives.
            repeat: Whether it may be said again when the connection is lost meanwhile; by default as in REPEATABLE.
            on_progress: Called with each progress message.

        Returns:
            What the daemon answered.

        Raises:
            VerbError: the daemon refused, or it did not work.
            UsageError: the arguments are too long, or paths that are not UTF-8.
            NoDaemonError: there is none, or it does not answer.
            LostError: the daemon went away, and nobody knows whether it did it before.
        """
        may_repeat = verb in REPEATABLE if repeat is None else repeat
        deadline = time.monotonic() + PATIENCE
        while True:
            self.connect()
            begun = time.monotonic()
            try:
                return self._exchange(verb, args or {}, fds, timeout, on_progress)
            except control.VerbError as error:
                # "stopping" is said instead of doing it: the next daemon will.
                if error.code != "stopping" or time.monotonic() > deadline:
                    raise
                self.close()
            except _Lost as lost:
                self.close()
                if lost.sent and self.stopping:
                    raise LostError(
                        "the daemon was stopped meanwhile", "outputs go on where they are: rrd daemon start"
                    ) from None
                if lost.sent and not may_repeat:
                    raise LostError(
                        f"the daemon went away before it answered to `{verb}`", "see what was done: rrd status"
                    ) from None
                if time.monotonic() - begun > PATIENCE:  # it lived long enough to be worth as much again
                    deadline = time.monotonic() + PATIENCE
                if time.monotonic() > deadline:
                    raise _keeps_dying() from None
            except KeyboardInterrupt:
                self.close()  # the answer to this request would be taken for the next one's
                raise
            time.sleep(RETRY)

    def begin(self, verb: str, args: control.Message | None = None) -> int:
        """Say a verb whose answer will be asked for later, with `poll`. Nothing else may be said before it came.

        Returns:
            The number of the request.

        Raises:
            UsageError: as `call` does.
        """
        self.connect()
        request_id, self._next_id = self._next_id, self._next_id + 1
        try:
            self._send(_encode({"id": request_id, "verb": verb, "args": args or {}}), ())
        except _Lost:
            self.close()
        return request_id

    def poll(self, request_id: int, timeout: float) -> control.Message | None:
        """The answer to a request that was begun, or None when it does not come in time.

        Args:
            request_id: Its number.
            timeout: Seconds to wait; the wait is cut short by nothing but the answer.

        Raises:
            VerbError: the daemon refused.
            LostError: the connection is lost; the request has to be begun again.
        """
        deadline = time.monotonic() + timeout
        try:
            while self._socket is not None:
                message = self._receive(deadline)
                if "event" in message:
                    self._note_event(message)
                elif message.get("id") == request_id and "error" in message:
                    raise _verb_error(_map(message["error"]))
                elif message.get("id") == request_id and "ok" in message:
                    return _map(message["ok"])
        except TimeoutError:
            return None
        except _Lost:
            self.close()
        raise LostError("the daemon went away", "rrd daemon logs")

    def next_event(self, timeout: float | None = None) -> control.Message | None:
        """The next event, or None when none comes in time or the connection is lost (then `connected` is False).

        Args:
            timeout: Seconds to wait; None waits for ever.
        """
        if self.events:
            return self.events.popleft()
        if self._socket is None:
            return None
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while not self.events:
                message = self._receive(deadline)
                if "event" in message:
                    self._note_event(message)
        except TimeoutError:
            return None
        except _Lost:
            self.close()
            return None
        return self.events.popleft()

    @property
    def connected(self) -> bool:
        """Whether there is a connection; it may turn out to be lost at the next use."""
        return self._socket is not None

    def _note_event(self, message: control.Message) -> None:
        self.events.append(message)
        self.stopping |= message["event"] == "stopping"

    def _open(self) -> None:
        try:
            self._socket = start.connect_or_start() if self._may_start else start.connect(self._path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoDaemonError("no daemon is running", "rrd daemon start") from error
        self._decoder = control.Decoder()
        self._next_id = 1
        self.stopping = False

    def _hello(self, protocol: int) -> None:
        hello = control.hello(AGENT, os.getpid())
        pid = self._peer_pid()
        try:
            answer = self._exchange("hello", hello["args"] | {"protocol": protocol}, (), HELLO_DEADLINE, None)
        except NoDaemonError as error:
            raise NoDaemonError(
                f"the daemon does not answer (waited {HELLO_DEADLINE:.0f} s)",
                f"rrd daemon logs; if it hangs: kill {pid} and say it again" if pid else "rrd daemon logs",
            ) from error
        spoken = answer.get("protocol")
        self.daemon_version = str(answer.get("version", "?"))
        self.daemon_pid = answered if isinstance(answered := answer.get("pid"), int) else 0
        if spoken != protocol:
            raise control.VerbError(
                "protocol",
                f"the daemon (rrd {self.daemon_version}) speaks protocol {spoken}, this rrd {__version__} speaks "
                f"{control.PROTOCOL}",
                "rrd daemon restart   (nothing is lost)",
            )

    def _exchange(
        self,
        verb: str,
        args: control.Message,
        fds: Sequence[int],
        timeout: float | None,
        on_progress: Callable[[control.Message], None] | None,
    ) -> control.Message:
        request_id, self._next_id = self._next_id, self._next_id + 1
        self._send(_encode({"id": request_id, "verb": verb, "args": args}), fds)
        while True:
            deadline = None if timeout is None else time.monotonic() + timeout
            try:
                message = self._receive(deadline)
            except TimeoutError as error:
                self.close()
                raise NoDaemonError(
                    f"the daemon does not answer to `{verb}` (waited {timeout:.0f} s)", "rrd daemon logs"
                ) from error
            if "event" in message:
                self._note_event(message)
            elif message.get("id") != request_id:
                continue  # the answer to a request that was given up
            elif "progress" in message:
                if on_progress is not None:
                    on_progress(_map(message["progress"]))
            elif "error" in message:
                raise _verb_error(_map(message["error"]))
            else:
                return _map(message.get("ok"))

    def _send(self, data: bytes, fds: Sequence[int]) -> None:
        connection = self._socket
        assert connection is not None
        connection.settimeout(HELLO_DEADLINE)
        try:
            sent = socket.send_fds(connection, [data], list(fds)) if fds else 0
            if sent < len(data):
                connection.sendall(data[sent:])
        except TimeoutError as error:
            self.close()
            raise NoDaemonError("the daemon takes no requests", "rrd daemon logs") from error
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _Lost(sent=False) from error  # half a request is none

    def _receive(self, deadline: float | None) -> control.Message:
        """The next message, of whatever kind.

        Raises:
            TimeoutError: none before the deadline.
        """
        connection = self._socket
        assert connection is not None
        while True:
            try:
                message = self._decoder.next_message()
            except control.ProtocolError as error:
                self.close()
                raise CliError(
                    f"the daemon sent something that is no answer: {error}",
                    "are both sides up to date? rrd daemon restart",
                ) from error
            if message is not None:
                return message
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise TimeoutError
            connection.settimeout(remaining)
            try:
                data = connection.recv(1 << 16)
            except ConnectionResetError as error:
                raise _Lost(sent=True) from error
            if not data:
                raise _Lost(sent=True)
            self._decoder.receive_data(data)

    def _peer_pid(self) -> int:
        """Pid of the process that opened the listening socket (the keeper), 0 where the system does not tell."""
        if self._socket is None or not hasattr(socket, "SO_PEERCRED"):
            return 0
        raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(raw[:4], sys.byteorder)  # struct ucred: pid, uid, gid


def _encode(request: control.Message) -> bytes:
    try:
        return control.encode(request)
    except control.ProtocolError as error:
        long = error.__cause__ is None
        hint = "name fewer at once" if long else "rename it, or the directory that is called so"
        raise UsageError(f"too much for one request: {error}" if long else str(error), hint) from error


def _map(value: Any) -> control.Message:  # noqa: ANN401 - it came from outside
    return value if isinstance(value, dict) else {}


def _verb_error(told: control.Message) -> control.VerbError:
    code = str(told.get("code", "failed"))
    message = str(told.get("message", "")) or "the daemon gave no reason"
    hint = str(told.get("hint", "") or "")
    if code == "unknown-verb" and not hint:
        hint = "the daemon may be older: rrd daemon restart"
    return control.VerbError(code, message, hint)


def _keeps_dying() -> NoDaemonError:
    return NoDaemonError(f"the daemon keeps going away{start.last_words()}", "rrd daemon logs")

"""One connection to the daemon, shared by all threads of the program.

Requests are sent by whoever has one, under a lock. Answers are read in one place only: by the session's watcher
thread, or, before the watcher was handed the connection, by the one who asks (`exchange`).

Rules: a connection that failed once is over, and everyone who waits on it is told; a descriptor rides with the first
byte of its request.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence

from . import _wire
from ._errors import ConnectionLost, Error, Unreachable
from ._launch import ANSWER_SECONDS
from ._version import __version__

_READ_SIZE = 1 << 16


class _Waiter:
    """Somebody who waits for the end of a request."""

    __slots__ = ("answer", "done", "lost")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: _wire.Message = {}
        self.lost = False


class Connection:
    """A connection on which hello has been said, once `hello` returned.

    Args:
        peer: A connected Unix socket; owned by the connection from now on.
    """

    def __init__(self, peer: socket.socket) -> None:
        peer.settimeout(ANSWER_SECONDS)
        self._socket = peer
        self._decoder = _wire.Decoder()
        self._sending = threading.Lock()
        self._waiters: dict[int, _Waiter] = {}
        self._last_id = 0
        self._lost = False
        self.daemon_version = ""
        self.events: deque[_wire.Message] = deque()
        """What the daemon said unasked, for the watcher to take from the left."""

    def fileno(self) -> int:
        """Descriptor of the socket, to poll."""
        return self._socket.fileno()

    @property
    def lost(self) -> bool:
        """Is it over?"""
        return self._lost

    def hung_up(self) -> bool:
        """Ask the kernel whether the other side is gone; what it sent before that does not matter."""
        if self._lost:
            return True
        poller = select.poll()
        poller.register(self._socket, 0)
        return bool(poller.poll(0))

    def hello(self, deadline: float = math.inf) -> None:
        """The first exchange.

        Args:
            deadline: As in `exchange`.

        Raises:
            Unreachable: no protocol in common, or no answer in time.
        """
        version = ".".join(map(str, sys.version_info[:3]))
        args = {"protocol": _wire.PROTOCOL, "agent": f"rrd-python {__version__} (python {version})", "pid": os.getpid()}
        try:
            answer = self.exchange("hello", args, deadline=deadline)
        except Error as error:
            raise Unreachable(error.message, error.hint) from error
        self.daemon_version = str(answer.get("version", ""))

    def exchange(
        self, verb: str, args: _wire.Message, descriptors: Sequence[int] = (), *, deadline: float = math.inf
    ) -> _wire.Message:
        """A request whose answer the caller reads itself: only before anybody else reads this connection.

        Args:
            verb: Which.
            args: Its arguments.
            descriptors: Descriptors that go along; they stay the caller's too.
            deadline: When (`time.monotonic()`) to give up, if that is sooner than usual.

        Raises:
            Error: the daemon's answer is an error.
            Unreachable: no answer in time.
            ConnectionLost: the daemon went away.
        """
        waiter = self._send(verb, args, descriptors)
        deadline = min(deadline, time.monotonic() + ANSWER_SECONDS)
        while not waiter.done.is_set():
            left = deadline - time.monotonic()
            poller = select.poll()
            poller.register(self._socket, select.POLLIN)
            if left <= 0 or not poller.poll(left * 1000):
                self.lose()
                raise Unreachable("the daemon does not answer in time", "see `rrd daemon logs`")
            self.read()
        return _result(waiter)

    def request(
        self, verb: str, args: _wire.Message, descriptors: Sequence[int] = (), *, timeout: float | None = None
    ) -> _wire.Message:
        """A request; the answer is read by the watcher thread.

        Args:
            verb: Which.
            args: Its arguments.
            descriptors: Descriptors that go along; they stay the caller's too.
            timeout: Seconds to wait for the answer; None: as long as the connection holds.

        Raises:
            Error: the daemon's answer is an error; code "timeout" if there was none in time.
            ConnectionLost: the daemon went away.
        """
        waiter = self._send(verb, args, descriptors)
        if not waiter.done.wait(timeout):
            raise Error("timeout", f"no answer to {verb} within {timeout:g} s", "see `rrd status`")
        return _result(waiter)

    def _send(self, verb: str, args: _wire.Message, descriptors: Sequence[int]) -> _Waiter:
        waiter = _Waiter()
        with self._sending:
            if self._lost:
                raise ConnectionLost
            self._last_id += 1
            try:
                data = _wire.encode({"id": self._last_id, "verb": verb, "args": args})
            except _wire.ProtocolError as error:
                raise Error("usage", str(error)) from error
            self._waiters[self._last_id] = waiter
            try:
                sent = socket.send_fds(self._socket, [data], list(descriptors)) if descriptors else 0
                self._socket.sendall(data[sent:])
            except OSError as error:
                self.lose()
                raise ConnectionLost from error
        return waiter

    def read(self) -> None:
        """Take what has arrived: answers to those who wait, events to `events`. Call it when poll says so.

        A connection that ended, or on which nonsense arrives, is lost afterwards.
        """
        try:
            data = self._socket.recv(_READ_SIZE)
        except OSError:
            data = b""
        if not data:
            self.lose()
            return
        self._decoder.receive_data(data)
        try:
            while (message := self._decoder.next_message()) is not None:
                self._dispatch(message)
        except _wire.ProtocolError:
            self.lose()

    def _dispatch(self, message: _wire.Message) -> None:
        if "event" in message:
            self.events.append(message)
            return
        if "ok" not in message and "error" not in message:
            return  # progress
        request_id = message.get("id")
        waiter = self._waiters.pop(request_id, None) if isinstance(request_id, int) else None
        if waiter is not None:
            waiter.answer = message
            waiter.done.set()

    def lose(self) -> None:
        """It is over: tell everyone who waits. Safe to call again."""
        self._lost = True
        # Whoever is about to send finds out, too.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        while self._waiters:
            _, waiter = self._waiters.popitem()
            waiter.lost = True
            waiter.done.set()

    def close(self) -> None:
        """Give the descriptor back, when nobody polls it any more."""
        self._lost = True
        with self._sending:
            self._socket.close()

    def forget(self) -> None:
        """Close the child's copy after a fork: no lock (its holder is not here), no shutdown (it is the parent's)."""
        self._lost = True
        self._socket.close()


def _result(waiter: _Waiter) -> _wire.Message:
    if waiter.lost:
        raise ConnectionLost
    failure = waiter.answer.get("error")
    if isinstance(failure, dict):
        raise Error(str(failure.get("code", "failed")), str(failure.get("message", "")), str(failure.get("hint", "")))
    result = waiter.answer.get("ok")
    return result if isinstance(result, dict) else {}

"""A daemon of paper: it listens on the real socket path, speaks the real protocol, and says what a test tells it to."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import __version__, paths
from daemon.wire import control

Handler = Callable[["FakeCall"], dict[str, Any]]


class HangupError(Exception):
    """Raised by a handler: the connection is closed without an answer, as when a daemon dies."""


class FakeCall:
    """One request as a handler sees it."""

    def __init__(self, connection: socket.socket, request: dict[str, Any], fds: list[int]) -> None:
        self.connection = connection
        self.verb: str = request["verb"]
        self.args: dict[str, Any] = request["args"]
        self.id: int = request["id"]
        self.fds = fds

    def send(self, message: dict[str, Any]) -> None:
        self.connection.sendall(control.encode(message))

    def progress(self, **state: Any) -> None:
        self.send(control.progress(self.id, state))

    def event(self, name: str, **data: Any) -> None:
        self.send(control.event(name, data))


class FakeDaemon:
    """Answers verbs from `handlers`; keeps every request in `calls`."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.calls: list[FakeCall] = []
        self.hello: dict[str, Any] | control.VerbError = {"protocol": control.PROTOCOL, "version": __version__}
        self.hello["pid"] = 4711
        self.connections = 0
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    def on(self, verb: str, answer: dict[str, Any] | Handler) -> None:
        self.handlers[verb] = answer if callable(answer) else lambda call: answer

    def said(self, verb: str) -> list[dict[str, Any]]:
        """The arguments of each request of a verb."""
        return [call.args for call in self.calls if call.verb == verb]

    def start(self) -> None:
        path = paths.socket_path()
        paths.make_private(path.parent)
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._spawn(self._accept, self._listener)

    def stop(self) -> None:
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            paths.socket_path().unlink(missing_ok=True)
            self._listener = None
        self.hang_up()
        for thread in self._threads:
            thread.join(10)

    def hang_up(self) -> None:
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client was faster

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        def work() -> None:
            # What `rrd run` waits for with blocked signals must not find a thread that would let all die of it.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            target(*args)

        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        decoder, fds = control.Decoder(), []
        with connection:
            while True:
                try:
                    data, received, _, _ = socket.recv_fds(connection, 65536, control.MAX_DESCRIPTORS)
                    fds += received
                    if not data:
                        return
                    decoder.receive_data(data)
                    while (request := decoder.next_message()) is not None:
                        self._answer(FakeCall(connection, request, fds))
                        fds = []
                except (OSError, HangupError):
                    return

    def _answer(self, call: FakeCall) -> None:
        self.calls.append(call)
        try:
            if call.verb == "hello":
                if isinstance(self.hello, control.VerbError):
                    raise self.hello
                result = self.hello
            elif call.verb in self.handlers:
                result = self.handlers[call.verb](call)
            else:
                raise control.VerbError("unknown-verb", f"no such verb: {call.verb}")
            call.send(control.ok(call.id, result))
        except control.VerbError as failure:
            call.send(control.error(call.id, failure))
        finally:
            for fd in call.fds:
                os.close(fd)


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Private XDG directories with a path short enough for a socket."""
    base = Path(tempfile.mkdtemp(prefix="rrd"))
    for variable in ("RUNTIME_DIR", "STATE_HOME", "CONFIG_HOME", "CACHE_HOME"):
        directory = base / variable.lower()
        directory.mkdir(mode=0o700)
        monkeypatch.setenv(f"XDG_{variable}", str(directory))
    monkeypatch.setenv("RRD_GRPC_PORT", "0")
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield base
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def fake(private: Path) -> Iterator[FakeDaemon]:
    """A running paper daemon in private directories."""
    daemon = FakeDaemon()
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture
def hangup() -> type[Exception]:
    """What a handler raises to die."""
    return HangupError


@pytest.fixture
def rrd(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Say `rrd ARGS` in this process: (exit code, stdout, stderr)."""
    from rrd_cli.app import main

    def run(*args: str) -> tuple[int, str, str]:
        code = main(args)
        out, err = capfd.readouterr()
        return code, out, err

    return run

"""The shim's parts without an SDK: where it looks for the daemon, what it imports, how it talks, what it spills."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import daemon
import rrd
from daemon import paths
from daemon.wire import control
from rrd import _connection, _launch, _paths, _session, _spill
from rrd._errors import ConnectionLost, Error, Unreachable
from rrd._version import __version__
from tests.conftest import DEADLINE_S, ROOT, wait_for


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private runtime directory, and a state directory beside it."""
    base = tmp_path_factory.mktemp("r")
    for variable in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, str(base))
    monkeypatch.delenv("RRD_DAEMON", raising=False)
    (base / "rrd").mkdir(mode=0o700)
    return base / "rrd"


class Server:
    """A daemon that says what the test wants: `answer` gets (verb, args, descriptors) and returns messages' bodies."""

    def __init__(self, path: Path, answer: Callable[[str, dict, list[int]], list[dict]]) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.answer = answer
        self.seen: list[tuple[str, dict]] = []
        self.peers: list[socket.socket] = []
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.peers.append(peer)
            with peer:
                self.talk(peer)

    def talk(self, peer: socket.socket) -> None:
        decoder = control.Decoder()
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(peer, 65536, 4)
            except OSError:
                return
            if not data:
                return
            decoder.receive_data(data)
            while (message := decoder.next_message()) is not None:
                self.seen.append((message["verb"], message["args"]))
                for body in self.answer(message["verb"], message["args"], descriptors):
                    peer.sendall(control.encode({"id": message["id"], **body} if "event" not in body else body))
            for descriptor in descriptors:
                os.close(descriptor)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for peer in self.peers:
            if peer.fileno() >= 0:
                peer.shutdown(socket.SHUT_RDWR)
        self.thread.join()


@pytest.fixture
def serve(runtime: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answer: Callable[[str, dict, list[int]], list[dict]]) -> Server:
        servers.append(Server(runtime / "control.sock", answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def polite(verb: str, args: dict, descriptors: list[int]) -> list[dict]:
    if verb == "hello":
        return [{"ok": {"protocol": 1, "version": "1.2.3", "pid": 1}}]
    return [{"ok": {"verb": verb}}]


def connected() -> _connection.Connection:
    connection = _connection.Connection(_launch.connect(start=False))
    try:
        connection.hello()
    except Unreachable:
        connection.close()
        raise
    return connection


# -- what it is -----------------------------------------------------------------------------------------------------


def test_version_is_the_distributions() -> None:
    assert __version__ == daemon.__version__


def test_importing_it_imports_nothing_heavy() -> None:
    """Neither what a call needs, nor Rerun, nor anything of the daemon."""
    code = "import sys, rrd; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT / "sdk" / "python")})
    loaded = set(done.stdout.split())
    assert "rrd" in loaded
    unwanted = {"cbor2", "subprocess", "rerun", "numpy", "socket", "threading", "logging", "argparse", "ctypes",
                "daemon", "rrd_cli", "rrd._session", "dataclasses", "tempfile"}
    assert not loaded & unwanted


def test_stands_on_its_own() -> None:
    """The program's environment may not have the daemon's packages."""
    for path in (ROOT / "sdk" / "python" / "rrd").glob("*.py"):
        for line in path.read_text().splitlines():
            assert not line.strip().startswith(("from daemon", "import daemon", "from rrd_cli", "import rrd_cli")), path


# -- where it looks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variables", [
    {},
    {"XDG_RUNTIME_DIR": "/tmp", "XDG_STATE_HOME": "/tmp/state"},
    {"XDG_RUNTIME_DIR": "/does/not/exist", "XDG_STATE_HOME": "relative"},
    {"XDG_RUNTIME_DIR": "", "XDG_STATE_HOME": ""},
    {"XDG_STATE_HOME": "/" + 100 * "long"},
])
def test_same_places_as_the_daemon(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _paths.runtime_dir() == str(paths.runtime_dir())
    assert _paths.state_dir() == str(paths.state_dir())
    assert _paths.socket_path() == str(paths.socket_path())
    assert str(_paths.spare_socket_path()) == str(paths.spare_socket_path())
    assert _paths.MAX_SOCKET_PATH == paths.MAX_SOCKET_PATH


def test_no_home(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's uid without a name: nothing is made of it, and where all is said it is not asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", str)
    with pytest.raises(Unreachable) as caught:
        _launch.connect(start=False)
    assert caught.value.nobody
    assert _paths.spare_socket_path()
    monkeypatch.delenv("XDG_STATE_HOME")
    with pytest.raises(Unreachable, match="HOME is not set and this user has no home directory") as caught:
        _launch.connect(start=True)
    assert caught.value.hint == "set HOME, or XDG_STATE_HOME"
    assert list(tmp_path.iterdir()) == []
    server = Server(runtime / "control.sock", polite)
    _launch.connect(start=True).close()
    server.close()


def test_no_temporary_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And none of the session: nothing can be written, in a container."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._get_default_tempdir", no_temporary_directory)
    with pytest.raises(Unreachable) as caught:
        _launch.connect(start=True)
    assert caught.value.hint == "set XDG_RUNTIME_DIR"
    with _spill.nobody_home(str(tmp_path / "spool" / "log.rrd")) as alone:
        assert not alone


def no_temporary_directory() -> str:
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")


def test_directory_is_made_private(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    _paths.make_private(str(target))
    assert target.stat().st_mode & 0o777 == 0o700
    target.chmod(0o777)
    _paths.make_private(str(target))
    assert target.stat().st_mode & 0o777 == 0o700
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(Unreachable):
        _paths.make_private(str(file))
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(Unreachable, match="not a directory"):
        _paths.make_private(str(link))


def test_command(runtime: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variable first, then this interpreter's own daemon, then PATH, then nothing."""
    monkeypatch.setenv("RRD_DAEMON", "/opt/rrd-daemon")
    assert _launch.command() == ["/opt/rrd-daemon"]
    monkeypatch.delenv("RRD_DAEMON")
    assert _launch.command() == [sys.executable, "-P", "-m", "daemon.keeper"]
    # Somebody else's package of that name (python-daemon has one) is not ours.
    (tmp_path / "daemon").mkdir()
    (tmp_path / "daemon" / "__init__.py").write_text("raise SystemError('imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "rrd-daemon"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert _launch.command() == [str(program)]
    program.unlink()
    with pytest.raises(Unreachable, match="not found"):
        _launch.command()


# -- starting it ----------------------------------------------------------------------------------------------------


def test_nobody_listens(runtime: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        _launch.connect(start=False)
    assert caught.value.nobody
    # A socket whose daemon is gone is the same as none.
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(runtime / "control.sock"))
    left.close()
    with pytest.raises(Unreachable) as caught:
        _launch.connect(start=False)
    assert caught.value.nobody


def test_the_daemon_of_another_session(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found beside the recordings. The session's own is preferred, and the spare one's path may be too long."""
    server = Server(runtime / "daemon.sock", polite)
    (tmp_path / "rrd").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    _launch.connect(start=False).close()
    own = Server(tmp_path / "rrd" / "control.sock", polite)
    peer = _launch.connect(start=False)
    assert peer.getpeername() == str(tmp_path / "rrd" / "control.sock")
    peer.close()
    for one in (server, own):
        one.close()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / (100 * "x")))
    with pytest.raises(Unreachable) as caught:
        _launch.connect(start=False)
    assert caught.value.nobody


def test_starts_one(runtime: Path) -> None:
    """Started under the lock, found when it listens."""
    servers = []

    def spawn(log: int) -> int:
        with open(runtime / "start.lock") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        servers.append(Server(runtime / "control.sock", polite))
        return os.getpid()

    peer = _launch.connect(start=True, spawn=spawn)
    connection = _connection.Connection(peer)
    connection.hello()
    assert connection.daemon_version == "1.2.3"
    connection.close()
    servers[0].close()


def test_loser_waits_for_the_winner(runtime: Path) -> None:
    """Whoever finds the lock taken gets the daemon that the other one starts."""
    servers = []
    with open(runtime / "start.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        timer = threading.Timer(0.2, lambda: servers.append(Server(runtime / "control.sock", polite)))
        timer.start()

        def spawn(log: int) -> int:
            raise AssertionError("started although another one is being started")

        peer = _launch.connect(start=True, spawn=spawn)
    timer.join()
    peer.close()
    servers[0].close()


def test_one_that_ends_at_once(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said after a second, with where to look; its output is in the daemon's log."""
    monkeypatch.setenv("RRD_DAEMON", "/bin/ls")
    with pytest.raises(Unreachable, match="ended as soon as it was started") as caught:
        _launch.connect(start=True)
    assert str(paths.daemon_log_path()) in caught.value.hint
    wait_for(lambda: paths.daemon_log_path().read_text(), "its output")


def test_one_that_cannot_be_run(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RRD_DAEMON", "/no/such/program")
    with pytest.raises(Unreachable):
        _launch.connect(start=True)
    assert "/no/such/program" in paths.daemon_log_path().read_text()


# -- talking to it --------------------------------------------------------------------------------------------------


def test_hello_says_who_we_are(serve: Callable[..., Server]) -> None:
    server = serve(polite)
    connection = connected()
    ((verb, args),) = server.seen
    assert verb == "hello"
    assert args["protocol"] == 1
    assert args["pid"] == os.getpid()
    assert args["agent"].startswith("rrd-python ")
    connection.close()


def test_another_protocol(serve: Callable[..., Server]) -> None:
    """The daemon's words reach the user, hint included."""
    failure = control.protocol_mismatch(1, "rrd-python", "9.0.0")
    serve(lambda verb, args, fds: [{"error": {"code": failure.code, "message": failure.message, "hint": failure.hint}}])
    with pytest.raises(Unreachable) as caught:
        connected()
    assert not caught.value.nobody
    assert caught.value.message == failure.message
    assert caught.value.hint == failure.hint


def test_descriptor_arrives(serve: Callable[..., Server]) -> None:
    got = []

    def answer(verb: str, args: dict, descriptors: list[int]) -> list[dict]:
        got.extend(os.read(descriptor, 10) for descriptor in descriptors)
        return polite(verb, args, descriptors)

    serve(answer)
    connection = connected()
    read_end, write_end = os.pipe()
    os.write(write_end, b"hello")
    connection.exchange("open", {}, [read_end])
    assert got == [b"hello"]
    os.close(read_end)
    os.close(write_end)
    connection.close()


def reader(connection: _connection.Connection) -> threading.Thread:
    """What the watcher does, until the connection is lost."""

    def run() -> None:
        while not connection.lost:
            connection.read()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_answers_find_their_requests(serve: Callable[..., Server]) -> None:
    """Several threads ask; progress and events come in between."""

    def answer(verb: str, args: dict, descriptors: list[int]) -> list[dict]:
        if verb == "hello":
            return polite(verb, args, descriptors)
        if verb == "fail":
            return [{"error": {"code": "exists", "message": "it exists", "hint": "force it"}}]
        return [{"progress": {"done": 1}}, {"event": "ended", "data": {"stream": verb}}, {"ok": {"verb": verb}}]

    server = serve(answer)
    connection = connected()
    thread = reader(connection)
    results = {}
    askers = [threading.Thread(target=lambda name=f"v{n}": results.update({name: connection.request(name, {})}))
              for n in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert results == {f"v{n}": {"verb": f"v{n}"} for n in range(8)}
    assert {event["data"]["stream"] for event in connection.events} == set(results)
    with pytest.raises(Error, match="it exists") as caught:
        connection.request("fail", {})
    assert (caught.value.code, caught.value.hint) == ("exists", "force it")
    server.peers[-1].shutdown(socket.SHUT_RDWR)
    thread.join()
    connection.close()


def test_everyone_hears_that_it_is_over(serve: Callable[..., Server]) -> None:
    """A request that waits when the daemon goes, and one that comes later."""
    server = serve(lambda verb, args, fds: polite(verb, args, fds) if verb == "hello" else [])
    connection = connected()
    assert not connection.hung_up()
    thread = reader(connection)
    caught = []

    def ask() -> None:
        try:
            connection.request("sync", {})
        except ConnectionLost as error:
            caught.append(error)

    asker = threading.Thread(target=ask)
    asker.start()
    wait_for(lambda: len(server.seen) == 2, "the request")
    server.peers[-1].shutdown(socket.SHUT_RDWR)
    asker.join()
    thread.join()
    assert len(caught) == 1
    assert connection.hung_up()
    with pytest.raises(ConnectionLost):
        connection.request("sync", {})
    connection.close()


def test_no_answer_in_time(serve: Callable[..., Server]) -> None:
    server = serve(lambda verb, args, fds: polite(verb, args, fds) if verb == "hello" else [])
    connection = connected()
    thread = reader(connection)
    begin = time.monotonic()
    with pytest.raises(Error) as caught:
        connection.request("sync", {}, timeout=0.1)
    assert caught.value.code == "timeout"
    assert time.monotonic() - begin >= 0.1
    server.peers[-1].shutdown(socket.SHUT_RDWR)
    thread.join()
    connection.close()


def test_nonsense_ends_it(serve: Callable[..., Server]) -> None:
    server = serve(polite)
    connection = connected()
    server.peers[-1].sendall(b"\xff\xff\xff\xff")
    connection.read()
    assert connection.lost
    connection.close()


# -- a session with it ----------------------------------------------------------------------------------------------


def test_no_thread_to_be_had(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a daemon that is not there; the next call has it."""
    serve(polite)
    session = _session.Session()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse_threads)
        with pytest.raises(Unreachable, match="can't start new thread"):
            session.call("status", {})
    assert session.call("status", {}) == {"verb": "status"}


def test_a_forked_child_ends_whatever_its_parent_held(runtime: Path) -> None:
    """A lock that another thread of the parent had then is nobody's in the child, and never given back."""
    session = _session.Session()
    session.pid -= 1
    with in_another_thread(session._table):
        ending = threading.Thread(target=session.at_exit, daemon=True)
        ending.start()
        ending.join(DEADLINE_S)
        assert not ending.is_alive()


def test_no_longer_than_allowed(serve: Callable[..., Server]) -> None:
    """A daemon that is not up yet, or hangs: whether the call's own thread waits for it or another one."""
    serve(lambda verb, args, fds: [])
    session = _session.Session()
    late(session)
    with in_another_thread(session._door):
        late(session)


def test_no_longer_than_allowed_for_a_start(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that starts meanwhile is found by the next call."""
    monkeypatch.setattr(_launch, "_spawn", lambda log: os.getpid())
    session = _session.Session()
    late(session)
    with open(runtime / "start.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        late(session)
    assert session._not_startable_since == float("-inf")


def late(session: _session.Session) -> None:
    begin = time.monotonic()
    with pytest.raises(Unreachable):
        session.call("sync", {}, timeout=0.1)
    assert time.monotonic() - begin < _launch.ANSWER_SECONDS / 2


@contextlib.contextmanager
def in_another_thread(lock: threading.RLock) -> Iterator[None]:
    """Have another thread hold a lock."""
    held, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            enough.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def refuse_threads(*args: object) -> None:
    raise RuntimeError("can't start new thread")


def test_nobody_reads_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a page is served is said where it can be."""
    answer = {"sink": {"id": "one"}, "url": "http://localhost:1/", "tunnel": ""}
    rrd._sink(answer, "")
    assert capsys.readouterr() == ("", "rrd: http://localhost:1/\n")
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb", 0) as raw, io.TextIOWrapper(raw, write_through=True) as broken:
        for stderr in (broken, None):
            monkeypatch.setattr(sys, "stderr", stderr)
            assert rrd._sink(answer, "").path == "http://localhost:1/"
    assert capsys.readouterr().out == ""


# -- without it -----------------------------------------------------------------------------------------------------


def test_locks_are_held_together(runtime: Path, tmp_path: Path) -> None:
    """Of starting in this session, and of keeping the log's spool."""
    log = str(tmp_path / "spool" / "log.rrd")
    files = (runtime / "start.lock", tmp_path / "keeper.lock")
    with _spill.nobody_home(log) as alone:
        assert alone
        for path in files:
            with open(path) as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with _spill.nobody_home(log) as again:
            assert not again
    for path in files:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with _spill.nobody_home(log) as alone:
                assert not alone


def test_in_a_container_that_does_not_see_the_spool(runtime: Path) -> None:
    with _spill.nobody_home("/does/not/exist/spool/log.rrd") as alone:
        assert alone
    with open(runtime / "start.lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with _spill.nobody_home("/does/not/exist/spool/log.rrd") as alone:
            assert not alone


def test_spill_continues_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log.rrd"
    log.write_bytes(b"begin ")
    read_end, write_end = os.pipe()
    os.write(write_end, b"middle ")
    spill = _spill.Spill([_spill.Pipe(read_end, str(log))])
    assert spill.move(drop=False) == 7
    os.write(write_end, b"end")
    assert spill.move(drop=False) == 3
    assert spill.move(drop=False) == 0
    assert log.read_bytes() == b"begin middle end"
    assert (spill.written, spill.dropped) == (10, 0)
    spill.close()
    os.close(read_end)
    os.close(write_end)


def test_spill_makes_no_log(tmp_path: Path) -> None:
    """What no log takes stays where it is, until it must go; then it is counted."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"data")
    spill = _spill.Spill([_spill.Pipe(read_end, str(tmp_path / "gone.rrd"))])
    assert spill.move(drop=False) == 0
    assert _spill.unread(read_end) == 4
    assert spill.move(drop=True) == 4
    assert (spill.written, spill.dropped) == (0, 4)
    assert not (tmp_path / "gone.rrd").exists()
    spill.close()
    os.close(read_end)
    os.close(write_end)


def test_spill_to_a_full_disk() -> None:
    """After a gap nothing more is written: it would be unreadable."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    read_end, write_end = os.pipe()
    os.write(write_end, b"data")
    spill = _spill.Spill([_spill.Pipe(read_end, "/dev/full")])
    taken = spill.move(drop=False)
    assert taken == 0
    assert _spill.unread(read_end) + spill.dropped == 4
    spill.move(drop=True)
    os.write(write_end, b"more")
    assert spill.move(drop=False) == 0
    assert spill.move(drop=True) == 4
    assert spill.dropped == 8
    spill.close()
    os.close(read_end)
    os.close(write_end)

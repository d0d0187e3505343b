"""The keeper with children of paper: what it does when they end, and when it is told to."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import descriptors, paths
from daemon.keeper import BACKOFF_READY_S, BACKOFF_S, EXIT_CONFIG, EXIT_RESTART, QUICK_DEATH_S, Keeper
from tests.conftest import DEADLINE_S, ROOT, Home, wait_for

KEEPER = """
import os, sys
from daemon import descriptors, keeper

class Paper(keeper.Keeper):
    def _become_daemon(self, alive_read):
        handed = [*self.held.items(), ("alive", alive_read), ("notify", self._voice.fileno())]
        environment = descriptors.bequeath(handed, os.environ)
        os.execve(PYTHON, [PYTHON, "-c", sys.argv[1]], environment)

PYTHON = sys.executable
if "gone" in sys.argv:
    sys.executable = "/nonexistent/python"
one = Paper([])
assert one.lock()
one.listen()
status = one.run()
one.tidy()
sys.exit(status)
"""
CHILD = """
import os, signal, sys, time
from daemon import descriptors
names = os.environ["LISTEN_FDNAMES"].split(":")
with open("starts", "a") as file:
    file.write(",".join(names) + "\\n")
starts = len(open("starts").readlines())
notifier = descriptors.Notifier.of(dict(descriptors.inherited(dict(os.environ))), "")
"""


@pytest.fixture
def keepers(home: Home) -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for one in started:
        if one.poll() is None:
            one.kill()
        one.wait()


def keep(home: Home, keepers: list[subprocess.Popen[bytes]], child: str, *more: str) -> subprocess.Popen[bytes]:
    one = subprocess.Popen([sys.executable, "-c", KEEPER, CHILD + child, *more], cwd=home.path,
                           env=home.env | {"PYTHONPATH": str(ROOT)})
    keepers.append(one)
    return one


def starts(home: Home) -> list[str]:
    path = home.path / "starts"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(("status", "ends"), [(0, 0), (EXIT_CONFIG, EXIT_CONFIG)])
def test_a_child_that_has_ended_for_good(
    home: Home, keepers: list[subprocess.Popen[bytes]], status: int, ends: int
) -> None:
    one = keep(home, keepers, f"sys.exit({status})")
    assert one.wait(DEADLINE_S) == ends
    assert len(starts(home)) == 1
    assert not home.socket.exists()


@pytest.mark.parametrize("death", ["sys.exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_child_that_dies(home: Home, keepers: list[subprocess.Popen[bytes]], death: str) -> None:
    """It is started again, with what it had stored."""
    one = keep(home, keepers, f"""
if starts == 1:
    read, write = os.pipe()
    notifier.store("stream-a", read)
    {death}
notifier.remove("stream-a") if starts == 2 else None
sys.exit(1 if starts < 3 else 0)
""")
    assert one.wait(DEADLINE_S) == 0
    usual, more = "lock,control,spare,alive,notify", "lock,control,spare,stream-a,alive,notify"
    assert starts(home) == [usual, more, usual]


def test_bad_settings_cost_no_stream(home: Home, keepers: list[subprocess.Popen[bytes]]) -> None:
    one = keep(home, keepers, f"""
if starts == 1:
    notifier.store("stream-a", os.pipe()[0])
sys.exit({EXIT_CONFIG} if starts < 3 else 0)
""")
    assert one.wait(DEADLINE_S) == 0
    assert len(starts(home)) == 3


def test_a_restart_without_an_interpreter_costs_no_stream(home: Home, keepers: list[subprocess.Popen[bytes]]) -> None:
    """Between two installations the old keeper goes on."""
    one = keep(home, keepers, f"""
if starts == 1:
    notifier.store("stream-a", os.pipe()[0])
sys.exit({EXIT_RESTART} if starts == 1 else 0)
""", "gone")
    assert one.wait(DEADLINE_S) == 0
    assert ["stream-a" in names for names in starts(home)] == [False, True]


def test_told_to_stop_while_its_child_begins(home: Home, keepers: list[subprocess.Popen[bytes]]) -> None:
    """The signal kills a child that is not ready for it: that is no reason to start another."""
    one = keep(home, keepers, "time.sleep(600)")
    wait_for(lambda: starts(home), "the child")
    one.send_signal(signal.SIGTERM)
    assert one.wait(DEADLINE_S) == 0
    assert len(starts(home)) == 1


def test_clients_can_connect_before_the_child_is_up(home: Home, keepers: list[subprocess.Popen[bytes]]) -> None:
    keep(home, keepers, "time.sleep(600)")
    wait_for(home.socket.exists, "the socket")
    assert home.socket.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        wait_for(lambda: client.connect_ex(str(home.socket)) == 0, "the connection")


class TestOne:
    @pytest.fixture
    def keeper(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
        for name, value in home.env.items():
            monkeypatch.setenv(name, value)
        one = Keeper([])
        yield one
        for fd in one.held.values():
            os.close(fd)

    def test_only_one(self, keeper: Keeper) -> None:
        assert keeper.lock()
        other = Keeper([])
        assert not other.lock()
        os.close(other.held.pop(descriptors.LOCK))
        assert paths.keeper_lock_path().read_text() == f"{os.getpid()}\n"

    def test_a_session_that_has_ended(self, home: Home, keeper: Keeper) -> None:
        """The next keeper listens where the session is now, if it can; the pipes are held in any case."""
        keeper.listen()
        keeper._notify.close()
        keeper._voice.close()
        spare = home.path / "s" / "rrd" / "daemon.sock"
        assert spare.stat().st_mode & 0o777 == 0o600

        def again() -> int:
            keeper.listen()
            keeper._notify.close()
            keeper._voice.close()
            return keeper.held[descriptors.CONTROL]

        before = keeper.held[descriptors.CONTROL]
        assert again() == before
        shutil.rmtree(home.path / "r" / "rrd")
        (home.path / "r" / "rrd").touch()
        assert again() == before, "there is nowhere to listen"
        (home.path / "r" / "rrd").unlink()
        again()
        for path in (home.socket, spare):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))

    def test_what_daemons_say(self, keeper: Keeper, tmp_path: Path) -> None:
        keeper.listen()
        with keeper._notify:
            notifier = descriptors.Notifier(keeper._voice)
            read, write = os.pipe()

            def tell(*lines: str, fds: tuple[int, ...] = ()) -> set[str]:
                notifier.tell(*lines, fds=fds)
                keeper._notified()
                return set(keeper.held)

            before = set(keeper.held)
            open_before = len(os.listdir("/proc/self/fd"))
            assert tell("READY=1", "STATUS=fine") == before
            assert tell("FDSTORE=1", "FDNAME=stream-a", fds=(read,)) == before | {"stream-a"}
            assert tell("FDSTORE=1", "FDNAME=stream-a", fds=(read,)) == before | {"stream-a"}
            assert tell("FDSTORE=1", "FDNAME=stream-b", fds=(read, write)) == before | {"stream-a"}
            assert tell("FDSTORE=1", fds=(read,)) == before | {"stream-a"}
            assert tell("garbage\xff=", "=", "FDSTORE") == before | {"stream-a"}
            assert tell("FDSTOREREMOVE=1", "FDNAME=control") == before | {"stream-a"}
            assert tell("FDSTOREREMOVE=1", "FDNAME=stream-a") == before
            assert len(os.listdir("/proc/self/fd")) == open_before
            notifier._socket.close()  # type: ignore[union-attr]
        os.close(read)
        os.close(write)

    def test_how_soon_a_child_is_back(self, keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was killed is back at once, what worked within a second; what cannot start keeps no core busy."""
        now = 100.0
        monkeypatch.setattr("daemon.keeper.time.monotonic", lambda: now)

        def delay(status: int, *, ready: float | None = None) -> float:
            keeper._ready_at = None if ready is None else now - ready
            return keeper._delay(status)

        assert [delay(1) for _ in range(9)] == [*BACKOFF_S[1:], BACKOFF_S[-1], BACKOFF_S[-1]]
        # Killed again and again, however soon after its start: never a reason to wait.
        assert {delay(-signal.SIGKILL, ready=ready) for ready in (None, 0.0, 1.2) for _ in range(9)} == {0.0}
        assert {delay(1, ready=QUICK_DEATH_S) for _ in range(9)} == {0.0}
        assert max(delay(-signal.SIGSEGV, ready=0.1) for _ in range(9)) == BACKOFF_READY_S < 1.0
        assert delay(1) == BACKOFF_S[-1]

    def test_it_can_be_stopped_while_it_waits(self, keeper: Keeper) -> None:
        """A child that dies again and again is waited with: nobody who stops the daemon waits that long."""
        keeper._wake, wake = os.pipe()
        try:
            assert not keeper._told_to_stop(0.01)
            os.write(wake, bytes([signal.SIGHUP, signal.SIGTERM]))
            assert keeper._told_to_stop(600.0)  # at once, or the test takes too long
        finally:
            os.close(keeper._wake)
            os.close(wake)

    def test_no_process_can_be_made(
        self, keeper: Keeper, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It is tried again until there is one: the keeper's end would be that of the pipes."""
        failures = [errno.EAGAIN, errno.ENOMEM]
        waited: list[float] = []
        open_before = len(os.listdir("/proc/self/fd"))

        def fork() -> int:
            if failures:
                raise OSError(failures[0], os.strerror(failures.pop(0)))
            return 4711

        def wait(seconds: float) -> bool:
            waited.append(seconds)
            return keeper._stopping

        monkeypatch.setattr("daemon.keeper.os.fork", fork)
        monkeypatch.setattr(keeper, "_told_to_stop", wait)
        assert keeper._start()
        assert (keeper._child, waited) == (4711, list(BACKOFF_S[1:3]))
        assert "cannot start the daemon yet: [Errno 11]" in capsys.readouterr().err
        os.close(keeper._alive_write)
        keeper._stopping, failures = True, [errno.EAGAIN]
        assert not keeper._start()
        assert len(os.listdir("/proc/self/fd")) == open_before

    def test_ready_is_what_the_child_says(self, keeper: Keeper) -> None:
        keeper.listen()
        with keeper._notify:
            notifier = descriptors.Notifier(keeper._voice)
            notifier.tell("STATUS=beginning")
            keeper._notified()
            assert keeper._ready_at is None
            notifier.tell("READY=1", "STATUS=fine")
            keeper._notified()
            assert keeper._ready_at is not None
            notifier._socket.close()  # type: ignore[union-attr]

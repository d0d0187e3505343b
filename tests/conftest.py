"""What all tests share: private homes, real daemons, real SDKs of several versions.

Rules: every daemon lives in directories of its own and is gone afterwards, by pid; nothing of the user's is touched;
what a test needs and cannot have is said by `skip`, and is a failure where CI=true.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from daemon.wire import control

ROOT = Path(__file__).resolve().parent.parent
SDKS = ("0.23.4", "0.27.3", "0.31.4", "0.36.3", "0.41.0")
NEWEST = SDKS[-1]
DEADLINE_S = 30.0
"""What should happen at once gets this long on a loaded machine."""


# A shell starts background jobs with SIGINT ignored, and that is inherited: Ctrl-C is tested all the same.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what Rust and C++ were tested with: that depends on the compilers of the machine."""
    drivers = sys.modules.get("tests.sdk.drivers")
    if drivers is not None and drivers.cargo.cache_info().currsize:
        terminalreporter.write_line(f"Rust and C++ were tested with {drivers.tested_with()}")


def missing(what: str) -> None:
    """Skip for want of something; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have {what}")
    pytest.skip(f"needs {what}")


def wait_for(condition: Callable[[], Any], what: str = "the condition", seconds: float = DEADLINE_S) -> Any:
    """Poll until `condition()` is true, and return what it returned."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {seconds:.0f} s")
        time.sleep(0.02)


class Peer:
    """A client of the control socket that does just what a test says."""

    def __init__(self, path: Path, **greeting: Any) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE_S)
        self.socket.connect(os.fspath(path))
        self.decoder = control.Decoder()
        self.seen: list[dict[str, Any]] = []
        self._id = 0
        if greeting != {"silent": True}:
            usual = {"protocol": control.PROTOCOL, "agent": "test", "pid": os.getpid()}
            self.greeted = self.ask("hello", **{**usual, **greeting})

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        socket.send_fds(self.socket, [data], list(fds))

    def receive(self) -> dict[str, Any] | None:
        """The next message; None at the end of the connection."""
        while (message := self.decoder.next_message()) is None:
            data = self.socket.recv(1 << 16)
            if not data:
                return None
            self.decoder.receive_data(data)
        self.seen.append(message)
        return message

    def ask(self, verb: str, *, fds: Sequence[int] = (), **args: Any) -> dict[str, Any]:
        """Say a verb and wait for its end; raises VerbError where the daemon does."""
        self._id += 1
        self.send(control.encode({"id": self._id, "verb": verb, "args": args}), fds)
        while True:
            message = self.receive()
            assert message is not None, "the daemon hung up"
            if message.get("id") == self._id and "ok" in message:
                return message["ok"]
            if message.get("id") in (self._id, 0) and "error" in message:
                raise control.VerbError(**message["error"])

    def close(self) -> None:
        self.socket.close()


@dataclass
class Home:
    """XDG directories of one test, and the environment that names them."""

    path: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("r", "s", "c", "k"):
            (self.path / name).mkdir(mode=0o700)
        keep = {name: value for name, value in os.environ.items()
                if not name.startswith(("RERUN", "XDG_", "RRD_", "LISTEN_", "NOTIFY_", "SSH_"))}
        self.env = {
            **keep,
            "HOME": str(self.path),
            "XDG_RUNTIME_DIR": str(self.path / "r"),
            "XDG_STATE_HOME": str(self.path / "s"),
            "XDG_CONFIG_HOME": str(self.path / "c"),
            "XDG_CACHE_HOME": str(self.path / "k"),
            "RRD_GRPC_PORT": "0",
            "COLUMNS": "200",
        }
        # Rerun asks nobody: its analytics are off in this home.
        analytics = self.path / "c" / "rerun"
        analytics.mkdir()
        (analytics / "analytics.json").write_text(json.dumps({
            "analytics_enabled": False, "analytics_id": "", "metadata": {},
            "config_file_path": str(analytics / "analytics.json"),
            "data_dir_path": str(self.path / ".local" / "share" / "rerun" / "analytics"),
        }))

    @property
    def spool(self) -> Path:
        """The logs' directory."""
        return self.path / "s" / "rrd" / "spool"

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.path / "r" / "rrd" / "control.sock"

    @property
    def log(self) -> str:
        """What the daemon has logged."""
        path = self.path / "s" / "rrd" / "daemon.log"
        return path.read_text() if path.exists() else ""

    def client(self, **greeting: Any) -> Peer:
        """A connection to the daemon of this home."""
        return Peer(self.socket, **greeting)

    def call(self, verb: str, **args: Any) -> dict[str, Any]:
        """Say one verb."""
        client = self.client()
        try:
            return client.ask(verb, **args)
        finally:
            client.close()

    def cli(self, *argv: object, check: bool = True, timeout: float = 60.0,
            **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `rrd` as a user would."""
        options = {"cwd": self.path, "stdin": subprocess.DEVNULL, "env": self.env, **options}
        done = subprocess.run([sys.executable, "-m", "rrd_cli", *map(str, argv)], text=True, capture_output=True,
                              timeout=timeout, check=False, **options)
        if check:
            said = f"{done.stdout}{done.stderr}"
            assert done.returncode == 0, f"rrd {' '.join(map(str, argv))}: {done.returncode}\n{said}"
        return done

    def status(self) -> dict[str, Any]:
        """What `rrd status --json` has."""
        return self.call("status")

    def recordings(self) -> list[dict[str, Any]]:
        """What `rrd ls --json` has."""
        return self.call("ls")["recordings"]

    def daemon_pid(self) -> int:
        """The daemon's pid, as soon as it answers."""
        return int(self.status()["daemon"]["pid"])

    def keeper_pid(self) -> int:
        """The keeper's pid; 0 if there is none."""
        path = self.path / "s" / "rrd" / "keeper.lock"
        with contextlib.suppress(OSError), open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read().strip() or 0)
        return 0

    def stop(self) -> None:
        """End the daemon of this home, by pid if it does not listen."""
        keeper = self.keeper_pid()
        if not keeper:
            return
        for number, seconds in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(keeper, number)
            with contextlib.suppress(AssertionError):
                wait_for(lambda: not self.keeper_pid(), "the keeper's end", seconds)
                return


@pytest.fixture
def home() -> Iterator[Home]:
    """Private directories under a short path: a socket's name is limited to 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="rrd-"))
    one = Home(path)
    try:
        yield one
    finally:
        one.stop()
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def daemon(home: Home) -> Home:
    """A home with a running daemon in it."""
    home.cli("daemon", "start")
    return home


def _cache() -> Path:
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rrd-cli-tests"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _cached(name: str, make: Callable[[Path], object]) -> Path:
    """A directory of the cache; made when it is not there, whole or not at all."""
    target = _cache() / name
    with open(_cache() / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "ready").exists():
            shutil.rmtree(target, ignore_errors=True)
            make(target)
            (target / "ready").touch()
    return target


PIP_INSTALL = ("-m", "pip", "install", "-q", "--disable-pip-version-check")


def sdk_environment(version: str) -> Path:
    """The python of a virtual environment with this rerun-sdk and cbor2; made when it is not there."""
    if version == NEWEST:
        return Path(sys.executable)

    def make(target: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)
        subprocess.run([target / "bin" / "python", *PIP_INSTALL, f"rerun-sdk=={version}", "cbor2", "numpy"], check=True)

    base = hashlib.sha256(sys.base_prefix.encode()).hexdigest()[:6]
    name = f"sdk-{version}-py{sys.version_info.major}{sys.version_info.minor}-{base}"
    return _cached(name, make) / "bin" / "python"


@pytest.fixture(scope="session")
def notebook() -> Callable[[str], Path]:
    """Call it with a version: a directory of packages that has that rerun-notebook."""
    def packages(version: str) -> Path:
        def make(target: Path) -> None:
            command = [sys.executable, *PIP_INSTALL, "--no-deps", "--target", str(target), f"rerun-notebook=={version}"]
            subprocess.run(command, check=True)

        return _cached(f"notebook-{version}", make)

    return packages


@pytest.fixture(scope="session")
def sdk_python() -> Callable[[str], Path]:
    """Call it with a version: the python that has that rerun-sdk."""
    return sdk_environment


@pytest.fixture(scope="session")
def rerun() -> Path:
    """The newest `rerun` binary itself, not pip's launcher."""
    import importlib.util

    spec = importlib.util.find_spec("rerun_cli")
    if spec is None or spec.origin is None:
        missing("rerun-sdk")
        raise AssertionError
    return Path(spec.origin).parent / "rerun"


@pytest.fixture
def verify(rerun: Path, tmp_path: Path) -> Callable[..., None]:
    """Call it with files: `rerun rrd verify` must be content."""
    def check(*files: Path) -> None:
        done = subprocess.run([rerun, "rrd", "verify", *files], capture_output=True, text=True, check=False,
                              env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)})
        assert done.returncode == 0, done.stderr
    return check

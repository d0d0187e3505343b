"""A viewer's process: which executable, how it is started, how it is known to be up, and what it said when it is not.

    candidates: the one that was named, else the program's own environment, the caller's PATH, the daemon's environment
    start:      executable --port P --bind 127.0.0.1 ...  in a session of its own, output to <state>/viewers/P.log

Rules: a window is its user's, so a viewer outlives program and daemon (its own session; under systemd its own scope)
and is never killed here; it gets the caller's environment, not the daemon's, and of that nothing that is rrd's; pip's
`rerun` is a launcher, so the binary behind it is started; one that is up answers the handshake and has got past opening
its window, one that dies says why.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import trio

from daemon import paths
from daemon.processes import open_pidfd, wait_ended
from daemon.systemd import service
from daemon.viewers.discover import Owner, alive, bindings_of, descends, listener, owner_of, version_of
from daemon.viewers.probe import Answer, probe
from daemon.viewers.version import FIRST_HEADLESS, Fit, Verdict, Version, compare, parse_version, show
from daemon.wire.grpc import DEFAULT_PORT, Address

log = logging.getLogger("rrd.viewer")

START_S = 30.0
"""A viewer on a software renderer and two busy cores needs ten."""
POLL_S = 0.05
SETTLED_CPU_S, SETTLING_S = 0.25, 2.0
"""A viewer answers before it opens its window. One without a display dies 10 ms of CPU time later, one without a
graphics driver 0.15 s; one that lives has spent 0.25 s after some 0.35 s, and on two seconds of peace it lives, too.
Measured with 0.41, Xvfb and software Vulkan, the driver hidden by VK_DRIVER_FILES."""
SAID_LINES = 12
"""Of its last output, in the error."""
SAID_BYTES = 1 << 14
HOST = "127.0.0.1"
KEPT_LOGS = 20

_NOT_FOR_VIEWERS = ("RRD_", "LISTEN_", "NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM", "WATCHDOG_", "MAINPID",
                    "SYSTEMD_EXEC_PID", "MANAGERPID", "VIRTUAL_ENV_PROMPT", "PYTEST_", "_RERUN")
"""What is the daemon's or its service manager's business."""
_ROOT_OF_RERUN_CLI = ("rerun_cli", "rerun_sdk/rerun_cli")
"""Where pip puts the binary in site-packages: newer SDKs, older ones (0.36 and before)."""


class StartFailed(Exception):
    """No viewer came up. `hint` says what may help."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Executable:
    """A `rerun` that could be started, and where it was found."""

    path: str
    version: Version | None
    origin: str


@dataclass(frozen=True)
class Wish:
    """How a viewer is wanted.

    Attributes:
        executable: A path, or empty.
        name: What to look for in PATH.
        port: 0 is Rerun's own if it is free, else any free one.
        extra: Further arguments.
    """

    executable: str = ""
    name: str = "rerun"
    port: int = 0
    headless: bool = False
    memory_limit: str = ""
    server_memory_limit: str = ""
    hide_welcome_screen: bool = False
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Viewer:
    """A viewer that is up."""

    address: Address
    pid: int
    started: float
    executable: str
    version: Version | None
    log: str = ""
    notes: tuple[str, ...] = field(default=())


# ---------------------------------------------------------------- which executable


def candidates(wish: Wish, environment: Mapping[str, str], pids: Sequence[int]) -> list[Executable]:
    """Executables that could be started, best places first. Reads /proc and runs `--version`: call it in a thread.

    Args:
        wish: An executable that is named is the only candidate.
        environment: The caller's.
        pids: Programs whose streams are to be shown.

    Raises:
        StartFailed: the named one is not there.
    """
    if wish.executable:
        path = shutil.which(wish.executable, path=environment.get("PATH", os.defpath))
        if path is None:
            raise StartFailed(f"no such executable: {wish.executable}", "--executable names the `rerun` binary")
        return [_executable(path, "as named")]
    found: dict[str, Executable] = {}
    for path, origin in _places(wish, environment, pids):
        one = _executable(path, origin)
        found.setdefault(os.path.realpath(one.path), one)
    return list(found.values())


def _places(wish: Wish, environment: Mapping[str, str], pids: Sequence[int]) -> Iterator[tuple[str, str]]:
    override = environment.get("RERUN_CLI_PATH", "")  # pip's launcher honours it
    if override and os.access(override, os.X_OK):
        yield override, "RERUN_CLI_PATH"
    for pid in pids:
        for path in beside_program(pid):
            yield path, f"the environment of pid {pid}"
    in_path = shutil.which(wish.name, path=environment.get("PATH", os.defpath))
    if in_path:
        yield in_path, "PATH"
    own = os.path.join(os.path.dirname(sys.executable), wish.name)
    if os.access(own, os.X_OK):
        yield own, "the daemon's environment"
    cargo = os.path.join(environment.get("HOME", "/nonexistent"), ".cargo", "bin", wish.name)
    if os.access(cargo, os.X_OK):
        yield cargo, "cargo"


def beside_program(pid: int) -> list[str]:
    """The `rerun` of a Python program's own environment: the binary that pip installed with the SDK it has loaded."""
    bindings = bindings_of(pid)
    if bindings is None:
        return []
    return [
        str(path)
        for parent in list(bindings.parents)[:4] if parent.name in ("site-packages", "dist-packages")
        for path in (parent / place / "rerun" for place in _ROOT_OF_RERUN_CLI) if os.access(path, os.X_OK)
    ]


def _executable(path: str, origin: str) -> Executable:
    binary = behind_launcher(path)
    return Executable(binary, version_of(binary), origin)


def behind_launcher(path: str) -> str:
    """The binary that pip's launcher starts; the path itself if it is no such launcher."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError:
        return path
    if not head.startswith(b"#!") or b"rerun_cli" not in head:
        return path
    python = head[2:].split(b"\n", 1)[0].strip().decode(errors="replace").split(" ")[0]
    for prefix in {os.path.dirname(os.path.dirname(python)), os.path.dirname(os.path.dirname(path))}:
        for packages in sorted(Path(prefix).glob("lib*/python3*/site-packages")):
            for place in _ROOT_OF_RERUN_CLI:
                binary = packages / place / "rerun"
                if os.access(binary, os.X_OK):
                    return str(binary)
    return path


def choose(found: Sequence[Executable], streams: Sequence[Version], wish: Wish) -> tuple[Executable, Verdict]:
    """The executable that can show the streams: the first right one, else the newest that shows something.

    Raises:
        StartFailed: there is none, or none that would show anything.
    """
    if not found:
        raise StartFailed("no Rerun viewer is installed", "pip install rerun-sdk, or name one with --executable")
    usable = [one for one in found if not (wish.headless and one.version and one.version < FIRST_HEADLESS)]
    if not usable:
        raise StartFailed(f"{found[0].path} ({show(found[0].version)}) cannot run headless",
                          "0.36 and newer can: pip install -U rerun-sdk")
    judged = [(one, worst([compare(stream, one.version) for stream in streams])) for one in usable]
    for one, verdict in judged:
        if verdict.fit is Fit.RIGHT:
            return one, verdict
    one, verdict = max(judged, key=lambda pair: pair[0].version or (0, 0, 0))
    if verdict.fit is Fit.LOSES:
        raise StartFailed(verdict.message, f"{verdict.hint} (found: {', '.join(_name(each) for each in usable)})")
    return one, verdict


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that matters most."""
    order = [Fit.RIGHT, Fit.PARTLY, Fit.LOSES]
    return max(verdicts, key=lambda verdict: order.index(verdict.fit), default=Verdict(Fit.RIGHT))


def _name(one: Executable) -> str:
    return f"{one.path} {show(one.version)}"


# ---------------------------------------------------------------- starting


async def start(executable: Executable, wish: Wish, environment: Mapping[str, str]) -> Viewer:
    """Start a viewer and wait until it answers and has settled.

    Raises:
        StartFailed: it ended, or does not answer; with its last output.
    """
    port = wish.port or free_port()
    argv = arguments(executable, wish, port)
    directory = paths.make_private(paths.state_dir() / "viewers")
    _forget_old(directory)
    path = directory / f"{port}.log"
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = _launch([*_scope(port, environment), *argv], output, environment)
    except OSError as error:
        raise StartFailed(f"cannot start {executable.path}: {error.strerror}") from error
    finally:
        os.close(output)
    log.info("started %s on port %d (pid %d)", executable.path, port, process.pid)
    trio.lowlevel.spawn_system_task(_reap, process)
    address = Address(HOST, port)
    answer: Answer | None = None
    with trio.move_on_after(START_S) as scope:
        answer = await _until_up(process, address)
    if scope.cancelled_caught:
        raise StartFailed(f"{executable.path} does not answer on port {port} after {START_S:g} s"
                          f"{_said(path)}", f"it still runs as pid {process.pid}")
    if answer is not None:
        owner = await trio.to_thread.run_sync(listener, port)
        if owner is not None and not await trio.to_thread.run_sync(descends, owner.pid, process.pid):
            raise StartFailed(f"port {port} was taken meanwhile by {owner.describe()}", "say it again")
        owner = owner or await trio.to_thread.run_sync(owner_of, process.pid)
        if owner is not None and await settles(owner):
            version = answer.version or executable.version
            return Viewer(address, owner.pid, owner.started, executable.path, version, str(path))
        with trio.move_on_after(SETTLING_S):
            while process.poll() is None:  # noqa: ASYNC110 - a launcher whose child has ended; _reap may be first
                await trio.sleep(POLL_S)
    raise StartFailed(*_epitaph(process, executable, path))


def _launch(argv: Sequence[str], output: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, close_fds=True, start_new_session=True, cwd="/",
        env=viewer_environment(environment),
    )


async def _until_up(process: subprocess.Popen[bytes], address: Address) -> Answer | None:
    """Wait for its answer; None when it has ended."""
    while process.poll() is None:
        answer = await probe(address)
        if answer.kind == "rerun":
            return answer
        await trio.sleep(POLL_S)
    return None


async def settles(owner: Owner, *, cpu: float = SETTLED_CPU_S, seconds: float = SETTLING_S) -> bool:
    """Wait until a viewer that answers has come further than where it may still find that it cannot run.

    Args:
        owner: Its process.
        cpu: CPU time that proves it, in seconds from now.
        seconds: Time that does, too.

    Returns:
        False: it has ended.
    """
    with trio.move_on_after(seconds):
        try:
            process = psutil.Process(owner.pid)
            before = sum(process.cpu_times()[:2])
            while alive(owner.pid, owner.started) and sum(process.cpu_times()[:2]) < before + cpu:  # noqa: ASYNC110 - no event
                await trio.sleep(POLL_S)
        except psutil.Error:
            return False
    return alive(owner.pid, owner.started)


async def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for the process, so that none of ours stays a zombie."""
    try:
        pidfd = open_pidfd(process.pid)
    except ProcessLookupError:
        pidfd = -1  # somebody has asked how it ended
    if pidfd >= 0:
        try:
            await wait_ended(pidfd)
        finally:
            os.close(pidfd)
    else:
        await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
    status = process.wait()
    log.info("viewer (pid %d) ended with status %d", process.pid, status)


def arguments(executable: Executable, wish: Wish, port: int) -> list[str]:
    """The command line."""
    argv = [executable.path, "--port", str(port), "--bind", HOST]
    if wish.headless:
        argv.append("--headless")
    if wish.memory_limit:
        argv += ["--memory-limit", wish.memory_limit]
    if wish.server_memory_limit:
        argv += ["--server-memory-limit", wish.server_memory_limit]
    if wish.hide_welcome_screen:
        argv.append("--hide-welcome-screen")
    return [*argv, "--expect-data-soon", *wish.extra]


def viewer_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without what is rrd's, the service manager's or a test's."""
    return {name: value for name, value in environment.items() if not name.startswith(_NOT_FOR_VIEWERS)}


def environment_of(pid: int) -> dict[str, str]:
    """The environment a process was started with; this process's own if that cannot be read."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return dict(os.environ)
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if b"=" in entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs} or dict(os.environ)


def free_port() -> int:
    """Rerun's own port if nobody has it, else any free one.

    Raises:
        StartFailed: there is none.
    """
    for port in (DEFAULT_PORT, 0):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((HOST, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise StartFailed(f"no free port: {error.strerror}") from error
                continue
            return int(sock.getsockname()[1])
    raise StartFailed("no free port")


def _scope(port: int, environment: Mapping[str, str]) -> list[str]:
    """Under systemd, what is started in a service ends with it; a scope of its own does not."""
    systemd_run = service.systemd_run(environment)
    if systemd_run is None:
        return []
    return [systemd_run, "--user", "--scope", "--quiet", "--collect", f"--unit=rrd-viewer-{port}-{os.getpid()}", "--"]


def _epitaph(process: subprocess.Popen[bytes], executable: Executable, path: Path) -> tuple[str, str]:
    status = process.poll()
    how = "" if status is None else f" on signal {-status}" if status < 0 else f" with status {status}"
    said = _said(path)
    hint = "its output is in " + str(path)
    lowered = said.lower()
    if "graphics adapter" in lowered or "vulkan" in lowered or "wgpu" in lowered:
        hint = "no graphics driver works here: install a software one (Debian: mesa-vulkan-drivers), or use `rrd serve`"
    elif "display" in lowered or "x11" in lowered or "wayland" in lowered:
        hint = "there is no display: use `rrd serve` for a browser, or --headless"
    elif "shared libraries" in lowered:
        hint = "a library is missing on this machine"
    return f"the viewer ended{how}: {executable.path}{said}", hint


def _said(path: Path) -> str:
    """Its last lines, each on a line of its own, indented."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - SAID_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [_plain(line) for line in text.splitlines() if line.strip()]
    return "".join(f"\n    {line}" for line in lines[-SAID_LINES:])


def _plain(line: str) -> str:
    """Without colours."""
    out, rest = "", line
    while "\x1b[" in rest:
        before, _, rest = rest.partition("\x1b[")
        out += before
        end = next((index for index, char in enumerate(rest) if char.isalpha()), len(rest))
        rest = rest[end + 1 :]
    return "".join(char for char in out + rest if char.isprintable())[:300]


def _forget_old(directory: Path) -> None:
    logs = sorted(directory.glob("*.log"), key=lambda path: path.stat().st_mtime)
    for path in logs[:-KEPT_LOGS]:
        path.unlink(missing_ok=True)


async def ends_within(pid: int, started: float, *, seconds: float) -> bool:
    """Whether a process is gone, or goes within so many seconds."""
    if not alive(pid, started):
        return True
    with trio.move_on_after(seconds):
        while alive(pid, started):  # noqa: ASYNC110 - not every system tells
            await trio.sleep(POLL_S)
    return not alive(pid, started)


__all__ = ["Executable", "StartFailed", "Viewer", "Wish", "candidates", "choose", "parse_version", "start"]

"""Which Rerun programs run on this machine, and whose a socket is: asked of /proc, without a byte of traffic.

    listening socket -> pid -> executable `rerun`             a viewer, or a server (its arguments say which)
                            -> `rerun_bindings` in its maps   a Python program that serves with the SDK
                            -> anything else                  not ours to guess: viewers/probe.py asks it

Rules: a name proves nothing about what answers, so whoever is to be fed is probed as well; pip's `rerun` is a Python
launcher whose child is the viewer, so only the process that holds the socket counts; another user's executable is
never run, not even for its version; every look is bounded. Synchronous, and up to some tens of milliseconds: call it in
a thread.
"""

from __future__ import annotations

import functools
import os
import pwd
import re
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from daemon.processes import process_started
from daemon.viewers.version import Version, parse_version, show

VERSION_TIMEOUT_S = 5.0
"""`rerun --version` takes 20 ms, minutes on a disk that is asleep are not waited for."""

ESTABLISHED, LISTEN = 0x01, 0x0A
"""States of net/tcp, from the kernel's tcp_states.h."""

BINDINGS = "rerun_bindings"
_DIST_INFO = re.compile(r"rerun_sdk-(\d+\.\d+\.\d+)[^/]*\.dist-info")


@dataclass(frozen=True)
class Owner:
    """A process that holds a socket. `started` is its start: with the pid it names a process, until the next boot.

    Of another user's socket no more may be known than whose it is: then the pid is 0.
    """

    pid: int
    started: float
    program: str
    user: str
    mine: bool

    def describe(self) -> str:
        """For messages: `rerun (pid 4711)`."""
        if not self.pid:
            return f"a process of user {self.user}"
        whose = "" if self.mine else f", user {self.user}"
        return f"{self.program or 'a process'} (pid {self.pid}{whose})"


@dataclass(frozen=True)
class Found:
    """A Rerun program that listens.

    Attributes:
        kind: `windowed`, `headless`, `web`, `server` (--serve-grpc), `save` (--save), `sdk` (a program that serves),
            `other` (no Rerun program, as far as its process says).
        ports: Where it listens, (address, port), lowest port first.
    """

    owner: Owner
    kind: str
    version: Version | None
    executable: str
    ports: tuple[tuple[str, int], ...]

    @property
    def is_viewer(self) -> bool:
        """It shows what it is sent."""
        return self.kind in ("windowed", "headless")

    def describe(self) -> str:
        """For messages: `windowed viewer 0.41.0 (pid 4711)`."""
        if self.kind == "other":
            return self.owner.describe()
        names = {"server": "Rerun server", "save": "rerun --save", "sdk": "SDK server", "web": "web viewer server"}
        return f"{names.get(self.kind, self.kind + ' viewer')} {show(self.version)} (pid {self.owner.pid})"


@dataclass(frozen=True)
class _Socket:
    state: int
    local: tuple[str, int]
    remote_port: int
    inode: int
    uid: int


def listener(port: int) -> Owner | None:
    """Who listens on a TCP port; None if nobody does."""
    sockets = {sock.inode: sock for sock in _sockets() if sock.state == LISTEN and sock.local[1] == port}
    for pid, _ in _holders(set(sockets)):
        return owner_of(pid)
    for sock in sockets.values():  # nobody may look into another user's descriptors, but whose a socket is, is public
        if sock.uid != os.getuid():
            return Owner(0, 0.0, "", _name_of(sock.uid), False)
    return None


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def server_at(port: int) -> Found | None:
    """The program that listens on a port, whatever it is (kind `other` if it is not Rerun's); None if nobody does."""
    owner = listener(port)
    if owner is None:
        return None
    ports = (("", port),)
    found = _examine(owner.pid, ports) if owner.pid else None
    return found or Found(owner, "other", None, "", ports)


def peer_owner(local: tuple[str, int], remote: tuple[str, int]) -> Owner | None:
    """Whose the other end of a connection is, if it is on this machine.

    Args:
        local: Our address and port.
        remote: The other end's.
    """
    inodes = {
        sock.inode
        for sock in _sockets()
        if sock.state == ESTABLISHED and sock.local[1] == remote[1] and sock.remote_port == local[1]
    }
    for pid, _ in _holders(inodes):
        return owner_of(pid)
    return None


def owner_of(pid: int) -> Owner | None:
    """What is to be said of a process; None if it is gone."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            uid = process.uids().real
            return Owner(pid, _start_of(process), shown(_program(process)), process.username(), uid == os.getuid())
    except psutil.Error:
        return None


def shown(name: str) -> str:
    """A name that the system gave us, for messages: its bytes need not be UTF-8, theirs must."""
    return os.fsencode(name).decode(errors="replace")


def alive(pid: int, started: float) -> bool:
    """Whether this very process still runs (and is no zombie)."""
    try:
        process = psutil.Process(pid)
        return abs(_start_of(process) - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _start_of(process: psutil.Process) -> float:
    """Ticks since boot; Unix seconds where they are not told. psutil has only these, and they move with the clock.

    Raises:
        psutil.Error: it is gone.
    """
    ticks = process_started(process.pid)
    return process.create_time() if ticks is None else ticks


def descends(pid: int, ancestor: int) -> bool:
    """Whether a process is `ancestor`, or was started by it (a launcher's child)."""
    try:
        process = psutil.Process(pid)
        return pid == ancestor or any(parent.pid == ancestor for parent in process.parents())
    except psutil.Error:
        return False


def find() -> list[Found]:
    """All Rerun programs of this machine that listen, by pid."""
    sockets = {sock.inode: sock for sock in _sockets() if sock.state == LISTEN}
    ports: dict[int, set[tuple[str, int]]] = {}
    for pid, inode in _holders(set(sockets)):
        ports.setdefault(pid, set()).add(sockets[inode].local)
    found = []
    for pid in sorted(ports):
        listening = tuple(sorted(ports[pid], key=lambda address: address[1]))
        if (one := _examine(pid, listening)) is not None:
            found.append(one)
    return found


def _examine(pid: int, ports: tuple[tuple[str, int], ...]) -> Found | None:
    owner = owner_of(pid)
    if owner is None:
        return None
    try:
        process = psutil.Process(pid)
        executable = process.exe().removesuffix(" (deleted)")
        arguments = process.cmdline()[1:]
    except psutil.Error:
        # Another user's: its name is all we get to see.
        return Found(owner, "windowed", None, "", ports) if owner.program == "rerun" else None
    if os.path.basename(executable) == "rerun":
        version = version_of(executable) if owner.mine else _version_nearby(Path(executable))
        return Found(owner, kind_of(arguments), version, executable, ports)
    bindings = bindings_of(pid)
    if bindings is not None:
        return Found(owner, "sdk", _version_nearby(bindings), executable, ports)
    return None


def kind_of(arguments: Iterable[str]) -> str:
    """What a `rerun` with these arguments is."""
    flags = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
    if flags & {"--save"}:
        return "save"
    if flags & {"--serve-grpc"}:
        return "server"
    if flags & {"--serve-web", "--serve", "--web-viewer"}:
        return "web"
    return "headless" if "--headless" in flags else "windowed"


def bindings_of(pid: int) -> Path | None:
    """The SDK's library in a Python process, None if it has none or is not ours to look into."""
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
            for line in maps:
                if BINDINGS in line and (start := line.find("/")) >= 0:
                    return Path(line[start:].rstrip("\n"))
    except OSError:
        return None
    return None


def version_of(executable: str) -> Version | None:
    """The version of a `rerun` executable: what pip says of it, else what it says itself; None if neither does."""
    try:
        modified = os.stat(executable).st_mtime_ns
    except OSError:
        return None
    return _version_of(executable, modified)


@functools.lru_cache(maxsize=64)
def _version_of(executable: str, modified: int) -> Version | None:
    del modified  # part of the key: an upgrade is a new executable
    nearby = _version_nearby(Path(executable))
    if nearby is not None:
        return nearby
    try:
        done = subprocess.run(
            [executable, "--version"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(done.stdout) or parse_version(done.stderr)


def _version_nearby(path: Path) -> Version | None:
    """From the dist-info beside `site-packages/[rerun_sdk/]{rerun_cli/rerun, rerun_bindings/...so}`."""
    for parent in list(path.parents)[1:4]:
        if parent.name not in ("site-packages", "dist-packages"):
            continue
        try:
            versions = [found[1] for entry in os.scandir(parent) if (found := _DIST_INFO.fullmatch(entry.name))]
        except OSError:
            return None
        return parse_version(versions[0]) if len(versions) == 1 else None
    return None


def _program(process: psutil.Process) -> str:
    """What a user would call the process: the script rather than the interpreter."""
    try:
        arguments = process.cmdline()
    except psutil.Error:
        arguments = []
    name = process.name()
    if name.startswith("python"):
        for position, argument in enumerate(arguments[1:], 1):
            if argument == "-m" and position + 1 < len(arguments):
                return arguments[position + 1]
            if argument == "-c":
                return name
            if not argument.startswith("-"):
                return os.path.basename(argument)
    return name


# ---------------------------------------------------------------- /proc


def _sockets() -> Iterator[_Socket]:
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{table}", encoding="ascii") as lines:
                next(lines, None)
                for line in lines:
                    # sl local remote state queues timer retransmits uid timeout inode (proc(5))
                    fields = line.split()
                    yield _Socket(int(fields[3], 16), _address(fields[1]), int(fields[2].split(":")[1], 16),
                                  int(fields[9]), int(fields[7]))
        except OSError:
            continue


def _address(text: str) -> tuple[str, int]:
    """`0100007F:2694`: the address in 32-bit words of the machine's byte order."""
    digits, port = text.split(":")
    raw = b"".join(struct.pack("=I", int(digits[i : i + 8], 16)) for i in range(0, len(digits), 8))
    if len(raw) == 16 and raw[:12] == b"\0" * 10 + b"\xff\xff":
        raw = raw[12:]
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, raw), int(port, 16)


def _holders(inodes: set[int]) -> Iterator[tuple[int, int]]:
    """(pid, inode) of processes that hold one of these sockets, newest pid first."""
    if not inodes:
        return
    wanted = {f"socket:[{inode}]": inode for inode in inodes if inode}
    for pid in sorted((int(name) for name in os.listdir("/proc") if name.isdecimal()), reverse=True):
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                link = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            except OSError:
                continue
            if link in wanted:
                yield pid, wanted[link]

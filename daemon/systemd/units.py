"""The unit files as they are installed for one user, and what systemctl says of them. Blocking; for the command line.

Rules: the files beside this module are what is installed, but for the lines that name the interpreter and directories
of this user; systemctl is asked, never guessed; whatever it refuses is raised with its own words.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from daemon import paths

SERVICE = "rrd.service"
SOCKET = "rrd.socket"
HERE = Path(__file__).parent
DEADLINE_S = 60.0
"""systemctl waits for the daemon to be ready, which may have much to recover."""
HANDED_ON = ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
"""Variables that say where the daemon's files are: a service that did not know them would look elsewhere."""


class ServiceError(Exception):
    """systemd is not there, or refused. `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def command() -> list[str]:
    """What the service runs: the daemon itself, in this very interpreter; systemd is its keeper."""
    return [sys.executable, "-m", "daemon.app"]


def texts(words: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The unit files by name.

    Args:
        words: The command of the service.
        environment: Of whoever installs; what says where files are is written down.
    """
    service = (HERE / SERVICE).read_text()
    lines = []
    for line in service.splitlines():
        if line.startswith("ExecStart="):
            line = "ExecStart=" + " ".join(quoted(word) for word in words)
            lines += [f"Environment={quoted(f'{name}={environment[name]}')}"
                      for name in HANDED_ON if environment.get(name)]
        lines.append(line)
    return {SERVICE: "\n".join(lines) + "\n", SOCKET: _socket_unit(environment)}


def _socket_unit(environment: Mapping[str, str]) -> str:
    usual = f"ListenStream=%h/.local/state/rrd/{paths.SPARE}\n"
    text = (HERE / SOCKET).read_text()
    base = environment.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        return text
    path = os.path.join(base, "rrd", paths.SPARE)
    fits = len(os.fsencode(path)) <= paths.MAX_SOCKET_PATH
    return text.replace(usual, f"ListenStream={path.replace('%', '%%')}\n" if fits else "")


def quoted(word: str) -> str:
    """A word as systemd.service(5) reads it."""
    word = word.replace("%", "%%").replace("$", "$$")
    if word and not set(word) & set(" \t\"'\\;"):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where a user's own units lie.

    Raises:
        PathError: the user has no home.
    """
    return paths.base_dir("XDG_CONFIG_HOME", ".config", environment) / "systemd" / "user"


def installed() -> bool:
    """Both units are in the user's directory."""
    try:
        return all((directory() / name).is_file() for name in (SERVICE, SOCKET))
    except paths.PathError:
        return False


def listening(path: Path) -> bool:
    """systemd holds this control socket: it starts the daemon when somebody connects."""
    found = _properties(SOCKET, "ActiveState", "Listen")
    listens = [value for name, value in found if name == "Listen"]  # one line a socket
    return ("ActiveState", "active") in found and any(value.startswith(f"{path} ") for value in listens)


def running() -> bool:
    """The daemon runs as a service, or is about to."""
    states = [value for name, value in _properties(SERVICE, "ActiveState") if name == "ActiveState"]
    return any(state not in ("inactive", "failed") for state in states)


def install(words: Sequence[str]) -> list[Path]:
    """Write the units, and have systemd listen on the control socket now and at every login.

    Returns:
        The files.

    Raises:
        ServiceError: there is no user manager, or it refused.
    """
    _manager()
    where = directory()
    try:
        where.mkdir(parents=True, exist_ok=True)
        for name, text in texts(words, os.environ).items():
            (where / name).write_text(text)
    except OSError as error:
        raise ServiceError(f"cannot write {error.filename}: {error.strerror}") from error
    _systemctl("daemon-reload")
    _systemctl("enable", SERVICE, SOCKET)
    _systemctl("restart", SOCKET)
    _systemctl("start", SERVICE)
    return [where / SERVICE, where / SOCKET]


def uninstall() -> list[Path]:
    """Stop the service and take its units away.

    Returns:
        The files that were removed.

    Raises:
        ServiceError: systemd refused.
    """
    found = [path for path in (directory() / name for name in (SERVICE, SOCKET)) if path.exists()]
    if found:
        _manager()
        _systemctl("disable", "--now", SOCKET, SERVICE)
        for path in found:
            path.unlink()
        _systemctl("daemon-reload")
    return found


def _properties(unit: str, *names: str) -> list[tuple[str, str]]:
    """What systemd says of a unit, (name, value); nothing where there is no user manager."""
    if not shutil.which("systemctl"):
        return []
    try:
        asked = subprocess.run(["systemctl", "--user", "show", f"--property={','.join(names)}", unit], check=False,
                               timeout=DEADLINE_S, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = (line.partition("=") for line in asked.stdout.splitlines())
    return [(name, value) for name, equals, value in lines if equals]


def _manager() -> None:
    """See that there is a user manager.

    Raises:
        ServiceError: there is none.
    """
    if not shutil.which("systemctl"):
        raise ServiceError("this system has no systemd", "the daemon starts by itself all the same")
    try:
        asked = subprocess.run(["systemctl", "--user", "show-environment"], check=False, timeout=DEADLINE_S,
                               capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise ServiceError("the systemd of your session does not answer") from error
    if asked.returncode != 0:
        raise ServiceError(f"the systemd of your session cannot be reached: {asked.stderr.strip()[:200]}",
                           "log in as this user (not with su or sudo); without a login: loginctl enable-linger")


def _systemctl(*words: str) -> None:
    try:
        asked = subprocess.run(["systemctl", "--user", *words], check=False, timeout=DEADLINE_S, capture_output=True,
                               text=True, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"systemctl --user {' '.join(words)} does not end", "journalctl --user -u rrd") from error
    if asked.returncode != 0:
        raise ServiceError(f"systemctl --user {' '.join(words)}: {asked.stderr.strip().splitlines()[0]:.200}",
                           "journalctl --user -u rrd")

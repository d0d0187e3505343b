"""`rrd doctor`: looks at the installation and names what is wrong with it, and the fix."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from daemon import __version__, paths, settings
from daemon.settings import SettingsError
from daemon.wire.control import VerbError
from rrd_cli import render, service
from rrd_cli.client import Client
from rrd_cli.errors import FAILED, CliError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EXAMPLES = """
rrd doctor
rrd doctor --json | jq '.[] | select(.level != "ok")'
"""

KEYS: Final = ("check", "level", "message", "fix")
"""Keys of an object of `rrd doctor --json`. Pinned. Levels are ok, warning and problem."""
ANSWER: Final = 60.0
ICD_DIRECTORIES: Final = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")
BROWSERS: Final = ("xdg-open", "firefox", "chromium", "chromium-browser", "google-chrome", "microsoft-edge", "open")
_STYLES: Final = {"ok": "good", "warning": "busy", "problem": "bad"}


def run(
    json: Annotated[bool, typer.Option("--json", help="Print a list of objects: check, level, message, fix.")] = False,
) -> None:
    """Check the installation, and name the fix for what is wrong. Exit code 1: there is a problem.

    Looked at: directories and socket, settings, the daemon and its service, ports and who has them, viewers and their
    versions, display and Vulkan, browser, disk and clock. Nothing is changed; a daemon is started if none runs.
    """
    found = list(findings())
    if json:
        render.print_lines([render.as_json([render.pinned(one, KEYS) for one in found])])
    else:
        render.print_lines(lines(found))
    if any(one["level"] == "problem" for one in found):
        raise typer.Exit(FAILED)


def lines(found: list[dict[str, Any]]) -> list[str]:
    """A line a check, and below it the fix."""
    width = max(len(one["check"]) for one in found)
    shown = []
    for one in found:
        level = render.styled(f"{one['level']:7}", _STYLES[one["level"]], sys.stdout)
        shown.append(f"{level}  {one['check']:{width}}  {render.clean(one['message'])}")
        if one["fix"]:
            shown.append(f"{'':7}  {'':{width}}  fix: {render.clean(one['fix'])}")
    bad = sum(one["level"] != "ok" for one in found)
    return [*shown, "", "all is well" if not bad else f"{render.plural(bad, 'finding')}"]


def findings() -> Iterator[dict[str, Any]]:
    """All checks, in the order of what depends on what."""
    yield from _directories(paths.runtime_dir(), paths.state_dir(), os.environ)
    yield from _settings()
    yield from _daemon()
    yield from _service()
    yield from _desktop(os.environ)


def finding(check: str, level: str, message: str, fix: str = "") -> dict[str, Any]:
    """One result."""
    return {"check": check, "level": level, "message": message, "fix": fix}


def _directories(runtime: Path, state: Path, environment: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    if not environment.get("XDG_RUNTIME_DIR"):
        yield finding("runtime dir", "ok", f"XDG_RUNTIME_DIR is not set: {runtime} is used, or the socket in {state}")
    for name, path in (("runtime dir", runtime), ("state dir", state)):
        yield from _private(name, path, 0o700)
    for socket in (runtime / "control.sock", state / paths.SPARE):
        if socket.exists():
            yield from _private("socket", socket, 0o600)
    try:
        paths.socket_path()
    except paths.PathError as error:
        yield finding("socket", "problem", str(error), error.hint)


def _private(name: str, path: Path, mode: int) -> Iterator[dict[str, Any]]:
    try:
        found = path.lstat()
    except FileNotFoundError:
        yield finding(name, "ok", f"not there yet: {path}")
        return
    except OSError as error:
        yield finding(name, "problem", f"{error.strerror}: {path}", f"check its permissions: ls -ld {path.parent}")
        return
    if found.st_uid != os.getuid():
        yield finding(name, "problem", f"belongs to uid {found.st_uid}: {path}", "set XDG_RUNTIME_DIR to your own")
    elif stat.S_IMODE(found.st_mode) & ~mode & 0o777:
        yield finding(name, "problem", f"others may use it (mode {stat.S_IMODE(found.st_mode):o}): {path}",
                      f"chmod {mode:o} {path}")
    else:
        yield finding(name, "ok", str(path))


def _settings() -> Iterator[dict[str, Any]]:
    try:
        loaded = settings.read()
    except SettingsError as error:
        yield finding("settings", "problem", str(error), error.hint or "rrd config edit")
        return
    own = sum(source != "default" for source in loaded.sources.values())
    yield finding("settings", "ok", f"{render.plural(own, 'key')} set in file or environment" if own
                  else "all defaults")


def _daemon() -> Iterator[dict[str, Any]]:
    try:
        with Client() as client:
            client.connect()
            if client.daemon_version != __version__:
                yield finding("daemon", "warning", f"it is rrd {client.daemon_version}, this is {__version__}",
                              "rrd daemon restart   (nothing is lost)")
            else:
                yield finding("daemon", "ok", f"rrd {client.daemon_version}, pid {client.daemon_pid}")
            yield from client.call("doctor", timeout=ANSWER, repeat=True).get("findings") or ()
    except (CliError, VerbError) as error:
        yield finding("daemon", "problem", error.message, error.hint or "rrd daemon logs")


def _service() -> Iterator[dict[str, Any]]:
    if service.listening():
        yield finding("service", "ok", "systemd starts and watches the daemon")
        linger = Path("/var/lib/systemd/linger")
        if linger.is_dir() and not (linger / (os.environ.get("USER") or "?")).exists():
            yield finding("service", "ok", "it ends when you log out; loginctl enable-linger keeps it")
    elif service.installed():
        yield finding("service", "warning", "installed, but systemd does not listen on the socket",
                      "rrd daemon install   (again), or systemctl --user status rrd.socket")
    else:
        yield finding("service", "ok", "none: the daemon starts by itself   (rrd daemon install makes it one)")


def _desktop(environment: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    display = environment.get("WAYLAND_DISPLAY") or environment.get("DISPLAY")
    if sys.platform == "darwin" or display:
        yield finding("display", "ok", str(display or "macOS"))
    else:
        yield finding("display", "warning", "no DISPLAY nor WAYLAND_DISPLAY: viewers can have no window",
                      "rrd serve   and a browser anywhere; rrd spawn --headless; or ssh -X")
    if sys.platform == "linux":
        drivers = [name.removesuffix(".json") for directory in ICD_DIRECTORIES if os.path.isdir(directory)
                   for name in sorted(os.listdir(directory)) if name.endswith(".json")]
        if not drivers:
            yield finding("vulkan", "warning", "no Vulkan driver is installed: viewers may not come up",
                          "install mesa-vulkan-drivers (it can do without a GPU), or your GPU's driver")
        else:
            gpu = "" if os.path.exists("/dev/dri") else "; no GPU (/dev/dri), so it is software and slow"
            yield finding("vulkan", "ok", ", ".join(drivers[:3]) + (" ..." if len(drivers) > 3 else "") + gpu)
    browser = next((name for name in BROWSERS if shutil.which(name)), None)
    if browser:
        yield finding("browser", "ok", browser)
    else:
        yield finding("browser", "warning", "none found here", "open the URL that rrd serve prints on another machine")

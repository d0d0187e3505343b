"""The daemon as a systemd user service, for `rrd daemon ...`: asked only where systemd may be its keeper.

Rules: where systemd listens on the control socket, connecting starts the daemon: so whether one runs is asked of
systemd then. Without systemd nothing here costs more than a look for `systemctl`.
"""

from __future__ import annotations

import subprocess
from typing import Annotated

import typer

from daemon import paths
from daemon.systemd import units
from rrd_cli import render
from rrd_cli.errors import CliError

LINGER = "without a login (a robot, a server): loginctl enable-linger   keeps it running"


def listening() -> bool:
    """systemd holds the control socket of this user."""
    try:
        return units.listening(paths.socket_path())
    except paths.PathError:
        return False


def sleeping() -> bool:
    """systemd listens, and the daemon does not run: connecting would start it."""
    return listening() and not units.running()


def installed() -> bool:
    """Unit files of this user are there."""
    return units.installed()


def running() -> bool:
    """The daemon runs as a service."""
    return units.running()


def show_journal(count: int, *, follow: bool) -> int:
    """What the service wrote to the journal, in this terminal.

    Returns:
        The exit code of journalctl.

    Raises:
        CliError: there is no journalctl.
    """
    command = ["journalctl", "--user-unit", units.SERVICE, "--no-hostname", "--no-pager", "-n", str(count)]
    try:
        return subprocess.run([*command, *(["-f"] if follow else [])], check=False).returncode
    except OSError as error:
        raise CliError(f"cannot show the journal: {error.strerror}: journalctl") from error


def install(
    print_: Annotated[
        bool, typer.Option("--print", help="Only print the two unit files, for packagers and the curious.")
    ] = False,
) -> None:
    """Have systemd start the daemon on first use, and watch over it.

    Writes rrd.service and rrd.socket into your own units and enables them. Programs need nothing new.
    """
    if print_:
        for name, text in units.texts(units.command(), {}).items():
            render.print_lines([f"# ---- {name}", text])
        return
    if not listening():
        _make_way()
    try:
        files = units.install(units.command())
    except units.ServiceError as error:
        raise CliError(str(error), error.hint) from error
    render.print_lines([*(f"wrote {path}" for path in files), "the daemon runs as the service rrd", LINGER])


def uninstall(
    force: Annotated[bool, typer.Option("--force", help="Even if programs are logging.")] = False,
) -> None:
    """Stop the service and take its unit files away. Recordings stay."""
    if not units.installed():
        render.print_lines([f"there is no service of yours in {units.directory()}"])
        return
    if listening() and units.running():
        _stop(force=force)
    try:
        files = units.uninstall()
    except units.ServiceError as error:
        raise CliError(str(error), error.hint) from error
    render.print_lines([*(f"removed {path}" for path in files), "the daemon starts by itself, as before"])


def _make_way() -> None:
    """Stop the daemon that runs under its own keeper, so that systemd can have its place."""
    from rrd_cli.commands import daemon

    if daemon.is_running():
        render.note("a daemon runs already: stopping it")
        _stop(force=False)


def _stop(*, force: bool) -> None:
    from rrd_cli.commands import daemon

    daemon.stop(force=force)

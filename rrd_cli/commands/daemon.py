"""`rrd daemon ...`: the service itself. It starts by itself; these are for when you want a say in it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from daemon import paths
from rrd_cli import render, service, start
from rrd_cli.client import Client, LostError
from rrd_cli.errors import CliError, NoDaemonError
from rrd_cli.tree import Verb, examples, group

if TYPE_CHECKING:
    from typing import BinaryIO

STOP_DEADLINE = 15.0
"""Seconds a daemon has to finish its files and be gone."""
RESTART_PATIENCE = 5.0
"""Seconds until a daemon that was told to end or restart, and agreed, is helped with a signal."""
POLL = 0.05
LOG_POLL = 0.25
LOG_BLOCK = 1 << 16

app = group("daemon", "Start, stop and look after the daemon. It starts by itself when a verb or a program needs it.")


@app.command("start", cls=Verb, epilog=examples("rrd daemon start"))
def start_() -> None:
    """Start the daemon, if it is not running."""
    running = is_running()
    with Client() as client:
        client.connect()
        said = "is already running" if running else "started"
        render.print_lines([f"the daemon {said}: rrd {client.daemon_version}, pid {client.daemon_pid}"])


@app.command(cls=Verb, epilog=examples("rrd daemon stop\nrrd daemon stop --force     even if programs are logging"))
def stop(
    force: Annotated[
        bool, typer.Option("--force", help="Even if programs are logging: what they log from then on waits or is lost.")
    ] = False,
) -> None:
    """Stop the daemon, after all files are complete. Refused while programs are logging, unless --force."""
    if service.sleeping():
        render.print_lines(["no daemon is running; systemd starts it when it is needed"])
        return
    with Client(may_start=False, older=True) as client:
        try:
            client.connect()
        except NoDaemonError:
            if is_running():
                raise
            render.print_lines(["no daemon is running"])
            return
        pid = client.daemon_pid
        with contextlib.suppress(LostError):  # likewise
            client.call("stop", {"force": force})
    _wait_gone(pid)
    render.print_lines([f"the daemon stopped (pid {pid})"])
    if service.listening():
        render.note("systemd starts it again when it is needed; `systemctl --user stop rrd.socket` prevents that")


@app.command(cls=Verb, epilog=examples("rrd daemon restart"))
def restart() -> None:
    """Restart the daemon, for instance after an upgrade. Programs go on logging, nothing is lost."""
    if not is_running():
        start_()
        return
    with Client(older=True) as client:
        client.connect()
        before = client.daemon_pid
        with contextlib.suppress(LostError):  # it may be gone before its answer is
            client.call("restart")
        client.close()
        begin, killed = time.monotonic(), False
        while True:
            client.connect()
            if client.daemon_pid != before:
                break
            client.close()
            waited = time.monotonic() - begin
            if waited > RESTART_PATIENCE and not killed:
                # One that cannot restart by itself (an upgrade changed its files under it) is replaced by its keeper
                # when it dies; what it had not read is still in the pipes.
                killed = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(before, signal.SIGKILL)
            if waited > STOP_DEADLINE:
                raise CliError(f"the daemon (pid {before}) was told to restart but goes on", "rrd daemon logs")
            time.sleep(POLL)
        render.print_lines([f"the daemon restarted: rrd {client.daemon_version}, pid {client.daemon_pid}"])


@app.command(cls=Verb, epilog=examples("rrd daemon status && echo running"))
def status() -> None:
    """Tell whether the daemon is running, without starting it. Exit code 3: it is not."""
    if service.sleeping():
        raise NoDaemonError("no daemon is running", "systemd starts it when it is needed: rrd daemon start")
    with Client(may_start=False) as client:
        client.connect()
        render.print_lines([f"running: rrd {client.daemon_version}, pid {client.daemon_pid}"])


@app.command(cls=Verb, epilog=examples("rrd daemon logs\nrrd daemon logs -f\nrrd daemon logs -n 200"))
def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    count: Annotated[int, typer.Option("--lines", "-n", metavar="N", min=0, help="How many of the last lines.")] = 50,
) -> None:
    """Show the daemon's log; a service's is the journal."""
    if service.listening():
        raise typer.Exit(service.show_journal(count, follow=follow))
    path = paths.daemon_log_path()
    try:
        log = open(path, "rb")  # noqa: SIM115 - closed below, after an error that names it
    except FileNotFoundError as error:
        raise CliError(f"there is no log yet: {path}", "under systemd: journalctl --user -u rrd") from error
    except OSError as error:
        raise CliError(f"cannot read the log: {error.strerror}: {path}") from error
    with log:
        _write(last_lines(log, count))
        while follow:
            data = log.read(LOG_BLOCK)
            if data:
                _write(data)
                continue
            if log.tell() > os.fstat(log.fileno()).st_size:
                log.seek(0)  # somebody emptied it
            time.sleep(LOG_POLL)


@app.command(cls=Verb, epilog=examples("rrd daemon reload"))
def reload() -> None:
    """Have the daemon read its settings again; no stream is dropped.

    Bad settings are refused, the old ones stay.
    """
    from rrd_cli.commands.config import reload_lines

    render.print_lines(reload_lines())


app.command(cls=Verb, epilog=examples("rrd daemon install\nrrd daemon install --print"))(service.install)
app.command(cls=Verb, epilog=examples("rrd daemon uninstall"))(service.uninstall)


def last_lines(log: BinaryIO, count: int) -> bytes:
    """The last lines of a file, which is left standing at its end.

    Args:
        log: Seekable.
        count: How many.
    """
    position = log.seek(0, os.SEEK_END)
    tail = b""
    while position and tail.count(b"\n") <= count:
        step = min(LOG_BLOCK, position)
        position -= step
        log.seek(position)
        tail = log.read(step) + tail
    log.seek(0, os.SEEK_END)
    return b"".join(tail.splitlines(keepends=True)[-count:]) if count else b""


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def is_running() -> bool:
    """A daemon, or its keeper, is there. Where systemd listens, it is asked: connecting would start one."""
    if service.listening():
        return service.running()
    try:
        start.connect().close()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


def _wait_gone(pid: int) -> None:
    begin, told = time.monotonic(), False
    while is_running():
        waited = time.monotonic() - begin
        if waited > RESTART_PATIENCE and not told:
            told = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if waited > STOP_DEADLINE:
            raise CliError(f"the daemon is still there after {STOP_DEADLINE:.0f} s", "rrd daemon logs")
        time.sleep(POLL)

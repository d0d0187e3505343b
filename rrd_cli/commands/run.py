"""`rrd run`: run an unchanged program, and give what it logs these outputs.

    this process ── `run` (a thread) ──> daemon: outputs for the streams whose process has our token
         └── posix_spawn CMD ── stdin, stdout, stderr, terminal, signals: all its own
                 └── /proc/PID/fd of it and its children: files that it saves by itself are taken at its end

Rules: the program is the job: its exit code is ours, a signal to us goes to it, what the terminal sends it gets by
itself. Standard output is the program's; all that we say goes to standard error. A daemon that dies meanwhile, or
never was, does not touch the program.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from daemon.wire.control import VerbError
from rrd_cli import render, sources
from rrd_cli.client import Client
from rrd_cli.commands.save import open_stdin
from rrd_cli.errors import CliError, UsageError

EXAMPLES = """
rrd run -- python prog.py                            keep what it logs; save it later
rrd run --save run.rrd -- python prog.py
rrd run --spawn --save run.rrd -- ./robot --fast
rrd run --save run.rrd -- python prog.py --stdout | wc -c
"""

CONTEXT: Final = {"allow_interspersed_args": False}
"""What follows the program's name is the program's, with and without --, as with env(1) and nice(1)."""
SUFFIX: Final = ".rrd"
VARIABLE: Final = "RRD_RUN"
"""Tells the daemon whose a program is: children inherit it."""
FORWARDED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
CHANGED: Final = signal.SIGIO
"""What the kernel sends when something in a directory has changed (fcntl(2), F_NOTIFY)."""
SI_KERNEL: Final = 0x80
"""A signal's code when the terminal sent it: the program, in the same process group, has got it itself."""
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
"""As shells have them."""
READY_DEADLINE = 30.0
END_DEADLINE = 120.0
"""Seconds that the daemon may take to complete the files, once the program has ended. Ctrl-C ends that."""
CTRL_C_S: Final = 0.05
"""Seconds between two looks for it meanwhile."""
LOOK: Final = 0.25
"""Seconds between two looks at the files that the program has open; changes where it works have us look at once."""
LOOK_PAUSE: Final = 0.02
"""Seconds at least between two: a program may write all the time."""


def run(
    command: Annotated[
        list[str], typer.Argument(metavar="CMD", help="A program and its arguments, best after --.", show_default=False)
    ],
    save: Annotated[
        str | None, typer.Option("--save", "-o", metavar="OUT", help="Write its recording to this file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the file if it exists.")] = False,
    spawn: Annotated[bool, typer.Option("--spawn", help="Show it in a viewer: one that runs, or a new one.")] = False,
    headless: Annotated[bool, typer.Option("--headless", help="With --spawn: a viewer without a window.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Serve it to browsers, and open one.")] = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="With --serve: open no browser.")] = False,
    connect: Annotated[
        str | None, typer.Option("--connect", metavar="URL", help="Send it to a viewer or server at this URL.")
    ] = None,
    stdout: Annotated[
        bool, typer.Option("--stdout", help="The program writes its stream to standard output: take it from there.")
    ] = False,
    no_port: Annotated[
        bool, typer.Option("--no-port", help="Do not answer port 9876, where rr.spawn and rr.connect_grpc go.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing unless something is wrong.")] = False,
) -> None:
    """Run a program that uses Rerun, unchanged, with these outputs. It ends with the program's exit code.

    What the program sends with rr.spawn, rr.connect_grpc or the rrd shim is found by itself; --stdout takes what it
    writes to standard output. What it saves by itself with rr.save goes there, and to these outputs when it ends.
    """
    if not command:
        raise UsageError("no program was named", "rrd run --save run.rrd -- python prog.py")
    token = secrets.token_hex(16)
    args: dict[str, Any] = {
        "token": token, "port": not no_port, "force": force, "spawn": spawn, "headless": headless, "serve": serve,
        "no_open": no_open, "files": {}, **({"save": sources.target(save)} if save else {}),
        **({"connect": connect} if connect else {}),
    }  # fmt: skip
    with Client() as client:
        client.connect()  # a daemon that is started here must not inherit blocked signals
    ours = _block_signals()
    watcher = _Watcher(args, wants_port=not no_port and bool(save or spawn or serve or connect), quiet=quiet)
    code = None
    try:
        watcher.start()
        if signal.SIGINT in signal.sigpending():
            raise KeyboardInterrupt
        with _OwnFiles(command) as files:
            code = _run(command, token, ours, files, take_stdout=stdout)
    finally:
        if code is None:
            _unblock_signals(ours)
    watcher.finish(files, ours)
    raise typer.Exit(code)


class _Watcher:
    """The daemon's side of the run, in a thread of its own: the main one waits for signals."""

    def __init__(self, args: dict[str, Any], *, wants_port: bool, quiet: bool) -> None:
        self._args = args
        self._wants_port = wants_port
        self._quiet = quiet
        self._ready = threading.Event()
        self._port_problem = ""
        self._failure: CliError | VerbError | None = None
        self._answer: dict[str, Any] | None = None
        self._told: set[str] = set()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Return when the daemon is ready for the program.

        Raises:
            VerbError, CliError: it refuses, or there is none.
        """
        self._thread.start()
        if not self._ready.wait(READY_DEADLINE):
            raise CliError(f"the daemon was not ready within {READY_DEADLINE:.0f} s", "rrd daemon logs")
        if self._failure is not None:
            raise self._failure
        if self._port_problem and self._wants_port:
            raise CliError(
                f"{self._port_problem}: programs that call rr.spawn or rr.connect_grpc would stream there, not here",
                "close it first; or say --no-port, if the program uses the rrd shim or --stdout",
            )
        if self._port_problem and not self._quiet:
            self._tell(f"{self._port_problem}: what the program sends there does not come here")

    def finish(self, files: _OwnFiles, mask: set[signal.Signals | int]) -> None:
        """Wait until all is delivered, and say what it was. Ctrl-C: no more waiting, the outputs go on.

        Args:
            files: What the program wrote by itself.
            mask: The signals that were blocked before.
        """
        # Ctrl-C is looked for, not thrown: it could hit a destructor, which loses it, or the handling of another one.
        _unblock_signals(mask | {signal.SIGINT})
        saved = [path for path in files.written() if self._sayable(path)]
        ending = threading.Thread(target=self._end, args=(saved,), daemon=True)
        ending.start()
        while ending.is_alive():
            ending.join(CTRL_C_S)
            if signal.SIGINT in signal.sigpending():
                self._tell("not waited for: the outputs go on   (rrd status)")
                return  # another Ctrl-C finds us deaf: all that is left is to end as the program did
        _unblock_signals(mask)
        if self._failure is not None:
            self._tell(f"error: {self._failure.message}")
        elif self._answer is None:
            self._tell(f"the outputs are not complete after {END_DEADLINE:.0f} s; they go on   (rrd status)")
        if self._answer is None:
            return
        for problem in self._answer.get("problems") or ():
            self._tell(f"error: {problem}")
        found = self._answer.get("recordings") or []
        if not self._quiet:
            for one in found:
                render.note(_line(one))
        if not found:
            self._tell("the program logged nothing that came here")
            for path in files.perhaps():
                self._tell(f"written meanwhile, perhaps by it: {path}")

    def _end(self, saved: list[str]) -> None:
        """Say that the program has ended, and wait for what the daemon answers."""
        try:
            with contextlib.suppress(CliError, VerbError), Client(may_start=False) as client:
                client.call("run_end", {"token": self._args["token"], "saved": saved}, repeat=True)
        except OSError as error:
            self._failure = CliError(str(error))
        else:
            self._thread.join(END_DEADLINE)

    def _sayable(self, path: str) -> bool:
        """Whether the daemon can be told of a file."""
        try:
            path.encode()
        except UnicodeEncodeError:
            self._tell(f"error: not taken, since its name is not UTF-8: {path}")
            return False
        return True

    def _work(self) -> None:
        try:
            with Client() as client:
                self._answer = client.call("run", self._args, timeout=None, repeat=True, on_progress=self._heard)
        except (CliError, VerbError) as error:
            self._failure = error
        finally:
            self._ready.set()

    def _heard(self, news: dict[str, Any]) -> None:
        if news.get("ready"):
            self._port_problem = str(news.get("error") or "")
            self._ready.set()
        elif news.get("file"):
            self._args["files"][str(news["recording"])] = news["file"]
        for key, label in (("url", ""), ("problem", "error: "), ("warning", "warning: ")):
            if news.get(key):
                self._tell(f"{label}{news[key]}")

    def _tell(self, text: str) -> None:
        """Say something, once."""
        if text not in self._told:
            self._told.add(text)
            for number, line in enumerate(text.splitlines()):
                render.note(f"    {line.strip()}" if number else f"rrd: {line}")


def _line(one: dict[str, Any]) -> str:
    name = f"{one.get('application_id') or '?'}/{one.get('recording_id')}"
    much = f"{render.plural(int(one.get('messages') or 0), 'message')}, {render.size(one.get('bytes'))}"
    where = f" -> {one['file']}" if one.get("file") else ""
    saved = f", saved by the program itself: {one['saved']}" if one.get("saved") else ""
    goes_on = "; it goes on" if one.get("live") else ""
    return f"rrd: {name}: {much}{saved}{where}{goes_on}"


def _block_signals() -> set[signal.Signals | int]:
    """Have signals wait for `sigwaitinfo`, in every thread; the old mask."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, (*FORWARDED, signal.SIGCHLD, CHANGED)))


def _unblock_signals(mask: set[signal.Signals | int]) -> None:
    """Take signals as before, but not those that came for the program, and too late for it."""
    late = (*FORWARDED, CHANGED)
    while set(late) & signal.sigpending():
        signal.sigwait(late)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _OwnFiles:
    """The .rrd files that a program writes by itself: those that it, or a child of it, was seen to have open.

    Where there is no /proc none is seen. A short program may have closed its file before somebody looked: what has
    changed where it works is then named, and not taken, for it may be another's.
    """

    def __init__(self, command: list[str]) -> None:
        self._began = time.time() - 0.05  # file systems go by a clock that ticks 100 times a second
        self._looked = 0.0
        self._seen: dict[str, None] = {}
        named = [os.path.dirname(os.path.abspath(word)) for word in command if word.endswith(SUFFIX)]
        self._fds: dict[str, int] = {}
        for directory in (os.getcwd(), *named):
            with contextlib.suppress(OSError):
                self._fds.setdefault(directory, os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def __enter__(self) -> _OwnFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds.values():
            os.close(fd)

    def look(self, pid: int) -> float:
        """See what is open now, and have CHANGED sent at the next change of a directory.

        Returns:
            Seconds until the next look.
        """
        paused = time.monotonic() - self._looked < LOOK_PAUSE
        if sys.platform == "linux" and not paused:
            for fd in self._fds.values():
                with contextlib.suppress(OSError):  # some file systems tell nothing
                    fcntl.fcntl(fd, fcntl.F_SETSIG, CHANGED)
                    fcntl.fcntl(fd, fcntl.F_NOTIFY, fcntl.DN_CREATE | fcntl.DN_MODIFY)
        self._looked = time.monotonic()
        self._seen.update(dict.fromkeys(_open_files(pid)))
        return LOOK_PAUSE if paused else LOOK

    def written(self) -> list[str]:
        """Those that are there."""
        return [path for path in self._seen if os.path.isfile(path)]

    def perhaps(self) -> list[str]:
        """Files that have changed since the program began."""
        found = []
        for directory in self._fds:
            with contextlib.suppress(OSError):
                found += [one.path for one in os.scandir(directory)
                          if one.name.endswith(SUFFIX) and one.stat().st_mtime >= self._began]
        return sorted(found)


def _open_files(pid: int) -> Iterator[str]:
    """The .rrd files that a process and its children have open for writing; nothing where there is no /proc."""
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            path = os.readlink(f"/proc/{pid}/fd/{fd}")
            if path.endswith(SUFFIX) and os.lstat(f"/proc/{pid}/fd/{fd}").st_mode & stat.S_IWUSR:
                yield path
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                children = file.read().split()
            for child in children:
                yield from _open_files(int(child))
    except OSError:
        return


def _run(
    command: list[str], token: str, mask: set[signal.Signals | int], files: _OwnFiles, *, take_stdout: bool
) -> int:
    """Run the program to its end.

    Returns:
        Its exit code; 128 and the signal's number when it was killed by one.

    Raises:
        CliError: it cannot be started.
    """
    actions: list[tuple[Any, ...]] = []
    with contextlib.ExitStack() as stack:
        if take_stdout:
            read, write = os.pipe()
            stack.callback(os.close, read)
            client = stack.enter_context(Client())
            open_stdin(client, read)
            actions.append((os.POSIX_SPAWN_DUP2, write, 1))
        try:
            child = os.posix_spawnp(
                command[0], command, {**os.environ, VARIABLE: token}, file_actions=actions, setsigmask=mask,
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            )
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            beside = missing and "/" not in command[0] and os.path.exists(command[0])
            failure = CliError(f"cannot run {command[0]}: {error.strerror}",
                               f"in this directory it is ./{command[0]}" if beside else "")
            failure.exit_code = NOT_FOUND if missing else NOT_EXECUTABLE
            raise failure from error
        finally:
            if take_stdout:
                os.close(write)
        return _wait(child, files)


def _wait(child: int, files: _OwnFiles) -> int:
    """Wait for the program, and hand signals on to it."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        number, from_terminal = _wait_for_signal(files.look(child))
        if number in (signal.SIGCHLD, CHANGED) or (from_terminal and number in (signal.SIGINT, signal.SIGQUIT)):
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)


def _wait_for_signal(seconds: float) -> tuple[int, bool]:
    """The next signal, and whether a terminal sent it: then the program has had it, too.

    SIGCHLD, which asks for a look at the program, if none comes in time.
    """
    wanted = (*FORWARDED, signal.SIGCHLD, CHANGED)
    if sys.platform == "linux":
        received = signal.sigtimedwait(wanted, seconds)
        return (received.si_signo, received.si_code == SI_KERNEL) if received else (signal.SIGCHLD, False)
    return signal.sigwait(wanted), os.isatty(0)  # who sent it is not told elsewhere

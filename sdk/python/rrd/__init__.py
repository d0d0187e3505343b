"""`import rrd`: a Rerun program's stream goes to the rrd daemon once; where it goes from there can change at any time.

    import rerun as rr
    import rrd

    rr.init("my_app")
    rrd.save("run.rrd")          # a file; a second rrd.save() adds a second one
    rr.log(...)                  # everything else stays as it is

or, with nothing but the import changed: `import rrd as rr`. What is not defined here is Rerun's own.

Every function works on the active recording or on `recording=`, and streams it into the daemon first if it is not
yet; what was logged before is not lost. The real SDK does the encoding and the logging.

Rules: a missing daemon never raises (one warning on the logger "rrd"; Rerun buffers as it always did, and what is
returned is false); what a daemon refuses raises `rrd.Error`. Importing this costs next to nothing: the rest is imported
when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._errors import Error
from ._version import __version__

if TYPE_CHECKING:
    import os
    from argparse import ArgumentParser, Namespace
    from uuid import UUID

    import rerun as rr

    from ._errors import Unreachable
    from ._session import Session
    from ._session import Stream as _LiveStream

__all__ = [
    "Error",
    "Sink",
    "Stream",
    "__version__",
    "attach",
    "connect",
    "connect_grpc",
    "detach",
    "flush",
    "init",
    "save",
    "script_add_args",
    "script_setup",
    "script_teardown",
    "serve",
    "serve_web",
    "spawn",
    "stdout",
]


_DEFAULT_PORT = 9876
_LAST_FLUSH_S = 60.0


class Stream:
    """A recording that streams into the daemon. False if there is no daemon.

    Attributes:
        id: The stream's id: `stream:<id>` selects exactly it in every `rrd` command.
        log: Absolute path of its log in the spool, an ordinary .rrd file.
    """

    __slots__ = ("id", "log")

    def __init__(self, id: str, log: str) -> None:  # noqa: A002 - it is the id
        self.id = id
        self.log = log

    def __bool__(self) -> bool:
        return bool(self.id)

    def __repr__(self) -> str:
        return f"rrd.Stream(id={self.id!r}, log={self.log!r})"


class Sink:
    """An output of the daemon. False if there is no daemon.

    Attributes:
        id: What `rrd status` shows and `rrd detach` takes.
        path: Where it goes: a file's absolute path, or an URL.
    """

    __slots__ = ("id", "path")

    def __init__(self, id: str, path: str) -> None:  # noqa: A002 - it is the id
        self.id = id
        self.path = path

    def __bool__(self) -> bool:
        return bool(self.id)

    def __repr__(self) -> str:
        return f"rrd.Sink(id={self.id!r}, path={self.path!r})"


def init(
    application_id: str,
    *,
    spawn: bool = False,
    default_blueprint: rr.BlueprintLike | None = None,
    **options: Any,  # noqa: ANN401 - passed on as they are
) -> None:
    """`rr.init`, with the daemon's viewer when it is to spawn one.

    Args:
        application_id: As in `rr.init`.
        spawn: As in `rr.init`, through `rrd.spawn`.
        default_blueprint: As in `rr.init`.
        options: The others of `rr.init`.

    Raises:
        Error: no viewer could be found or started.
    """
    import rerun

    rerun.init(application_id, default_blueprint=default_blueprint, **options)
    if spawn:
        globals()["spawn"](default_blueprint=default_blueprint)


def attach(recording: rr.RecordingStream | None = None, *, default_blueprint: rr.BlueprintLike | None = None) -> Stream:
    """Stream a recording into the daemon, with no output yet.

    The daemon keeps everything from the start, so an output chosen later, with any `rrd` verb, from here or from a
    shell, gets it all. Again on the same recording: does nothing. After the recording was given another sink
    (`rr.save`, `rr.connect_grpc`, `rr.disconnect`): attaches it anew.

    Args:
        recording: Which; by default the active one.
        default_blueprint: As in `rr.save`.

    Raises:
        Error: there is no recording, or the daemon refuses it.
    """
    found = _attached("attach", recording, default_blueprint)
    return Stream(found[1].id, found[1].log) if found else Stream("", "")


def save(
    path: str | os.PathLike[str],
    default_blueprint: rr.BlueprintLike | None = None,
    recording: rr.RecordingStream | None = None,
    *,
    force: bool = False,
    copy: bool = False,
    last: float | None = None,
) -> Sink:
    """Write a recording to a file: everything since it was attached, and what the SDK still held then.

    A second call adds a file; the first goes on. The file is complete (with footer) within moments of the recording's
    end, however the program ended; with `last`, soon after this call.

    Args:
        path: The file; relative to the current directory.
        default_blueprint: As in `rr.save`.
        recording: Which; by default the active one.
        force: Replace an existing file.
        copy: Make an independent file also where a hard link to the daemon's log would do.
        last: Only what was logged in the last so many seconds until now, with what has no time of before.

    Raises:
        Error: the file exists (code "exists"), or cannot be written; with `last`, what was logged does not get to the
            daemon within a minute (code "timeout").
    """
    import os

    target = os.path.abspath(os.fspath(path))
    found = _attached("save", recording, default_blueprint)
    if not found:
        return Sink("", target)
    session, stream = found
    args: dict[str, Any] = {"path": target, "force": force, "copy": copy}
    if last is not None:
        args["last"] = float(last)
        flush(recording=recording, timeout=_LAST_FLUSH_S)  # what is on its way is the newest
    try:
        answer = _say(session, "save", args, stream)
    except Error as error:
        if error.code == "exists":
            # The same call again (a notebook's cell, an answer that was lost), or somebody else's file?
            own = last is None or error.repeated
            sink_id = session.own_sink(stream, target, last=last is not None) if own else ""
            if sink_id:
                stream.sinks[target] = sink_id
                return Sink(sink_id, target)
            raise Error(error.code, error.message, "choose another path, or pass force=True to replace it") from None
        raise
    sink = _sink(answer, target) if answer is not None else Sink("", target)
    if sink:
        stream.sinks[target] = sink.id
    return sink


def spawn(
    *,
    port: int = _DEFAULT_PORT,
    connect: bool = True,
    memory_limit: str = "75%",
    server_memory_limit: str = "1GiB",
    hide_welcome_screen: bool = False,
    detach_process: bool = True,
    executable_name: str = "rerun",
    executable_path: str | None = None,
    default_blueprint: rr.BlueprintLike | None = None,
    recording: rr.RecordingStream | None = None,
    new: bool = False,
    headless: bool = False,
) -> Sink:
    """Show a recording in a native viewer: one that runs already, else a new one. The parameters are `rr.spawn`'s.

    Args:
        port: Port of the viewer. Rerun's default means any: that port may be the daemon's own.
        connect: Feed it with the recording; False only starts it.
        memory_limit: Of the viewer, if it is started.
        server_memory_limit: Of the viewer's own server, if it is started.
        hide_welcome_screen: Of the viewer, if it is started.
        detach_process: For `rr.spawn`'s callers; the daemon's viewers always outlive the program.
        executable_name: What to look for in PATH.
        executable_path: The executable, instead.
        default_blueprint: As in `rr.spawn`.
        recording: Which; by default the active one.
        new: Start a viewer even if one runs.
        headless: Without a window, if it is started.

    Raises:
        Error: no viewer could be found or started.
    """
    del detach_process
    args: dict[str, Any] = {
        "memory_limit": memory_limit,
        "server_memory_limit": server_memory_limit,
        "hide_welcome_screen": hide_welcome_screen,
        "new": new,
        "headless": headless,
        "connect": connect,
    }
    if port != _DEFAULT_PORT:
        args["port"] = port
    if executable_path is not None:
        args["executable"] = executable_path
    elif executable_name != "rerun":
        args["executable_name"] = executable_name
    return _show("spawn", args, recording, default_blueprint, feed=connect)


def connect(
    url: str | None = None,
    *,
    default_blueprint: rr.BlueprintLike | None = None,
    recording: rr.RecordingStream | None = None,
) -> Sink:
    """Send a recording to a viewer or server somewhere. The parameters are `rr.connect_grpc`'s.

    Args:
        url: As in `rr.connect_grpc`; by default the local viewer's.
        default_blueprint: As in `rr.connect_grpc`.
        recording: Which; by default the active one.

    Raises:
        Error: the URL is none.
    """
    return _show("connect", {} if url is None else {"url": url}, recording, default_blueprint)


def serve(
    *,
    open_browser: bool = True,
    web_port: int | None = None,
    grpc_port: int | None = None,
    default_blueprint: rr.BlueprintLike | None = None,
    recording: rr.RecordingStream | None = None,
    server_memory_limit: str | None = None,
) -> Sink:
    """Serve a recording to web viewers; `path` of what is returned is the URL, which is printed on stderr, too.

    The parameters are `rr.serve_web`'s.

    Args:
        open_browser: Open the page.
        web_port: Port of the page; by default a free one.
        grpc_port: For `rr.serve_web`'s callers; the daemon has its own.
        default_blueprint: As in `rr.serve_web`.
        recording: Which; by default the active one.
        server_memory_limit: For `rr.serve_web`'s callers; the daemon serves from its spool and needs none.

    Raises:
        Error: it cannot be served.
    """
    del grpc_port, server_memory_limit
    args: dict[str, Any] = {"open": open_browser}
    if web_port is not None:
        args["port"] = web_port
    return _show("serve", args, recording, default_blueprint)


connect_grpc = connect
"""Rerun's name for it."""
serve_web = serve
"""Rerun's name for it, in versions that have it."""


def stdout(
    default_blueprint: rr.BlueprintLike | None = None,
    recording: rr.RecordingStream | None = None,
) -> Stream:
    """Write a recording to standard output, for a viewer at the other end of the pipe. As `rr.stdout`.

    `rrd tail` does it, as a process of its own, so that it goes on until everything is written. On a terminal nothing
    is written.

    Args:
        default_blueprint: As in `rr.stdout`.
        recording: Which; by default the active one.

    Raises:
        Error: the `rrd` command is not there.
    """
    found = _attached("stdout", recording, default_blueprint)
    if not found:
        return Stream("", "")
    from . import _tail

    _tail.start(found[1].id)
    return Stream(found[1].id, found[1].log)


def flush(
    *, durable: bool = False, timeout: float | None = None, recording: rr.RecordingStream | None = None
) -> bool:
    """Return when everything that this thread logged is in the daemon's log.

    Args:
        durable: And in the files, and all of it synced to the disk.
        timeout: Seconds to wait at most; None: as long as it takes.
        recording: Which; by default the active one.

    Returns:
        False if the recording is not attached, or no daemon is there: the SDK was flushed, and nothing is promised.

    Raises:
        Error: not done in time, code "timeout".
    """
    import time

    from . import _sdk, _session
    from ._errors import Unreachable, warn

    deadline = None if timeout is None else time.monotonic() + timeout
    target = _sdk.resolve(recording)
    if target is None:
        return False
    _sdk.flush(target.recording, timeout)
    session = _session.current()
    stream = session.find(target) if session is not None else None
    if session is None or stream is None:
        return False
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        session.call("sync", {"streams": [stream.id], "durable": durable}, timeout=left)
    except Unreachable as error:
        if deadline is not None and time.monotonic() >= deadline:
            raise Error("timeout", f"rrd.flush(): {error.message}", error.hint) from error
        warn(f"rrd.flush(): no daemon: {error.message}", error.hint, once="absent")
        return False
    return True


def detach(sink: Sink | str) -> None:
    """Remove an output. A file stays, complete as far as it goes; the recording streams on.

    What was logged in the last moments may be with the SDK yet, and not in it: say `rrd.flush()` first.

    Args:
        sink: What `save` and the others returned, or its id.

    Raises:
        Error: there is no such sink.
    """
    from . import _session
    from ._errors import Unreachable, warn

    sink_id = sink if isinstance(sink, str) else sink.id
    if not sink_id:
        return
    session = _session.session()
    try:
        session.call("detach", {"sink": sink_id}, timeout=None)  # a long file is completed first
    except Unreachable as error:
        warn(f"rrd.detach(): no daemon: {error.message}", error.hint, once="absent")
        return
    for stream in list(session.streams):
        stream.sinks = {path: other for path, other in stream.sinks.items() if other != sink_id}


def script_add_args(parser: ArgumentParser) -> None:
    """Add the flags of Rerun's own scripts: --headless, --connect, --serve, --url, --save, --stdout.

    Args:
        parser: The parser to add them to.
    """
    from . import _script

    _script.add_args(parser)


def script_setup(
    args: Namespace,
    application_id: str,
    *,
    recording_id: str | UUID | None = None,
    default_blueprint: rr.BlueprintLike | None = None,
) -> rr.RecordingStream:
    """What `rr.script_setup` does, through the daemon. The outputs of several flags add up.

    Args:
        args: From a parser that went through `script_add_args`.
        application_id: As in `rr.script_setup`.
        recording_id: As in `rr.script_setup`.
        default_blueprint: As in `rr.script_setup`.

    Returns:
        The recording, which is the active one from now on.

    Raises:
        Error: an output that a flag asks for was refused. (The viewer that is opened without any flag is only warned
            about.)
    """
    from . import _script

    return _script.setup(args, application_id, recording_id, default_blueprint)


def script_teardown(args: Namespace) -> None:
    """What `rr.script_teardown` does; but never waits: what --serve shows stays when the program ends.

    Args:
        args: What `script_setup` got.
    """
    from . import _script

    _script.teardown(args)


def _attached(
    what: str,
    recording: rr.RecordingStream | None,
    default_blueprint: rr.BlueprintLike | None,
    *,
    low_latency: bool = False,
) -> tuple[Session, _LiveStream] | None:
    """The stream of a recording, opened if need be; None, after a warning, if logging is off or there is no daemon."""
    from . import _sdk, _session
    from ._errors import Unreachable, warn

    target = _sdk.resolve(recording)
    if target is None:
        warn(f"Rerun is disabled: rrd.{what}() call ignored")
        return None
    session = _session.session()
    try:
        return session, session.attach(target, default_blueprint, low_latency=low_latency)
    except Unreachable as error:
        _no_daemon(what, error)
        return None


def _no_daemon(what: str, error: Unreachable) -> None:
    from ._errors import warn

    warn(
        f"rrd.{what}() has no effect, there is no daemon: {error}",
        f"{error.hint or 'see `rrd status`'}. The program goes on, and Rerun keeps what is logged in memory",
        once="absent",
    )


def _say(session: Session, verb: str, args: dict[str, Any], stream: _LiveStream | None) -> dict[str, Any] | None:
    from ._errors import Unreachable

    if stream is not None:
        args = {**args, "stream": stream.id, "source": [f"stream:{stream.id}"]}
    try:
        return session.call(verb, args)
    except Unreachable as error:
        _no_daemon(verb, error)
        return None


def _show(
    verb: str,
    args: dict[str, Any],
    recording: rr.RecordingStream | None,
    default_blueprint: rr.BlueprintLike | None,
    *,
    feed: bool = True,
) -> Sink:
    from . import _session

    stream = None
    if feed:
        found = _attached(verb, recording, default_blueprint, low_latency=True)
        if not found:
            return Sink("", "")
        session, stream = found
    else:
        session = _session.session()
    try:
        answer = _say(session, verb, args, stream)
    except Error as error:
        if error.code == "unknown-verb":
            hint = "upgrade rrd-cli, then `rrd daemon restart`"
            raise Error("not-built", f"the daemon cannot {verb} yet", hint) from error
        raise
    return _sink(answer, "") if answer is not None else Sink("", "")


def _sink(answer: dict[str, Any], target: str) -> Sink:
    from ._errors import say, warn

    if answer.get("warning"):
        warn(str(answer["warning"]))
    if "tunnel" in answer:  # a page; where no browser could be opened, its address is all there is
        say(f"rrd: {answer.get('url')}")
        if answer["tunnel"]:
            say(f"rrd: an ssh session; at your end: {answer['tunnel']}")
    sink, viewer = answer.get("sink"), answer.get("viewer")
    place = answer.get("url") or (sink.get("target") if isinstance(sink, dict) else "")
    if not place and isinstance(viewer, dict):
        place = viewer.get("url")
    return Sink(str(sink.get("id", "")) if isinstance(sink, dict) else "", str(place or target))


def __getattr__(name: str) -> Any:  # noqa: ANN401 - Rerun's names have all kinds of types
    # Only what is not here is looked up, when it is looked up: importing this module does not import Rerun.
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import rerun

    return getattr(rerun, name)

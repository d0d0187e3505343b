"""The real SDK, as the shim uses it: the only file that touches `rerun`. Works with rerun-sdk 0.23 to 0.41.

Rules: no strong reference to a recording outlives a call (the SDK ends a recording when the last reference goes, and
the user must be able to let go); the SDK encodes, we only tell it where to write; a public name of the SDK is used
where there is one.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from ._errors import Error

if TYPE_CHECKING:
    import rerun as rr

LOW_LATENCY_TICK = "0.008"
"""Seconds between two batches of the SDK's gRPC sink. Its file sink's are 0.2 s: fine for a file, late for a viewer."""

_FLUSH_FOREVER = 1e38


class Target(NamedTuple):
    """A recording of the program, for the time of one call."""

    recording: rr.RecordingStream
    application_id: str
    recording_id: str
    identity: bytes
    """The same for every handle of one native recording and for no other live one; empty where that is not known."""


def resolve(recording: rr.RecordingStream | None) -> Target | None:
    """The recording that a call means: the given one, else the active one.

    Returns:
        None when logging is switched off (RERUN=off, or `default_enabled=False`).

    Raises:
        Error: there is no recording; code "usage".
    """
    import rerun

    found = rerun.get_data_recording(recording)
    if found is None:
        raise Error("usage", "no recording is active", "call rerun.init() first, or pass recording=")
    if found.to_native().is_forked_child():
        raise Error("usage", "the recording is the parent process's", "make a new one: rerun.RecordingStream(...)")
    application_id = rerun.get_application_id(found)
    recording_id = rerun.get_recording_id(found)
    # A recording that is switched off does not know its own ids.
    if not rerun.is_enabled(found) or application_id is None or recording_id is None:
        return None
    return Target(found, str(application_id), str(recording_id), _identity(found))


def _identity(recording: rr.RecordingStream) -> bytes:
    # Two handles of one native recording compare unequal, and two recordings may have the same ids. The native handle
    # is a Python object that holds nothing but a counted pointer to the recording (rerun-sdk 0.23 to 0.41): as long as
    # the recording lives (the pipe tells, see `writes_to`), the pointer is its identity.
    import ctypes

    if sys.implementation.name != "cpython":
        return b""
    native = recording.to_native()
    header = object.__basicsize__
    size = type(native).__basicsize__ - header
    return ctypes.string_at(id(native) + header, size) if size == 16 else b""


def sdk_name() -> str:
    """`rerun-sdk 0.41.0 (python)`"""
    import rerun

    return f"rerun-sdk {rerun.__version__} (python)"


def program() -> str:
    """What the program is called, for people."""
    name = sys.argv[0] if sys.argv and sys.argv[0] else os.path.basename(sys.executable or "python")
    return name.encode(errors="replace").decode()  # a path need not be UTF-8, a message must


def descriptor_path(descriptor: int) -> str:
    """A path that opens what the descriptor is open on, with or without a name in the file system."""
    return f"/proc/self/fd/{descriptor}" if os.path.isdir("/proc/self/fd") else f"/dev/fd/{descriptor}"


def save_into(
    target: Target, descriptor: int, default_blueprint: rr.BlueprintLike | None, *, low_latency: bool
) -> None:
    """Make the SDK write this recording to the pipe, everything it still holds first.

    Args:
        target: Which recording.
        descriptor: Write end of the pipe; stays ours.
        default_blueprint: As in `rerun.save`.
        low_latency: Batch as for a viewer, unless the user has chosen how to batch.
    """
    tick = low_latency and not any(name.startswith(("RERUN_FLUSH_", "RERUN_CHUNK")) for name in os.environ)
    if tick:
        os.environ["RERUN_FLUSH_TICK_SECS"] = LOW_LATENCY_TICK
    try:
        target.recording.save(descriptor_path(descriptor), default_blueprint=default_blueprint)
    finally:
        if tick:
            os.environ.pop("RERUN_FLUSH_TICK_SECS", None)


def writes_to(inode: int, ours: frozenset[int]) -> list[int] | None:
    """The descriptors of this process that are open on a pipe, other than our own two.

    The SDK opens the pipe anew, and closes that when its sink is replaced or its recording ends: so this tells whether
    the SDK still writes to it, without asking anybody.

    Args:
        inode: The pipe's.
        ours: Our ends.

    Returns:
        None where the system does not say.
    """
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return None
    found = []
    for name in names:
        descriptor = int(name)
        if descriptor in ours:
            continue
        try:
            status = os.fstat(descriptor)
        except OSError:
            continue  # the descriptor of the listing itself, or closed meanwhile
        if status.st_ino == inode and stat.S_ISFIFO(status.st_mode):
            found.append(descriptor)
    return found


def send_default_blueprint(target: Target, blueprint: rr.BlueprintLike) -> None:
    """What `rerun.save(default_blueprint=)` does, on a recording that is being written already."""
    import rerun

    rerun.send_blueprint(blueprint, make_active=False, make_default=True, recording=target.recording)


def flush(recording: rr.RecordingStream, timeout: float | None) -> None:
    """Return when everything this thread logged has left the SDK.

    Args:
        recording: Which.
        timeout: Seconds; not heeded by SDKs before 0.27, which know none.

    Raises:
        Error: not done in time; code "timeout".
    """
    if _flush_has_timeout(recording):
        limit = _FLUSH_FOREVER if timeout is None else timeout
        try:
            recording.flush(timeout_sec=limit)
        except (RuntimeError, ValueError, OSError) as error:
            raise Error("timeout", f"the SDK could not flush: {error}", "see `rrd status`") from error
    else:
        _flush_old(recording, blocking=True)


def start_flush(recording: rr.RecordingStream) -> None:
    """Let the SDK write what it has batched, without waiting for it."""
    if _flush_has_timeout(recording):
        recording.flush(timeout_sec=0.0)
    else:
        _flush_old(recording, blocking=False)


def _flush_old(recording: Any, *, blocking: bool) -> None:  # noqa: ANN401 - typed for newer SDKs only
    recording.flush(blocking=blocking)


def _flush_has_timeout(recording: rr.RecordingStream) -> bool:
    code = type(recording).flush.__code__
    return "timeout_sec" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def shutdown() -> None:
    """Flush and end all recordings of the process, as Rerun does at exit; nothing can be logged afterwards."""
    import rerun

    rerun.rerun_shutdown()

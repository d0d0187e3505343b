"""What becomes of a log when its stream has ended: a footer, unless it has one, and fsync; then it is complete.

Rules: a footer is made in a process of its own (`daemon.spool.finish`), so that no long log holds up the event loop; a
few at a time; a log that cannot be completed is as it was, says so, and is tried again by the next daemon.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from daemon.stream import UNKNOWN
from daemon.wire.logmsg import BLUEPRINT

if TYPE_CHECKING:
    from daemon.hub import Hub
    from daemon.stream import Stream

log = logging.getLogger("rrd.hub")

FINISHERS = 2
"""Footers made at once: a burst of ending streams must not take every core."""
NOT_COMPLETED = "cannot be completed: "
"""How the error of a log begins whose completion is tried again by the next daemon."""


async def complete_streams(hub: Hub, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Complete the logs of streams that end, until cancelled."""
    limit = trio.CapacityLimiter(FINISHERS)
    async with trio.open_nursery() as nursery:
        task_status.started()
        while True:
            shape = hub.shape
            while hub.to_complete:
                nursery.start_soon(_finish, hub, hub.to_complete.popleft(), limit)
            await hub.wait_reshaped(shape)


async def _finish(hub: Hub, stream: Stream, limit: trio.CapacityLimiter) -> None:
    while True:
        try:
            async with limit:
                await _complete(hub, stream)
            break
        except OSError as error:
            try:
                await hub.stalled(stream, error)  # a footer needs room too
            except OSError:
                stream.meta.error = stream.meta.error or f"{NOT_COMPLETED}{error}"
                log.error("stream %s cannot be completed: %s", stream.id, error)
                break
    hub.flowing(stream)
    stream.complete = True
    stream.close()
    stream.meta.summary, stream.meta.mark = stream.summary(), {}
    hub.describe(stream)
    hub.reshaped()


async def _complete(hub: Hub, stream: Stream) -> None:
    """Give a log its footer, unless it has one, and put it on the disk.

    Raises:
        OSError: the log cannot be read or written.
    """
    await hub.take_up(stream)
    scanner = stream.scanner
    if scanner is None:
        return
    untouched = scanner.sealed and scanner.position == stream.size and not _distrusted(stream)
    if not untouched and stream.size:
        result = await hub.finish(stream.path)
        stream.dropped_bytes += int(result.get("dropped_bytes", 0))
        if result.get("problem"):
            log.warning("stream %s has no footer: %s", stream.id, result["problem"])
        await hub.read_again(stream)
        if stream.error and stream.header is None and stream.kind != UNKNOWN and stream.log is not None:
            # Nothing of it is a stream: a log must not be a trap for whoever opens it. Whose it is must be known, for
            # somebody may have put a file here that only other programs can read.
            stream.dropped_bytes += stream.size
            os.ftruncate(stream.log.fd, 0)
            stream.size = stream.log.size = 0
    await trio.to_thread.run_sync(fsync_path, stream.path)
    if stream.dropped_bytes:
        log.error("stream %s: %d bytes of no whole message were dropped", stream.id, stream.dropped_bytes)


def _distrusted(stream: Stream) -> bool:
    """The SDK's footer is known to be wrong: 0.28.2 to 0.31.4 where a recording and a blueprint share a file."""
    kinds = {store.kind for store in stream.keys.values()}
    version = stream.header.version[:3] if stream.header else (0, 0, 0)
    return len(stream.stores) > 1 and BLUEPRINT in kinds and (0, 28, 0) <= version < (0, 32, 0)


async def finish_file(path: Path, *, hold: Sequence[int] = ()) -> dict[str, Any]:
    """Give a file its footer, in a process of its own: making one keeps a core busy for a while.

    That process ends when this one is killed.

    Args:
        hold: Descriptors that it inherits: the lock by which the next daemon knows that it has ended.

    Returns:
        What `daemon.spool.finish` says: `dropped_bytes`, `rewritten`, `problem`.

    Raises:
        OSError: it could not be done.
    """
    command = [sys.executable, "-m", "daemon.spool.finish", "--attended", os.fspath(path)]
    attended, attending = os.pipe()
    try:
        done = await trio.run_process(
            command, stdin=attended, capture_stdout=True, capture_stderr=True, check=False, pass_fds=tuple(hold))
    finally:
        os.close(attended)
        os.close(attending)
    try:
        result = json.loads(done.stdout)
    except ValueError:
        raise OSError(errno.EIO, done.stderr.decode(errors="replace").strip()[-500:], os.fspath(path)) from None
    if not isinstance(result, dict) or done.returncode != 0:
        problem, number = (result.get("problem"), result.get("errno")) if isinstance(result, dict) else (None, None)
        raise OSError(number or errno.EIO, str(problem or f"exit status {done.returncode}"), os.fspath(path))
    return result


def fsync_path(path: Path) -> None:
    """Put a file and its name on the disk.

    Raises:
        OSError: the disk said no.
    """
    for name, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        fd = os.open(name, flags | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

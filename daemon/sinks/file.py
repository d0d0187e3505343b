"""A .rrd file as an output.

    link    exactly one whole log, same file system: the file is the log (hard link); costs nothing
    copy    exactly one whole log, elsewhere or --copy: the log's bytes; the file's size is the cursor
    merge   anything else: one header, the selected frames of all logs, a footer of our own

Rules: a file is whole frames and at most one cut last one at any moment; it is never overwritten unless that was said;
what this sink wrote is known from the file (copy) or from cursors and size stored after each step (merge), so that
a killed daemon goes on without losing or doubling a frame; when the recordings end, the file has its footer and is on
disk. A file that somebody removed is not made again; one whose directory was away (an unplugged disk) is.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import stat
import sys
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from daemon.completing import fsync_path
from daemon.feed import Batch, CursorState
from daemon.hub import Hub
from daemon.selection import Selection
from daemon.sinks.runner import Sink, SinkFailed, SinkRetry
from daemon.spool.log import Descriptor
from daemon.stream import Stream
from daemon.wire.rrd import HEADER_SIZE, StreamHeader

log = logging.getLogger("rrd.sinks")

STEP = 32 << 20
"""Bytes copied at once: long enough to be fast, short enough to be stopped."""
PACE_S = 0.1
"""A copy of a live log looks for more so often: its bytes are safe in the log, and small steps are dear."""
NICE = 10
"""Copies are in nobody's way: their threads run at this niceness."""
SMALL_RANGE = 16 << 10
"""Runs of selected frames shorter than this on average are gathered in memory rather than copied one by one."""
NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)


class FileSink(Sink):
    """One file.

    Args:
        path: Absolute; claimed by `claim` before the sink runs.
        copy: Never a hard link.
    """

    kind = "file"

    def __init__(self, hub: Hub, selection: Selection, path: Path, *, copy: bool = False, id: str = "") -> None:  # noqa: A002
        super().__init__(hub, selection, os.fspath(path), id=id)
        self.path = path
        self.copy = copy
        self.mode = ""
        self.size = 0
        """Bytes of the target that are known to be right."""
        self.inode = 0
        """The target's inode: another one there is somebody else's file."""
        self.generation = 0
        """Which writing of the log a copy is of."""
        self._cursors: dict[str, CursorState] = {}
        self._delivered = 0
        self._under_way = (0, 0)
        """Messages and bytes that a merge has taken from its feed and not yet written."""
        self._hurried = 0
        """How many wait in `durable`."""
        self._limiter = trio.CapacityLimiter(1)  # a hung disk hangs this sink only

    # -- before it runs --------------------------------------------------------------------------------------------

    def claim(self, *, force: bool) -> None:
        """Make the target, so that whoever asked knows at once whether it can be.

        Args:
            force: Replace a file that is there.

        Raises:
            FileExistsError: it is there, and not to be replaced.
            OSError: it cannot be made.
        """
        stream = self._only_stream()
        if stream is not None and not self.copy and stream.kind != "file":
            try:
                self._link(stream, replace=force)
            except OSError as error:
                if error.errno not in NO_LINK:
                    raise
            else:
                return
        self._make_empty(replace=force)

    def abandon(self) -> None:
        """Take back what `claim` made."""
        with contextlib.suppress(OSError):
            if os.stat(self.path, follow_symlinks=False).st_ino == self.inode:
                self.path.unlink()

    def _beside(self) -> Path:
        """A new name in the target's directory."""
        return self.path.with_name(f".{self.path.name[:200]}.{secrets.token_hex(4)}")

    def _take_place(self, temporary: Path) -> None:
        """Give a file the target's name. A file that is there stays as it is for whoever has it open.

        Raises:
            OSError: it cannot be done; `temporary` is gone.
        """
        try:
            os.replace(temporary, self.path)
        finally:
            # rename(2) of two links to one file does nothing, and leaves both.
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _link(self, stream: Stream, *, replace: bool) -> None:
        if replace:
            temporary = self._beside()
            os.link(stream.path, temporary)
            self._take_place(temporary)
        else:
            os.link(stream.path, self.path)
        self.mode, self.inode = "link", self.path.stat().st_ino

    def _make_empty(self, *, replace: bool) -> None:
        path = self._beside() if replace else self.path
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            inode = os.fstat(fd).st_ino
        finally:
            os.close(fd)
        if replace:
            self._take_place(path)
        stream = self._only_stream()
        self.inode, self.size, self._cursors, self._delivered = inode, 0, {}, 0
        self.mode = "copy" if stream is not None else "merge"
        self.generation = stream.generation if stream is not None else 0

    def options(self) -> dict[str, Any]:
        """See Sink."""
        return {"copy": self.copy, "mode": self.mode, "size": self.size, "inode": self.inode,
                "generation": self.generation, "cursors": self._cursors}

    @classmethod
    def restore(cls, hub: Hub, selection: Selection, target: str, id: str,  # noqa: A002
                options: Mapping[str, Any]) -> FileSink:
        """See Sink."""
        sink = cls(hub, selection, Path(target), copy=bool(options["copy"]), id=id)
        sink.mode, sink.size, sink.inode = str(options["mode"]), int(options["size"]), int(options["inode"])
        sink.generation = int(options.get("generation", 0))
        sink._cursors = {name: CursorState(*state) for name, state in options["cursors"].items()}
        return sink

    # -- running ---------------------------------------------------------------------------------------------------

    def _only_stream(self) -> Stream | None:
        """The one stream that the file is, if it is one."""
        streams = self.feed.streams()
        if self.selection.open_ended or len(streams) != 1 or not self.selection.whole(streams[0]):
            return None
        return streams[0]

    async def deliver(self) -> None:
        """See Sink."""
        self._check_target()
        await self._deliver()
        streams = self.feed.streams()
        if streams and all(stream.error and not stream.data_end for stream in streams):
            self.path.unlink(missing_ok=True)
            raise SinkFailed(streams[0].error)

    async def _deliver(self) -> None:
        if self.mode != "merge":
            stream = self._only_stream()
            if not self.feed.streams() and not self.selection.open_ended:
                log.warning("sink %s: its log is gone, the file stays as it is: %s", self.id, self.path)
                await self._finish(self.path)
                return
            if stream is not None:
                done = await (self._follow_link(stream) if self.mode == "link" else self._follow_copy(stream))
                if done:
                    return
            await self._become_merge()
        await self._follow_merge()

    def _check_target(self) -> None:
        """See that the target is still the file that was claimed.

        Raises:
            SinkRetry: its directory is away.
            SinkFailed: it was removed or replaced.
        """
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            if not self.path.parent.is_dir():
                raise SinkRetry(f"directory is gone: {self.path.parent}") from None
            if self.state == "retrying" and self.last_error.startswith("directory is gone"):
                self.claim(force=False)
                return
            raise SinkFailed(f"file was removed by somebody: {self.path}") from None
        if self.mode != "link":
            self._check_ours(found)

    def _check_ours(self, found: os.stat_result) -> None:
        """See that a file is the one that was claimed: nobody else's is ever written to.

        Raises:
            SinkFailed: it is not.
        """
        if found.st_ino != self.inode:
            raise SinkFailed(f"file was replaced by somebody: {self.path}")

    def _open_target(self) -> int:
        """Open the target.

        Raises:
            SinkFailed: it is somebody else's.
            OSError: it cannot be opened.
        """
        target = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._check_ours(os.fstat(target))
        except SinkFailed:
            os.close(target)
            raise
        return target

    async def _follow_link(self, stream: Stream) -> bool:
        """Wait for the end of a log that is the file. False: the file must become something else."""
        self.following()
        while not stream.complete:
            seen = self.hub.shape
            if self._only_stream() is None:
                return False
            await self.hub.wait_reshaped(seen)
        found = os.stat(self.path, follow_symlinks=False)
        if found.st_ino != os.stat(stream.path).st_ino:
            self._check_ours(found)
            self._link(stream, replace=True)  # the log was written anew when it was completed
        await self._thread(partial(fsync_path, self.path))
        return True

    async def _follow_copy(self, stream: Stream) -> bool:
        """Copy one log's bytes as they come. False: the file must become a merge."""
        target = self._open_target()
        try:
            self.size = min(os.fstat(target).st_size, stream.data_end)
            os.ftruncate(target, self.size)
            source = stream.source()
            while True:
                seen = self.hub.version
                if stream.generation != self.generation:
                    # The log was written anew: so is its copy.
                    os.ftruncate(target, 0)
                    source, self.size, self.generation = stream.source(), 0, stream.generation
                    self.saved()
                if self._only_stream() is None:
                    return False
                complete, messages = stream.complete, stream.messages
                end = stream.size if complete else stream.data_end
                while self.size < end:
                    step = min(STEP, end - self.size)
                    self.size += await self._thread(partial(copy_range, source.fd, target, self.size, self.size, step))
                    self.following()
                if stream.generation != self.generation:
                    continue
                if messages != self._delivered:
                    self._delivered = messages
                    self.hub.changed()  # whoever waits for this file
                self.following()
                if complete:
                    break
                self._check_target()
                await self.hub.wait_change(seen)
                await self._pace(stream)
            os.ftruncate(target, self.size)
            await self._thread(partial(os.fsync, target))
        finally:
            os.close(target)
        if stream.kind == "file":
            await self._finish(self.path)  # what was copied may be of a program that was killed
        return True

    async def _become_merge(self) -> None:
        """One log is not enough any more: begin anew as a merge."""
        if self.mode == "link":
            # Never through the link: the log's other name is the log. The new file takes its name's place.
            temporary = self._beside()
            temporary.touch(exist_ok=False)
            inode = temporary.stat().st_ino
            self._take_place(temporary)
            self.inode = inode
        # A copy is this sink's own: `_follow_merge` empties it, after this is known to the next daemon.
        self.mode, self.size, self._cursors = "merge", 0, {}
        self.saved()
        await trio.lowlevel.checkpoint()

    async def _follow_merge(self) -> None:
        target = self._open_target()
        try:
            os.ftruncate(target, self.size)
            self.feed.seek(self._cursors)
            self._under_way = (0, 0)
            while True:
                seen = self.hub.version
                if self._written_anew():
                    self.size, self._cursors = 0, {}
                    self.saved()
                    os.ftruncate(target, 0)
                    self.feed.seek({})
                batch = await self.feed.take(STEP)
                if batch is not None:
                    self._under_way = (len(batch.frames), batch.size)
                    self._write_header(target, batch.stream)
                    self.size += await self._thread(partial(write_batch, batch, target, self.size))
                    self._cursors, self._under_way = self.feed.cursors(), (0, 0)
                    with contextlib.suppress(OSError):  # then the next daemon does this step again, from where it began
                        self.saved()
                    self.hub.changed()  # whoever waits for this file
                    self.following()
                    continue
                self.following()
                if self.feed.finished:
                    break
                self._check_target()
                await self.hub.wait_change(seen)
                await self._pace()
        finally:
            os.close(target)
        self._check_target()
        await self._finish(self.path)

    def _written_anew(self) -> bool:
        """A log that this merge has read from is another file now, so that nobody knows what of it was read."""
        streams = self.hub.streams
        return any(name in streams and state.generation != streams[name].generation
                   for name, state in self._cursors.items())

    async def _pace(self, stream: Stream | None = None) -> None:
        """Let more come together, unless it is the end that came."""
        with trio.move_on_after(PACE_S):
            while not self._hurried and not (stream.complete if stream is not None else self.feed.finished):
                await self.hub.wait_reshaped(self.hub.shape)

    def _write_header(self, target: int, stream: Stream) -> None:
        """The newest version of all streams: a reader that knows it knows the older ones."""
        if stream.header is None:
            return
        there = os.pread(target, HEADER_SIZE, 0)
        if len(there) == HEADER_SIZE and tuple(there[4:7]) >= stream.header.version[:3]:
            self.size = max(self.size, HEADER_SIZE)
            return
        os.pwrite(target, StreamHeader(stream.header.version, stream.header.compression, 2).encode(), 0)
        self.size = max(self.size, HEADER_SIZE)

    async def _finish(self, path: Path) -> None:
        """Give a file its footer.

        Raises:
            SinkFailed: there is none to give.
            OSError: it cannot be written.
        """
        if path.stat().st_size == 0:
            return
        result = await self.hub.finish(path)
        if result.get("problem"):
            self.last_error = f"no footer: {result['problem']}"
        await self._thread(partial(fsync_path, path))

    async def detached(self) -> None:
        """Complete the file with what it has: a link becomes a file of its own first.

        What somebody has removed is not made again, and what somebody has put there is left alone.
        """
        try:
            self._check_ours(os.stat(self.path, follow_symlinks=False))
        except (FileNotFoundError, SinkFailed) as error:
            self.last_error = str(error) if isinstance(error, SinkFailed) else f"file is gone: {self.path}"
            return
        stream = self._only_stream() if self.mode == "link" else None
        if stream is not None and not stream.complete:
            temporary = self._beside()
            end, self._delivered = stream.data_end, stream.messages
            try:
                await self._thread(partial(copy_file, stream.source(), temporary, end))
                await self._finish(temporary)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise  # it stays a link: nothing of it is lost, and it ends with the log
            self._take_place(temporary)
        elif self.mode != "link":
            await self._finish(self.path)

    async def durable(self) -> None:
        """Wait until everything that is in the logs now is in the file, and that on disk.

        Raises:
            SinkFailed: it cannot get there: the sink has failed, or is being retried.
        """
        wanted = {stream.id: stream.data_end for stream in self.feed.streams()}
        self._hurried += 1
        self.hub.reshaped()  # wakes `_pace`
        try:
            while not self._has(wanted):
                if self.state in ("failed", "retrying"):
                    raise SinkFailed(f"{self.target}: {self.last_error}")
                await self.hub.wait_change(self.hub.version)
        finally:
            self._hurried -= 1
        await self._thread(partial(fsync_path, self.path))

    def _has(self, wanted: Mapping[str, int]) -> bool:
        if self.mode == "link" or self.state in ("complete", "detached"):
            return True
        if self.mode == "copy":
            return self.size >= sum(wanted.values())
        return all(self._cursors.get(name, CursorState()).position >= end for name, end in wanted.items())

    # -- what is shown ---------------------------------------------------------------------------------------------

    def lag(self) -> tuple[int, int]:
        """See Sink."""
        stream = self._only_stream()
        if self.mode == "link":
            return (0, 0)
        if self.mode == "merge" or stream is None:
            messages, size = self.feed.lag()
            return messages + self._under_way[0], size + self._under_way[1]
        return max(0, stream.messages - self._delivered), max(0, stream.data_end - self.size)

    @property
    def delivered_messages(self) -> int:
        """See Sink."""
        if self.mode == "merge":
            return self.feed.delivered_messages - self._under_way[0]
        stream = self._only_stream()
        return stream.messages if self.mode == "link" and stream is not None else self._delivered

    def status(self) -> dict[str, Any]:
        """See Sink; with `mode` and `bytes`."""
        found = super().status()
        found["mode"] = self.mode
        problem = ""
        try:
            there = os.stat(self.path, follow_symlinks=False)
            found["bytes"] = there.st_size
            if there.st_ino != self.inode:
                problem = f"file was replaced by somebody: {self.path}"
        except OSError as error:
            found["bytes"], problem = 0, f"{error.strerror}: {self.path}"
        if problem and self.mode == "link" and self.state == "following":
            found["state"], found["last_error"] = "failed", problem
        return found

    def progress(self) -> dict[str, Any]:
        """How far the file has come: bytes and messages, done and in all."""
        messages, size = self.lag()
        done = self.size if self.mode != "link" else sum(stream.size for stream in self.feed.streams())
        return {"done_bytes": done, "total_bytes": done + size, "done_messages": self.delivered_messages,
                "lag_messages": messages}

    async def _thread(self, work: partial[Any]) -> Any:  # noqa: ANN401 - whatever `work` returns
        return await trio.to_thread.run_sync(step_aside, work, limiter=self._limiter, abandon_on_cancel=False)


def step_aside(work: partial[Any]) -> Any:  # noqa: ANN401 - whatever `work` returns
    """Do something in this thread at low priority. Linux alone has a niceness for each thread."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    return work()


def copy_range(source: int, target: int, at: int, to: int, count: int) -> int:
    """Copy bytes from one file to another, in the kernel where it can.

    Args:
        at: Offset in `source`.
        to: Offset in `target`.

    Returns:
        The number of bytes copied, at least 1.

    Raises:
        OSError: it cannot be read (EIO: the source is shorter) or written.
    """
    if sys.platform == "linux":
        try:
            done = os.copy_file_range(source, target, count, at, to)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        else:
            if done:
                return done
        os.lseek(target, to, os.SEEK_SET)
        done = os.sendfile(target, source, at, count)
    else:
        done = os.pwrite(target, os.pread(source, min(count, 1 << 20), at), to)
    if not done:
        raise OSError(errno.EIO, "log is shorter than it was")
    return done


def copy_file(source: Descriptor, target: Path, size: int) -> None:
    """Copy the first `size` bytes of a file to a new one.

    Raises:
        OSError: it cannot be done; `target` is gone again.
    """
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        done = 0
        while done < size:
            done += copy_range(source.fd, fd, done, done, min(STEP, size - done))
    except OSError:
        target.unlink()
        raise
    finally:
        os.close(fd)


def write_batch(batch: Batch, target: int, at: int) -> int:
    """Append a batch's frames to a file.

    Args:
        at: Where in the file.

    Returns:
        The bytes written.

    Raises:
        OSError: it cannot be read or written; a part may have been.
    """
    ranges, start = batch.ranges(), at
    total = sum(length for _, length in ranges)
    if total < SMALL_RANGE * len(ranges):
        data = memoryview(batch.read())
        while data:
            written = os.pwrite(target, data, at)
            at += written
            data = data[written:]
        return at - start
    for offset, length in ranges:
        done = 0
        while done < length:
            done += copy_range(batch.source.fd, target, offset + done, at + done, length - done)
        at += length
    return at - start


def refuse_target(path: Path) -> str:
    """Why a path can never be an output, or empty."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    if stat.S_ISDIR(mode):
        return f"is a directory: {path}"
    if not stat.S_ISREG(mode):
        return f"is not a regular file: {path}"
    return ""

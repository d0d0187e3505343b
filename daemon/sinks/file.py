"""A .rrd file as an output.

    link    exactly one whole log, same file system: the file is the log (hard link); costs nothing
    copy    exactly one whole log, elsewhere or --copy: the log's bytes; the file's size is the cursor
    merge   anything else, the last minute of a log for one: a header, the selected frames of all logs, our own footer

Rules: a file is whole frames and at most one cut last one at any moment; it is never overwritten unless that was said;
what this sink wrote is known from the file (copy) or from cursors and size stored after each step (merge), so that
a killed daemon goes on without losing or doubling a frame; when the recordings end, the file has its footer and is on
disk. A file that must be written anew (another stream joins, a log was written anew, a link is parted from its log) is
made in a file beside it, which takes its place when it has caught up: nobody sees the target shrink. A file that
somebody removed is not made again; one whose directory was away (an unplugged disk) is.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from daemon.completing import fsync_path
from daemon.feed import Batch, CursorState, Window
from daemon.hub import Hub
from daemon.paths import beside
from daemon.selection import Selection
from daemon.sinks.copying import STEP, Aside, copy_range, write_batch
from daemon.sinks.runner import Sink, SinkFailed, SinkRetry, describe
from daemon.stream import Stream
from daemon.wire.rrd import HEADER_SIZE, StreamHeader

log = logging.getLogger("rrd.sinks")

PACE_S = 0.1
"""A copy of a live log looks for more so often: its bytes are safe in the log, and small steps are dear."""
NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)


class FileSink(Sink):
    """One file.

    Args:
        path: Absolute; `hold` makes it before the sink runs.
        copy: Never a hard link.
        force: Replace a file that is there.
        last: Only what was made in the last so many seconds, with what is pinned of before, and only what is there now.
            0 is everything, and on until it ends. What that is is found once, and stays, whatever the file waits for.
    """

    kind = "file"

    def __init__(self, hub: Hub, selection: Selection, path: Path, *, copy: bool = False, force: bool = False,
                 last: float = 0.0, id: str = "") -> None:  # noqa: A002
        super().__init__(hub, selection, os.fspath(path), id=id)
        self.path = path
        self.copy = copy
        self.last = last
        self.force = force
        self.mode = ""
        """Empty until `hold`."""
        self.size = 0
        """Bytes that are known to be right, of the target or of what is made beside it."""
        self.inode = 0
        """The target's inode: another one there is somebody else's file."""
        self.generation = 0
        """Which writing of the log a copy is of."""
        self.beside = ""
        """Name of the file that is to take the target's place, in the same directory; empty if there is none."""
        self.beside_inode = 0
        self.ending = False
        """What lies behind `size` may be a footer."""
        self.windows: dict[str, Window] = {}
        """Of each log, what belongs to the last seconds; empty until that was looked for."""
        self.left_out = 0
        """Messages that lie before the cursors and are not of the last seconds."""
        self._cursors: dict[str, CursorState] = {}
        self._delivered = 0
        self._under_way = (0, 0)
        """Messages and bytes that a merge has taken from its feed and not yet written."""
        self._parting = 0
        """Bytes that a link must copy to become a file of its own, while it does."""
        self._hurried = 0
        """How many wait in `durable`."""
        self._aside = Aside()  # a hung disk hangs this sink only

    # -- before it runs --------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Make the target, so that whoever asked knows at once whether it can be.

        Raises:
            FileExistsError: it is there, and not to be replaced.
            OSError: it cannot be made.
        """
        self._drop_beside()
        force, self.force = self.force, False
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

    def let_go(self) -> None:
        """Take back what `hold` made."""
        with contextlib.suppress(OSError):
            if os.stat(self.path, follow_symlinks=False).st_ino == self.inode:
                self.path.unlink()

    def _hold_again(self) -> None:
        """Make the target for a daemon that died over it: before, in the middle, or after.

        Raises:
            SinkFailed: it cannot be made.
        """
        try:
            self.hold()
        except FileExistsError:
            found, stream = os.stat(self.path, follow_symlinks=False), self._only_stream()
            if stream is not None and os.path.samestat(found, os.stat(stream.path)):
                self.mode, self.inode = "link", found.st_ino
            elif found.st_size == 0:
                self._begin(found.st_ino)
            else:
                raise SinkFailed(f"file exists: {self.path}") from None
        except OSError as error:
            raise SinkFailed(f"{error.strerror}: {self.path}") from error
        self.saved()

    def _own_name(self) -> Path:
        """A name in the target's directory that nobody else has; what a daemon that died has left there is removed.

        Raises:
            OSError: it cannot be.
        """
        path = Path(beside(self.path, self.id))
        path.unlink(missing_ok=True)
        return path

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
            temporary = self._own_name()
            os.link(stream.path, temporary)
            self._take_place(temporary)
        else:
            os.link(stream.path, self.path)
        self.mode, self.inode = "link", self.path.stat().st_ino

    def _make_empty(self, *, replace: bool) -> None:
        path = self._own_name() if replace else self.path
        inode = make_file(path)
        if replace:
            self._take_place(path)
        self._begin(inode)

    def _begin(self, inode: int) -> None:
        """The target is there and empty."""
        stream = self._only_stream()
        self.inode, self.size, self._cursors, self._delivered = inode, 0, {}, 0
        self.mode = "copy" if stream is not None else "merge"
        self.generation = stream.generation if stream is not None else 0

    # -- what is made beside the target ----------------------------------------------------------------------------

    def _begin_beside(self) -> None:
        """Write anew, beside the target, which stays as it is meanwhile.

        Raises:
            OSError: it cannot be made.
        """
        self._drop_beside()
        path = self._own_name()
        self.beside, self.size, self._cursors, self._delivered = path.name, 0, {}, 0
        self.saved()  # first, so that no daemon leaves it behind
        self.beside_inode = make_file(path)
        self.saved()

    def _swap(self) -> None:
        """What was made beside the target has caught up: it takes the target's place.

        Raises:
            SinkFailed: the target is somebody else's.
            SinkRetry, OSError: it cannot be done now.
        """
        if self.beside:
            self._check_target()
            self._take_place(self.path.with_name(self.beside))
            self.inode, self.beside = self.beside_inode, ""
            with contextlib.suppress(OSError):  # `_settle` finds out by itself
                self.saved()

    def _settle(self) -> None:
        """Find out how far a daemon before came with what it made beside the target.

        Raises:
            OSError: it cannot be looked at.
        """
        if not self.beside or not self.path.parent.is_dir():
            return
        if self.mode == "link":  # parting from the log was interrupted: it is a link as before
            self._drop_beside()
            self.saved()
            return
        inodes = []
        for path in (self.path.with_name(self.beside), self.path):
            try:
                inodes.append(os.stat(path, follow_symlinks=False).st_ino)
            except FileNotFoundError:
                inodes.append(0)
        if not inodes[0] and inodes[1] and inodes[1] == self.beside_inode:
            self.inode, self.beside = self.beside_inode, ""
            self.saved()
        elif inodes[0] != self.beside_inode or not inodes[0]:
            self._begin_beside()

    def _drop_beside(self) -> None:
        """Nothing is made beside the target any more."""
        if self.beside:
            with contextlib.suppress(OSError):
                self.path.with_name(self.beside).unlink()
            self.beside = ""

    def options(self) -> dict[str, Any]:
        """See Sink."""
        return {"copy": self.copy, "force": self.force, "mode": self.mode, "size": self.size, "inode": self.inode,
                "generation": self.generation, "cursors": self._cursors, "beside": self.beside,
                "beside_inode": self.beside_inode, "ending": self.ending, "last": self.last,
                "windows": self.windows, "left_out": self.left_out}

    @classmethod
    def restore(cls, hub: Hub, selection: Selection, target: str, id: str,  # noqa: A002
                options: Mapping[str, Any]) -> FileSink:
        """See Sink."""
        sink = cls(hub, selection, Path(target), copy=bool(options["copy"]), force=bool(options.get("force")),
                   last=float(options.get("last") or 0.0), id=id)
        sink.mode, sink.size, sink.inode = str(options["mode"]), int(options["size"]), int(options["inode"])
        sink.generation = int(options.get("generation", 0))
        sink.beside, sink.beside_inode = str(options.get("beside", "")), int(options.get("beside_inode", 0))
        sink.ending = bool(options.get("ending"))
        sink._cursors = {name: CursorState(*state) for name, state in options["cursors"].items()}
        sink.windows = {name: Window(*window) for name, window in options.get("windows", {}).items()}
        sink.left_out = int(options.get("left_out", 0))
        return sink

    # -- running ---------------------------------------------------------------------------------------------------

    def _only_stream(self) -> Stream | None:
        """The one stream that the file is, if it is one."""
        streams = self.feed.streams()
        if self.last or self.selection.open_ended or len(streams) != 1 or not self.selection.whole(streams[0]):
            return None
        return streams[0]

    async def deliver(self) -> None:
        """See Sink."""
        try:
            if not self.mode:
                self._hold_again()
            self._settle()
            self._check_target()
            await self._deliver()
            streams = self.feed.streams()
            if streams and all(stream.error and not stream.data_end for stream in streams):
                self.path.unlink(missing_ok=True)
                raise SinkFailed(streams[0].error)
        except SinkFailed:
            self._drop_beside()
            raise
        finally:
            self._aside.end()

    async def _deliver(self) -> None:
        if self._source_is_gone() and (self.mode != "merge" or self.beside):
            log.warning("sink %s: its log is gone, the file stays as it is: %s", self.id, self.path)
            self._drop_beside()
            await self._finish(self.path)
            return
        if self.mode != "merge":
            stream = self._only_stream()
            if stream is not None:
                done = await (self._follow_link(stream) if self.mode == "link" else self._follow_copy(stream))
                if done:
                    return
            self._become_merge()
        await self._follow_merge(once=self.last > 0)
        self._check_target()
        await self._finish(self.path)

    def _source_is_gone(self) -> bool:
        return not self.feed.streams() and not self.selection.open_ended

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
                self.hold()
                self.saved()
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
        """Open the target, or what is to take its place.

        Raises:
            SinkFailed: it is somebody else's.
            OSError: it cannot be opened.
        """
        path = self.path.with_name(self.beside) if self.beside else self.path
        target = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not self.beside:
                self._check_ours(os.fstat(target))
        except SinkFailed:
            os.close(target)
            raise
        return target

    def _reopen(self, target: int) -> int:
        """Open what is written to from now on; only then close `target`, which is the caller's until this returns.

        Raises:
            SinkFailed, OSError: it cannot be opened; `target` is open as before.
        """
        anew = self._open_target()
        os.close(target)
        return anew

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
        await self._aside.run(partial(fsync_path, self.path))
        return True

    async def _follow_copy(self, stream: Stream, *, once: bool = False) -> bool:
        """Copy one log's bytes as they come. False: the file must become a merge.

        Args:
            once: Only what is there now.
        """
        self._copy_anew(stream)
        target = self._open_target()
        try:
            there = os.fstat(target).st_size
            self.size = min(there, stream.data_end, *((self.size,) if self.ending else ()))
            self.ending = False
            os.ftruncate(target, self.size)
            source = stream.source()
            while True:
                seen = self.hub.version
                if self._copy_anew(stream):
                    source, target = stream.source(), self._reopen(target)
                if self._only_stream() is None:
                    return False
                complete, messages = stream.complete, stream.messages
                end = stream.size if complete else stream.data_end
                while self.size < end:
                    step = min(STEP, end - self.size)
                    self.size += await self._aside.run(
                        partial(copy_range, source.fd, target, self.size, self.size, step))
                    self.following()
                if stream.generation != self.generation:
                    continue
                self._swap()
                if messages != self._delivered:
                    self._delivered = messages
                    self.hub.changed()  # whoever waits for this file
                self.following()
                if complete or once:
                    break
                self._check_target()
                await self.hub.wait_change(seen)
                await self._pace(stream)
            os.ftruncate(target, self.size)
            await self._aside.run(partial(os.fsync, target))
        finally:
            os.close(target)
        if stream.kind == "file":
            await self._finish(self.path)  # what was copied may be of a program that was killed
        return True

    def _copy_anew(self, stream: Stream) -> bool:
        """When a log was written anew, so is its copy."""
        anew = stream.generation != self.generation
        if anew:
            self.generation = stream.generation
            self._begin_beside()
        return anew

    def _become_merge(self) -> None:
        """One log is not enough any more: begin anew as a merge."""
        self.mode = "merge"
        self._begin_beside()

    async def _follow_merge(self, *, once: bool = False) -> None:
        """Write frames of all logs as they come.

        Args:
            once: Only what is there now, however fast more comes.
        """
        await self._look_back()
        ends = self._ends()
        target = self._open_target()
        try:
            if os.fstat(target).st_size < self.size:
                # After a power cut the disk may have more of our json than of the file: what is missing, nobody knows.
                self._begin_beside()
                target = self._reopen(target)
            os.ftruncate(target, self.size)
            await self._seek(self._cursors)
            self._under_way = (0, 0)
            while True:
                seen = self.hub.version
                if self._written_anew():
                    self._begin_beside()
                    target = self._reopen(target)
                    await self._seek({})
                    ends = self._ends()
                batch = None if once and self._has_read(ends) else await self.feed.take(STEP)
                if batch is not None:
                    if self.last:
                        self._cut(batch, ends.get(batch.stream.id, 0))
                    self._under_way = (len(batch.frames), batch.size)
                    self._write_header(target, batch.stream)
                    self.size += await self._aside.run(partial(write_batch, batch, target, self.size))
                    self._cursors, self._under_way = self.feed.cursors(), (0, 0)
                    with contextlib.suppress(OSError):  # then the next daemon does this step again, from where it began
                        self.saved()
                enough = batch is None or self.feed.caught_up
                if enough:
                    self._swap()
                self.following()
                if once and enough:
                    return
                if batch is not None:
                    self.hub.changed()  # whoever waits for this file
                    continue
                if self._cursors != (cursors := self.feed.cursors()):  # they have passed what is not selected
                    self._cursors = cursors
                    if self._hurried:
                        self.hub.changed()
                if self.feed.finished:
                    break
                self._check_target()
                await self.hub.wait_change(seen)
                await self._pace()
        finally:
            os.close(target)

    async def _look_back(self) -> None:
        """Find out what the last seconds are."""
        if self.last and not self.windows:
            self.windows = await self.feed.last_seconds(self.last)
            with contextlib.suppress(OSError):
                self.saved()
        if self.last and any(state.skipped for state in self._cursors.values()):
            self._cursors, self.size = {}, 0  # how much of what is pinned is in the file, nobody knows

    async def _seek(self, cursors: dict[str, CursorState]) -> None:
        """Have the feed go on at `cursors`; without any, begin."""
        self.feed.seek(cursors)
        if not self.last:
            return
        if cursors:
            self.feed.delivered_messages -= self.left_out
        else:
            self.left_out = await self.feed.skip_to(self.windows)
            self._cursors = self.feed.cursors()

    def _cut(self, batch: Batch, end: int) -> None:
        """Leave out what came later than what belongs to the last seconds."""
        kept = [frame for frame in batch.frames if frame.end <= end]
        self.left_out += len(batch.frames) - len(kept)
        self.feed.delivered_messages -= len(batch.frames) - len(kept)
        batch.frames = kept

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
        await self._aside.run(partial(fsync_path, path))

    async def detached(self) -> None:
        """Complete the file with all that is in the logs now: a link becomes a file of its own first.

        What somebody has removed is not made again, and what somebody has put there is left alone. Cancelled, it
        leaves everything so that `deliver` can go on.
        """
        try:
            if not self.mode:
                self._hold_again()
            self._settle()
            self._check_ours(os.stat(self.path, follow_symlinks=False))
            await self._complete()
        except (FileNotFoundError, SinkFailed) as error:
            self.last_error = str(error) if isinstance(error, SinkFailed) else f"file is gone: {self.path}"
            self._drop_beside()
        except OSError:
            self._drop_beside()
            raise
        finally:
            self._aside.end()

    async def _complete(self) -> None:
        stream = self._only_stream()
        if self._source_is_gone():
            self._drop_beside()
        elif self.mode != "merge" and stream is None:
            self._become_merge()
        if self.mode == "link":
            if stream is not None and not stream.complete:
                await self._part(stream)
            return
        problem: OSError | None = None
        try:
            if self.mode == "merge":
                await self._follow_merge(once=True)
            elif stream is not None:
                await self._follow_copy(stream, once=True)
        except OSError as error:
            if self.beside:
                raise  # the target may be a log
            problem = error  # no room for the rest: complete what it has
        self.ending = True
        with contextlib.suppress(OSError):
            self.saved()
        await self._finish(self.path)
        if problem is not None:
            raise problem

    async def _part(self, stream: Stream) -> None:
        """Make a link to a live log a file of its own, with what is in the log now.

        Raises:
            OSError: it cannot be done: nothing is lost, it stays a link, which ends with the log.
        """
        end, messages, source = stream.data_end, stream.messages, stream.source()
        self._parting = end
        try:
            self._begin_beside()
            target = self._open_target()
            try:
                while self.size < end:
                    step = min(STEP, end - self.size)
                    self.size += await self._aside.run(
                        partial(copy_range, source.fd, target, self.size, self.size, step))
            finally:
                os.close(target)
            await self._finish(self.path.with_name(self.beside))
            self._take_place(self.path.with_name(self.beside))
            self.mode, self._delivered = "copy", messages
        finally:
            self._drop_beside()
            self._parting = 0

    async def durable(self) -> None:
        """Wait until everything that is in the logs now is in the file, and that on disk.

        Raises:
            SinkFailed: it cannot get there: the sink has failed or is being retried, or the disk says no.
        """
        wanted = self._ends()
        self._hurried += 1
        self.hub.reshaped()  # wakes `_pace`
        try:
            while not self._has(wanted):
                if self.state in ("failed", "retrying"):
                    raise SinkFailed(f"{self.target}: {self.last_error}")
                await self.hub.wait_change(self.hub.version)
        finally:
            self._hurried -= 1
        try:
            await self._aside.run(partial(fsync_path, self.path))
        except OSError as error:
            raise SinkFailed(f"{self.target}: {describe(error)}") from error

    def _has(self, wanted: Mapping[str, int]) -> bool:
        if self.mode == "link" or self.state in ("complete", "detached"):
            return True
        if self.beside or not self.mode:
            return False
        if self.mode == "copy":
            return self.size >= sum(wanted.values())
        return self._has_read(wanted)

    def _ends(self) -> dict[str, int]:
        """Where what is in the logs now ends; what is to be in the file, if that is the last seconds."""
        ends = {stream.id: stream.data_end for stream in self.feed.streams()}
        for name, window in self.windows.items():
            if name in ends and self.hub.streams[name].generation == window.generation:
                ends[name] = window.end
        return ends

    def _has_read(self, ends: Mapping[str, int]) -> bool:
        """What a merge has written goes so far."""
        states = [(self._cursors.get(name, CursorState()), end) for name, end in ends.items()]
        return all(state.position >= end and not state.skipped for state, end in states)

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
        if self.last:
            found["last"] = self.last
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
        done, total = self.size, self.size + size
        if self._parting:
            total = self._parting
        elif self.mode == "link":
            done = total = sum(stream.size for stream in self.feed.streams())
        return {"done_bytes": done, "total_bytes": total, "done_messages": self.delivered_messages,
                "lag_messages": messages}


def make_file(path: Path) -> int:
    """Make an empty file.

    Returns:
        Its inode.

    Raises:
        FileExistsError: it is there.
        OSError: it cannot be made.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


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

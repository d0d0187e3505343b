"""Cursors: the frames of a selection, read from the logs, each reader at its own pace.

    Feed (a selection) -> one Cursor a log -> Batch (whole frames, still in the log)

Rules: a reader holds positions, never data; End frames, footers and headers in mid-stream are not frames to a reader;
what a batch names lies in the log and stays readable.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import trio

from daemon.selection import Selection
from daemon.spool.log import Descriptor
from daemon.spool.pinned import Skimmed, newest, skim
from daemon.spool.scanner import Frame, Scanner
from daemon.stream import Stream
from daemon.wire.rrd import FRAME_HEADER_SIZE, FormatError

if TYPE_CHECKING:
    from daemon.hub import Hub

T = TypeVar("T")

HOLD_S = 0.005
"""How long the event loop is held to walk a log, seconds: frames that a selection leaves out are many, or cold."""
SLICE_S = 0.1
"""How long a thread walks a log before it asks whether it should, seconds."""
LONG = 4 << 20
"""Logs shorter than this are delivered before anyone could see in which order."""


@dataclass(slots=True)
class Batch:
    """Whole frames of one log, in order.

    Attributes:
        frames: Kind, payload offset and payload length of each, and its raw store id.
        start, end: The cursor before and after.
        source: The file in which they lie at these places, whatever becomes of the log.
    """

    stream: Stream
    frames: list[Frame]
    start: int
    end: int
    source: Descriptor

    @property
    def size(self) -> int:
        """Bytes of the frames with their headers."""
        return sum(frame.length + FRAME_HEADER_SIZE for frame in self.frames)

    def ranges(self) -> list[tuple[int, int]]:
        """(offset, length) of runs of frames that lie next to each other."""
        runs: list[tuple[int, int]] = []
        for frame in self.frames:
            start, size = frame.offset - FRAME_HEADER_SIZE, frame.length + FRAME_HEADER_SIZE
            if runs and sum(runs[-1]) == start:
                runs[-1] = (runs[-1][0], runs[-1][1] + size)
            else:
                runs.append((start, size))
        return runs

    def read(self) -> bytes:
        """All frames with their headers, one after the other."""
        return b"".join(self.pread(offset, length) for offset, length in self.ranges())

    def payload(self, frame: Frame) -> bytes:
        """One frame's payload."""
        return self.pread(frame.offset, frame.length)

    def pread(self, offset: int, length: int) -> bytes:
        """Bytes of the log.

        Raises:
            OSError: they are not there (EIO), or cannot be read.
        """
        fd, parts = self.source.fd, []
        while length > 0:
            data = os.pread(fd, length, offset)
            if not data:
                raise OSError(errno.EIO, "log is shorter than it was", os.fspath(self.stream.path))
            parts.append(data)
            offset += len(data)
            length -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class CursorState(NamedTuple):
    """Where a cursor stands, for a file.

    Attributes:
        position: In the log, bytes.
        messages, bytes: Selected messages before it, and their bytes.
        generation: Which writing of the log `position` belongs to.
        skipped: Bytes before `position` that were skipped, as long as what is pinned in them is not all delivered.
    """

    position: int = 0
    messages: int = 0
    bytes: int = 0
    generation: int = 0
    skipped: int = 0


class Window(NamedTuple):
    """A part of a log: what was made since then, and lay before that place.

    Attributes:
        generation: Which writing of the log `end` belongs to.
        end: Bytes.
        since: Unix nanoseconds by the program's clock; None where no chunk tells, which is everything.
    """

    generation: int
    end: int
    since: int | None


class Cursor:
    """A position in one stream's log, and how many selected messages lie before it."""

    __slots__ = ("bytes", "generation", "messages", "scanner", "stream")

    def __init__(self, stream: Stream, state: CursorState | None = None) -> None:
        start = state or CursorState(generation=stream.generation)
        self.stream = stream
        self.scanner = Scanner(stream.fd(), start.position)
        self.messages, self.bytes, self.generation = start.messages, start.bytes, start.generation

    @property
    def position(self) -> int:
        """Where in the log the cursor stands."""
        return self.scanner.position

    @property
    def state(self) -> CursorState:
        """What a new cursor needs to go on from here."""
        return CursorState(self.position, self.messages, self.bytes, self.generation)

    def frames(self, limit: int) -> Iterator[Frame]:
        """Frames from here on that are whole within the log's first `limit` bytes."""
        self.refresh()
        try:
            yield from self.scanner.frames(limit)
        except FormatError as error:
            # These frames were whole once: somebody, or a disk, has changed the log.
            raise OSError(errno.EIO, f"log is damaged: {error}", os.fspath(self.stream.path)) from error

    def refresh(self) -> None:
        """Use the log as it is now: opened again; or written anew, then from its beginning.

        Then its frames lie at other places, and some that said nothing new, or nothing at all, are gone: which ones
        were delivered cannot be told. Viewers know the chunks that they have by their ids.
        """
        if self.generation == self.stream.generation:
            self.scanner.use(self.stream.fd())
            return
        self.scanner = Scanner(self.stream.fd())
        self.messages, self.bytes, self.generation = 0, 0, self.stream.generation


@dataclass(slots=True)
class _Pinned:
    """What of a log is to be delivered before all else.

    Attributes:
        frames: None while it is still to be seen what they are: what is pinned between `start` and the cursor.
        start: Where what the cursor skipped begins; None if it skipped nothing.
    """

    generation: int
    frames: list[Frame] | None
    start: int | None = None


@dataclass(slots=True)
class _History:
    """What of a log is still to be delivered backwards.

    Attributes:
        blocks: Where each begins, oldest first; the last one ends at `end`.
        pinned: Frames in it that were delivered already, by their places.
        messages, bytes: What is left.
    """

    generation: int
    blocks: list[int]
    end: int
    pinned: frozenset[int]
    messages: int
    bytes: int


class Feed:
    """The frames of a selection, from all its logs, each in order; one cursor a log.

    Not guaranteed: any order between logs; after `newest_first`, any but that of frames within a block. One task may
    wait in `next` at a time.
    """

    def __init__(self, hub: Hub, selection: Selection) -> None:
        self.hub = hub
        self.selection = selection
        self.delivered_messages = 0
        self.skipped_messages = 0
        self._cursors: dict[str, Cursor] = {}
        self._first: dict[str, _Pinned] = {}
        self._history: dict[str, _History] = {}
        self._turn = 0
        self._streams: list[Stream] = []
        self._shape = -1

    def streams(self) -> list[Stream]:
        """The streams that the selection reads just now, oldest first."""
        if self._shape != self.hub.shape:
            self._shape = self.hub.shape
            self._streams = [stream for stream in self.hub.streams.values() if self.selection.takes(stream)]
        return self._streams

    async def next(self, max_bytes: int = 1 << 20) -> Batch | None:
        """The next frames, as soon as there are any.

        Args:
            max_bytes: Frames of at most so many bytes together; a single longer one comes alone.

        Returns:
            The frames; None when every selected stream is complete and delivered, and none can join any more.

        Raises:
            OSError: a log cannot be read.
        """
        while True:
            seen = self.hub.version
            batch = await self.take(max_bytes)
            if batch is not None or self.finished:
                return batch
            await self.hub.wait_change(seen)

    async def take(self, max_bytes: int = 1 << 20) -> Batch | None:
        """The next frames if there are any now. Others run meanwhile, however much that is not selected lies before.

        Args:
            max_bytes: As in `next`; what takes longer than HOLD_S to walk comes in smaller batches.

        Raises:
            OSError: a log cannot be read.
        """
        passing = True
        while passing:
            await trio.lowlevel.checkpoint()  # before a cursor moves: who is cancelled has lost nothing
            passing = False
            if self._first:
                await self._look_again()
            streams = self.streams()
            for index in range(len(streams)):  # take turns, so that a busy log does not starve the others
                stream = streams[(self._turn + index) % len(streams)]
                batch = self._from(stream, max_bytes)
                if batch is not None:
                    self._turn = (self._turn + index + 1) % len(streams)
                    if batch.frames:
                        return batch
                    passing = True
                    break
            if not passing and self._history:
                passing = True
                if (batch := self._back()) is not None:
                    return batch
        return None

    def _from(self, stream: Stream, max_bytes: int) -> Batch | None:
        """The next frames of one log, none if the cursor has only passed some that are not selected.

        Returns:
            None when the cursor stands where the log ends.
        """
        if stream.id in self._first and (batch := self._pinned(stream, max_bytes)) is not None:
            return batch
        cursor = self._cursor(stream)
        if cursor.generation == stream.generation and cursor.position >= stream.data_end:
            return None
        cursor.refresh()
        start = cursor.position
        frames = self._walk(cursor, self.selection.stores(stream), max_bytes)
        if cursor.position == start:
            return None
        if frames:
            cursor.messages += len(frames)
            cursor.bytes += sum(frame.length + FRAME_HEADER_SIZE for frame in frames)
            self.delivered_messages += len(frames)
        return Batch(stream, frames, start, cursor.position, stream.source())

    def _pinned(self, stream: Stream, max_bytes: int) -> Batch | None:
        """The next of the frames that come before all else."""
        pinned = self._first.pop(stream.id)
        if pinned.generation != stream.generation:
            # The log was written anew and they lie elsewhere: deliver everything rather than look for them.
            self._cursors[stream.id] = Cursor(stream)
            return None
        frames = pinned.frames
        if not frames:
            return None
        count = size = 0
        for frame in frames:
            size += frame.end - frame.start
            if count and size > max_bytes:
                break
            count += 1
        if frames[count:]:
            self._first[stream.id] = replace(pinned, frames=frames[count:])
        position = self._cursor(stream).position
        return Batch(stream, frames[:count], position, position, stream.source())

    def _back(self) -> Batch | None:
        """The newest block of history that is left, of the log that has the most of them; None if it held nothing."""
        name = max(self._history, key=lambda one: len(self._history[one].blocks))
        history, stream = self._history[name], self.hub.streams.get(name)
        if stream is None or stream.generation != history.generation:
            del self._history[name]
            if stream is not None:
                self._cursors[name] = Cursor(stream)  # written anew: as in `_pinned`
            return None
        start, end = history.blocks.pop(), history.end
        wanted = self.selection.stores(stream)
        cursor = Cursor(stream, CursorState(start, generation=history.generation))
        frames = [
            frame for frame in cursor.frames(end)
            if (wanted is None or frame.store in wanted) and frame.start not in history.pinned
        ]
        history.end = start
        history.messages -= len(frames)
        history.bytes -= sum(frame.end - frame.start for frame in frames)
        self.delivered_messages += len(frames)
        if not history.blocks:
            del self._history[name]
        return Batch(stream, frames, start, end, stream.source()) if frames else None

    def _cursor(self, stream: Stream) -> Cursor:
        cursor = self._cursors.get(stream.id)
        if cursor is None:
            cursor = self._cursors[stream.id] = Cursor(stream)
        elif cursor.stream is not stream:  # a file that is read in place was opened again; its generation says if anew
            cursor = self._cursors[stream.id] = Cursor(stream, cursor.state)
        return cursor

    def _walk(self, cursor: Cursor, wanted: set[bytes] | None, max_bytes: int) -> list[Frame]:
        """Selected frames of the next `max_bytes`, or of the next HOLD_S; a frame longer than that comes alone."""
        end = cursor.stream.data_end
        limit = min(end, cursor.position + max_bytes + FRAME_HEADER_SIZE)
        until = time.monotonic() + HOLD_S
        start = cursor.position
        frames = []
        for frame in cursor.frames(limit):
            if wanted is None or frame.store in wanted:
                frames.append(frame)
            if time.monotonic() >= until:
                break
        if cursor.position == start and limit < end:
            for frame in cursor.frames(end):
                if wanted is None or frame.store in wanted:
                    frames.append(frame)
                break
        return frames

    @property
    def finished(self) -> bool:
        """Everything selected has been delivered, and nothing can join."""
        if self.selection.open_ended:
            return False
        streams = self.streams()
        return not self._history and all(stream.complete and self._delivered(stream) for stream in streams)

    def _delivered(self, stream: Stream) -> bool:
        if stream.id in self._first:
            return False
        cursor = self._cursors.get(stream.id)
        if cursor is None:
            return stream.data_end <= 0
        return cursor.generation == stream.generation and cursor.position >= stream.data_end

    @property
    def caught_up(self) -> bool:
        """Everything that is in the logs now has been delivered."""
        return not self._history and all(self._delivered(stream) for stream in self.streams())

    def lag(self) -> tuple[int, int]:
        """(messages, bytes) that are selected, in the logs, and not yet taken from this feed."""
        messages = size = 0
        for stream in self.streams():
            wanted = self.selection.stores(stream)
            cursor = self._cursors.get(stream.id)
            if wanted is None:
                total, total_bytes = stream.messages, max(0, stream.data_end - 12)
                done_bytes = max(0, cursor.position - 12) if cursor else 0
            else:
                chosen = [stats for raw, stats in stream.stores.items() if raw in wanted]
                total, total_bytes = sum(s.messages for s in chosen), sum(s.bytes for s in chosen)
                done_bytes = cursor.bytes if cursor else 0
            messages += max(0, total - (cursor.messages if cursor else 0))
            size += max(0, total_bytes - done_bytes)
        return (messages + sum(history.messages for history in self._history.values()),
                size + sum(history.bytes for history in self._history.values()))

    def cursors(self) -> dict[str, CursorState]:
        """Where every cursor stands, for `seek`; none while history is delivered backwards: they do not tell of it."""
        if self._history:
            return {}
        found = {name: cursor.state for name, cursor in self._cursors.items()}
        for name, pinned in self._first.items():
            if pinned.start is not None and pinned.generation == found[name].generation:
                found[name] = found[name]._replace(skipped=found[name].position - pinned.start)
        return found

    def seek(self, cursors: dict[str, CursorState]) -> None:
        """Go on where `cursors` stood; streams that are not in it start at their beginning.

        Raises:
            OSError: a log is gone.
        """
        self._history.clear()
        self._first = {
            name: _Pinned(state.generation, None, max(0, state.position - state.skipped))
            for name, state in cursors.items()
            if state.skipped and name in self.hub.streams
        }
        self._cursors = {
            name: Cursor(self.hub.streams[name], state)
            for name, state in cursors.items()
            if name in self.hub.streams
        }
        self.delivered_messages = sum(cursor.messages for cursor in self._cursors.values())

    def rewind(self) -> None:
        """Start again at the beginning of everything."""
        self._first.clear()
        self._history.clear()
        self._cursors.clear()
        self.delivered_messages = 0

    async def skip_to_now(self) -> int:
        """Move every cursor to the end of its log; store infos, blueprints and static chunks are delivered first.

        Returns:
            The number of messages skipped.

        Raises:
            OSError: a log cannot be read.
        """
        skipped = await self._skip(dict.fromkeys(stream.id for stream in self.streams()))
        self.skipped_messages += skipped
        return skipped

    async def last_seconds(self, seconds: float) -> dict[str, Window]:
        """What was made last, of all that is in the logs at this moment; for `skip_to`.

        Counted back from a log's own newest chunk: no two programs need agree on the time, since the clock of chunk ids
        is set when its program starts, and stands while the machine sleeps. A log that ended before others did, by the
        time of this machine, has so much less of them.

        Args:
            seconds: How many.

        Raises:
            OSError: a log cannot be read.
        """
        now = time.time()
        logs = [(stream, stream.generation, stream.data_end, stream.ended_at or now) for stream in self.streams()]
        latest = max((over for *_, over in logs), default=now)
        windows = {}
        for stream, generation, end, over in logs:
            made = await self._look(stream, partial(newest, end=end, wanted=self.selection.stores(stream)))
            since = None if made is None else made - int((seconds - (latest - over)) * 1e9)
            windows[stream.id] = Window(generation, end, since)
        return windows

    async def skip_to(self, windows: Mapping[str, Window]) -> int:
        """Move every cursor to where its window begins; what is pinned before is delivered first.

        Returns:
            The number of messages skipped.

        Raises:
            OSError: a log cannot be read.
        """
        return await self._skip({name: window for name, window in windows.items() if window.since is not None})

    async def _skip(self, places: Mapping[str, Window | None]) -> int:
        """Move the cursors of these logs to where their windows begin, or to the end; returns how much it skipped."""
        skipped = 0
        for stream in list(self.streams()):
            if stream.id in places:
                _, found = await self._pass(stream, places[stream.id])
                skipped += found.messages - len(found.pinned)
        return skipped

    async def newest_first(self) -> None:
        """Deliver from now on what is pinned, then what comes, and, while nothing comes, what was there: from its
        newest block to its oldest. In a block frames keep their order.

        Raises:
            OSError: a log cannot be read.
        """
        for stream in list(self.streams()):
            state, found = await self._pass(stream)
            pinned = frozenset(frame.start for frame in found.pinned)
            left = found.bytes - sum(frame.end - frame.start for frame in found.pinned)
            if found.messages > len(pinned):
                self._history[stream.id] = _History(
                    state.generation, found.blocks, found.position, pinned, found.messages - len(pinned), left)

    async def _pass(self, stream: Stream, window: Window | None = None) -> tuple[CursorState, Skimmed]:
        """Move a cursor to the end of its log, or to where a window begins; what is pinned comes next, after what still
        is to from before.
        """
        state, found = await self._skim(stream, window)
        start: int = state.position
        frames: list[Frame] | None = found.pinned
        left = self._first.pop(stream.id, None)
        if left is not None and left.start is not None and left.generation == state.generation:
            start, frames = left.start, None if left.frames is None else [*left.frames, *found.pinned]
        if frames != []:
            self._first[stream.id] = _Pinned(state.generation, frames, start)
        self._cursors[stream.id] = Cursor(stream, CursorState(
            found.position, state.messages + found.messages, state.bytes + found.bytes, state.generation))
        self.delivered_messages += len(found.pinned)
        return state, found

    async def pinned_first(self) -> None:
        """Deliver store infos, blueprints and static chunks of long logs before all else (and in their turn again).

        Raises:
            OSError: a log cannot be read.
        """
        for stream in list(self.streams()):
            if stream.data_end - self._cursor(stream).position > LONG:
                state, found = await self._skim(stream)
                if found.pinned:
                    self._first[stream.id] = _Pinned(state.generation, found.pinned)

    async def _skim(self, stream: Stream, window: Window | None = None) -> tuple[CursorState, Skimmed]:
        """See what lies between cursor and end, or before a window; returns where the cursor stood, too."""
        while True:
            cursor = self._cursor(stream)
            cursor.refresh()
            state = cursor.state
            end, since = stream.data_end, None
            if window is not None:
                since = window.since
                if window.generation == state.generation:
                    end = window.end
            found = await self._see(stream, state.position, end, since)
            if stream.generation == state.generation:
                return state, found

    async def _look_again(self) -> None:
        """See what is pinned in what was skipped before `seek`."""
        while new := [one for one in self.streams() if one.id in self._first and self._first[one.id].frames is None]:
            stream, pinned = new[0], self._first[new[0].id]
            frames: list[Frame] = []
            if pinned.generation == stream.generation:  # else see `_pinned`
                end = min(self._cursor(stream).position, stream.data_end)
                frames = (await self._see(stream, pinned.start or 0, end)).pinned
            pinned.frames = frames

    async def _see(self, stream: Stream, start: int, end: int, since: int | None = None) -> Skimmed:
        """See what lies between two places of a log."""
        wanted = self.selection.stores(stream)
        return await self._look(stream, partial(skim, position=start, end=end, wanted=wanted, since=since))

    async def _look(self, stream: Stream, walk: Callable[[int], Generator[None, None, T]]) -> T:
        """Walk a log in a thread, as long as nobody wants anything else of this task."""
        fd = os.dup(stream.fd())  # the stream may be completed, and closed, meanwhile
        try:
            steps = walk(fd)
            while (found := await trio.to_thread.run_sync(_some, steps)) is None:
                pass
            return found[0]
        except FormatError as error:
            raise OSError(errno.EIO, f"log is damaged: {error}", os.fspath(stream.path)) from error
        finally:
            os.close(fd)


def _some(steps: Generator[None, None, T]) -> tuple[T] | None:
    """A part of a walk, SLICE_S long: a thread cannot be stopped. Returns what it found at its end."""
    until = time.monotonic() + SLICE_S
    while time.monotonic() < until:
        try:
            next(steps)
        except StopIteration as end:
            return (end.value,)
    return None

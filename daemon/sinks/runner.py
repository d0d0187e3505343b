"""Outputs: what every sink has in common, and the set of them.

    starting -> following -> complete
                  | ^   \\--> failed      (SinkFailed: trying again would not help)
                  v |
               retrying                   (OSError, SinkRetry: backoff, then deliver() again)
    any of them -> detached               (the user said so)

Rules: each sink is one task; its errors, bugs too, end here, in its state and `last_error`, and concern nobody else;
what a sink is survives the daemon (sinks/<id>.json), what it has delivered is its own affair.
"""

from __future__ import annotations

import abc
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, ClassVar

import trio

from daemon.feed import Feed
from daemon.fence import HINT, Fence
from daemon.hub import FILES_KEPT_S, Hub
from daemon.selection import FILE, Selection
from daemon.spool.log import read_json, write_atomically
from daemon.wire.rrd import FormatError

log = logging.getLogger("rrd.sinks")

BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 5.0
KEPT_DONE = 50
"""Sinks that are done and still listed."""

ACTIVE = ("starting", "following", "retrying")


class SinkRetry(Exception):
    """It did not work now, and may later. The message goes to `last_error`."""


class SinkFailed(Exception):
    """It will not work. The message goes to `last_error`."""


class Sink(abc.ABC):
    """One output with its cursors.

    Args:
        hub: Where the streams are.
        selection: What it is fed with.
        target: Where to, as users know it: a path, a URL.
        id: Given when it is restored.
    """

    kind: ClassVar[str]

    def __init__(self, hub: Hub, selection: Selection, target: str, *, id: str = "") -> None:  # noqa: A002 - its name
        self.hub = hub
        self.selection = selection
        self.target = target
        self.id = id or self.draw_id()
        self.feed: Feed = hub.feed(selection)
        self.state = "starting"
        self.last_error = ""
        self.created_at = time.time()
        self.done = trio.Event()
        self.saved: Callable[[], None] = lambda: None
        """Writes `options()` to the sink's file; set by the SinkSet."""

    def draw_id(self) -> str:
        """An id to be typed by people: so short that another sink may have it."""
        return f"{self.kind}-{secrets.token_hex(2)}"

    def hold(self) -> None:  # noqa: B027 - most have nothing to hold
        """Take hold of the target, so that whoever asks for the sink knows at once whether it can be.

        Raises:
            OSError: it cannot be.
        """

    def let_go(self) -> None:  # noqa: B027
        """Take back what `hold` did."""

    @abc.abstractmethod
    async def deliver(self) -> None:
        """Deliver until there is nothing left that could come.

        Raises:
            OSError, SinkRetry: not now; called again after a while.
            SinkFailed: never.
        """

    async def detached(self) -> None:  # noqa: B027 - most sinks just stop
        """Tidy up after `deliver` was cancelled because the user detached the sink.

        Raises:
            OSError: it could not be done.
        """

    def reads(self) -> Set[str]:
        """Ids of the streams that it was given by name."""
        return self.selection.streams

    def options(self) -> dict[str, Any]:
        """What `restore` needs besides id, target and selection; JSON."""
        return {}

    @classmethod
    @abc.abstractmethod
    def restore(cls, hub: Hub, selection: Selection, target: str, id: str,  # noqa: A002
                options: Mapping[str, Any]) -> Sink:
        """Make it again after a restart of the daemon.

        Raises:
            KeyError, TypeError, ValueError: `options` are damaged.
        """

    def following(self) -> None:
        """Say that the output works: called by `deliver` once it does."""
        if self.state in ("starting", "retrying"):
            if self.state == "retrying":
                log.info("sink %s: %s works again", self.id, self.target)
            self.state = "following"
            self.last_error = ""
            self.hub.changed()

    def lag(self) -> tuple[int, int]:
        """(messages, bytes) that it has still to deliver of what is there."""
        return self.feed.lag()

    @property
    def delivered_messages(self) -> int:
        """Messages it has delivered."""
        return self.feed.delivered_messages

    @property
    def skipped_messages(self) -> int:
        """Messages it left out, as it was told to."""
        return self.feed.skipped_messages

    def status(self) -> dict[str, Any]:
        """What `rrd status` shows of it."""
        messages, size = self.lag() if self.state in ACTIVE else (0, 0)
        return {
            "id": self.id,
            "kind": self.kind,
            "target": self.target,
            "state": self.state,
            "source": self.selection.text,
            "lag_messages": messages,
            "lag_bytes": size,
            "delivered_messages": self.delivered_messages,
            "skipped_messages": self.skipped_messages,
            "last_error": self.last_error,
            "created_at": self.created_at,
        }


class SinkSet:
    """All sinks of a daemon, and their files.

    Args:
        directory: Where `<id>.json` lie.
        nursery: Owns the sinks' tasks.
        kinds: Sink classes by kind, for `restore`.
    """

    def __init__(self, hub: Hub, directory: Path, nursery: trio.Nursery, kinds: Mapping[str, type[Sink]]) -> None:
        self.hub = hub
        self.directory = directory
        self.kinds = kinds
        self.sinks: dict[str, Sink] = {}
        self._nursery = nursery
        self._scopes: dict[str, trio.CancelScope] = {}
        self._idle: dict[str, trio.Event] = {}
        """Set when a sink's task has ended: until then a thread of it may still be writing."""
        self._detaching: set[str] = set()

    def active(self) -> list[Sink]:
        """Sinks that deliver, or try to."""
        return [sink for sink in self.sinks.values() if sink.state in ACTIVE]

    def add(self, sink: Sink) -> None:
        """Take a sink in and start it.

        It gets another id if its own is in use. It is written down first, so that a daemon that dies in between leaves
        no target that nobody owns.

        Raises:
            OSError: its target cannot be, or its file cannot be written; it is not taken in.
        """
        while sink.id in self.sinks or self._path(sink).exists():
            sink.id = sink.draw_id()
        sink.saved = lambda: self._save(sink)
        self._save(sink)
        try:
            sink.hold()
            self._save(sink)
        except OSError:
            sink.let_go()
            self._path(sink).unlink(missing_ok=True)
            raise
        self._start(sink)

    def _start(self, sink: Sink) -> None:
        self.sinks[sink.id] = sink
        self._scopes[sink.id] = trio.CancelScope()
        self._idle[sink.id] = trio.Event()
        self._nursery.start_soon(self._run, sink, self._scopes[sink.id])
        self.hub.changed()

    def restore(self) -> None:
        """Start the sinks of an earlier run again."""
        for path in sorted(self.directory.glob("*.json")):
            try:
                found = read_json(path)
                kind = self.kinds[found["kind"]]
                selection = Selection.from_json(found["selection"])
                self.hub.witness(selection.live_since)
                sink = kind.restore(self.hub, selection, found["target"], path.stem, found["options"])
                sink.created_at = float(found["created_at"])
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                log.error("cannot restore sink %s: %r", path.stem, error)
                continue
            sink.saved = lambda sink=sink: self._save(sink)  # type: ignore[misc]
            self._start(sink)

    def _path(self, sink: Sink) -> Path:
        return self.directory / f"{sink.id}.json"

    def _save(self, sink: Sink) -> None:
        write_atomically(self._path(sink), json.dumps({
            "kind": sink.kind,
            "target": sink.target,
            "selection": sink.selection.to_json(),
            "options": sink.options(),
            "created_at": sink.created_at,
        }))

    async def _open_files(self, sink: Sink) -> None:
        """Open the files that a sink of an earlier run reads.

        Raises:
            OSError: they cannot be read now.
            SinkFailed: they are no .rrd any more.
        """
        for name in sorted(sink.selection.streams - self.hub.streams.keys()):
            if name.startswith(FILE):
                try:
                    await self.hub.open_file(Path(name.removeprefix(FILE)))
                except FormatError as error:
                    raise SinkFailed(f"{error}: {name.removeprefix(FILE)}") from error

    async def _run(self, sink: Sink, scope: trio.CancelScope) -> None:
        try:
            with Fence(f"sink {sink.id}") as fence, scope:
                await self._deliver(sink)
            if fence.fault:
                sink.last_error = f"{fence.fault}; {HINT}"
                self._done(sink, "failed")
        finally:
            self._idle.pop(sink.id).set()

    async def _deliver(self, sink: Sink) -> None:
        backoff = BACKOFF_FIRST_S
        while True:
            try:
                await self._open_files(sink)
                await sink.deliver()
            except (OSError, SinkRetry) as error:
                message = describe(error)
                if sink.state == "following":
                    backoff = BACKOFF_FIRST_S
                if message != sink.last_error:
                    log.warning("sink %s: %s; trying again", sink.id, message)
                sink.state, sink.last_error = "retrying", message
                self.hub.changed()
                await trio.sleep(backoff)
                backoff = min(2 * backoff, BACKOFF_MAX_S)
            except SinkFailed as error:
                log.error("sink %s has failed: %s", sink.id, error)
                sink.last_error = str(error)
                self._done(sink, "failed")
                return
            else:
                self._done(sink, "complete")
                return

    def _done(self, sink: Sink, state: str) -> None:
        sink.state = state
        with contextlib.suppress(OSError):
            self._path(sink).unlink()
        self._scopes.pop(sink.id, None)
        self.hub.feeds.discard(sink.feed)
        if any(name.startswith(FILE) for name in sink.reads()):
            self.close_files_later()
        sink.done.set()
        done = [one.id for one in self.sinks.values() if one.state not in ACTIVE]
        for name in done[:-KEPT_DONE]:
            del self.sinks[name]
        self.hub.changed()

    def close_files_later(self) -> None:
        """Have files that are read in place let go of, when nobody reads them any more."""
        self._nursery.start_soon(self._close_files)

    async def _close_files(self) -> None:
        await trio.sleep(FILES_KEPT_S)
        self.hub.close_files(frozenset().union(*(sink.reads() for sink in self.active())))

    async def detach(self, sink: Sink) -> None:
        """Stop a sink for good; a file is completed with what it has. Cancelled meanwhile, it goes on as before.

        Raises:
            OSError: its file could not be completed.
        """
        while sink.id in self._detaching:
            await self.hub.wait_change(self.hub.version)
        if sink.state not in ACTIVE:
            return
        self._detaching.add(sink.id)
        idle, again = self._idle[sink.id], False
        self._scopes[sink.id].cancel()
        try:
            with trio.CancelScope(shield=True):
                await idle.wait()
            if sink.state in ACTIVE:  # not delivered, or failed, in the same moment
                await sink.detached()
        except OSError as error:
            sink.last_error = describe(error)
            raise
        except trio.Cancelled:
            again = sink.state in ACTIVE
            raise
        finally:
            self._detaching.discard(sink.id)
            self.hub.changed()  # whoever waits above
            if again:
                self._start(sink)
            elif sink.state in ACTIVE:
                self._done(sink, "detached")


def describe(error: BaseException) -> str:
    """An error for people: what, and last where; of two names (a link, a renaming) the one that was to be made."""
    if isinstance(error, OSError) and error.strerror:
        where = error.filename2 or error.filename
        return f"{error.strerror}: {where}" if where else error.strerror
    return str(error) or type(error).__name__

"""A viewer, or any Rerun server, as an output: what is in the logs goes there as gRPC, and goes again when it must.

    connect -> handshake (viewers/probe.py) -> who is it? -> WriteMessages -> half-close, OK = checkpoint
        -> WriteMessages ...
        the process that was there before: on from the last checkpoint; anyone else: from the beginning

Rules: nothing is sent before the handshake; each message arrives at least once, those of one stream in order; what
may not have arrived is sent again, a viewer ignores a chunk it has (by chunk id); a reader that is slow, stopped or
gone is waited for, and costs one batch of memory and nobody's time. A checkpoint is the server's OK to a call: it has
read every message before it. A viewer that was started or found here belongs to this sink: when its process is gone the
sink is at its end; a URL (`rrd connect`) is waited for, for as long as it takes.

Not guaranteed: that the viewer could decode what it took; the versions are compared for that, and the user told.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any

import trio

from daemon.channel import INSTANCE, PIECE, Channel, ChannelBroken, send_batch, unwrap
from daemon.feed import CursorState
from daemon.hub import Hub
from daemon.processes import boot_id
from daemon.selection import Selection
from daemon.sinks.runner import Sink, SinkFailed, SinkRetry
from daemon.stream import Stream
from daemon.viewers.discover import alive, server_at
from daemon.viewers.probe import Answer, Unreachable, connect, handshake
from daemon.viewers.process import ends_within
from daemon.viewers.version import Fit, Version, compare
from daemon.wire.grpc import WRITE_MESSAGES, Address, ConnectionFailed, Data, Finished, Status, parse_url

log = logging.getLogger("rrd.viewer")

CHECKPOINT_BYTES = 64 << 20
"""After so much the server's word is asked for: no more than this is sent twice to a server that was only cut off."""
CHECKPOINT_S = 2.0
"""And after so long, when something was sent."""
HANDSHAKE_S = 10.0
"""A viewer that is just drawing its first frame, on a busy machine, answers late."""
GOING_S = 1.0
"""A viewer that is being closed loses its sockets a little before its process ends."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")

Process = tuple[int, float]
"""pid and start (as discover.Owner has it): names a process, as long as the machine is not booted again."""


class ViewerSink(Sink):
    """One viewer or server.

    Args:
        address: Where it listens.
        process: The process it is, for viewers that were found or started here.
        from_now: Leave out what was logged before a viewer joins (but for what is pinned).
        newest_first: Send what comes before what was there, and that from its newest to its oldest.
        max_lag: Skip ahead when more than this behind, seconds; None is never.
        anyone: Feed it on this machine even if it is another user's.
        spawned: We started it.
        version: The viewer's, where the address alone does not say.
    """

    kind = "viewer"

    def __init__(
        self,
        hub: Hub,
        selection: Selection,
        address: Address,
        *,
        process: Process | None = None,
        from_now: bool = False,
        newest_first: bool = False,
        max_lag: float | None = None,
        anyone: bool = False,
        spawned: bool = False,
        version: Version | None = None,
        id: str = "",  # noqa: A002 - its name
    ) -> None:
        super().__init__(hub, selection, address.url, id=id)
        self.address = address
        self.process = process
        self.from_now = from_now
        self.newest_first = newest_first
        self.max_lag = max_lag
        self.anyone = anyone
        self.spawned = spawned
        self.version = version
        self.closed = False
        """The viewer that this sink belongs to is gone."""
        self.warning = ""
        self._gone = False
        """Its process was one of an earlier boot."""
        self._judged: set[str] = set()
        self._peer: object = None
        """Who has what `_confirmed` says: a process, an rrd daemon's instance, or None for nobody."""
        self._confirmed: dict[str, CursorState] = {}
        self._sent_bytes = 0
        self._rate: tuple[float, int] = (time.monotonic(), 0)
        self._behind_since: float | None = None

    # -- what survives the daemon ------------------------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        """See Sink."""
        return {
            "boot": boot_id(),
            "process": self.process,
            "from_now": self.from_now,
            "newest_first": self.newest_first,
            "max_lag": self.max_lag,
            "anyone": self.anyone,
            "spawned": self.spawned,
            "version": self.version,
            "peer": self._peer,
            "confirmed": self._confirmed,
        }

    @classmethod
    def restore(cls, hub: Hub, selection: Selection, target: str, id: str,  # noqa: A002
                options: Mapping[str, Any]) -> ViewerSink:
        """See Sink."""
        process, version = options["process"], options["version"]
        sink = cls(
            hub, selection, parse_url(target), id=id,
            process=(int(process[0]), float(process[1])) if process else None,
            from_now=bool(options["from_now"]), newest_first=bool(options.get("newest_first")),
            max_lag=options["max_lag"], anyone=bool(options.get("anyone")), spawned=bool(options["spawned"]),
            version=(version[0], version[1], version[2]) if version else None,
        )
        peer = options["peer"]
        sink._peer = tuple(peer) if isinstance(peer, list) else peer
        if options.get("boot") != boot_id():  # nothing that ran then runs now, whatever has its pid
            sink._gone = process is not None
            sink._peer = None if isinstance(peer, list) else peer
        sink._confirmed = {name: CursorState(*state) for name, state in options["confirmed"].items()}
        return sink

    # -- running -----------------------------------------------------------------------------------------------------

    async def deliver(self) -> None:
        """See Sink."""
        if self._is_gone():
            self.closed = True
            return
        try:
            async with connect(self.address) as channel:
                answer = await handshake(channel, seconds=HANDSHAKE_S)
                peer = await self._identify(answer)
                self._check(answer)
                await self._take_up(peer)
                try:
                    await self._feed_calls(channel)
                except ChannelBroken as broken:
                    raise SinkRetry(f"{broken}: {self.target}") from broken
        except Unreachable as error:
            if self._is_gone():
                self.closed = True
                return
            raise SinkRetry(str(error)) from error
        except SinkRetry:
            if await self._goes_away():
                self.closed = True
                return
            raise

    def _is_gone(self) -> bool:
        return self._gone or (self.process is not None and not alive(*self.process))

    async def _goes_away(self) -> bool:
        """Whether the viewer is on its way out."""
        return self.process is not None and await ends_within(*self.process, seconds=GOING_S)

    def _check(self, answer: Answer) -> None:
        """See that it is somebody to be fed.

        Raises:
            SinkRetry: not now.
            SinkFailed: it is this daemon, or a viewer that would show nothing.
        """
        if answer.identity is not None and answer.identity.instance == INSTANCE:
            raise SinkFailed(f"this daemon itself listens there: {self.target}")
        if not answer.takes_streams:
            raise SinkRetry(f"waiting for a viewer, found {answer.describe()}: {self.target}")
        self.version = answer.version or self.version
        self._judged.clear()
        for stream in self.feed.streams():
            if self._judge(stream) is Fit.LOSES:
                raise SinkFailed(self.warning)

    def _judge(self, stream: Stream) -> Fit:
        """Compare the viewer's version with a stream's, and say what is wrong."""
        self._judged.add(stream.id)
        verdict = compare(stream.sdk_version, self.version)
        if verdict.message and not self.warning.startswith(verdict.message):
            self.warning = f"{verdict.message}; {verdict.hint}"
            log.warning("sink %s: %s", self.id, self.warning)
        return verdict.fit

    async def _take_up(self, peer: object) -> None:
        """Move the cursors to what this server has not been seen to have."""
        known = peer is not None and peer == self._peer
        if known and (self._confirmed or not self.newest_first):  # no position: in the middle of going backwards
            self.feed.seek(self._confirmed)
        elif self.from_now:
            self.feed.rewind()
            await self.feed.skip_to_now()
        else:
            self.feed.rewind()
            if self.newest_first:
                await self.feed.newest_first()
        self._peer = peer
        self._confirmed = self.feed.cursors()
        self._behind_since = None

    async def _identify(self, answer: Answer) -> object:
        """Who it is, so that it is known again; None if that cannot be told (another machine's viewer).

        Raises:
            SinkRetry: it is another user's.
            SinkFailed: it is not the viewer that this sink belongs to.
        """
        local = self.address.host in LOOPBACK
        found = await trio.to_thread.run_sync(server_at, self.address.port) if local else None
        if found is not None and not found.owner.mine and not self.anyone:
            raise SinkRetry(f"waiting for a viewer, found another user's: {found.describe()}: {self.target}")
        if answer.identity is not None:
            return answer.identity.instance
        if found is None:
            return self.process
        self.version = found.version or self.version
        if self.process is not None and found.owner.pid != self.process[0]:
            raise SinkFailed(f"the viewer's port is now {found.describe()}: {self.target}")
        return (found.owner.pid, found.owner.started) if found.owner.pid else None

    async def _feed_calls(self, channel: Channel) -> None:
        """Send, call after call, until everything is delivered.

        Raises:
            ChannelBroken: the connection is gone.
            SinkRetry: the server ended a call.
        """
        self.following()
        while True:
            if not await self._wait_for_data(channel):
                return
            call = _Call(channel)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(call.listen)
                    await self._fill(call)
                    await call.end()
                    nursery.cancel_scope.cancel()
            except BaseExceptionGroup as group:
                raise unwrap(group) from None
            if self._confirmed != (cursors := self.feed.cursors()):
                self._confirmed = cursors
                with contextlib.suppress(OSError):  # then more is sent again after a restart, no less
                    self.saved()
            self.following()

    async def _wait_for_data(self, channel: Channel) -> bool:
        """Wait until there is something to send, or nothing more will come (False), watching the connection meanwhile.

        Raises:
            ChannelBroken: the connection is gone.
        """
        watch = _Call(channel)
        more = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.listen)
                while self.feed.caught_up:
                    if self.feed.finished:
                        more = False
                        break
                    await self.hub.wait_change(self.hub.version)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise unwrap(group) from None
        return more

    async def _fill(self, call: _Call) -> None:
        """Send what there is, for as long as one call may last."""
        call.begin()
        sent, until = 0, trio.current_time() + CHECKPOINT_S
        while sent < CHECKPOINT_BYTES and trio.current_time() < until:
            if not self.feed.caught_up:
                await self.hub.pace.turn(self)
            batch = await self.feed.take(PIECE)
            if batch is None:
                if self.feed.finished:
                    return
                with trio.move_on_at(until):
                    await self.hub.wait_change(self.hub.version)
                continue
            if batch.stream.id not in self._judged:
                self._judge(batch.stream)
            if self._behind_since is None:
                self._behind_since = time.monotonic()
            self.hub.pace.spent(batch.size)
            self.feed.skipped_messages += await send_batch(call.channel, call.number, batch)
            call.check()
            sent += batch.size
            self._sent_bytes += batch.size
            await self._keep_up()

    async def _keep_up(self) -> None:
        """Skip ahead when it is too far behind, and that is wanted."""
        if self.feed.caught_up or self._behind_since is None:
            self._behind_since = None
        elif self.max_lag is not None and time.monotonic() - self._behind_since > self.max_lag:
            skipped = await self.feed.skip_to_now()
            self._behind_since = None
            if skipped:
                log.warning("sink %s was more than %g s behind: skipped %d messages", self.id, self.max_lag, skipped)

    # -- what is shown -----------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """See Sink; with the viewer's version, `warning` and bytes sent a second since the last look."""
        found = super().status()
        if self.closed and found["state"] == "complete":
            found["state"] = "closed"
        now = time.monotonic()
        then, bytes_then = self._rate
        found["rate_bytes_s"] = (self._sent_bytes - bytes_then) / max(now - then, 1e-3)
        self._rate = (now, self._sent_bytes)
        found["viewer_version"] = "{}.{}.{}".format(*self.version) if self.version else ""
        found["viewer_pid"] = self.process[0] if self.process else None
        found["warning"] = self.warning
        return found


class _Call:
    """One WriteMessages call, and the ear that is on the connection while it lasts."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.number = 0
        self._result: Finished | None = None
        self._finished = trio.Event()

    def begin(self) -> None:
        """Open the call.

        Raises:
            SinkRetry: the server takes no more calls on this connection.
        """
        try:
            self.number = self.channel.connection.start(WRITE_MESSAGES)
        except ConnectionFailed as error:
            raise SinkRetry(f"the viewer is going away: {error}") from error
        self.channel.poke()

    async def listen(self) -> None:
        """Take what the server says, until cancelled or the connection ends.

        Raises:
            ChannelBroken: it ended.
        """
        while True:
            events = await self.channel.receive()
            if not events:
                raise ChannelBroken(self.channel.broken)
            for event in events:
                if isinstance(event, Data):
                    self.channel.connection.acknowledge(event)
                elif isinstance(event, Finished) and event.call == self.number:
                    self._result = event
                    self._finished.set()

    def check(self) -> None:
        """See that the server has not ended the call.

        Raises:
            SinkRetry: it has.
        """
        if self._result is not None:
            raise SinkRetry(f"the viewer ended the stream: {self._result.message or self._result.status}")

    async def end(self) -> None:
        """Say that the call is complete, and wait for the server's word that it has read it all.

        Raises:
            SinkRetry: it says something else.
        """
        self.channel.connection.half_close(self.number)
        self.channel.poke()
        await self._finished.wait()
        assert self._result is not None
        if self._result.status != Status.OK:
            self.check()

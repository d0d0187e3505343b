"""A connection that speaks gRPC: the one place where wire/grpc.py meets a socket. Both sides use it.

    receive  <- socket -> Connection -> events
    send     -> Connection -> pump -> socket

Rules: one task writes (`pump`), so a call that is cancelled never leaves half a frame on the wire; whoever sends waits
while flow control says no or more than BUFFERED bytes are on their way, so a slow peer costs neither memory nor anyone
else's time; what the other side makes us say unasked (pings, windows) is bounded too. A peer that is gone shows as
ChannelBroken, everywhere and at once.
"""

from __future__ import annotations

import logging
import secrets
import socket
from typing import TypeAlias

import trio

from daemon.feed import Batch
from daemon.wire.grpc import Connection, ConnectionFailed, Event, envelope

log = logging.getLogger("rrd.grpc")

Buffer: TypeAlias = bytes | memoryview

INSTANCE = secrets.token_hex(8)
"""This process, for whoever asks who we are: a feeder can tell whether we have what it sent before."""
RECEIVE = 1 << 18
"""Bytes taken from the socket at once."""
BUFFERED = 1 << 20
"""Bytes on their way out before senders wait: two of these keep a fast socket busy."""
PIECE = 1 << 20
"""Bytes of a log read at once."""
WORTH_A_FRAME = 1 << 16
"""Payloads from this size on go out as they were read; shorter ones are joined first."""
UNREAD = 1 << 24
"""A peer that asks without reading the answers is cut off at this many bytes."""
FIRST = 16
GATHERED = 1024
"""Parts written with one call (IOV_MAX of Linux and macOS)."""
LAST_WORDS_S = 1.0
"""How long a peer that broke the protocol is given to read that it did."""

KEEPALIVE_IDLE_S = 30
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_COUNT = 6
"""A machine that has vanished is noticed after a minute and a half; a process that is merely stopped is left alone."""


class ChannelBroken(Exception):
    """The connection is gone, or of no further use. The message says how."""


def unwrap(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a nursery's body raised, where the nursery is an inner affair and its group says no more.

    Returns:
        The one exception, or the first where all are the same news (a broken connection shows in every task at once);
        else the group.
    """
    leaves: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        one = todo.pop()
        if isinstance(one, BaseExceptionGroup):
            todo += one.exceptions
        else:
            leaves.append(one)
    errors = [one for one in leaves if not isinstance(one, trio.Cancelled)]
    if len(errors) == 1 and len(leaves) == 1:
        return errors[0]
    if errors and len(errors) == len(leaves):
        told = [one for one in errors if not isinstance(one, ChannelBroken)]
        if len(told) <= 1:
            return told[0] if told else errors[0]
    return group


class Channel:
    """One connection.

    Args:
        stream: Carries the bytes; the channel owns it.
        connection: Our side of the protocol.
    """

    def __init__(self, stream: trio.abc.Stream, connection: Connection) -> None:
        self.connection = connection
        self._stream = stream
        self._waiting = trio.lowlevel.ParkingLot()
        self._idle = trio.lowlevel.ParkingLot()
        self._queued = 0
        self._writing = False
        self._broken = ""
        self.first = b""
        """What the other side said first: it tells who does not speak HTTP/2."""
        if isinstance(stream, trio.SocketStream):
            _keep_alive(stream)

    @property
    def broken(self) -> str:
        """Why nothing works any more, or empty."""
        return self._broken

    async def pump(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what there is to write, until cancelled or the connection breaks. Run exactly one."""
        task_status.started()
        while not self._broken:
            parts = self.connection.parts_to_send()
            if not parts:
                self._writing = False
                self._waiting.unpark_all()
                await self._idle.park()
                continue
            self._queued, self._writing = 0, True
            self._waiting.unpark_all()
            try:
                await self._write(parts)
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                self._break(_reason(error))

    async def _write(self, parts: list[Buffer]) -> None:
        """Write parts, without making one of them where the system can do that (sendmsg)."""
        if not isinstance(self._stream, trio.SocketStream):
            await self._stream.send_all(b"".join(parts))
            return
        done = 0
        while done < len(parts):
            sent = await self._stream.socket.sendmsg(parts[done : done + GATHERED])
            while done < len(parts) and sent >= len(parts[done]):
                sent -= len(parts[done])
                done += 1
            if sent:
                parts[done] = memoryview(parts[done])[sent:]

    def poke(self) -> None:
        """Have the pump look: the connection has something to say."""
        self._idle.unpark_all()

    async def flush(self) -> None:
        """Wait until everything said so far is with the kernel.

        Raises:
            ChannelBroken: the connection is gone.
        """
        await trio.lowlevel.checkpoint()
        while (self.connection.unsent or self._writing) and not self._broken:
            self.poke()
            await self._waiting.park()
        self._check()

    async def receive(self) -> list[Event]:
        """The next events; empty at the end of the connection.

        Raises:
            ChannelBroken: the connection is gone, or the other side broke the protocol.
        """
        while True:
            self._check()
            try:
                data = await self._stream.receive_some(RECEIVE)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._break(_reason(error))
                raise ChannelBroken(self._broken) from error
            if not data:
                self._break("the other side closed the connection")
                return []
            self.first = self.first or bytes(data[:FIRST])
            try:
                events = self.connection.receive_data(bytes(data))
            except ConnectionFailed as error:
                with trio.move_on_after(LAST_WORDS_S):
                    await self.flush()
                self._break(f"not HTTP/2 as it should be: {error}")
                raise ChannelBroken(self._broken) from error
            unsent = self.connection.unsent
            if unsent > UNREAD:
                self._break("the other side does not read what it asks for")
            elif unsent:
                self.poke()
            self._waiting.unpark_all()
            if events:
                return events
            # Pings and windows make no event.

    async def send(self, call: int, data: Buffer) -> None:
        """Send DATA of a call, as flow control and the peer's pace allow.

        Raises:
            ChannelBroken: the connection is gone, or the call was ended by the other side.
        """
        view = memoryview(data)
        while view:
            window = await self._room(call)
            self.connection.send_data(call, view[:window])
            self._queued += min(window, len(view))
            view = view[window:]
            self.poke()

    async def _room(self, call: int) -> int:
        while True:
            self._check()
            if not self.connection.is_open(call):
                raise ChannelBroken("the call was ended by the other side")
            if self._queued < BUFFERED and (window := self.connection.window(call)):
                return window
            await self._waiting.park()

    async def aclose(self) -> None:
        """Close the socket."""
        self._break("closed")
        await trio.aclose_forcefully(self._stream)

    def _break(self, reason: str) -> None:
        self._broken = self._broken or reason
        self._waiting.unpark_all()
        self._idle.unpark_all()

    def _check(self) -> None:
        if self._broken:
            raise ChannelBroken(self._broken)


async def send_batch(channel: Channel, call: int, batch: Batch) -> int:
    """Send a batch's frames as gRPC messages, big ones in pieces.

    Returns:
        How many frames gRPC cannot carry (longer than 2 GiB); they are passed over.

    Raises:
        ChannelBroken: the other side is gone.
        OSError: the log cannot be read.
    """
    passed_over = 0
    if len(batch.frames) > 1 or batch.frames[0].length <= PIECE:
        runs = {start: memoryview(batch.pread(start, length)) for start, length in batch.ranges()}
        out: list[bytes | memoryview] = []
        run, base = memoryview(b""), 0
        for frame in batch.frames:
            if frame.start in runs:
                run, base = runs[frame.start], frame.start
            out.append(envelope(frame.kind, frame.length))
            payload = run[frame.offset - base : frame.offset - base + frame.length]
            if frame.length < WORTH_A_FRAME:
                out.append(payload)
                continue
            await channel.send(call, b"".join(out))
            await channel.send(call, payload)
            out.clear()
        await channel.send(call, b"".join(out))
        return 0
    frame = batch.frames[0]
    try:
        await channel.send(call, envelope(frame.kind, frame.length))
    except ValueError as error:
        log.error("a message cannot be sent: %s", error)
        return passed_over + 1
    for offset in range(frame.offset, frame.offset + frame.length, PIECE):
        await channel.send(call, batch.pread(offset, min(PIECE, frame.offset + frame.length - offset)))
    return passed_over


def _reason(error: BaseException) -> str:
    cause = error if isinstance(error, OSError) else error.__cause__
    return (cause.strerror or str(cause)) if isinstance(cause, OSError) else str(error) or "the connection is gone"


def _keep_alive(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
    ):
        if hasattr(socket, name):
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

"""Programs that know nothing of rrd: Rerun's own gRPC service, answered by the daemon.

    WriteMessages call -> frames -> Hub.append (one stream, one log) -> OK
    ReadMessages call  <- pinned messages, then all there is, then what comes     (`rerun --connect`, remote viewers)
    Identify           <- who we are: a probe must not take us for a viewer       everything else: UNIMPLEMENTED

Rules: OK means that the data is in the spool: append comes before the answer; a fault ends its call and no other; a
program that is cut off ends its stream, and what had arrived whole is kept; a full disk holds back that program only
(its socket is not read), nothing is dropped; no thread and no queue for a connection. Nobody asks a program twice:
its SDK never connects again, so a connection is only ever closed by the other side, or when the daemon ends.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

import daemon
from daemon.channel import INSTANCE, PIECE, Channel, ChannelBroken, send_batch
from daemon.fence import Fence
from daemon.hub import Hub
from daemon.selection import Selection, recordings_of, resolve
from daemon.stream import Stream
from daemon.viewers.discover import Owner, listener, peer_owner
from daemon.wire.grpc import (
    EMPTY_MESSAGE,
    IDENTIFY,
    READ_MESSAGES,
    WRITE_MESSAGES,
    CallError,
    Connection,
    Data,
    Event,
    Finished,
    Frame,
    FrameReader,
    HalfClosed,
    Identity,
    Opened,
    Status,
    message,
)
from daemon.wire.logmsg import RECORDING, StoreInfo, parse_store_info
from daemon.wire.rrd import Kind, StreamHeader

log = logging.getLogger("rrd.grpc")

LOOPBACK = "127.0.0.1"
UNKNOWN_VERSION = (0, 23, 0)
"""The header's version for a stream that does not say whose it is: the oldest that speaks gRPC."""
COMPRESSION = 1
"""The header's option for LZ4: what SDKs write, whatever the messages do."""
RETRY_S = 10.0
"""How often a port that somebody else has is tried again."""
HTTP1_REFUSAL = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This is rrd's gRPC port: log to it with connect_grpc, or see `rrd serve` for a page.\n"
)
HTTP1_REQUEST = 1 << 16
_HTTP1_METHODS = (b"GET ", b"POST", b"HEAD", b"OPTI", b"PUT ")
_PREFACE = b"PRI "


@dataclass
class _Write:
    """A WriteMessages call in progress."""

    reader: FrameReader = field(default_factory=FrameReader)
    frames: list[Frame] = field(default_factory=list)
    stream: Stream | None = None


class GrpcServer:
    """The service on one port.

    Args:
        hub: Where streams go, and where readers are fed from.
        port: 0 is any free one.
        host: An address of this machine.
        newest_first: Readers get what comes before what was there, and that backwards, as `rerun --newest-first` does.
        on_contact: Told of programs that want a viewer, with their pid (0: unknown): each stream that begins, and each
            connection that closes without a word, as `rerun` makes one to see whether a viewer runs.

    Attributes:
        port: The port that is listened on, once it is.
        error: Why it is not, or empty.
        connections: How many there are.
    """

    def __init__(
        self,
        hub: Hub,
        port: int,
        *,
        host: str = LOOPBACK,
        newest_first: bool = False,
        on_contact: Callable[[int], None] | None = None,
    ) -> None:
        self.hub = hub
        self.host = host
        self.port = port
        self.newest_first = newest_first
        self.listening = False
        self.connections = 0
        self.error = ""
        self._on_contact = on_contact

    @property
    def url(self) -> str:
        """What programs are told: `connect_grpc(url)`; empty while there is none."""
        return f"rerun+http://{self.host}:{self.port}/proxy" if self.listening else ""

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and answer, until cancelled. A port that is taken is tried again; `error` says who has it."""
        started = False
        while True:
            try:
                listeners = await trio.open_tcp_listeners(self.port, host=self.host)
            except OSError as error:
                await self._explain(error)
                if not started:
                    task_status.started()
                    started = True
                await trio.sleep(RETRY_S)
                continue
            self.port = listeners[0].socket.getsockname()[1]
            self.error, self.listening = "", True
            log.info("gRPC on %s", self.url)
            if not started:
                task_status.started()
            try:
                await trio.serve_listeners(self._connection, listeners)
            finally:
                self.listening = False

    async def _explain(self, error: OSError) -> None:
        if error.errno == errno.EADDRINUSE:
            owner = await trio.to_thread.run_sync(listener, self.port)
            text = f"port {self.port} is taken by {owner.describe() if owner else 'somebody else'}"
        else:
            text = f"cannot listen on {self.host}:{self.port}: {error.strerror or error}"
        if text != self.error:
            log.error("no gRPC: %s", text)
        self.error = text

    async def _connection(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        try:
            with Fence("gRPC connection"):
                await self._converse(stream)
        finally:
            self.connections -= 1
            self.hub.reshaped()

    async def _converse(self, stream: trio.SocketStream) -> None:
        try:
            await _Peer(self, stream).run()
        except ChannelBroken as broken:
            log.info("connection ended: %s", broken)

    def contact(self, pid: int) -> None:
        """A program wants a viewer."""
        if self._on_contact is not None:
            self._on_contact(pid)


class _Peer:
    """One connection and its calls."""

    def __init__(self, server: GrpcServer, stream: trio.SocketStream) -> None:
        self._server = server
        self._hub = server.hub
        self._stream = stream
        self._writes: dict[int, _Write] = {}
        self._reads: dict[int, trio.CancelScope] = {}
        self._unary: set[int] = set()
        self._busy = trio.Lock()
        self._owner: Owner | None = None

    async def run(self) -> None:
        """Serve the connection to its end.

        Raises:
            ChannelBroken: it broke.
        """
        if not await self._speaks_http2():
            return
        self._channel = Channel(self._stream, Connection(client=False))
        self._connection = self._channel.connection
        reason = "the daemon stopped"
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self._channel.pump)
                while events := await self._receive():
                    async with self._busy:
                        for event in events:
                            await self._handle(event)
                        for call, write in list(self._writes.items()):
                            await self._append(call, write)
                    self._channel.poke()
                reason = "the program closed its connection"
                nursery.cancel_scope.cancel()
        finally:
            for write in self._writes.values():
                self._end(write, self._channel.broken or reason)
            await trio.aclose_forcefully(self._stream)

    async def _receive(self) -> list[Event]:
        # A broken connection is an ordinary end, and must not reach the nursery as a group.
        try:
            return await self._channel.receive()
        except ChannelBroken as broken:
            log.info("connection ended: %s", broken)
            return []

    async def _speaks_http2(self) -> bool:
        """Look at the first bytes without taking them; answer those who speak something else, and let them go."""
        sock = self._stream.socket
        await trio.lowlevel.checkpoint()
        try:
            first = await sock.recv(len(_PREFACE), trio.socket.MSG_PEEK)
        except OSError:
            first = b""
        if first and _PREFACE.startswith(first[: len(_PREFACE)]):
            return True
        if first in _HTTP1_METHODS:
            with contextlib.suppress(trio.BrokenResourceError):
                # What is left unread when a socket is closed resets it, and the answer is lost.
                await self._stream.receive_some(HTTP1_REQUEST)
                await self._stream.send_all(HTTP1_REFUSAL)
        elif first[:2] == b"\x01\x00":
            log.warning("a program with Rerun 0.22 or older tried to stream (raw TCP): 0.23 and newer are read")
        elif not first:
            self._server.contact(0)
        else:
            log.info("a connection that does not speak HTTP/2: %r", first)
        await trio.aclose_forcefully(self._stream)
        return False

    # ---- events

    async def _handle(self, event: Event) -> None:
        if isinstance(event, Data):
            await self._data(event)
        elif isinstance(event, Opened):
            self._opened(event)
        elif isinstance(event, HalfClosed):
            await self._half_closed(event.call)
        elif isinstance(event, Finished):
            write = self._writes.get(event.call)
            if write is not None:
                await self._append(event.call, write)
            self._drop(event.call, "the program gave its call up")
        # Closing: the client will start no more calls; those it has go on.

    def _opened(self, event: Opened) -> None:
        if event.timeout is not None:
            self._nursery.start_soon(self._deadline, event.call, event.timeout)
        if event.method == WRITE_MESSAGES:
            self._writes[event.call] = _Write()
            self._connection.bulk(event.call)
            self._connection.answer(event.call)
        elif event.method == READ_MESSAGES:
            self._reads[event.call] = trio.CancelScope()
        elif event.method == IDENTIFY:
            self._unary.add(event.call)
        else:
            self._connection.finish(event.call, Status.UNIMPLEMENTED, f"rrd does not implement {event.method}")

    async def _data(self, event: Data) -> None:
        self._connection.acknowledge(event)
        write = self._writes.get(event.call)
        if write is None:
            return
        write.reader.receive_data(event.data)
        try:
            while (frame := write.reader.next_frame()) is not None:
                write.frames.append(frame)
        except CallError as fault:
            log.warning("a program's call was refused: %s", fault)
            await self._append(event.call, write)
            self._connection.finish(event.call, fault.status, str(fault))
            self._drop(event.call, f"malformed: {fault}")

    async def _half_closed(self, call: int) -> None:
        write = self._writes.get(call)
        if write is not None:
            await self._append(call, write)
            if call not in self._writes:
                return
            if write.reader.at_boundary:
                self._connection.send_small(call, EMPTY_MESSAGE)
                self._connection.finish(call, Status.OK)
                self._drop(call, "the program ended it")
            else:
                self._connection.finish(call, Status.INVALID_ARGUMENT, "the call ended inside a message")
                self._drop(call, "the call ended inside a message")
        elif call in self._reads:
            self._nursery.start_soon(self._read, call, self._reads[call])
        elif call in self._unary:
            self._unary.discard(call)
            identity = Identity(daemon.__version__, os.getpid(), INSTANCE)
            self._connection.answer(call)
            self._connection.send_small(call, message(identity.encode()))
            self._connection.finish(call, Status.OK)

    async def _deadline(self, call: int, seconds: float) -> None:
        await trio.sleep(seconds)
        async with self._busy:  # not between frames that are being appended
            self._connection.finish(call, Status.DEADLINE_EXCEEDED, "the client's own deadline has passed")
            self._drop(call, "the program's deadline passed")
        self._channel.poke()

    def _drop(self, call: int, reason: str) -> None:
        write = self._writes.pop(call, None)
        if write is not None:
            self._end(write, reason)
        scope = self._reads.pop(call, None)
        if scope is not None:
            scope.cancel()
        self._unary.discard(call)
        self._connection.forget(call)

    # ---- writing

    async def _append(self, call: int, write: _Write) -> None:
        frames, write.frames = write.frames, []
        if not frames:
            return
        try:
            if write.stream is None:
                write.stream = await self._open(frames)
            await self._hub.append_wait(write.stream, [(frame.kind, frame.parts) for frame in frames])
        except OSError as error:
            log.error("%d messages of a program are lost: %s", len(frames), error)
            self._connection.finish(call, Status.INTERNAL, f"cannot be written: {error.strerror}")
            self._drop(call, f"cannot be written: {error.strerror}")

    async def _open(self, frames: list[Frame]) -> Stream:
        info = _first_info(frames)
        if self._owner is None:
            self._owner = await _owner_of(self._stream)
        owner = self._owner
        version = info.version if info is not None and info.version else None
        is_recording = info is not None and info.store.kind == RECORDING
        stream = self._hub.open_stream(
            kind="grpc",
            application_id=info.store.application_id if info is not None and is_recording else "",
            recording_id=info.store.recording_id if info is not None and is_recording else "",
            sdk="rerun-sdk {}.{}.{}".format(*version) if version else "",
            pid=owner.pid if owner else None,
            pid_started=owner.started if owner else None,
            program=owner.program if owner else "",
        )
        self._server.contact(owner.pid if owner else 0)
        stream.header = StreamHeader((*(version or UNKNOWN_VERSION), 0), COMPRESSION, 2)
        return stream

    def _end(self, write: _Write, reason: str) -> None:
        if write.stream is not None:
            if write.reader.pending:
                log.error("stream %s: %s, inside a message: %d bytes of it are lost",
                          write.stream.id, reason, write.reader.pending)
            self._hub.end_stream(write.stream, reason)

    # ---- reading

    async def _read(self, call: int, scope: trio.CancelScope) -> None:
        """Feed one reader until it goes away."""
        with scope:
            self._connection.answer(call)
            self._channel.poke()
            feed = self._hub.feed(self._selection())
            try:
                await (feed.newest_first() if self._server.newest_first else feed.pinned_first())
                while (batch := await feed.next(PIECE)) is not None:
                    await self._hub.pace.turn(feed)
                    self._hub.pace.spent(batch.size)
                    await send_batch(self._channel, call, batch)
                self._connection.finish(call, Status.OK)
            except ChannelBroken:
                pass
            except OSError as error:
                log.error("a reader cannot be fed: %s", error)
                self._connection.finish(call, Status.INTERNAL, str(error))
            self._channel.poke()
        self._reads.pop(call, None)

    def _selection(self) -> Selection:
        """What runs now and later; when nothing runs, the newest recording too."""
        streams = self._hub.streams
        terms = ["@live"]
        if not any(stream.kind != "file" and not stream.ended for stream in streams.values()) and recordings_of(
            streams.values()
        ):
            terms.append("@latest")
        return resolve(terms, streams, self._hub.moment())


def _first_info(frames: list[Frame]) -> StoreInfo | None:
    """What the first store info says; that of a recording rather than that of a blueprint."""
    found: StoreInfo | None = None
    for frame in frames:
        if frame.kind == Kind.STORE_INFO:
            try:
                info = parse_store_info(frame.payload())
            except (ValueError, UnicodeDecodeError):
                continue
            if info.store.kind == RECORDING:
                return info
            found = found or info
    return found


async def _owner_of(stream: trio.SocketStream) -> Owner | None:
    """The process at the other end, if it is on this machine."""
    try:
        local, remote = stream.socket.getsockname(), stream.socket.getpeername()
    except OSError:
        return None
    return await trio.to_thread.run_sync(peer_owner, local[:2], remote[:2])

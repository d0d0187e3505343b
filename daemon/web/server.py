"""HTTP and WebSocket on trio: connections, deadlines, limits. What is served is the handler's business.

h11 and wsproto do the protocols (both sans-IO), this file does the waiting. One task a connection, one request at a
time.

Rules:
* Nothing from outside makes memory grow: request heads, bodies and WebSocket messages are capped, and so is the number
  of connections; what goes out is sent piece by piece, and the next piece is read when the socket took the last.
* A client that is slow at sending its request is dropped (slow loris), one that is slow at reading costs its own task.
* Nothing that a client does or sends raises out of its own connection.
* A stop says goodbye to WebSockets (1001, going away) and cuts what is streaming: a cut body shows as cut.
"""

from __future__ import annotations

import errno
import http
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import h11
import trio
import wsproto
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from daemon.fence import Fence
from daemon.wire.http import HttpError, Request, parse_request

log = logging.getLogger("rrd.web")

MAX_HEAD = 64 << 10
"""Request line and headers. Browsers send all cookies of a host to all its ports: notebooks alone fill 8 KiB."""
MAX_BODY = 1 << 20
"""A request's body, or a WebSocket message: a page's cursors, 100 bytes a stream."""
SEND_S = 60.0
"""How long a client may take to make room for one piece of an ordinary answer."""
STALL_S = 900.0
"""The same for live data: a page whose tab is frozen. It resumes where it was when it comes back."""
GOODBYE_S = 1.0
"""How long a stop waits for clients' goodbyes."""
PING_S = 25.0
"""Proxies and tunnels drop what is silent for a minute."""
PIECE = 1 << 20
"""Bytes handed to the socket at once."""
UNSENT = 256 << 10
"""Bytes the kernel holds unsent before the socket counts as full. trio sets 16 KiB, which wakes us too often."""


@dataclass(frozen=True)
class Limits:
    """What a client may take its time with, and how many there may be.

    Attributes:
        connections: A browser takes up to 6 and a WebSocket a page. Beyond that, new ones are turned away.
        keep_alive_s: How long a connection may say nothing before a request. Browsers open some in advance.
        head_s: How long a request's head may take once it has begun.
        body_s: How long its body may take.
    """

    connections: int = 256
    keep_alive_s: float = 75.0
    head_s: float = 10.0
    body_s: float = 20.0


Headers = Sequence[tuple[str, str]]


class Gone(Exception):
    """The connection is over. Nothing is to be done about it."""


class Exchange:
    """One request and its answer.

    Attributes:
        request: What was asked.
        headers: Sent along with whatever answer is given.
        started: The answer's head has been sent.
    """

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self.request = request
        self.headers: list[tuple[str, str]] = []
        self.started = False
        self.status = 0

    async def body(self) -> bytes:
        """The request's body.

        Raises:
            HttpError: 413, it is longer than MAX_BODY.
            Gone: it did not come in time.
        """
        return await self._connection.read_body()

    async def reply(self, status: int, body: bytes, kind: str, headers: Headers = ()) -> None:
        """Answer with a body that is in hand."""
        await self.begin(status, [("Content-Type", kind), *headers], len(body))
        await self.send(body)
        await self.end()

    async def begin(self, status: int, headers: Headers = (), length: int | None = None) -> None:
        """Send an answer's head.

        Args:
            status: The status code.
            headers: Beside `self.headers`.
            length: Of the body, or None if it is not known yet: it is sent in chunks then.
        """
        everything = [*headers, *self.headers]
        if length is not None:
            everything.append(("Content-Length", str(length)))
        self.started = True
        self.status = status
        response = h11.Response(status_code=status, headers=everything, reason=reason_of(status))
        await self._connection.send_event(response)

    async def send(self, data: bytes | memoryview, *, patience: float = SEND_S) -> None:
        """Send a part of the body. HEAD requests get none.

        Args:
            data: Any length; it is passed on in pieces.
            patience: Seconds the client may take for each.

        Raises:
            Gone: it took longer, or hung up.
        """
        if self.request.method == "HEAD":
            return
        view = memoryview(data)
        for at in range(0, len(view), PIECE):
            await self._connection.send_event(h11.Data(data=view[at : at + PIECE]), patience)  # type: ignore[arg-type]

    async def end(self) -> None:
        """The answer is complete."""
        await self._connection.send_event(h11.EndOfMessage())

    @asynccontextmanager
    async def until_hung_up(self) -> AsyncIterator[None]:
        """Cancel the block when the client hangs up: for answers that wait for something to send.

        The connection is of no use for a further request: send `Connection: close`.
        """
        failure: Gone | OSError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._connection.cancel_at_end, nursery.cancel_scope)
            try:
                yield
            except (Gone, OSError) as error:
                failure = error  # past the nursery it would be a group
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def websocket(self) -> WebSocket:
        """Accept the upgrade.

        Raises:
            HttpError: 400, it is none.
        """
        socket_ = await self._connection.upgrade(self.request)
        self.started = True
        self.status = 101
        return socket_


Handler = Callable[[Exchange], Awaitable[None]]


class Connection:
    """One client's connection: requests one after the other, until it ends or becomes a WebSocket."""

    def __init__(self, stream: trio.SocketStream, handler: Handler, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._handler = handler
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._raw_headers: list[tuple[bytes, bytes]] = []
        self._target = b""
        self.websocket: WebSocket | None = None
        peer = stream.socket.getpeername()
        self._peer = str(peer[0]) if isinstance(peer, tuple) else "?"

    async def serve(self) -> None:
        """Answer requests until the client hangs up."""
        try:
            while await self._one():
                pass
        except Gone:
            pass
        except h11.RemoteProtocolError as error:
            log.debug("%s: %s", self._peer, error)
            await self._refuse(error.error_status_hint)
        finally:
            await self._close()

    async def _one(self) -> bool:
        """One request. False: the connection is done."""
        event = await self._event(self._limits.keep_alive_s, self._limits.head_s)
        if not isinstance(event, h11.Request):
            return False
        self._raw_headers, self._target = list(event.headers), event.target
        exchange: Exchange | None = None
        try:
            request = parse_request(event.method, event.target, event.headers, self._peer)
            exchange = Exchange(self, request)
            await self._handler(exchange)
        except HttpError as error:
            if exchange is not None and exchange.started:
                raise Gone from error  # too late to say it
            await self._plain_error(error)
        if exchange is not None:
            log.debug("%s %s %s %d", self._peer, exchange.request.method, exchange.request.path, exchange.status)
        if self.websocket is not None:
            return False
        if self._http.their_state is h11.SEND_BODY:
            try:
                await self.read_body()  # unread: keep the connection if it is small
            except HttpError as error:
                raise Gone from error
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            return True
        return False

    async def _plain_error(self, error: HttpError) -> None:
        body = f"{error.message}\n{error.hint}\n".encode()
        kind = ("Content-Type", "text/plain; charset=utf-8")
        headers = [kind, ("Content-Length", str(len(body))), ("Connection", "close")]
        await self.send_event(h11.Response(status_code=error.status, headers=headers, reason=reason_of(error.status)))
        await self.send_event(h11.Data(data=body))
        await self.send_event(h11.EndOfMessage())

    async def _refuse(self, status: int) -> None:
        """Say that a request could not be understood, if anything can be said."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        try:
            await self._plain_error(HttpError(status, "the request cannot be understood"))
        except (Gone, h11.LocalProtocolError):
            return

    async def _event(self, idle: float, busy: float) -> Any:  # noqa: ANN401 - h11's events have no common type
        """The next event from h11.

        Args:
            idle: Seconds until the first byte.
            busy: Seconds from then on.
        """
        deadline, waiting = trio.current_time() + idle, True
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._http.they_are_waiting_for_100_continue:
                await self.send_event(h11.InformationalResponse(status_code=100, headers=[]))
            data = b""
            with trio.move_on_at(deadline):
                data = await self._receive()
            if not data and waiting:
                raise Gone
            if waiting:
                deadline, waiting = trio.current_time() + busy, False
            if not data and trio.current_time() >= deadline:
                raise Gone
            self._http.receive_data(data)

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(1 << 16))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Gone from error

    async def read_body(self) -> bytes:
        """See Exchange.body."""
        parts, size = [], 0
        deadline = trio.current_time() + self._limits.body_s
        while True:
            left = deadline - trio.current_time()
            event = await self._event(left, left)
            if isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                size += len(event.data)
                if size > MAX_BODY:
                    raise HttpError(413, f"the request is longer than {MAX_BODY} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return b"".join(parts)
            else:
                raise Gone

    async def send_event(self, event: Any, patience: float = SEND_S) -> None:  # noqa: ANN401
        """Send what h11 makes of an event.

        Raises:
            Gone: the client hung up, or took longer than `patience` to make room.
        """
        parts = self._http.send_with_data_passthrough(event)
        if not parts:
            return
        if sum(len(part) for part in parts) < 1 << 14:
            parts = [b"".join(bytes(part) for part in parts)]
        for part in parts:
            if len(part):
                await self._send(part, patience)

    async def _send(self, data: bytes | memoryview, patience: float) -> None:
        try:
            with trio.fail_after(patience):
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            raise Gone from error

    async def cancel_at_end(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` when the client hangs up; whatever it says meanwhile is of no interest."""
        try:
            while await self._receive():
                pass
        except Gone:
            pass
        scope.cancel()

    async def upgrade(self, request: Request) -> WebSocket:
        """See Exchange.websocket."""
        protocol = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        try:
            protocol.initiate_upgrade_connection(self._raw_headers, self._target)
            accepted = protocol.send(AcceptConnection())
        except (RemoteProtocolError, LocalProtocolError, h11.RemoteProtocolError) as error:
            raise HttpError(400, f"not a WebSocket handshake: {error}") from error
        for _ in protocol.events():
            pass
        early, _ = self._http.trailing_data
        if early:
            protocol.receive_data(early)
        await self._send(accepted, SEND_S)
        self.websocket = WebSocket(self._stream, protocol)
        return self.websocket

    async def _close(self) -> None:
        with trio.move_on_after(GOODBYE_S, shield=True):
            if self.websocket is not None:
                await self.websocket.finish()
            else:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._stream.send_eof()
        await trio.aclose_forcefully(self._stream)


class WebSocket:
    """An open WebSocket. One task may receive, any number may send; messages do not mix.

    Cancelling a send leaves a cut message behind: the socket is of no further use then, and `close` just hangs up.
    """

    def __init__(self, stream: trio.SocketStream, protocol: wsproto.WSConnection) -> None:
        self._stream = stream
        self._protocol = protocol
        self._lock = trio.Lock()
        self._cut = False

    async def send_text(self, text: str) -> None:
        """Send a text message.

        Raises:
            Gone: the client hung up, or stalled for STALL_S.
        """
        await self._say(TextMessage(data=text))

    async def send_bytes(self, data: bytes, *, final: bool = True) -> None:
        """Send a binary message, or a fragment of one; only one task may.

        Args:
            data: The fragment.
            final: It is the message's last.

        Raises:
            Gone: the client hung up, or stalled for STALL_S.
        """
        await self._say(BytesMessage(data=data, message_finished=final))

    async def receive(self) -> str | None:
        """The next text message; None when the client hung up or broke the protocol. Answers pings.

        Raises:
            HttpError: 413, a message is longer than MAX_BODY.
            Gone: the client hung up while it was answered.
        """
        text, size = [], 0
        while True:
            for event in self._protocol.events():
                if isinstance(event, TextMessage):
                    size += len(event.data)
                    if size > MAX_BODY:
                        raise HttpError(413, f"the message is longer than {MAX_BODY} bytes")
                    text.append(event.data)
                    if event.message_finished:
                        return "".join(text)
                elif isinstance(event, Ping):
                    await self._say(event.response())
                elif isinstance(event, CloseConnection):
                    await self.close(CloseReason.NORMAL_CLOSURE, event)
                    return None
                elif isinstance(event, BytesMessage):
                    return None
            try:
                data = await self._stream.receive_some(1 << 16)
                self._protocol.receive_data(bytes(data) if data else None)
            except (trio.BrokenResourceError, trio.ClosedResourceError, RemoteProtocolError):
                return None
            if not data:
                return None

    async def keep_alive(self) -> None:
        """Say ping now and then, until cancelled.

        Raises:
            Gone: the client hung up.
        """
        while True:
            await trio.sleep(PING_S)
            await self._say(Ping())

    async def finish(self) -> None:
        """Say that this end goes away, and wait for the other's goodbye: only then is it a clean end there."""
        await self.close(CloseReason.GOING_AWAY)
        with suppress(HttpError, Gone):
            while self._protocol.state is ConnectionState.LOCAL_CLOSING and await self.receive() is not None:
                pass

    async def close(self, code: int = CloseReason.NORMAL_CLOSURE, answer_to: CloseConnection | None = None) -> None:
        """Say goodbye, if that can still be said."""
        if self._cut or self._protocol.state is ConnectionState.CLOSED:
            return
        try:
            data = self._protocol.send(answer_to.response() if answer_to is not None else CloseConnection(code=code))
            await self._send(data)
        except (Gone, LocalProtocolError):
            return

    async def _say(self, event: Event) -> None:
        async with self._lock:
            try:
                data = self._protocol.send(event)
            except LocalProtocolError as error:  # another task has seen the end meanwhile
                raise Gone from error
            await self._send(data)

    async def _send(self, data: bytes) -> None:
        whole = False
        try:
            with trio.fail_after(STALL_S):
                await self._stream.send_all(data)
            whole = True
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            raise Gone from error
        finally:
            self._cut = self._cut or not whole


async def serve(
    listeners: Sequence[trio.SocketListener],
    handler: Handler,
    *,
    limits: Limits = Limits(),
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve every connection with the handler, until cancelled. The listeners are closed then."""
    connections = 0

    async def one(stream: trio.SocketStream) -> None:
        nonlocal connections
        if connections >= limits.connections:
            log.warning("turned a connection away: there are %d", connections)
            await trio.aclose_forcefully(stream)
            return
        connections += 1
        try:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
            connection = Connection(stream, handler, limits)
        except OSError:  # it hung up before it was looked at
            await trio.aclose_forcefully(stream)
        else:
            with Fence("connection of a browser"):
                await connection.serve()
        finally:
            connections -= 1

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, one, list(listeners))
        task_status.started()


def reason_of(status: int) -> bytes:
    """`Not Found` for 404: people read headers too."""
    try:
        return http.HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""


async def open_listeners(bind: str, port: int) -> list[trio.SocketListener]:
    """Listen on every address of `bind`, all on one port.

    Raises:
        OSError: not possible; EADDRINUSE when the port is taken.
    """
    try:
        first = await trio.open_tcp_listeners(port, host=bind)
    except OSError as error:
        # trio wraps "in use" of several addresses into one OSError without a number.
        inner = error.__cause__ if error.errno is None and isinstance(error.__cause__, OSError) else error
        raise OSError(inner.errno or errno.EADDRNOTAVAIL, inner.strerror or str(error)) from error
    if port == 0 and len(first) > 1:  # each address got a port of its own: take the first one's everywhere
        port = int(first[0].socket.getsockname()[1])
        for listener in first:
            await listener.aclose()
        return await trio.open_tcp_listeners(port, host=bind)
    return first

"""Who listens at an address: asked, within a bounded time, before anything is sent there.

    connect -> HTTP/2 -> four calls at once:
        rrd.v1.Daemon/Identify     answered: an rrd daemon, which would feed itself, or another one
        WriteMessages, empty       OK: it takes Rerun's streams (viewers and servers from 0.23 on, in 3 to 15 ms)
        .../Nope                   UNIMPLEMENTED, or it says yes to anything
        RerunCloudService/Version  the version (0.36 and newer, headless and windowed)

Rules: nothing is taken for a viewer but after this; every probe ends within its time whatever the other side does,
and what it did then is said; a probe shows nothing in a viewer and leaves nothing in it.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from daemon.channel import Channel, ChannelBroken, unwrap
from daemon.viewers.version import Version, show
from daemon.wire.grpc import (
    CLOUD_VERSION,
    EMPTY_MESSAGE,
    IDENTIFY,
    PROXY_SERVICE,
    WRITE_MESSAGES,
    Address,
    CallError,
    Connection,
    Data,
    Event,
    Finished,
    Identity,
    SmallReader,
    Status,
    parse_cloud_version,
    parse_identity,
)

PROBE_S = 1.0
"""How long an answer is waited for: viewers need 3 to 15 ms, a busy machine more."""
CONNECT_S = 5.0
"""How long connecting to a remote machine may take."""

NOPE = PROXY_SERVICE + "Nope"
_QUESTIONS = (IDENTIFY, WRITE_MESSAGES, NOPE, CLOUD_VERSION)


class Unreachable(Exception):
    """Nobody could be reached. `kind`, as in Answer: `none` where the machine says so, `tls`, else `silent`."""

    def __init__(self, message: str, kind: str = "silent") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Answer:
    """Who is there.

    Attributes:
        kind: `rerun` (takes streams), `rrd`, `grpc` (another service), `http`, `tls` (no TLS, or a certificate that is
            not trusted), `silent`, `other`, or `none`.
        version: Of the viewer, where it says so.
        identity: Of an rrd daemon.
        detail: What it did, for people.
    """

    kind: str
    version: Version | None = None
    identity: Identity | None = None
    detail: str = ""

    @property
    def takes_streams(self) -> bool:
        """It can be fed."""
        return self.kind in ("rerun", "rrd")

    def describe(self) -> str:
        """For messages: `an HTTP server, not a viewer`."""
        names = {
            "rerun": f"a Rerun viewer or server {show(self.version) if self.version else ''}".rstrip(),
            "rrd": f"an rrd daemon (pid {self.identity.pid})" if self.identity else "an rrd daemon",
            "grpc": "a gRPC server, not a viewer",
            "http": "an HTTP server, not a viewer",
            "silent": "somebody who does not answer",
            "none": "nobody",
        }
        return names.get(self.kind, f"something that is no viewer ({self.detail})")


@asynccontextmanager
async def connect(address: Address, *, seconds: float = CONNECT_S) -> AsyncIterator[Channel]:
    """A connection to a server, with its pump running.

    Raises:
        Unreachable: there is none within that time.
    """
    with trio.move_on_after(seconds) as scope:
        stream = await _open(address)
    if scope.cancelled_caught:
        raise Unreachable(f"no connection to {address.authority} within {seconds:g} s")
    channel = Channel(stream, Connection(client=True, authority=address.authority, secure=address.secure))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.pump)
            yield channel
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise unwrap(group) from None
    finally:
        await channel.aclose()


async def _open(address: Address) -> trio.abc.Stream:
    try:
        stream = await trio.open_tcp_stream(address.host, address.port)
    except OSError as error:
        causes = _causes(error)
        refused = any(isinstance(cause, ConnectionRefusedError) for cause in causes)
        reason = "nobody listens there" if refused else (causes[-1].strerror or str(causes[-1]))
        raise Unreachable(f"{reason}: {address.authority}", "none" if refused else "silent") from error
    if not address.secure:
        return stream
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    secure = trio.SSLStream(stream, context, server_hostname=address.host, https_compatible=True)
    try:
        await secure.do_handshake()
    except (trio.BrokenResourceError, ssl.SSLError, OSError) as error:
        await trio.aclose_forcefully(stream)
        cause = error.__cause__ or error
        raise Unreachable(f"no TLS connection to {address.authority}: {cause}", "tls") from error
    return secure


def _causes(error: OSError) -> list[OSError]:
    """trio reports one group of an error an address."""
    group = error.__cause__
    if isinstance(group, BaseExceptionGroup):
        return [one for one in group.exceptions if isinstance(one, OSError)] or [error]
    return [error]


async def probe(address: Address, *, seconds: float = PROBE_S) -> Answer:
    """Who listens there. Takes at most twice `seconds`."""
    try:
        async with connect(address, seconds=seconds) as channel:
            return await handshake(channel, seconds=seconds)
    except Unreachable as error:
        return Answer(error.kind, detail=str(error))


async def handshake(channel: Channel, *, seconds: float = PROBE_S) -> Answer:
    """Ask the four questions on a fresh connection."""
    connection = channel.connection
    asked: dict[int, str] = {}
    for method in _QUESTIONS:
        call = connection.start(method)
        asked[call] = method
        if method != WRITE_MESSAGES:
            connection.send_data(call, EMPTY_MESSAGE)
        connection.half_close(call)
    channel.poke()
    answers = _Answers(asked)
    broken = ""
    with trio.move_on_after(seconds):
        try:
            while not answers.complete:
                events = await channel.receive()
                if not events:
                    broken = channel.broken
                    break
                for event in events:
                    answers.take(connection, event)
        except ChannelBroken as error:
            broken = str(error)
    if broken and not answers.complete:
        # Python's own server leaves out the status line when it does not know the version.
        if channel.first.startswith((b"HTTP/", b"<")):
            return Answer("http", detail="answers HTTP/1")
        return Answer("other", detail=broken)
    return answers.verdict(spoke=bool(channel.first), seconds=seconds)


class _Answers:
    """What has been answered so far."""

    def __init__(self, asked: dict[int, str]) -> None:
        self._asked = asked
        self._readers = {call: SmallReader() for call in asked}
        self._status: dict[str, int] = {}
        self._bodies: dict[str, bytes] = {}

    @property
    def complete(self) -> bool:
        return len(self._status) == len(self._asked)

    def take(self, connection: Connection, event: Event) -> None:
        if isinstance(event, Data):
            connection.acknowledge(event)
            reader = self._readers[event.call]
            reader.receive_data(bytes(event.data))
            try:
                body = reader.next_message()
            except CallError:
                body = None
            if body is not None:
                self._bodies[self._asked[event.call]] = body
        elif isinstance(event, Finished) and event.call in self._asked:
            self._status[self._asked[event.call]] = event.status

    def verdict(self, *, spoke: bool, seconds: float) -> Answer:
        if self._status.get(IDENTIFY) == Status.OK:
            identity = parse_identity(self._bodies.get(IDENTIFY, b""))
            if identity is not None:
                return Answer("rrd", identity=identity)
        if self._status.get(NOPE, Status.UNIMPLEMENTED) != Status.UNIMPLEMENTED:
            return Answer("grpc", detail="says yes to a method that does not exist")
        if self._status.get(WRITE_MESSAGES) == Status.OK:
            body = self._bodies.get(CLOUD_VERSION, b"")
            version = parse_cloud_version(body) if self._status.get(CLOUD_VERSION) == Status.OK else None
            return Answer("rerun", version)
        if self._status:
            return Answer("grpc", detail="does not take Rerun's streams")
        what = "speaks HTTP/2 but does not answer" if spoke else "does not answer"
        return Answer("silent", detail=f"{what} within {seconds:g} s")

"""The control socket's server: connections, requests, answers.

Rules: one task a connection, one a request; a request's error ends that request, a protocol error that connection, and
nothing ends the server; descriptors that no verb took are closed; only the user's own processes are served; what is
sent to a client that does not read is bounded by dropping that client.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from daemon import __version__
from daemon.fence import HINT, Fence
from daemon.sinks.runner import describe
from daemon.wire import control
from daemon.wire.control import Message, ProtocolError, VerbError

if TYPE_CHECKING:
    from daemon.app import Daemon

log = logging.getLogger("rrd.control")

VERBS = (
    "open", "close", "sync", "save", "attach", "detach", "ls", "status", "stop", "restart", "reload", "settings",
    "tail", "run", "run_end", "doctor", "forget", "gc", "spawn", "connect", "viewers", "serve",
)
"""Every verb; each is a module `daemon.control.verbs.<verb>` with `async def run(call) -> Message`."""
RECEIVE = 64 << 10
CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
UNREAD_LIMIT_S = 30.0
"""A client that does not read its answer for so long is gone."""

Handler = Callable[["Call"], Awaitable[Message]]


class Client:
    """One connection.

    Attributes:
        pid: The peer's process, as the kernel says; 0 if it does not.
        agent: What it calls itself.
        streams: Ids of the streams it opened.
    """

    def __init__(self, sock: trio.socket.SocketType, pid: int) -> None:
        self._socket = sock
        self._sending = trio.Lock()
        self.pid = pid
        self.agent = ""
        self.streams: set[str] = set()

    async def send(self, message: Message) -> None:
        """Send one message; a client that is gone, or does not read, is none of the caller's business."""
        try:
            data = memoryview(control.encode(message))
        except ProtocolError as error:
            # Linux' names are bytes: a path that is no UTF-8 is no text, and cannot be said.
            log.error("cannot answer %s: %s", self.agent, error)
            if "ok" not in message and "error" not in message:
                return  # news, which are no answer: the request goes on
            data = memoryview(control.encode(control.error(message.get("id", 0), VerbError("failed", str(error)))))
        with trio.move_on_after(UNREAD_LIMIT_S) as scope:
            async with self._sending:
                try:
                    while data:
                        data = data[await self._socket.send(data) :]
                except (OSError, trio.ClosedResourceError):
                    return
        if scope.cancelled_caught:
            log.warning("client %s (pid %d) does not read, dropping it", self.agent, self.pid)
            self._socket.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


@dataclass
class Call:
    """One request, for its handler.

    Attributes:
        args: As the client sent them; the methods below check them.
        fds: Descriptors that came with it; a handler that keeps one takes it out of the list.
        afterwards: What is to be done once the answer has been sent.
    """

    daemon: Daemon
    client: Client
    id: int
    verb: str
    args: Message
    fds: list[int] = field(default_factory=list)
    afterwards: Callable[[], None] | None = None

    async def progress(self, state: Message) -> None:
        """Tell the client how far it is."""
        await self.client.send(control.progress(self.id, state))

    def text(self, name: str, default: str | None = None) -> str:
        """A text argument.

        Raises:
            VerbError: it is missing and has no default, or is no text.
        """
        value = self.args.get(name, default)
        if not isinstance(value, str):
            raise VerbError("usage", f"{self.verb}: {name} must be a text, found {value!r:.100}")
        if "\0" in value:
            raise VerbError("usage", f"{self.verb}: {name} contains a NUL character")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of texts; empty if it is missing.

        Raises:
            VerbError: it is something else.
        """
        value = self.args.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise VerbError("usage", f"{self.verb}: {name} must be a list of texts, found {value!r:.100}")
        return list(value)

    def flag(self, name: str) -> bool:
        """True or false; false if it is missing.

        Raises:
            VerbError: it is something else.
        """
        value = self.args.get(name, False)
        if not isinstance(value, bool):
            raise VerbError("usage", f"{self.verb}: {name} must be true or false, found {value!r:.100}")
        return value

    def number(self, name: str) -> float | None:
        """A number, or None if it is missing.

        Raises:
            VerbError: it is something else.
        """
        value = self.args.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise VerbError("usage", f"{self.verb}: {name} must be a number, found {value!r:.100}")
        return float(value)

    def seconds(self, name: str, most: float) -> float | None:
        """A length of time above 0 and up to `most`, or None if it is missing.

        Raises:
            VerbError: it is something else.
        """
        value = self.number(name)
        if value is not None and not 0 < value <= most:
            raise VerbError("usage", f"{self.verb}: {name} is {value:g}", "it is a number of seconds above 0")
        return value


class Server:
    """Serves the listening sockets."""

    def __init__(self, daemon: Daemon, listeners: Sequence[socket.socket]) -> None:
        self._daemon = daemon
        self._listeners = listeners
        self.clients: set[Client] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and serve until cancelled."""
        async with trio.open_nursery() as nursery:
            for listener in self._listeners:
                nursery.start_soon(self._accept, trio.socket.from_stdlib_socket(listener), nursery)
            task_status.started()

    async def _accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            try:
                peer, _ = await listener.accept()
            except OSError as error:
                log.error("cannot accept: %s", error)
                await trio.sleep(0.1)
                continue
            nursery.start_soon(self._serve, peer)

    async def _serve(self, sock: trio.socket.SocketType) -> None:
        pid, uid = peer_of(sock)
        with sock, Fence(f"client with pid {pid}"):
            if uid not in (None, os.getuid(), 0):
                log.warning("refused a connection of uid %s", uid)
                return
            client = Client(sock, pid)
            self.clients.add(client)
            try:
                await self._talk(client, sock)
            except ProtocolError as error:
                log.warning("client %s (pid %d): %s", client.agent or "?", pid, error)
                await client.send(control.error(0, VerbError("protocol", str(error))))
            except (OSError, trio.ClosedResourceError) as error:
                log.debug("client %s (pid %d): %s", client.agent, pid, error)
            finally:
                self.clients.discard(client)

    async def _talk(self, client: Client, sock: trio.socket.SocketType) -> None:
        decoder = control.Decoder()
        # Descriptors of the message that is not whole yet, and of what was read last.
        waiting, fresh = list[int](), list[int]()
        space = socket.CMSG_LEN(control.MAX_DESCRIPTORS * struct.calcsize("i"))
        try:
            async with trio.open_nursery() as requests:
                while True:
                    data, ancillary, flags, _ = await sock.recvmsg(RECEIVE, space, CLOEXEC)
                    fresh = _descriptors(ancillary)
                    if flags & socket.MSG_CTRUNC or len(waiting) + len(fresh) > control.MAX_DESCRIPTORS:
                        raise ProtocolError(f"more than {control.MAX_DESCRIPTORS} descriptors")
                    if not data:
                        break
                    decoder.receive_data(data)
                    while (message := decoder.next_message()) is not None:
                        # A read may begin with messages that came without descriptors; it ends with the one that
                        # brought them, or with that one's first part: recvmsg(2) stops there.
                        request = _request(message)
                        taken, waiting = waiting, []
                        if not decoder.pending:
                            taken, fresh = taken + fresh, []
                        call = Call(self._daemon, client, *request, taken)
                        if not client.agent:
                            await self._greet(call)
                        else:
                            requests.start_soon(self._handle, call)
                    waiting, fresh = waiting + fresh, []
                # A client that hangs up is not interested in answers any more; its verbs go on only where they say so.
                requests.cancel_scope.cancel()
        except* ProtocolError as group:
            raise group.exceptions[0] from None
        except* (OSError, trio.ClosedResourceError) as group:
            raise group.exceptions[0] from None
        finally:
            for fd in waiting + fresh:
                os.close(fd)

    async def _greet(self, call: Call) -> None:
        """Answer the first message.

        Raises:
            ProtocolError: it is not hello, or of a protocol that is not spoken here.
        """
        agent = call.args.get("agent", "")
        for fd in call.fds:
            os.close(fd)
        if call.verb != "hello":
            raise ProtocolError(f"the first message must be hello, not {call.verb}")
        call.client.agent = agent if isinstance(agent, str) and agent else "unknown"
        if call.args.get("protocol") != control.PROTOCOL:
            failure = control.protocol_mismatch(call.args.get("protocol"), call.client.agent, __version__)
            await call.client.send(control.error(call.id, failure))
            raise ProtocolError(failure.message)
        # The pid that it says is not used: in a container it counts from another beginning, and is another's here.
        await call.client.send(control.ok(call.id, {
            "protocol": control.PROTOCOL, "version": __version__, "pid": os.getpid(),
        }))

    async def _handle(self, call: Call) -> None:
        try:
            answer = control.ok(call.id, await perform(call))
        except VerbError as failure:
            answer = control.error(call.id, failure)
        finally:
            for fd in call.fds:
                os.close(fd)
        try:
            await call.client.send(answer)
        finally:
            if call.afterwards is not None:
                call.afterwards()


async def perform(call: Call) -> Message:
    """Do what a verb says.

    Returns:
        Its result.

    Raises:
        VerbError: it was refused, or did not work, for whatever reason.
    """
    failure: VerbError | None = None
    with Fence(f"verb {call.verb}") as fence:
        try:
            return await find_handler(call.verb)(call)
        except VerbError as error:
            failure = error
        except OSError as error:
            # A disk or a process that is not as it should be is the request's misfortune, not the connection's.
            log.error("%s: %s", call.verb, error)
            failure = VerbError("failed", f"{call.verb}: {describe(error)}")
    raise failure or VerbError("failed", f"{call.verb}: {fence.fault}", HINT)


def find_handler(verb: str) -> Handler:
    """The function of a verb.

    Raises:
        VerbError: there is none.
    """
    if verb not in VERBS:
        raise VerbError("unknown-verb", f"the daemon (rrd {__version__}) knows no verb {verb!r:.60}",
                        "are both sides up to date? `rrd daemon restart` after an upgrade")
    name = f"daemon.control.verbs.{verb}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise VerbError("not-built", f"{verb} is not part of rrd {__version__}", "pip install -U rrd-cli") from None
    handler: Handler = module.run
    return handler


async def load_verbs() -> None:
    """Import every verb, after the start, which they would delay: an upgrade changes files under a running daemon."""
    for verb in VERBS:
        with contextlib.suppress(VerbError):
            find_handler(verb)
        await trio.lowlevel.checkpoint()


def _request(message: Message) -> tuple[int, str, Message]:
    number, verb, args = message.get("id"), message.get("verb"), message.get("args", {})
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 1 << 53:
        raise ProtocolError(f"a request's id must be a positive integer, found {number!r:.60}")
    if not isinstance(verb, str) or not isinstance(args, dict):
        raise ProtocolError("a request needs a verb (text) and args (map)")
    return number, verb, args


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    size = struct.calcsize("i")
    return [
        fd
        for level, kind, data in ancillary
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS
        for (fd,) in struct.iter_unpack("i", data[: len(data) - len(data) % size])
    ]


def peer_of(sock: trio.socket.SocketType | socket.socket) -> tuple[int, int | None]:
    """(pid, uid) of a Unix socket's other end; (0, None) where the system does not say so in this way."""
    if sys.platform != "linux":
        return 0, None  # the socket's directory is private
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid, uid

"""What a page is fed with: history in one answer, then live messages, both in the same pieces.

    block   = kind u32 LE · length u32 LE · body            in the answer to /stream
    DATA    body = stream header (12 bytes) + whole frames  what the viewer's send_rrd takes; a binary message on /ws
    STATE   body = JSON                                     a text message on /ws
            {resume, lag_messages, lag_bytes, live, streams, caught_up?, ended?, bulk?}
    a page says on /ws    first what it wants (as to /stream), then `hold` and `go`

Rules: a client is a Feed and nothing else: it is read when the socket has taken what went before, so that a slow client
is a position in a log and no memory; `resume` is opaque to the page, which hands it back to go on where it was: it then
means the same recordings and no others, and what is sent twice has the same chunk ids, which the viewer knows already.
Small messages are sent together: a live page is sent to at most once in PACE_S.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import struct
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from daemon.feed import Batch, CursorState, Feed
from daemon.hub import Hub
from daemon.selection import Selection, resolve
from daemon.web.server import STALL_S, Exchange, Gone, WebSocket
from daemon.wire.control import VerbError
from daemon.wire.http import HttpError
from daemon.wire.rrd import HEADER_SIZE, FormatError, StreamHeader

log = logging.getLogger("rrd.web")

BLOCK = struct.Struct("<II")
DATA = 1
STATE = 2

BATCH = 1 << 20
"""Bytes of frames sent at once: what a page decodes in some 15 ms, between two pictures."""
IN_LOOP = 128 << 10
"""Batches up to here are read in the event loop: fresh from the page cache, quicker than asking a thread."""
MAX_FRAME = 1 << 30
"""Longer frames are left out: the viewer is a 32-bit program of at most 4 GiB."""
PACE_S = 0.005
"""Pause after a small live message; the SDK itself gathers for 8 ms."""
PACE_BELOW = 64 << 10
STATE_S = 0.25
"""How often a page is told where it is."""
HELLO_S = 20.0
"""How long a page may take to say what it wants."""
BULK_LAG = 64 << 20
"""A live page that is further behind is told to fetch: browsers receive that several times faster than a WebSocket."""
MAX_CURSOR = 1 << 63
"""Whoever counts on from a number of thousands of digits cannot write it down any more."""
MAX_TERMS = 500
"""Selectors of one page: as many as the list of recordings has rows."""

CONTENT_TYPE = "application/x-rrd-blocks"

_threads = trio.CapacityLimiter(8)


def terms_of(values: Sequence[object]) -> list[str]:
    """Selectors as they come from a page.

    Raises:
        HttpError: 400, too many, or one that a page may not use: `rrd serve FILE` opens files, an address does not.
    """
    terms = [value for value in values if isinstance(value, str) and value]
    if len(terms) != len(values) or len(terms) > MAX_TERMS:
        raise HttpError(400, "these sources cannot be read")
    for term in terms:
        if term == "-" or term.startswith(("/", ".")):
            raise HttpError(400, "a file is served by `rrd serve FILE`, not by its path")
    return terms or ["@live"]


def select(hub: Hub, terms: Sequence[str]) -> Selection:
    """What a page's selectors mean now.

    Raises:
        HttpError: 404, nothing fits.
    """
    try:
        return resolve(terms, hub.streams, hub.moment())
    except VerbError as error:
        raise HttpError(404 if error.code == "not-found" else 400, error.message, error.hint) from error


def open_feed(hub: Hub, asked: object) -> Feed:
    """The feed for a page's request.

    Args:
        hub: Where the streams are.
        asked: JSON, `{"source": [...], "resume": ...}`; with resume, source is not looked at.

    Raises:
        HttpError: 400 or 404, it cannot be read, or nothing fits.
    """
    if not isinstance(asked, dict):
        raise HttpError(400, "the request must be a JSON object")
    resume = asked.get("resume")
    if resume is None:
        source = asked.get("source", [])
        return hub.feed(select(hub, terms_of(source if isinstance(source, list) else [source])))
    try:
        selection = Selection.from_json(resume["selection"])
        since = selection.live_since
        if since is not None:
            selection = dataclasses.replace(selection, live_since=min(float(since), hub.moment()))
        cursors = {str(name): _cursor(hub, str(name), state) for name, state in resume["cursors"].items()}
        feed = hub.feed(selection)
        feed.seek({name: state for name, state in cursors.items() if state is not None})
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, OSError, FormatError) as error:
        raise HttpError(400, "the place to resume at cannot be read") from error
    return feed


def _cursor(hub: Hub, name: str, state: Sequence[object]) -> CursorState | None:
    """A cursor as a page gave it back; None, from the beginning, if the log cannot have such a place."""
    cursor = CursorState(*(int(number) for number in state))  # type: ignore[call-overload]
    stream = hub.streams.get(name)
    if stream is None or min(cursor) < 0 or max(cursor) > MAX_CURSOR:
        return None
    beyond = cursor.generation == stream.generation and cursor.position > stream.data_end
    return None if beyond else cursor


def state_of(feed: Feed, **more: object) -> str:
    """A STATE body."""
    messages, size = feed.lag()
    streams = feed.streams()
    return json.dumps(
        {
            "resume": {"selection": feed.selection.to_json(), "cursors": feed.cursors()},
            "lag_messages": messages,
            "lag_bytes": size,
            "streams": len(streams),
            "live": sum(not stream.ended for stream in streams),
            **more,
        },
        separators=(",", ":"),
    )


def pieces_of(batch: Batch) -> list[list[tuple[int, int]]]:
    """A batch's ranges in pieces of some BATCH bytes: one, but for frames longer than that."""
    ranges = batch.ranges()
    if batch.size <= 2 * BATCH:
        return [ranges]
    return [
        [(at, min(BATCH, offset + length - at))]
        for offset, length in ranges
        for at in range(offset, offset + length, BATCH)
    ]


async def read(batch: Batch, ranges: Sequence[tuple[int, int]]) -> bytes:
    """Bytes of a batch's log.

    Raises:
        OSError: they cannot be read.
    """
    if sum(length for _, length in ranges) <= IN_LOOP:
        return b"".join(batch.pread(offset, length) for offset, length in ranges)
    return await trio.to_thread.run_sync(_read, batch.source.fd, ranges, limiter=_threads)


def _read(fd: int, ranges: Sequence[tuple[int, int]]) -> bytes:
    """Runs in a thread."""
    parts = []
    for offset, length in ranges:
        data = os.pread(fd, length, offset)
        if len(data) != length:
            raise OSError(errno.EIO, "log is shorter than it was")
        parts.append(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def fits(batch: Batch) -> bool:
    """Whether a browser can take it at all."""
    return batch.size <= MAX_FRAME


async def send_history(exchange: Exchange, feed: Feed) -> None:
    """Answer with everything that is there now, and where that ends.

    Raises:
        Gone, OSError: the client hung up, the log cannot be read.
    """
    await exchange.begin(200, [("Content-Type", CONTENT_TYPE), ("Cache-Control", "no-store")])

    async def state(**more: object) -> None:
        body = state_of(feed, **more).encode()
        await exchange.send(BLOCK.pack(STATE, len(body)) + body, patience=STALL_S)

    await state()
    told = trio.current_time()
    while (batch := await feed.take(BATCH)) is not None:
        if batch.stream.header is None or not fits(batch):
            continue
        await exchange.send(BLOCK.pack(DATA, HEADER_SIZE + batch.size) + batch.stream.header.encode(), patience=STALL_S)
        for ranges in pieces_of(batch):
            await exchange.send(await read(batch, ranges), patience=STALL_S)
        if trio.current_time() - told > STATE_S:
            await state()
            told = trio.current_time()
    await state(caught_up=True)
    await exchange.end()


class Gate:
    """Open, unless the page has asked to hold."""

    def __init__(self) -> None:
        self._open = trio.Event()
        self._open.set()

    def hear(self, word: str) -> None:
        """What a page says after its first message: `hold` or `go`; anything else is ignored."""
        if word == "go":
            self._open.set()
        elif word == "hold" and self._open.is_set():
            self._open = trio.Event()

    async def passed(self) -> None:
        """Return when it is open."""
        await self._open.wait()


async def follow(hub: Hub, feed: Feed, gate: Gate, socket: WebSocket) -> None:
    """Send what comes, until cancelled or the page is so far behind that it should fetch.

    Args:
        gate: Nothing more is sent while it is closed.

    Raises:
        Gone, OSError: the client hung up, the log cannot be read.
    """
    told, dirty, ended = 0.0, True, False
    while True:
        await gate.passed()
        seen, now = hub.version, trio.current_time()
        batch = await feed.take(BATCH)
        if batch is None:
            over = feed.finished
            if (dirty and now - told >= STATE_S) or over != ended:
                await socket.send_text(state_of(feed, caught_up=True, ended=over))
                told, dirty, ended = trio.current_time(), False, over
            else:
                with trio.move_on_at(told + STATE_S if dirty else float("inf")):
                    await hub.wait_change(seen)
            continue
        dirty = True
        if batch.stream.header is not None and fits(batch):
            await _send_batch(socket, batch, batch.stream.header)
        if trio.current_time() - told >= STATE_S:
            if feed.lag()[1] > BULK_LAG:
                await socket.send_text(state_of(feed, bulk=True))
                return
            await socket.send_text(state_of(feed))
            told = trio.current_time()
        if batch.size < PACE_BELOW:
            await trio.sleep(PACE_S)


async def _send_batch(socket: WebSocket, batch: Batch, header: StreamHeader) -> None:
    pieces = pieces_of(batch)
    for index, ranges in enumerate(pieces):
        data = await read(batch, ranges)
        await socket.send_bytes(data if index else header.encode() + data, final=index == len(pieces) - 1)


async def serve_socket(hub: Hub, exchange: Exchange, feeds: set[Feed]) -> None:
    """A WebSocket: its first message says what is wanted, then data flows one way.

    Args:
        feeds: Of all pages that are live; this one's is in it meanwhile.

    Raises:
        HttpError: it is no WebSocket.
        Gone, OSError: the client hung up, the log cannot be read.
    """
    socket = await exchange.websocket()
    first = None
    with trio.move_on_after(HELLO_S):
        first = await socket.receive()
    if first is None:
        return
    try:
        feed = open_feed(hub, json.loads(first))
    except HttpError as error:
        await socket.send_text(json.dumps({"error": error.message, "hint": error.hint, "status": error.status}))
        return
    except (ValueError, RecursionError):
        await socket.send_text(json.dumps({"error": "the request is no JSON", "hint": "", "status": 400}))
        return
    feeds.add(feed)
    try:
        await _converse(hub, feed, socket)
    finally:
        feeds.discard(feed)


async def _converse(hub: Hub, feed: Feed, socket: WebSocket) -> None:
    gate = Gate()
    async with trio.open_nursery() as nursery:
        # What ends one of them ends all; nothing leaves the nursery as an error.
        nursery.start_soon(_until_gone, partial(_listen, gate), socket, nursery.cancel_scope)
        nursery.start_soon(_until_gone, WebSocket.keep_alive, socket, nursery.cancel_scope)
        nursery.start_soon(_until_gone, partial(follow, hub, feed, gate), socket, nursery.cancel_scope)


async def _until_gone(
    work: Callable[[WebSocket], Awaitable[None]], socket: WebSocket, scope: trio.CancelScope
) -> None:
    try:
        await work(socket)
    except (Gone, HttpError):
        pass
    except (OSError, FormatError) as error:
        log.error("a page cannot be sent its data: %s", error)
    scope.cancel()


async def _listen(gate: Gate, socket: WebSocket) -> None:
    """Hear whether the page can take more; this answers pings, too, and sees it go."""
    while (word := await socket.receive()) is not None:
        gate.hear(word)

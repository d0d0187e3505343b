"""Recordings as .rrd files over HTTP: ended ones as files, live ones as they grow.

    ended, one whole log   the log itself: length, ranges, footer
    ended, anything else   merged into a file in the cache, once: length, ranges, footer
    live                   frames as they come, chunked, until the recording ends; then the log's own footer if nothing
                           but that log was sent, else a bare End
    live, ?snapshot        what is there now, as a complete file

Rules: what is sent as a whole file verifies; a body that is cut was cut by somebody, and shows as cut; a viewer that
reads slowly holds nothing but its position.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from daemon import paths
from daemon.completing import finish_file
from daemon.feed import Feed
from daemon.hub import Hub
from daemon.selection import Selection
from daemon.sinks.copying import copy_file
from daemon.sinks.file import FileSink
from daemon.stream import Stream
from daemon.web.live import BATCH, pieces_of, read
from daemon.web.server import Exchange
from daemon.wire.http import HttpError, parse_range
from daemon.wire.rrd import HEADER_SIZE, Kind, frame_header

KEPT_MERGES = 4
"""Merged files that are kept: they are copies of what the spool has."""
FILE_PIECE = 4 << 20
"""Bytes of a file read at once, in a thread."""
CONTENT_TYPE = "application/octet-stream"


async def send_recording(hub: Hub, exchange: Exchange, selection: Selection, name: str, *, snapshot: bool) -> None:
    """Answer with a recording.

    Args:
        hub: Where the streams are.
        exchange: A GET or HEAD request.
        selection: What to send.
        name: What a browser calls the file.
        snapshot: A live one: as it is now.

    Raises:
        HttpError: 404, it is empty; 416.
        Gone, OSError: the client hung up, a file cannot be read or written.
    """
    feed = hub.feed(selection)
    streams = [stream for stream in feed.streams() if stream.header is not None]
    exchange.headers.append(("Content-Disposition", f'attachment; filename="{file_name(name)}"'))
    if streams and all(stream.complete for stream in streams):
        only = streams[0] if len(streams) == 1 and selection.whole(streams[0]) else None
        path = only.path if only is not None else await _merged(hub, selection, streams)
        await send_file(exchange, path, CONTENT_TYPE)
    elif snapshot:
        if not streams:
            raise HttpError(404, "nothing has been logged yet", "try again when the program has logged something")
        async with _snapshot(hub, selection, streams) as path:
            await send_file(exchange, path, CONTENT_TYPE)
    else:
        await _send_growing(hub, exchange, feed)


def file_name(name: str) -> str:
    """A name that every file system takes, with `.rrd` at its end."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:100]
    return f"{safe or 'recording'}.rrd"


async def send_file(exchange: Exchange, path: Path, kind: str, *, length: int | None = None, suffix: bytes = b"",
                    validator: str = "") -> None:
    """Answer with a file, or the part of it that was asked for.

    Args:
        path: The file; that it is removed meanwhile does not matter.
        kind: Its media type.
        length: Only so many bytes of it; by default all.
        suffix: Sent after the file's own bytes, as if they were its.
        validator: An ETag's value; by default made of size and time.

    Raises:
        HttpError: 416.
        Gone, OSError: the client hung up, the file cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        own = found.st_size if length is None else min(length, found.st_size)
        size = own + len(suffix)
        tag = f'"{validator or f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"}"'
        headers = [("Content-Type", kind), ("ETag", tag), ("Accept-Ranges", "bytes")]
        request = exchange.request
        if tag in request.headers.get("if-none-match", ""):
            await exchange.begin(304, headers)
            await exchange.end()
            return
        start, end, status = 0, size, 200
        asked = request.headers.get("range")
        if asked is not None and request.headers.get("if-range", tag) == tag:
            part = parse_range(asked, size)
            if part is not None:
                start, end = part
                status = 206
                headers.append(("Content-Range", f"bytes {start}-{end - 1}/{size}"))
        await exchange.begin(status, headers, end - start)
        if request.method != "HEAD":
            at = start
            while at < min(end, own):
                count = min(FILE_PIECE, end - at, own - at)
                data = await trio.to_thread.run_sync(os.pread, fd, count, at)
                if not data:
                    raise OSError(errno.EIO, "file is shorter than it was", os.fspath(path))
                # A native viewer cannot resume: it may read as slowly as it likes.
                await exchange.send(data, patience=math.inf)
                at += len(data)
            if end > own:
                await exchange.send(suffix[max(0, start - own) : end - own])
        await exchange.end()
    finally:
        os.close(fd)


def _merges() -> Path:
    place = paths.cache_dir() / "web" / "recordings"
    place.mkdir(parents=True, exist_ok=True)
    return place


async def _merged(hub: Hub, selection: Selection, streams: list[Stream]) -> Path:
    """A complete file of several logs, or of a part of one; made once."""
    parts = [f"{s.id} {s.generation} {s.data_end}" for s in streams]
    stores = sorted(raw.hex() for s in streams for raw in selection.stores(s) or s.stores)
    name = hashlib.sha256("\n".join(parts + stores).encode()).hexdigest()[:32]
    place = _merges()
    path = place / f"{name}.rrd"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=place) as work:
            made = Path(work) / "made.rrd"
            sink = FileSink(hub, selection, made, copy=True)
            sink.hold()
            await sink.deliver()
            made.rename(path)
        old = sorted(place.glob("*.rrd"), key=lambda file: file.stat().st_mtime)[:-KEPT_MERGES]
        for file in old:
            file.unlink(missing_ok=True)
    return path


@asynccontextmanager
async def _snapshot(hub: Hub, selection: Selection, streams: list[Stream]) -> AsyncIterator[Path]:
    """A complete file of what is there now; gone after the block."""
    with tempfile.TemporaryDirectory(dir=_merges()) as work:
        path = Path(work) / "snapshot.rrd"
        if len(streams) == 1 and selection.whole(streams[0]):
            await trio.to_thread.run_sync(partial(copy_file, streams[0].source(), path, streams[0].data_end))
        else:
            await _write_frames(hub.feed(selection), streams, path)
        await finish_file(path)
        yield path


async def _write_frames(feed: Feed, streams: list[Stream], path: Path) -> None:
    """What a feed has now, as a file without a footer."""
    headers = [stream.header for stream in streams if stream.header is not None]
    async with await trio.open_file(path, "wb") as file:
        await file.write(max(headers, key=lambda header: header.version[:3]).encode())
        while (batch := await feed.take(BATCH)) is not None:
            for ranges in pieces_of(batch):
                await file.write(await read(batch, ranges))


async def _send_growing(hub: Hub, exchange: Exchange, feed: Feed) -> None:
    """Answer with frames as they come, until the recording has ended."""
    await exchange.begin(200, [("Content-Type", CONTENT_TYPE), ("Cache-Control", "no-store"), ("Connection", "close")])
    if exchange.request.method == "HEAD":
        await exchange.end()
        return
    async with exchange.until_hung_up():
        sent, header, sources = 0, None, dict[str, int]()
        while True:
            seen = hub.version
            batch = await feed.take(BATCH)
            if batch is None:
                if feed.finished:
                    break
                await hub.wait_change(seen)
                continue
            if batch.stream.header is None:
                continue
            sources.setdefault(batch.stream.id, batch.stream.generation)
            if header != batch.stream.header:
                header = batch.stream.header
                # Again where the next log's SDK is another: such a concatenation is legal.
                await _send(exchange, header.encode())
                sent += HEADER_SIZE
            for ranges in pieces_of(batch):
                await _send(exchange, await read(batch, ranges))
            sent += batch.size
        await _send(exchange, _ending(hub, sources, sent))
    await exchange.end()


async def _send(exchange: Exchange, data: bytes) -> None:
    await exchange.send(data, patience=math.inf)


def _ending(hub: Hub, sources: dict[str, int], sent: int) -> bytes:
    """What closes the body: the log's own footer fits only if its own bytes are what was sent."""
    if len(sources) == 1:
        ((name, generation),) = sources.items()
        stream = hub.streams.get(name)
        same = stream is not None and stream.data_end == sent and stream.generation == generation
        if stream is not None and same and not stream.concatenated:
            with contextlib.suppress(OSError):
                return os.pread(stream.fd(), stream.size - sent, sent)
    return frame_header(Kind.END, 0)

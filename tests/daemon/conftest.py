"""A hub of one's own, fast: logs in a temporary directory, footers made in this process; and streams in it."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon.completing import complete_streams
from daemon.hub import Hub
from daemon.spool.finish import finish_log
from daemon.stream import Stream
from daemon.wire.rrd import Kind
from tests.helpers import chunks, frames
from tests.helpers.frames import store_info

FULL = OSError(errno.ENOSPC, "No space left on device")


async def finish(path: Path) -> dict[str, Any]:
    """What a process of its own does for the daemon."""
    await trio.lowlevel.checkpoint()
    return asdict(finish_log(str(path)))


def make_hub(directory: Path) -> Hub:
    """A hub in this directory; its logs are not completed."""
    directory.mkdir(parents=True, exist_ok=True)
    return Hub(directory, finish=finish)


@pytest.fixture
async def hub(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Hub]:
    """A hub that completes its logs."""
    one = make_hub(tmp_path / "spool")
    await nursery.start(complete_streams, one)
    yield one
    for stream in one.streams.values():
        stream.close()


def append(hub: Hub, stream: Stream, *data: bytes) -> None:
    """What a pump does: bytes to the log, then look at them."""
    assert stream.log is not None
    stream.log.append(data)
    hub.advance(stream)


def opened(hub: Hub, *data: bytes, kind: str = "stdin", **more: Any) -> Stream:
    """A live stream with some bytes."""
    one = hub.open_stream(kind=kind, **more)
    append(hub, one, *data)
    return one


def real(numbers: Iterable[int]) -> list[bytes]:
    """A store info, and chunks that are some, one for each number."""
    return [store_info(), *(frames.frame(Kind.ARROW, chunks.chunk(number)) for number in numbers)]


async def completed(hub: Hub, stream: Stream) -> None:
    """Wait until a log is complete."""
    while not stream.complete:
        await hub.wait_reshaped(hub.shape)


async def ended(hub: Hub, *data: bytes, **more: Any) -> Stream:
    """A complete stream with some bytes."""
    one = opened(hub, *data, **more)
    hub.end_stream(one, "test")
    await completed(hub, one)
    return one

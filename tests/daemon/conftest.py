"""A hub of one's own, fast: logs in a temporary directory, footers made in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon.completing import complete_streams
from daemon.hub import Hub
from daemon.spool.finish import finish_log


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

from __future__ import annotations

import logging

import pytest
import trio

from daemon.fence import Fence


async def test_an_exception_ends_here(caplog: pytest.LogCaptureFixture) -> None:
    with Fence("output x") as fence:
        raise KeyError("size")
    assert fence.fault == "a bug in rrd: KeyError('size')"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("output x: a bug in rrd: KeyError")
    assert record.exc_info is not None  # the traceback is for whoever mends it


async def test_a_nurserys_group_is_named_by_what_is_in_it(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("inside")

    with Fence("output x") as fence:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
    assert fence.fault == "a bug in rrd: ZeroDivisionError('inside')"


async def test_nothing_happened() -> None:
    with Fence("output x") as fence:
        pass
    assert fence.fault == ""


async def test_cancellation_passes() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        with Fence("output x") as fence:
            await trio.lowlevel.checkpoint()
        raise AssertionError("it went on")
    assert scope.cancelled_caught
    assert fence.fault == ""


def test_the_end_of_the_process_passes() -> None:
    with pytest.raises(SystemExit), Fence("output x"):
        raise SystemExit(3)

"""The pace of viewers in a burst: a clock that jumps, a program that logs, and viewers that would take anything."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import trio
import trio.testing

from daemon.hub import Hub
from daemon.pace import FAST, THRIFTY, Pace, core_time

MB = 1_000_000
FAST_MB = int(4 * FAST / MB)


@pytest.fixture
def cores() -> Callable[[], tuple[int, int]]:
    """Half of the time that the daemon wants a core it has none."""
    return lambda: (int(trio.current_time() * 5e8), int(trio.current_time() * 5e8))


async def burst(
    hub: Hub, pace: Pace, *, megabytes_a_second: int, batches: list[int], seconds: float = 5.0
) -> tuple[list[int], int]:
    """What each viewer sent while a program logged, MB, and what was logged.

    Args:
        batches: The size of the batches of each viewer, MB; sending takes 2 ms a MB.
    """
    sent, until, begin = [0] * len(batches), trio.current_time() + seconds, hub.arrived

    async def program() -> None:
        while trio.current_time() < until:
            await trio.sleep(0.01)
            hub.arrived += megabytes_a_second * MB // 100
            hub.changed()

    async def viewer(number: int, size: int) -> None:
        me = object()
        while True:
            await pace.turn(me)
            if trio.current_time() >= until:
                return
            pace.spent(size * MB)
            sent[number] += size
            await trio.sleep(0.002 * size)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(program)
        for number, size in enumerate(batches):
            nursery.start_soon(viewer, number, size)
    return sent, (hub.arrived - begin) // MB


async def test_viewers_take_turns_in_a_burst(
    hub: Hub, autojump_clock: trio.testing.MockClock, cores: Callable[[], tuple[int, int]]
) -> None:
    """Together they send a part of what comes in, each as much as the others."""
    pace = Pace(hub, trio.current_time, cores)
    sent, logged = await burst(hub, pace, megabytes_a_second=FAST_MB, batches=[1, 1, 1, 1])
    assert 0.8 * THRIFTY * logged < sum(sent) < 1.4 * THRIFTY * logged
    assert min(sent) > 0.8 * max(sent)


async def test_one_viewer_is_not_held_back(
    hub: Hub, autojump_clock: trio.testing.MockClock, cores: Callable[[], tuple[int, int]]
) -> None:
    sent, logged = await burst(hub, Pace(hub, trio.current_time, cores), megabytes_a_second=FAST_MB, batches=[1])
    assert sum(sent) > 2 * logged


async def test_viewers_of_a_slow_program_are_not_held_back(
    hub: Hub, autojump_clock: trio.testing.MockClock, cores: Callable[[], tuple[int, int]]
) -> None:
    pace = Pace(hub, trio.current_time, cores)
    sent, logged = await burst(hub, pace, megabytes_a_second=int(FAST / MB / 2), batches=[1, 1, 1, 1])
    assert min(sent) > 2 * logged


async def test_where_there_are_cores_nobody_is_held_back(hub: Hub, autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(hub, trio.current_time, lambda: (int(trio.current_time() * 1e9), 0))
    sent, logged = await burst(hub, pace, megabytes_a_second=FAST_MB, batches=[1, 1, 1, 1])
    assert min(sent) > 2 * logged


async def test_the_pace_rises_when_cores_become_free(hub: Hub, autojump_clock: trio.testing.MockClock) -> None:
    waited = [1]
    pace = Pace(hub, trio.current_time, lambda: (0, int(trio.current_time() * 1e9 * waited[0])))
    held, _ = await burst(hub, pace, megabytes_a_second=FAST_MB, batches=[1, 1])
    waited[0] = 0
    free, logged = await burst(hub, pace, megabytes_a_second=FAST_MB, batches=[1, 1])
    assert min(free) > 2 * max(held)
    assert min(free) > logged


async def test_a_batch_of_any_size_passes_and_the_others_go_on(
    hub: Hub, autojump_clock: trio.testing.MockClock, cores: Callable[[], tuple[int, int]]
) -> None:
    """A message of 200 MB is more than all room there ever is; the debt is paid back by what comes in."""
    pace = Pace(hub, trio.current_time, cores)
    sent, logged = await burst(hub, pace, megabytes_a_second=FAST_MB, batches=[200, 1, 1, 200], seconds=30.0)
    assert min(sent[0], sent[3]) >= 1000
    assert min(sent[1], sent[2]) > 0
    assert sum(sent) < 1.5 * THRIFTY * logged


async def test_a_program_that_stops_for_a_while_starves_nobody(
    hub: Hub, autojump_clock: trio.testing.MockClock, cores: Callable[[], tuple[int, int]]
) -> None:
    """The burst is over then: who waits goes on within a moment, whatever was owed."""
    pace = Pace(hub, trio.current_time, cores)
    await burst(hub, pace, megabytes_a_second=FAST_MB, batches=[1, 1])
    pace.spent(1000 * MB)
    with trio.fail_after(0.5):
        await pace.turn(pace)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells how long a process waits for a core")
def test_the_system_tells_what_cores_were_wanted() -> None:
    before = core_time()[0]
    sum(range(3_000_000))
    assert core_time()[0] > before

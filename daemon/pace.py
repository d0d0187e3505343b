"""Programs go first: what viewers may take while a program logs as fast as it can and cores are scarce.

    a program logs fast, the daemon waits for a core, several viewers ask    -> they take turns, and together send about
                                                                                what comes in: they cost what one costs
    anything else                                                            -> nobody waits

Rules: nobody is starved: whoever asks gets its turn in the order of asking, a batch of any size passes whole, and LEAST
bytes a second are sent whatever comes in; a single viewer is never held back; what was held back follows as soon as
there is room, so it costs a viewer time and never a message.

Why by bytes and not by the system's priorities: viewers are processes of their own, and not ours; they work when they
are sent something. Why the daemon's own waiting: it shows on any machine, whoever uses the cores, and goes away by
itself where there are enough of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from daemon.hub import Hub

LOOK_S = 0.05
"""How often it is looked again how things stand."""
FAST = 50e6
"""Bytes a second that come in, from which on a program counts as logging fast."""
SLOW = 5e6
"""It does so no longer when less than this comes in: what slows it down may be the viewers."""
SCARCE = 0.1
"""Part of the time in which the daemon wanted a core and had none."""
THRIFTY = 0.5
"""Bytes sent for each that comes in while cores are scarce: what is sent late has left the processor's caches, and
several viewers wake up for it, so that a byte costs about twice what it costs to send it to one viewer at once."""
FREELY = 16.0
"""Bytes sent for each that comes in, beyond which nothing is held back any more."""
MORE = 1.25
"""So much more is tried after each look at which cores were not scarce."""
LEAST = 5e6
"""Bytes a second that are sent at any time."""
SAVED = 8 << 20
"""Bytes that may be sent at once after a pause."""


def core_time() -> tuple[int, int]:
    """Nanoseconds this process's main thread has had a core, and waited for one (Linux; elsewhere it never waits).

    Source: proc(5), /proc/<pid>/schedstat.
    """
    try:
        with open("/proc/self/schedstat", "rb") as file:
            ran, waited, _ = file.read().split()
    except (OSError, ValueError):
        return 0, 0
    return int(ran), int(waited)


class Pace:
    """The pace of all viewers of a hub.

    Args:
        hub: Its `arrived` tells how much programs log.
        clock: Seconds.
        cores: See `core_time`.
    """

    def __init__(self, hub: Hub, clock: Callable[[], float] = time.monotonic,
                 cores: Callable[[], tuple[int, int]] = core_time) -> None:
        self._hub = hub
        self._clock = clock
        self._cores = cores
        self._line = trio.Lock()
        self._asking: set[int] = set()
        self._share = FREELY
        self._room = 0.0
        self._seen, self._seen_at = 0, 0.0
        self._looked, self._looked_at, self._core_time = 0, 0.0, (0, 0)
        self._fast = False

    async def turn(self, who: object) -> None:
        """Wait until a viewer may send its next batch."""
        self._asking.add(id(who))
        self._look()
        if self._share >= FREELY:
            return
        async with self._line:
            while self._share < FREELY and self._room <= 0:
                with trio.move_on_after(LOOK_S):
                    await self._hub.wait_change(self._hub.version)
                self._look()

    def spent(self, size: int) -> None:
        """So many bytes were sent."""
        self._room -= size

    def _look(self) -> None:
        now, arrived = self._clock(), self._hub.arrived
        self._room = min(SAVED, self._room + self._share * (arrived - self._seen) + LEAST * (now - self._seen_at))
        self._seen, self._seen_at = arrived, now
        passed = now - self._looked_at
        if passed < LOOK_S:
            return
        ran, waited = self._cores()
        wanted = ran + waited - sum(self._core_time)
        scarce = waited - self._core_time[1] > SCARCE * wanted
        self._fast = (arrived - self._looked) / passed > (SLOW if self._fast else FAST)
        self._looked, self._looked_at, self._core_time = arrived, now, (ran, waited)
        line = self._line.statistics()
        if not self._fast or len(self._asking) + line.tasks_waiting + line.locked < 2:
            self._share = FREELY
        elif scarce:
            self._room = self._room if self._share < FREELY else 0.0
            self._share = THRIFTY
        else:
            self._share = min(FREELY, self._share * MORE)
        self._asking.clear()



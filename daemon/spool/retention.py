"""Which ended recordings go when the spool grows too large or the disk too full: the oldest first.

Rules: live streams and what a sink still reads never go; nothing is deleted here, only chosen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

DEFAULT_MAX_BYTES = 50 << 30
DEFAULT_MIN_FREE_BYTES = 2 << 30


@dataclass(frozen=True)
class Candidate:
    """An ended log. `ended_at` in Unix seconds, `size` in bytes, `frees` what deleting it gives back to the disk."""

    id: str
    ended_at: float
    size: int
    frees: int


def choose(candidates: Iterable[Candidate], *, total: int, free: int, max_bytes: int, min_free: int,
           full: bool = False) -> list[str]:
    """Ids to remove, oldest first, until both limits hold or nothing is left.

    Args:
        candidates: Logs that may go.
        total: Bytes of all ended logs.
        free: Bytes free on their disk.
        max_bytes: The ended logs may be so large.
        min_free: So much of the disk is left to others.
        full: The disk takes no more, whatever `free` says (a quota, no inodes): one goes that gives something back.
    """
    def enough() -> bool:
        return total <= max_bytes and free >= min_free and not full

    chosen: list[str] = []
    if enough():
        return chosen  # as nearly always: thousands of candidates are not looked up for this
    for candidate in sorted(candidates, key=lambda one: one.ended_at):
        if enough():
            break
        if total <= max_bytes and candidate.frees == 0:
            continue  # only space is short, and this one gives none back: a file elsewhere is the same one
        chosen.append(candidate.id)
        total -= candidate.size
        free += candidate.frees
        full = full and candidate.frees == 0
    return chosen

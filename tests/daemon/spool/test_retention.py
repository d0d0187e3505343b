from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.spool.retention import Candidate, choose

CANDIDATES = st.lists(
    st.tuples(st.floats(0, 100), st.integers(0, 50), st.booleans()), max_size=8,
).map(lambda rows: [Candidate(str(number), ended, size, size if alone else 0)
                    for number, (ended, size, alone) in enumerate(rows)])


def old(number: int, size: int, frees: int | None = None) -> Candidate:
    return Candidate(str(number), float(number), size, size if frees is None else frees)


def test_nothing_while_the_limits_hold() -> None:
    assert choose([old(1, 10)], total=10, free=5, max_bytes=10, min_free=5) == []


def test_the_oldest_first_and_no_more_than_needed() -> None:
    candidates = [old(3, 10), old(1, 10), old(2, 10)]
    assert choose(candidates, total=30, free=0, max_bytes=25, min_free=0) == ["1"]
    assert choose(candidates, total=30, free=0, max_bytes=10, min_free=0) == ["1", "2"]
    assert choose(candidates, total=30, free=0, max_bytes=100, min_free=15) == ["1", "2"]
    assert choose(candidates, total=30, free=0, max_bytes=0, min_free=99) == ["1", "2", "3"]


def test_what_gives_nothing_back_stays_when_only_space_is_short() -> None:
    """A hard link elsewhere keeps the bytes: removing the log would only lose its name."""
    candidates = [old(1, 10, 0), old(2, 10)]
    assert choose(candidates, total=20, free=0, max_bytes=100, min_free=5) == ["2"]
    assert choose(candidates, total=20, free=0, max_bytes=15, min_free=0) == ["1"]


def test_a_disk_that_refuses_bytes_is_full_whatever_it_says() -> None:
    """A quota, or no inodes: one goes that gives something back, and no more before it is tried again."""
    candidates = [old(1, 10, 0), old(2, 10), old(3, 10)]
    assert choose(candidates, total=30, free=99, max_bytes=100, min_free=5, full=True) == ["2"]
    assert choose(candidates, total=30, free=99, max_bytes=15, min_free=5, full=True) == ["1", "2"]
    assert choose(candidates, total=30, free=0, max_bytes=100, min_free=20, full=True) == ["2", "3"]
    assert choose(candidates[:1], total=10, free=99, max_bytes=100, min_free=5, full=True) == []


@given(CANDIDATES, st.integers(0, 100), st.integers(0, 300), st.integers(0, 100))
def test_the_limits_hold_or_nothing_is_left(candidates: list[Candidate], free: int, most: int, least: int) -> None:
    total = sum(one.size for one in candidates)
    chosen = choose(candidates, total=total, free=free, max_bytes=most, min_free=least)
    assert len(set(chosen)) == len(chosen)
    by_id = {one.id: one for one in candidates}
    gone = [by_id[name] for name in chosen]
    assert [one.ended_at for one in gone] == sorted(one.ended_at for one in gone)
    left = [one for one in candidates if one.id not in chosen]
    total -= sum(one.size for one in gone)
    free += sum(one.frees for one in gone)
    assert (total <= most and free >= least) or not [one for one in left if one.frees or total > most]
    if chosen:
        last = gone[-1]
        before_total, before_free = total + last.size, free - last.frees
        assert before_total > most or before_free < least, "one too many"

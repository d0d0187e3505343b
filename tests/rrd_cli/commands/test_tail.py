"""When `rrd tail -f` looks again. What it does with files and recordings: test_tailing.py and tests/integration."""

from __future__ import annotations

import time

import pytest

from rrd_cli.commands import tail


@pytest.mark.parametrize(("quiet", "seconds"), [(0.0, 0.01), (0.02, 0.01), (0.2, 0.05), (0.6, 0.15), (1.0, 0.25),
                                               (3600.0, 0.25)])
def test_it_looks_less_often_the_longer_nothing_came(monkeypatch, quiet, seconds):
    monkeypatch.setattr(time, "monotonic", lambda: 10_000.0)
    assert tail.pause(10_000.0 - quiet) == pytest.approx(seconds)

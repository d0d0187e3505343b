from __future__ import annotations

import pytest

from rrd_cli import times
from rrd_cli.errors import UsageError


@pytest.mark.parametrize(("text", "seconds"), [
    ("500ms", 0.5), ("30s", 30), ("30min", 1800), ("30m", 1800), ("12h", 43200), ("7d", 604800), ("2 w", 1209600),
    ("1.5D", 129600), (" 5s ", 5), ("0", 0), ("2.5", 2.5), (None, None),
])
def test_lengths_of_time(text, seconds):
    assert times.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "-7d", "7y", "7d 3h", "1e9", "inf"])
def test_no_lengths_of_time(text):
    with pytest.raises(UsageError, match="not a length of time"):
        times.seconds(text)


def test_a_unit_where_it_matters():
    assert times.seconds("7d", bare=False) == 604800
    with pytest.raises(UsageError, match="not a length of time: 7"):
        times.seconds("7", bare=False)

"""Lengths of time as people write them: `500ms`, `30s`, `2min`, `7d`."""

from __future__ import annotations

import re
from typing import Final

from rrd_cli.errors import UsageError

UNITS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def seconds(text: str | None, *, bare: bool = True) -> float | None:
    """How many seconds they are; None for None, an option that was not said.

    Args:
        text: A number and a unit.
        bare: A number without a unit is one of seconds; else it is refused: nobody means an age of 7 s with `7`.

    Raises:
        UsageError: it is no length of time.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if found is None or not (found[2] in UNITS or (bare and not found[2])):
        raise UsageError(f"not a length of time: {text}", f"a number and a unit ({', '.join(UNITS)}): 30s")
    return float(found[1]) * UNITS[found[2] or "s"]

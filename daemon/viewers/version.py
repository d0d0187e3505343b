"""Which viewer can show which stream: versions read, compared and explained.

Rules: a viewer of the stream's version or a newer one is right; the rest is a table of what was measured, and says
what is lost and what to do; a version that is not known is not held against anyone.

Measured with SDK and viewer 0.23.4 to 0.41.0, each into each: 0.24 was the first to read streams of other versions; an
SDK newer than 0.24 leaves out a field without which a 0.24 viewer drops the store info; a 0.23 viewer drops
every message of a newer SDK ("Missing row_id column"). 0.22 and older speak another protocol altogether.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TypeAlias

Version: TypeAlias = tuple[int, int, int]

FIRST_GRPC: Version = (0, 23, 0)
FIRST_SELF_DESCRIBING: Version = (0, 25, 0)
"""From here on SDKs write the application id into the store id only."""
FIRST_TOLERANT: Version = (0, 26, 0)
"""From here on viewers show newer streams as far as they can, with a warning."""
FIRST_HEADLESS: Version = (0, 36, 0)
FIRST_NEW_FLAG: Version = (0, 31, 0)

_IN_TEXT = re.compile(r"(\d+)\.(\d+)\.(\d+)")


class Fit(enum.Enum):
    """How a stream and a viewer go together."""

    RIGHT = "right"
    PARTLY = "partly"
    LOSES = "loses"


@dataclass(frozen=True)
class Verdict:
    """What is to be expected. `message` and `hint` are empty where all is right."""

    fit: Fit
    message: str = ""
    hint: str = ""


RIGHT = Verdict(Fit.RIGHT)


def parse_version(text: str) -> Version | None:
    """The first `1.2.3` in a text (what `rerun --version` prints, a dist-info's name), or None."""
    found = _IN_TEXT.search(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def show(version: Version | None) -> str:
    """`0.41.0`, or `unknown`."""
    return "{}.{}.{}".format(*version) if version else "unknown"


def compare(stream: Version | None, viewer: Version | None) -> Verdict:
    """Whether a viewer can show a stream.

    Args:
        stream: The SDK's version, None if it is not known.
        viewer: The viewer's.
    """
    if viewer is None:
        return RIGHT
    if viewer < FIRST_GRPC:
        return Verdict(
            Fit.LOSES,
            f"a viewer of version {show(viewer)} does not speak gRPC and would show nothing",
            "use a viewer of version 0.23 or newer: pip install -U rerun-sdk",
        )
    if stream is None or viewer[:2] >= stream[:2]:
        return RIGHT
    fix = f"use a viewer of version {stream[0]}.{stream[1]} or newer: pip install 'rerun-sdk>={show(stream)}'"
    pair = f"the stream is of Rerun {show(stream)}, the viewer of {show(viewer)}"
    if viewer < (0, 24, 0):
        return Verdict(Fit.LOSES, f"{pair}: it would drop every message", fix)
    if viewer < FIRST_TOLERANT and stream >= FIRST_SELF_DESCRIBING:
        return Verdict(Fit.LOSES, f"{pair}: it would drop the recording's name, and with it the recording", fix)
    return Verdict(Fit.PARTLY, f"{pair}: what is newer than it may be missing", fix)

"""The recordings that the daemon has, all of them: a daemon with very many answers in parts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rrd_cli.client import REPLY_DEADLINE

if TYPE_CHECKING:
    from rrd_cli.client import Client


def fetch(client: Client, *, timeout: float = REPLY_DEADLINE) -> list[dict[str, Any]]:
    """Ask for all recordings, as the daemon describes them and in its order: oldest first.

    Args:
        client: Where.
        timeout: Seconds, for all of it.

    Raises:
        NoDaemonError: there is none, or it does not answer in time.
        VerbError: the daemon refused.
    """
    deadline = time.monotonic() + timeout
    found: list[dict[str, Any]] = []
    args: dict[str, Any] = {}
    while True:
        answer = client.call("ls", args, timeout=max(0.0, deadline - time.monotonic()))
        found += answer.get("recordings") or ()
        if not answer.get("more"):  # a message has a size limit
            return found
        args = {"after": answer["more"]}

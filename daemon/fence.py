"""What nobody foresaw in one output, request or connection ends there, and nowhere else.

A bug that is met again at every start (an output is restored, a browser connects again, a client repeats its verb)
would otherwise take the daemon down each time, and every other output with it.

Rules: only around what stands at the edge and keeps no state that others rely on: a sink, a verb, a connection, a rule
of the settings. Around streams, spool and hub there is no fence: with half a state a process must not go on; it ends,
and the keeper starts the next one. Foreseen errors (OSError, SinkFailed, VerbError, ...) are handled inside, each once.
"""

from __future__ import annotations

import logging
from types import TracebackType

log = logging.getLogger("rrd")

HINT = "please report it, with `rrd daemon logs`"


class Fence:
    """Keep an unforeseen exception from going further; cancellation and the process's end pass.

    Args:
        what: Whose fault it is, for the log.

    Attributes:
        fault: What was met, in words, once the block is left; empty if nothing was.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.fault = ""

    def __enter__(self) -> Fence:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False  # Cancelled is none, nor is a group with one in it
        self.fault = f"a bug in rrd: {_innermost(error)!r}"
        log.error("%s: %s; everything else goes on", self.what, self.fault, exc_info=error)
        return True


def _innermost(error: BaseException) -> BaseException:
    """The first of what nurseries have wrapped."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

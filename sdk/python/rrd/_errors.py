"""What the shim raises, and how it warns.

Rules: a missing daemon is never an exception in the user's program, it is one warning on the logger "rrd" (which
Python prints on stderr unless the program says otherwise); what the daemon refuses is an `Error`.
"""

from __future__ import annotations

import contextlib
import sys


class Error(RuntimeError):
    """A request was refused, or did not work.

    Args:
        code: What kind of failure: "usage", "exists", "not-found", "ambiguous", "refused", "failed", "not-built",
            "unknown-verb", "protocol", "stopping", "timeout".
        message: One line for a person.
        hint: What to do about it, or empty.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.code = code
        self.message = message
        self.hint = hint
        self.repeated = False
        """It was said more than once: the daemon went away meanwhile, and what it refuses it may have done before."""


class Unreachable(Exception):
    """No daemon answers, and none could be started. Inside the shim only: the user sees a warning.

    Args:
        message: Why, one line.
        hint: What to do about it, or empty.
        nobody: True when nobody is there, or not any more (as opposed to: somebody is, and does not answer).
    """

    def __init__(self, message: str, hint: str = "", *, nobody: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.nobody = nobody


class ConnectionLost(Exception):
    """The daemon went away in the middle. What was asked may or may not have been done."""


_said: set[str] = set()


def warn(message: str, hint: str = "", *, once: str = "") -> None:
    """Tell the user something, on the logger "rrd".

    Args:
        message: One line.
        hint: What to do about it.
        once: A name; what was said under it once is not said again in this process.
    """
    if once:
        if once in _said:
            return
        _said.add(once)
    import logging

    logging.getLogger("rrd").warning("rrd: %s%s", message, f"; {hint}" if hint else "")


def say(line: str) -> None:
    """A line on standard error, if there is one that can be written to."""
    if sys.stderr is not None:  # print() would take standard output instead, which may carry a recording
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def forget_warnings(*names: str) -> None:
    """Let warnings of these names be said again: what they told of is over."""
    _said.difference_update(names)

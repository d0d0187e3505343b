"""What can go wrong in a verb, as a person is told: one line `error:`, one line `hint:`, one exit code.

Rules: raised anywhere below `app.main`, printed nowhere else. What the daemon refuses arrives as
`daemon.wire.control.VerbError` and ends the same way.
"""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
NO_DAEMON = 3
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
STDOUT = "standard output"
"""What it is called where another error names a file."""


class CliError(Exception):
    """A verb could not do what it was asked.

    Args:
        message: One line for a person, without "error:".
        hint: What to do about it, or empty.
    """

    exit_code = FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(CliError):
    """The command line makes no sense as written."""

    exit_code = USAGE


class NoDaemonError(CliError):
    """There is no daemon and none could be started, or the one there is does not answer."""

    exit_code = NO_DAEMON

"""A real shell on a real terminal: keys go in, what it shows comes out."""

from __future__ import annotations

import os
import pty
import re
import select
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from tests.conftest import DEADLINE_S

PRESS_S = 0.3
"""Seconds between two presses of a key: nobody is quicker."""


class Shell:
    """An interactive shell.

    Args:
        command: The shell, with flags that keep the user's own settings out.
        setup: What it runs first.
        environment: All of it; by default the test's own.
    """

    def __init__(self, command: Sequence[str], setup: str = ":", environment: Mapping[str, str] = os.environ) -> None:
        self.shown = ""
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            own = {**environment, "PS1": "$ ", "TERM": "dumb", "HISTFILE": "/dev/null"}
            os.execvpe(command[0], list(command), own)
        self.type(f"{setup}; echo set''up\n")
        self.wait(r"^setup")

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._terminal, keys.encode())

    def wait(self, pattern: str, *, pressing: str = "") -> re.Match[str]:
        """Wait until this is shown, and forget what was shown up to its end.

        Args:
            pattern: A regular expression; ^ is the beginning of a line.
            pressing: Keys that are pressed again and again meanwhile.
        """
        deadline = time.monotonic() + DEADLINE_S
        next_press = 0.0
        while (found := re.search(pattern, self.shown, re.MULTILINE)) is None:
            assert time.monotonic() < deadline, f"{pattern} was not shown: {self.shown}"
            if pressing and time.monotonic() > next_press:
                self.type(pressing)
                next_press = time.monotonic() + PRESS_S  # a terminal drops what is being shown when it sees Ctrl-C
            if select.select([self._terminal], [], [], 0.1)[0]:
                self.shown += os.read(self._terminal, 4096).decode(errors="replace")
        self.shown = self.shown[found.end() :]
        return found

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        os.kill(self._pid, 9)
        os.waitpid(self._pid, 0)
        os.close(self._terminal)


BASH = ("bash", "--norc", "--noprofile", "-i")
ZSH = ("zsh", "-f", "-i")

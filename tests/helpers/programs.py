"""A real program with the real SDK, streaming into a daemon; and what is found in files.

The program speaks the protocol by itself rather than through the shim, so that the daemon is tested for what it is.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType

from tests.conftest import DEADLINE_S, Home, wait_for

SOURCE = Path(__file__).with_name("program.py")


class Program:
    """Runs tests/helpers/program.py: `rows` rows on timeline "frame", entity "row", values 0, 1, 2, ..."""

    def __init__(self, home: Home, name: str, *, rows: int, pause: float = 0.0, image: int = 0,
                 python: Path | None = None, recording: str = "", save: Path | None = None) -> None:
        self.recording = recording or name.replace(" ", "-")
        self.process = subprocess.Popen(
            [str(python or sys.executable), str(SOURCE), str(home.socket), name, self.recording, str(rows), str(pause),
             str(image), str(save or "")],
            env=home.env, cwd=home.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.stream = self.process.stdout.readline().strip()
        assert self.stream, "the program did not start"

    def __enter__(self) -> Program:
        return self

    def wait_row(self, row: int) -> None:
        """Wait until the program has logged this row."""
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            assert line, f"the program ended before row {row}"
            if int(line) >= row:
                return

    def finish(self) -> None:
        """Wait until it has logged everything and ended by itself."""
        self.process.communicate(timeout=2 * DEADLINE_S)
        assert self.process.returncode == 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def rows(path: Path) -> list[int]:
    """The frame numbers of the rows in a file, sorted, with doubles; read by Rerun's own reader."""
    import rerun.chunk

    found: list[int] = []
    for chunk in rerun.chunk.RrdReader(str(path)).stream():
        batch = chunk.to_record_batch()
        # The reader makes chunks of their own of the indicators that SDKs up to 0.25 sent: those are no rows.
        if chunk.entity_path == "/row" and "TextLog:text" in batch.schema.names:
            found += batch.column("frame").to_pylist()
    return sorted(found)


__all__ = ["Program", "rows", "wait_for"]

"""File systems of a test's own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import missing


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A disk with so much room, made at `path`; needs root."""
    path.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], check=False).returncode:
        missing("the right to mount a tmpfs (root)")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def enlarge(path: Path, size: str) -> None:
    """Make room on such a disk."""
    subprocess.run(["mount", "-o", f"remount,size={size}", path], check=True)

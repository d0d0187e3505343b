"""Byte for byte: what an SDK writes into its pipe is what lies in the spool and in every file, with every SDK."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.wire.footer import footer_is_trustworthy
from daemon.wire.rrd import FRAME_HEADER_SIZE, Kind
from tests.conftest import DEADLINE_S, ROOT, SDKS, Home
from tests.helpers.disks import small_disk
from tests.helpers.footers import footer_of, frames, rebuilt
from tests.helpers.shim import ended

LOGGER = ROOT / "tests" / "helpers" / "logger.py"
PROGRAMS = ("rich", "blueprint", "micro", "empty")
WITHOUT_FOOTERS = ("0.23.4", "0.27.3")


class Tee(threading.Thread):
    """What comes out of a named pipe goes into another pipe, and is remembered."""

    def __init__(self, source: Path, target: int) -> None:
        super().__init__()
        self.source, self.target, self.seen = source, target, bytearray()
        self.start()

    def run(self) -> None:
        with open(self.source, "rb", buffering=0) as source:
            while data := source.read(1 << 16):
                self.seen += data
                left = memoryview(data)
                while left:
                    left = left[os.write(self.target, left) :]


@pytest.mark.parametrize("version", SDKS)
def test_what_the_sdk_writes(daemon: Home, sdk_python: Callable[[str], Path], version: str, verify) -> None:
    """Link, copy and copy on another file system are the log, and the log is what came through the pipe.

    Where the SDK writes no footer, or one that is known to be wrong, ours stands in the place of its End.
    """
    with small_disk(daemon.path / "disk", "64m") as disk:
        for what in PROGRAMS:
            fifo, client = daemon.path / "fifo", daemon.client()
            os.mkfifo(fifo)
            read_end, write_end = os.pipe()
            opened = client.ask("open", fds=[read_end], kind="shim", application_id="app", sdk=version)
            link, copy, other = (where / f"{what}-{name}.rrd" for name, where in (
                ("link", daemon.path), ("copy", daemon.path), ("other", disk)))
            client.ask("save", path=str(link), stream=opened["stream"])
            client.ask("save", path=str(copy), stream=opened["stream"], copy=True)
            client.ask("save", path=str(other), stream=opened["stream"])
            tee = Tee(fifo, write_end)
            done = subprocess.run([sdk_python(version), LOGGER, what, fifo], env=daemon.env, cwd=daemon.path,
                                  capture_output=True, text=True, timeout=4 * DEADLINE_S, check=False)
            assert done.returncode == 0, done.stderr
            tee.join()
            ended(daemon)
            os.close(write_end)
            os.close(read_end)  # as a shim does, not before the daemon has seen the end
            client.close()
            fifo.unlink()
            written, log = bytes(tee.seen), Path(opened["log"]).read_bytes()
            assert len(written) > (100 if what == "empty" else 10_000)
            assert log == written or log == with_our_footer(written, version), what
            assert link.samefile(opened["log"])
            assert not copy.samefile(opened["log"])
            assert copy.read_bytes() == log
            assert other.read_bytes() == log
            # `rerun rrd verify` has nothing good to say of a recording without chunks, whoever wrote it, and panics at
            # messages of 0.23, which have no chunk ids.
            if what != "empty" and version != "0.23.4":
                verify(link, copy, other)


def with_our_footer(data: bytes, version: str) -> bytes:
    """The frames that were written, and our own footer; only where the SDK's cannot stay."""
    if version not in WITHOUT_FOOTERS:
        kinds = {manifest.store.kind for manifest in footer_of(data)}
        assert not footer_is_trustworthy(tuple(map(int, version.split("."))), kinds), "a good footer was replaced"
    end, footer = rebuilt(data)
    assert end == next(start - FRAME_HEADER_SIZE for kind, start, _ in frames(data) if kind == Kind.END)
    return data[:end] + footer

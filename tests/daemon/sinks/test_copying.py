from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from daemon.sinks.copying import NICE, Aside, copy_file, copy_range
from daemon.spool.log import Descriptor
from tests.helpers import frames


class TestAside:
    @pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness of their own")
    async def test_its_low_priority_is_nobody_elses(self) -> None:
        def niceness() -> int:
            return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

        usual = niceness()
        aside = Aside()
        assert await aside.run(niceness) == max(usual, NICE)
        aside.end()
        # Threads that trio keeps do other work next.
        assert [await trio.to_thread.run_sync(niceness) for _ in range(3)] == [usual] * 3
        assert await aside.run(niceness) == max(usual, NICE)
        aside.end()

    async def test_errors_come_back(self) -> None:
        aside = Aside()
        with pytest.raises(ZeroDivisionError):
            await aside.run(lambda: 1 // 0)
        aside.end()

    async def test_what_has_begun_is_waited_for(self) -> None:
        """Cancelled or not: somebody would else write to a file that is being written."""
        aside, begun, go_on, ended = Aside(), threading.Event(), threading.Event(), False

        def work() -> None:
            nonlocal ended
            begun.set()
            assert go_on.wait(30)
            ended = True

        async def cancel() -> None:
            await trio.to_thread.run_sync(begun.wait, 30)
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not ended
            go_on.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            with trio.CancelScope() as scope:
                await aside.run(work)
                assert ended
                await aside.run(lambda: pytest.fail("begun although it was cancelled"))
        assert scope.cancelled_caught
        aside.end()


class TestCopying:
    @pytest.mark.parametrize("built", ["usual", "against an old glibc"])
    def test_ranges_and_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: str) -> None:
        if built != "usual":
            monkeypatch.delattr(os, "copy_file_range", raising=False)
            monkeypatch.setattr("daemon.sinks.copying.COPY_FILE_RANGE", None, raising=False)
        source = Descriptor(frames.opened(frames.write(tmp_path / "a", bytes(range(256)) * 1000)))
        copy_file(source, tmp_path / "b", 100_000)
        assert (tmp_path / "b").read_bytes() == (bytes(range(256)) * 1000)[:100_000]
        with pytest.raises(OSError, match="shorter than it was"):
            copy_file(source, tmp_path / "c", 300_000)
        assert not (tmp_path / "c").exists()
        with pytest.raises(FileExistsError):
            copy_file(source, tmp_path / "b", 1)
        target = os.open(tmp_path / "b", os.O_RDWR)
        assert copy_range(source.fd, target, 10, 0, 5) == 5
        assert os.pread(target, 5, 0) == bytes(range(10, 15))
        os.close(target)

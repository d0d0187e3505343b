from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from daemon.completing import NOT_COMPLETED, finish_file
from daemon.hub import Hub
from daemon.wire.logmsg import BLUEPRINT
from tests.daemon.conftest import FULL, completed, ended, finish, make_hub, opened, real
from tests.helpers import frames
from tests.helpers.frames import arrow, header, numbered, sealed, store_info, stream


class TestComplete:
    async def test_a_log_without_an_end_gets_one(self, hub: Hub) -> None:
        one = await ended(hub, stream(*numbered(2)))
        assert one.path.read_bytes().startswith(stream(*numbered(2)))
        assert one.size == one.path.stat().st_size > one.data_end
        assert one.committed == one.size

    async def test_a_cut_frame_goes_and_is_counted(self, hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
        one = await ended(hub, stream(*numbered(2)), arrow()[:-3])
        assert one.dropped_bytes == len(arrow()) - 3
        assert one.data_end == len(stream(*numbered(2)))
        assert f"{len(arrow()) - 3} bytes of no whole message were dropped" in caplog.text

    async def test_concatenated_streams_become_one(self, hub: Hub) -> None:
        first, second = (stream(*real(numbers), end="sealed") for numbers in ((1, 2), (3, 4)))
        one = opened(hub, first, second)
        assert one.concatenated
        before = one.generation
        hub.end_stream(one, "test")
        await completed(hub, one)
        assert not one.concatenated
        assert one.generation != before
        # The second store info says the same again.
        assert frames.frames_of(one.path.read_bytes()) == frames.payloads(real((1, 2, 3, 4)))
        assert one.messages == 5

    async def test_what_is_no_stream_leaves_nothing(self, hub: Hub) -> None:
        one = await ended(hub, b"just some text, and not so short")
        assert "found b'just'" in one.error
        assert one.path.read_bytes() == b""
        assert (one.data_end, one.dropped_bytes) == (0, 32)

    async def test_a_damaged_header_costs_no_message(self, hub: Hub) -> None:
        data = stream(*real(range(3)))
        for start in (b"RSF2", bytes(4)):
            one = await ended(hub, start, data[4:])
            assert one.error
            assert frames.frames_of(one.path.read_bytes()) == frames.payloads(real(range(3)))
            assert (one.messages, one.dropped_bytes) == (4, 0)
            assert one.header is not None

    async def test_what_somebody_put_into_the_spool_stays(self, hub: Hub) -> None:
        """It may be of an SDK that only other programs can read."""
        path = frames.write(hub.directory / "20200101-000000-abcdef.rrd", b"RRF1", bytes(100))
        hub.load()
        (one,) = hub.unfinished()
        await hub.take_up(one)
        hub.end_stream(one, "ended while there was no daemon")
        await completed(hub, one)
        assert "too old" in one.error
        assert path.read_bytes() == b"RRF1" + bytes(100)

    async def test_an_empty_stream(self, hub: Hub) -> None:
        one = await ended(hub)
        assert one.path.read_bytes() == b""
        assert not one.recordings

    async def test_a_footer_that_sdks_get_wrong_is_replaced(self, hub: Hub) -> None:
        both = header((0, 31, 4, 0)) + b"".join([*numbered(1), store_info("bp", kind=BLUEPRINT)])
        one = await ended(hub, both, sealed(len(both)))
        assert one.path.read_bytes() != both + sealed(len(both))
        assert one.path.read_bytes().startswith(both)
        alone = header((0, 31, 4, 0)) + b"".join(numbered(1))
        two = await ended(hub, alone, sealed(len(alone)))
        assert two.path.read_bytes() == alone + sealed(len(alone))

    async def test_a_footer_waits_for_room(
        self, hub: Hub, autojump_clock: trio.testing.MockClock
    ) -> None:
        tries = 0

        async def full(path: Path) -> dict[str, Any]:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise FULL
            return await finish(path)

        hub.finish = full
        one = opened(hub, stream(*numbered(1)))
        hub.end_stream(one, "test")
        await trio.testing.wait_all_tasks_blocked()
        assert one.stalled
        assert not one.complete
        await completed(hub, one)
        assert tries == 3
        assert not one.stalled
        assert not one.error

    async def test_a_footer_that_cannot_be_is_tried_again_by_the_next_daemon(
        self, hub: Hub, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def broken(path: Path) -> dict[str, Any]:
            raise OSError(errno.EIO, "the disk is broken")

        hub.finish = broken
        one = await ended(hub, stream(*numbered(1)))
        assert one.error.startswith(NOT_COMPLETED)
        assert "the disk is broken" in caplog.text
        again = make_hub(hub.directory)
        again.load()
        assert [stream.id for stream in again.unfinished()] == [one.id]
        assert again.streams[one.id].error == ""


class TestFinishFile:
    async def test_in_a_process_of_its_own(self, tmp_path: Path) -> None:
        path = frames.write(tmp_path / "a.rrd", stream(*numbered(2)), arrow()[:-1])
        result = await finish_file(path)
        assert result["dropped_bytes"] == len(arrow()) - 1
        assert frames.frames_of(path.read_bytes()) == frames.frames_of(stream(*numbered(2)))

    async def test_the_error_is_the_disks_own(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none.rrd"))):
            await finish_file(tmp_path / "none.rrd")

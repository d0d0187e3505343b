from __future__ import annotations

from daemon.hub import Hub
from daemon.stream import RecordingKey
from daemon.wire.logmsg import BLUEPRINT
from daemon.wire.rrd import Kind
from tests.daemon.conftest import opened
from tests.helpers import frames
from tests.helpers.frames import arrow, header, store_info, stream


class TestRecordings:
    async def test_applications_of_old_sdks(self, hub: Hub) -> None:
        """Before 0.25 only the store info names the application."""
        one = opened(hub, header((0, 23, 4, 0)), store_info("rec", "app", version=(0, 23, 4), old=True),
                     arrow("rec", ""))
        assert list(one.recordings) == [RecordingKey("app", "rec")]
        assert one.recordings[RecordingKey("app", "rec")].messages == 2
        assert one.sdk_version == (0, 23, 4)

    async def test_blueprints_are_no_recordings(self, hub: Hub) -> None:
        one = opened(hub, stream(store_info("bp", kind=BLUEPRINT), arrow("bp", kind=BLUEPRINT)))
        assert one.recordings == {}
        assert one.messages == 2

    async def test_ids_that_cannot_be_read(self, hub: Hub) -> None:
        one = opened(hub, stream(frames.frame(Kind.ARROW, b"\x0a\x02\xff\xff"), frames.frame(Kind.ARROW, b"")))
        assert one.messages == 2
        assert list(one.recordings) == [RecordingKey("", "(unreadable)")]

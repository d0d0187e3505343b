"""Rerun's own port, 9876, when the user gives it to us (`takeover`): every program that would have found a viewer there
still ends in a window, and what it logs is in the spool as well.

    rr.spawn(), connect_grpc()   find somebody on 9876 and stream to us      ─┐
    rerun FILE                   finds somebody there and streams the file    ├─> a viewer on another port, fed with it
    rerun                        finds somebody there, says nothing, and goes ─┘

Rules: one viewer for all; none is opened while one that shows everything is; one that could not be opened is not tried
again and again. Our own probes ask who is there and so are no program that wants a viewer.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from daemon.auto import Nobody
from daemon.control.server import Call, perform
from daemon.ingest.grpc import GrpcServer
from daemon.sinks.viewer import ViewerSink
from daemon.wire.control import VerbError
from daemon.wire.grpc import DEFAULT_PORT

if TYPE_CHECKING:
    from daemon.app import Daemon

log = logging.getLogger("rrd.takeover")

QUIET_S = 10.0
"""After a viewer could not be opened, no other is tried for so long."""


class Takeover:
    """Answers Rerun's own port.

    Attributes:
        server: The same service as on our own port.
        error: Why there is no viewer, or empty.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.server = GrpcServer(
            daemon.hub, DEFAULT_PORT, newest_first=daemon.settings.newest_first, on_contact=self._wanted)
        self.error = ""
        self._opening = False
        self._quiet_until = 0.0

    @property
    def status(self) -> str:
        """What is wrong, for `rrd status`; empty if nothing is."""
        return self.server.error or self.error

    def _wanted(self, pid: int) -> None:
        if self._opening or trio.current_time() < self._quiet_until or self._shown():
            return
        self._opening = True
        self._daemon.nursery.start_soon(self._open, pid)

    def _shown(self) -> bool:
        """A viewer of this machine that shows everything is there."""
        return any(
            isinstance(sink, ViewerSink) and sink.process is not None and sink.selection.open_ended
            for sink in self._daemon.sinks.active()
        )

    async def _open(self, pid: int) -> None:
        client = Nobody()
        client.pid = pid  # the viewer opens where that program's user sits
        try:
            await perform(Call(self._daemon, client, 0, "spawn", {"source": ["@live"]}))
        except VerbError as error:
            self.error = f"no viewer for port {DEFAULT_PORT}: {error.message}"
            self._quiet_until = trio.current_time() + QUIET_S
            log.error("%s; %s", self.error, error.hint)
        else:
            self.error = ""
        finally:
            self._opening = False

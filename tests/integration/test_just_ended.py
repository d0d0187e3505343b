"""Between a recording's end and its footer it is neither live nor complete, and is shown all the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.conftest import Home
from tests.helpers.viewers import GrpcProgram, Server, grpc_url, until


def test_a_recording_that_has_just_ended_is_shown(daemon: Home, rerun: Path) -> None:
    """No wait for the footer here: that moment is what is tested, again and again."""
    with Server(daemon, rerun, "--serve-grpc") as server:
        for number in range(5):
            source = f'rr.init("app", recording_id="run{number}"); rr.connect_grpc(URL); log(0, 20)'
            with GrpcProgram(daemon, sys.executable, source, grpc_url(daemon)) as program:
                program.finish()
            answer = json.loads(daemon.cli("connect", server.url, "--json").stdout)
            assert f"run{number}" in answer["chose"]
            name = answer["sink"]["id"]
            until(daemon, name, lambda found: found["delivered_messages"] > 0, "delivery")
            daemon.cli("detach", name)

"""The flags of Rerun's example scripts, with the daemon behind them.

Rules: the flags themselves are the installed SDK's own, so that a script takes what it always took; what a flag does is
what it did, but outputs add up, and nothing waits at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import rrd

from . import _sdk
from ._errors import Error, warn

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from uuid import UUID

    import rerun as rr


def add_args(parser: ArgumentParser) -> None:
    """See `rrd.script_add_args`."""
    import rerun

    rerun.script_add_args(parser)


def setup(
    args: Namespace,
    application_id: str,
    recording_id: str | UUID | None,
    default_blueprint: rr.BlueprintLike | None,
) -> rr.RecordingStream:
    """See `rrd.script_setup`."""
    import rerun

    rerun.init(application_id, recording_id=recording_id, default_enabled=True, strict=True)
    recording = rerun.get_global_data_recording()
    if recording is None:
        raise Error("failed", "rerun.init() made no recording")
    # The first call of these passes the blueprint on; once is enough.
    shown = False
    if args.serve:
        rrd.serve(default_blueprint=default_blueprint, recording=recording)
        shown = True
    if args.connect:
        rrd.connect(args.url, default_blueprint=None if shown else default_blueprint, recording=recording)
        shown = True
    if args.stdout:
        rrd.stdout(default_blueprint=None if shown else default_blueprint, recording=recording)
        shown = True
    if args.save is not None:
        rrd.save(args.save, default_blueprint=None if shown else default_blueprint, recording=recording)
        shown = True
    if not shown and args.headless:
        rrd.attach(recording, default_blueprint=default_blueprint)
    elif not shown:
        try:
            rrd.spawn(default_blueprint=default_blueprint, recording=recording)
        except Error as error:
            # Nobody said --spawn: a robot without a screen must not stop for it, as it does not with Rerun's helper.
            warn(f"no viewer: {error}", "the program goes on, what it logs is kept; --headless asks for no viewer")
    return recording


def teardown(args: Namespace) -> None:
    """See `rrd.script_teardown`."""
    del args
    target = _sdk.resolve(None)
    if target is not None:
        _sdk.start_flush(target.recording)

"""`reload`: the settings are read again."""

from __future__ import annotations

from daemon.control.server import Call
from daemon.settings import SettingsError
from daemon.wire.control import Message, VerbError


async def run(call: Call) -> Message:
    """Take new settings without dropping a stream; bad ones are refused and the old ones stay.

    Raises:
        VerbError: the settings cannot be used.
    """
    try:
        call.daemon.reload()
    except SettingsError as error:
        raise VerbError("refused", str(error), error.hint) from error
    return {}

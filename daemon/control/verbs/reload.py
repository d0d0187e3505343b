"""`reload`: the settings are read again."""

from __future__ import annotations

from daemon import settings
from daemon.control.server import Call
from daemon.settings import SettingsError
from daemon.wire.control import Message, VerbError


async def run(call: Call) -> Message:
    """Take new settings without dropping a stream; bad ones are refused and the old ones stay.

    Returns:
        changed (keys that are in force now), restart (changed keys that only a restart brings into force).

    Raises:
        VerbError: the settings cannot be used.
    """
    before = call.daemon.settings
    try:
        call.daemon.reload()
    except SettingsError as error:
        raise VerbError("refused", f"{error}; the old settings stay", error.hint) from error
    now = call.daemon.settings
    changed = [key for key in settings.described() if getattr(before, key) != getattr(now, key)]
    late = [key for key in changed if settings.described()[key]["restart"]]
    return {"changed": [key for key in changed if key not in late], "restart": late}

"""`settings`: what the daemon goes by now."""

from __future__ import annotations

import dataclasses

from daemon import settings
from daemon.control.server import Call
from daemon.settings import Rule
from daemon.wire.control import Message


async def run(call: Call) -> Message:
    """The value of every setting; rules as maps of what they say."""
    return {key: [_rule(one) for one in value] if isinstance(value, tuple) else value
            for key in settings.described() for value in [getattr(call.daemon.settings, key)]}


def _rule(rule: Rule) -> Message:
    said = dataclasses.asdict(rule)
    return {"application": rule.application, rule.action: said[rule.action]}

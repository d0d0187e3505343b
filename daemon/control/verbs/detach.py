"""`detach`: an output ends while its recordings go on."""

from __future__ import annotations

import trio

from daemon.control.server import Call
from daemon.control.verbs.save import PROGRESS_S
from daemon.sinks.file import FileSink
from daemon.sinks.runner import Sink, describe
from daemon.wire.control import Message, VerbError


async def run(call: Call) -> Message:
    """Remove an output; a file is completed with what it has by then. An asker who hangs up before has not asked.

    Args of the verb: sink (an id, its target, or "all").

    Returns:
        sinks: what they were, as in status. Meanwhile progress: sink, target, done_bytes, total_bytes.

    Raises:
        VerbError: there is no such output, or its file cannot be completed.
    """
    name = call.text("sink")
    sinks = call.daemon.sinks
    if name == "all":
        chosen = sinks.active()
    else:
        chosen = [sink for sink in sinks.active() if name in (sink.id, sink.target)]
        if not chosen and name in sinks.sinks:
            state = sinks.sinks[name].state
            raise VerbError("not-found", f"sink {name} is {state} already", "rrd status lists the outputs")
        if not chosen:
            active = ", ".join(sink.id for sink in sinks.active()) or "none"
            raise VerbError("not-found", f"no output is called {name}", f"outputs that are active: {active}")
    for sink in chosen:
        await _detach(call, sink)
    return {"sinks": [sink.status() for sink in chosen]}


async def _detach(call: Call, sink: Sink) -> None:
    failure: OSError | None = None
    async with trio.open_nursery() as nursery:
        if isinstance(sink, FileSink):
            nursery.start_soon(_report, call, sink)
        try:
            await call.daemon.sinks.detach(sink)
        except OSError as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise VerbError("failed", f"sink {sink.id} is detached, its file is not complete: {describe(failure)}",
                        f"rrd recover {sink.target}") from failure


async def _report(call: Call, sink: FileSink) -> None:
    """Say how far it is, until cancelled: a link to a long log is copied first."""
    while True:
        await trio.sleep(PROGRESS_S)
        state = sink.progress()
        if state["done_bytes"] < state["total_bytes"]:
            await call.progress({"sink": sink.id, "target": sink.target, **state})

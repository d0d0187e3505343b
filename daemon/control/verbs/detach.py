"""`detach`: an output ends while its recordings go on."""

from __future__ import annotations

from daemon.control.server import Call
from daemon.sinks.runner import describe
from daemon.wire.control import Message, VerbError


async def run(call: Call) -> Message:
    """Remove an output; a file is completed with what it has by then.

    Args of the verb: sink (an id, its target, or "all").

    Returns:
        sinks: what they were, as in status.

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
        try:
            await sinks.detach(sink)
        except OSError as error:
            raise VerbError("failed", f"sink {sink.id} is detached, its file is not complete: {describe(error)}",
                            f"rrd recover {sink.target}") from error
    return {"sinks": [sink.status() for sink in chosen]}

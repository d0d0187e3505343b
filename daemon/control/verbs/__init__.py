"""One file a verb, one function each: `async def run(call) -> Message`."""

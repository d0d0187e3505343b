"""What HTTP and WebSocket cost the daemon, by library: why daemon/web/server.py is h11 and wsproto.

Run: pip install hypercorn trio-websocket, then python -m bench.http_libraries [--rounds N]

    bulk    400 MB in pieces of 1 MiB as one answer without a length
    small   100,000 binary WebSocket messages of 300 bytes, each sent by itself

The server is a process of its own with one trio loop; the client reads and throws away. Printed are medians of the
server's processor time, which other load on the machine changes little, and of the wall time.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import importlib.util
import multiprocessing
import multiprocessing.connection
import resource
import socket
import statistics
import time
from functools import partial
from typing import Any

import trio

PIECE = bytes(1 << 20)
PIECES = 400
MESSAGE = bytes(300)
MESSAGES = 100_000
FRAME = 4 + len(MESSAGE)  # of a WebSocket, unmasked, with a length of 16 bits


async def ours(listener: trio.SocketListener) -> None:
    """daemon/web/server.py: h11 and wsproto."""
    from daemon.web.server import Exchange, serve

    async def answer(exchange: Exchange) -> None:
        if exchange.request.path == "/ws":
            socket_ = await exchange.websocket()
            for _ in range(MESSAGES):
                await socket_.send_bytes(MESSAGE)
        else:
            await exchange.begin(200)
            for _ in range(PIECES):
                await exchange.send(PIECE)
            await exchange.end()

    await serve([listener], answer)


async def trio_websocket(listener: trio.SocketListener) -> None:
    """trio-websocket: WebSockets only."""
    library = importlib.import_module("trio_websocket")

    async def answer(request: Any) -> None:
        connection = await request.accept()
        for _ in range(MESSAGES):
            await connection.send_message(MESSAGE)

    await library.WebSocketServer(answer, [listener]).run()


async def hypercorn(listener: trio.SocketListener) -> None:
    """An ASGI application on hypercorn with its trio worker."""
    config = importlib.import_module("hypercorn.config").Config()
    config.bind = [f"fd://{listener.socket.detach()}"]
    config.errorlog = None

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            for _ in range(MESSAGES):
                await send({"type": "websocket.send", "bytes": MESSAGE})
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(PIECES):
                await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        else:  # lifespan
            while True:
                event = (await receive())["type"]
                await send({"type": event + ".complete"})

    await importlib.import_module("hypercorn.trio").serve(application, config)


CANDIDATES = {
    "h11 + wsproto (rrd)": (ours, "h11", ("bulk", "small")),
    "trio-websocket": (trio_websocket, "trio_websocket", ("small",)),
    "hypercorn, trio worker": (hypercorn, "hypercorn", ("bulk", "small")),
}


def run_server(name: str, pipe: multiprocessing.connection.Connection) -> None:
    """Runs in a process of its own; answers each word with its processor time until now."""

    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            pipe.send(listener.socket.getsockname()[1])
            nursery.start_soon(partial(CANDIDATES[name][0], listener))
            while await trio.to_thread.run_sync(pipe.recv):
                used = resource.getrusage(resource.RUSAGE_SELF)
                pipe.send(used.ru_utime + used.ru_stime)
            nursery.cancel_scope.cancel()

    trio.run(main)


def receive(port: int, what: str) -> float:
    """Ask and read everything; seconds."""
    upgrade = (f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
               f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n") if what == "small" else ""
    size = MESSAGES * FRAME if what == "small" else PIECES * len(PIECE)
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as client:
        begin = time.perf_counter()
        path = "/ws" if what == "small" else "/bulk"
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{upgrade}\r\n".encode())
        while size > 0:
            count = client.recv_into(buffer)
            assert count, f"{size} bytes are missing"
            size -= count
        return time.perf_counter() - begin


def measure(name: str, what: str) -> tuple[float, float]:
    """Processor and wall seconds of one answer."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=run_server, args=(name, there))
    process.start()
    port = here.recv()
    here.send(True)
    before = here.recv()
    wall = receive(port, what)
    here.send(True)
    used = here.recv() - before
    here.send(False)
    process.join()
    return used, wall


def main() -> None:
    """Measure in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    names = [name for name, (_, module, _) in CANDIDATES.items() if importlib.util.find_spec(module)]
    for what in ("bulk", "small"):
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in names if what in CANDIDATES[name][2]}
        for _ in range(rounds):
            for name, results in found.items():
                results.append(measure(name, what))
        for name, results in found.items():
            used, wall = (statistics.median(values) for values in zip(*results, strict=True))
            rate = f"{PIECES * 1.048576 / wall:6.0f} MB/s" if what == "bulk" else f"{MESSAGES / wall:6.0f} /s"
            print(f"{what:<6} {name:<24} processor {used:5.2f} s   wall {wall:5.2f} s   {rate}", flush=True)


if __name__ == "__main__":
    main()

"""`viewers`: the Rerun viewers and servers of this machine."""

from __future__ import annotations

import os

import trio

from daemon.control.server import Call
from daemon.control.verbs.connect import viewers_fed
from daemon.viewers.discover import Found, find, server_at, shown
from daemon.viewers.probe import Answer, probe
from daemon.viewers.version import show
from daemon.wire.control import Message
from daemon.wire.grpc import DEFAULT_PORT, Address

HOSTS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where a listener on all addresses is asked."""


async def run(call: Call) -> Message:
    """Every viewer and Rerun server that runs here: found by process, asked over gRPC.

    Args of the verb: unasked (only found, for somebody who waits for Tab).

    Returns:
        viewers: pid, kind (windowed, headless, web, server, save, sdk, other), version, url (empty: does not answer),
        ports, executable, user, mine, answers, sinks (ids of those that feed it), lag_messages, lag_bytes.
    """
    found = [one for one in await trio.to_thread.run_sync(find) if one.owner.pid != os.getpid()]
    if all(port != DEFAULT_PORT for one in found for _, port in one.ports):
        other = await trio.to_thread.run_sync(server_at, DEFAULT_PORT)
        if other is not None and other.owner.pid != os.getpid():
            found.append(other)
    listed: list[Message] = []

    async def ask(one: Found) -> None:
        answers: dict[tuple[str, int], Answer] = {}

        async def ask_port(host: str, port: int) -> None:
            answers[host, port] = await probe(Address(HOSTS.get(host, host) or "127.0.0.1", port))

        async with trio.open_nursery() as nursery:
            for host, port in () if call.flag("unasked") else one.ports:
                nursery.start_soon(ask_port, host, port)
        if one.kind == "other" and not any(answer.takes_streams for answer in answers.values()):
            return
        listed.append(_entry(call, one, answers))

    async with trio.open_nursery() as nursery:
        for one in found:
            nursery.start_soon(ask, one)
    return {"viewers": sorted(listed, key=lambda entry: int(entry["pid"]))}


def _entry(call: Call, one: Found, answers: dict[tuple[str, int], Answer]) -> Message:
    good = [(host, port) for (host, port), answer in answers.items() if answer.takes_streams]
    version = next((answer.version for answer in answers.values() if answer.version), None) or one.version
    url = ""
    if good:
        host, port = good[0]
        url = Address(HOSTS.get(host, host) or "127.0.0.1", port).url
    ports = [port for _, port in one.ports]
    sinks = viewers_fed(call, one.owner.pid, ports)
    lags = [sink.lag() for sink in sinks]
    return {
        "pid": one.owner.pid,
        "kind": one.kind,
        "version": show(version) if version else "",
        "url": url,
        "ports": sorted(set(ports)),
        "executable": shown(one.executable),
        "program": one.owner.program,
        "user": one.owner.user,
        "mine": one.owner.mine,
        "answers": bool(good),
        "sinks": [sink.id for sink in sinks],
        "lag_messages": sum(messages for messages, _ in lags),
        "lag_bytes": sum(size for _, size in lags),
    }

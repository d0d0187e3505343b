"""What viewers cost a program while it logs as fast as it can: none, one and four of them, real ones.

    python -m bench.viewers [ROUNDS]

The viewers are `rerun --serve-grpc`, and they take CPU time themselves; so the SDK is measured, too, as it feeds one
and four of them by itself, and for each run it is said who used how much CPU time while the program ran.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.place import Place, alternate, place, receiver, report

COUNT = 400
"""Images of 0.92 MB: what a program logs in one to two seconds when nothing holds it up."""


@contextlib.contextmanager
def shown(one: Place, urls: list[str]) -> Iterator[None]:
    """Have viewers show what will be live, and wait until they show all of it at the end."""
    names = [json.loads(one.cli("connect", url, "@live", "--json"))["sink"]["id"] for url in urls]
    yield
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        sinks = {sink["id"]: sink for sink in json.loads(one.cli("status", "--json"))["sinks"]}
        if not any(sinks[name]["lag_messages"] for name in names):
            break
        time.sleep(0.1)
    for name in names:
        one.cli("detach", name)


def cpu(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(one: Place, way: str, count: int) -> float:
    """Seconds that a program needs beside so many viewers.

    Args:
        one: Where the daemon is.
        way: `shim` or `grpc` through the daemon, or `direct`.
        count: How many viewers.
    """
    with contextlib.ExitStack() as stack:
        receivers = [stack.enter_context(receiver(one, "--serve-grpc")) for _ in range(count)]
        urls = [each.url for each in receivers]
        if way == "direct":
            return one.load("img", COUNT, "grpc", *urls)
        daemon = json.loads(one.cli("status", "--json"))["daemon"]
        begin = time.perf_counter()
        with shown(one, urls):
            pids = [int(daemon["pid"]), *(each.pid for each in receivers)]
            before = [cpu(pid) for pid in pids]
            seconds = one.load("img", COUNT, *(("rrd",) if way == "shim" else ("grpc", daemon["grpc_url"])))
            used = [cpu(pid) - was for pid, was in zip(pids, before, strict=True)]
            begin = time.perf_counter()
        caught_up = time.perf_counter() - begin
        one.clear()
    print(f"   {way:6} {count} viewers: program {seconds:5.2f} s, CPU: daemon {used[0]:5.2f} s, viewers "
          f"{sum(used[1:]):5.2f} s; all shown {caught_up:4.1f} s later", flush=True)
    return seconds


def main(rounds: int = 5) -> None:
    with place() as one:
        for way in ("shim", "grpc"):
            found = alternate(rounds, **{f"{count}": lambda way=way, count=count: run(one, way, count)
                                         for count in (0, 1, 4)})
            print(f"-- {way}: {found['0']:.2f} s without a viewer, {found['1']:.2f} s with one")
            report(f"{way}: program with four viewers / with one", found["4"] / found["1"], "<= 1.1")
            report(f"{way}: program with one viewer / with none", found["1"] / found["0"], "-")
        found = alternate(rounds, one=lambda: run(one, "direct", 1), four=lambda: run(one, "direct", 4))
        report("direct, the SDK's own sinks: four viewers / one", found["four"] / found["one"], "-")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:2]))

"""The main job: what a program pays for its outputs, and what the daemon does with its bytes.

    python -m bench.main_job [ROUNDS]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from bench.place import Place, alternate, place, receiver, report

LOADS = (("img", 600, "600 images of 640x480"), ("pts", 3000, "3000 clouds of 20k points"))


def outputs(one: Place, rounds: int) -> None:
    """A program's wall time with one file, with eight, and with copies elsewhere."""
    for kind, count, name in LOADS:
        def timed(mode: str, *paths: Path, kind: str = kind, count: int = count) -> float:
            seconds = one.load(kind, count, mode, *paths)
            if mode.startswith("rrd"):
                one.clear()
            return seconds

        def grpc(kind: str = kind, count: int = count) -> float:
            target = one.disk / "receiver.rrd"
            with receiver(one, "--save", target) as server:
                seconds = one.load(kind, count, "grpc", server.url)
            target.unlink(missing_ok=True)
            return seconds

        eight = [one.disk / f"{index}.rrd" for index in range(8)]
        copies = [one.other / f"{index}.rrd" for index in range(8)]
        found = alternate(
            rounds,
            save=partial(timed, "save", one.disk / "sdk.rrd"),
            grpc=grpc,
            nothing=partial(timed, "nothing"),
            one=partial(timed, "rrd", one.disk / "rrd.rrd"),
            sdk_four=partial(timed, "save", *eight[:4]),
            four=partial(timed, "rrd", *eight[:4]),
            eight=partial(timed, "rrd", *eight),
            copy=partial(timed, "rrd-copy", copies[0]),
            copies=partial(timed, "rrd-copy", *copies),
        )
        for path in (*eight, *copies):
            path.unlink(missing_ok=True)
        print(f"-- {name}: rr.save {found['save']:.2f} s")
        report("attach + one file / rr.save", found["one"] / found["save"], "<= 0.9")
        report("attach + one file / a pipe that is read and forgotten", found["one"] / found["nothing"], "-")
        report("attach + one file / rr.connect_grpc into rerun --save", found["one"] / found["grpc"], "<= 0.5")
        report("four files / rr.set_sinks with four files", found["four"] / found["sdk_four"], "-")
        report("eight files / one", found["eight"] / found["one"], "<= 1.1")
        report("one copy on another file system / rr.save", found["copy"] / found["save"], "<= 1.2")
        report("eight copies on another file system / rr.save", found["copies"] / found["save"], "<= 1.6")


def pipe_to_spool(one: Place, rounds: int) -> None:
    """Bytes a second from a pipe into the spool, against cat."""
    with tempfile.TemporaryDirectory(dir=one.other) as directory:
        source = Path(directory) / "source.rrd"
        one.load("img", 1165, "save", source)  # 1 GiB

        def cat() -> float:
            target = one.disk / "cat.out"
            begin = time.perf_counter()
            subprocess.run(f"cat {source} | cat > {target}", shell=True, check=True)
            seconds = time.perf_counter() - begin
            target.unlink()
            return seconds

        def spool() -> float:
            begin = time.perf_counter()
            feeder = subprocess.Popen(["cat", source], stdout=subprocess.PIPE)
            subprocess.run([sys.executable, "-m", "rrd_cli", "save", one.disk / "spool.out", "-"], stdin=feeder.stdout,
                           env=one.env, check=True, capture_output=True)
            seconds = time.perf_counter() - begin
            (one.disk / "spool.out").unlink()
            one.clear()
            return seconds

        def nothing() -> float:
            begin = time.perf_counter()
            one.cli("status")
            return time.perf_counter() - begin

        found = alternate(rounds, cat=cat, spool=spool, nothing=nothing)
        # The command itself takes as long as any other verb; what counts is the moving.
        report("pipe to spool / cat (bytes a second)", found["cat"] / (found["spool"] - found["nothing"]), ">= 0.8")


def small_messages(one: Place) -> None:
    """Small messages a second that the daemon takes with one core, from its CPU time."""
    begin, cpu = time.perf_counter(), cpu_seconds(one)
    env = {**one.env, "RERUN_FLUSH_NUM_ROWS": "1"}
    done = subprocess.run([sys.executable, Path(__file__).with_name("load.py"), "scalar", "100000", "rrd"], env=env,
                          capture_output=True, text=True, check=True)
    one.clear()
    used = cpu_seconds(one) - cpu
    wall = time.perf_counter() - begin
    print(f"100k one-row messages: program {float(done.stdout):.2f} s, daemon {used:.2f} s of CPU in {wall:.2f} s")
    report("messages the daemon takes a second of CPU / 30k", 100_000 / used / 30_000, ">= 1.0")


def cpu_seconds(one: Place) -> float:
    """CPU seconds that the daemon has used."""
    import json

    pid = json.loads(one.cli("status", "--json"))["daemon"]["pid"]
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_up(one: Place, rounds: int) -> None:
    """`rrd ls` against importing typer."""
    def ls() -> float:
        begin = time.perf_counter()
        subprocess.run([Path(sys.executable).with_name("rrd"), "ls"], env=one.env, check=True, capture_output=True)
        return time.perf_counter() - begin

    def typer() -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import typer"], check=True)
        return time.perf_counter() - begin

    found = alternate(5 * rounds, ls=ls, typer=typer)
    report("rrd ls / python -c 'import typer'", found["ls"] / found["typer"], "<= 2.0")


def memory(one: Place, gigabytes: int) -> None:
    """The daemon's memory after much has passed through it, one copy being stalled all the time."""
    import json

    full = one.other / "stalled"
    full.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", full], check=False).returncode == 0
    count = gigabytes * 1_000_000_000 // 921_600
    target = (full if mounted else one.other) / "copy.rrd"
    one.load("img", count, "rrd-copy", target)
    status = json.loads(one.cli("status", "--json"))
    (state,) = (sink["state"] for sink in status["sinks"] if sink["target"] == str(target))
    rss = status["daemon"]["rss_bytes"] / 1e6
    print(f"{gigabytes} GB in, one copy {state}: daemon {rss:.0f} MB")
    report("memory / 120 MB", status["daemon"]["rss_bytes"] / 120e6, "<= 1.0")
    one.cli("detach", "--all") if not mounted else subprocess.run(
        [sys.executable, "-m", "rrd_cli", "detach", "--all"], env=one.env, check=False, capture_output=True)
    if mounted:
        subprocess.run(["umount", "-l", full], check=False)
    one.clear()


def main(rounds: int = 5) -> None:
    with place() as one:
        start_up(one, rounds)
        small_messages(one)
        pipe_to_spool(one, rounds)
        outputs(one, rounds)
        memory(one, 10)


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:2]))

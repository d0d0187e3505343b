"""`rrd tail` against `cat` into the same pipe, and a save that copies and selects against `cp`; medians, in turns.

    python -m bench.tail [ROUNDS]

Start-up is excluded: that of `rrd tail` by a tail of one header, that of `rrd save` by a save of the stream's other
recording, which is small. A save returns when its file is on the disk, so on a disk `cp` is followed by `sync`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from bench.place import LOAD, Place, alternate, data_frames, place, repeated, report
from daemon.wire.rrd import HEADER_SIZE

SIZE = 500_000_000
IMAGES = 600
"""556 MB."""
IDLE_S = 20.0
RRD = f"{sys.executable} -m rrd_cli"


def seconds(one: Place, command: str) -> float:
    """How long a shell command takes."""
    begin = time.perf_counter()
    subprocess.run(command, shell=True, check=True, env=one.env, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def tail(one: Place, rounds: int) -> None:
    """Files of large and of small messages, without a footer, so that every message has to be looked at."""
    path, nothing = one.other / "long.rrd", one.other / "nothing.rrd"
    for kind, count, name in (("img", 64, "messages of 1 MB"), ("scalar", 20_000, "messages of 1.2 kB")):
        repeated(path, kind, count, SIZE)
        with path.open("rb") as file:
            nothing.write_bytes(file.read(HEADER_SIZE))
        found = alternate(
            rounds,
            cat=partial(seconds, one, f"cat {path} | cat > /dev/null"),
            tail=partial(seconds, one, f"{RRD} tail {path} | cat > /dev/null"),
            nothing=partial(seconds, one, f"{RRD} tail {nothing} | cat > /dev/null"),
        )
        report(f"rrd tail / cat, bytes a second, {name}", found["cat"] / (found["tail"] - found["nothing"]), ">= 0.8")
    path.unlink()


def save(one: Place, rounds: int) -> None:
    """One recording of a stream that carries two, their messages in turns."""
    ours, other, both = (one.disk / f"{name}.rrd" for name in ("ours", "other", "both"))
    for path, kind in ((ours, "img"), (other, "scalar")):
        env = {**one.env, "RERUN_FLUSH_NUM_ROWS": "1", "RECORDING": path.stem}
        logging = [sys.executable, str(LOAD), kind, str(IMAGES), "save", str(path)]
        subprocess.run(logging, check=True, env=env, capture_output=True)
    with both.open("wb") as file:
        file.write(ours.read_bytes()[:HEADER_SIZE])
        for pair in zip(data_frames(ours), data_frames(other), strict=False):
            file.write(b"".join(pair))
    seconds(one, f"{RRD} save {one.disk / 'stdin.rrd'} - < {both}")
    for where, name in ((one.other, "in memory"), (one.disk, "on a disk")):
        target = where / "target.rrd"
        sync = f"&& sync {target}" if where == one.disk else ""
        found = alternate(
            rounds,
            cp=partial(seconds, one, f"cp {ours} {target} {sync}; rm {target}"),
            save=partial(seconds, one, f"{RRD} save {target} ours; rm {target}"),
            nothing=partial(seconds, one, f"{RRD} save {target} other; rm {target}"),
        )
        report(f"selecting save of 556 MB / cp, {name}", (found["save"] - found["nothing"]) / found["cp"], "<= 1.5")
        report("  with start-up and all", found["save"] / found["cp"], "-")


def idle(one: Place) -> None:
    """What `rrd tail -f` costs while nothing comes to a file that somebody holds open."""
    path = one.disk / "idle.rrd"
    repeated(path, "scalar", 10, 1)
    with path.open("ab"):
        command = [sys.executable, "-m", "rrd_cli", "tail", "-f", str(path)]
        tailing = subprocess.Popen(command, env=one.env, stdout=subprocess.DEVNULL)
        time.sleep(5)  # it has started, and been quiet for a while
        before = used(tailing.pid)
        time.sleep(IDLE_S)
        after = used(tailing.pid)
        tailing.terminate()
        tailing.wait()
    report("idle rrd tail -f, percent of a core", 100 * (after - before) / IDLE_S, "<= 0.2")


def used(pid: int) -> float:
    """CPU seconds that a process has used, as exactly as the scheduler knows them."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def main(rounds: int = 7) -> None:
    with place() as one:
        tail(one, rounds)
        save(one, rounds)
        idle(one)


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:2]))

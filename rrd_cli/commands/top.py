"""`rrd top`: a live screen of recordings and outputs. `rrd status` is its still picture.

    every second: ls, status ─> Model (rates, histories) ─> frame(): lines that fit the terminal ─> rich
    keys ─> selection, order, or a verb whose outcome stands in the last line

Rules: frame() is a pure function of model and size; nothing is wider or longer than the terminal, down to 80x24; states
are words, so that nothing is lost without colour. A daemon that goes away is waited for.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from daemon.wire.control import VerbError
from rrd_cli import recordings, render
from rrd_cli.client import Client
from rrd_cli.commands.status import by_interest
from rrd_cli.errors import CliError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.text import Text

EXAMPLES = """
rrd top
rrd top --interval 5          over a slow line
NO_COLOR=1 rrd top
"""

SPARKS: Final = " ▁▂▃▄▅▆▇█"
HISTORY: Final = 12
"""Samples of a sparkline."""
ORDERS: Final = ("newest", "rate", "size", "name")
SMALLEST: Final = (60, 12)
LEAST: Final = 11
"""Columns for a name or a target; where a table leaves it less, a column that says less goes."""
HELP: Final = "q quit  up/down choose  o order  v viewer  w write file  d detach"
ESCAPES: Final = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down", b"k": "up", b"j": "down"}


def run(
    interval: Annotated[float, typer.Option("--interval", "-i", metavar="SECONDS", min=0.1, help="Between looks.")] = 1,
) -> None:
    """Show recordings and outputs as they flow, with rates and lag, until q.

    Keys: up/down (or k/j) choose a row, o changes the order of recordings, v shows the chosen recording in a viewer,
    w writes it to a file here, d detaches the chosen output, q quits.
    """
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise UsageError("rrd top needs a terminal", "rrd status shows the same once; --json for programs")
    from rich.console import Console, Group
    from rich.live import Live

    model = Model()
    console = Console(highlight=False)
    with Client() as client:
        client.connect()
    keys = Keys(sys.stdin.fileno())
    with (Client(may_start=False) as client, _raw_keys(),
          Live(console=console, screen=True, auto_refresh=False) as live):
        due = 0.0
        while True:
            if time.monotonic() >= due:
                _look(client, model)
                due = time.monotonic() + interval
            live.update(Group(*frame(model, console.width, console.height)), refresh=True)
            key = keys.next(max(0.0, due - time.monotonic()))
            if key == "q":
                return
            if key:
                _press(client, model, key)


@dataclass
class Row:
    """A recording or an output, with what it did lately."""

    about: dict[str, Any]
    rate: float = 0.0
    history: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))


@dataclass
class Model:
    """What is shown.

    Attributes:
        cpu: Of the daemon, percent of one core; None: not known.
        chosen: `recording:ID` or `sink:ID`.
        notice: Stands in the last line until the next key: what took longer than a look would not be seen else.
    """

    daemon: dict[str, Any] = field(default_factory=dict)
    recordings: dict[str, Row] = field(default_factory=dict)
    sinks: dict[str, Row] = field(default_factory=dict)
    order: str = ORDERS[0]
    chosen: str = ""
    notice: str = ""
    gone: str = ""
    cpu: float | None = None
    now: float = 0.0
    _clock: float = 0.0
    _cpu_s: float | None = None

    def update(self, status: dict[str, Any], recordings: list[dict[str, Any]], *, clock: float, now: float,
               cpu_s: float | None) -> None:
        """Take in one look.

        Args:
            status, recordings: As the daemon answers to `status` and `ls`.
            clock: Monotonic seconds.
            now: Unix seconds.
            cpu_s: Processor time that the daemon has used, seconds.
        """
        elapsed = clock - self._clock if self._clock else 0.0
        same = status["daemon"].get("pid") == self.daemon.get("pid")
        if cpu_s is not None and self._cpu_s is not None and elapsed and same:
            self.cpu = max(0.0, 100 * (cpu_s - self._cpu_s) / elapsed)
        self._cpu_s, self._clock, self.now, self.gone = cpu_s, clock, now, ""
        self.daemon = status["daemon"]
        self.recordings = _advance(
            self.recordings, {f"{one['application_id']}/{one['recording_id']}": one for one in recordings}, "bytes",
            elapsed)
        self.sinks = _advance(self.sinks, {one["id"]: one for one in by_interest(status["sinks"])},
                              "delivered_messages", elapsed)
        if self.chosen not in self.rows():
            self.chosen = next(iter(self.rows()), "")

    def ordered(self) -> list[str]:
        """Ids of recordings in the order of the screen; what is live comes first."""
        keys = {
            "newest": lambda name: -float(self.recordings[name].about.get("started_at") or 0),
            "rate": lambda name: -self.recordings[name].rate,
            "size": lambda name: -int(self.recordings[name].about.get("bytes") or 0),
            "name": lambda name: name,
        }
        names = sorted(self.recordings, key=keys[self.order])
        return sorted(names, key=lambda name: self.recordings[name].about.get("state") != "live")

    def rows(self) -> list[str]:
        """Everything that can be chosen."""
        return [*(f"recording:{name}" for name in self.ordered()), *(f"sink:{name}" for name in self.sinks)]

    def move(self, step: int) -> None:
        """Choose the row above (-1) or below (1)."""
        rows = self.rows()
        if rows:
            at = rows.index(self.chosen) if self.chosen in rows else 0
            self.chosen = rows[max(0, min(len(rows) - 1, at + step))]


def _advance(old: dict[str, Row], new: dict[str, dict[str, Any]], counter: str, elapsed: float) -> dict[str, Row]:
    rows = {}
    for name, about in new.items():
        row = rows[name] = old.get(name) or Row(about)
        if name in old and elapsed:
            grown = max(0, int(about.get(counter) or 0) - int(row.about.get(counter) or 0))
            row.rate = grown / elapsed
            row.history.append(row.rate)
        row.about = about
    return rows


def spark(history: deque[float]) -> str:
    """Samples as bars of eighths, the highest being full."""
    top = max(history, default=0.0)
    bars = "".join(SPARKS[max(1, round(8 * value / top)) if value else 0] for value in history) if top else ""
    return bars.rjust(HISTORY)


def frame(model: Model, width: int, height: int) -> list[Text]:
    """The screen's lines: exactly `height` of them, none wider than `width`."""
    from rich.text import Text

    if width < SMALLEST[0] or height < SMALLEST[1]:
        lines = [Text(f"too small: {SMALLEST[0]}x{SMALLEST[1]} is needed")]
    else:
        lines = _screen(model, width, height)
    lines = (lines + [Text("")] * height)[:height]
    for line in lines:
        line.no_wrap, line.overflow, line.end = True, "crop", "\n"
        line.truncate(width)
    lines[-1].end = ""
    return lines


def _screen(model: Model, width: int, height: int) -> list[Text]:
    from rich.text import Text

    room = height - 7  # two of head, two titles, two blanks, one foot
    wanted = max(1, len(model.sinks))
    below = min(wanted, max(2, room // 2)) if len(model.recordings) + wanted > room else wanted
    above = room - below
    lines = [*_head(model), Text("")]
    lines += _table(
        ("RECORDING", "STATE", "RATE", "SIZE", "STARTED", "PROGRAM"), (0, 7, 10, 9, 10, 13), width, right=(2, 3, 4),
        spare=5, rows=[(f"recording:{name}", _recording(name, model)) for name in model.ordered()], room=above,
        model=model, nothing="no recording yet: import rrd; rrd.attach()   or rrd run -- CMD")
    lines += [Text("")] * (above + 4 - len(lines))
    lines += [Text("")]
    lines += _table(
        ("OUTPUT", "STATE", "BEHIND", "MSG/S", "", "TARGET"), (12, 10, 9, 8, HISTORY, 0), width, right=(2, 3),
        spare=4, rows=[(f"sink:{name}", _sink(row)) for name, row in model.sinks.items()], room=below,
        model=model, nothing="none: v shows a recording in a viewer, w writes it to a file")
    lines += [Text("")] * (height - 1 - len(lines))
    foot = model.gone or model.notice
    return [*lines[: height - 1], Text(render.clean(foot), style="bold") if foot else Text(HELP, style="dim")]


def _head(model: Model) -> list[Text]:
    from rich.text import Text

    one = model.daemon
    if not one:
        return [Text("rrd top", style="bold"), Text("")]
    cpu = f"{model.cpu:.0f}%" if model.cpu is not None else "-"
    live = sum(row.about.get("state") == "live" for row in model.recordings.values())
    first = (f"rrd {one.get('version')}  pid {one.get('pid')}  up {render.duration(one.get('uptime_s') or 0)}  "
             f"cpu {cpu}  mem {render.size(one.get('rss_bytes'))}")
    second = (f"{live} live of {render.plural(len(model.recordings), 'recording')}, by {model.order}  "
              f"spool {render.size(one.get('spool_bytes'))}, {render.size(one.get('spool_free_bytes'))} free")
    return [Text(render.clean(first), style="bold"), Text(render.clean(second))]


def _recording(name: str, model: Model) -> tuple[str, ...]:
    row = model.recordings[name]
    return (name, str(row.about.get("state")), f"{render.size(row.rate)}/s" if row.rate else "-",
            render.size(row.about.get("bytes")), render.age(row.about.get("started_at"), model.now),
            str(row.about.get("program") or "-"))


def _sink(row: Row) -> tuple[str, ...]:
    one = row.about
    behind = render.size(one.get("lag_bytes")) if one.get("lag_bytes") else "-"
    target = str(one.get("last_error") or one.get("target"))
    return (str(one.get("id")), str(one.get("state")), behind, f"{row.rate:,.0f}" if row.rate else "-",
            spark(row.history), target)


def _table(header: tuple[str, ...], widths: tuple[int, ...], width: int, *, right: tuple[int, ...],
           spare: int, rows: list[tuple[str, tuple[str, ...]]], room: int, model: Model, nothing: str) -> list[Text]:
    """A title and at most `room` rows, around the chosen one; the column of width 0 takes what is left.

    Args:
        spare: The column that goes where too little would be left; none of `right` stands after it.
    """
    from rich.text import Text

    if _left(widths, width) < LEAST:
        header, widths = _without(header, spare), _without(widths, spare)
        rows = [(name, _without(cells, spare)) for name, cells in rows]
    if len(rows) > room:
        header = (f"{header[0]} +{len(rows) - room}", *header[1:])
    sizes = [size or _left(widths, width) for size in widths]
    lines = [Text("  " + _cells(header, sizes, right), style="dim")]
    if not rows:
        return [*lines, Text(f"  {nothing}", style="dim")]
    at = next((index for index, (name, _) in enumerate(rows) if name == model.chosen), 0)
    start = max(0, min(at - room + 1, len(rows) - room)) if at >= room else 0
    shown = rows[start : start + room]
    for name, cells in shown:
        chosen = name == model.chosen
        line = Text(("> " if chosen else "  ") + _cells(cells, sizes, right), style="reverse" if chosen else "")
        if not chosen:
            style = {"live": "green", "following": "green", "retrying": "yellow", "failed": "red"}.get(cells[1])
            if style:
                begin = 4 + sizes[0]
                line.stylize(style, begin, begin + len(cells[1]))
        lines.append(line)
    return lines


def _left(widths: tuple[int, ...], width: int) -> int:
    return width - 2 - sum(widths) - 2 * (len(widths) - 1)


def _without(cells: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return cells[:index] + cells[index + 1 :]


def _cells(cells: tuple[str, ...], sizes: list[int], right: tuple[int, ...]) -> str:
    found = []
    for index, (cell, size) in enumerate(zip(cells, sizes, strict=True)):
        text = render.clean(cell)
        if len(text) > size:
            # A path is known by its end.
            text = "~" + text[len(text) - size + 1 :] if text.startswith("/") else text[: size - 1] + "~"
        found.append(text.rjust(size) if index in right else text.ljust(size))
    return "  ".join(found)


# -- doing -----------------------------------------------------------------------------------------------------------


def _look(client: Client, model: Model) -> None:
    try:
        status = client.call("status")
        found = recordings.fetch(client)
    except (CliError, VerbError) as error:
        model.gone = f"{error.message}; waiting for it"
        return
    model.update({"daemon": status.get("daemon") or {}, "sinks": status.get("sinks") or []}, found,
                 clock=time.monotonic(), now=time.time(), cpu_s=_cpu_seconds((status.get("daemon") or {}).get("pid")))


def _press(client: Client, model: Model, key: str) -> None:
    """Do what a key says."""
    model.notice = ""
    kind, _, name = model.chosen.partition(":")
    if key in ("up", "down"):
        model.move(-1 if key == "up" else 1)
    elif key == "o":
        model.order = ORDERS[(ORDERS.index(model.order) + 1) % len(ORDERS)]
    elif key in ("v", "w", "d"):
        try:
            model.notice = _say(client, key, kind, name)
        except (CliError, VerbError) as error:
            model.notice = f"error: {error.message}" + (f"; {error.hint}" if error.hint else "")


def _say(client: Client, key: str, kind: str, name: str) -> str:
    if key == "d":
        if kind != "sink":
            return "choose an output first: down"
        client.call("detach", {"sink": name})
        return f"detached {name}"
    if kind != "recording":
        return "choose a recording first: up"
    if key == "v":
        answer = client.call("spawn", {"source": [name]}, timeout=None)
        return f"{name} is shown by pid {(answer.get('viewer') or {}).get('pid')}"
    base = "".join(one if one.isalnum() or one in "-_." else "_" for one in name.rpartition("/")[2]).lstrip(".")
    path = os.path.join(os.getcwd(), f"{base or 'recording'}.rrd")
    client.call("save", {"path": path, "source": [name]}, timeout=None)
    return f"saving {name} to {path}"


def _cpu_seconds(pid: object) -> float | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rsplit(b")", 1)[1].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _raw_keys() -> Iterator[None]:
    """Keys one by one and unseen, until the end; Ctrl-C still interrupts."""
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class Keys:
    """Keys as they come; several may arrive at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._data = b""

    def next(self, timeout: float) -> str:
        """The next key: a name of ESCAPES, or its character; empty when none comes in time."""
        if not self._data:
            if not select.select([self._fd], [], [], timeout)[0]:
                return ""
            self._data = os.read(self._fd, 64)
            if not self._data:
                return "q"  # the terminal is gone
        for code, name in ESCAPES.items():
            if self._data.startswith(code):
                self._data = self._data[len(code) :]
                return name
        key, self._data = self._data[:1], self._data[1:]
        return key.decode(errors="ignore")

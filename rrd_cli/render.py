"""Results as people read them: sizes, ages, tables, progress; and as programs read them: JSON with pinned keys.

Rules: what comes from programs (names, ids, error texts) is cleaned of control characters before a terminal sees it.
No colour and no progress where nobody looks: only on terminals, and NO_COLOR is honoured. Nothing heavy is imported:
`rich` would double the time that `rrd ls` takes.
"""

from __future__ import annotations

import codecs
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from rrd_cli.errors import STDOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TextIO

UNITS: Final = ("kB", "MB", "GB", "TB", "PB")
BAR_WIDTH = 24
COLUMNS = 80
"""Of a terminal that does not say how many it has."""
REFRESH = 0.1
"""Seconds between two updates of a progress line."""

RECORDING_KEYS: Final = (
    "recording_id", "application_id", "state", "messages", "bytes", "started_at", "ended_at", "sdk_version", "streams",
    "program", "paths", "error",
)  # fmt: skip
"""Keys of an object of `rrd ls --json`. Pinned: none goes away, none changes its meaning."""
DAEMON_KEYS: Final = (
    "pid", "version", "socket", "uptime_s", "rss_bytes", "protocol", "grpc_url", "grpc_error", "spool", "spool_bytes",
    "spool_free_bytes",
)  # fmt: skip
"""Keys of `daemon` in `rrd status --json`. Pinned."""
SINK_KEYS: Final = (
    "id", "kind", "target", "state", "lag_messages", "lag_bytes", "delivered_messages", "skipped_messages",
    "last_error", "source",
)  # fmt: skip
"""Keys of an object of `sinks` in `rrd status --json`. Pinned."""

_STYLES: Final = {"good": "32", "busy": "33", "bad": "31", "dim": "2", "bold": "1"}
_STATE_STYLES: Final = {
    "live": "good", "running": "good", "following": "good", "complete": "good", "ended": "dim", "retrying": "busy",
    "catching-up": "busy", "stalled": "bad", "failed": "bad",
}  # fmt: skip


def pinned(source: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The pinned keys first and always there (None where the daemon has nothing to say), then what else there is."""
    return {key: source.get(key) for key in keys} | {key: source[key] for key in source if key not in keys}


def as_json(value: object) -> str:
    """JSON as `--json` prints it: indented, one object or list; in ASCII where standard output is not UTF-8."""
    import json  # 5 ms that only --json pays

    plain = codecs.lookup(sys.stdout.encoding or "ascii").name != "utf-8"
    return json.dumps(value, indent=2, ensure_ascii=plain, default=_plain)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)


def clean(text: object) -> str:
    """Text from outside as it can be shown: control characters, which could command the terminal, are escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in str(text)
    )


def size(count: float | None) -> str:
    """`0 B`, `999 B`, `1.2 kB`, `34.5 MB`: decimal units, as disks are sold and `ls --si` has it."""
    if count is None:
        return "-"
    if count < 1000:
        return f"{count:.0f} B"
    value, index = count / 1000, 0
    while value >= 999.95 and index < len(UNITS) - 1:
        value, index = value / 1000, index + 1
    return f"{value:.1f} {UNITS[index]}"


def number(count: int | None) -> str:
    """`1,234,567`"""
    return "-" if count is None else f"{count:,}"


def plural(count: int, word: str) -> str:
    """`1 message`, `2 messages`"""
    return f"{number(count)} {word}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """`4 s`, `12 min`, `3 h`, `5 d`: one unit, rounded down."""
    seconds = max(0.0, seconds)
    for limit, divisor, unit in ((100, 1, "s"), (6000, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds / divisor)} {unit}"
    return f"{int(seconds / 86400)} d"


def age(moment: float | None, now: float | None = None) -> str:
    """`12 s ago`; `-` for what never was."""
    if moment is None:
        return "-"
    return f"{duration((time.time() if now is None else now) - moment)} ago"


def styled(text: str, style: str, stream: TextIO) -> str:
    """Text in one of the styles good, busy, bad, dim, bold; plain where the stream is no terminal."""
    if style not in _STYLES or os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def state(text: str, stream: TextIO) -> str:
    """A state, coloured as it deserves."""
    return styled(text, _STATE_STYLES.get(text.strip(), ""), stream)


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), indent: str = ""
) -> list[str]:
    """Lines of aligned columns under a header; two spaces between, none at the end.

    Args:
        header: Names of the columns.
        rows: Cells, already cleaned; one row a line.
        right: Indices of columns that are aligned right.
        indent: Goes before each line.
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(header))]
    return [
        indent
        + "  ".join(
            _pad(cell, widths[column], at_right=column in right) for column, cell in enumerate(line)
        ).rstrip()
        for line in lines
    ]


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    import unicodedata  # 1 ms that only other scripts pay

    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _pad(text: str, width: int, *, at_right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if at_right else text + space


def short_ids(ids: Sequence[str], *, least: int = 8) -> dict[str, str]:
    """The shortest prefix of each id, of at least `least` characters, that no other one shares."""
    ordered = sorted(set(ids))
    result = {}
    for index, name in enumerate(ordered):
        neighbours = ordered[max(0, index - 1) : index] + ordered[index + 1 : index + 2]
        length = max([least, *(_shared(name, other) + 1 for other in neighbours)])
        result[name] = name[:length]
    return result


def _shared(one: str, other: str) -> int:
    """Length of the common prefix."""
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)


class Progress:
    """A line that is rewritten in place while something long goes on. Nothing at all where there is no terminal.

    Args:
        what: Verb in progress, `saving run.rrd`.
        stream: Usually sys.stderr.
        clock: Seconds, for the rate.
    """

    def __init__(self, what: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._what = clean(what)
        self._clock = clock
        self._started = clock()
        self._drawn_at = -1.0
        self._shown = False
        self._active = self._stream.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def update(self, done: int, total: int | None) -> None:
        """Say how far it is, in bytes; `total` None or 0 when nobody knows."""
        now = self._clock()
        if not self._active or (self._drawn_at >= 0 and now - self._drawn_at < REFRESH and done != total):
            return
        self._drawn_at = now
        self._shown = True
        # A line that is longer than the terminal's would be two, and the next one would not take its place.
        line = progress_line(self._what, done, total, now - self._started, self._columns() - 1)
        self._stream.write(f"\r{line}\x1b[K")
        self._stream.flush()

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or COLUMNS
        except OSError:
            return COLUMNS

    def from_message(self, message: Mapping[str, Any]) -> None:
        """Show a progress message of the daemon: done_bytes, total_bytes."""
        self.update(int(message.get("done_bytes") or 0), int(message.get("total_bytes") or 0) or None)

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False


def progress_line(what: str, done: int, total: int | None, elapsed: float, width: int) -> str:
    """`saving run.rrd  ━━━━━━────  52%  1.2 GB of 2.3 GB  410.0 MB/s`

    Args:
        what: Verb in progress.
        done: Bytes.
        total: Bytes, if it is known.
        elapsed: Seconds until now.
        width: Columns that there are. Where they are too few, first the bar gets shorter, then what is in progress.
    """
    rate = f"  {size(done / elapsed)}/s" if elapsed > 0.5 else ""
    if not total:
        return _cut(what, width, f"  {size(done)}{rate}")
    part = min(1.0, done / total)
    numbers = f"  {part:4.0%}  {size(done)} of {size(total)}{rate}"
    room = max(0, min(BAR_WIDTH, width - _width(what) - len(numbers) - 2))
    filled = int(part * room)
    bar = f"  {'━' * filled}{'─' * (room - filled)}" if room else ""
    return _cut(what, width, bar + numbers)


def _cut(text: str, width: int, rest: str = "") -> str:
    """A text and the rest of its line, in so many columns; … is where something had to go."""
    room = width - len(rest)
    if _width(text) > room:
        while text and _width(text) >= room:
            text = text[:-1]
        text += "…"
    return (text + rest)[:width]


def print_lines(lines: Sequence[str]) -> None:
    """Write to standard output: the one way commands print. Bytes of a path that are no text are escaped.

    Raises:
        OSError: it cannot be written; that says where.
    """
    text = "\n".join(lines)
    try:
        try:
            print(text)
        except UnicodeEncodeError:
            encoding = sys.stdout.encoding or "ascii"
            print(text.encode(encoding, "backslashreplace").decode(encoding))
    except OSError as error:
        raise OSError(error.errno, error.strerror, STDOUT) from error


def note(text: str) -> None:
    """Say something on standard error that is neither result nor error."""
    say(clean(text))


def say(line: str) -> None:
    """Write a line to standard error. That nobody can hear it is no failure of what was to be done."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        # Python would try once more at exit, and exit with a code of its own. The descriptor itself stays: it is also
        # the one of the program that `rrd run` is about to start.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the rest of our life


def span(seconds: float | None) -> str:
    """A length of log time: `0.25 s`, `12.0 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"

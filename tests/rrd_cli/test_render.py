from __future__ import annotations

import fcntl
import io
import json
import pty
import struct
import sys
import termios

import pytest

from rrd_cli import render


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1234, "1.2 kB"), (999_949, "999.9 kB"),
        (999_950, "1.0 MB"), (34_500_000, "34.5 MB"), (10**9, "1.0 GB"), (2 * 10**12, "2.0 TB"), (10**19, "10000.0 PB"),
    ],
)  # fmt: skip
def test_size(count, text):
    assert render.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0.9, "0 s"), (99, "99 s"), (100, "1 min"), (5999, "99 min"), (6000, "1 h"), (172799, "47 h"),
     (172800, "2 d"), (10**7, "115 d")],
)  # fmt: skip
def test_duration(seconds, text):
    assert render.duration(seconds) == text


def test_age():
    assert render.age(100.0, now=112.5) == "12 s ago"
    assert render.age(None) == "-"


def test_plural():
    assert [render.plural(count, "message") for count in (0, 1, 1234)] == ["0 messages", "1 message", "1,234 messages"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("ü 日", "ü 日"), ("a\x1b[31mb", "a\\x1b[31mb"), ("a\nb", "a\\nb"), ("\udcff", "\\udcff"), (7, "7")],
)
def test_clean(text, shown):
    assert render.clean(text) == shown


def test_table_is_aligned_and_has_no_spaces_at_line_ends():
    rows = [("a", "1", "x"), ("long name", "12,345", ""), ("日本", "2", "e\u0301")]
    assert render.table(("NAME", "N", "LAST"), rows, right=(1,)) == [
        "NAME            N  LAST",
        "a               1  x",
        "long name  12,345",
        "日本            2  e\u0301",
    ]


def test_short_ids_tell_apart():
    ids = ["5f0c2a1b-aaaa", "5f0c2a1b-abbb", "77777777-cccc", "tiny"]
    assert render.short_ids(ids) == {
        "5f0c2a1b-aaaa": "5f0c2a1b-aa",
        "5f0c2a1b-abbb": "5f0c2a1b-ab",
        "77777777-cccc": "77777777",
        "tiny": "tiny",
    }


def test_styles_only_on_terminals(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert render.state("live", io.StringIO()) == "live"
    assert render.state("live", Terminal()) == "\x1b[32mlive\x1b[0m"
    assert render.state("never heard of", Terminal()) == "never heard of"
    monkeypatch.setenv("NO_COLOR", "1")
    assert render.state("live", Terminal()) == "live"


def test_json_takes_what_comes():
    assert json.loads(render.as_json({"a": b"\xff", "b": 1.5, "c": {1}})) == {"a": "\ufffd", "b": 1.5, "c": "{1}"}


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "é 日"), ("UTF8", "é 日"), ("latin-1", "\\u00e9 \\u65e5"),
                                                 ("ascii", "\\u00e9 \\u65e5")])
def test_json_is_json_in_every_encoding(monkeypatch, encoding, shown):
    out = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, encoding=encoding, errors="strict"))
    render.print_lines([render.as_json({"a": "é 日"})])
    sys.stdout.flush()
    assert out.getvalue().decode(encoding) == f'{{\n  "a": "{shown}"\n}}\n'
    assert json.loads(out.getvalue()) == {"a": "é 日"}


def test_pinned_keys_come_first_and_are_always_there():
    found = render.pinned({"new": 1, "b": 2}, ("a", "b"))
    assert list(found.items()) == [("a", None), ("b", 2), ("new", 1)]


def test_progress_line():
    assert render.progress_line("saving x", 500_000, 2_000_000, 2.0, 80) == (
        "saving x  ━━━━━━──────────────────   25%  500.0 kB of 2.0 MB  250.0 kB/s"
    )
    assert render.progress_line("saving x", 500_000, None, 0.1, 80) == "saving x  500.0 kB"


@pytest.mark.parametrize(("what", "total", "width", "line"), [
    ("saving run.rrd", 2_000_000, 60, "saving run.rrd  ━─────   25%  500.0 kB of 2.0 MB  250.0 kB/s"),
    ("saving run.rrd", 2_000_000, 53, "saving run.rrd   25%  500.0 kB of 2.0 MB  250.0 kB/s"),
    ("saving run.rrd", 2_000_000, 46, "saving …   25%  500.0 kB of 2.0 MB  250.0 kB/s"),
    ("saving 日本.rrd", 2_000_000, 49, "saving 日…   25%  500.0 kB of 2.0 MB  250.0 kB/s"),
    ("saving run.rrd", 2_000_000, 20, "…   25%  500.0 kB of"),
    ("saving run.rrd", None, 30, "saving …  500.0 kB  250.0 kB/s"),
])
def test_progress_line_has_no_more_columns_than_there_are(what, total, width, line):
    assert render.progress_line(what, 500_000, total, 2.0, width) == line
    assert render._width(line) <= width


def test_progress_looks_how_wide_the_terminal_is():
    ours, theirs = pty.openpty()
    with open(ours, "rb", 0) as screen, open(theirs, "w") as stream:
        for columns in (0, 40, 120):
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
            with render.Progress("saving " + "x" * 200, stream) as progress:
                progress.update(1, 2)
            shown = screen.read(4096).decode().split("\x1b[K")[0].lstrip("\r")
            assert len(shown) == (columns or 80) - 1


def test_progress_draws_now_and_then_and_goes_away():
    now, stream = [0.0], Terminal()
    with render.Progress("saving x", stream, clock=lambda: now[0]) as progress:
        progress.update(0, 100)
        for step in range(1, 100):
            now[0] = step / 1000
            progress.update(step, 100)
        progress.from_message({"done_bytes": 100, "total_bytes": 100})
    assert stream.getvalue().count("saving x") == 2
    assert stream.getvalue().endswith("\r\x1b[K")


def test_progress_is_nothing_without_a_terminal():
    stream = io.StringIO()
    with render.Progress("saving x", stream) as progress:
        progress.update(1, 2)
    assert stream.getvalue() == ""

from __future__ import annotations

import json

import pytest

from daemon.spool.recovery import Damage, RecoveryReport
from rrd_cli.commands import recover
from tests.rrd_cli.test_tailing import HEADER, info

REPORT = RecoveryReport(
    "run.recovered.rrd", ["run.rrd"], kept_messages=1204, kept_bytes=12_300_000, kept_seconds=200.0, lost_messages=1,
    lost_bytes=522, lost_seconds=0.25, footer=True, input_footer="missing",
    damage=[Damage("/x/run.rrd", 2478, 522, 1, "cut in a message", 0.25)],
)  # fmt: skip
LINES = """\
run.rrd -> run.recovered.rrd
  kept    1,204 messages, 12.3 MB, 3 min 20 s
  lost    at least 1 message, 522 B, about 0.25 s
          at byte 2,478: cut in a message (522 B)
  footer  made new; the file's own was missing"""


def test_what_is_said():
    assert "\n".join(recover.lines(REPORT)) == LINES


def test_no_footer_is_said_with_the_reason():
    report = RecoveryReport("o", ["i"], problem="60,000,000 cells, at most 50,000,000")
    assert recover.lines(report)[-1] == "  footer  none: 60,000,000 cells, at most 50,000,000"


def test_bytes_that_were_no_message():
    report = RecoveryReport("o", ["i"], lost_bytes=4096)
    assert "  lost    4.1 kB" in recover.lines(report)


def test_much_damage_is_cut_short():
    report = RecoveryReport("o", ["i"], footer=True, damage=REPORT.damage * 30)
    assert "          and 20 places more" in recover.lines(report)


@pytest.mark.parametrize(
    ("word", "output", "into", "target"),
    [
        ("a/run.rrd", None, False, "a/run.recovered.rrd"),
        ("a/run", None, False, "a/run.recovered.rrd"),
        ("a/run.rrd", "good.rrd", False, "good.rrd"),
        ("a/run.rrd", "dir", True, "dir/run.rrd"),
    ],
)
def test_names(word, output, into, target):
    assert recover.target(word, output, into=into) == target


class TestFiles:
    @pytest.fixture(autouse=True)
    def _files(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("a.rrd", "b.rrd"):
            (tmp_path / name).write_bytes(HEADER + info("a"))
        (tmp_path / "bad.rrd").write_bytes(b"hello, world, hello, world")

    def test_several_and_one_of_them_hopeless(self, rrd, tmp_path):
        code, out, err = rrd("recover", "a.rrd", "bad.rrd", "missing.rrd", "b.rrd")
        assert code == 1
        assert [line for line in out.splitlines() if "->" in line] == [
            "a.rrd -> a.recovered.rrd", "b.rrd -> b.recovered.rrd",
        ]  # fmt: skip
        assert err.splitlines()[1:] == ["no such file: missing.rrd", "error: 2 files of 4 could not be recovered"]
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "a.recovered.rrd", "a.rrd", "b.recovered.rrd", "b.rrd", "bad.rrd",
        ]  # fmt: skip

    def test_nothing_is_overwritten(self, rrd, tmp_path):
        (tmp_path / "a.recovered.rrd").write_text("mine")
        code, _, err = rrd("recover", "a.rrd")
        assert code == 1
        assert err.startswith("error: file exists: a.recovered.rrd\nhint: say --force")
        assert (tmp_path / "a.recovered.rrd").read_text() == "mine"
        assert rrd("recover", "a.rrd", "--force")[0] == 0

    def test_never_its_own_input(self, rrd, tmp_path):
        before = (tmp_path / "a.rrd").read_bytes()
        assert rrd("recover", "a.rrd", "-o", "a.rrd", "--force")[0] == 1
        assert (tmp_path / "a.rrd").read_bytes() == before

    def test_into_a_directory(self, rrd, tmp_path):
        (tmp_path / "out").mkdir()
        assert rrd("recover", "a.rrd", "b.rrd", "-o", "out")[0] == 0
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.rrd", "b.rrd"]
        assert rrd("recover", "a.rrd", "b.rrd", "-o", "nowhere")[0] == 2

    @pytest.mark.parametrize("words", [("a.rrd", "sub/a.rrd", "-o", "out"), ("a.rrd", "a"), ("a.rrd", "./a.rrd")])
    def test_never_two_results_of_one_name(self, rrd, tmp_path, words):
        for name in ("out", "sub"):
            (tmp_path / name).mkdir()
        for name in ("sub/a.rrd", "a"):
            (tmp_path / name).write_bytes(HEADER + info("b"))
        code, out, err = rrd("recover", "--force", *words)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {words[0]} and {words[1]} would both become ")
        assert not list((tmp_path / "out").iterdir())
        assert not list(tmp_path.glob("*.recovered.rrd"))

    def test_where_it_cannot_write(self, rrd):
        message = "error: cannot recover a.rrd: No such file or directory: none/a.rrd\n"
        assert rrd("recover", "a.rrd", "-o", "none/a.rrd")[2].endswith(message)

    def test_json(self, rrd):
        code, out, _ = rrd("recover", "a.rrd", "--json")
        [found] = json.loads(out)
        assert code == 0
        assert (found["inputs"], found["output"], found["kept_messages"]) == (["a.rrd"], "a.recovered.rrd", 1)

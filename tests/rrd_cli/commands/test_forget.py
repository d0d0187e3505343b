from __future__ import annotations

import json
import re
import sys

import pytest

from tests.helpers.terminal import BASH, Shell

ANSWER = {"recordings": ["app/one", "app/two"], "bytes": 1_200_000, "streams": ["s1", "s2"]}


def test_an_age_has_a_unit(rrd):
    assert rrd("forget", "--older-than", "7") == (
        2, "", "error: not a length of time: 7\nhint: a number and a unit (ms, s, min, m, h, d, w): 30s\n")


def test_what_is_asked_for(fake, rrd):
    fake.on("forget", ANSWER)
    for args in (("one", "two"), ("--ended",), ("--older-than", "7d")):
        assert rrd("forget", *args)[0] == 0
    assert fake.said("forget") == [
        {"source": ["one", "two"], "dry_run": False},
        {"ended": True, "dry_run": False},
        {"older_than_s": 604800.0, "dry_run": False},
    ]


def test_what_is_said(fake, rrd):
    fake.on("forget", ANSWER)
    assert rrd("forget", "--ended")[1] == "forgot 2 recordings (frees 1.2 MB): app/one, app/two\n"
    assert rrd("forget", "--ended", "--dry-run")[1] == "would forget 2 recordings (frees 1.2 MB): app/one, app/two\n"
    assert json.loads(rrd("forget", "--ended", "--json")[1]) == ANSWER
    fake.on("forget", ANSWER | {"recordings": [f"app/{n}" for n in range(8)], "bytes": 0})
    assert rrd("forget", "--ended")[1] == (
        "forgot 8 recordings (frees nothing: files elsewhere are the same on disk): "
        "app/0, app/1, app/2, app/3, app/4 and 3 more\n"
    )
    fake.on("forget", {"recordings": [], "bytes": 0})
    assert rrd("forget", "--ended")[1] == "nothing to forget\n"


def test_more_than_one_answer_holds(fake, rrd):
    rest = {"recordings": ["app/one", "app/three"], "bytes": 300_000, "streams": ["s3"]}
    fake.on("forget", lambda call: rest if call.args.get("after") == 7 else ANSWER | {"more": 7})
    assert json.loads(rrd("forget", "--ended", "--json")[1]) == {
        "recordings": ["app/one", "app/three", "app/two"], "bytes": 1_500_000, "streams": ["s1", "s2", "s3"]}
    assert fake.said("forget") == [{"ended": True, "dry_run": False}, {"ended": True, "dry_run": False, "after": 7}]


@pytest.mark.parametrize("args", [(), ("one", "--ended"), ("--ended", "--older-than", "7d")])
def test_one_way_of_saying_which(private, rrd, args):
    assert rrd("forget", *args)[0] == 2


@pytest.mark.parametrize(("command", "question", "done", "refused"), [
    ("forget --ended", "Forget 2 recordings (frees 1.2 MB): app/one, app/two?", "forgot 2", "nothing was forgotten"),
    ("gc", "Drop 2 recordings (frees 1.2 MB): app/one, app/two?", "dropped 2", "nothing was dropped"),
])
def test_the_question_on_a_terminal(fake, command, question, done, refused):
    verb = command.split()[0]
    for name in ("forget", "gc"):
        fake.on(name, ANSWER)
    with Shell(BASH, f"rrd() {{ {sys.executable} -m rrd_cli \"$@\"; }}") as shell:
        for key, said, dry_runs in (("n\n", refused, [True]), ("\n", refused, [True]), ("y\n", done, [True, False])):
            fake.calls.clear()
            shell.type(f"rrd {command}\n")
            shell.wait(re.escape(question))
            shell.type(key)
            shell.wait(said)
            assert [args["dry_run"] for args in fake.said(verb)] == dry_runs
        fake.calls.clear()
        shell.type(f"rrd {command} --yes\n")
        shell.wait(done)
        assert [args["dry_run"] for args in fake.said(verb)] == [False]

"""`rrd top`: the screen fits its terminal, rates are right, keys do what they say."""

from __future__ import annotations

import os
from collections import deque

import pytest

from rrd_cli.client import Client
from rrd_cli.commands.top import HELP, Keys, Model, _look, _press, frame, spark


def recording(name, size, state="live", started=0.0, **more):
    return {"application_id": "app", "recording_id": name, "state": state, "bytes": size, "started_at": started,
            "program": "prog.py", **more}


def sink(name, delivered=0, lag=0, **more):
    return {"id": name, "kind": "file", "state": "following", "target": f"/x/{name}.rrd", "lag_bytes": lag,
            "delivered_messages": delivered, "last_error": "", **more}


def looked(*looks):
    model = Model()
    for at, (recordings, sinks) in enumerate(looks):
        model.update({"daemon": {"pid": 7, "version": "1", "uptime_s": 5.0, "rss_bytes": 10**6, "spool_bytes": 0,
                                 "spool_free_bytes": 10**9}, "sinks": sinks}, recordings,
                     clock=100.0 + 2 * at, now=1000.0, cpu_s=1.0 + at)
    return model


def text(model, width=80, height=24):
    return [line.plain for line in frame(model, width, height)]


def test_rates_are_of_the_time_between_two_looks():
    model = looked(([recording("a", 1000)], [sink("s", 10)]), ([recording("a", 5000)], [sink("s", 30)]))
    assert model.recordings["app/a"].rate == 2000.0
    assert model.sinks["s"].rate == 10.0
    assert model.cpu == 50.0
    screen = "\n".join(text(model))
    assert "2.0 kB/s" in screen
    assert "cpu 50%" in screen


@pytest.mark.parametrize("size", [(80, 24), (60, 12), (200, 60), (81, 13)])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_every_line_fits(size, count):
    width, height = size
    model = looked(([recording(f"{n}" * 30, n, started=n) for n in range(count)],
                    [sink(f"sink-{n}", last_error="x" * 300) for n in range(count)]))
    for chosen in (model.chosen, model.rows()[-1] if count else ""):
        model.chosen = chosen
        lines = text(model, width, height)
        assert len(lines) == height
        assert max(map(len, lines)) <= width
        assert lines[-1] == HELP[:width]
        if count:
            assert sum(line.startswith("> ") for line in lines) == 1


@pytest.mark.parametrize("width", [*range(60, 82), 200])
def test_names_and_targets_have_room_in_every_terminal(width):
    lines = text(looked(([recording("5f0c2a1b77", 1)], [sink("file-1a2b")])), width)
    assert any("app/5f0c2a" in line and " live " in line for line in lines)
    assert any("1a2b.rrd" in line and " following " in line for line in lines)
    assert ("prog.py" in "".join(lines)) == (width > 71)


def test_what_does_not_fit_is_counted_and_what_is_over_comes_last():
    over = [sink(f"over-{n}", state="complete") for n in range(30)]
    lines = text(looked(([recording("a", 1)], [*over, sink("mine")])))
    title = next(index for index, line in enumerate(lines) if line.startswith("  OUTPUT"))
    assert lines[title + 1].startswith("  mine")
    assert lines[title + 2].startswith("  over-29")
    shown = sum("over-" in line or "mine" in line for line in lines)
    assert lines[title].startswith(f"  OUTPUT +{31 - shown}  ")


def test_too_small_a_terminal_is_told():
    assert text(looked(([], [])), 40, 10)[0].startswith("too small")


def test_what_programs_say_cannot_command_the_terminal():
    screen = "".join(text(looked(([recording("a", 1, program="\x1b[2J")], []))))
    assert "\x1b" not in screen
    assert "\\x1b[2J" in screen


def test_live_ones_come_first_in_every_order():
    model = looked(([recording("old", 9, started=1), recording("new", 5, started=2),
                     recording("done", 99, "ended", started=3)], []))
    assert [name[4:] for name in model.ordered()] == ["new", "old", "done"]
    model.order = "size"
    assert [name[4:] for name in model.ordered()] == ["old", "new", "done"]


def test_sparks():
    assert spark(deque()) == " " * 12
    assert spark(deque([0.0, 0.0])) == " " * 12
    assert spark(deque([1.0, 4.0, 8.0])).strip() == "▁▄█"


def test_keys_that_arrive_together():
    read, write = os.pipe()
    try:
        os.write(write, b"\x1b[B\x1b[Bjoq")
        keys = Keys(read)
        assert [keys.next(0) for _ in range(6)] == ["down", "down", "down", "o", "q", ""]
    finally:
        os.close(read)
        os.close(write)


def test_keys_say_verbs(fake):
    model = looked(([recording("a/b", 1)], [sink("file-1")]))
    fake.on("detach", {"sinks": ["file-1"]})
    fake.on("spawn", {"viewer": {"pid": 5}})
    fake.on("save", {"sink": {}, "complete": False})
    with Client(may_start=False) as client:
        _press(client, model, "v")
        assert model.notice == "app/a/b is shown by pid 5"
        _press(client, model, "d")
        assert "choose an output" in model.notice
        _press(client, model, "w")
        assert fake.said("save") == [{"path": os.path.join(os.getcwd(), "b.rrd"), "source": ["app/a/b"]}]
        _press(client, model, "down")
        _press(client, model, "d")
        assert fake.said("detach") == [{"sink": "file-1"}]
        _press(client, model, "x")
        assert model.notice == ""


def test_what_a_key_did_is_told_until_the_next(fake):
    model = looked(([recording("a", 1)], []))
    fake.on("spawn", {"viewer": {"pid": 5}})
    fake.on("status", {"daemon": {"pid": 7}, "sinks": []})
    fake.on("ls", {"recordings": [recording("a", 1)]})
    with Client(may_start=False) as client:
        _press(client, model, "v")
        _look(client, model)
        assert text(model)[-1] == "app/a is shown by pid 5"
        _press(client, model, "down")
    assert text(model)[-1] == HELP


def test_the_newest_of_very_many_is_seen(fake):
    model = Model()
    fake.on("status", {"daemon": {"pid": 7}, "sinks": []})
    fake.on("ls", lambda call: {"recordings": [recording("new", 1)]} if call.args
            else {"recordings": [recording("old", 1, "ended")], "more": 1})
    with Client(may_start=False) as client:
        _look(client, model)
    assert model.ordered() == ["app/new", "app/old"]


def test_without_a_terminal_it_says_what_else_there_is(rrd):
    code, _, err = rrd("top")
    assert code == 2
    assert "rrd status" in err

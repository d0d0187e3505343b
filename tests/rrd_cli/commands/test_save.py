from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from daemon.wire.control import VerbError
from daemon.wire.rrd import frame_header
from tests.rrd_cli.test_tailing import DATA, WHOLE

SINK = {"id": "file-1", "target": "/x/run.rrd", "state": "complete", "delivered_messages": 1204, "source": "app/rec"}
DONE = {"sink": SINK, "chose": "the newest recording app/rec", "complete": True}
GOING_ON = {"sink": SINK | {"state": "following"}, "chose": "the live recording app/rec", "complete": False}


@pytest.fixture(autouse=True)
def _in_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_an_ended_recording(fake, rrd, tmp_path):
    fake.on("save", DONE)
    assert rrd("save", "run.rrd") == (0, "saved the newest recording app/rec to run.rrd (1,204 messages)\n", "")
    assert fake.said("save") == [{"path": str(tmp_path / "run.rrd"), "force": False, "copy": False, "wait": False}]


def test_a_live_recording(fake, rrd):
    fake.on("save", GOING_ON)
    assert rrd("save", "run.rrd", "@live", "--force", "--copy") == (
        0,
        "saving the live recording app/rec to run.rrd, until it ends\nto stop before: rrd detach file-1\n",
        "",
    )
    [args] = fake.said("save")
    assert (args["source"], args["force"], args["copy"], args["wait"]) == (["@live"], True, True, False)


def test_the_last_seconds(fake, rrd):
    fake.on("save", DONE | {"sink": SINK | {"last": 120.0}})
    assert rrd("save", "run.rrd", "--last", "2min") == (
        0, "saved the last 120 s of the newest recording app/rec to run.rrd (1,204 messages)\n", "")
    [args] = fake.said("save")
    assert (args["last"], args["wait"]) == (120.0, True)


@pytest.mark.parametrize(("words", "said"), [
    (["--last", "soon"], "not a length of time: soon"), (["--last", "0s"], "the last 0 seconds are nothing"),
    (["-", "--last", "5s"], "--last is of what is there"),
])
def test_what_last_cannot_mean(fake, rrd, words, said):
    code, out, err = rrd("save", "run.rrd", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert fake.said("save") == []


def test_files_into_one(fake, rrd, tmp_path):
    fake.on("save", DONE)
    for name in ("a b.rrd", "c.rrd"):
        (tmp_path / name).touch()
    assert rrd("save", "m.rrd", "a b.rrd", "c.rrd")[0] == 0
    assert fake.said("save")[0]["source"] == [str(tmp_path / "a b.rrd"), str(tmp_path / "c.rrd")]


def test_json(fake, rrd):
    fake.on("save", DONE)
    assert json.loads(rrd("save", "run.rrd", "--json")[1]) == DONE


def test_warnings(fake, rrd):
    fake.on("save", DONE | {"warnings": ["standard input stopped in the middle of a message"]})
    code, out, err = rrd("save", "run.rrd")
    assert (code, err) == (0, "warning: standard input stopped in the middle of a message\n")
    assert out.startswith("saved")


@pytest.mark.parametrize("warnings", [[], ["no footer: its index would have more than 50 cells"]])
def test_a_file_without_a_footer(fake, rrd, tmp_path, warnings):
    fake.on("save", DONE | {"warnings": warnings})
    (tmp_path / "run.rrd").write_bytes(DATA + frame_header(0, 0))
    code, _, err = rrd("save", "run.rrd")
    assert (code, err) == (0, f"warning: {(warnings or ['no footer could be made; why: rrd info run.rrd'])[0]}\n")
    (tmp_path / "run.rrd").write_bytes(WHOLE)
    fake.on("save", DONE)
    assert rrd("save", "run.rrd")[2] == ""


def test_trouble_on_the_way_is_said_once(fake, rrd):
    def save(call):
        for _ in range(3):
            call.progress(done_bytes=1, total_bytes=2, state="retrying", last_error="No space left on device")
        call.progress(done_bytes=2, total_bytes=2, state="following", last_error="")
        return DONE

    fake.on("save", save)
    code, _, err = rrd("save", "run.rrd", "--wait")
    assert (code, err) == (0, "waiting: No space left on device\n")


class TestTheDaemonDiesMeanwhile:
    """The first saying made the sink; the second meets it."""

    @pytest.fixture(autouse=True)
    def _dies_once(self, fake, hangup):
        def save(call):
            if len(fake.said("save")) == 1:
                raise hangup
            raise VerbError("exists", "file exists: /x/run.rrd", "say --force")

        fake.on("save", save)

    def test_the_sink_is_found_again(self, fake, rrd, tmp_path):
        states = iter(["following", "following", "complete"])
        fake.on("status", lambda call: {
            "sinks": [SINK | {"target": str(tmp_path / "run.rrd"), "state": next(states)}]
        })  # fmt: skip
        assert rrd("save", "run.rrd", "--wait") == (0, "saved app/rec to run.rrd (1,204 messages)\n", "")
        assert next(states, None) is None

    def test_it_may_have_failed(self, fake, rrd, tmp_path):
        sink = SINK | {"target": str(tmp_path / "run.rrd"), "state": "failed", "last_error": "disk on fire"}
        fake.on("status", {"sinks": [sink]})
        code, _, err = rrd("save", "run.rrd")
        assert code == 1
        assert err.startswith("error: saving failed: disk on fire")

    def test_a_file_of_somebody_else_is_what_it_is(self, fake, rrd, tmp_path):
        fake.on("status", {"sinks": []})
        (tmp_path / "run.rrd").write_bytes(b"something else")
        assert rrd("save", "run.rrd") == (1, "", "error: file exists: /x/run.rrd\nhint: say --force\n")


class TestStdin:
    def run(self, data: bytes):
        command = [sys.executable, "-m", "rrd_cli", "save", "run.rrd", "-"]
        return subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)

    @pytest.fixture
    def takes(self, fake):
        """A daemon that reads the pipe to its end; what it read."""
        taken = []

        def open_(call):
            taken.append(os.dup(call.fds[0]))
            return {"stream": "s1", "log": "/x"}

        def save(call, **ended):
            data = b""
            while piece := os.read(taken[0], 65536):
                data += piece
            os.close(taken[0])
            taken.append(data)
            call.event("ended", stream="s1", reason="end of file", **fake.ended)
            return {"sink": SINK | {"delivered_messages": fake.count}, "chose": "s1", "complete": True}

        fake.ended, fake.count = {}, 2
        fake.on("open", open_)
        fake.on("save", save)
        return taken

    def test_the_pipe_itself_goes_to_the_daemon(self, fake, takes):
        done = self.run(b"RRF2 and so on")
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == b"saved standard input to run.rrd (2 messages)\n"
        assert takes[1] == b"RRF2 and so on"
        assert fake.said("open")[0]["kind"] == "stdin"
        assert fake.said("save")[0]["stream"] == "s1"

    def test_damage(self, fake, takes):
        fake.ended = {"error": "not a frame: kind 0x7, at byte 99"}
        done = self.run(b"x")
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr == (
            b"error: standard input is damaged: not a frame: kind 0x7, at byte 99\n"
            b"hint: 2 messages before it are in /x/run.rrd\n"
        )

    def test_nothing(self, fake, takes):
        fake.count = 0
        done = self.run(b"")
        assert done.returncode == 1
        assert done.stderr.startswith(b"error: standard input ended without a message")

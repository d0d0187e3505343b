"""What is no stream, or no request, given to a real daemon: it says what was found and where, keeps what was whole, and
neither grows nor dies of it."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from daemon.wire import control
from daemon.wire.rrd import Kind
from tests.conftest import ROOT, SDKS, Home, wait_for
from tests.helpers.chunks import SAMPLES
from tests.helpers.footers import frames
from tests.helpers.frames import frames_of, header
from tests.helpers.shim import Program, ended, rows, run, warnings

GROWTH = 48 << 20
"""Bytes of memory that a daemon may need for nonsense: its own modules, imported when they are used, are most of it."""

SAMPLE = SAMPLES["0.41.0"].read_bytes()
WHOLE = SAMPLE[: next(start - 16 for kind, start, _ in frames(SAMPLE) if kind == Kind.END)]
"""Header and messages, no End."""
AT = len(WHOLE)
MSGPACK = b"RRF2" + bytes([0, 20, 3, 0, 1, 1, 0, 0]) + struct.pack("<QQ", 1, 400) + b"\x93\xa3abc" * 80

NO_STREAM = {
    "text": (b"hello, world, this is a text\n" * 99, "found b'hell', expected b'RRF2', at byte 0"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(500), r"found b'\x89PNG', expected b'RRF2', at byte 0"),
    "MsgPack": (MSGPACK, "version 0.20.3 in MsgPack, written by Rerun 0.22 or older"),
    "RRF0": (b"RRF0" + bytes(100), "Rerun 0.2 to 0.3, too old to be read at byte 0"),
    "of the future": (b"RRF3" + bytes(100), "found b'RRF3', expected b'RRF2', at byte 0"),
}
"""What is none from its first byte on, and what is said of it."""

DAMAGED = {
    "length 2^63": (struct.pack("<QQ", 2, 1 << 63) + b"x" * 999, f"a length of {1 << 63} bytes at byte {AT}"),
    "length 2^64 - 1": (b"\2" + bytes(7) + b"\xff" * 8, f"a length of {(1 << 64) - 1} bytes at byte {AT}"),
    "garbage": (b"\xee" * 1000, f"kind 0xeeeeeeeeeeeeeeee, at byte {AT}"),
    "text": (b"and now for something completely different", f"kind 0x20776f6e20646e61, at byte {AT}"),
    "another's header": (MSGPACK, f"only Protobuf (0.23 and newer) is read, at byte {AT}"),
    "after the End": (SAMPLE[AT:] + b"\xee" * 1000, f"kind 0xeeeeeeeeeeeeeeee, at byte {len(SAMPLE)}"),
}
"""What follows whole messages, and what is said of it."""

CUT = {
    "in a message": (WHOLE[:-3], 0),
    "in a message's header": (WHOLE + b"\2\0\0", 3),
    "a length that never comes": (WHOLE + struct.pack("<QQ", 2, 1 << 40) + b"x" * 99, 115),
    "zeros": (WHOLE + bytes(4096), 4096),
}
"""Streams that just stop, and the bytes that are left over; 0: the whole last message."""


@pytest.fixture
def steady(daemon: Home) -> Iterator[Home]:
    """A daemon that is the same afterwards, hardly bigger, and still does its work."""
    process = psutil.Process(daemon.daemon_pid())
    before = process.memory_info().rss
    yield daemon
    assert daemon.daemon_pid() == process.pid
    assert process.memory_info().rss - before < GROWTH
    (daemon.path / "good.rrd").write_bytes(SAMPLE)
    daemon.cli("save", "good again.rrd", "good.rrd")
    assert (daemon.path / "good again.rrd").read_bytes() == SAMPLE


def save_stdin(home: Home, data: bytes) -> subprocess.CompletedProcess[str]:
    """`rrd save --force out.rrd - < data`"""
    (home.path / "in").write_bytes(data)
    with open(home.path / "in", "rb") as file:
        return home.cli("save", "--force", "out.rrd", "-", stdin=file, check=False)


def test_no_stream_from_stdin(steady: Home) -> None:
    for data, message in NO_STREAM.values():
        done = save_stdin(steady, data)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
        assert not (steady.path / "out.rrd").exists() or (steady.path / "out.rrd").stat().st_size == 0


def test_no_stream_as_a_file(steady: Home) -> None:
    """Every verb that takes a file names it, and leaves it alone."""
    verbs = (["save", "out.rrd", "bad.rrd"], ["info", "bad.rrd"], ["recover", "bad.rrd"], ["tail", "bad.rrd"])
    path = steady.path / "bad.rrd"
    for name, words in (*((name, verbs[0]) for name in NO_STREAM), *(("MsgPack", words) for words in verbs[1:])):
        data, message = NO_STREAM[name]
        path.write_bytes(data)
        done = steady.cli(*words, check=False)
        assert done.returncode == 1
        assert message in done.stderr
        assert "bad.rrd" in done.stderr
        assert path.read_bytes() == data
        assert not (steady.path / "out.rrd").exists()
        assert not (steady.path / "bad.recovered.rrd").exists()


def test_damaged_from_stdin(steady: Home) -> None:
    for data, message in DAMAGED.values():
        done = save_stdin(steady, WHOLE + data)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
        assert kept(steady)


def test_damaged_as_a_file(steady: Home) -> None:
    for name, (data, message) in DAMAGED.items():
        (steady.path / f"{name}.rrd").write_bytes(WHOLE + data)
        done = steady.cli("save", "--force", "out.rrd", f"{name}.rrd")
        assert message in done.stderr
        assert kept(steady)


def test_from_a_shim(steady: Home) -> None:
    """The program is not held up; its stream says what is wrong with it, and what was whole can be saved."""
    for data, message in NO_STREAM.values():
        assert message in written_to_a_pipe(steady, data * 3)["error"]
    for name, (data, message) in DAMAGED.items():
        if name == "after the End":
            continue  # a shim's stream is over at its End
        stream = written_to_a_pipe(steady, WHOLE + data + b"x" * (3 << 20))
        assert message in stream["error"]
        steady.cli("save", "--force", "out.rrd", f"stream:{stream['id']}")
        assert kept(steady)


def test_cut(steady: Home) -> None:
    last = len(WHOLE) - 3 - max(start - 16 for kind, start, _ in frames(SAMPLE) if kind != Kind.END)
    for data, left_over in CUT.values():
        done = save_stdin(steady, data)
        assert done.returncode == 0
        assert f"in the middle of a message: its last {left_over or last} bytes are left out" in done.stderr
        assert kept(steady, but=0 if left_over else 1)


def kept(home: Home, but: int = 0) -> bool:
    """Are all messages of WHOLE, but the last few, in out.rrd, and can Rerun's own reader open it by its footer?"""
    import rerun.chunk

    out = home.path / "out.rrd"
    expected = frames_of(WHOLE)
    assert frames_of(out.read_bytes()) == expected[: len(expected) - but]
    count = sum(1 for _ in rerun.chunk.RrdReader(str(out)).store().stream())
    assert count == sum(kind == Kind.ARROW for kind, _ in expected) - but
    return True


def written_to_a_pipe(home: Home, data: bytes) -> dict[str, str]:
    """What a program writes to the pipe of its shim; the stream as it was in status at the end of that."""
    client = home.client()
    read_end, write_end = os.pipe()
    try:
        stream = client.ask("open", fds=[read_end], kind="shim", application_id="bad")["stream"]
        os.close(read_end)
        left = memoryview(data)
        os.set_blocking(write_end, False)

        def written() -> bool:
            nonlocal left
            while left:
                try:
                    left = left[os.write(write_end, left) :]
                except BlockingIOError:
                    return False
            return True

        wait_for(written, "the daemon to take everything")

        def failed() -> dict[str, str] | None:
            return next((one for one in home.status()["streams"] if one["id"] == stream and one["error"]), None)

        return wait_for(failed, "the error")
    finally:
        os.close(write_end)
        client.close()
        wait_for(lambda: stream not in [one["id"] for one in home.status()["streams"]], "its end")


@pytest.mark.parametrize("version", SDKS)
def test_two_recordings_saved_to_one_pipe(
    daemon: Home, sdk_python: Callable[[str], Path], version: str
) -> None:
    """Somebody saves another recording, or the same once more, to the descriptor that the shim made: all are whole."""
    errors = run(daemon, sdk_python(version), """
one, two = (rr.RecordingStream("app", recording_id=name) for name in ("one", "two"))
rrd.save("link.rrd", recording=one)
rrd.save("copy.rrd", recording=one, copy=True)
log(0, 50, one)
assert rrd.flush(recording=one)
from rrd import _session
(stream,) = _session.current().streams
two.save(f"/proc/self/fd/{stream.write_end}")
threads = [threading.Thread(target=log, args=(50, 400, each)) for each in (one, two)]
for thread in threads: thread.start()
for thread in threads: thread.join()
two.disconnect()
log(400, 500, one)
assert rrd.flush(recording=one)
log(500, 600, one)
again = rr.RecordingStream("app", recording_id="again")
rrd.attach(again)
log(0, 50, again)
(stream,) = [found for found in _session.current().streams if found.recording_id == "again"]
again.save(f"/proc/self/fd/{stream.write_end}")
log(50, 100, again)
assert rrd.flush(recording=again)
""")
    assert warnings(errors) == []
    ended(daemon)
    listed = {one["recording_id"]: one["state"] for one in daemon.recordings()}
    assert listed == {"one": "ended", "two": "ended", "again": "ended"}
    for name, expected in (("one", range(600)), ("two", range(50, 400)), ("again", range(100))):
        daemon.cli("save", f"{name}.rrd", name)
        assert rows(daemon.path / f"{name}.rrd") == list(expected)
    assert (daemon.path / "link.rrd").read_bytes() == (daemon.path / "copy.rrd").read_bytes()


def test_two_writers_that_tear_each_other(steady: Home) -> None:
    """Messages longer than a pipe takes at once, from two who write at the same time: said where they are torn."""
    places = [(start - 16, start + length) for kind, start, length in frames(SAMPLE) if kind != Kind.END]
    begin, end = places[3]
    torn = WHOLE[: begin + 40] + header() + WHOLE[12 : places[1][1]] + WHOLE[begin + 40 : end] + WHOLE[end:]
    stream = written_to_a_pipe(steady, torn + bytes(1 << 20) + b"\xee" * 999)
    assert "not a frame: " in stream["error"]
    assert " at byte " in stream["error"]
    steady.cli("save", "out.rrd", "rec_small")
    assert frames_of((steady.path / "out.rrd").read_bytes())[:3] == frames_of(WHOLE)[:3]


@pytest.mark.parametrize("version", SDKS)
def test_saved_elsewhere(daemon: Home, sdk_python: Callable[[str], Path], version: str) -> None:
    """The program's own `rr.save` takes the recording away: what came before is complete, what comes after is there."""
    with Program(daemon, sdk_python(version), """
ways = [lambda rec: rec.save("theirs-0.rrd")]
if hasattr(rr, "set_sinks"):
    ways.append(lambda rec: rr.set_sinks(rr.FileSink("theirs-1.rrd"), recording=rec))
recordings = []
for number, way in enumerate(ways):
    rec = rr.RecordingStream("app", recording_id=f"mine {number}")
    assert rrd.save(f"ours-{number}.rrd", recording=rec)
    log(0, 50, rec)
    way(rec)
    recordings.append(rec)
say(len(ways))
wait_for_test()
for rec in recordings:
    log(50, 100, rec)
    assert not rrd.flush(durable=True, recording=rec)
""") as program:
        count = int(program.line())
        ended(daemon)
        for number in range(count):
            assert rows(daemon.path / f"ours-{number}.rrd") == list(range(50))
        program.go_on()
        assert warnings(program.finish()) == []
    for number in range(count):
        assert rows(daemon.path / f"ours-{number}.rrd") == list(range(50))
        assert rows(daemon.path / f"theirs-{number}.rrd") == list(range(50, 100))
    assert [one["state"] for one in daemon.recordings()] == ["ended"] * count


# -- the control socket ---------------------------------------------------------------------------------------------

VECTORS = json.loads((ROOT / "tests" / "data" / "control" / "errors.json").read_text())


def say(home: Home, data: bytes, *, greet: bool = True) -> dict[str, str]:
    """Send bytes; the error that is the answer."""
    client = home.client() if greet else home.client(silent=True)
    try:
        client.send(data)
        message = client.receive()
        assert message is not None
        error: dict[str, str] = message["error"]
        return error
    finally:
        client.close()


@pytest.mark.parametrize("greet", [True, False])
def test_nonsense_on_the_control_socket(steady: Home, greet: bool) -> None:
    """Each of the vectors that every codec refuses: the reason is the answer, and the next client is served."""
    for vector in VECTORS:
        data = bytes.fromhex(vector["hex"])
        error = say(steady, data, greet=greet)
        assert error["code"] == "protocol", vector["name"]
        assert vector["error"] in error["message"], vector["name"]
        assert steady.call("ls") == {"recordings": []}
    assert "Traceback" not in steady.log


def test_endless_lengths(steady: Home) -> None:
    """Announced, and all but the last byte of it sent: the daemon holds no more than one message of each client."""
    process = psutil.Process(steady.daemon_pid())
    before = process.memory_info().rss
    clients = [steady.client() for _ in range(20)]
    body = b"\xa1\x61a\x7a\x7f\xff\xff\xff".ljust(control.MAX_MESSAGE, b"x")
    for client in clients:
        client.socket.sendall(control.MAX_MESSAGE.to_bytes(4, "big") + body[:-1])
    assert steady.call("ls") == {"recordings": []}
    assert process.memory_info().rss - before < 3 * len(clients) * control.MAX_MESSAGE
    for client in clients:
        client.send(body[-1:])
        message = client.receive()
        assert message is not None
        assert message["error"]["code"] == "protocol"
        client.close()


REQUESTS = [
    ("frobnicate", {}, "unknown-verb", ["frobnicate", "knows no verb"]),
    ("save", {}, "usage", ["save: path must be a text, found None"]),
    ("save", {"path": 7}, "usage", ["save: path must be a text, found 7"]),
    ("save", {"path": "relative"}, "usage", ["absolute", "relative"]),
    ("save", {"path": "/x\0y"}, "usage", ["NUL"]),
    ("save", {"path": "/x", "force": "yes"}, "usage", ["force", "true or false", "'yes'"]),
    ("save", {"path": "/x", "source": "@all"}, "usage", ["source", "list of texts"]),
    ("save", {"path": "/x", "source": [b"\xff"]}, "usage", ["source", "list of texts"]),
    ("open", {}, "usage", ["one descriptor", "0 came"]),
    ("open", {"kind": "spam"}, "usage", ["kind", "spam"]),
    ("close", {"stream": "none"}, "not-found", ["none"]),
    ("forget", {"older_than_s": "old"}, "usage", ["older_than_s", "number"]),
    ("tail", {"source": ["none"]}, "not-found", ["none"]),
]
"""Verbs with arguments of the wrong shape: the code of the error, and what its message names."""


def test_requests_of_the_wrong_shape(steady: Home) -> None:
    """One verb fails, its connection does not."""
    client = steady.client()
    for verb, args, code, words in REQUESTS:
        with pytest.raises(control.VerbError) as caught:
            client.ask(verb, **args)
        assert caught.value.code == code
        assert all(word in str(caught.value) for word in words), caught.value
    assert client.ask("ls") == {"recordings": []}
    client.close()


def test_a_program_notices_nothing_of_it(steady: Home, sdk_python: Callable[[str], Path]) -> None:
    """While nonsense of all kinds comes in, a real program logs on, and its file has everything."""
    with Program(steady, Path(sys.executable), """
rr.init("app")
rrd.save("out.rrd")
say("ready")
row = 0
while not os.path.exists("stop"):
    log(row, row + 10)
    row += 10
    time.sleep(0.002)
""") as program:
        program.line()
        for vector in VECTORS:
            say(steady, bytes.fromhex(vector["hex"]))
        with pytest.raises(control.VerbError):
            steady.call("open", kind="shim")
        written_to_a_pipe(steady, WHOLE + b"\xee" * 5000)
        (steady.path / "stop").touch()
        assert warnings(program.finish()) == []
    ended(steady)
    found = rows(steady.path / "out.rrd")
    assert found == list(range(len(found)))
    assert len(found) > 100

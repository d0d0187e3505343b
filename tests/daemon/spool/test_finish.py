"""Completing logs in place: whatever stands after the last whole frame, the log is complete afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from daemon.spool.finish import FinishResult, finish_log
from daemon.wire.footer import FooterBuilder
from daemon.wire.logmsg import StoreId
from daemon.wire.rrd import FRAME_HEADER_SIZE, HEADER_SIZE, Kind
from tests.helpers.chunks import HEADER, SAMPLES, chunk, frame, store_id, store_info, stream
from tests.helpers.footers import footer_of, frames, rebuilt

INTACT = SAMPLES["0.41.0"].read_bytes()
END = next(start - FRAME_HEADER_SIZE for kind, start, _ in frames(INTACT) if kind == Kind.END)
DATA = INTACT[:END]
OURS = DATA + rebuilt(INTACT)[1]
MESSAGES = len(list(frames(INTACT))) - 1
NOISE = bytes((i * 37 + 11) % 251 + 4 for i in range(500))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "20261122-181503-4f2a91.rrd"


def finished(log: Path, data: bytes) -> tuple[FinishResult, bytes]:
    log.write_bytes(data)
    result = finish_log(str(log))
    done = log.read_bytes()
    assert result.bytes == len(done)
    assert [p.name for p in log.parent.iterdir()] == [log.name]
    # Once more changes nothing.
    again = finish_log(str(log))
    assert log.read_bytes() == done
    assert (again.messages, again.footer, again.dropped_bytes, again.rewritten) == (
        result.messages, result.footer, 0, False,
    )
    return result, done


TAILS: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 0),
    "bare end": (bytes(16), 0),
    "cut end": (bytes(9), 0),
    "cut footer": (INTACT[END : END + 1000], 0),
    "footer without tail": (INTACT[END:-32], 0),
    "footer with a cut tail": (INTACT[END:-5], 0),
    "flipped bit in the footer": (INTACT[END : END + 99] + b"~" + INTACT[END + 100 :], 0),
    "flipped bit in the tail": (INTACT[END:-1] + b"\1", 0),
    "cut header": (INTACT[12:20], 8),
    "cut payload": (INTACT[12:70], 58),
    "zeros": (bytes(5000), 5000),
    "garbage": (NOISE, len(NOISE)),
    "footer and zeros": (INTACT[END:] + bytes(64), 64),
    "footer and garbage": (INTACT[END:] + NOISE, len(NOISE)),
    "another's footer": (
        SAMPLES["0.36.3"].read_bytes()[
            next(s for k, s, _ in frames(SAMPLES["0.36.3"].read_bytes()) if k == Kind.END) - FRAME_HEADER_SIZE :
        ],
        0,
    ),
}


@pytest.mark.parametrize("name", TAILS)
def test_what_stands_after_the_frames_becomes_our_footer(name: str, log: Path) -> None:
    tail, dropped = TAILS[name]
    result, done = finished(log, DATA + tail)
    assert done == OURS
    assert result.footer
    assert not result.untouched
    assert not result.rewritten
    assert result.messages == MESSAGES
    # A few zeros at the end are an End that was cut; whether they ever were a message nobody can tell.
    assert result.dropped_bytes in ((dropped, len(tail)) if name == "cut end" else (dropped,))


@pytest.mark.parametrize("version", ["0.31.4", "0.36.3", "0.41.0"])
def test_a_complete_log_is_not_touched(version: str, log: Path) -> None:
    data = SAMPLES[version].read_bytes()
    log.write_bytes(data)
    os.utime(log, (1, 1))
    result = finish_log(str(log))
    assert result == FinishResult(
        str(log), messages=len(list(frames(data))) - 1, bytes=len(data), untouched=True, footer=True
    )
    assert log.read_bytes() == data
    assert log.stat().st_mtime == 1


@pytest.mark.parametrize("version", SAMPLES)
def test_logs_of_every_sdk_get_a_footer(version: str, log: Path) -> None:
    data = SAMPLES[version].read_bytes()
    end = next(start - FRAME_HEADER_SIZE for kind, start, _ in frames(data) if kind == Kind.END)
    result, done = finished(log, data[:end])
    assert done == data[:end] + rebuilt(data)[1]
    assert result.footer
    assert [m.store for m in footer_of(done)] == [StoreId(1, "rec_small", "app_logger")]


def test_a_chunk_that_came_twice_stays_once(log: Path) -> None:
    """Files that were handed in twice, one after the other or frame by frame, and merged."""
    once = [chunk(1), chunk(2), chunk(3)]
    for twice in (once + once, [chunk(1), chunk(1), chunk(2), chunk(3), chunk(2)]):
        result, done = finished(log, stream(twice))
        assert (result.rewritten, result.dropped_bytes, result.messages) == (True, 0, 4)
        assert done == stream(once) + rebuilt(stream(once))[1]


def test_a_name_as_long_as_can_be(log: Path) -> None:
    """In letters of two bytes: what it is written anew in has a name, too."""
    result, done = finished(log.with_name(124 * "\u00e4" + ".rrd"), INTACT + INTACT)
    assert (result.rewritten, result.problem) == (True, "")
    assert len(list(frames(done))) == MESSAGES + 1


def test_cut_at_every_byte(log: Path) -> None:
    intact = stream([chunk(1), chunk(2)])
    ends = [HEADER_SIZE, *(start + length for _, start, length in frames(intact))]
    for cut in range(HEADER_SIZE, len(intact) + 1):
        log.write_bytes(intact[:cut])
        result = finish_log(str(log))
        last = max(end for end in ends if end <= cut)
        assert (result.messages, result.dropped_bytes) == (ends.index(last), cut - last)
        assert log.read_bytes() == intact[:last] + rebuilt(intact[:last])[1]


def test_killed_at_any_byte_and_run_again(log: Path) -> None:
    """What a killed run leaves: the old end, the log cut back, or any part of the new end."""
    size = len(OURS) - END
    for written in {*range(20), *range(20, size, 41), *range(size - 40, size)}:
        log.write_bytes(OURS[: END + written])
        finish_log(str(log))
        assert log.read_bytes() == OURS, written


def test_a_write_that_fails_halfway(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: what is there is whole frames and a cut End; with room it goes on."""
    log.write_bytes(DATA)
    pwrite = os.pwrite

    def full(fd: int, data: memoryview, at: int) -> int:
        if at > END + 100:
            raise OSError(28, "No space left on device")
        return pwrite(fd, data[:60], at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        finish_log(str(log))
    assert log.read_bytes() == OURS[: END + 120]
    monkeypatch.undo()
    finish_log(str(log))
    assert log.read_bytes() == OURS


@pytest.mark.parametrize(
    "data",
    [
        INTACT + SAMPLES["0.36.3"].read_bytes(),
        DATA + SAMPLES["0.36.3"].read_bytes(),
        INTACT + DATA[HEADER_SIZE:],
        DATA[:3000] + NOISE + SAMPLES["0.36.3"].read_bytes(),
    ],
    ids=["concatenated", "without an end between", "frames after a footer", "cut between"],
)
def test_what_cannot_be_done_in_place_is_written_anew(data: bytes, log: Path) -> None:
    log.write_bytes(b"")
    log.chmod(0o640)
    result, done = finished(log, data)
    assert result.rewritten
    assert result.footer
    assert log.stat().st_mode & 0o777 == 0o640
    assert [kind for kind, _, _ in frames(done)].count(Kind.END) == 1
    assert done[4:8] == INTACT[4:8], "the newest SDK's version is in the header"
    assert result.messages == len(list(frames(done))) - 1


@pytest.mark.parametrize("then", [DATA, INTACT + INTACT])
def test_what_a_killed_run_left_is_gone_after_the_next(
    then: bytes, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote the log anew; meanwhile that may have become another."""
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    log.write_bytes(INTACT + INTACT)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda *_: None)  # nobody tidies up who is killed
        patch.setattr(os, "chmod", killed)
        with pytest.raises(KeyboardInterrupt):
            finish_log(str(log))
    assert len(list(log.parent.iterdir())) == 2
    _, done = finished(log, then)
    assert len(list(frames(done))) == MESSAGES + 1


def test_untrustworthy_footers_are_replaced(log: Path) -> None:
    """SDK 0.28.2 to 0.31.4, a recording and a blueprint in one file."""
    blueprint = store_id(kind=2)
    header = HEADER[:4] + bytes((0, 31, 4, 0)) + HEADER[8:]
    data = stream([chunk(1), chunk(2, store=blueprint)], infos=[store_info(), store_info(blueprint)], header=header)
    ours = data + rebuilt(data)[1]
    log.write_bytes(ours)
    result = finish_log(str(log))
    assert not result.untouched
    assert log.read_bytes() == ours
    log.write_bytes(HEADER + ours[HEADER_SIZE:])
    assert finish_log(str(log)).untouched, "of another SDK it would be believed"


def test_a_footer_that_leaves_chunks_out_is_not_believed(log: Path) -> None:
    data = stream([chunk(2), chunk(1)])
    builder = FooterBuilder()
    kind, start, length = list(frames(data))[1]
    assert kind == Kind.ARROW
    builder.add(data[start : start + length], start)
    result, done = finished(log, data + builder.finish(len(data)))
    assert done == data + rebuilt(data)[1]
    assert not result.untouched


@pytest.mark.parametrize("data", [HEADER, stream([])])
def test_recordings_without_a_chunk(data: bytes, log: Path) -> None:
    result, done = finished(log, data)
    assert done == data + rebuilt(data)[1]
    assert footer_of(done) == []
    assert result.footer


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "it is empty"),
        (b"RRF2\0\x29", "shorter than its 12-byte header"),
        (b"RRF1" + bytes(100), "too old to be read"),
        (b"RRF2\0\x16\1\0\2\1\0\0" + bytes(100), "MsgPack"),
        (b"hello world, this is no recording", "not an .rrd stream"),
        (b"RRF3" + HEADER[4:] + frame(Kind.ARROW, b"\x0a" + bytes((len(store_id()),)) + store_id() + b"~" * 50),
         "not one whole message"),
    ],
)
def test_what_is_no_log_is_left_alone(data: bytes, problem: str, log: Path) -> None:
    result, done = finished(log, data)
    assert done == data
    assert problem in result.problem
    assert not result.footer


def test_no_footer_means_a_bare_end(log: Path) -> None:
    data = stream([chunk(1), chunk(2, metadata={"sorbet:version": "9.0.0"})])
    for tail in (b"", NOISE, bytes(16)):
        result, done = finished(log, data + tail)
        assert done == data + bytes(16)
        assert result.untouched == (tail == bytes(16))
        assert "Sorbet version 9.0.0" in result.problem


def test_a_newer_sdks_own_footer_is_kept(log: Path) -> None:
    """What cannot be read here can still be complete: the footer lists every chunk, and its checksum holds."""
    data = stream([chunk(1)])
    newer = stream([chunk(1, metadata={"sorbet:version": "0.2.0"})])
    assert len(newer) == len(data)
    result, done = finished(log, newer + rebuilt(data)[1])
    assert result.untouched
    assert done.startswith(newer)


def test_a_damaged_message_stays_and_is_said(log: Path) -> None:
    at = DATA.index(b"\x10\x02\x18") + 60
    damaged = DATA[:at] + bytes((DATA[at] ^ 0xFF,)) + DATA[at + 1 :]
    result, done = finished(log, damaged)
    assert done == damaged + bytes(16)
    assert "is damaged" in result.problem
    assert result.messages == MESSAGES


def test_a_damaged_store_id_under_a_footer(log: Path) -> None:
    """One bit, and the id is longer than its message."""
    data = stream([chunk(1), chunk(2)])
    at = data.rindex(b"\x0a\x03app") + 1
    damaged = data[:at] + b"\x13" + data[at + 1 :]
    for end in (b"", rebuilt(data)[1]):
        result, done = finished(log, damaged + end)
        assert done == damaged + bytes(16)
        assert "is damaged: " in result.problem


def test_what_nobody_has_thought_of_is_a_problem(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback would have the daemon try again for ever."""
    def surprised(*_: object) -> None:
        raise ValueError("such a byte")

    monkeypatch.setattr("daemon.spool.finish._complete", surprised)
    result, done = finished(log, DATA)
    assert (result.problem, done) == ("it is damaged: such a byte", DATA)


def test_big_messages_are_not_read_whole(log: Path) -> None:
    big = chunk(2, components={"A:b": pa.array([[float(i) for i in range(40_000)]])}, compress=False)
    data = stream([chunk(1), big, chunk(3)])
    result, done = finished(log, data)
    assert done == data + rebuilt(data)[1]
    assert result.footer


def test_the_command(log: Path) -> None:
    log.write_bytes(DATA + NOISE)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "daemon.spool.finish", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run(str(log))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "path": str(log), "messages": MESSAGES, "bytes": len(OURS), "dropped_bytes": len(NOISE), "untouched": False,
        "rewritten": False, "footer": True, "problem": "",
    }
    assert log.read_bytes() == OURS
    done = run(str(log) + ".none")
    assert done.returncode == 1
    assert json.loads(done.stdout)["problem"] == "No such file or directory"
    assert run().returncode == 2


def test_it_ends_with_whoever_attends(log: Path) -> None:
    """Whatever it is doing: the file may be somebody else's from then on."""
    program = """if True:
        import sys, time
        from daemon.spool import finish

        def long(path):
            print("at work", flush=True)
            time.sleep(600)

        finish.finish_log = long
        sys.exit(finish.main(["--attended", "a.rrd"]))
    """
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        assert one.stdin is not None
        assert one.stdout is not None
        assert one.stdout.readline() == b"at work\n"
        one.stdin.close()
        assert one.wait(30) == 1


def test_start_up_is_lean() -> None:
    program = "import sys, daemon.spool.finish; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"trio", "rich", "typer", "cbor2", "pandas", "psutil", "asyncio", "daemon.spool.recovery"}


def test_frames_of_other_kinds(log: Path) -> None:
    data = stream([chunk(1)]) + frame(Kind.ACTIVATION, b"\x0a" + bytes((len(store_id(kind=2)),)) + store_id(kind=2))
    result, done = finished(log, data)
    assert done.startswith(data)
    assert result.messages == 3

"""Files as outputs of real programs: full disks, many at once, the same bytes wherever they are; and an idle daemon."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SDKS, Home, missing, wait_for
from tests.helpers.disks import enlarge, small_disk
from tests.helpers.programs import Program, rows


def stream_of(home: Home, program: Program) -> dict | None:
    """A live stream, as in status."""
    return next((one for one in home.status()["streams"] if one["id"] == program.stream), None)


def ended(home: Home) -> None:
    """Wait until no stream is left and all files are up to date."""
    def settled() -> bool:
        status = home.status()
        return not status["streams"] and all(sink["lag_messages"] == 0 for sink in status["sinks"])

    wait_for(settled, "the streams' end", 60.0)


def sink_of(home: Home, path: Path) -> dict:
    """An output, as in status."""
    return next(sink for sink in home.status()["sinks"] if sink["target"] == str(path))


def test_the_spools_own_disk_is_full(home: Home, verify) -> None:
    """Ingest stalls loudly, the program goes on, and nothing is lost once there is room."""
    with small_disk(home.path / "s", "512k") as disk:
        home.env["RRD_SPOOL_MIN_FREE_BYTES"] = "0"
        home.cli("daemon", "start")
        try:
            with Program(home, "full", rows=1500, image=5_000, pause=0.001) as program:
                stalled = wait_for(lambda: (one := stream_of(home, program)) and one["state"] == "stalled" and one,
                                   "the stall")
                assert "No space left on device" in stalled["error"]
                assert "stalled" in home.cli("status").stdout
                assert "the program buffers" in home.log
                assert (disk / "rrd").is_dir()
                enlarge(disk, "64m")
                program.finish()
            ended(home)
            out = home.path / "out.rrd"
            home.cli("save", out, program.recording)
            verify(out)
            assert rows(out) == list(range(1500))
        finally:
            home.stop()


def test_a_copys_disk_is_full(daemon: Home, verify) -> None:
    """That output says so; the program and the other outputs notice nothing; it goes on when there is room."""
    with small_disk(daemon.path / "small", "256k") as disk:
        with Program(daemon, "copied", rows=1500, image=5_000, pause=0.001) as program:
            small, link = disk / "small.rrd", daemon.path / "link.rrd"
            for path in (small, link):
                daemon.cli("save", path, f"stream:{program.stream}")
            wait_for(lambda: sink_of(daemon, small)["state"] == "retrying", "the full disk")
            assert "No space left on device" in sink_of(daemon, small)["last_error"]
            program.finish()
            wait_for(lambda: sink_of(daemon, link)["state"] == "complete", "the other file")
            assert sink_of(daemon, small)["state"] == "retrying"
            assert sink_of(daemon, small)["lag_bytes"] > 0
            enlarge(disk, "64m")
            wait_for(lambda: sink_of(daemon, small)["state"] == "complete", "the copy")
        verify(small, link)
        assert small.read_bytes() == link.read_bytes()
        assert rows(link) == list(range(1500))


def test_a_copys_directory_is_removed(daemon: Home, verify) -> None:
    """That output says so, program and other outputs do not notice; when the directory is back it is made again."""
    place = daemon.path / "place"
    place.mkdir()
    with Program(daemon, "removed", rows=1500, image=5_000, pause=0.001) as program:
        lost, copy, link = place / "lost.rrd", daemon.path / "copy.rrd", daemon.path / "link.rrd"
        for path in (lost, copy, link):
            daemon.cli("save", *([] if path == link else ["--copy"]), path, f"stream:{program.stream}")
        shutil.rmtree(place)
        wait_for(lambda: sink_of(daemon, lost)["state"] == "retrying", "the directory to be missed")
        assert sink_of(daemon, lost)["last_error"] == f"directory is gone: {place}"
        assert f"directory is gone: {place}" in daemon.cli("status").stdout
        program.finish()
        wait_for(lambda: all(sink_of(daemon, path)["state"] == "complete" for path in (copy, link)), "the others")
        assert sink_of(daemon, lost)["state"] == "retrying"
        place.mkdir()
        wait_for(lambda: sink_of(daemon, lost)["state"] == "complete", "the file")
    verify(lost, copy, link)
    assert lost.read_bytes() == copy.read_bytes() == link.read_bytes()
    assert rows(lost) == list(range(1500))


def test_eight_files_at_once(daemon: Home, verify) -> None:
    """Links, copies on the same and on another file system: all the same bytes."""
    with small_disk(daemon.path / "other", "64m") as disk:
        with Program(daemon, "eight", rows=400, image=5_000, pause=0.001) as program:
            links = [daemon.path / f"link-{n}.rrd" for n in range(3)]
            copies = [daemon.path / f"copy-{n}.rrd" for n in range(3)]
            others = [disk / f"other-{n}.rrd" for n in range(2)]
            for path in (*links, *copies, *others):
                copy = ["--copy"] if path in copies else []
                daemon.cli("save", *copy, path, f"stream:{program.stream}")
            program.finish()
        ended(daemon)
        wait_for(lambda: all(sink["state"] == "complete" for sink in daemon.status()["sinks"]), "all files")
        assert all(path.samefile(links[0]) for path in links)
        assert len({path.stat().st_ino for path in (*links, *copies)}) == 4
        assert len({path.read_bytes() for path in (*links, *copies, *others)}) == 1
        verify(links[0])
        assert rows(links[0]) == list(range(400))


@pytest.mark.parametrize("version", SDKS)
def test_versions(daemon: Home, sdk_python: Callable[[str], Path], verify, version: str) -> None:
    """Streams of every SDK, ended by it and killed: complete files with every row."""
    python = sdk_python(version)
    ended_well, killed = daemon.path / "ended.rrd", daemon.path / "killed.rrd"
    with Program(daemon, "well", rows=300, python=python, save=ended_well) as program:
        program.finish()
    with Program(daemon, "killed", rows=100_000, pause=0.001, python=python, save=killed) as program:
        program.wait_row(600)
        program.process.kill()
        program.process.wait()
    ended(daemon)
    if version != "0.23.4":  # whose messages have no chunk ids, at which `rerun rrd verify` panics
        verify(ended_well, killed)
    assert rows(ended_well) == list(range(300))
    found = rows(killed)
    assert found == list(range(len(found)))
    assert len(found) > 100
    listed = {one["recording_id"]: one for one in daemon.recordings()}
    assert {one["sdk_version"] for one in listed.values()} == {version}


def test_idle_processes_do_nothing(daemon: Home) -> None:
    """No wake-ups: neither daemon nor keeper makes a system call for three seconds."""
    strace = shutil.which("strace")
    if strace is None:
        missing("strace")
        return
    pids = [daemon.daemon_pid(), daemon.keeper_pid()]
    time.sleep(1.0)  # the connection that asked for them is over, and what it left is tidied up
    trace = daemon.path / "trace.txt"
    command = [strace, "-f", "-o", str(trace), *(word for pid in pids for word in ("-p", str(pid)))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        attached = [process.stderr.readline() for _ in pids]
        if any("attached" not in line for line in attached):
            process.kill()
            if any("not permitted" in line for line in attached):
                missing("the right to trace its own processes (ptrace)")
            raise AssertionError(attached)
        time.sleep(3.0)  # the time in which nothing may happen
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    # What they were waiting in when strace came is shown too, unfinished or interrupted by its leaving.
    calls = [line for line in trace.read_text().splitlines()
             if not any(word in line for word in ("unfinished", "detached", "resumed", "restart_syscall"))]
    assert [line for line in calls if "epoll_wait" not in line and "poll(" not in line and "futex" not in line] == []
    assert len(calls) <= len(pids)

"""What the kernel grants root and nobody else: pipes beyond a user's limit, and files in directories of others."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import Home, missing, wait_for
from tests.helpers.shim import Program, ended, rows, warnings

UID = 20_000 + os.getpid() % 40_000
"""Nobody's, nor another run's of these tests: what it has of pipes is all from here."""

STREAMS = 64
PROCESSES = 4


@pytest.fixture
def user(home: Home) -> list[str]:
    """What makes a command one of a user without rights; the home is theirs, and a daemon of theirs runs in it.

    They may read everything, for the interpreter may be in root's own directory; that lifts no limit.
    """
    if os.getuid() != 0:
        home.cli("daemon", "start")
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        missing("setpriv")
    for path in (home.path, *home.path.rglob("*")):
        os.chown(path, UID, UID)
    command = [str(setpriv), f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=+dac_read_search",
               "--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search"]
    start = [*command, sys.executable, "-m", "rrd_cli", "daemon", "start"]
    subprocess.run(start, env=home.env, cwd=home.path, check=True, capture_output=True, timeout=60)
    uids = psutil.Process(home.daemon_pid()).uids()
    assert set(uids) == {UID}
    return command


def test_sixty_four_streams_at_once(home: Home, user: list[str]) -> None:
    """All arrive whole, and no pipe, nor any that the user makes now, has the 8 KB of those who took too much."""
    source = """
import fcntl
from rrd import _session
first, count = int(sys.argv[1]), int(sys.argv[2])
recordings = [rr.RecordingStream("app", recording_id=f"r{number}") for number in range(first, first + count)]
for recording in recordings:
    assert rrd.attach(recording)
say("attached")
wait_for_test()
others = [end for _ in range(20) for end in os.pipe()]
say(*[fcntl.fcntl(end, 1032) for end in (*[stream.read_end for stream in _session.current().streams], *others[::2])])
for part in range(5):
    for recording in recordings:
        log(part * 10, part * 10 + 10, recording)
        rr.log("image", rr.EncodedImage(contents=os.urandom(200_000), media_type="image/png"), recording=recording)
for recording in recordings:
    assert rrd.flush(recording=recording)
say("logged")
wait_for_test()
"""
    each = STREAMS // PROCESSES
    programs = [Program(home, Path(sys.executable), source, number * each, each, prefix=user)
                for number in range(PROCESSES)]
    try:
        for program in programs:
            assert program.line() == "attached"
        assert len(home.status()["streams"]) == STREAMS
        sizes: list[int] = []
        for program in programs:
            program.go_on()
            sizes += map(int, program.line().split())
        assert len(sizes) == STREAMS + 20 * PROCESSES
        assert min(sizes) >= 64 << 10
        for program in programs:
            assert program.line() == "logged"
        assert [one["state"] for one in home.status()["streams"]] == ["live"] * STREAMS
        for program in programs:
            program.go_on()
            assert warnings(program.finish()) == []
    finally:
        for program in programs:
            program.__exit__(None, None, None)
    ended(home)
    logs = {one["recording_id"]: home.spool / f"{one['streams'][0]}.rrd" for one in home.recordings()}
    assert logs.keys() == {f"r{number}" for number in range(STREAMS)}
    assert all(rows(log) == list(range(50)) for log in logs.values())


def test_permission_lost(home: Home, user: list[str]) -> None:
    """An output whose file may not be written any more says so; program and other outputs do not notice; it resumes."""
    closed = home.path / "closed"
    closed.mkdir()
    if user:
        os.chown(closed, UID, UID)
    link, copy = home.path / "link.rrd", closed / "copy.rrd"

    def state(path: Path) -> tuple[str, str]:
        sink = next(one for one in home.status()["sinks"] if one["target"] == str(path))
        return sink["state"], sink["last_error"]

    with Program(home, Path(sys.executable), """
rr.init("app")
rrd.save("link.rrd")
rrd.save("closed/copy.rrd", copy=True)
log(0, 100)
assert rrd.flush(durable=True)
say("ready")
wait_for_test()
try:
    rrd.save("closed/late.rrd")
except rrd.Error as error:
    assert error.code == "failed", error
    say(error.message)
log(100, 200)
assert rrd.flush()
say("logged")
wait_for_test()
""", prefix=user) as program:
        program.line()
        copy.chmod(0o400)
        closed.chmod(0o500)
        os.kill(home.daemon_pid(), signal.SIGKILL)  # the next one has to open the file again
        wait_for(lambda: state(copy)[0] == "retrying", "the copy to be refused")
        assert state(copy)[1] == f"Permission denied: {copy}"
        program.go_on()
        assert program.line() == f"Permission denied: {closed}/late.rrd"
        assert program.line() == "logged"
        assert state(link) == ("following", "")
        assert state(copy)[0] == "retrying"
        copy.chmod(0o600)
        closed.chmod(0o700)
        wait_for(lambda: state(copy)[0] == "following", "the copy to go on")
        program.go_on()
        assert warnings(program.finish()) == []
    ended(home)
    assert rows(link) == list(range(200))
    assert copy.read_bytes() == link.read_bytes()


def test_no_home(home: Home, user: list[str]) -> None:
    """A container's uid without a name has to be told of the runtime directory and of the recordings' place only."""
    if not user:
        missing("root, who alone can be a user without a name")
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        del home.env[name]
    recorded = Path(__file__).parents[1] / "data" / "rrd" / "0.41.0.rrd"
    for words in (["daemon", "stop"], ["save", "out.rrd", recorded], ["status"], ["daemon", "logs"]):
        done = subprocess.run([*user, sys.executable, "-m", "rrd_cli", *words], env=home.env, cwd=home.path,
                              capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, ""), words
    assert (home.path / "out.rrd").is_file()

"""The Python shim with every SDK it is for: what a user does with it, and what is in the files afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.wire.rrd import Kind
from tests.conftest import NEWEST, SDKS, Home, wait_for
from tests.helpers.shim import Program, ended, entities, kinds, rows, run, warnings


@pytest.fixture(params=SDKS)
def python(request: pytest.FixtureRequest, sdk_python: Callable[[str], Path]) -> Path:
    return sdk_python(request.param)


@pytest.fixture
def newest(sdk_python: Callable[[str], Path]) -> Path:
    return sdk_python(NEWEST)


@pytest.fixture
def whole(request: pytest.FixtureRequest, verify: Callable[..., None]) -> Callable[..., None]:
    """`verify`, where it can be asked: 0.41's panics on messages of 0.23, which carry no chunk id."""
    if request.node.callspec.params.get("python") == "0.23.4":
        return lambda *files: None
    return verify


def test_two_files(daemon: Home, python: Path, whole) -> None:
    """Logged before, between and after: both files have it all, and are the very bytes of the log."""
    errors = run(daemon, python, """
rr.init("app")
log(0, 50)
a = rrd.save("a.rrd")
log(50, 100)
b = rrd.save("b.rrd")
log(100, 150)
assert a and b and a.id != b.id, (a, b)
assert os.path.isabs(a.path)
""")
    assert warnings(errors) == []
    ended(daemon)
    a, b = daemon.path / "a.rrd", daemon.path / "b.rrd"
    whole(a, b)
    assert rows(a) == rows(b) == list(range(150))
    (log,) = daemon.spool.glob("*.rrd")
    assert a.read_bytes() == b.read_bytes() == log.read_bytes()


def test_the_last_seconds(daemon: Home, python: Path, whole) -> None:
    """What was made in them and what has no time: of a live recording, which goes on, and of one that has ended."""
    recent, later, everything = (daemon.path / f"{name}.rrd" for name in ("recent", "later", "everything"))
    with Program(daemon, python, """
rr.init("app", recording_id="run")
rrd.attach()
rr.log("static", rr.TextLog("once"), static=True)
log(0, 50)
rrd.flush()
time.sleep(4)
log(50, 100)
rrd.flush()
say("logged")
wait_for_test()
log(100, 110)
""") as program:
        assert program.line() == "logged"
        daemon.cli("save", recent, "--last", "3s")
        assert daemon.status()["streams"] != []
        program.go_on()
        assert warnings(program.finish()) == []
    ended(daemon)
    daemon.cli("save", later, "run", "--last", "3s")
    daemon.cli("save", everything, "run", "--last", "1h")
    whole(recent, later, everything)
    assert rows(recent) == list(range(50, 100))
    assert rows(later)[-10:] == list(range(100, 110))
    assert rows(later)[0] >= 50
    assert rows(everything) == list(range(110))
    assert all("/static" in entities(path) for path in (recent, later, everything))


def test_the_last_seconds_are_no_output_of_the_whole(daemon: Home, newest: Path, verify) -> None:
    """The same path again is somebody's file: a recording that was to go on is not taken for one that is done."""
    program = Program(daemon, newest, """
rr.init("app")
log(0, 10)
first = rrd.save("event.rrd", last=30)
say("saved")
wait_for_test()
for last in (None, 30):
    try:
        rrd.save("event.rrd", last=last)
    except rrd.Error as error:
        assert error.code == "exists", error
    else:
        raise AssertionError("a file was taken for another")
import numpy
whole = rrd.save("event.rrd", force=True)
assert whole.id != first.id
assert rrd.save("event.rrd").id == whole.id, "the same call again"
rrd.save("other.rrd", last=numpy.float32(30))
log(10, 20)
""")
    with program:
        assert program.line() == "saved"
        wait_for(lambda: [sink["state"] for sink in daemon.status()["sinks"]] == ["complete"], "the file")
        program.go_on()
        assert warnings(program.finish()) == []
    ended(daemon)
    verify(daemon.path / "event.rrd", daemon.path / "other.rrd")
    assert rows(daemon.path / "event.rrd") == list(range(20))
    assert rows(daemon.path / "other.rrd") == list(range(10))


def test_as_the_sdk_itself_writes_it(daemon: Home, python: Path) -> None:
    """The same program with `rr.save`: the same frames in the same order, the same footer or none."""
    source = """
rr.init("app", recording_id="same")
{module}.save("{module}.rrd")
rr.log("static", rr.TextLog("once"), static=True)
for part in range(3):
    log(part * 10, part * 10 + 10)
    flush = rr.get_global_data_recording().flush
    flush()
rr.disconnect()
"""
    # No batch is cut by the clock, only by flush().
    run(daemon, python, source.format(module="rrd"), RERUN_FLUSH_TICK_SECS="3600")
    run(daemon, python, source.format(module="rr"), RERUN_FLUSH_TICK_SECS="3600")
    ended(daemon)
    ours, theirs = (daemon.path / f"{name}.rrd" for name in ("rrd", "rr"))
    assert rows(ours) == rows(theirs)
    assert kinds(ours.read_bytes()) == kinds(theirs.read_bytes())


def test_attach_now_save_later(daemon: Home, python: Path, whole) -> None:
    """The buffering mode: an output chosen in a shell, in the middle of the run, has it from the start."""
    with Program(daemon, python, """
rr.init("app")
log(0, 100)
stream = rrd.attach()
assert stream and os.path.exists(stream.log), stream
assert rrd.attach().id == stream.id
log(100, 200)
assert rrd.flush()
say(stream.id)
wait_for_test()
log(200, 300)
""") as program:
        stream = program.line()
        daemon.cli("save", "late.rrd")
        program.go_on()
        program.finish()
    ended(daemon)
    whole(daemon.path / "late.rrd")
    assert rows(daemon.path / "late.rrd") == list(range(300))
    assert [one["streams"] for one in daemon.recordings()] == [[stream]]


def test_several_recordings(daemon: Home, python: Path, whole) -> None:
    """Each to its own file, one of them with the ids of another."""
    run(daemon, python, """
one = rr.RecordingStream("app", recording_id="one")
two = rr.RecordingStream("app", recording_id="two")
twin = rr.RecordingStream("app", recording_id="two")
rrd.save("one.rrd", recording=one)
rrd.save("two.rrd", recording=two)
rrd.save("twin.rrd", recording=twin)
for row in range(0, 100, 3):
    log(row, row + 1, one)
    log(row + 1, row + 2, two)
    log(row + 2, row + 3, twin)
rrd.save("one too.rrd", recording=rr.get_data_recording(one))
for recording in (one, two, twin):
    assert rrd.flush(recording=recording)
assert len([thread for thread in threading.enumerate() if "rrd" in thread.name]) == 1
""")
    ended(daemon)
    files = [daemon.path / f"{name}.rrd" for name in ("one", "two", "twin", "one too")]
    whole(*files)
    assert [rows(file) for file in files] == [list(range(first, 102, 3))[:34] for first in (0, 1, 2, 0)]


def test_many_processes_one_recording(daemon: Home, python: Path, whole) -> None:
    """Each of them attaches the same recording: it is listed as one, and can be saved as one file."""
    source = """
number = int(sys.argv[1])
rr.init("app", recording_id="shared")
stream = rrd.attach()
say(stream.id)
wait_for_test()
log(number * 100, number * 100 + 100)
"""
    programs = [Program(daemon, python, source, number) for number in range(4)]
    try:
        assert len({program.line() for program in programs}) == 4
        (live,) = daemon.recordings()
        assert (live["recording_id"], live["state"], len(live["streams"])) == ("shared", "live", 4)
        daemon.cli("save", "live.rrd", "shared")
        for program in programs:
            program.go_on()
        for program in programs:
            assert warnings(program.finish()) == []
    finally:
        for program in programs:
            program.__exit__(None, None, None)
    ended(daemon)
    daemon.cli("save", "late.rrd", "shared")
    for name in ("live.rrd", "late.rrd"):
        whole(daemon.path / name)
        assert rows(daemon.path / name) == list(range(400))


def test_threads(daemon: Home, python: Path, whole) -> None:
    """Eight threads attach the same recording at once and log to it: one stream, one file each."""
    run(daemon, python, """
rr.init("app")
start = threading.Barrier(8)
ids = set()
def work(number):
    start.wait()
    ids.add(rrd.attach().id)
    log(number * 50, number * 50 + 25)
    assert rrd.save(f"{number}.rrd")
    log(number * 50 + 25, number * 50 + 50)
    assert rrd.flush()
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(ids) == 1, ids
assert [thread.name for thread in threading.enumerate() if "rrd" in thread.name] == ["rrd"]
""")
    ended(daemon)
    files = [daemon.path / f"{number}.rrd" for number in range(8)]
    whole(*files)
    assert all(rows(file) == list(range(400)) for file in files)


def test_default_blueprint(daemon: Home, python: Path) -> None:
    """With the first output and with a second one, as `rr.save` does it."""
    import rerun.chunk

    run(daemon, python, """
import rerun.blueprint as rrb
rr.init("app")
rrd.save("first.rrd", default_blueprint=rrb.Blueprint(rrb.TextLogView(origin="/")))
log(0, 10)
rr.init("app", recording_id="other")
rrd.attach()
log(0, 10)
rrd.save("second.rrd", default_blueprint=rrb.Blueprint(rrb.TextLogView(origin="/")))
rr.init("app", recording_id="theirs")
rr.save("theirs.rrd", default_blueprint=rrb.Blueprint(rrb.TextLogView(origin="/")))
log(0, 10)
rr.disconnect()
""")
    ended(daemon)
    expected = kinds((daemon.path / "theirs.rrd").read_bytes()).count(Kind.ACTIVATION)
    assert expected == 1
    for name in ("first", "second"):
        path = daemon.path / f"{name}.rrd"
        assert kinds(path.read_bytes()).count(Kind.ACTIVATION) == expected
        assert rows(path) == list(range(10))
        assert len(rerun.chunk.RrdReader(str(path)).blueprints()) == 1


def test_flush_durable(daemon: Home, python: Path, whole) -> None:
    """What was logged before it is in log and file, whatever happens right after it."""
    run(daemon, python, """
rr.init("app")
rrd.save("link.rrd")
rrd.save("copy.rrd", copy=True)
log(0, 500)
assert rrd.flush(durable=True, timeout=30)
os._exit(3)
""", code=3)
    ended(daemon)
    files = [daemon.path / "link.rrd", daemon.path / "copy.rrd"]
    whole(*files)
    assert all(rows(file) == list(range(500)) for file in files)


def test_detach(daemon: Home, newest: Path, verify) -> None:
    """A file is complete as far as it went, the other goes on."""
    run(daemon, newest, """
rr.init("app")
short, long = rrd.save("short.rrd", copy=True), rrd.save("long.rrd", copy=True)
log(0, 100)
assert rrd.flush(durable=True)
rrd.detach(short)
log(100, 200)
try:
    rrd.detach(short)
except rrd.Error as error:
    assert error.code == "not-found", error
else:
    raise AssertionError("detached twice")
""")
    ended(daemon)
    short, long = daemon.path / "short.rrd", daemon.path / "long.rrd"
    verify(short, long)
    assert rows(short) == list(range(100))
    assert rows(long) == list(range(200))


def test_second_init(daemon: Home, python: Path, whole) -> None:
    """With the same ids and with others: each init begins something new, and what was before is complete."""
    run(daemon, python, """
rr.init("app")
rrd.save("1.rrd")
log(0, 10)
rr.init("app")
log(10, 20)
rrd.save("2.rrd")
log(20, 30)
rr.init("app", recording_id="third")
rrd.save("3.rrd")
log(30, 40)
""")
    ended(daemon)
    files = [daemon.path / f"{number}.rrd" for number in (1, 2, 3)]
    whole(*files)
    assert [rows(file) for file in files] == [list(range(0, 10)), list(range(10, 30)), list(range(30, 40))]


@pytest.mark.parametrize("replace", ["rr.disconnect()", "rr.save('theirs.rrd')", "rr.connect_grpc('rerun+http://127.0.0.1:9/proxy')"])
def test_another_sink_and_back(daemon: Home, python: Path, whole, replace: str) -> None:
    """The program gives its recording another sink: that stream ends well, and the next call attaches anew."""
    with Program(daemon, python, f"""
rr.init("app", recording_id="mine")
first = rrd.attach()
rrd.save("before.rrd")
log(0, 50)
{replace}
second = rrd.attach()
assert first.id != second.id
rrd.save("after.rrd")
log(100, 150)
rr.disconnect()
say("done")
wait_for_test()
os._exit(0)
""") as program:
        program.line()
        ended(daemon)
        program.go_on()
        program.finish()
    before, after = daemon.path / "before.rrd", daemon.path / "after.rrd"
    whole(before, after)
    assert rows(before) == list(range(50))
    assert rows(after) == list(range(100, 150))
    assert [one["recording_id"] for one in daemon.recordings()] == ["mine"]


def test_with_block(daemon: Home, python: Path) -> None:
    """`with recording:` (newer SDKs end the file there): what is logged in it is there, again and again."""
    run(daemon, python, """
recording = rr.RecordingStream("app", recording_id="mine")
for part in range(3):
    with recording:
        rrd.attach()
        log(part * 10, part * 10 + 10)
""")
    ended(daemon)
    daemon.cli("save", "all.rrd", "mine")
    assert rows(daemon.path / "all.rrd") == list(range(30))


def test_same_file_again(daemon: Home, newest: Path) -> None:
    """The same call on the same recording is the same output; on a new recording it is refused, unless forced."""
    run(daemon, newest, """
rr.init("app", recording_id="one")
first = rrd.save("x.rrd")
assert rrd.save("x.rrd").id == first.id
log(0, 10)
rr.init("app", recording_id="two")
for _ in range(2):
    try:
        rrd.save("x.rrd")
    except rrd.Error as error:
        assert error.code == "exists", error
        assert "force=True" in error.hint, error
    else:
        raise AssertionError("overwritten")
while True:
    try:
        again = rrd.save("x.rrd", force=True)
        break
    except rrd.Error as error:  # until the first stream has ended, it is being written
        assert error.code == "exists", error
        time.sleep(0.02)
assert again.id != first.id
log(10, 20)
""")
    ended(daemon)
    assert rows(daemon.path / "x.rrd") == list(range(10, 20))


def test_errors_name_what_is_wrong(daemon: Home, newest: Path) -> None:
    """A refused output raises, and changes nothing for the recording."""
    run(daemon, newest, """
def refused(code, call, *args, **options):
    try:
        call(*args, **options)
    except rrd.Error as error:
        assert error.code == code, error
        assert error.message
        return error
    raise AssertionError(call)
refused("usage", rrd.save, "x.rrd")
rr.init("app")
assert "mkdir" in refused("failed", rrd.save, "nowhere/x.rrd").hint
refused("not-found", rrd.detach, "no-such-sink")
log(0, 10)
rrd.save("x.rrd")
""")
    ended(daemon)
    assert rows(daemon.path / "x.rrd") == list(range(10))


def test_names_that_are_not_utf8(daemon: Home, newest: Path) -> None:
    """A program's is told as far as it is text; a file's is refused, and nothing else comes to harm."""
    errors = run(daemon, newest, """
sys.argv[0] = "program\\udcff.py"
rr.init("app")
assert rrd.save("fine.rrd")
try:
    rrd.save("file\\udcff.rrd")
except rrd.Error as error:
    assert (error.code, error.message) == ("usage", f"not UTF-8: {os.getcwd()}/file\\\\udcff.rrd"), error
else:
    raise AssertionError("taken")
log(0, 10)
""")
    assert warnings(errors) == []
    ended(daemon)
    assert [one["program"] for one in daemon.recordings()] == ["program?.py"]
    assert rows(daemon.path / "fine.rrd") == list(range(10))


def test_logging_switched_off(daemon: Home, newest: Path) -> None:
    """RERUN=off: like Rerun's own functions, the call says so and does nothing."""
    errors = run(daemon, newest, """
rr.init("app")
assert not rrd.save("x.rrd")
assert not rrd.flush()
""", RERUN="off")
    assert len(warnings(errors)) == 1
    assert daemon.recordings() == []


def test_only_the_import_changes(daemon: Home, newest: Path) -> None:
    """`import rrd as rr`: what is not the shim's is Rerun's."""
    run(daemon, newest, """
import rrd as rr
rr.init("app", recording_id="mine")
rr.save("x.rrd")
rr.set_time("frame", sequence=7)
rr.log("row", rr.TextLog("row 7"))
assert not hasattr(rr, "no_such_thing")
""")
    ended(daemon)
    assert rows(daemon.path / "x.rrd") == [7]

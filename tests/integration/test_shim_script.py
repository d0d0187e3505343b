"""Rerun's script flags, notebooks, latency and standard output, through the Python shim."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.wire.rrd import Kind
from tests.conftest import DEADLINE_S, NEWEST, ROOT, SDKS, Home, missing, wait_for
from tests.helpers.shim import PRELUDE, ended, environment, kinds, rows, run, warnings

EXAMPLE = ROOT / "tests" / "helpers" / "official_example.py"
NOBODY = "rerun+http://127.0.0.1:1/proxy"
"""A viewer that is not there: the daemon waits for it."""


@pytest.fixture(params=SDKS)
def python(request: pytest.FixtureRequest, sdk_python: Callable[[str], Path]) -> Path:
    return sdk_python(request.param)


@pytest.fixture
def newest(sdk_python: Callable[[str], Path]) -> Path:
    return sdk_python(NEWEST)


def example(home: Home, python: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the example as a user would."""
    return subprocess.run([python, EXAMPLE, *flags], env=environment(home), cwd=home.path, capture_output=True,
                          stdin=subprocess.DEVNULL, text=True, timeout=4 * DEADLINE_S, check=False)


def test_save(daemon: Home, python: Path) -> None:
    """--save: the file, blueprint included; again: refused, the file untouched."""
    done = example(daemon, python, "--save", "out.rrd")
    assert done.returncode == 0, done.stderr
    assert warnings(done.stderr) == []
    ended(daemon)
    out = daemon.path / "out.rrd"
    before = out.read_bytes()
    assert rows(out) == list(range(50))
    assert kinds(before).count(Kind.ACTIVATION) == 1
    again = example(daemon, python, "--save", "out.rrd")
    assert again.returncode == 1
    assert "file exists" in again.stderr
    ended(daemon)
    assert out.read_bytes() == before


def test_headless(daemon: Home, python: Path) -> None:
    """--headless: no output, yet nothing is lost: it can be saved afterwards."""
    done = example(daemon, python, "--headless")
    assert done.returncode == 0, done.stderr
    ended(daemon)
    daemon.cli("save", "later.rrd", "rerun_example_cube")
    assert rows(daemon.path / "later.rrd") == list(range(50))


def test_no_flag_and_no_display(daemon: Home, newest: Path) -> None:
    """Without a flag a viewer is opened. Where none can be, that is said once, and the program does its work."""
    env = {name: value for name, value in environment(daemon).items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run([newest, EXAMPLE], env=env, cwd=daemon.path, capture_output=True, stdin=subprocess.DEVNULL,
                          text=True, timeout=4 * DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    (warning,) = warnings(done.stderr)
    assert "no viewer" in warning
    assert "DISPLAY" in done.stderr  # the viewer's own words
    ended(daemon)
    daemon.cli("save", "later.rrd", "rerun_example_cube")
    assert rows(daemon.path / "later.rrd") == list(range(50))


def test_connect_and_save(daemon: Home, newest: Path) -> None:
    """Flags add up; a viewer that is not there yet holds nothing up; the blueprint goes out once."""
    done = example(daemon, newest, "--connect", "--url", NOBODY, "--save", "out.rrd")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: not daemon.status()["streams"], "the stream's end")
    assert {sink["kind"] for sink in daemon.status()["sinks"]} >= {"file"}
    assert len(daemon.status()["sinks"]) == 2
    out = daemon.path / "out.rrd"
    assert rows(out) == list(range(50))
    assert kinds(out.read_bytes()).count(Kind.ACTIVATION) == 1


def test_stdout(daemon: Home, newest: Path) -> None:
    """--stdout into a pipe: the whole recording, and an end."""
    done = subprocess.run([newest, EXAMPLE, "--stdout"], env=environment(daemon), cwd=daemon.path,
                          capture_output=True, stdin=subprocess.DEVNULL, timeout=4 * DEADLINE_S,
                          check=False)
    assert done.returncode == 0, done.stderr
    out = daemon.path / "stdout.rrd"
    out.write_bytes(done.stdout)
    assert rows(out) == list(range(50))


def test_stdout_after_ctrl_c(daemon: Home, newest: Path) -> None:
    """The terminal interrupts all that is in the foreground; what the program still logs then is written, too."""
    source = PRELUDE + """
rr.init("app")
rrd.stdout()
log(0, 10)
try:
    print("ready", file=sys.stderr, flush=True)
    signal.pause()
except KeyboardInterrupt:
    log(10, 20)
"""
    process = subprocess.Popen([newest, "-c", source], env=environment(daemon), cwd=daemon.path, process_group=0,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"ready\n"
        os.killpg(process.pid, signal.SIGINT)
        data, errors = process.communicate(timeout=4 * DEADLINE_S)
    assert process.returncode == 0, errors
    out = daemon.path / "stdout.rrd"
    out.write_bytes(data)
    assert rows(out) == list(range(20))


def test_flags_are_the_sdks_own(python: Path, home: Home) -> None:
    """Every flag of the installed SDK's helper, none more."""
    source = """
import argparse
mine, theirs = argparse.ArgumentParser(), argparse.ArgumentParser()
rrd.script_add_args(mine)
rr.script_add_args(theirs)
assert mine.format_help() == theirs.format_help()
assert "--headless" in mine.format_help()
"""
    run(home, python, source)


def test_teardown_does_not_wait(home: Home, newest: Path) -> None:
    """Rerun's own sleeps for good after --serve."""
    run(home, newest, """
import argparse
parser = argparse.ArgumentParser()
rrd.script_add_args(parser)
args = parser.parse_args(["--serve"])
rr.init("app")
begin = time.monotonic()
rrd.script_teardown(args)
assert time.monotonic() - begin < 5
""")


def test_import_is_quick(newest: Path, tmp_path: Path) -> None:
    """Under 30 ms beyond Rerun: the best of some runs, on a machine that others use."""
    source = "import time, rerun; begin = time.perf_counter(); import rrd; print(time.perf_counter() - begin)"
    best = 9.0
    for _ in range(10):
        done = subprocess.run([newest, "-c", source], capture_output=True, text=True, check=True, cwd=tmp_path,
                              env={**os.environ, "PYTHONPATH": str(ROOT / "sdk" / "python")})
        best = min(best, float(done.stdout))
        if best < 0.030:
            return
    raise AssertionError(f"{best * 1000:.1f} ms")


@pytest.mark.parametrize(("first", "own", "least", "most"), [
    ("rrd.attach()", "", 1, 6),
    (f"rrd.connect({NOBODY!r})", "", 8, 10),
    (f"rrd.connect({NOBODY!r})", "0.2", 1, 6),
], ids=["attach", "connect", "connect, as the user wants it"])
def test_latency(daemon: Home, newest: Path, first: str, own: str, least: int, most: int) -> None:
    """Batches are cut as for a file, or as for a viewer when one is asked for first, unless the user chose himself."""
    run(daemon, newest, f"""
rr.init("app", recording_id="mine")
before = dict(os.environ)
{first}
assert dict(os.environ) == before
for row in range(10):
    log(row, row + 1)
    time.sleep(0.05)
""", **({"RERUN_FLUSH_TICK_SECS": own} if own else {}))
    wait_for(lambda: not daemon.status()["streams"], "the stream's end")
    daemon.cli("save", "out.rrd", "mine")
    out = daemon.path / "out.rrd"
    assert rows(out) == list(range(10))
    import rerun.chunk

    chunks = [one for one in rerun.chunk.RrdReader(str(out)).stream().to_chunks() if one.entity_path == "/row"]
    assert least <= len(chunks) <= most


def test_nonsense_is_refused(daemon: Home, newest: Path) -> None:
    """A URL that is none: the daemon's refusal, with what to do."""
    run(daemon, newest, """
rr.init("app")
try:
    rrd.connect("ftp://nonsense/x")
except rrd.Error as error:
    assert error.code == "usage", error
    assert error.hint
else:
    raise AssertionError("connected to nonsense")
""")


def test_cell_is_run_again(daemon: Home, newest: Path) -> None:
    """A notebook: the cell that saves, again and again; the module reloaded in between. One output, one thread."""
    run(daemon, newest, """
import importlib
rr.init("app", recording_id="notebook")
cell = 'sink = rrd.save("nb.rrd"); log(start, start + 10)'
ids = set()
for start in range(0, 50, 10):
    exec(cell)
    ids.add(sink.id)
    importlib.reload(rrd)
assert len(ids) == 1, ids
assert len([thread for thread in threading.enumerate() if thread.name == "rrd"]) == 1
""")
    ended(daemon)
    assert rows(daemon.path / "nb.rrd") == list(range(50))


KERNEL = """
import os, sys
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel(cwd=os.getcwd())

def cell(source):
    out = []
    def take(message):
        if message["msg_type"] == "error":
            out.append("\\n".join(message["content"]["traceback"]))
        elif message["msg_type"] == "stream":
            out.append(message["content"]["text"])
    answer = client.execute_interactive(source, output_hook=take, timeout=60)
    assert answer["content"]["status"] == "ok", "".join(out)
    return "".join(out)

try:
    cell("import rerun as rr, rrd, threading, os")
    cell("def log(start, stop):\\n"
         "    for row in range(start, stop):\\n"
         "        rr.set_time('frame', sequence=row)\\n"
         "        rr.log('row', rr.TextLog(f'row {row}'))")
    cell("rr.init('app', recording_id='first')")
    save = "sink = rrd.save('first.rrd'); log(0, 10); assert rrd.flush(); print(sink.id)"
    ids = {cell(save.replace("log(0, 10)", f"log({part * 10}, {part * 10 + 10})")) for part in range(3)}
    assert len(ids) == 1, ids
    cell("rr.init('app', recording_id='second')")          # the cell with the init again: a new recording
    cell("second = rrd.save('second.rrd', copy=True); log(0, 20); assert rrd.flush(durable=True)")
    cell("rrd.detach(second); log(20, 30); assert rrd.flush()")
    assert cell("print([one.name for one in threading.enumerate()].count('rrd'))") == "1\\n"
    cell("try:\\n    rrd.save('no/such/place.rrd')\\nexcept rrd.Error as error:\\n    print(error)")
    if sys.argv[1] == "interrupt":
        manager.interrupt_kernel()
        cell("log(30, 40); assert rrd.flush()")
    manager.shutdown_kernel(now=sys.argv[1] == "killed")
finally:
    client.stop_channels()
    if manager.is_alive():
        manager.shutdown_kernel(now=True)
"""


@pytest.mark.parametrize("how", ["ended", "interrupt", "killed"])
def test_in_a_notebook(daemon: Home, newest: Path, verify, how: str) -> None:
    """A real kernel: cells again, inits again, outputs that come and go; and however it is shut down."""
    if not (importlib.util.find_spec("jupyter_client") and importlib.util.find_spec("ipykernel")):
        missing("ipykernel, which rerun-sdk[notebook] brings")
    env = environment(daemon) | {"JUPYTER_PLATFORM_DIRS": "1", "IPYTHONDIR": str(daemon.path / "ipython")}
    done = subprocess.run([newest, "-c", KERNEL, how], env=env, cwd=daemon.path, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=4 * DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    ended(daemon)
    first, second = daemon.path / "first.rrd", daemon.path / "second.rrd"
    verify(first, second)
    assert rows(first) == list(range(30))
    assert rows(second) == list(range(20))
    daemon.cli("save", "all.rrd", "second")
    assert rows(daemon.path / "all.rrd") == list(range(40 if how == "interrupt" else 30))


def test_imports_without_the_sdk(tmp_path: Path, newest: Path) -> None:
    """Without rerun-sdk at hand `import rrd` still works: what is missing is said when it is needed."""
    code = "import rrd\ntry:\n    rrd.attach()\nexcept ImportError as error:\n    print(error.name)"
    done = subprocess.run([newest, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(ROOT / "sdk" / "python")})
    assert done.stdout.strip() == "rerun"

"""Footers, finished logs and recovered files against the real thing: five SDKs write, the newest Rerun judges."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.spool.finish import finish_log
from daemon.spool.recovery import merge, recover
from daemon.wire.footer import footer_is_trustworthy, parse_footer
from daemon.wire.rrd import FRAME_HEADER_SIZE, TAIL_SIZE, Kind
from tests.conftest import NEWEST, SDKS, wait_for
from tests.helpers.chunks import SAMPLES
from tests.helpers.damage import cases
from tests.helpers.footers import compare_files, compare_footers, footer_of, frames, rebuilt

LOGGER = Path(__file__).parent.parent / "helpers" / "logger.py"
PROGRAMS = ("small", "rich", "types", "blueprint", "micro")
WITHOUT_CHUNK_IDS = "0.23.4"
"""`rerun rrd verify` panics on messages of this SDK where there is a footer: they do not carry the chunk's id."""

PROCESS = """
import sys
import rerun as rr
rr.init("processes", recording_id="one")
rr.save(sys.argv[1])
rr.log("world", rr.TextDocument(sys.argv[2]), static=True)
rr.log(f"own/{sys.argv[2]}", rr.TextDocument("mine"), static=True)
for row in range(5):
    rr.log("log", rr.TextLog(f"{sys.argv[2]}: {row}"))
"""

WITH_FOOTERS = ("0.31.4", "0.34.1", "0.36.3", "0.41.0")
"""The SDKs whose own footers ours are compared with."""

STORES = """
import hashlib, sys
import pyarrow as pa
import rerun.chunk
reader = rerun.chunk.RrdReader(sys.argv[1])
for entry in [*reader.recordings(), *reader.blueprints()]:
    store = reader.store(store=entry)
    print(entry.kind, entry.application_id, entry.recording_id)
    print(store.summary())
    print(store.schema())
    for chunk in store.stream():
        print("chunk", chunk.id, chunk.entity_path, chunk.is_static, chunk.num_rows, chunk.timeline_names)
        batch = chunk.to_record_batch()
        print(batch.schema.to_string(show_field_metadata=False, show_schema_metadata=False))
        for name, column in zip(batch.schema.names, batch.columns):
            bare = pa.RecordBatch.from_arrays([column], names=[name])
            print(name, sorted((batch.schema.field(name).metadata or {}).items()))
            print(hashlib.sha256(bare.serialize()).hexdigest())
"""

READER = """
import json, sys, warnings
import rerun.chunk
found = {}
for path in sys.argv[1:]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = rerun.chunk.RrdReader(path)
        found[path] = {}
        for entry in [*reader.recordings(), *reader.blueprints()]:
            store = reader.store(store=entry)
            found[path][f"{entry.kind}:{entry.recording_id}"] = sum(1 for chunk in store.stream())
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Rerun with its analytics off."""
    config = tmp_path_factory.mktemp("config")
    (config / "rerun").mkdir()
    (config / "rerun" / "analytics.json").write_text(
        '{"analytics_enabled":false,"analytics_id":"","salt":"","metadata":{}}'
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RERUN")}
    return {**kept, "XDG_CONFIG_HOME": str(config)}


@pytest.fixture(scope="session")
def recording(
    sdk_python: Callable[[str], Path], environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """Call it with a version and a program of the logger: the file that the SDK saved."""
    directory = tmp_path_factory.mktemp("recordings")

    def make(version: str, what: str) -> Path:
        path = directory / f"{what}-{version}.rrd"
        if not path.exists():
            rows = {"RERUN_FLUSH_NUM_ROWS": "1"} if what == "micro" else {"RERUN_FLUSH_TICK_SECS": "1000"}
            command = [str(sdk_python(version)), str(LOGGER), what, str(path)]
            done = subprocess.run(command, env={**environment, **rows}, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        return path

    return make


@pytest.fixture
def tool(rerun: Path, environment: dict[str, str]) -> Callable[..., None]:
    """Call it with arguments for the newest `rerun rrd`: it must be content."""

    def run(*arguments: object) -> None:
        command = [str(rerun), "rrd", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture
def chunks(environment: dict[str, str]) -> Callable[..., dict[str, dict[str, int]]]:
    """Call it with files: how many chunks RrdReader's store() has of each recording and blueprint."""

    def read(*paths: Path) -> dict[str, dict[str, int]]:
        done = subprocess.run(
            [sys.executable, "-c", READER, *map(str, paths)], env=environment, capture_output=True, text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, dict[str, int]] = json.loads(done.stdout)
        return found

    return read


def without_end(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: next(start - FRAME_HEADER_SIZE for kind, start, _ in frames(data) if kind == Kind.END)]


def listed(path: Path) -> dict[str, int]:
    """Chunks in each manifest of a file."""
    kinds = {1: "recording", 2: "blueprint"}
    return {f"{kinds[m.store.kind]}:{m.store.recording_id}": m.data.num_rows for m in footer_of(path.read_bytes())}


@pytest.mark.parametrize("what", PROGRAMS)
@pytest.mark.parametrize("version", WITH_FOOTERS)
def test_equal_to_the_sdks_own_footer(version: str, what: str, recording: Callable[[str, str], Path]) -> None:
    data = recording(version, what).read_bytes()
    own = footer_of(data)
    differences = compare_footers(own, parse_footer(rebuilt(data)[1][FRAME_HEADER_SIZE:-TAIL_SIZE]))
    trusted = footer_is_trustworthy(tuple(map(int, version.split("."))), {m.store.kind for m in own})
    assert (differences == []) == trusted
    assert trusted or (version, what) == ("0.31.4", "blueprint")


@pytest.mark.parametrize("version", ["0.34.1", "0.41.0"])
@pytest.mark.parametrize("what", PROGRAMS)
def test_the_same_to_a_reader(
    version: str, what: str, recording: Callable[[str, str], Path], environment: dict[str, str],
    tool: Callable[..., None], tmp_path: Path,
) -> None:
    """One stream with the SDK's footer, and with that cut off and ours made: field by field, and through store()."""
    source, log = recording(version, what), tmp_path / "log.rrd"
    log.write_bytes(without_end(source))
    assert finish_log(str(log)).footer
    assert compare_files(source, log) == []
    tool("verify", source, log)
    read = []
    for path in (source, log):
        done = subprocess.run([sys.executable, "-c", STORES, path], env=environment, capture_output=True, text=True,
                              check=False)
        assert done.returncode == 0, done.stderr
        read.append(done.stdout)
    assert read[0].count("\nchunk ") == sum(listed(source).values())
    assert read[0] == read[1]


@pytest.mark.parametrize("what", PROGRAMS)
@pytest.mark.parametrize("version", SDKS)
def test_logs_that_were_cut_off(
    version: str,
    what: str,
    recording: Callable[[str, str], Path],
    tool: Callable[..., None],
    chunks: Callable[..., dict[str, dict[str, int]]],
    tmp_path: Path,
) -> None:
    """Finished in place, and recovered: Rerun's own tools read every chunk, and its own merge makes the same footer."""
    source, log, good, merged = recording(version, what), *(tmp_path / f"{n}.rrd" for n in ("log", "good", "merged"))
    log.write_bytes(without_end(source) + source.read_bytes()[12:60])
    recover(str(log), str(good))
    result = finish_log(str(log))
    assert result.footer
    assert result.dropped_bytes == 48
    tool("merge", source, "-o", merged)
    for path in (log, good):
        assert compare_files(merged, path, bytes_too=False) == []
    tool("verify", *([good] if version == WITHOUT_CHUNK_IDS else [log, good]))
    found = chunks(log, good)
    assert found[str(log)] == found[str(good)] == listed(good)
    assert sum(listed(good).values()) >= 3


@pytest.mark.parametrize("version", SDKS)
def test_a_killed_program_behind_a_pipe(
    version: str,
    sdk_python: Callable[[str], Path],
    environment: dict[str, str],
    tool: Callable[..., None],
    chunks: Callable[..., dict[str, dict[str, int]]],
    tmp_path: Path,
) -> None:
    """SIGKILL in the middle of a stream: what came through the pipe becomes a complete file."""
    pipe, log, good = (tmp_path / name for name in ("pipe", "log.rrd", "good.rrd"))
    os.mkfifo(pipe)
    with subprocess.Popen([sdk_python(version), LOGGER, "forever", pipe], env=environment) as program:
        try:
            with open(pipe, "rb") as reader, open(log, "wb") as writer:
                while writer.tell() < 500_000:
                    writer.write(reader.read1(1 << 16))
                program.send_signal(signal.SIGKILL)
                wait_for(lambda: program.poll() is not None, "the program's end")
                writer.write(reader.read())
        finally:
            program.kill()
    data = log.read_bytes()
    report = recover(str(log), str(good))
    result = finish_log(str(log))
    assert result.footer
    assert result.messages == report.kept_messages
    assert result.dropped_bytes == report.lost_bytes < len(data)
    assert log.read_bytes().startswith(data[: len(data) - result.dropped_bytes])
    tool("verify", *([good] if version == WITHOUT_CHUNK_IDS else [log, good]))
    found = chunks(log, good)
    assert found[str(log)] == found[str(good)] == listed(good)


def test_every_kind_of_damage(
    tool: Callable[..., None], chunks: Callable[..., dict[str, dict[str, int]]], tmp_path: Path
) -> None:
    results = []
    for number, case in enumerate(cases(SAMPLES[NEWEST].read_bytes(), SAMPLES["0.36.3"].read_bytes())):
        source, output = tmp_path / f"{number}.rrd", tmp_path / f"{number}-good.rrd"
        source.write_bytes(case.data)
        recover(str(source), str(output))
        results.append((output, case))
    tool("verify", *(path for path, _ in results))
    found = chunks(*(path for path, _ in results))
    infos = 2  # the first frames of the sample are store infos
    assert {case.name: found[str(path)] for path, case in results} == {
        case.name: {"recording:rec_small": len(case.kept) - infos} for _, case in results
    }


def test_several_recordings_of_several_sdks_in_one_file(
    recording: Callable[[str, str], Path],
    tool: Callable[..., None],
    chunks: Callable[..., dict[str, dict[str, int]]],
    tmp_path: Path,
) -> None:
    sources = [recording(version, what) for version, what in zip(SDKS, PROGRAMS, strict=True)]
    ours, theirs, concatenated = (tmp_path / f"{name}.rrd" for name in ("ours", "theirs", "concatenated"))
    merge([str(path) for path in sources], str(ours))
    tool("merge", *sources, "-o", theirs)
    assert compare_files(theirs, ours, bytes_too=False) == []
    tool("verify", ours)
    assert chunks(ours)[str(ours)] == listed(ours)
    assert len(listed(ours)) == len(PROGRAMS) + 1, "and a blueprint"
    concatenated.write_bytes(b"".join(path.read_bytes() for path in sources))
    result = finish_log(str(concatenated))
    assert result.rewritten
    assert concatenated.read_bytes() == ours.read_bytes()


@pytest.mark.parametrize("version", SDKS)
def test_one_recording_of_several_processes(
    version: str,
    sdk_python: Callable[[str], Path],
    environment: dict[str, str],
    tool: Callable[..., None],
    chunks: Callable[..., dict[str, dict[str, int]]],
    tmp_path: Path,
) -> None:
    """Static chunks that a later process overrides stay; `rerun rrd merge` drops them. `rerun rrd compare`, which reads
    as a viewer does, sees no difference, and merging ours gives theirs."""
    sources = [tmp_path / f"{number}.rrd" for number in range(2)]
    ours, theirs, theirs_of_ours = (tmp_path / f"{name}.rrd" for name in ("ours", "theirs", "theirs-of-ours"))
    for number, path in enumerate(sources):
        command = [str(sdk_python(version)), "-c", PROCESS, str(path), str(number)]
        subprocess.run(command, env=environment, check=True, capture_output=True)
    merge([str(path) for path in sources], str(ours))
    tool("merge", *sources, "-o", theirs)
    tool("merge", ours, "-o", theirs_of_ours)
    (own,), (other,) = footer_of(ours.read_bytes()), footer_of(theirs.read_bytes())
    kept, there = (set(manifest.data["chunk_id"].to_pylist()) for manifest in (own, other))
    assert there < kept
    static = dict(zip(own.data["chunk_id"].to_pylist(), own.data["chunk_is_static"].to_pylist(), strict=True))
    assert all(static[chunk] for chunk in kept - there)
    assert chunks(ours)[str(ours)] == listed(ours)
    assert compare_files(theirs, theirs_of_ours, bytes_too=False) == []
    data = theirs.read_bytes()
    assert compare_footers([other], parse_footer(rebuilt(data)[1][FRAME_HEADER_SIZE:-TAIL_SIZE])) == []
    tool("compare", ours, theirs)
    tool("verify", ours)


@pytest.mark.parametrize("version", SDKS)
def test_empty_recordings_end_as_newer_sdks_end_them(
    version: str, recording: Callable[[str, str], Path], tmp_path: Path
) -> None:
    source, log = recording(version, "empty"), tmp_path / "log.rrd"
    if any(kind == Kind.ARROW for kind, _, _ in frames(source.read_bytes())):
        pytest.skip(f"{version} always logs a chunk of properties")
    log.write_bytes(without_end(source))
    assert finish_log(str(log)).footer
    if version in ("0.31.4", "0.36.3", "0.41.0"):
        assert log.read_bytes() == source.read_bytes()
    else:
        assert log.read_bytes()[:-TAIL_SIZE] == source.read_bytes()

"""Recovery: every kind of damage, and what must be left of the messages."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from daemon.spool.recovery import FormatError, RecoveryReport, merge, recover
from daemon.wire.footer import parse_footer
from daemon.wire.logmsg import StoreId
from daemon.wire.protobuf import length_delimited
from daemon.wire.rrd import FRAME_HEADER_SIZE, HEADER_SIZE, TAIL_SIZE, Kind
from tests.helpers.chunks import HEADER, SAMPLES, arrow_msg, batch, chunk, frame, ipc, store_id, store_info, stream
from tests.helpers.damage import Case, cases
from tests.helpers.footers import compare_footers, footer_of, frames, rebuilt

INTACT = SAMPLES["0.41.0"].read_bytes()
CASES = list(cases(INTACT, SAMPLES["0.36.3"].read_bytes()))


def payloads(data: bytes) -> list[tuple[int, bytes]]:
    """Kinds and payloads of all frames before the End."""
    return [(kind, data[start : start + length]) for kind, start, length in frames(data) if kind != Kind.END]


def is_complete(data: bytes) -> bool:
    """The file ends in a footer, and that is the one its frames should have."""
    _, ending = rebuilt(data, check=True)
    assert compare_footers(footer_of(data), parse_footer(ending[FRAME_HEADER_SIZE:-TAIL_SIZE])) == []
    return True


def recovered(data: bytes, tmp_path: Path, **options: bool) -> tuple[RecoveryReport, bytes]:
    source, output = tmp_path / "in.rrd", tmp_path / "out.rrd"
    source.write_bytes(data)
    output.unlink(missing_ok=True)
    report = recover(str(source), str(output), **options)
    assert source.read_bytes() == data
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.rrd", "out.rrd"]
    return report, output.read_bytes()


@pytest.mark.parametrize("letter", ["a", "あ", "aあ"])
def test_the_longest_name(tmp_path: Path, letter: str) -> None:
    """255 bytes, in whatever letters it is written."""
    source = tmp_path / "in.rrd"
    source.write_bytes(INTACT)
    name = letter * (251 // len(letter.encode()))
    output = tmp_path / f"{name}{'.' * (251 - len(name.encode()))}.rrd"
    recover(str(source), str(output))
    assert payloads(output.read_bytes()) == payloads(INTACT)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_kind_of_damage(case: Case, tmp_path: Path) -> None:
    report, result = recovered(case.data, tmp_path)
    expected = payloads(INTACT)
    assert payloads(result) == [expected[i] for i in case.kept]
    assert is_complete(result)
    assert report.footer
    assert not report.problem
    assert report.kept_messages == len(case.kept)
    assert report.kept_bytes == sum(len(expected[i][1]) + FRAME_HEADER_SIZE for i in case.kept)
    assert report.output_bytes == len(result)
    assert report.input_footer == case.footer
    assert report.intact == (case.name == "intact")
    lost_all = sum(d.bytes for d in report.damage)
    assert 0 <= report.lost_bytes <= lost_all
    if len(case.kept) < len(expected) and case.name != "cut between frames":
        assert report.lost_bytes > 0
        assert report.damage
    # What was kept, lost or only an ending adds up to the whole file.
    assert report.kept_bytes + lost_all <= len(case.data)
    assert result[4:8] == INTACT[4:8]


def tiny() -> bytes:
    """A short stream with a footer."""
    data = stream([chunk(i) for i in (1, 2, 3)])
    end, ending = rebuilt(data)
    assert end == len(data)
    return data + ending


def test_cut_at_every_byte(tmp_path: Path) -> None:
    """Exactly the whole frames before the cut are there; below the first one there is nothing to recover."""
    intact = tiny()
    ends = [start + length for kind, start, length in frames(intact) if kind != Kind.END]
    for cut in (*range(ends[-1] + 40), *range(ends[-1] + 40, len(intact), 41)):
        whole = sum(end <= cut for end in ends)
        if whole == 0 and cut != HEADER_SIZE:
            with pytest.raises(FormatError):
                recovered(intact[:cut], tmp_path)
            (tmp_path / "in.rrd").unlink()
            continue
        report, result = recovered(intact[:cut], tmp_path)
        assert payloads(result) == payloads(intact)[:whole]
        assert report.kept_messages == whole
        last = ends[whole - 1] if whole else HEADER_SIZE
        if cut < ends[-1]:
            assert report.lost_bytes == cut - last
    assert is_complete(result)


def test_flip_every_byte(tmp_path: Path) -> None:
    """No flipped bit costs more than the message that it hit, and what comes out is complete."""
    intact = tiny()
    expected, problems, refused = payloads(intact), list[str](), list[int]()
    bounds = [(start - FRAME_HEADER_SIZE, start + length) for kind, start, length in frames(intact) if kind != Kind.END]
    # Of the footer, which is made anew whatever it was, a sample will do.
    for at in (*range(bounds[-1][1] + 40), *range(bounds[-1][1] + 40, len(intact), 41)):
        damaged = intact[:at] + bytes((intact[at] ^ (1 << at % 8),)) + intact[at + 1 :]
        try:
            report, result = recovered(damaged, tmp_path)
        except FormatError:
            refused.append(at)
            (tmp_path / "in.rrd").unlink()
            continue
        found = payloads(result)
        others = [p for p, (start, end) in zip(expected, bounds, strict=True) if not start <= at < end]
        assert [p for p in found if p in others] == others, at
        assert len(found) <= len(expected)
        if report.footer:
            assert is_complete(result)
        else:
            problems.append(report.problem)
    assert problems == []
    assert refused == [], "where the encoding stands, MsgPack cannot be told from the real thing"


def test_what_was_lost_is_said(tmp_path: Path) -> None:
    def at(second: int) -> bytes:
        times = {"log_time": pa.array([second * 10**9], pa.timestamp("ns"))}
        return chunk(second, times=times, compress=False, components={"A:b": pa.array([[0.0] * 9000])})

    chunks = [at(second) for second in (10, 12, 15, 20)]
    data = stream(chunks)
    size = FRAME_HEADER_SIZE + len(chunks[1])
    middle = len(stream(chunks[:1]))
    damaged = data[: middle + 1000] + bytes(100) + data[middle + 1100 : -1000]
    damaged = damaged[:middle] + b"\x63" + damaged[middle + 1 :]
    report, result = recovered(damaged, tmp_path)
    assert len(payloads(result)) == 3
    first, second = report.damage
    assert (first.offset, first.bytes) == (middle, size)
    assert first.seconds == 5.0, "from what is kept before to what is kept after"
    assert (second.offset, second.bytes, second.messages) == (middle + 2 * size, size - 1000, 1)
    assert second.what.startswith("cut in a message")
    assert second.seconds == 5.0, "read from what is left of the message"
    assert (report.kept_seconds, report.lost_seconds) == (5.0, 10.0)
    assert (report.lost_messages, report.lost_bytes) == (1, 2 * size - 1000)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"RRF2", "shorter than its 12-byte header"),
        (b"RRF1" + bytes(100), "Rerun 0.4 to 0.5, too old"),
        (b"RRF2\0\x16\1\0\2\1\0\0" + bytes(100), "MsgPack"),
        (b"\x89PNG\r\n\x1a\n" + bytes(1000), "not an .rrd stream"),
        (HEADER + bytes(1000), "not one whole message"),
        (HEADER + b"\2" + bytes(7) + b"\xff" * 8 + b"x" * 100, "not one whole message"),
    ],
)
def test_nothing_to_recover(data: bytes, message: str, tmp_path: Path) -> None:
    source = tmp_path / "in.rrd"
    source.write_bytes(data)
    with pytest.raises(FormatError, match=message) as caught:
        recover(str(source), str(tmp_path / "out.rrd"))
    assert str(source) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["in.rrd"]


@pytest.mark.parametrize("data", [HEADER, stream([])])
def test_empty_recordings_end_as_the_sdk_ends_them(data: bytes, tmp_path: Path) -> None:
    report, result = recovered(data, tmp_path)
    assert result.startswith(data)
    assert result[len(data) : len(data) + 16] == bytes(16)
    assert footer_of(result) == []
    assert report.footer


def test_nothing_is_replaced(tmp_path: Path) -> None:
    source, output = tmp_path / "in.rrd", tmp_path / "out.rrd"
    source.write_bytes(INTACT)
    output.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        recover(str(source), str(output))
    assert output.read_bytes() == b"mine"
    link = tmp_path / "link.rrd"
    link.symlink_to(source)
    for same in (source, link):
        with pytest.raises(OSError, match="replace the input"):
            recover(str(source), str(same), force=True)
    assert source.read_bytes() == INTACT
    recover(str(source), str(output), force=True)
    assert is_complete(output.read_bytes())


def test_a_target_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    source, output = tmp_path / "in.rrd", tmp_path / "out.rrd"
    source.write_bytes(INTACT)

    def progress(done: int, total: int) -> None:
        if done == total:
            output.write_bytes(b"theirs")

    with pytest.raises(FileExistsError):
        recover(str(source), str(output), progress=progress)
    assert output.read_bytes() == b"theirs"
    assert len(list(tmp_path.iterdir())) == 2


def test_the_result_is_private_or_not_as_the_user_has_it(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        recovered(INTACT, tmp_path)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "out.rrd").stat().st_mode) == 0o640


def test_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        with pytest.raises(OSError, match=r"not a regular file"):
            recover(str(path), str(tmp_path / "out.rrd"))
    with pytest.raises(FileNotFoundError):
        recover(str(tmp_path / "none"), str(tmp_path / "out.rrd"))
    with pytest.raises(FileNotFoundError):
        recover(os.fspath(SAMPLES["0.41.0"]), str(tmp_path / "none" / "out.rrd"))


@pytest.mark.parametrize("version", SAMPLES)
def test_every_sdk_s_file(version: str, tmp_path: Path) -> None:
    data = SAMPLES[version].read_bytes()
    report, result = recovered(data, tmp_path)
    assert report.version == version
    assert is_complete(result)
    assert len(payloads(result)) == len(payloads(data))
    if version != "0.23.4":  # those chunks get their id
        assert payloads(result) == payloads(data)


def test_merged_files_are_one_stream(tmp_path: Path) -> None:
    """Different SDKs, different recordings: the newest version in the header, one manifest a recording."""
    output = tmp_path / "out.rrd"
    names = ["0.27.3", "0.41.0", "0.23.4"]
    report = merge([str(SAMPLES[name]) for name in names], str(output))
    result = output.read_bytes()
    assert result[4:8] == INTACT[4:8]
    assert is_complete(result)
    assert (report.version, report.streams, report.repeated_messages) == ("0.41.0", 3, 0)
    assert len(payloads(result)) == sum(len(payloads(SAMPLES[name].read_bytes())) for name in names)
    again = tmp_path / "again.rrd"
    report = merge([str(output), str(SAMPLES["0.41.0"])], str(again))
    assert report.repeated_messages == len(payloads(INTACT))
    assert again.read_bytes() == result


def test_merge_takes_what_is_selected(tmp_path: Path) -> None:
    a, b, blueprint = store_id("a"), store_id("b"), store_id("a", kind=2)
    activation = frame(Kind.ACTIVATION, b"\x0a" + bytes((len(blueprint),)) + blueprint + b"\x10\x01\x18\x01")
    infos = [store_info(a), store_info(b), store_info(blueprint)]
    data = stream([chunk(1, store=a), chunk(2, store=b), chunk(3, store=blueprint), chunk(4, store=a)], infos=infos)
    source, output = tmp_path / "in.rrd", tmp_path / "out.rrd"
    source.write_bytes(data + activation)
    report = merge([str(source)], str(output), select=lambda store: store.recording_id == "a" and store.kind == 1)
    assert payloads(output.read_bytes()) == [(1, infos[0]), (2, chunk(1, store=a)), (2, chunk(4, store=a))]
    assert [m.store for m in footer_of(output.read_bytes())] == [StoreId(1, "a", "app")]
    assert (report.kept_messages, report.unselected_messages) == (3, 5)
    merge([str(source)], str(output), select=lambda store: store.recording_id == "a", force=True)
    assert len(payloads(output.read_bytes())) == 6


def test_selection_knows_the_applications_of_old_sdks(tmp_path: Path) -> None:
    seen: set[StoreId] = set()

    def select(store: StoreId) -> bool:
        seen.add(store)
        return True

    merge([str(SAMPLES["0.23.4"])], str(tmp_path / "out.rrd"), select=select)
    assert seen == {StoreId(1, "rec_small", "app_logger")}


def test_what_no_known_sdk_writes_is_damage(tmp_path: Path) -> None:
    data = stream([chunk(1), chunk(2, metadata={"sorbet:version": "9.0.0"}), chunk(3)])
    report, result = recovered(data, tmp_path)
    assert payloads(result)[1:] == [(2, chunk(1)), (2, chunk(3))]
    assert is_complete(result)
    assert report.damage[0].what == "a damaged message (a chunk of Sorbet version 9.0.0, newer than this program)"


def test_ids_and_names_that_are_none_are_damage(tmp_path: Path) -> None:
    named = chunk(2, components={"A:b": pa.array([[{"xyz": 1.0}]])}, compress=False)
    activation = length_delimited(1, store_id()[:-1])  # cut: its last text ends after it
    data = stream([named.replace(b"xyz", b"x\xffz"), chunk(1)]) + frame(Kind.ACTIVATION, activation)
    data += frame(Kind.ARROW, chunk(3)) + frame(Kind.END, b"")
    report, result = recovered(data, tmp_path)
    assert payloads(result)[1:] == [(2, chunk(1)), (2, chunk(3))]
    assert is_complete(result)
    first, second = (damage.what for damage in report.damage)
    assert "damaged ('utf-8' codec can't decode byte 0xff" in first
    assert "a damaged store id (" in second


def test_no_footer_is_said_and_the_file_is_still_legal(tmp_path: Path) -> None:
    newer = HEADER[:4] + bytes((0, 99, 0, 0)) + HEADER[8:]
    data = stream([chunk(1), chunk(2, metadata={"sorbet:version": "9.0.0"})], header=newer)
    report, result = recovered(data, tmp_path)
    assert result == data + bytes(16)
    assert not report.footer
    assert "Sorbet version 9.0.0" in report.problem


def test_chunks_without_ids_get_them(tmp_path: Path) -> None:
    old = HEADER[:4] + bytes((0, 23, 4, 0)) + HEADER[8:]
    bare = arrow_msg(ipc(batch(5)), 5, with_id=False)
    _, result = recovered(stream([bare], header=old), tmp_path)
    assert payloads(result)[1] == (2, chunk(5))
    assert is_complete(result)


def test_messages_too_long_to_be_held_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.spool.recovery.WHOLE", 2000)
    monkeypatch.setattr("daemon.spool.recovery.PIECE", 4096)
    big = chunk(2, components={"A:b": pa.array([[float(i) for i in range(40_000)]])}, compress=False)
    data = stream([chunk(1), big, chunk(3)])
    _, result = recovered(data, tmp_path)
    assert result.startswith(data)
    assert is_complete(result)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("without_library", [True, False])
def test_big_messages_share_memory(
    compress: bool, without_library: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is read and decompressed to memory that the one before was in; nothing of that one may be left."""
    if without_library:
        monkeypatch.setattr("daemon.wire.chunk._safe", None)
    random = np.random.default_rng(1)

    def big(number: int, size: int) -> bytes:
        values = pa.array([random.integers(0, 256, size, dtype=np.uint8).tolist()], pa.list_(pa.uint8()))
        return chunk(number, components={"A:b": values}, compress=compress)

    chunks = [big(1, 900_000), big(2, 1_500_000), chunk(3), big(4, 700_000), big(5, 300_000)]
    data = stream(chunks)
    report, result = recovered(data, tmp_path)
    assert result.startswith(data)
    assert is_complete(result)
    if compress:
        damaged = bytearray(data)
        at = data.index(chunks[1]) + 60
        damaged[at : at + 300] = b"\xff" * 300
        report, result = recovered(bytes(damaged), tmp_path)
        assert payloads(result)[1:] == [(2, one) for one in chunks if one is not chunks[1]]
        assert report.lost_bytes == len(chunks[1]) + FRAME_HEADER_SIZE
        assert "LZ4" in report.damage[0].what


def test_progress_grows_to_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    merge([str(SAMPLES["0.41.0"]), str(SAMPLES["0.36.3"])], str(tmp_path / "out.rrd"),
          progress=lambda done, total: seen.append((done, total)))
    total = sum(SAMPLES[v].stat().st_size for v in ("0.41.0", "0.36.3"))
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)


def test_an_interrupted_recovery_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        recover(str(SAMPLES["0.41.0"]), str(tmp_path / "out.rrd"), progress=interrupt)
    assert list(tmp_path.iterdir()) == []

"""Makes one complete .rrd of damaged ones, or of several: every whole message once, then our own footer.

    damage                                          what becomes of it
    cut anywhere, zeros, garbage                    left out, up to where the next frame can be found
    no footer, a bare End, a wrong or foreign one   our footer, made from the frames
    frames after a footer, concatenated streams     all frames, one after the other
    a message that no reader could decode           left out
    a chunk that was there before                   left out, as by `rerun rrd merge`; static chunks that later ones
                                                    override stay, which that drops: they are messages, and no reader
                                                    sees a difference

Rules: the input is only read. The output appears under its name when it is complete, and replaces nothing unless told
to. Frames are copied as they are, with one exception: chunks of SDK 0.23 get the chunk id that a footer needs. Memory
is one frame and about 100 bytes a chunk, however long the file. What was lost is counted, and said where it was.
Bits that flipped inside of compressed data can be seen only where the result makes no sense: there are no checksums.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from daemon.paths import beside
from daemon.spool.walk import End, FormatError, Frame, Header, Lost, Walk
from daemon.wire.footer import (
    BadChunkError,
    FooterBuilder,
    NeedMore,
    NoFooterError,
    StoreSummary,
    footer_is_trustworthy,
    log_time_of,
    with_chunk_id,
)
from daemon.wire.logmsg import StoreId, parse_store_id, parse_store_info, peek_store_id
from daemon.wire.protobuf import Buffer, fields
from daemon.wire.rrd import ENCODING_PROTOBUF, FRAME_HEADER_SIZE, Kind, StreamHeader, frame_header

WHOLE = 256 << 20
"""Messages up to this size are held in memory and decoded completely; longer ones are copied in pieces."""
PIECE = 1 << 20
"""Bytes written at once, and between two reports of progress."""

MAX_PARTS = 1000
"""Buffers for one writev(2); Linux takes 1024."""

NEWEST = (0, 41, 0, 0)
"""The newest SDK known here; also for the header of a file whose own is damaged and that has no store info either."""
UNLIKELY = (1, 64, 0, 0)
FIRST_WITH_CHUNK_IDS = (0, 26, 0)
"""No SDK from here on leaves the chunk id out of a message."""
LZ4_OPTIONS = 1
ACTIVATION_FIELDS = 3

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and their total."""
Select = Callable[[StoreId], bool]


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where something was wrong. `seconds`: of log time that may be missing there, None where unknown."""

    path: str
    offset: int
    bytes: int
    messages: int
    what: str
    seconds: float | None = None


@dataclass(slots=True)
class RecoveryReport:
    """What was kept and what was lost. Seconds are of log time."""

    output: str
    inputs: list[str]
    version: str = ""
    input_bytes: int = 0
    output_bytes: int = 0
    streams: int = 0
    kept_messages: int = 0
    kept_bytes: int = 0
    kept_seconds: float | None = None
    lost_messages: int = 0
    """At least so many: of bytes that are gone it is unknown how many messages they were."""
    lost_bytes: int = 0
    lost_seconds: float | None = None
    repeated_messages: int = 0
    """Left out because they were there before."""
    unselected_messages: int = 0
    footer: bool = False
    problem: str = ""
    """Why there is no footer."""
    input_footer: str = "missing"
    """What the (last) input had: "complete", "missing", "empty", "cut", "wrong" or "untrustworthy"."""
    damage: list[Damage] = field(default_factory=list)
    stores: list[StoreSummary] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """Nothing was wrong with the input."""
        return not self.damage and self.input_footer == "complete" and not self.repeated_messages


def recover(
    source: str, output: str, *, force: bool = False, durable: bool = False, progress: Progress | None = None
) -> RecoveryReport:
    """Make a complete file of a damaged one.

    Args:
        source: The damaged file; it is only read.
        output: Where the complete one goes.
        force: Replace what is there.
        durable: Return when it is on the disk.
        progress: Told how far it is, now and then.

    Raises:
        FormatError: there is nothing in it that could be recovered. The message says what was found, and where.
        FileExistsError: there is a file at `output`.
        OSError: something cannot be read or written, or `output` is the input.
    """
    return merge([source], output, force=force, durable=durable, progress=progress)


def merge(
    sources: Sequence[str],
    output: str,
    *,
    select: Select | None = None,
    force: bool = False,
    durable: bool = False,
    progress: Progress | None = None,
) -> RecoveryReport:
    """Make one complete file of several, in their order.

    Args:
        sources: .rrd files, damaged or not.
        select: Whether the frames of a store are wanted; by default all are.
        output: See recover, as the other arguments.

    Raises:
        FormatError, FileExistsError, OSError: see recover.
    """
    with contextlib.ExitStack() as stack:
        if gc.isenabled():
            # Tuples by the hundred thousand and no cycles: looking for some costs a tenth of the time.
            gc.disable()
            stack.callback(gc.enable)
        files = [_Source(stack, path) for path in sources]
        if os.path.exists(output):
            if any(os.path.samestat(os.stat(output), file.stat) for file in files):
                raise OSError(errno.EINVAL, "the output would replace the input", output)
            if not force:
                raise FileExistsError(errno.EEXIST, "file exists", output)
        temporary = beside(output, f"{secrets.token_hex(4)}.tmp")
        with _gone_if_it_fails(temporary):
            report = _write(files, temporary, output, select=select, durable=durable, progress=progress)
            _put_in_place(temporary, output, force)
    return report


def recover_aside(source: str, output: str) -> RecoveryReport:
    """Make a complete file of a damaged one, under a name that is nobody else's: what a killed run left is replaced.

    Args:
        source, output: See recover.

    Raises:
        FormatError, OSError: see recover. There is nothing at `output` then.
    """
    with contextlib.ExitStack() as stack:
        files = [_Source(stack, source)]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(output)
        with _gone_if_it_fails(output):
            return _write(files, output, output)


@contextlib.contextmanager
def _gone_if_it_fails(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        raise


def _write(files: Sequence[_Source], path: str, name: str, *, select: Select | None = None, durable: bool = False,
           progress: Progress | None = None) -> RecoveryReport:
    """Write the complete file, which is to be called `name`, at `path`."""
    report = RecoveryReport(name, [file.path for file in files], input_bytes=sum(file.size for file in files))
    with _Output(path) as out:
        _Merging(report, out, select, progress).run(files)
        out.finish(durable)
    return report


def _put_in_place(temporary: str, output: str, force: bool) -> None:
    if force:
        os.replace(temporary, output)
        return
    try:
        # Unlike rename(2), link(2) does not replace what has come there meanwhile.
        os.link(temporary, output)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        os.rename(temporary, output)
    else:
        os.unlink(temporary)


class _Source:
    """An input, open."""

    def __init__(self, stack: contextlib.ExitStack, path: str) -> None:
        self.path = path
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        stack.callback(os.close, self.fd)
        self.stat = os.fstat(self.fd)
        if not stat.S_ISREG(self.stat.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        self.size = self.stat.st_size
        if self.size == 0:
            raise FormatError(f"an empty file: {path}", 0)


class _Output:
    """The file in the making, written in big pieces."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._parts: list[bytes] = []
        self._pending = 0
        self.size = 0
        """With what has not been written yet."""

    def __enter__(self) -> _Output:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def write(self, data: bytes | memoryview) -> None:
        """Append. A view is written at once."""
        if isinstance(data, memoryview):
            self._flush()
            self._write_all(data)
            self.size += len(data)
            return
        self._parts.append(data)
        self._pending += len(data)
        self.size += len(data)
        if self._pending >= PIECE or len(self._parts) >= MAX_PARTS:
            self._flush()

    def copy(self, fd: int, start: int, end: int) -> None:
        """Append a part of another file that is too long to be held."""
        self._flush()
        while start < end:
            data = os.pread(fd, min(PIECE, end - start), start)
            if not data:
                raise OSError(errno.EIO, "the input became shorter while it was read")
            self.write(data)
            self._flush()
            start += len(data)

    def _flush(self) -> None:
        if not self._parts:
            return
        written = os.writev(self._fd, self._parts)
        if written < self._pending:
            self._write_all(memoryview(b"".join(self._parts))[written:])
        self._parts, self._pending = [], 0

    def _write_all(self, rest: memoryview) -> None:
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def replace_start(self, data: bytes) -> None:
        """Write over the first bytes."""
        self._flush()
        os.pwrite(self._fd, data, 0)

    def finish(self, durable: bool) -> None:
        """Write what is left."""
        self._flush()
        if durable:
            os.fsync(self._fd)


class _Merging:
    """One run: takes pieces in, puts frames out, keeps the books."""

    def __init__(self, report: RecoveryReport, out: _Output, select: Select | None, progress: Progress | None) -> None:
        self._report = report
        self._out = out
        self._select = select
        self._progress = progress
        self._builder = FooterBuilder(once=True)
        self._header = StreamHeader((0, 0, 0, 0), LZ4_OPTIONS, ENCODING_PROTOBUF)
        self._version: tuple[int, ...] = (0, 0, 0)
        """Of the stream that is being read."""
        self._info_version: tuple[int, int, int] | None = None
        self._known: dict[bytes, int] = {}
        """Raw store ids, and how many frames named them."""
        self._infos: set[bytes] = set()
        self._wanted: dict[bytes, bool] = {}
        self._applications: dict[tuple[int, str], str] = {}
        self._again = False
        """What comes may have been there before: it is not the beginning of the first stream any more."""
        self._first_time: int | None = None
        self._last_time: int | None = None
        self._open: list[int] = []
        """Damage after which no log time has been seen yet: its indices in the report."""

    def run(self, files: Iterable[_Source]) -> None:
        """All of it, but for putting the file in place.

        Raises:
            FormatError: there is not one message.
            OSError: reading or writing failed.
        """
        self._out.write(self._header.encode())
        done = 0
        for file in files:
            try:
                self._take_file(file, done)
            except FormatError as error:
                error.args = (f"{error.args[0]}: {file.path}",)
                raise
            done += file.size
            self._again = True
        report = self._report
        if not report.kept_messages and (report.damage or not report.streams):
            raise FormatError(f"not one whole message: {', '.join(report.inputs)}", 0)
        self._end()
        if self._progress is not None:
            self._progress(done, done)

    def _take_file(self, file: _Source, done: int) -> None:
        walk = Walk(file.fd, file.size, everything=True)
        footer, version, kinds = "missing", (0, 0, 0), set[int]()
        reported = 0
        for piece in walk:
            if isinstance(piece, Frame):
                if footer != "missing":
                    footer, self._again = "missing", True
                self._take_frame(walk, file, piece)
            elif isinstance(piece, Header):
                self._take_header(piece)
                version = max(version, piece.header.version[:3])
            elif isinstance(piece, End):
                kinds = {parse_store_id(raw).kind for raw in self._known}
                footer = footer_state(piece, file.size, footer_is_trustworthy(version, kinds))
            else:
                self._lose(file, piece)
                footer = "cut" if piece.why == "cut in the footer" else footer
            if self._progress is not None and piece.end - reported >= PIECE:
                reported = piece.end
                self._progress(done + reported, self._report.input_bytes)
        self._report.input_footer = footer

    def _take_header(self, piece: Header) -> None:
        self._report.streams += 1
        self._again |= self._report.streams > 1
        self._version = piece.header.version[:3]
        # A damaged version must not have everything else doubted: what claims to be far newer is not believed.
        self._builder.newer_sdk |= NEWEST < piece.header.version < UNLIKELY
        if piece.header.version > self._header.version:
            self._header = piece.header

    def _take_frame(self, walk: Walk, file: _Source, frame: Frame) -> None:
        start, end, kind, _ = frame
        whole = end - start <= WHOLE
        data = walk.whole(frame) if whole else b""
        payload = data[FRAME_HEADER_SIZE:] if whole else walk.beginning(frame)
        last = self._last_store
        if kind == Kind.ARROW and payload[: len(last[0])] == last[0]:
            raw = last[1]
        else:
            raw = peek_store_id(kind, payload) or b""
            if kind == Kind.ARROW and 0 < len(raw) < 0x80:
                self._last_store = (bytes((0x0A, len(raw))) + raw, raw)
        try:
            if raw not in self._known:
                self._check_store(raw)
            wanted = self._select is None or self._wants(self._select, kind, raw, payload)
            kept = wanted and self._check(walk, frame, payload, whole)
        except BadChunkError as error:
            self._lose(file, walk.reject(frame, f"a damaged message ({error})"), messages=1)
            return
        self._known[raw] = self._known.get(raw, 0) + 1
        if not kept:
            return
        report = self._report
        report.kept_messages += 1
        report.kept_bytes += end - start
        if self._time is not None:
            self._note_time(*self._time)
        if not whole:
            self._out.copy(file.fd, start, end)
        elif self._upgraded is None:
            self._out.write(data)
        else:
            self._out.write(frame_header(kind, len(self._upgraded)) + self._upgraded)

    _last_store: tuple[bytes, bytes] = (b"\0", b"")
    """How the last chunk began, and the store id in that: the next one is nearly always of the same store."""
    _time: tuple[int, int] | None = None
    _upgraded: bytes | None = None

    def _check(self, walk: Walk, frame: Frame, payload: Buffer, whole: bool) -> bool:
        """Whether a frame goes into the output; sets `_time`, and `_upgraded` if it is to be changed.

        Raises:
            BadChunkError: it is damaged.
        """
        self._time = self._upgraded = None
        if frame.kind != Kind.ARROW:
            if frame.kind == Kind.STORE_INFO:
                return self._check_store_info(bytes(payload))
            check_activation(payload)
            return True
        offset = self._out.size + FRAME_HEADER_SIZE
        if whole and self._version < FIRST_WITH_CHUNK_IDS:
            self._upgraded = payload = with_chunk_id(bytes(payload))
        try:
            size = len(payload) if whole else frame.length
            taken = self._builder.add(payload, offset, size=size, check=whole)
        except NeedMore:
            payload = walk.payload(frame)
            taken = self._builder.add(payload, offset)
        self._report.repeated_messages += not taken
        self._time = self._builder.log_time if taken else None
        return taken

    def _check_store_info(self, payload: bytes) -> bool:
        self._builder.add_store_info(payload)
        info = parse_store_info(payload)
        if info.store.kind not in (1, 2) or not info.store.recording_id:
            raise BadChunkError("a store info that names no store")
        self._info_version = self._info_version or info.version
        if self._again and payload in self._infos:
            self._report.repeated_messages += 1
            return False
        self._infos.add(payload)
        return True

    def _wants(self, select: Select, kind: int, raw: bytes, payload: Buffer) -> bool:
        """Whether a frame's store is selected."""
        wanted = self._wanted.get(raw)
        if wanted is None or kind == Kind.STORE_INFO:
            store = parse_store_id(raw)
            if kind == Kind.STORE_INFO:
                try:
                    store = parse_store_info(payload).store
                except ValueError as error:
                    raise BadChunkError(f"a damaged store info ({error})") from None
                self._applications[store.kind, store.recording_id] = store.application_id
            if not store.application_id:
                store = store._replace(application_id=self._applications.get((store.kind, store.recording_id), ""))
            wanted = self._wanted[raw] = select(store)
        self._report.unselected_messages += not wanted
        return wanted

    def _check_store(self, raw: bytes) -> None:
        """Look at a store id that is new.

        Raises:
            BadChunkError: it is damaged.
        """
        try:
            parse_store_id(raw)
        except ValueError as error:
            raise BadChunkError(f"a damaged store id ({error})") from None
        if self._is_doubtful(raw):
            raise BadChunkError("of an unknown recording whose name is one bit off")

    def _is_doubtful(self, raw: bytes) -> bool:
        """A store that nobody has heard of, and that differs by a single bit from one that is known well."""
        number = int.from_bytes(raw)
        return any(
            count > 1 and len(known) == len(raw) and (int.from_bytes(known) ^ number).bit_count() == 1
            for known, count in self._known.items()
        )

    def _lose(self, file: _Source, lost: Lost, messages: int = 0) -> None:
        report = self._report
        messages = messages or int(lost.why.startswith("cut in a"))
        size = lost.end - lost.start
        seconds = self._cut_seconds(file, lost) if messages else None
        report.damage.append(Damage(file.path, lost.start, size, messages, lost.why, seconds))
        if lost.data:
            report.lost_messages += messages
            report.lost_bytes += size
            self._open.append(len(report.damage) - 1)

    def _cut_seconds(self, file: _Source, lost: Lost) -> float | None:
        """Log time that a damaged or cut chunk would have added, as far as it can still be read."""
        head = os.pread(file.fd, min(WHOLE, max(lost.end - lost.start, 16)), lost.start)
        size = int.from_bytes(head[8:16], "little")
        if int.from_bytes(head[:8], "little") != Kind.ARROW:
            return None
        found = log_time_of(head[16:], size)
        if found is None or self._last_time is None:
            return None
        return max(0, found[1] - self._last_time) / 1e9

    def _note_time(self, first: int, last: int) -> None:
        if self._open:
            for index in self._open:
                damage = self._report.damage[index]
                if self._last_time is not None:
                    seconds = max(0, first - self._last_time) / 1e9
                    self._report.damage[index] = Damage(
                        damage.path, damage.offset, damage.bytes, damage.messages, damage.what, seconds
                    )
            self._open.clear()
        self._first_time = first if self._first_time is None else min(self._first_time, first)
        self._last_time = last if self._last_time is None else max(self._last_time, last)

    def _end(self) -> None:
        report, out = self._report, self._out
        try:
            ending = self._builder.finish(out.size)
            report.footer = True
        except NoFooterError as error:
            report.problem = str(error)
            ending = frame_header(Kind.END, 0)
        out.write(ending)
        if self._header.version == (0, 0, 0, 0):
            version = (*self._info_version, 0) if self._info_version else NEWEST
            self._header = StreamHeader(version, LZ4_OPTIONS, ENCODING_PROTOBUF)
        out.replace_start(self._header.encode())
        report.version = self._header.version_text
        report.output_bytes = out.size
        if self._first_time is not None and self._last_time is not None:
            report.kept_seconds = (self._last_time - self._first_time) / 1e9
        known = [damage.seconds for damage in report.damage if damage.seconds is not None]
        if known or not report.lost_bytes:
            report.lost_seconds = sum(known)
        report.stores = list(self._builder.summaries())


def footer_state(end: End, size: int, trustworthy: bool) -> str:
    """What is to be said of a footer: see RecoveryReport.input_footer.

    Args:
        end: What was found.
        size: The file's length.
        trustworthy: See footer_is_trustworthy.
    """
    if end.footer == 0 and not end.sealed:
        return "empty"
    if not end.sealed or end.end != size:
        return "wrong"
    return "complete" if trustworthy else "untrustworthy"


def check_activation(payload: Buffer) -> None:
    """Look at the payload of a BlueprintActivationCommand frame.

    Raises:
        BadChunkError: it is none.
    """
    try:
        numbers = [number for number, _, _ in fields(payload)]
    except ValueError as error:
        raise BadChunkError(str(error)) from None
    if max(numbers, default=0) > ACTIVATION_FIELDS:
        raise BadChunkError("an activation with fields that it does not have")


__all__ = [
    "Damage",
    "FormatError",
    "RecoveryReport",
    "check_activation",
    "footer_state",
    "merge",
    "recover",
    "recover_aside",
]

"""Makes a log whose writer has ended a complete .rrd: frames, End, footer, tail; nothing else. In place.

    python -m daemon.spool.finish [--attended] PATH     one line of JSON (FinishResult); exit status 0 done, 1 failed

What may stand after the last whole frame, and what becomes of it:

    End, footer and tail that fit this log      untouched, byte for byte
    nothing, a bare End, a wrong footer         replaced by our footer
    a cut frame or footer, zeros, garbage       cut off, then our footer
    more streams, or frames after damage        the log is rewritten beside itself and renamed over
    a chunk that was there before               the same: files that came twice, or a sender that said it again

Rules: the daemon runs this as a process of its own, so that a long log costs its event loop nothing. It ends with its
daemon (--attended), for the next one may go on writing to the file. Frames are never changed. Killed at any moment and
run again it gives the same file: the log is always whole frames and then something that this can cut off. Where no
footer can be made (daemon/wire/footer.py) the log ends with a bare End, as an old SDK's does.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import threading
from dataclasses import asdict, dataclass

from daemon.paths import beside
from daemon.spool.walk import End, FormatError, Frame, Header, Lost, Walk
from daemon.wire.footer import (
    BadChunkError,
    FooterBuilder,
    NeedMore,
    NoFooterError,
    footer_is_trustworthy,
    listed_chunks,
    lists_all,
)
from daemon.wire.logmsg import parse_store_id, peek_store_id
from daemon.wire.rrd import TAIL_SIZE, Kind, frame_header, parse_tail

BARE_END = frame_header(Kind.END, 0)
ATTENDED = "--attended"
MARK = "finishing"
"""Names what a log is written anew in: the same in every run, so that the next one finds it."""


@dataclass(slots=True)
class FinishResult:
    """What became of a log."""

    path: str
    messages: int = 0
    """Frames of data that it holds."""
    bytes: int = 0
    """Its length now."""
    dropped_bytes: int = 0
    """Bytes that were cut off or left out, and were no footer: what was lost of messages."""
    untouched: bool = False
    """It was complete already."""
    rewritten: bool = False
    """It is a new file of the same name."""
    footer: bool = False
    """It has a footer now."""
    problem: str = ""
    """Why it has none; or why nothing could be done at all."""


def finish_log(path: str) -> FinishResult:
    """Complete a log in place. Nobody may be writing to it any more.

    Returns:
        What became of it. A file that is no .rrd, is empty, or holds no whole message is left alone; `problem` says so.

    Raises:
        OSError: it cannot be read or written. Run again, it goes on from wherever this stopped.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        with contextlib.suppress(OSError):
            os.unlink(beside(path, MARK))  # of a run that was killed
        return _finish(fd, path, size)
    except FormatError as error:
        return FinishResult(path, bytes=size, problem=str(error))
    except ValueError as error:
        # Any byte may be damaged: what nobody has thought of must not keep a program waiting for its file.
        return FinishResult(path, bytes=size, problem=f"it is damaged: {error}")
    finally:
        os.close(fd)


def _finish(fd: int, path: str, size: int) -> FinishResult:
    result = FinishResult(path, bytes=size)
    if size == 0:
        result.problem = "it is empty"
        return result
    complete = _complete(fd, size)
    if complete is not None:
        result.messages, result.untouched, result.footer = complete, True, True
        return result
    found = _Findings(Walk(fd, size))
    if not found.in_place:
        return _rewrite(path, result)
    result.messages, result.dropped_bytes = found.messages, found.lost
    try:
        ending = found.builder.finish(found.data_end)
        result.footer = True
    except NoFooterError as error:
        result.problem = str(error)
        ending = BARE_END
    result.bytes = found.data_end + len(ending)
    if not result.footer and size == result.bytes and os.pread(fd, len(BARE_END), found.data_end) == BARE_END:
        result.untouched = True
        return result
    # First cut, then write: what is there at any moment is whole frames and a part of an End frame.
    os.ftruncate(fd, found.data_end)
    at, rest = found.data_end, memoryview(ending)
    while rest:
        written = os.pwrite(fd, rest, at)
        at, rest = at + written, rest[written:]
    os.fsync(fd)
    return result


def _complete(fd: int, size: int) -> int | None:
    """The number of messages of a log that is complete as it is; None if it is not.

    Raises:
        FormatError: not an .rrd.
    """
    tail = parse_tail(os.pread(fd, TAIL_SIZE, max(0, size - TAIL_SIZE)))
    if tail is None or tail.start + tail.length + TAIL_SIZE != size:
        return None
    version: tuple[int, ...] = ()
    stores: set[bytes] = set()
    chunks: set[tuple[int, int]] = set()
    messages = 0
    walk = Walk(fd, size)
    for piece in walk:
        if isinstance(piece, Frame):
            messages += 1
            stores.add(peek_store_id(piece.kind, walk.beginning(piece)) or b"")
            if piece.kind == Kind.ARROW:
                chunks.add((piece.offset, piece.length))
        elif isinstance(piece, Header) and piece.start == 0:
            version = piece.header.version[:3]
        elif not isinstance(piece, End) or not piece.sealed or piece.end != size:
            return None
    try:
        kinds = {parse_store_id(store).kind for store in stores if store}
        if not footer_is_trustworthy(version, kinds):
            return None
        listed = listed_chunks(os.pread(fd, tail.length, tail.start))
    except ValueError:
        return None
    if not lists_all(listed, chunks, version):
        return None
    return messages


def _rewrite(path: str, result: FinishResult) -> FinishResult:
    from daemon.spool.recovery import recover_aside  # seldom needed, and start-up time counts

    temporary = beside(path, MARK)
    report = recover_aside(path, temporary)
    os.chmod(temporary, os.stat(path).st_mode & 0o777)
    os.replace(temporary, path)
    sync_directory(path)
    result.messages, result.bytes, result.dropped_bytes = report.kept_messages, report.output_bytes, report.lost_bytes
    result.rewritten, result.footer, result.problem = True, report.footer, report.problem
    return result


def sync_directory(path: str) -> None:
    """Make sure that a file's name is on the disk.

    Raises:
        OSError: the directory cannot be opened or synced.
    """
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _Findings:
    """What a walk over a log that is not complete tells.

    Raises:
        FormatError: not an .rrd.
        OSError: it cannot be read.
    """

    def __init__(self, walk: Walk) -> None:
        self.builder = FooterBuilder(once=True)
        self.messages = 0
        self.data_end = 0
        self.lost = 0
        self.in_place = True
        """The file is one header, frames, each chunk once, and then only what can be cut off."""
        after = False
        for piece in walk:
            if isinstance(piece, Frame):
                self.in_place &= not after
                self.messages += 1
                self.data_end = piece.end
                self._take(walk, piece)
            elif isinstance(piece, Header) and piece.start == 0:
                self.data_end = piece.end
            elif isinstance(piece, Header):
                after = True
            else:
                after = True
                if isinstance(piece, Lost):
                    self.in_place &= piece.start > 0
                    self.lost += (piece.end - piece.start) * piece.data

    def _take(self, walk: Walk, frame: Frame) -> None:
        payload = walk.beginning(frame)
        try:
            if frame.kind == Kind.STORE_INFO:
                self.builder.add_store_info(payload)
            elif frame.kind == Kind.ARROW:
                try:
                    taken = self.builder.add(payload, frame.offset, size=frame.length)
                except NeedMore:
                    taken = self.builder.add(walk.payload(frame), frame.offset)
                self.in_place &= taken
        except BadChunkError as error:
            # It stays where it is, for frames are never changed; but what cannot be read cannot be listed.
            self.builder.problem = self.builder.problem or f"the message at byte {frame.start} is damaged: {error}"


def _end_with_caller() -> None:
    """Wait for whoever has the other end of standard input to be gone, and be gone, too, whatever is being done."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main(arguments: list[str]) -> int:
    """Complete one log, print the result, give the exit status."""
    if arguments[:1] == [ATTENDED]:
        threading.Thread(target=_end_with_caller, daemon=True).start()
        del arguments[0]
    if len(arguments) != 1:
        print(f"usage: python -m daemon.spool.finish [{ATTENDED}] PATH", file=sys.stderr)
        return 2
    gc.disable()  # this process lives for one log and makes no cycles: looking for some costs a tenth of its time
    try:
        result = finish_log(arguments[0])
    except OSError as error:
        result = FinishResult(arguments[0], problem=f"{error.strerror or error}")
        print(json.dumps({**asdict(result), "errno": error.errno}))
        return 1
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

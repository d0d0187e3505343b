"""One stream's log on disk: `<id>.rrd`, verbatim, and `<id>.json`, what is known of who wrote it.

    spool/20261122-181503-4f2a.rrd      the stream's bytes as the SDK wrote them; an ordinary .rrd at any moment
    spool/20261122-181503-4f2a.json     who, when, how it ended; a mark while it grows; once complete, a summary

Rules: a live log only grows (the rest of its last frame is still in the pipe); an ended one may lose a cut last frame
and gets a footer, once; the summary is a shortcut and believed only while the log's size is the one it was made for,
the mark only while the log is the same file and has the same bytes before it. Synchronous, no trio.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

SUFFIX = ".rrd"
META_SUFFIX = ".json"
LEFTOVERS = (".tmp", ".finishing")
"""How hidden files end that are to take another's place."""
META_VERSION = 1
READERS = 64
"""Ended logs that are held open for reading: all of a spool at once would be more than a process may open."""


def new_stream_id(now: float) -> str:
    """An id that sorts by time and needs no counter: `20261122-181503-4f2a91`.

    Args:
        now: Unix time in seconds.
    """
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{secrets.token_hex(3)}"


@dataclass(slots=True)
class Meta:
    """What is known of a stream besides its bytes. Times are Unix seconds; `summary` is filled when it is complete.

    `run` is the token of the `rrd run` whose program it is of; `ended_moment` is when it ended on the hub's own clock;
    `mark` is how far a log that still grows was walked, and what was found (Stream.mark).
    """

    id: str
    kind: str
    application_id: str = ""
    recording_id: str = ""
    sdk: str = ""
    pid: int | None = None
    pid_started: float | None = None
    program: str = ""
    started_at: float = 0.0
    ended_at: float | None = None
    reason: str = ""
    error: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    run: str = ""
    ended_moment: float | None = None
    mark: dict[str, Any] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Write it beside the log, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        write_atomically(directory / (self.id + META_SUFFIX), json.dumps({"version": META_VERSION, **asdict(self)}))

    @classmethod
    def load(cls, path: Path) -> Meta:
        """Read it again; what a newer version added is ignored.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged.
        """
        found = read_json(path)
        if not isinstance(found, dict) or not isinstance(found.get("id"), str):
            raise ValueError(f"not a stream's description: {path}")  # noqa: TRY004 - one error for every damage
        known = {name: found[name] for name in cls.__slots__ if name in found}
        for name, value in known.items():
            if not _is_a(value, _TYPES[name]):
                raise ValueError(f"{name} is {value!r:.60}: {path}")
        return cls(**known)


_TYPES = get_type_hints(Meta)


def _is_a(value: object, kind: Any) -> bool:  # noqa: ANN401 - a type, or a union of some
    if kind == dict[str, Any]:
        return isinstance(value, dict)
    # JSON has one kind of number: what was 3.0 may come back as 3.
    return isinstance(value, kind) or (isinstance(value, int) and isinstance(float(value), kind))


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever it says
    """What a small file of ours says.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged; also where it is JSON that we never write, and nobody could calculate with.
    """
    try:
        return json.loads(path.read_text(), parse_float=_finite, parse_constant=_finite, parse_int=_small)
    except RecursionError:
        raise ValueError(f"nested too deep: {path}") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value


def _small(text: str) -> int:
    value = int(text)
    if value.bit_length() > 64:
        raise ValueError(f"{text:.20}... is too large a number")
    return value


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file so that a reader sees the old or the new one, never half of it.

    Raises:
        OSError: it cannot be written; the old one is still there.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


class Descriptor:
    """An open file that is closed when nobody refers to it any more.

    Whoever reads in a thread, or later, keeps one of these rather than a number: a number that was closed meanwhile is
    soon another file's.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)


class Readers:
    """Descriptors of files that nobody writes, opened when they are asked for; those used last stay open."""

    def __init__(self, limit: int = READERS) -> None:
        self._limit = limit
        self._open: OrderedDict[Path, Descriptor] = OrderedDict()

    def get(self, path: Path) -> Descriptor:
        """A file, for reading.

        Raises:
            OSError: it cannot be opened.
        """
        found = self._open.get(path)
        if found is None:
            found = self._open[path] = Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            if len(self._open) > self._limit:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        return found

    def drop(self, path: Path) -> None:
        """Forget a file: the next `get` opens what has its name then."""
        self._open.pop(path, None)


class Log:
    """A log that is being written. One writer, any number of readers of `path` or `descriptor`.

    Args:
        path: The `.rrd` file; made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Not O_APPEND: splice(2) refuses it. The spool's directory is private; the mode is for hard links elsewhere.
        self.descriptor: Descriptor | None = Descriptor(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
        self.size = os.lseek(self.fd, 0, os.SEEK_END)

    @property
    def fd(self) -> int:
        """The descriptor's number; -1 once closed."""
        return self.descriptor.fd if self.descriptor is not None else -1

    def splice(self, source: int, count: int) -> int:
        """Move up to `count` bytes from a pipe to the log's end without copying them; 0 is the end of the pipe.

        Raises:
            BlockingIOError: the pipe is empty.
            OSError: EINVAL where splice cannot do it; ENOSPC and others: nothing has left the pipe.
        """
        if sys.platform != "linux":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        moved = os.splice(source, self.fd, count, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
        self.size += moved
        return moved

    def append(self, data: Sequence[bytes | memoryview]) -> int:
        """Write buffers at the log's end: all of them, or none.

        Returns:
            The number of bytes written.

        Raises:
            OSError: they did not fit; the log is as it was.
        """
        wanted = sum(len(buffer) for buffer in data)
        written = 0
        try:
            if len(data) <= os.sysconf("SC_IOV_MAX"):
                written = os.writev(self.fd, data)
            if written < wanted:
                rest = memoryview(b"".join(data))[written:]
                while rest:
                    done = os.write(self.fd, rest)
                    if done == 0:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    written += done
                    rest = rest[done:]
        except OSError:
            os.ftruncate(self.fd, self.size)
            os.lseek(self.fd, self.size, os.SEEK_SET)
            raise
        self.size += written
        return written

    def write_some(self, data: memoryview) -> int:
        """Write what fits at the log's end.

        Returns:
            The number of bytes written, at least 1.

        Raises:
            OSError: nothing fitted.
        """
        written = os.write(self.fd, data)
        self.size += written
        return written

    def close(self) -> None:
        """Write no more. The file is closed when the last reader has let go of it."""
        self.descriptor = None


def list_streams(directory: Path) -> list[str]:
    """Ids of all logs in a spool, oldest first.

    Raises:
        OSError: the directory cannot be read.
    """
    return sorted(entry.name.removesuffix(SUFFIX) for entry in os.scandir(directory)
                  if entry.name.endswith(SUFFIX) and not entry.name.startswith("."))


def remove_leftovers(directory: Path) -> None:
    """Remove what daemons and finishers that were killed had in the making in a spool.

    Raises:
        OSError: the directory cannot be read.
    """
    for entry in os.scandir(directory):
        if entry.name.startswith(".") and entry.name.endswith(LEFTOVERS):
            with contextlib.suppress(OSError):
                os.unlink(entry.path)

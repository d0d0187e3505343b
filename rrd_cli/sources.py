"""What a user names as a source or target, made into what the daemon understands: absolute paths, selectors, a pipe.

Rules: a word is a file if it has a slash in it or ends in `.rrd`; so a file called like an application is `./demo`.
`a/b` may also be a recording, `application/recording` or an id with a slash: where there is no such file, it is one.
What cannot be read is said here, where the user's own working directory and permissions count. `-` is standard input;
what is not a pipe there is made into one, because the daemon takes pipes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys
from typing import TYPE_CHECKING, Final

from rrd_cli.errors import CliError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STDIN: Final = "-"
PUMP = 1 << 20
"""Bytes moved at once from a standard input that is no pipe."""


def is_path(word: str) -> bool:
    """Whether a word is written as a path."""
    return "/" in word or word.endswith(".rrd")


def is_file_name(word: str) -> bool:
    """Whether a source means a file, not a recording."""
    return is_path(word) and (word.startswith(("/", ".")) or word.endswith(".rrd") or os.path.lexists(word))


def readable_file(word: str) -> str:
    """The absolute path of a file to be read.

    Raises:
        CliError: it is not there, not readable, or not a regular file.
    """
    path = os.path.abspath(word)
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise CliError(f"no such file: {word}") from error
    except OSError as error:
        raise CliError(f"cannot read file: {error.strerror}: {word}") from error
    if stat.S_ISDIR(found.st_mode):
        raise CliError(f"a directory, not a file: {word}", f"name its files: {word.rstrip('/')}/*.rrd")
    if stat.S_ISFIFO(found.st_mode):
        raise CliError(f"a named pipe, not a file: {word}", f"hand it in as standard input: rrd save OUT - < {word}")
    if not stat.S_ISREG(found.st_mode):
        raise CliError(f"a device or socket, not a file: {word}")
    if not os.access(path, os.R_OK):
        raise CliError(f"cannot read file: Permission denied: {word}")
    return path


def resolve(words: Sequence[str]) -> list[str]:
    """Sources as the daemon takes them: files as absolute paths, all else as it is.

    Raises:
        CliError: a file that cannot be read.
        UsageError: standard input together with something else.
    """
    if STDIN in words and len(words) > 1:
        raise UsageError("standard input (-) goes alone", "save it first, then name the file with the others")
    return [readable_file(word) if is_file_name(word) else word for word in words]


def target(word: str) -> str:
    """The absolute path of a file to be written.

    Raises:
        UsageError: `-`, or a directory.
    """
    if word == STDIN:
        raise UsageError("OUT must be a file", "to standard output: rrd tail -f @live   (a file called -: ./-)")
    if os.path.isdir(word):
        raise UsageError(f"a directory, not a file: {word}", f"name the file: {os.path.join(word, 'run.rrd')}")
    return os.path.abspath(word)


@contextlib.contextmanager
def stdin_pipe() -> Iterator[int]:
    """Standard input as a pipe's read end, held open inside the block. If it is no pipe, a helper process fills one.

    Raises:
        UsageError: it is a terminal.
        CliError: it is closed, or a directory.
    """
    try:
        mode = os.fstat(0).st_mode
        closed = fcntl.fcntl(0, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    except OSError:
        closed = True
    if closed:
        raise CliError("standard input is closed", "prog --stdout | rrd save run.rrd -")
    if os.isatty(0):
        raise UsageError("standard input is a terminal", "prog --stdout | rrd save run.rrd -")
    if stat.S_ISDIR(mode):
        raise CliError("standard input is a directory")
    if stat.S_ISFIFO(mode):
        yield 0
        return
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        os._exit(_pump(write_end))
    os.close(write_end)
    try:
        yield read_end
    finally:
        os.close(read_end)
        os.waitpid(child, 0)


def _pump(write_end: int) -> int:
    try:
        while data := os.read(0, PUMP):
            view = memoryview(data)
            while view:
                view = view[os.write(write_end, view) :]
    except (OSError, KeyboardInterrupt):
        return 1
    return 0

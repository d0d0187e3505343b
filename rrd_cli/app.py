"""The `rrd` command: from the command line to a verb, and from what went wrong to two lines and an exit code.

Rules: `main` is the only place that catches and prints. Exit codes: 0 done, 1 failed or refused, 2 usage, 3 no daemon,
130 interrupted. Nothing of `daemon` is imported before `_check_installation` has seen that it is ours. Start-up time is
a feature: a verb's module is imported when that verb is said, and typer's own error handling (which would import rich)
is not used. typer 0.29 carries its own click, older ones use click's: neither is imported by name.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rrd_cli.errors import FAILED, INTERRUPTED, OK, STDOUT, USAGE, CliError

if TYPE_CHECKING:
    from collections.abc import Sequence

OUR_DAEMON: Final = b'"""The rrd daemon:'
"""How our daemon/__init__.py begins: PyPI's python-daemon installs files under the same name."""
CLASH_HINT: Final = (
    "give rrd an environment of its own: pipx install rrd-cli   (or: uv tool install rrd-cli); "
    "or mend this one: pip uninstall python-daemon && pip install --force-reinstall --no-deps rrd-cli"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `rrd` with these arguments (by default sys.argv's) and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    _open_what_is_closed()
    try:
        _check_installation()
        if args[:1] == ["_complete"]:  # at every press of Tab: typer would double its time
            from rrd_cli.completions import complete

            return complete(args[1:])
        code = _run(args)
        sys.stdout.flush()
        return code
    except CliError as failure:
        return _report(failure.message, failure.hint, failure.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has had enough
        _give_up_stdout()
        return OK
    except OSError as error:
        where = error.filename
        try:
            sys.stdout.flush()
        except OSError:  # once more: it was that
            where = STDOUT
            _give_up_stdout()
        return _report(f"{error.strerror or error}{f': {where}' if where else ''}", "", FAILED)


def _open_what_is_closed() -> None:
    """Have all three standard streams, where whoever started us closed some.

    Else the next socket or file would take the descriptor, and get what is printed. Close-on-exec: the program of
    `rrd run` finds it closed, as it would without us. Standard input cannot be read, so that it is not taken for empty.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)  # the lowest that is free: the one that is missing
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 - for the rest of our life


def _give_up_stdout() -> None:
    """Python flushes stdout once more at exit: that must not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(args: list[str]) -> int:
    import signal

    import typer

    from daemon.paths import PathError
    from daemon.wire.control import VerbError
    from rrd_cli import tree

    # BadParameter(UsageError(ClickException)), in typer's own click as in click itself.
    usage_error: type[Exception] = typer.BadParameter.__mro__[1]
    command = tree.build()
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:  # inherited: nobody would learn how a child has ended
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        with command.make_context("rrd", args) as context:
            command.invoke(context)
        return OK
    except typer.Exit as error:
        return error.exit_code
    except typer.Abort:
        return INTERRUPTED  # Ctrl-C or Ctrl-D at a question
    except VerbError as error:
        return _report(error.message, error.hint, USAGE if error.code == "usage" else FAILED)
    except PathError as error:
        return _report(str(error), error.hint, FAILED)
    except usage_error as error:
        return _usage(error)


def _usage(error: Any) -> int:  # noqa: ANN401 - click's UsageError, of whichever click
    context = getattr(error, "ctx", None)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    message = message.strip().rstrip(".")
    path = context.command_path if context is not None else "rrd"
    return _report(message[:1].lower() + message[1:], f"{path} --help", USAGE)


def _report(message: str, hint: str, code: int) -> int:
    from rrd_cli.render import clean, say, styled

    lines = [("error", "bad", message)] + ([("hint", "dim", hint)] if hint else [])
    for label, style, text in lines:
        # What a viewer said as it died has lines of its own; what follows the first cannot pass for ours.
        shown = "\n    ".join(clean(line.strip()) for line in text.splitlines())
        say(styled(f"{label}:", style, sys.stderr) + " " + shown)
    return code


def _check_installation() -> None:
    """See that the package `daemon` is ours, without importing it: another one's could do anything.

    Raises:
        CliError: it is not; with what to do about it.
    """
    spec = importlib.util.find_spec("daemon")
    origin = spec.origin if spec is not None else None
    if origin is None:
        raise CliError("rrd's own package `daemon` is missing: this installation is damaged", CLASH_HINT)
    try:
        with open(origin, "rb") as file:
            ours = file.read(len(OUR_DAEMON)) == OUR_DAEMON
    except OSError as error:
        raise CliError(f"cannot read {origin}: {error.strerror}", "reinstall rrd-cli") from error
    if ours and (Path(origin).parent / "wire" / "control.py").is_file():
        return
    if Path(origin).name != "__init__.py":
        raise CliError(f"a file in the way of rrd's own package `daemon`: {origin}", "say it from another directory")
    where = Path(origin).parent
    raise CliError(f"the package `daemon` here is not rrd's but another one's (python-daemon?): {where}", CLASH_HINT)

"""`rrd recover`: complete files of damaged ones."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from rrd_cli import render, sources
from rrd_cli.errors import CliError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.spool.recovery import RecoveryReport

EXAMPLES = """
rrd recover run.rrd                     makes run.recovered.rrd
rrd recover run.rrd -o good.rrd
rrd recover *.rrd -o recovered/         a directory that exists
"""

SUFFIX = ".recovered.rrd"
LISTED = 10
"""Places of damage that are listed; --json has all."""


def run(
    file: Annotated[list[str], typer.Argument(metavar="FILE", help=".rrd files; only read.", show_default=False)],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="OUT", help="Where to: a file, or a directory for several."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace files that exist.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a list of objects, one a file.")] = False,
) -> None:
    """Make complete files of damaged ones: every whole message, then a new footer. Says what was kept and lost.

    For files that were cut off, have no footer or a wrong one, were concatenated, or have garbage in them. Without -o,
    the result of run.rrd is called run.recovered.rrd.
    """
    into = output is not None and os.path.isdir(output)
    if output is not None and not into and len(file) > 1:
        raise UsageError(f"several files, and one output: {output}", "name a directory that exists, or leave -o out")
    targets = [target(word, output, into=into) for word in file]
    _refuse_same(file, targets)
    reports, failures = [], list[CliError]()
    for word, result in zip(file, targets, strict=True):
        try:
            report = _recover(word, result, force=force)
        except CliError as failure:
            if len(file) == 1:
                raise
            render.note(f"{failure.message}{' (' + failure.hint + ')' if failure.hint else ''}")
            failures.append(failure)
            continue
        reports.append(report)
        if not json:
            render.print_lines(lines(report))
    if json:
        render.print_lines([render.as_json([asdict(report) for report in reports])])
    if failures:
        raise CliError(f"{render.plural(len(failures), 'file')} of {len(file)} could not be recovered")


def target(word: str, output: str | None, *, into: bool) -> str:
    """Where the result of a file goes.

    Args:
        word: The file.
        output: What the user said.
        into: That is a directory.
    """
    if output is None:
        return os.path.splitext(word)[0] + SUFFIX
    return os.path.join(output, os.path.basename(word)) if into else output


def lines(report: RecoveryReport) -> list[str]:
    """What was kept and lost, for people."""
    found = [f"{render.clean(report.inputs[0])} -> {render.clean(report.output)}"]
    time = f", {render.span(report.kept_seconds)}" if report.kept_seconds is not None else ""
    found.append(f"  kept    {render.plural(report.kept_messages, 'message')}, {render.size(report.kept_bytes)}{time}")
    if report.lost_bytes or report.lost_messages:
        time = f", about {render.span(report.lost_seconds)}" if report.lost_seconds else ""
        messages = f"at least {render.plural(report.lost_messages, 'message')}, " if report.lost_messages else ""
        found.append(f"  lost    {messages}{render.size(report.lost_bytes)}{time}")
    for damage in report.damage[:LISTED]:
        where = f"at byte {render.number(damage.offset)}"
        found.append(f"          {where}: {render.clean(damage.what)} ({render.size(damage.bytes)})")
    if len(report.damage) > LISTED:
        found.append(f"          and {render.number(len(report.damage) - LISTED)} places more")
    if report.repeated_messages:
        found.append(f"  left    {render.plural(report.repeated_messages, 'message')} out that came twice")
    if not report.footer:
        found.append(f"  footer  none: {render.clean(report.problem)}")
    elif report.intact:
        found.append("  footer  as it was: nothing was wrong with this file")
    else:
        found.append(f"  footer  made new; the file's own was {render.clean(report.input_footer)}")
    return found


def _refuse_same(files: Sequence[str], targets: Sequence[str]) -> None:
    """See that no result would be written over another one: with --force nothing else would say so.

    Raises:
        UsageError: it would.
    """
    made = dict[str, str]()
    for word, result in zip(files, targets, strict=True):
        path = os.path.realpath(result)
        if path in made:
            raise UsageError(f"{made[path]} and {word} would both become {result}",
                             "recover them one by one, with -o NAME")
        made[path] = word


def _recover(word: str, output: str, *, force: bool) -> RecoveryReport:
    from daemon.spool.recovery import FormatError, recover  # pyarrow: 150 ms that only this pays

    path = sources.readable_file(word)
    try:
        with render.Progress(f"recovering {os.path.basename(word)}") as progress:
            report = recover(path, output, force=force, progress=progress.update)
    except FormatError as error:
        raise CliError(str(error)) from error
    except FileExistsError as error:
        raise CliError(f"file exists: {output}", "say --force to replace it, or choose another name with -o") from error
    except OSError as error:
        # What is written has another name until it is complete: of no interest to anybody.
        where = path if error.filename == path else output
        raise CliError(f"cannot recover {word}: {error.strerror}: {where}") from error
    report.inputs = [word]
    return report

"""The verbs of `rrd`: one file each, named as the daemon's handlers are (daemon/control/verbs).

A verb's module has a function `run`, whose signature is the command line (Typer) and whose docstring is the help, and
EXAMPLES, the lines that help shows as such. A group of verbs has `app`, a typer.Typer, instead. To add a verb, write
its file and add its line to VERBS. Only the module of the verb that is said is imported.

Conventions: a metavar says what completion offers (rrd_cli/completions.py): RECORDING, SOURCE, SINK, FILE, OUT; results
go to standard output with render.print_lines, or as JSON with --json; errors are raised (errors.CliError, VerbError),
never printed.
"""

from __future__ import annotations

from typing import Final

VERBS: Final[dict[str, str]] = {
    "run": "Outputs",
    "save": "Outputs",
    "spawn": "Outputs",
    "connect": "Outputs",
    "serve": "Outputs",
    "attach": "Outputs",
    "detach": "Outputs",
    "ls": "Looking",
    "status": "Looking",
    "viewers": "Looking",
    "top": "Looking",
    "doctor": "Looking",
    "tail": "Files and recordings",
    "info": "Files and recordings",
    "recover": "Files and recordings",
    "forget": "Files and recordings",
    "gc": "Files and recordings",
    "daemon": "The daemon",
    "config": "The daemon",
    "completion": "The daemon",
}
"""Each verb with the section of `rrd --help` that it stands in, in the order of help."""

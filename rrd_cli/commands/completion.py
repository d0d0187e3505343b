"""`rrd completion ...`: what Tab offers, put where the shell looks for it; and the manual page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from daemon import paths
from rrd_cli import completions, render
from rrd_cli.errors import CliError, UsageError
from rrd_cli.tree import Verb, examples, group

SHELLS: Final = ("bash", "zsh", "fish")
FILES: Final = {"bash": "rrd.bash", "zsh": "_rrd", "fish": "rrd.fish"}

app = group("completion", "Have the shell complete verbs, options and names of recordings, outputs and viewers.")


@app.command(cls=Verb, epilog=examples("rrd completion install\nrrd completion install zsh"))
def install(
    shell: Annotated[str | None, typer.Argument(metavar="SHELL", help="bash, zsh or fish; by default yours.")] = None,
) -> None:
    """Put the completion script where your shell looks for it, and the manual page where man does."""
    name = _shell(shell)
    path = target(name)
    _write(path, script(name))
    from rrd_cli import manual

    page = _data_home() / "man" / "man1" / "rrd.1"
    _write(page, manual.page())
    render.print_lines([f"wrote {path}", f"wrote {page}", *after(name, path)])


@app.command(cls=Verb, epilog=examples("rrd completion show fish > rrd.fish"))
def show(
    shell: Annotated[str | None, typer.Argument(metavar="SHELL", help="bash, zsh or fish; by default yours.")] = None,
) -> None:
    """Print the completion script."""
    render.print_lines([script(_shell(shell)).rstrip("\n")])


@app.command(cls=Verb, epilog=examples("rrd completion man | man -l -"))
def man() -> None:
    """Print the manual page, made from the same help."""
    from rrd_cli import manual

    render.print_lines([manual.page().rstrip("\n")])


def script(shell: str) -> str:
    """A shell's script."""
    return completions.scripts()[FILES[shell]]


def target(shell: str) -> Path:
    """Where a shell looks for a user's completions."""
    if shell == "fish":
        return paths.base_dir("XDG_CONFIG_HOME", ".config") / "fish" / "completions" / "rrd.fish"
    if shell == "zsh":
        return _data_home() / "zsh" / "site-functions" / "_rrd"
    return _data_home() / "bash-completion" / "completions" / "rrd"


def after(shell: str, path: Path) -> list[str]:
    """What is left to do."""
    if shell == "zsh":
        return [f"in ~/.zshrc, before compinit, unless it is there: fpath=({path.parent} $fpath)"]
    if shell == "bash":
        return [f"new shells have it, with the package bash-completion; else in ~/.bashrc: source {path}"]
    return ["new shells have it"]


def _shell(name: str | None) -> str:
    """The shell that is meant.

    Raises:
        UsageError: it is none that we know.
    """
    found = name or os.path.basename(os.environ.get("SHELL", ""))
    if found not in SHELLS:
        raise UsageError(f"unknown shell {found}" if found else "which shell?", "rrd completion install bash|zsh|fish")
    return found


def _data_home() -> Path:
    return paths.base_dir("XDG_DATA_HOME", ".local/share")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise CliError(f"cannot write: {error.strerror}: {path}") from error

"""The command line as a tree: `rrd`, its verbs, their options. Built from the table in rrd_cli/commands.

Rules: a verb's module is imported when that verb is said; all of them only for `rrd --help` and completions. Nothing
here runs a verb or catches an error: app.main does. What click gives and takes is typed Any, since typer 0.29 carries
its own click and older ones use click's.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from rrd_cli.commands import VERBS


class _NoConversion:
    """Stands in for typer's conversion of a value as long as there is nothing to convert.

    typer 0.29 makes a pydantic adapter for every parameter, even for those that were not given: 100 ms, more than all
    else that `rrd ls` does.
    """

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        annotation = param.type_descriptor.annotation
        if annotation is str and isinstance(value, str):
            return value
        if annotation == list[str] and isinstance(value, list | tuple):
            return value
        param._runtime_param = None  # typer makes its own
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


_NO_CONVERSION = _NoConversion()


def _spare_conversion(parameters: list[Any]) -> list[Any]:
    # Only where it is known to be as it was seen: elsewhere a verb may be slow, but must not be wrong.
    if typer.__version__.startswith("0.29."):
        for parameter in parameters:
            if parameter._runtime_param is None:
                parameter._runtime_param = _NO_CONVERSION
    return parameters


class Verb(typer.core.TyperCommand):
    """A verb: `app.command(cls=Verb)` in groups; others are given it."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401
        """All parameters, help included."""
        return _spare_conversion(super().get_params(ctx))


class Group(typer.core.TyperGroup):
    """A group of verbs: `typer.Typer(cls=Group)`."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401
        """All parameters, help included."""
        return _spare_conversion(super().get_params(ctx))


class Verbs(Group):
    """The verbs of the table, each imported when asked for."""

    def list_commands(self, ctx: object) -> list[str]:
        """All names, in the order of help."""
        return list(VERBS)

    def get_command(self, ctx: object, cmd_name: str) -> Any:  # noqa: ANN401
        """A verb's command, or None if there is no such verb."""
        return load(cmd_name) if cmd_name in VERBS else None

    def format_commands(self, ctx: object, formatter: Any) -> None:  # noqa: ANN401
        """The verbs in their sections."""
        for section in dict.fromkeys(VERBS.values()):
            with formatter.section(section):
                names = [name for name in VERBS if VERBS[name] == section]
                formatter.write_dl([(name, load(name).get_short_help_str(90)) for name in names])


def build() -> Any:  # noqa: ANN401
    """The whole command line; completions and tests walk it."""
    app = typer.Typer(
        cls=Verbs,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        subcommand_metavar="VERB ...",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        epilog="rrd VERB --help shows a verb's options and examples.",
    )
    app.callback(invoke_without_command=True)(_rrd)
    return typer.main.get_command(app)


def _rrd(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Show the version and exit.")] = False,
) -> None:
    """Rerun log streams: one stream, many outputs, changed at run time, nothing lost.

    Programs log through the daemon (import rrd; rrd.save("run.rrd")); these verbs say where it goes.
    The daemon starts by itself.
    """
    if version:
        from daemon import __version__

        print(f"rrd {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def load(name: str) -> Any:  # noqa: ANN401
    """The command of a verb, from its module."""
    module = importlib.import_module(f"rrd_cli.commands.{name.replace('-', '_')}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command(name, cls=Verb, epilog=examples(module.EXAMPLES))(module.run)
    command = typer.main.get_command(app)
    command.name = name
    return command


def examples(lines: str) -> str:
    """Examples as help shows them: under a title, and not re-wrapped (which is what \\b tells click)."""
    body = "\n".join(f"  {line}".rstrip() for line in lines.strip().splitlines())
    return f"\b\nExamples:\n{body}"

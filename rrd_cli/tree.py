"""The command line as a tree: `rrd`, its verbs, their options. Built from the table in rrd_cli/commands.

Rules: a verb's module is imported when that verb is said; all of them only for `rrd --help` and completions. Nothing
here runs a verb or catches an error: app.main does. What click gives and takes is typed Any, since typer 0.29 carries
its own click and older ones use click's.
"""

from __future__ import annotations

import difflib
import importlib
import re
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from rrd_cli.commands import VERBS
from rrd_cli.errors import UsageError


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

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Arguments and options, in the user's words."""
        _format_parameters(self, ctx, formatter)


class Group(typer.core.TyperGroup):
    """A group of verbs: see `group`."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401
        """All parameters, help included."""
        return _spare_conversion(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Options, and the verbs."""
        _format_parameters(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """The verbs."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, _brief(self.get_command(ctx, name))) for name in self.list_commands(ctx)])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401
        """The verb that was said.

        Raises:
            UsageError: there is none of this name; with the one that may be meant.
        """
        if self.get_command(ctx, args[0]) is None:
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), 1, 0.5)
            meant = f"did you mean {close[0]}?   " if close else ""
            raise UsageError(f"no such verb: {args[0]}", f"{meant}{ctx.command_path} --help lists the verbs")
        return super().resolve_command(ctx, args)


def _format_parameters(command: Any, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
    rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            title = "Arguments" if parameter.param_type_name == "argument" else "Options"
            rows[title].append((in_words(record[0]), record[1]))
    for title, found in rows.items():
        if found:
            with formatter.section(title):
                formatter.write_dl(found)


def _brief(command: Any) -> str:  # noqa: ANN401
    """The first sentence of its help: as long as it takes, wrapped."""
    return str(command.get_short_help_str(160))


def in_words(names: str) -> str:
    """A parameter as help has it, without the types of Python that typer names."""
    return re.sub(r" <[^>]*>", "", re.sub(r" <(?:int|float)\b[^>]*>", " N", names))


def group(name: str, help_: str) -> typer.Typer:
    """A group of verbs, `rrd NAME VERB`; alone it shows its help, as `rrd` does. Its verbs are of the class Verb."""
    app = typer.Typer(
        name=name, cls=Group, help=help_, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
        subcommand_metavar="VERB ...",
    )  # fmt: skip

    @app.callback(invoke_without_command=True, help=help_)
    def alone(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            print(context.get_help())

    return app


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
                formatter.write_dl([(name, _brief(load(name))) for name in names])


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
        settings = getattr(module, "CONTEXT", None)
        app.command(name, cls=Verb, epilog=examples(module.EXAMPLES), context_settings=settings)(module.run)
    command = typer.main.get_command(app)
    command.name = name
    return command


def examples(lines: str) -> str:
    """Examples as help shows them: under a title, and not re-wrapped (which is what \\b tells click)."""
    body = "\n".join(f"  {line}".rstrip() for line in lines.strip().splitlines())
    return f"\b\nExamples:\n{body}"

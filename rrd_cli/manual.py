"""`man rrd`, made from the same command line and help as `rrd --help`: roff, as man(7) has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon import __version__
from rrd_cli import tree

if TYPE_CHECKING:
    from collections.abc import Iterator


def page() -> str:
    """The page's source."""
    root = tree.build()
    with root.make_context("rrd", [], resilient_parsing=True) as context:
        lines = [
            f'.TH RRD 1 "" "rrd {_text(__version__)}" "User Commands"',
            ".SH NAME", "rrd \\- multiplexer daemon for Rerun log streams",
            ".SH SYNOPSIS", ".B rrd", "VERB [OPTIONS] ...",
            ".SH DESCRIPTION", *_paragraphs(root.help or ""),
            ".SH VERBS", *_commands("rrd", root, context),
            ".SH EXIT STATUS", "0 done, 1 failed or refused, 2 usage, 3 no daemon, 130 interrupted. rrd run ends with "
            "its program's.",
            ".SH FILES",
            ".TP", "$XDG_RUNTIME_DIR/rrd/control.sock", "The daemon's socket.",
            ".TP", "~/.local/state/rrd/", "The spool, with all recordings, the daemon's log, and a second socket for "
            "sessions with another XDG_RUNTIME_DIR, or none.",
            ".TP", "~/.config/rrd/config.toml", "The settings: rrd config show.",
            ".SH ENVIRONMENT", "XDG_RUNTIME_DIR, XDG_STATE_HOME and XDG_CONFIG_HOME move these; NO_COLOR takes colours "
            "away; RRD_GRPC_PORT and the like override settings.",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _commands(path: str, group: Any, context: Any) -> Iterator[str]:  # noqa: ANN401 - click's, of whichever click
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        with command.make_context(name, [], parent=context, resilient_parsing=True) as inner:
            if hasattr(command, "list_commands"):
                yield from _commands(f"{path} {name}", command, inner)
                continue
            usage = " ".join((one.metavar or one.name).upper() for one in command.get_params(inner)
                             if one.param_type_name == "argument")
            yield from (f'.SS "{_text(f"{path} {name} {usage}".strip())}"', *_paragraphs(command.help or ""))
            for parameter in command.get_params(inner):
                record = parameter.get_help_record(inner)
                if record is not None and "--help" not in parameter.opts:
                    yield from (".TP", f".B {_text(tree.in_words(record[0]))}", _text(record[1]))
            epilog = (command.epilog or "").replace("\b", "").strip()
            if epilog:
                yield from (".PP", ".nf", *(_text(line) for line in epilog.splitlines()), ".fi")


def _paragraphs(text: str) -> list[str]:
    lines = []
    for paragraph in text.replace("\b", "").split("\n\n"):
        lines += [".PP", _text(" ".join(paragraph.split()))]
    return lines


def _text(text: str) -> str:
    """Text as roff takes it: no escapes, no requests, hyphens that can be copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return "\\&" + escaped if escaped[:1] in (".", "'") else escaped

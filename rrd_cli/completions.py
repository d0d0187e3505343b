"""What Tab offers: scripts for bash, zsh and fish, made from the command line itself; and the names they ask for.

    python -m rrd_cli.completions [DIRECTORY]     writes rrd.bash, _rrd and rrd.fish; a test sees that they are current
    rrd _complete recordings|sources|sinks|viewers  what the scripts ask at every Tab: a name, a tab, what it is

Rules: what an argument may be is told by its metavar (KINDS). Asking is quick and quiet: no daemon is started for it,
no error is shown, and a daemon that does not answer soon has nothing to offer. Names that a shell could not take
as they are (spaces, quotes, control characters) are not offered.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FILES: Final = "files"
KINDS: Final[dict[str, tuple[str, ...]]] = {
    "SOURCE": ("sources", FILES),
    "RECORDING": ("recordings",),
    "SINK": ("sinks", FILES),
    "URL": ("viewers",),
    "CMD": (FILES,),
    "FILE": (FILES,),
    "OUT": (FILES,),
    "DIR": (FILES,),
    "EXECUTABLE": (FILES,),
}
"""Metavar to what is offered: a kind that `_complete` knows, or files."""
SELECTORS: Final = (
    ("@latest", "the newest recording"),
    ("@live", "all that are being logged, now and later"),
    ("@all", "all there are"),
)
ASKED: Final = ("recordings", "sources", "sinks", "viewers")
"""What `_complete` knows."""
DEADLINE = 1.0
"""Seconds that somebody who pressed Tab waits."""
GENERATED: Final = "# Made by `python -m rrd_cli.completions` from the command line itself: do not edit."


@dataclass(frozen=True)
class Option:
    """An option: its names, what it is, and the metavar of its value if it takes one."""

    names: tuple[str, ...]
    help: str
    value: str | None


@dataclass(frozen=True)
class Command:
    """A verb, or a group of verbs."""

    name: str
    help: str
    options: tuple[Option, ...] = ()
    arguments: tuple[tuple[str, bool], ...] = ()
    """Metavar, and whether there may be several."""
    commands: tuple[Command, ...] = field(default=())


# -- what the shells ask ---------------------------------------------------------------------------------------------


def complete(words: Sequence[str]) -> int:
    """Print what there is of a kind, a line each: the name, a tab, what it is. Exit code 2: no such kind."""
    if len(words) != 1 or words[0] not in ASKED:
        return 2
    for name, what in names(words[0]):
        if name and name.isprintable() and not set(name) & set(" \"'`\\$;&|<>()*?[]{}!#~"):
            print(f"{name}\t{what}")
    return 0


def names(kind: str) -> Iterator[tuple[str, str]]:
    """Names of a kind with what they are; only selectors where there is no daemon."""
    from daemon.wire.control import VerbError
    from rrd_cli import recordings
    from rrd_cli.client import Client
    from rrd_cli.errors import CliError
    from rrd_cli.render import age, clean

    if kind == "sources":
        yield from SELECTORS
    try:
        with Client(may_start=False) as client:
            if kind == "sinks":
                for sink in client.call("status", timeout=DEADLINE).get("sinks") or ():
                    if sink.get("state") in ("starting", "following", "retrying"):
                        yield str(sink.get("id")), clean(f"{sink.get('kind')}, {sink.get('target')}")
                return
            if kind == "viewers":
                viewers = client.call("viewers", {"unasked": True}, timeout=DEADLINE).get("viewers") or ()
                for viewer in viewers:
                    what = clean(f"{viewer.get('kind')} {viewer.get('version')}, pid {viewer.get('pid')}")
                    yield from ((str(port), what) for port in viewer.get("ports") or ())
                return
            found = recordings.fetch(client, timeout=DEADLINE)
    except (CliError, VerbError):
        return
    for application in dict.fromkeys(str(one.get("application_id") or "") for one in found):
        yield application, "all recordings of this application"
    for one in reversed(found):
        what = f"{one.get('application_id') or '?'}, {one.get('state')}, {age(one.get('started_at'))}"
        yield str(one.get("recording_id")), clean(what)


# -- the command line as data ----------------------------------------------------------------------------------------


def command_line() -> Command:
    """`rrd` with all its verbs."""
    from rrd_cli import tree

    return _command("rrd", tree.build(), None)


def _command(name: str, command: Any, parent: Any) -> Command:  # noqa: ANN401 - click's, of whichever click
    with command.make_context(name, [], parent=parent, resilient_parsing=True) as context:
        options, arguments = [], []
        for parameter in command.get_params(context):
            if getattr(parameter, "hidden", False):
                continue
            if parameter.param_type_name == "argument":
                arguments.append(((parameter.metavar or parameter.name).strip("[].").upper(), parameter.nargs == -1))
            else:
                value = None if parameter.is_flag or parameter.count else (parameter.metavar or "VALUE")
                opts = tuple(sorted((*parameter.opts, *parameter.secondary_opts), key=len))
                options.append(Option(opts, _brief(parameter.help or ""), value))
        inner = []
        if hasattr(command, "list_commands"):
            for sub in command.list_commands(context):
                found = command.get_command(context, sub)
                if found is not None and not found.hidden:
                    inner.append(_command(sub, found, context))
    return Command(name, _brief(command.help or ""), tuple(options), tuple(arguments), tuple(inner))


def _brief(text: str) -> str:
    """The first sentence, without its full stop."""
    line = " ".join(text.split("\n\n")[0].split())
    return line.split(". ")[0].rstrip(".")


def _kinds(metavar: str) -> tuple[str, ...]:
    return KINDS.get(metavar, ())


# -- bash ------------------------------------------------------------------------------------------------------------

_BASH: Final = r"""
_rrd() {
    # Readline also breaks words at @ and :, which may stand in names: look at the line itself.
    local line="${COMP_LINE:0:COMP_POINT}" current="" previous="" verb="" word options="" kinds="" valued="" at=0
    local -a words=() found=()
    read -ra words <<< "$line"
    if [[ "$line" != *[[:space:]] && ${#words[@]} -gt 0 ]]; then
        current="${words[-1]}"
        unset 'words[-1]'
    fi
    [[ ${#words[@]} -gt 1 ]] && previous="${words[-1]}"
    for word in "${words[@]:1}"; do
        [[ "$word" == -* ]] && continue
        case "$verb" in
            "") verb="$word" ;;
@GROUPS@
            *) at=$((at + 1)) ;;
        esac
    done
    case "$verb" in
@CASES@
        *) return ;;
    esac
    case "$verb $previous" in
@VALUES@
    esac
    if [[ "$valued" == yes ]]; then
        :
    elif [[ "$current" == -* ]]; then
        mapfile -t found < <(compgen -W "$options" -- "$current")
        kinds=""
    fi
    for word in $kinds; do
        case "$word" in
            files)
                compopt -o filenames 2>/dev/null
                mapfile -t -O "${#found[@]}" found < <(compgen -f -- "$current")
                ;;
            *)
                mapfile -t -O "${#found[@]}" found < <(
                    compgen -W "$("${COMP_WORDS[0]}" _complete "$word" 2>/dev/null | cut -f 1)" -- "$current")
                ;;
        esac
    done
    # Readline replaces what follows the last character that it breaks words at; @ and $ themselves go with that.
    local broken="${current%"${current##*["$COMP_WORDBREAKS"]}"}"
    [[ "$broken" == *[@$] ]] && broken="${broken%?}"
    COMPREPLY=("${found[@]#"$broken"}")
}
complete -F _rrd rrd
"""


def bash(root: Command) -> str:
    """The script for bash 4.4 and later; needs no bash-completion."""
    groups, cases, values = [], [], []
    for path, command in _walk(root):
        name = " ".join(path[1:])
        if command.commands and name:
            groups.append(f'            "{name}") verb="{name} $word" ;;')
        options = " ".join(name for option in command.options for name in option.names)
        kinds = _bash_kinds(command)
        cases.append(f'        "{name}")\n            options="{options}"\n{kinds}\n            ;;')
        for option in command.options:
            if option.value is not None:
                pattern = " | ".join(f'"{name} {one}"' for one in option.names)
                values.append(f'        {pattern}) valued=yes kinds="{" ".join(_kinds(option.value))}" ;;')
    if not groups:
        groups.append("            # no groups")
    script = _BASH.replace("@GROUPS@", "\n".join(groups)).replace("@CASES@", "\n".join(cases))
    script = script.replace("@VALUES@", "\n".join(values) or "        *) ;;")
    return f"# bash completion for rrd\n{GENERATED}\n{script}"


def _bash_kinds(command: Command) -> str:
    indent = " " * 12
    if command.commands:
        words = " ".join(one.name for one in command.commands)
        return f'{indent}mapfile -t found < <(compgen -W "{words}" -- "$current")'
    if not command.arguments:
        return f'{indent}kinds=""'
    lines = []
    for index, (metavar, _several) in enumerate(command.arguments[:-1]):
        lines.append(f'{index}) kinds="{" ".join(_kinds(metavar))}" ;;')
    metavar, several = command.arguments[-1]
    last = "*" if several else str(len(command.arguments) - 1)
    lines.append(f'{last}) kinds="{" ".join(_kinds(metavar))}" ;;')
    return f"{indent}case $at in {' '.join(lines)} esac"


def _walk(root: Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    path = (*path, root.name)
    yield path, root
    for command in root.commands:
        yield from _walk(command, path)


# -- zsh -------------------------------------------------------------------------------------------------------------

_ZSH: Final = r"""
_rrd_names() {
    local -a found lines
    local line
    lines=("${(@f)$(rrd _complete $1 2>/dev/null)}")
    for line in $lines; do
        [[ -n $line ]] && found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    (( $#found )) && _describe -t $1 $1 found
}
_rrd_recordings() { _rrd_names recordings }
_rrd_sinks() { _rrd_names sinks; _files }
_rrd_sources() { _rrd_names sources; _files }
_rrd_viewers() { _rrd_names viewers }
"""

_ZSH_END: Final = '[[ "$funcstack[1]" == _rrd ]] && _rrd "$@" || compdef _rrd rrd'
"""Found in $fpath, the file is the function's own body; sourced, it registers the function."""


def zsh(root: Command) -> str:
    """The script for zsh: to be found in $fpath as `_rrd`."""
    functions = "\n".join(_zsh_function(path, command) for path, command in reversed(list(_walk(root))))
    return f"#compdef rrd\n{GENERATED}\n{_ZSH}\n{functions}\n{_ZSH_END}\n"


def _zsh_function(path: tuple[str, ...], command: Command) -> str:
    name = "_" + "_".join(part.replace("-", "_") for part in path)
    name = name if len(path) == 1 else f"_rrd_verb_{'_'.join(path[1:])}".replace("-", "_")
    specs = []
    for option in command.options:
        value = "" if option.value is None else f":{option.value}:{_zsh_action(option.value)}"
        exclusive = f"({' '.join(option.names)})" if len(option.names) > 1 else ""
        for flag in option.names:
            specs.append(_zsh_quote(f"{exclusive}{flag}[{_zsh_escape(option.help)}]{value}"))
    if command.commands:
        specs += [_zsh_quote("1: :->verb"), _zsh_quote("*:: :->rest")]
    for metavar, several in command.arguments:
        specs.append(_zsh_quote(f"{'*' if several else ''}:{metavar}:{_zsh_action(metavar)}"))
    lines = [f"{name}() {{"]
    if not command.commands:
        lines.append(_zsh_arguments("_arguments -s", specs, "    "))
    else:
        lines += ["    local curcontext=$curcontext state line", _zsh_arguments("_arguments -s -C", specs, "    ")]
        lines += ["    case $state in", "        verb)", "            local -a verbs", "            verbs=("]
        lines += [f"                {_zsh_quote(f'{one.name}:{one.help}')}" for one in command.commands]
        lines += ["            )", "            _describe -t verbs verb verbs", "            ;;", "        rest)"]
        lines += ["            case $line[1] in"]
        for one in command.commands:
            inner = f"_rrd_verb_{'_'.join((*path[1:], one.name))}".replace("-", "_")
            lines.append(f"                {one.name}) {inner} ;;")
        lines += ["            esac", "            ;;", "    esac"]
    return "\n".join([*lines, "}"])


def _zsh_arguments(command: str, specs: Sequence[str], indent: str) -> str:
    return " \\\n".join([f"{indent}{command}", *(f"{indent}    {spec}" for spec in specs)])


def _zsh_action(metavar: str) -> str:
    kinds = _kinds(metavar)
    if not kinds:
        return ""
    return "_files" if kinds == (FILES,) else f"_rrd_{kinds[0]}"


def _zsh_escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")


def _zsh_quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# -- fish ------------------------------------------------------------------------------------------------------------

_FISH: Final = r"""
function __rrd_at
    # True when the words before the cursor, options left out, are `rrd` and these verbs; with --more, and then any.
    set -l wanted $argv
    set -l more no
    if test "$wanted[1]" = --more
        set more yes
        set -e wanted[1]
    end
    set -l said
    for word in (commandline -opc)[2..-1]
        string match -q -- '-*' $word; or set -a said $word
    end
    set -l count (count $wanted)
    test (count $said) -ge $count; or return 1
    if test $count -gt 0
        test "$said[1..$count]" = "$wanted"; or return 1
    end
    test $more = yes; or test (count $said) -eq $count
end
complete -c rrd -f
"""


def fish(root: Command) -> str:
    """The script for fish 3."""
    lines = []
    for path, command in _walk(root):
        here = " ".join(path[1:])
        exact, below = f"'__rrd_at {here}'".replace(" '", "'"), f"'__rrd_at --more {here}'".replace(" '", "'")
        for one in command.commands:
            lines.append(f"complete -c rrd -n {exact} -a {one.name} -d {_fish_quote(one.help)}")
        where = exact if command.commands else below
        for option in command.options:
            flags = " ".join(f"-l {one[2:]}" if one.startswith("--") else f"-s {one[1:]}" for one in option.names)
            value = "" if option.value is None else f" -x{_fish_values(option.value)}"
            lines.append(f"complete -c rrd -n {where} {flags}{value} -d {_fish_quote(option.help)}")
        for metavar in dict.fromkeys(metavar for metavar, _ in command.arguments):
            for kind in _kinds(metavar):
                how = "-F" if kind == FILES else f"-a '(rrd _complete {kind} 2>/dev/null)'"
                lines.append(f"complete -c rrd -n {where} {how}")
    return f"# fish completion for rrd\n{GENERATED}\n{_FISH}" + "\n".join(dict.fromkeys(lines)) + "\n"


def _fish_values(metavar: str) -> str:
    kinds = _kinds(metavar)
    if FILES in kinds:
        return " -a '(__fish_complete_path)'"
    return "".join(f" -a '(rrd _complete {kind} 2>/dev/null)'" for kind in kinds)


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


# -- writing ---------------------------------------------------------------------------------------------------------


def scripts() -> dict[str, str]:
    """File name to text, of all three."""
    root = command_line()
    return {"rrd.bash": bash(root), "_rrd": zsh(root), "rrd.fish": fish(root)}


def write(directory: str) -> None:
    """Write them.

    Raises:
        OSError: that cannot be done.
    """
    for name, text in scripts().items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    write(sys.argv[1] if len(sys.argv) > 1 else "completions")

"""`rrd config ...`: the settings, where each comes from, and a safe way to change them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from daemon import settings
from daemon.settings import Loaded, Rule, SettingsError
from rrd_cli import render
from rrd_cli.client import Client
from rrd_cli.errors import CliError, NoDaemonError
from rrd_cli.tree import Verb, examples, group

if TYPE_CHECKING:
    from collections.abc import Mapping

KEYS: Final = ("path", "exists", "settings")
"""Keys of `rrd config show --json`; an object of `settings` has `value`, `from`, `default`, `doc`. Pinned."""

app = group("config", "Show and change the settings.")


@app.command(cls=Verb, epilog=examples("rrd config show\nrrd config show --json | jq .settings.grpc_port.value"))
def show(
    json: Annotated[bool, typer.Option("--json", help="Print one object: path, exists, settings.")] = False,
) -> None:
    """Show every setting: its value, where that comes from, and what it means."""
    loaded = _read()
    if json:
        render.print_lines([render.as_json(as_object(loaded))])
    else:
        render.print_lines(lines(loaded, _used()))


@app.command(cls=Verb, epilog=examples("rrd config edit\nEDITOR=nano rrd config edit"))
def edit() -> None:
    """Edit the settings' file with $VISUAL or $EDITOR, check it, and have a running daemon take it.

    A file with an error in it is not taken: the old one stays.
    """
    try:
        changed = _edit(Path(os.path.realpath(settings.config_path())))
    except OSError as error:
        raise CliError(f"cannot edit the settings: {error.strerror}: {error.filename}") from error
    if changed:
        render.print_lines([f"wrote {settings.config_path()}", *reload_lines()])
    else:
        render.print_lines(["nothing was changed"])


@app.command(cls=Verb, epilog=examples("rrd config path\ncat $(rrd config path)"))
def path() -> None:
    """Print the path of the settings' file, whether it is there or not."""
    render.print_lines([str(settings.config_path())])


def reload_lines() -> list[str]:
    """Have a running daemon read its settings again; what it says of that.

    Raises:
        VerbError: it cannot use them.
    """
    with Client(may_start=False) as client:
        try:
            answer = client.call("reload", repeat=True)
        except NoDaemonError:
            return ["no daemon is running: it will start with these settings"]
    changed = answer.get("changed") or []
    later = list(answer.get("restart") or ())
    found = [f"the daemon took: {', '.join(changed)}" if changed else "nothing changed for the daemon"]
    if later:
        found.append(f"after `rrd daemon restart` (nothing is lost): {', '.join(later)}")
    return found


def as_object(loaded: Loaded) -> dict[str, Any]:
    """Settings as `--json` has them."""
    where = settings.config_path()
    default = settings.Settings()
    entries = {
        key: {
            "value": plain(getattr(loaded.settings, key)),
            "from": loaded.sources[key],
            "default": plain(getattr(default, key)),
            "doc": about["doc"],
        }
        for key, about in settings.described().items()
    }
    return {"path": str(where), "exists": where.exists(), "settings": entries}


def plain(value: object) -> object:
    """A value as JSON has it."""
    if isinstance(value, tuple):
        return [_rule(one) for one in value]
    return value


def _rule(rule: Rule) -> dict[str, object]:
    return {"application": rule.application, rule.action: getattr(rule, rule.action)}


def lines(loaded: Loaded, used: Mapping[str, Any]) -> list[str]:
    """Settings as people read them.

    Args:
        loaded: What a daemon would start with now.
        used: What the running daemon uses; empty if there is none.
    """
    where = settings.config_path()
    rows = []
    for key, about in settings.described().items():
        value = getattr(loaded.settings, key)
        rows.append((key, shown(value, about["kind"]), loaded.sources[key], about["doc"]))
    found = [f"{where}{'' if where.exists() else '   (not there: rrd config edit makes it)'}", ""]
    found += render.table(("KEY", "VALUE", "FROM", "MEANING"), rows)
    found += [f"  [[auto]] {render.clean(rule.describe())}" for rule in loaded.settings.auto]
    differing = [key for key in settings.described()
                 if key in used and used[key] != plain(getattr(loaded.settings, key))]
    if differing:
        found += ["", f"the running daemon still uses other values of: {', '.join(differing)}"]
        found += ["rrd daemon reload   (or restart, for ports)"]
    return found


def shown(value: object, kind: str) -> str:
    """A value in a cell."""
    if kind == "size":
        return render.size(int(str(value)))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return render.plural(len(value), "rule")
    return render.clean(value)


def template() -> str:
    """What a new settings' file holds: every key with its meaning and default, commented out."""
    found = ["# Settings of the rrd daemon. `rrd config show` tells what is in force.", ""]
    default = settings.Settings()
    for key, about in settings.described().items():
        if about["kind"] != "rules":
            value = getattr(default, key)
            text = f'"{value}"' if isinstance(value, str) else str(value).lower()
            found += [f"# {about['doc']}", f"# {key} = {text}", ""]
    found += [
        "# What happens by itself when a recording comes; each rule says one of save, spawn and connect.",
        "# [[auto]]",
        '# application = "my_app"    # * and ? as in file names; without it: every application',
        '# save = "~/recordings/{app}/{date}-{recording}.rrd"',
        "",
        "# [[auto]]",
        "# spawn = true              # a viewer, when none shows the recording",
        "",
        "# [[auto]]",
        '# connect = "rerun+http://127.0.0.1:9876/proxy"',
        "",
    ]
    return "\n".join(found)


def _read() -> Loaded:
    try:
        return settings.read()
    except SettingsError as error:
        raise CliError(str(error), error.hint) from error


def _used() -> dict[str, Any]:
    with Client(may_start=False) as client:
        try:
            return dict(client.call("settings", repeat=True))
        except NoDaemonError:
            return {}


def _edit(path: Path) -> bool:
    """Have a copy of the settings' file edited, and put it in its place if it can be used; whether it was changed.

    Args:
        path: The file itself: where it is a link, into somebody's dotfiles say, it has to stay one.

    Raises:
        CliError: it cannot be used, or there was no editing. Nothing was changed.
        OSError: the file cannot be read or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.read_bytes() if path.exists() else template().encode()
    handle, name = tempfile.mkstemp(prefix=".config-", suffix=".toml", dir=path.parent)
    draft = Path(name)
    try:
        with open(handle, "wb") as file:
            file.write(old)
        _run_editor(draft)
        if draft.read_bytes() == old:
            return False
        try:
            settings.read({}, draft)
        except SettingsError as error:
            kept = path.with_name(f"{path.name}.rejected")
            draft.replace(kept)
            message = str(error).replace(str(draft), str(kept))
            raise CliError(f"{message}; nothing was changed", error.hint) from error
        shutil.copymode(path, draft) if path.exists() else draft.chmod(0o644)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return True


def _run_editor(path: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or next(
        (one for one in ("sensible-editor", "nano", "vi") if shutil.which(one)), "")
    if not editor:
        raise CliError("there is no editor", f"set $EDITOR, or edit it yourself: {settings.config_path()}")
    try:
        status = subprocess.run([*shlex.split(editor), str(path)], check=False).returncode
    except (OSError, ValueError) as error:
        raise CliError(f"cannot run the editor: {error}", "set $EDITOR") from error
    if status != 0:
        raise CliError(f"the editor ended with status {status}; nothing was changed", f"$EDITOR is {editor}")

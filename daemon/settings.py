"""What the user has set: one TOML file, `$XDG_CONFIG_HOME/rrd/config.toml`; the environment overrides it.

    default  <  config.toml (`grpc_port = 0`, or `[grpc]` and `port = 0`)  <  RRD_GRPC_PORT=0

Rules: every key has its default, its meaning and its limits here and nowhere else; an unknown key or a bad value is an
error that names the file, the line, the key and what is allowed; nothing is set by merely reading. Sizes are bytes, or
a text with a decimal or binary unit ("50 GB", "2 GiB").
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from daemon import paths
from daemon.spool.retention import DEFAULT_MAX_BYTES, DEFAULT_MIN_FREE_BYTES

GRPC_PORT = 9886
"""Beside Rerun's own 9876, which stays Rerun's."""
LOG_LEVELS = ("debug", "info", "warning", "error")
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
         "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
AUTO = "auto"
ACTIONS = ("save", "spawn", "connect")
PLACEHOLDERS = ("app", "recording", "date", "time", "program")
"""What the path of a save rule may name in braces."""


class SettingsError(ValueError):
    """The settings cannot be used. The message names file, line and key, `hint` what is allowed."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Rule:
    """One `[[auto]]`: what happens by itself when a recording comes. Exactly one of save, spawn and connect is said.

    Attributes:
        application: Which recordings: application id, `*` and `?` as in file names.
        save: A file for each recording: an absolute path (or ~/...) with {app}, {recording}, {date}, {time}, {program}.
        spawn: A viewer, when none shows the recording.
        connect: A viewer's URL, which is fed always.
    """

    application: str = "*"
    save: str = ""
    spawn: bool = False
    connect: str = ""

    @property
    def action(self) -> str:
        """Which of the three it is."""
        return next(name for name in ACTIONS if getattr(self, name))

    def describe(self) -> str:
        """The rule in words."""
        what = {"save": f"save to {self.save}", "spawn": "spawn a viewer", "connect": f"connect to {self.connect}"}
        return f"{self.application}: {what[self.action]}"


def _key(default: Any, kind: str, doc: str, *, restart: bool = False) -> Any:  # noqa: ANN401 - a dataclass field
    return field(default=default, metadata={"kind": kind, "doc": doc, "restart": restart})


@dataclass(frozen=True)
class Settings:
    """All settings. What each means stands in its metadata: `rrd config show` and README are made of it.

    Attributes:
        spool_max_bytes: The spool's ended recordings may take so much, bytes.
        spool_min_free_bytes: So much of the spool's disk is left free, bytes.
        grpc_port: Loopback port for programs that know nothing of rrd; 0 is any free one, -1 none.
        newest_first: Viewers that pull get what comes first, then what was there, newest first.
        takeover: Answer Rerun's own port 9876 too.
        log_level: debug, info, warning or error.
        auto: What happens by itself.
    """

    spool_max_bytes: int = _key(
        DEFAULT_MAX_BYTES, "size", "ended recordings may take so much; beyond it the oldest go")
    spool_min_free_bytes: int = _key(
        DEFAULT_MIN_FREE_BYTES, "size", "so much of the spool's disk is left free, a twentieth of it at most")
    grpc_port: int = _key(
        GRPC_PORT, "port", "loopback port for programs that know nothing of rrd; 0: any free one, -1: none",
        restart=True)
    newest_first: bool = _key(
        False, "bool", "viewers that pull (rerun --connect) get what comes first, then what was there, newest first",
        restart=True)
    takeover: bool = _key(False, "bool", "answer Rerun's own port 9876 too", restart=True)
    log_level: str = _key("info", "level", "what the daemon logs: debug, info, warning or error")
    auto: tuple[Rule, ...] = _key((), "rules", "what happens by itself when a recording comes: [[auto]] tables")

    def __post_init__(self) -> None:
        if not -1 <= self.grpc_port <= 65535:
            raise SettingsError(f"grpc_port is {self.grpc_port}", "a port is 0 to 65535, or -1 for none")
        if min(self.spool_max_bytes, self.spool_min_free_bytes) < 0:
            raise SettingsError("a size is negative", "sizes are bytes, 0 or more")
        if self.log_level not in LOG_LEVELS:
            raise SettingsError(f"log_level is {self.log_level}", f"it is {_or(LOG_LEVELS)}")


@dataclass(frozen=True)
class Loaded:
    """Settings and where each came from.

    Attributes:
        sources: By key: `default`, `config.toml:LINE`, or `$RRD_...`.
    """

    settings: Settings
    sources: Mapping[str, str]


def described() -> dict[str, Mapping[str, Any]]:
    """Every key with its metadata: `kind`, `doc`, `restart` (a reload does not reach it)."""
    return {one.name: one.metadata for one in fields(Settings)}


def config_path() -> Path:
    """The settings' file."""
    return paths.config_dir() / "config.toml"


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read file and environment (`RRD_GRPC_PORT` and so on).

    Raises:
        SettingsError: something in either is not understood.
    """
    return read(environment).settings


def read(environment: Mapping[str, str] = os.environ, path: Path | None = None) -> Loaded:
    """The same, with sources.

    Args:
        environment: Where overrides are looked for.
        path: Another file than the usual one.

    Raises:
        SettingsError: something in either is not understood.
    """
    try:
        path = path or config_path()
    except paths.PathError:  # no home, so no file
        path = Path(os.devnull)
    try:
        text = path.read_text()
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the settings: {error}", "rrd config path names the file") from error
    values, sources = parse(text, path)
    for key, about in described().items():
        variable = f"RRD_{key.upper()}"
        said = environment.get(variable)
        if said is not None and about["kind"] != "rules":
            values[key] = _from_text(variable, said, about["kind"])
            sources[key] = f"${variable}"
    for key in described():
        sources.setdefault(key, "default")
    return Loaded(Settings(**values), sources)


def parse(text: str, path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the file's text.

    Args:
        text: TOML.
        path: For messages.

    Returns:
        Values and sources of the keys that it sets.

    Raises:
        SettingsError: it is no TOML, or something in it is not understood.
    """
    try:
        found: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"line (\d+)", str(error))
        what = re.sub(r" \(at .*\)$", "", str(error))
        line = where[1] if where else str(text.count("\n") + 1)
        raise SettingsError(f"{path}:{line}: not TOML: {what[:1].lower()}{what[1:]}",
                            'a setting is written: key = value; texts in "quotes"') from error
    lines = _lines(text)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for dotted, value in _flat(found):
        key = dotted.replace(".", "_")
        place = f"{path}:{lines.get(dotted, '?')}"
        if key not in described():
            raise SettingsError(f"{place}: unknown key {dotted}", _did_you_mean(key, list(described())))
        if key in values:
            raise SettingsError(f"{place}: {key} is set twice", "once as a key and once in a table")
        kind = described()[key]["kind"]
        values[key] = _rules(value, path, lines) if kind == "rules" else _value(place, dotted, value, kind)
        sources[key] = f"{path.name}:{lines.get(dotted, '?')}"
    return values, sources


def _flat(found: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Keys of nested tables joined by dots."""
    flat: list[tuple[str, Any]] = []
    for key, value in found.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return flat


def _lines(text: str) -> dict[str, int]:
    """Line numbers of keys (`grpc.port`, `auto.0.save`) and tables: tomllib tells none.

    A line within a text of several lines may be taken for a key; all that comes of it is a wrong number in a message.
    """
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        head = re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line)
        if head:
            name = _bare(head[2])
            if head[1] == "[[":
                counts[name] = counts.get(name, -1) + 1
                found.setdefault(name, number)
                name = f"{name}.{counts[name]}"
            found.setdefault(name, number)
            table = f"{name}."
            continue
        entry = re.match(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""", line)
        if entry:
            found.setdefault(table + _bare(entry[1]), number)
    return found


def _bare(key: str) -> str:
    return re.sub(r"""\s*\.\s*""", ".", key).replace('"', "").replace("'", "")


def _value(place: str, key: str, value: object, kind: str) -> object:
    """A value that came as TOML."""
    expected = {"bool": (bool,), "port": (int,), "size": (int, str), "level": (str,)}[kind]
    if not isinstance(value, expected) or (isinstance(value, bool) and kind != "bool"):
        raise SettingsError(f"{place}: {key} is {_toml(value)}", _allowed(kind))
    if kind == "size" and isinstance(value, str):
        value = _size(value)
    if value is None or not _fits(value, kind):
        raise SettingsError(f"{place}: {key} is {_toml(value)}", _allowed(kind))
    return value


def _from_text(variable: str, text: str, kind: str) -> object:
    """A value that came as text."""
    value: object = text
    if kind == "bool":
        value = {"1": True, "true": True, "yes": True, "on": True,
                 "0": False, "false": False, "no": False, "off": False}.get(text.lower())
    elif kind == "size":
        value = _size(text)
    elif kind == "port":
        value = int(text) if re.fullmatch(r"-?\d{1,6}", text) else None
    if value is None or not _fits(value, kind):
        raise SettingsError(f"${variable} is {text!r}", _allowed(kind))
    return value


def _fits(value: Any, kind: str) -> bool:  # noqa: ANN401 - whatever was said
    if kind == "port":
        return bool(-1 <= value <= 65535)
    return bool(value >= 0) if kind == "size" else kind != "level" or value in LOG_LEVELS


def _allowed(kind: str) -> str:
    return {
        "size": 'a size is a number of bytes, or a text with a unit: "50 GB", "2 GiB"',
        "port": "a port is 0 to 65535, or -1 for none",
        "bool": "it is true or false",
        "level": f"it is {_or(LOG_LEVELS)}",
    }[kind]


def _size(text: str) -> int | None:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = UNITS.get(match[2].lower()) if match else None
    return None if match is None or unit is None else int(float(match[1]) * unit)


def _rules(value: object, path: Path, lines: Mapping[str, int]) -> tuple[Rule, ...]:
    """The `[[auto]]` tables.

    Raises:
        SettingsError: one of them is not understood.
    """
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise SettingsError(f"{path}:{lines.get(AUTO, '?')}: auto is {_toml(value)}", "rules are [[auto]] tables")
    return tuple(_rule(one, index, path, lines) for index, one in enumerate(value))


def _rule(found: Mapping[str, Any], index: int, path: Path, lines: Mapping[str, int]) -> Rule:
    head = lines.get(f"{AUTO}.{index}", "?")
    known: dict[str, type] = {"application": str, "save": str, "spawn": bool, "connect": str}
    for key, value in found.items():
        place = f"{path}:{lines.get(f'{AUTO}.{index}.{key}', head)}"
        if key not in known:
            raise SettingsError(f"{place}: unknown key {key} in [[auto]]", _did_you_mean(key, list(known)))
        if type(value) is not known[key]:
            kind = "true or false" if known[key] is bool else "a text"
            raise SettingsError(f"{place}: {key} is {_toml(value)}", f"it is {kind}")
    rule = Rule(**found)
    if rule.save:
        _check_template(rule.save, f"{path}:{lines.get(f'{AUTO}.{index}.save', head)}")
    if rule.connect and not re.match(r"(rerun\+)?https?://.", rule.connect):
        raise SettingsError(f"{path}:{lines.get(f'{AUTO}.{index}.connect', head)}: connect is {_toml(rule.connect)}",
                            "a URL: rerun+http://HOST:9876/proxy")
    said = [name for name in ACTIONS if getattr(rule, name)]
    if len(said) != 1:
        raise SettingsError(f"{path}:{head}: [[auto]] says {' and '.join(said) or 'nothing to do'}",
                            f"a rule says one of {_or(ACTIONS)}")
    return rule


def _check_template(template: str, place: str) -> None:
    if not template.startswith(("/", "~/")):
        raise SettingsError(f"{place}: save is {_toml(template)}", "an absolute path, or one that begins with ~/")
    for name in re.findall(r"\{([^{}]*)\}", template):
        if name not in PLACEHOLDERS:
            raise SettingsError(f"{place}: save names {{{name}}}",
                                f"there are {', '.join(f'{{{one}}}' for one in PLACEHOLDERS)}")
    if re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", template)):
        raise SettingsError(f"{place}: save is {_toml(template)}", "a brace stands alone")
    if not template.endswith(".rrd"):
        raise SettingsError(f"{place}: save is {_toml(template)}", "it must end in .rrd")


def _did_you_mean(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return (f"did you mean {close[0]}? " if close else "") + f"there are {', '.join(known)}"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value!s:.100}"


def _or(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"

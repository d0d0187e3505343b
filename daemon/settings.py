"""What the user has set: one TOML file, `$XDG_CONFIG_HOME/rrd/config.toml`; the environment overrides it.

Rules: every key has a default here and nowhere else; an unknown key or a bad value is an error that names the file,
the key and what is allowed; nothing is set by merely reading.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from daemon import paths
from daemon.spool.retention import DEFAULT_MAX_BYTES, DEFAULT_MIN_FREE_BYTES

GRPC_PORT = 9886
"""Beside Rerun's own 9876, which stays Rerun's."""


class SettingsError(ValueError):
    """The settings cannot be used. The message names file and key, `hint` what is allowed."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Settings:
    """All settings.

    Attributes:
        spool_max_bytes: The spool's ended recordings may take so much, bytes.
        spool_min_free_bytes: So much of the spool's disk is left free, bytes.
        grpc_port: Loopback port for programs that know nothing of rrd; 0 is any free one, -1 none.
        takeover: Answer Rerun's own port 9876 too.
        log_level: debug, info, warning or error.
    """

    spool_max_bytes: int = DEFAULT_MAX_BYTES
    spool_min_free_bytes: int = DEFAULT_MIN_FREE_BYTES
    grpc_port: int = GRPC_PORT
    takeover: bool = False
    log_level: str = "info"

    def __post_init__(self) -> None:
        if not -1 <= self.grpc_port <= 65535:
            raise SettingsError(f"grpc_port is {self.grpc_port}", "a port is 0 to 65535, or -1 for none")
        if min(self.spool_max_bytes, self.spool_min_free_bytes) < 0:
            raise SettingsError("a size is negative", "sizes are bytes, 0 or more")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise SettingsError(f"log_level is {self.log_level}", "it is debug, info, warning or error")


def config_path() -> Path:
    """The settings' file."""
    return paths.config_dir() / "config.toml"


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read file and environment (`RRD_GRPC_PORT` and so on).

    Raises:
        SettingsError: something in either is not understood.
    """
    path = config_path()
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text())
    except FileNotFoundError:
        found = {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read the settings: {error}: {path}") from error
    known = {field.name: type(field.default) for field in fields(Settings)}
    for key, value in found.items():
        if key not in known:
            raise SettingsError(f"unknown key {key!r} in {path}", f"there are {', '.join(known)}")
        if type(value) is not known[key]:
            raise SettingsError(f"{key} is {value!r} in {path}", f"a {known[key].__name__} is expected")
    for key, kind in known.items():
        text = environment.get(f"RRD_{key.upper()}")
        if text is not None:
            found[key] = _from_text(key, text, kind)
    return Settings(**found)


def _from_text(key: str, text: str, kind: type) -> object:
    if kind is bool and text.lower() in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        return text.lower() in ("1", "true", "yes", "on")
    if kind is int:
        try:
            return int(text)
        except ValueError:
            pass
    elif kind is str:
        return text
    raise SettingsError(f"RRD_{key.upper()} is {text!r}", f"a {kind.__name__} is expected")

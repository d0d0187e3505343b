from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from daemon import paths

VARIABLES = ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")


@pytest.fixture
def nobody(monkeypatch):
    """A user without a home, as a container's uid is."""
    def unknown(uid):
        raise KeyError(uid)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_variables_and_defaults(monkeypatch):
    for name in VARIABLES[1:]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    found = [paths.state_dir, paths.config_dir, paths.cache_dir]
    assert [str(one()) for one in found] == ["/home/me/.local/state/rrd", "/home/me/.config/rrd", "/home/me/.cache/rrd"]
    for name in VARIABLES[1:]:
        monkeypatch.setenv(name, f"/{name}")
    assert [str(one()) for one in found] == [f"/{name}/rrd" for name in VARIABLES[1:]]
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert paths.state_dir() == Path("/home/me/.local/state/rrd")


@pytest.mark.parametrize("home", [None, "relative"])
def test_no_home(nobody, monkeypatch, home):
    if home is not None:
        monkeypatch.setenv("HOME", home)
    for place, variable in ((paths.state_dir, "XDG_STATE_HOME"), (paths.config_dir, "XDG_CONFIG_HOME"),
                            (paths.spare_socket_path, "XDG_STATE_HOME"), (paths.cache_dir, "XDG_STATE_HOME")):
        with pytest.raises(paths.PathError, match="HOME is not set and this user has no home directory") as caught:
            place()
        assert caught.value.hint == f"set HOME, or {variable}"


def test_a_place_for_recordings_is_enough_of_a_home(nobody, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/data")
    assert (paths.state_dir(), paths.cache_dir()) == (Path("/data/rrd"), Path("/data/rrd/cache"))


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").touch()
    os.symlink(tmp_path, tmp_path / "link")
    for name in ("file", "link"):
        with pytest.raises(paths.PathError, match=rf"not a directory: .*{name}") as caught:
            paths.make_private(tmp_path / name)
        assert caught.value.hint == "remove it"
    with pytest.raises(paths.PathError, match=r"cannot make directory: Not a directory: .*file/x"):
        paths.make_private(tmp_path / "file" / "x")

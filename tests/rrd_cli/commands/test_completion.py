"""`rrd completion`: files are where shells look, and the manual page is whole."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from rrd_cli import completions, manual
from tests.conftest import missing


@pytest.fixture
def home(private, monkeypatch):
    monkeypatch.setenv("HOME", str(private))
    monkeypatch.setenv("XDG_DATA_HOME", str(private / "data"))
    return private


@pytest.mark.parametrize(("shell", "path"), [
    ("bash", "data/bash-completion/completions/rrd"), ("zsh", "data/zsh/site-functions/_rrd"),
    ("fish", "config_home/fish/completions/rrd.fish")])
def test_install(rrd, home, shell, path, monkeypatch):
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    code, out, _ = rrd("completion", "install")
    assert code == 0
    assert f"wrote {home / path}" in out
    assert (home / path).read_text() in completions.scripts().values()
    assert (home / "data/man/man1/rrd.1").read_text() == manual.page()


def test_show(rrd, home):
    code, out, _ = rrd("completion", "show", "fish")
    assert (code, out) == (0, completions.scripts()["rrd.fish"].rstrip("\n") + "\n")


def test_an_unknown_shell_is_a_usage_error(rrd, home):
    code, _, err = rrd("completion", "install", "tcsh")
    assert code == 2
    assert "bash|zsh|fish" in err


def test_the_manual_page_is_clean_and_has_every_verb():
    from rrd_cli.commands import VERBS

    page = manual.page()
    for verb in VERBS:
        assert f'"rrd {verb}' in page, verb
    if not shutil.which("groff"):
        missing("groff")
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=page, capture_output=True, text=True,
                          check=True)
    assert done.stderr == ""

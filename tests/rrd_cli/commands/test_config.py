"""`rrd config`: shown with sources, edited safely, taken by a running daemon."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from daemon.wire import control


@pytest.fixture
def config(private):
    path = private / "config_home" / "rrd" / "config.toml"

    def write(text):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def editor(monkeypatch):
    """An editor that replaces the file's text."""
    def use(text, status=0):
        code = f"import sys; open(sys.argv[1], 'w').write({text!r}); sys.exit({status})"
        monkeypatch.setenv("VISUAL", f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}")
    return use


def test_path(rrd, private):
    assert rrd("config", "path") == (0, f"{private}/config_home/rrd/config.toml\n", "")


def test_show_tells_value_and_source(rrd, config):
    config('[spool]\nmax_bytes = "7 GB"\n[[auto]]\nspawn = true\n')
    code, out, _ = rrd("config", "show")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert "7.0 GB" in lines["spool_max_bytes"]
    assert "config.toml:2" in lines["spool_max_bytes"]
    assert "$RRD_GRPC_PORT" in lines["grpc_port"]
    assert "default" in lines["log_level"]
    assert "[[auto]] *: spawn a viewer" in out


def test_show_json_has_pinned_keys(rrd, config):
    config("takeover = true\n[[auto]]\nsave = '/x/{app}.rrd'")
    code, out, _ = rrd("config", "show", "--json")
    found = json.loads(out)
    assert code == 0
    assert list(found) == ["path", "exists", "settings"]
    assert found["exists"] is True
    assert set(found["settings"]["takeover"]) == {"value", "from", "default", "doc"}
    assert found["settings"]["takeover"]["value"] is True
    assert found["settings"]["auto"]["value"] == [{"application": "*", "save": "/x/{app}.rrd"}]


def test_show_says_where_the_daemon_differs(rrd, config, fake):
    config("takeover = true")
    fake.on("settings", {"takeover": False, "log_level": "info"})
    _, out, _ = rrd("config", "show")
    assert "still uses other values of: takeover" in out


def test_a_bad_file_is_two_lines(rrd, config):
    path = config("grpc_prot = 1")
    code, out, err = rrd("config", "show")
    assert (code, out) == (1, "")
    assert err.splitlines()[0] == f"error: {path}:1: unknown key grpc_prot"
    assert "did you mean grpc_port?" in err.splitlines()[1]


def test_edit_makes_the_file_from_a_template_that_is_valid(rrd, private, monkeypatch):
    monkeypatch.setenv("VISUAL", "sed -i s/^#.log_level/log_level/")
    code, out, _ = rrd("config", "edit")
    assert code == 0
    assert "no daemon is running" in out
    text = (private / "config_home/rrd/config.toml").read_text()
    assert 'log_level = "info"' in text.splitlines()
    assert rrd("config", "show")[0] == 0


def test_edit_has_the_daemon_reload(rrd, config, editor, fake):
    path = config("grpc_port = 1\n")
    fake.on("reload", {"changed": ["log_level"], "restart": ["grpc_port"]})
    editor("grpc_port = 2\nlog_level = 'debug'\n")
    code, out, _ = rrd("config", "edit")
    assert code == 0
    assert path.read_text().startswith("grpc_port = 2")
    assert "the daemon took: log_level" in out
    assert "restart" in out
    assert "grpc_port" in out


def test_edit_keeps_the_old_file_when_the_new_one_is_bad(rrd, config, editor):
    path = config("grpc_port = 1\n")
    editor("grpc_port = 'x'\n")
    code, _, err = rrd("config", "edit")
    assert code == 1
    assert path.read_text() == "grpc_port = 1\n"
    rejected = path.with_name("config.toml.rejected")
    assert f"error: {rejected}:1: grpc_port is \"x\"" in err
    assert rejected.read_text() == "grpc_port = 'x'\n"
    assert sorted(one.name for one in path.parent.iterdir()) == ["config.toml", "config.toml.rejected"]


def test_edit_that_fails_changes_nothing(rrd, config, editor):
    path = config("grpc_port = 1\n")
    editor("grpc_port = 2\n", status=3)
    code, _, err = rrd("config", "edit")
    assert code == 1
    assert "status 3" in err
    assert path.read_text() == "grpc_port = 1\n"


@pytest.mark.parametrize("there", [True, False])
def test_edit_keeps_a_link(rrd, private, config, editor, there):
    real = private / "dotfiles" / "rrd.toml"
    path = config("")
    path.unlink()
    path.symlink_to("../../dotfiles/rrd.toml")
    if there:
        real.parent.mkdir()
        real.write_text("grpc_port = 1\n")
    editor("grpc_port = 2\n")
    assert rrd("config", "edit")[0] == 0
    assert path.is_symlink()
    assert real.read_text() == "grpc_port = 2\n"
    assert [one.name for one in path.parent.iterdir()] == ["config.toml"]


def test_edit_mends_a_file_that_is_no_text(rrd, config, editor, monkeypatch):
    path = config("")
    path.write_bytes(b"# \xff\n")
    monkeypatch.setenv("VISUAL", "sh -c 'echo >> $1' -")
    code, _, err = rrd("config", "edit")
    assert (code, path.read_bytes()) == (1, b"# \xff\n")
    assert err.startswith("error: cannot read the settings: 'utf-8' codec can't decode")
    editor("grpc_port = 2\n")
    assert rrd("config", "edit")[0] == 0
    assert path.read_text() == "grpc_port = 2\n"


def test_edit_where_there_can_be_no_file(rrd, private, editor):
    path = private / "config_home" / "rrd"
    path.touch()
    editor("grpc_port = 2\n")
    assert rrd("config", "edit") == (1, "", f"error: cannot edit the settings: File exists: {path}\n")


def test_edit_tells_what_a_daemon_refused(rrd, config, editor, fake):
    def refuse(call):
        raise control.VerbError("refused", "no", "why")
    config("grpc_port = 1\n")
    fake.on("reload", refuse)
    editor("grpc_port = 2\n")
    assert rrd("config", "edit")[0] == 1

"""The settings: what is read, what overrides what, and what an error says."""

from __future__ import annotations

import pytest

from daemon import settings
from daemon.settings import Rule, Settings, SettingsError


@pytest.fixture
def write(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "rrd" / "config.toml"
    path.parent.mkdir()

    def write(text: str):
        path.write_text(text)
        return path

    return write


def test_no_file_is_all_defaults(write):
    loaded = settings.read({})
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {"default"}
    assert set(loaded.sources) == set(settings.described())


def test_flat_and_nested_keys_mean_the_same(write):
    write('grpc_port = 1\n[spool]\nmax_bytes = "2 GB"\nmin_free_bytes = 7\n')
    loaded = settings.read({})
    assert (loaded.settings.grpc_port, loaded.settings.spool_max_bytes, loaded.settings.spool_min_free_bytes) == (
        1, 2 * 10**9, 7)
    assert loaded.sources["spool_max_bytes"] == "config.toml:3"
    assert loaded.sources["log_level"] == "default"


@pytest.mark.parametrize(("text", "size"), [("5", 5), ("1.5 kB", 1500), ("2GiB", 2 << 30), ("1 tb", 10**12)])
def test_sizes_have_units(write, text, size):
    write(f'spool_max_bytes = "{text}"')
    assert settings.load({}).spool_max_bytes == size
    assert settings.load({"RRD_SPOOL_MAX_BYTES": text}).spool_max_bytes == size


def test_the_environment_wins(write):
    write("grpc_port = 1\ntakeover = true")
    loaded = settings.read({"RRD_GRPC_PORT": "-1", "RRD_TAKEOVER": "off"})
    assert (loaded.settings.grpc_port, loaded.settings.takeover) == (-1, False)
    assert loaded.sources["grpc_port"] == "$RRD_GRPC_PORT"


@pytest.mark.parametrize(("text", "line", "message", "hint"), [
    ("grpc_port = 0\ngrpc_prot = 1", 2, "unknown key grpc_prot", "did you mean grpc_port?"),
    ("\n[spool]\nmax = 1", 3, "unknown key spool.max", "spool_max_bytes"),
    ("grpc_port = 70000", 1, "grpc_port is 70000", "65535"),
    ("grpc_port = true", 1, "grpc_port is true", "65535"),
    ("# a\n\nspool_max_bytes = '5 parsecs'", 3, "spool_max_bytes is", "50 GB"),
    ("spool_max_bytes = -5", 1, "spool_max_bytes is -5", "bytes"),
    ("takeover = 1", 1, "takeover is 1", "true or false"),
    ("log_level = 'loud'", 1, 'log_level is "loud"', "debug, info, warning or error"),
    ("log_level = 'info'\n[log]\nlevel = 'info'", 3, "log_level is set twice", "table"),
    ("grpc_port = 1\nx y", 2, "not TOML", "key = value"),
    ("auto = 5", 1, "auto is 5", "[[auto]]"),
    ("[[auto]]\nspawn = true\n[[auto]]\napplication = 'x'", 3, "nothing to do", "save, spawn or connect"),
    ("[[auto]]\nspawn = true\nconnect = 'http://a'", 1, "spawn and connect", "one of"),
    ("[[auto]]\nsave = 'x.rrd'", 2, "save is", "absolute"),
    ("[[auto]]\nsave = '/x/{ap}.rrd'", 2, "{ap}", "{app}"),
    ("[[auto]]\nsave = '/x/{app.rrd'", 2, "save is", "brace"),
    ("[[auto]]\nsave = '/x/{app}'", 2, "save is", ".rrd"),
    ("[[auto]]\nsaev = '/x/{app}'", 2, "unknown key saev", "did you mean save?"),
    ("[[auto]]\nspawn = 'yes'", 2, 'spawn is "yes"', "true or false"),
    ("[[auto]]\nconnect = 'nowhere'", 2, "connect is", "URL"),
])
def test_an_error_names_line_and_remedy(write, text, line, message, hint):
    path = write(text)
    with pytest.raises(SettingsError) as caught:
        settings.load({})
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_bad_environment_names_its_variable(write):
    with pytest.raises(SettingsError, match=r"\$RRD_GRPC_PORT is 'x'"):
        settings.load({"RRD_GRPC_PORT": "x"})


def test_unreadable_is_an_error(write, tmp_path):
    write("").unlink()
    (tmp_path / "rrd" / "config.toml").mkdir()
    with pytest.raises(SettingsError, match="cannot read the settings"):
        settings.load({})


def test_rules(write):
    write("""
[[auto]]
application = "robot*"
save = "~/runs/{app}/{date}-{recording}.rrd"
[[auto]]
spawn = true
[[auto]]
connect = "rerun+http://127.0.0.1:9876/proxy"
""")
    loaded = settings.load({})
    assert loaded.auto == (
        Rule("robot*", save="~/runs/{app}/{date}-{recording}.rrd"),
        Rule(spawn=True),
        Rule(connect="rerun+http://127.0.0.1:9876/proxy"),
    )
    assert [rule.action for rule in loaded.auto] == ["save", "spawn", "connect"]
    assert loaded.auto[0].describe() == "robot*: save to ~/runs/{app}/{date}-{recording}.rrd"


def test_every_key_is_described():
    for key, about in settings.described().items():
        assert about["doc"], key

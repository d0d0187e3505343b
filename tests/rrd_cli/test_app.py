"""The command as a whole: exit codes, errors, help, start-up."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import daemon
from daemon.wire.control import VerbError
from rrd_cli import app, tree
from rrd_cli.commands import VERBS

PYTHON = [sys.executable, "-m", "rrd_cli"]


def raiser(error):
    def handler(call):
        raise error

    return handler


@pytest.mark.parametrize(("code", "status"), [("usage", 2), ("failed", 1), ("not-found", 1), ("refused", 1)])
def test_what_the_daemon_refuses(fake, rrd, code, status):
    fake.on("ls", raiser(VerbError(code, "the reason", "the way out")))
    assert rrd("ls") == (status, "", "error: the reason\nhint: the way out\n")


def test_no_hint_no_line(fake, rrd):
    fake.on("ls", raiser(VerbError("failed", "the reason")))
    assert rrd("ls") == (1, "", "error: the reason\n")


def test_an_error_cannot_command_the_terminal(fake, rrd):
    fake.on("ls", raiser(VerbError("failed", "bad \x1b]0;title\x07 name")))
    assert rrd("ls") == (1, "", "error: bad \\x1b]0;title\\x07 name\n")


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["sav"], "error: no such verb: sav\nhint: did you mean save?   rrd --help lists the verbs\n"),
        (["save"], "error: missing argument 'OUT'\nhint: rrd save --help\n"),
        (["ls", "--jsn"], "error: no such option: --jsn"),
        (["detach"], "error: name the outputs to detach, or say --all\n"),
        (["daemon", "fly"], "error: no such verb: fly\nhint: rrd daemon --help lists the verbs\n"),
        (["daemon", "logs", "-n", "x"], "error: invalid value"),
    ],
)
def test_usage(private, rrd, args, error):
    code, out, err = rrd(*args)
    assert (code, out) == (2, "")
    assert err.startswith(error)
    assert err.count("\n") == 2


@pytest.mark.parametrize("group", ["daemon", "config", "completion"])
def test_a_group_alone_shows_its_verbs(private, rrd, group):
    code, out, err = rrd(group)
    assert (code, err) == (0, "")
    assert out == rrd(group, "--help")[1]
    assert "\nVerbs:\n" in out


def test_help_has_no_types_of_python_and_no_half_sentences(private, rrd):
    from rrd_cli.commands import VERBS

    for words in ((), *((verb,) for verb in VERBS)):
        text = rrd(*words, "--help")[1]
        assert not re.search(r" <\w", text.partition("Examples:")[0])
        assert "...\n" not in text.partition("\n")[2].partition("Examples:")[0]


def test_what_a_viewer_said_as_it_died_has_its_lines(fake, rrd):
    fake.on("ls", raiser(VerbError("failed", "it ended:\n    one\nhint: two")))
    assert rrd("ls") == (1, "", "error: it ended:\n    one\n    hint: two\n")


def test_no_daemon(private, rrd, monkeypatch):
    from rrd_cli import start

    monkeypatch.setattr(start, "keeper_command", lambda: [sys.executable, "-c", "raise SystemExit('no room')"])
    code, out, err = rrd("ls")
    assert (code, out) == (3, "")
    assert err.startswith("error: the daemon ended as it started (exit status 1): no room\nhint: rrd daemon logs")


@pytest.mark.parametrize(("words", "variable"), [
    (["ls"], "XDG_STATE_HOME"), (["daemon", "logs"], "XDG_STATE_HOME"), (["config", "path"], "XDG_CONFIG_HOME"),
    (["completion", "install", "bash"], "XDG_DATA_HOME"), (["completion", "install", "fish"], "XDG_CONFIG_HOME"),
])
def test_no_home(private, rrd, monkeypatch, words, variable):
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", str)
    assert rrd(*words) == (1, "", (
        f"error: HOME is not set and this user has no home directory\nhint: set HOME, or {variable}\n"))


def test_interrupted(fake, rrd):
    fake.on("ls", lambda call: os.kill(os.getpid(), 2) or {})
    assert rrd("ls")[0] == 130


def test_version(rrd):
    assert rrd("--version") == (0, f"rrd {daemon.__version__}\n", "")


def test_help_lists_every_verb(rrd):
    code, out, _ = rrd("--help")
    assert code == 0
    for verb in VERBS:
        assert f"\n  {verb} " in out
    assert rrd() == (0, out, "")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(rrd, verb):
    code, out, _ = rrd(verb, "--help")
    assert code == 0
    commands = [verb]
    if "\nVerbs:\n" in out:
        commands = [f"{verb} {sub}" for sub in tree.load(verb).commands]
    for command in commands:
        code, out, _ = rrd(*command.split(), "--help")
        assert code == 0
        assert "Examples:\n" in out
        assert f"rrd {command}" in out.split("Examples:")[1]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_stands_in_the_readme(verb):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert f"rrd {verb}" in readme


def test_what_the_empty_page_recommends_is_no_usage_error(fake):
    page = (Path(__file__).parents[2] / "daemon/web/static/index.html").read_text()
    [words] = re.findall(r"<code>[^<]*\| rrd ([^<]*)</code>", page)
    done = subprocess.run([sys.executable, "-m", "rrd_cli", *words.split()], input=b"", check=False, timeout=60)
    assert done.returncode == 1  # this daemon knows no verb


def test_a_closed_pipe_is_quiet(fake):
    fake.on("ls", {"recordings": [{"recording_id": "x" * 100, "state": "live"}] * 5000})
    process = subprocess.Popen([*PYTHON, "ls", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(20) == 0


def test_a_full_disk_is_an_error(fake):
    """With much to print, where it fails at once, and with little, where it fails as it is written out."""
    for count in (1, 5000):
        fake.on("ls", {"recordings": [{"recording_id": "x" * 100, "state": "live"}] * count})
        with open("/dev/full", "w") as full:
            done = subprocess.run([*PYTHON, "ls", "--json"], stdout=full, stderr=subprocess.PIPE, check=False)
        assert done.stderr == b"error: No space left on device: standard output\n"
        assert done.returncode == 1


def test_what_the_system_refuses_is_an_error(fake, rrd):
    fake.on("ls", {})

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied", "/x/y")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rrd_cli.commands.ls.lines", refuse)
        assert rrd("ls") == (1, "", "error: Permission denied: /x/y\n")


def closed(words, descriptors):
    """Say something with these of the standard streams closed."""
    shell = " ".join([f"exec {' '.join(f'{fd}>&-' for fd in descriptors)};", 'exec "$@"'])
    return subprocess.run(["sh", "-c", shell, "sh", *PYTHON, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("descriptors", [[0], [1], [2], [0, 1, 2]])
def test_closed_standard_streams(fake, descriptors):
    fake.on("ls", {"recordings": [{"recording_id": "one", "state": "live"}]})
    done = closed(["ls"], descriptors)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("one" in done.stdout) == (1 not in descriptors)


def test_a_closed_standard_input_is_not_an_empty_one(fake, tmp_path):
    done = closed(["save", str(tmp_path / "x.rrd"), "-"], [0])
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "error: standard input is closed")
    assert not fake.said("open")


def test_a_program_finds_closed_what_was_closed(fake):
    def run(call):
        call.progress(ready=True, port=9876, error="")
        return {"recordings": [{"recording_id": "one"}]}
    fake.on("run", run)
    fake.on("run_end", {})
    shell = "for fd in 0 1 2; do [ -e /proc/$$/fd/$fd ] && code=1$code; done; exit ${code:-7}"
    assert closed(["run", "--", "sh", "-c", shell], [0, 1, 2]).returncode == 7
    assert closed(["run", "--", "sh", "-c", shell], [0, 1]).returncode == 1
    assert closed(["run", "--", "sh", "-c", shell], [1]).returncode == 11


class TestInstallation:
    """Another distribution installs a package `daemon`, too."""

    def run(self, directory):
        env = {**os.environ, "PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}
        code = "import sys; from rrd_cli.app import main; sys.exit(main(['--version']))"
        command = [sys.executable, "-S", "-P", "-c", code]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    @pytest.fixture
    def site(self, tmp_path):
        """A directory as pip would fill it, without the package `daemon`."""
        shutil.copytree(Path(app.__file__).parent, tmp_path / "rrd_cli", ignore=shutil.ignore_patterns("__pycache__"))
        return tmp_path

    def test_python_daemon_is_named(self, site):
        (site / "daemon").mkdir()
        (site / "daemon" / "__init__.py").write_text("raise ImportError('must not be imported')")
        found = self.run(site)
        assert found.returncode == 1
        assert found.stderr.startswith("error: the package `daemon` here is not rrd's but another one's")
        assert "pipx install rrd-cli" in found.stderr

    def test_both_installed_into_one_directory(self, site):
        shutil.copytree(Path(daemon.__file__).parent, site / "daemon", ignore=shutil.ignore_patterns("__pycache__"))
        (site / "daemon" / "__init__.py").write_text("from daemon.daemon import DaemonContext")
        assert "python-daemon?" in self.run(site).stderr

    def test_what_python_daemon_leaves_behind(self, site):
        (site / "daemon" / "wire").mkdir(parents=True)
        found = self.run(site)
        assert found.returncode == 1
        assert "damaged" in found.stderr

    def test_a_script_of_that_name(self, site):
        (site / "daemon.py").write_text("raise ImportError('must not be imported')")
        assert "a file in the way" in self.run(site).stderr

    def test_ours_is_ours(self):
        app._check_installation()

"""What README.md says works as pasted: its blocks in a real shell and interpreter; commands in its text are parsed.

A block is one of these, by the words after its fence:
    sh, console         run, in the order of the page; in console the lines that begin with `$ `
    python, toml        run, read
    ... not-run         needs another machine, systemd or an installation: syntax, verbs and options are checked
    text, cpp, rust     pictures; the languages' own tests
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from daemon import settings
from rrd_cli import tree
from tests.conftest import ROOT
from tests.helpers.network import private_network
from tests.helpers.programs import Program

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(.*)\n((?s:.*?))^```$", README, re.MULTILINE)
TEXT = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
INLINE = [text for text in re.findall(r"`([^`\n]+)`", TEXT) if re.search(r"(^|\s)(?<!rerun )rrd [a-z]", text)]
KNOWN = {"sh", "console", "python", "toml", "sh not-run", "console not-run", "python not-run", "text", "cpp", "rust"}
PROGRAM = """
import sys, time
import rerun as rr
rr.init(sys.argv[0].rpartition("/")[2])
rr.stdout() if "--stdout" in sys.argv else rr.connect_grpc()
for row in range(20):
    rr.log("row", rr.TextLog(f"row {row}"))
"""


def blocks(fence: str) -> list[str]:
    return [body for said, body in BLOCKS if said == fence]


def commands(fence: str) -> list[str]:
    """The lines that are typed."""
    if fence.startswith("console"):
        return ["\n".join(line[2:] for line in body.splitlines() if line.startswith("$ ")) for body in blocks(fence)]
    return blocks(fence)


@pytest.fixture
def shell_env(home):
    """`rrd` and `python` on PATH; a `rerun` without a window."""
    return home.env | {"PATH": f"{Path(sys.executable).parent}:{home.env['PATH']}"}


def run(block, home, env, prefix=()):
    done = subprocess.run([*prefix, "bash", "-euo", "pipefail", "-c", block], cwd=home.path, env=env, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=170)
    assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"


def test_every_block_is_one_that_is_looked_at():
    assert {fence for fence, _ in BLOCKS} == KNOWN
    assert README.count("```") == 2 * len(BLOCKS)


def test_python_and_every_verb(daemon, shell_env, verify):
    [python] = blocks("python")
    subprocess.run([sys.executable, "-c", python], cwd=daemon.path, env=shell_env, check=True, timeout=60)
    (daemon.path / "run.rrd").rename(daemon.path / "from-python.rrd")
    for block in blocks("sh"):
        run(block, daemon, shell_env)
    made = ("from-python", "run", "again", "all", "merged", "event", "so-far", "piped", "cut.recovered")
    verify(*[daemon.path / f"{name}.rrd" for name in made])


@pytest.fixture
def machine(home, shell_env, rerun):
    """A network with nobody in it, a daemon, programs to run, and a viewer that needs no screen."""
    headless = home.path / "headless-rerun"
    headless.write_text(f'#!/bin/sh\nexec {rerun} --headless "$@"\n')
    for name in ("prog.py", "camera.py", "lidar.py", "robot"):
        (home.path / name).write_text(f"#!{sys.executable}\n{PROGRAM}")
    (home.path / "pytest").write_text(f"#!/bin/sh\nexec {sys.executable} prog.py\n")
    for name in ("headless-rerun", "robot", "pytest"):
        (home.path / name).chmod(0o755)
    env = shell_env | {"RERUN_CLI_PATH": str(headless), "PATH": f"{home.path}:{shell_env['PATH']}"}
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        env.pop(name, None)
    with private_network() as prefix:
        run("rrd daemon start", home, env, prefix)
        yield prefix, env
        for viewer in home.call("viewers", unasked=True)["viewers"]:
            if str(home.path) in environment_of(viewer["pid"]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(viewer["pid"], signal.SIGKILL)
        home.stop()


def environment_of(pid):
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


@pytest.mark.parametrize("number", range(len(commands("console"))))
def test_console(home, machine, number):
    prefix, env = machine
    block = commands("console")[number]
    with Program(home, "robot", rows=100000, pause=0.05) as program:
        program.wait_row(20)
        if "serve run.rrd" in block:
            run("rrd save run.rrd --copy && rrd ls", home, env, prefix)
        # The ids of outputs are examples: those that there are stand for them.
        for kind in ("viewer", "web"):
            if f"detach {kind}-" in block:
                head, _, tail = block.partition(f"rrd detach {kind}-")
                run(head, home, env, prefix)
                (name, *_) = [one["id"] for one in home.status()["sinks"] if one["kind"] == kind]
                block = f"rrd detach {name}\n{tail.partition(chr(10))[2]}"
        run(block, home, env, prefix)


@pytest.mark.parametrize("command", [
    *(line for fence in ("sh not-run", "console not-run") for block in commands(fence) for line in block.splitlines()),
    *INLINE])
def test_what_cannot_be_run_is_what_rrd_understands(command):
    command = command.replace("CMD", "true")
    subprocess.run(["bash", "-n", "-c", command], check=True)
    for part in re.split(r"\s(?:\||&&|;|>)\s", command):
        words = shlex.split(part, comments=True)
        if "rrd" in words:
            parse(words[words.index("rrd") + 1:])


def parse(words):
    """Raises what the command line would complain of."""
    command, context = tree.build(), None
    name = "rrd"
    while True:
        # A verb's name alone is talked of, not typed.
        context = command.make_context(name, list(words), parent=context, resilient_parsing=not words)
        if not hasattr(command, "get_command"):
            return
        rest = [*context._protected_args, *context.args]
        assert rest, f"{name} wants a verb"
        name, *words = rest
        command = command.get_command(context, name)
        assert command is not None, f"no such verb: {name}"


@pytest.mark.parametrize("wrong", [["sav", "x"], ["daemon", "begin"], ["save", "--nosuch", "x"]])
def test_what_rrd_does_not_understand_would_be_found(wrong):
    with pytest.raises((AssertionError, typer.BadParameter.__mro__[1])):
        parse(wrong)


def test_settings_and_programs():
    for body in blocks("toml"):
        tomllib.loads(body)
    [rules] = [body for body in blocks("toml") if "[[auto]]" in body]
    values, _ = settings.parse(rules, Path("config.toml"))
    assert [rule.action for rule in values["auto"]] == ["save", "spawn", "connect"]
    for body in blocks("python not-run"):
        compile(body, "README.md", "exec")


def test_pictures_are_there():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file()

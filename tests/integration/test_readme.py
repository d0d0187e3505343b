"""What README.md says works as pasted: its `sh` blocks in a real shell, its Python in a real interpreter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def shell_env(daemon):
    """`rrd` and `python` on PATH, in a home with a daemon."""
    return daemon.env | {"PATH": f"{Path(sys.executable).parent}:{daemon.env['PATH']}"}


def test_python_and_every_verb(daemon, shell_env, verify):
    [python] = blocks("python")
    subprocess.run([sys.executable, "-c", python], cwd=daemon.path, env=shell_env, check=True, timeout=60)
    (daemon.path / "run.rrd").rename(daemon.path / "from-python.rrd")
    for block in blocks("sh"):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=daemon.path, env=shell_env, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
    made = ("from-python", "run", "again", "all", "merged", "so-far", "piped", "cut.recovered")
    verify(*[daemon.path / f"{name}.rrd" for name in made])

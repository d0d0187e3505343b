"""`pip install -U` and `rrd daemon restart`, with two real builds, while a program logs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.helpers.programs import Program, rows

PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")


def built(version: str, where: Path) -> Path:
    """A wheel of this tree that says it is another version."""
    tree = where / f"tree-{version}"
    names = subprocess.run(["git", "ls-files", "-z", "daemon", "rrd_cli", "sdk/python", "completions", "*.toml", "*.md",
                            "LICENSE-*"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    init = tree / "daemon" / "__init__.py"
    init.write_text(init.read_text().replace('__version__ = "', f'__version__ = "{version}+'))
    subprocess.run([sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", str(where), str(tree)], check=True)
    return next(where.glob(f"*-{version}*.whl"))


@pytest.mark.slow
def test_an_upgrade_loses_nothing(home, tmp_path, verify):
    old, new = built("7.1", tmp_path), built("7.2", tmp_path)
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    # What rrd needs is there already; this very tree, which is installed beside it, is not found through a .pth.
    packages = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                              capture_output=True, text=True, check=True).stdout.strip()
    Path(packages, "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    home.env.pop("PYTHONPATH", None)

    def install(wheel: Path) -> None:
        subprocess.run([python, *PIP, "install", "--no-deps", "--no-index", "-U", str(wheel)], check=True)

    def rrd(*words: object) -> str:
        done = subprocess.run([environment / "bin" / "rrd", *map(str, words)], env=home.env, cwd=home.path, text=True,
                              capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    install(old)
    assert (environment / "share" / "bash-completion" / "completions" / "rrd").exists()
    assert "started: rrd 7.1+" in rrd("daemon", "start")
    with Program(home, "robot", rows=600, pause=0.01) as program:
        rrd("save", "live.rrd")
        program.wait_row(60)
        before = home.daemon_pid()
        install(new)
        program.wait_row(120)
        assert "restarted: rrd 7.2+" in rrd("daemon", "restart")
        assert home.daemon_pid() != before
        program.finish()
    rrd("save", "after.rrd", "--wait")
    for name in ("live.rrd", "after.rrd"):
        verify(home.path / name)
        assert rows(home.path / name) == list(range(600))

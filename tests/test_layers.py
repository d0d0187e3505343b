"""Imports go one way, and cheap things stay cheap.

    rrd_cli -> daemon.wire, daemon.paths (and, for work on files, daemon.spool)
    daemon.app, control, ingest, sinks, viewers, web -> hub -> spool -> wire        wire: no trio, no sockets, no files
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = {
    "daemon.wire": {"daemon.wire"},
    "daemon.spool": {"daemon.spool", "daemon.wire", "daemon.paths"},
    "daemon.paths": set(),
    "rrd_cli": {"rrd_cli", "daemon.wire", "daemon.paths", "daemon.spool", "daemon.settings", "daemon.systemd"},
    "daemon.settings": {"daemon.settings", "daemon.paths", "daemon.spool.retention"},
    "daemon.systemd": {"daemon.systemd", "daemon.paths"},
    "rrd": {"rrd", "daemon.paths", "daemon.wire"},
}
"""What the modules of a package may import of ours, at run time."""
FORBIDDEN = {
    "daemon.wire": {"trio", "socket", "asyncio", "subprocess", "select"},
    "daemon.spool": {"trio", "socket", "asyncio"},
    "daemon.keeper": {"trio", "cbor2", "numpy", "pyarrow", "rich", "typer"},
    "rrd_cli": {"trio", "click", "asyncio"},
    "rrd": {"trio", "click", "typer", "rich"},
}
"""What they may not import of others'."""
UPWARD = {"rrd_cli", "rrd"}
"""Packages that the daemon must not know."""


def modules():
    for package, base in (("daemon", ROOT), ("rrd_cli", ROOT), ("rrd", ROOT / "sdk/python")):
        for path in sorted((base / package).rglob("*.py")):
            parts = list(path.relative_to(base).with_suffix("").parts)
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imports(path: Path) -> set[str]:
    """Full names of all that a file imports when it runs: not under `if TYPE_CHECKING`."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                walk(child)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:  # packages are flat where this is used: a dot is the file's own package
                assert node.level == 1, f"{path}: an import from above"
                source = f"{path.parent.name}.{source}".rstrip(".")
            names = {f"{source}.{alias.name}" for alias in node.names}
            found.update({source}, names & MODULES.keys())
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(path.read_text()))
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_there_is_something_to_look_at():
    assert {"daemon.wire.rrd", "rrd_cli.app", "daemon.paths"} <= MODULES.keys()


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name):
    found = imports(MODULES[name])
    ours = {other for other in found if other in MODULES}
    for package, allowed in LAYERS.items():
        if within(name, package):
            allowed_here = {other for other in ours if any(within(other, one) for one in allowed)}
            bad = ours - allowed_here - {"daemon"}  # `daemon` itself holds the version and nothing else
            assert not bad, f"{name} imports {sorted(bad)}"
    for package, forbidden in FORBIDDEN.items():
        if within(name, package):
            bad = {other for other in found if other.split(".")[0] in forbidden}
            assert not bad, f"{name} imports {sorted(bad)}"
    if within(name, "daemon"):
        bad = {other for other in found if other.split(".")[0] in UPWARD}
        assert not bad, f"{name} imports {sorted(bad)}"


def loaded(code: str) -> set[str]:
    """Top-level names in sys.modules after running code in a new interpreter."""
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; sys.stderr.write(' '.join(sys.modules))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name.split(".")[0] for name in result.stderr.splitlines()[-1].split()}


def test_help_is_cheap():
    names = loaded("from rrd_cli.app import main; main(['--help'])")
    assert "typer" in names
    assert not names & {"trio", "rich", "psutil", "numpy", "pyarrow", "rerun", "click"}


@pytest.mark.parametrize("args", [["daemon", "status"], ["save", "x.rrd", "nosuch.rrd"], ["tail", "nosuch.rrd"]])
def test_a_verb_is_cheap(args, tmp_path, monkeypatch):
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))  # no daemon here
    names = loaded(f"from rrd_cli.app import main; main({args})")
    assert "typer" in names
    assert not names & {"trio", "rich", "psutil", "numpy", "pyarrow", "rerun", "pydantic", "lz4"}


def test_a_verb_imports_only_itself():
    names = subprocess.run(
        [sys.executable, "-c", "import sys; from rrd_cli import tree; tree.load('ls'); print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert {name for name in names if name.startswith("rrd_cli.commands.")} == {"rrd_cli.commands.ls"}
    assert not {"rich", "psutil", "trio"} & set(names)

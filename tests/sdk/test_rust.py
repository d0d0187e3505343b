"""The crate by itself: its own tests, the examples in its documentation, its lint; and that it needs no Rerun."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT, missing
from tests.sdk import drivers

pytestmark = pytest.mark.timeout(3600)  # the first one builds Rerun


def need(*tool: str) -> None:
    """rustup has a program of that name even where the tool itself is not installed: ask it."""
    if shutil.which(tool[0]) is None or subprocess.run(
            [*tool, "--version"], capture_output=True, check=False).returncode != 0:
        missing(" ".join(tool))


def test_own_tests_and_documentation() -> None:
    """The examples compile, those of README.md among them."""
    drivers.rust_driver()  # what is built together is built once
    _, _, rerun = drivers.cargo()
    workspace, target = drivers.rust_workspace()
    version = "rerun-" + "-".join(rerun.split(".")[:2])
    said = drivers.run_cargo("test", "--ignore-rust-version", "-p", "rrd", "-p", "rrd-tests",
                             "--features", f"rrd/{version},rrd/clap", target=target, cwd=workspace)
    results = [int(number) for number in re.findall(r"test result: ok\. (\d+) passed", said)]
    assert sum(results) >= 11, said


def test_readme() -> None:
    """What the project's README shows of Rust stands in the crate's own, which is compiled."""
    (block,) = re.findall(r"^```rust\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    compiled = {line.strip() for line in (ROOT / "sdk/rust/README.md").read_text().splitlines()}
    assert {line.strip() for line in block.splitlines()} <= compiled


def test_without_rerun() -> None:
    """With none of their features on, no version of Rerun is needed to build it."""
    workspace, target = drivers.rust_workspace()
    said = drivers.run_cargo("tree", "-p", "rrd", "-e", "normal", "--prefix", "none", target=target, cwd=workspace)
    assert "ciborium" in said
    assert "re_sdk" not in said
    need(*drivers.cargo()[0], "clippy")  # the linter compiles it, too
    drivers.run_cargo("clippy", "--ignore-rust-version", "-p", "rrd", "--lib", "--features", "clap", "--",
                      "-D", "warnings", target=target / "alone", cwd=workspace)


def test_format() -> None:
    """As .rustfmt.toml says."""
    need("rustfmt")
    sources = [ROOT / "sdk/rust/src/lib.rs", ROOT / "tests/sdk/rust/src/main.rs", ROOT / "tests/sdk/rust/control.rs"]
    done = subprocess.run(["rustfmt", "--edition", "2021", "--check", *sources], capture_output=True, text=True,
                          check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_version() -> None:
    """The three shims and the daemon are released together."""
    from daemon import __version__

    cargo = (ROOT / "sdk/rust/Cargo.toml").read_text()
    cmake = (ROOT / "sdk/cpp/CMakeLists.txt").read_text()
    header = (ROOT / "sdk/cpp/include/rrd.hpp").read_text()
    assert f'version = "{__version__}"' in cargo
    assert f"VERSION {__version__} " in cmake
    assert f'VERSION = "{__version__}"' in header

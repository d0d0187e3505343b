"""The crate by itself: its own tests (vectors), the examples in its documentation; and that it needs no Rerun."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT
from tests.sdk import drivers

pytestmark = pytest.mark.timeout(3600)  # the first one builds Rerun


def test_own_tests_and_documentation() -> None:
    """The examples compile, those of README.md among them."""
    drivers.rust_driver()  # what is built together is built once
    _, _, rerun = drivers.cargo()
    workspace, target = drivers.rust_workspace()
    version = "rerun-" + "-".join(rerun.split(".")[:2])
    said = drivers.run_cargo("test", "--ignore-rust-version", "-p", "rrd", "-p", "rrd-tests",
                             "--features", f"rrd/{version},rrd/clap", target=target, cwd=workspace)
    results = [int(number) for number in re.findall(r"test result: ok\. (\d+) passed", said)]
    assert sum(results) >= 8, said


def test_without_rerun() -> None:
    """No feature is on: no version of Rerun is needed to build it."""
    workspace, target = drivers.rust_workspace()
    said = drivers.run_cargo("tree", "-p", "rrd", "-e", "normal", "--prefix", "none", target=target, cwd=workspace)
    assert "ciborium" in said
    assert "re_sdk" not in said
    drivers.run_cargo("check", "--ignore-rust-version", "-p", "rrd", "--lib", target=target / "alone", cwd=workspace)


def test_one_version() -> None:
    """The three shims and the daemon are released together."""
    from daemon import __version__

    cargo = (ROOT / "sdk/rust/Cargo.toml").read_text()
    cmake = (ROOT / "sdk/cpp/CMakeLists.txt").read_text()
    header = (ROOT / "sdk/cpp/include/rrd.hpp").read_text()
    assert f'version = "{__version__}"' in cargo
    assert f"VERSION {__version__} " in cmake
    assert f'VERSION = "{__version__}"' in header

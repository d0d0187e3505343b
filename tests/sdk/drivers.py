"""The same small program in every language: builds tests/sdk/{rust,cpp}, finds what that needs, says what is missing.

Building Rerun takes minutes, so its objects are kept under ~/.cache/rrd-cli-tests, a directory for each version of
Rerun and of the compiler. Rerun's C library for the C++ program is a crate, too (rerun_c).

Rules: nothing is fetched or written into the source tree; several test runs at once wait for one another; without a
toolchain a test is skipped, except where CI=true.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.conftest import ROOT, _cache, missing

RERUN = "0.41.0"
"""The crate that Cargo.lock has."""
RUSTC = (1, 96)
"""What it needs to compile: it asks for 1.98, but uses nothing that 1.96 has not."""
OLD_RERUN = "0.36.3"
"""The crate for older compilers, from 1.95 on; and by hand: RRD_TEST_RERUN=0.36.3."""
BUILD_S = 3600.0


def rust_driver() -> list[str]:
    """The command that runs the Rust program."""
    return [str(_rust() / "driver")]


def cpp_driver() -> list[str]:
    """The command that runs the C++ program.

    RRD_TEST_CPP_DRIVER names one that was built by hand: with Rerun's C++ SDK proper, or with a sanitizer.
    """
    if given := os.environ.get("RRD_TEST_CPP_DRIVER"):
        return [given]
    compiler = os.environ.get("CXX") or "g++"
    found = shutil.which(compiler)
    if found is None:
        missing(f"a C++ compiler ({compiler})")
        raise AssertionError
    library = _rust() / "librerun_c.a"
    version = subprocess.run([found, "--version"], check=True, capture_output=True, text=True).stdout
    sources = [*sorted((ROOT / "sdk/cpp/include").glob("*.hpp")), *sorted((ROOT / "tests/sdk/cpp").rglob("*.[ch]*"))]
    built = f"{library} {library.stat().st_mtime_ns}"
    stamp = "".join([version, built, *(source.read_text() for source in sources)])
    target = _cache() / "cpp"
    target.mkdir(exist_ok=True)
    program = target / f"driver-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
    with _alone("cpp"):
        if not program.exists():
            for old in target.glob("driver-*"):
                old.unlink()
            making = program.with_name("making")
            compile_cpp(found, [*flags(), str(ROOT / "tests/sdk/cpp/driver.cpp"), str(library), "-o", str(making),
                                "-Wl,--strip-debug", "-lpthread", "-ldl", "-lm"])
            making.rename(program)
    return [str(program)]


def flags() -> list[str]:
    """How all C++ here is compiled: the header must be clean for the strictest user."""
    return ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror",
            "-I", str(ROOT / "sdk/cpp/include"), "-I", str(ROOT / "tests/sdk/cpp")]


def compile_cpp(compiler: str, arguments: Sequence[str]) -> None:
    """Run the compiler; what it says is the failure's text."""
    if not Path("/usr/include/nlohmann/json.hpp").exists() and "CPLUS_INCLUDE_PATH" not in os.environ:
        missing("nlohmann/json (Debian: nlohmann-json3-dev)")
    done = subprocess.run(["nice", compiler, *arguments], capture_output=True, text=True, check=False, timeout=BUILD_S)
    assert done.returncode == 0, done.stderr


@cache
def cargo() -> tuple[list[str], str, str]:
    """A cargo that builds Rerun: how to run it, its compiler's version, and the version of Rerun that it can build."""
    wanted = os.environ.get("RRD_TEST_RERUN")
    found = [(rustc, command) for command in _cargos() if (rustc := _rustc_of(command))]
    for rustc, command in found:
        if _number(rustc) >= RUSTC and wanted in (None, RERUN):
            return command, rustc, RERUN
    for rustc, command in found:
        if _number(rustc) >= (1, 95) and wanted in (None, OLD_RERUN):
            return command, rustc, OLD_RERUN
    missing("cargo, with rustc 1.95 or newer")
    raise AssertionError


def tested_with() -> str:
    """The versions behind the Rust and the C++ program, and why these."""
    _, rustc, rerun = cargo()
    why = "" if rerun == RERUN else f"; {RERUN} needs rustc {RUSTC[0]}.{RUSTC[1]} or newer"
    return f"rerun {rerun} and its C library, compiled by {rustc}{why}"


def run_cargo(*arguments: str, target: Path, cwd: Path) -> str:
    """Run cargo; what it says is the failure's text. Returns its standard output."""
    command, _, _ = cargo()
    env = {**os.environ, "CARGO_TARGET_DIR": str(target), "CARGO_TERM_COLOR": "never", "CARGO_TERM_QUIET": "true"}
    done = subprocess.run(["nice", *command, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False,
                          timeout=BUILD_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rust_workspace() -> tuple[Path, Path]:
    """The workspace to build in, and where its objects go."""
    _, rustc, rerun = cargo()
    target = _cache() / f"rust-{rerun}-{hashlib.sha256(rustc.encode()).hexdigest()[:8]}"
    if rerun == RERUN:
        return ROOT / "sdk/rust", target
    return _for_old_rerun(target / "source"), target


@cache
def _rust() -> Path:
    """Where the built programs and the library are."""
    workspace, target = rust_workspace()
    with _alone(target.name):
        packages = [argument for name in ("rrd", "rrd-tests", "rerun_c") for argument in ("-p", name)]
        locked = ["--locked"] if workspace.is_relative_to(ROOT) else []
        _forget_other_checkouts(workspace, target)
        run_cargo("build", "--ignore-rust-version", *locked, *packages, target=target, cwd=workspace)
    return target / "debug"


def _forget_other_checkouts(workspace: Path, target: Path) -> None:
    """Build anew what is ours if another checkout's lies there: cargo tells them apart by nothing but file times."""
    stamp = target / "checkout"
    if not stamp.exists() or stamp.read_text() != str(ROOT):
        target.mkdir(parents=True, exist_ok=True)
        run_cargo("clean", "-p", "rrd", "-p", "rrd-tests", target=target, cwd=workspace)
        stamp.write_text(str(ROOT))


def _for_old_rerun(copy: Path) -> Path:
    """The same sources, with the older crate: written beside its objects, and with a lock file of their own."""
    mine = shutil.ignore_patterns("Cargo.lock", "target")
    for part in ("sdk/rust", "tests/sdk/rust"):
        shutil.copytree(ROOT / part, copy / part, dirs_exist_ok=True, ignore=mine)
    minor = OLD_RERUN.rsplit(".", 1)[0]
    for manifest, old, new in (
        ("sdk/rust", 'rerun = { version = "0.41"', f'rerun = {{ version = "{minor}"'),
        ("tests/sdk/rust", f"={RERUN}", f"={OLD_RERUN}"),
        ("tests/sdk/rust", "rerun-0-41", f"rerun-{minor.replace('.', '-')}"),
    ):
        path = copy / manifest / "Cargo.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    return copy / "sdk/rust"


def _cargos() -> Iterator[list[str]]:
    if shutil.which("cargo") is None:
        return
    yield ["cargo"]
    if shutil.which("rustup"):
        listed = subprocess.run(["rustup", "toolchain", "list"], capture_output=True, text=True, check=False).stdout
        for line in listed.splitlines():
            yield ["cargo", f"+{line.split()[0]}"]


def _rustc_of(command: Sequence[str]) -> str:
    done = subprocess.run([*("rustc" if word == "cargo" else word for word in command), "--version"],
                          capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _number(rustc: str) -> tuple[int, int]:
    found = re.search(r"(\d+)\.(\d+)", rustc)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@contextmanager
def _alone(name: str) -> Iterator[None]:
    with open(_cache() / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


__all__ = ["cargo", "compile_cpp", "cpp_driver", "flags", "run_cargo", "rust_driver", "rust_workspace",
           "tested_with"]

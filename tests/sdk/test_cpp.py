"""rrd.hpp by itself: the vectors, the flags, clean under strict warnings, what is documented, and the CMake package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, missing
from tests.sdk import drivers

pytestmark = pytest.mark.timeout(900)
VECTORS = ROOT / "tests/data/control"


@pytest.fixture
def compiler() -> str:
    found = shutil.which(os.environ.get("CXX") or "g++")
    if found is None:
        missing("a C++ compiler")
        raise AssertionError
    return found


def run(program: Path) -> None:
    done = subprocess.run([program, VECTORS], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 100


def test_vectors_and_flags(compiler: str, tmp_path: Path) -> None:
    """With the sanitizers watching."""
    program = tmp_path / "control"
    source = ROOT / "tests/sdk/cpp/control.cpp"
    drivers.compile_cpp(compiler, [*drivers.flags(), "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
                                   str(source), "-o", str(program), "-lpthread"])
    run(program)


def test_header_twice_without_exceptions_in_cpp20(compiler: str, tmp_path: Path) -> None:
    """Two files of one program include it; nothing throws, so exceptions may be off."""
    files = []
    for name, text in (("one.cpp", "int two(); int main() { return two() + rrd::Args().save.size(); }"),
                       ("two.cpp", 'int two() { return rrd::detach("x").is_err() ? 0 : 1; }')):
        path = tmp_path / name
        path.write_text(f"#include <rrd.hpp>\n{text}\n")
        files.append(str(path))
    flags = ["-std=c++20", "-fno-exceptions", "-O0", "-Wall", "-Werror", "-I", str(ROOT / "sdk/cpp/include")]
    drivers.compile_cpp(compiler, [*flags, *files, "-o", str(tmp_path / "two"), "-lpthread"])


@pytest.mark.parametrize("page", ["README.md", "sdk/cpp/README.md", "sdk/cpp/example/main.cpp"])
def test_what_is_documented_compiles(compiler: str, tmp_path: Path, page: str) -> None:
    """As strictly as the rest; a block without a main stands in one."""
    text = (ROOT / page).read_text()
    blocks = [text] if page.endswith(".cpp") else re.findall(r"^```cpp\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        source = tmp_path / "block.cpp"
        source.write_text(block if "int main(" in block else (
            f"#include <rerun.hpp>\n#include <rrd.hpp>\nint main(int argc, char** argv) {{\n{block}}}\n"))
        drivers.compile_cpp(compiler, [*drivers.flags(), "-I", str(ROOT / "tests/sdk/cpp/stub"), "-fsyntax-only",
                                       str(source)])


@pytest.mark.parametrize("installed", [True, False], ids=["find_package", "FetchContent"])
def test_cmake(compiler: str, tmp_path: Path, installed: bool) -> None:
    """Both ways to have it in a CMake project."""
    cmake = shutil.which("cmake")
    if cmake is None:
        missing("cmake")
        raise AssertionError
    prefix, build = tmp_path / "prefix", tmp_path / "build"

    def say(*words: str) -> None:
        done = subprocess.run(["nice", cmake, *words], capture_output=True, text=True, check=False, timeout=600,
                              env=os.environ | {"CXX": compiler})
        assert done.returncode == 0, done.stdout + done.stderr

    if installed:
        say("-S", str(ROOT / "sdk/cpp"), "-B", str(tmp_path / "rrd"), f"-DCMAKE_INSTALL_PREFIX={prefix}")
        say("--install", str(tmp_path / "rrd"))
        where = f"-DCMAKE_PREFIX_PATH={prefix}"
    else:
        where = f"-DRRD_SOURCE={ROOT}"
    say("-S", str(ROOT / "tests/sdk/cpp/package"), "-B", str(build), where)
    say("--build", str(build))
    run(build / "control")

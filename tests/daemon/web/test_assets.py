from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.web import assets
from daemon.web.assets import EXECUTABLE_JS, NOTEBOOK_JS, WASM, Library, NoViewer, parse_version

RERUN = """#!{python}
import http.server, sys
if sys.argv[1:] == ["--version"]:
    print("rerun-cli {version} (release) [rustc 1.98.1]")
    sys.exit()
assert sys.argv[1:6] == ["--serve-web", "--web-viewer-port", "0", "--bind", "127.0.0.1"], sys.argv
FILES = {{"/re_viewer.js": b"let wasm_bindgen;", "/re_viewer_bg.wasm": {wasm!r}}}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = FILES.get(self.path, b"")
        self.send_response(200 if body else 404)
        self.send_header("rerun-final-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print("INFO Hosting a web-viewer at http://127.0.0.1:%d - connect at ..." % server.server_port, flush=True)
server.serve_forever()
"""


def notebook(site: Path, version: str) -> Path:
    """A site-packages with a rerun-notebook."""
    static = site / "rerun_notebook" / "static"
    static.mkdir(parents=True)
    (static / NOTEBOOK_JS).write_bytes(b"class WebViewer {}")
    (static / WASM).write_bytes(b"\0asm notebook")
    (site / f"rerun_notebook-{version}.dist-info").mkdir()
    return site


def executable(site: Path, version: str, *, wasm: bytes = b"\0asm executable", folder: str = "rerun_cli") -> Path:
    """A site-packages with a `rerun` executable."""
    path = site / folder / "rerun"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(RERUN.format(python=sys.executable, version=version, wasm=wasm))
    path.chmod(0o755)
    return site


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Call it with site-packages directories, best first: a library that knows these and nothing else."""
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))
    monkeypatch.setenv("PATH", os.fspath(tmp_path / "bin"))

    def make(*sites: Path) -> Library:
        monkeypatch.setattr(assets, "sites", lambda pids, named: list(sites))
        return Library()

    return make


def test_versions():
    assert parse_version("rerun_notebook-0.41.0.dist-info") == (0, 41, 0)
    assert parse_version("rerun-cli 0.23.4-alpha.1+dev (x)") == (0, 23, 4)
    assert parse_version("nothing") is None


async def test_a_notebook_is_served_from_where_it_is(tmp_path, library):
    viewer = await library(notebook(tmp_path / "a", "0.41.0")).find(data=(0, 41, 0))
    assert (viewer.kind, viewer.version_text, viewer.script) == ("notebook", "0.41.0", NOTEBOOK_JS)
    assert {path.parent for path in viewer.files.values()} == {tmp_path / "a" / "rerun_notebook" / "static"}
    assert b"export" in viewer.suffix(NOTEBOOK_JS)
    assert viewer.suffix(WASM) == b""
    assert viewer.content_type(WASM) == "application/wasm"


async def test_an_executable_is_asked_once_and_kept_by_version(tmp_path, library):
    site = executable(tmp_path / "a", "0.36.3")
    one = library(site)
    viewer = await one.find()
    assert (viewer.kind, viewer.version_text, viewer.script) == ("executable", "0.36.3", EXECUTABLE_JS)
    assert viewer.files[WASM].read_bytes() == b"\0asm executable"
    assert viewer.suffix(EXECUTABLE_JS) == b""
    (kept,) = (tmp_path / "cache" / "rrd" / "web").iterdir()
    assert kept.name.startswith("0.36.3-")
    before = kept.stat().st_mtime_ns
    assert (await one.find()).key == viewer.key
    assert kept.stat().st_mtime_ns == before


async def test_another_build_of_the_same_version_is_not_mixed_with_it(tmp_path, library):
    site = executable(tmp_path / "a", "0.36.3")
    first = await library(site).find()
    executable(site, "0.36.3", wasm=b"\0asm rebuilt, and longer")
    second = await library(site).find()
    assert first.key != second.key
    assert second.files[WASM].read_bytes() == b"\0asm rebuilt, and longer"
    assert second.files[EXECUTABLE_JS].parent == second.files[WASM].parent


@pytest.mark.parametrize(("offers", "data", "expected"), [
    ([("notebook", "0.36.3"), ("notebook", "0.41.0")], (0, 30, 0), ("notebook", "0.36.3")),
    ([("notebook", "0.36.3"), ("notebook", "0.41.0")], (0, 41, 0), ("notebook", "0.41.0")),
    ([("notebook", "0.36.3"), ("executable", "0.41.0")], (0, 41, 0), ("executable", "0.41.0")),
    ([("notebook", "0.36.3"), ("executable", "0.31.4")], (0, 41, 0), ("notebook", "0.36.3")),
    ([("executable", "0.41.0"), ("notebook", "0.41.0")], (0, 41, 0), ("notebook", "0.41.0")),
    ([("notebook", "0.41.0")], (0, 41, 7), ("notebook", "0.41.0")),
    ([("executable", "0.31.4"), ("executable", "0.41.0")], (0, 36, 0), ("executable", "0.41.0")),
    ([("notebook", "0.22.1"), ("executable", "0.31.4")], None, ("executable", "0.31.4")),
])
async def test_which_viewer_is_taken(tmp_path, library, offers, data, expected):
    made = {"notebook": notebook, "executable": executable}
    sites = [made[kind](tmp_path / str(number), version) for number, (kind, version) in enumerate(offers)]
    viewer = await library(*sites).find(data=data)
    assert (viewer.kind, viewer.version_text) == expected


async def test_damaged_installations_are_passed_over(tmp_path, library):
    half = notebook(tmp_path / "half", "0.41.0")
    (half / "rerun_notebook" / "static" / WASM).unlink()
    twice = notebook(tmp_path / "twice", "0.41.0")
    (twice / "rerun_notebook-0.40.0.dist-info").mkdir()  # an upgrade that was cut off: which one is it?
    bad = executable(tmp_path / "bad", "0.41.0", wasm=b"<html>")
    (tmp_path / "silent" / "rerun_cli").mkdir(parents=True)
    silent = tmp_path / "silent" / "rerun_cli" / "rerun"
    silent.write_text("#!/bin/sh\nexit 1\n")
    silent.chmod(0o755)
    good = executable(tmp_path / "good", "0.36.3")
    viewer = await library(half, twice, bad, tmp_path / "silent", good).find(data=(0, 41, 0))
    assert (viewer.kind, viewer.version_text) == ("executable", "0.36.3")
    assert len(list((tmp_path / "cache" / "rrd" / "web").iterdir())) == 1, "nothing half is left behind"


async def test_nothing_there_says_what_to_install(tmp_path, library):
    with pytest.raises(NoViewer) as error:
        await library(tmp_path).find(data=(0, 41, 0))
    assert 'pip install "rerun-sdk[notebook]==0.41.0"' in error.value.hint


async def test_the_executable_on_the_path(tmp_path, library):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "rerun").symlink_to(executable(tmp_path / "a", "0.36.3") / "rerun_cli" / "rerun")
    assert (await library().find()).version_text == "0.36.3"


def test_a_programs_own_installation_is_found_by_its_mapped_files():
    code = ("import mmap, sys; file = open(sys.argv[1], 'rb'); map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ);"
            "print(); input()")
    spec = assets.own_site()
    assert spec is not None, "the tests' own environment has rerun-sdk"
    binary = next((spec / "rerun_bindings").glob("*.so"))
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, binary], stdin=pipe, stdout=pipe) as program:
        assert program.stdout is not None
        program.stdout.readline()
        assert assets.site_of_process(program.pid) == spec
        program.communicate(b"\n")
    assert assets.site_of_process(program.pid) is None


def section(number: int, body: bytes) -> bytes:
    """A section of a wasm module; its length takes two bytes."""
    return bytes([number, 0x80 | len(body) & 0x7F, len(body) >> 7]) + body


MODULE = b"\0asm\1\0\0\0" + section(1, b"types") + section(0, b"\4kept") + section(10, b"code" * 50)
NAMES = section(0, b"\4name" + b"x" * 300) + section(0, b"\x09producers")


@pytest.mark.parametrize(("file", "served"), [
    (MODULE + NAMES, MODULE), (MODULE, MODULE),
    (MODULE + NAMES[:-1], MODULE + NAMES[:-1]),  # cut: not ours to judge
    (MODULE + b"\0" + b"\xff" * 6, MODULE + b"\0" + b"\xff" * 6), (b"\0asm", b"\0asm"), (b"", b""),
])
def test_names_of_functions_are_not_served(tmp_path, file, served):
    path = tmp_path / WASM
    path.write_bytes(file)
    assert file[: assets.wasm_length(path)] == served


async def test_gzip_is_made_once_and_holds_what_is_served(tmp_path, library):
    import gzip

    one = library(notebook(tmp_path / "a", "0.41.0"))
    viewer = await one.find()
    path = await one.compressed(viewer, NOTEBOOK_JS)
    assert gzip.decompress(path.read_bytes()) == b"class WebViewer {}" + viewer.suffix(NOTEBOOK_JS)
    before = path.stat().st_mtime_ns
    assert await one.compressed(viewer, NOTEBOOK_JS) == path
    viewer.files[WASM].write_bytes(MODULE + NAMES)
    wasm = await one.compressed(viewer, WASM)
    assert gzip.decompress(wasm.read_bytes()) == MODULE
    assert path.stat().st_mtime_ns == before
    assert sorted(path.parent.iterdir()) == sorted([path, wasm])

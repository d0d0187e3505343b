"""Where the viewer's own files come from: the user's Rerun installation, never this package.

    notebook      site-packages/rerun_notebook/static/{widget.js, re_viewer_bg.wasm}: a module and wasm of one build
    executable    what `rerun --serve-web` serves: {re_viewer.js, re_viewer_bg.wasm}, taken once and kept by version

Rules: JavaScript and wasm are always of one source (their interface is private to a build and changes with each); the
files they are is part of their address, so that browsers may keep them for ever; nothing is imported to be found; other
processes' packages are looked at, never run, but for the `rerun` executable itself.

Looked at in this order: a directory that was named; the packages of the program that streams (its mapped files say
where they are); the daemon's own; `rerun` on the PATH. The first notebook that is no older than the data wins, else the
first executable that is none, else the newest of all: an old viewer of newer data is better than none, and the page
says so.

Sources: rerun-notebook 0.23.4 to 0.41.0 (widget.js defines WebViewer and exports only its Jupyter entry, hence the line
that is appended), `rerun --serve-web` of 0.41.0.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from daemon import paths

log = logging.getLogger("rrd.web")

Version = tuple[int, int, int]

WASM = "re_viewer_bg.wasm"
NOTEBOOK_JS = "widget.js"
EXECUTABLE_JS = "re_viewer.js"
NOTEBOOK_EXPORT = b"\nexport { WebViewer, LogChannel };\n"
"""Appended when widget.js is served: the classes are there in every version, only not exported."""
FIRST_NOTEBOOK: Version = (0, 23, 0)
"""Older viewers do not read the Protobuf format at all."""
VERSION_S = 10.0
"""How long `rerun --version` may take: a tenth of a second, on a cold disk a few."""
EXTRACT_S = 60.0
"""How long it may take to copy 50 MB out of a running `rerun`."""
WASM_HEADER = 8
"""`\\0asm` and a version."""
MAX_ASSET = 1 << 29
"""The wasm is 43 to 67 MB; half a gigabyte is no viewer."""

_CONTENT_TYPES = {".js": "text/javascript; charset=utf-8", ".wasm": "application/wasm"}


class NoViewer(Exception):
    """There is no web viewer on this machine that could be served. `hint` says what to install."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Viewer:
    """A web viewer that can be served.

    Attributes:
        version: Of Rerun.
        kind: `notebook` or `executable`: which interface its JavaScript has.
        files: Served name -> file.
        origin: Where it was found, for people.
        key: Names exactly these files, in their address.
    """

    version: Version
    kind: str
    files: dict[str, Path] = field(repr=False)
    origin: str
    key: str

    @property
    def version_text(self) -> str:
        """`0.41.0`"""
        return ".".join(map(str, self.version))

    @property
    def script(self) -> str:
        """The served name of its JavaScript."""
        return NOTEBOOK_JS if self.kind == "notebook" else EXECUTABLE_JS

    def suffix(self, name: str) -> bytes:
        """What is appended to a file as it is served."""
        return NOTEBOOK_EXPORT if self.kind == "notebook" and name == NOTEBOOK_JS else b""

    def length(self, name: str) -> int:
        """How much of a file is served, bytes from its beginning.

        Raises:
            OSError: it cannot be read.
        """
        return wasm_length(self.files[name]) if name == WASM else self.files[name].stat().st_size

    def content_type(self, name: str) -> str:
        """The media type of a file. Browsers compile wasm while it arrives only if it is called that."""
        return _CONTENT_TYPES[os.path.splitext(name)[1]]


def parse_version(text: str) -> Version | None:
    """The first `x.y.z` in a text; None if there is none."""
    match = re.search(r"(\d{1,5})\.(\d{1,5})\.(\d{1,5})", text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def wasm_length(path: Path) -> int:
    """Where the custom sections at a module's end begin: the notebook's has 24 of its 67 MB there, names of functions.

    A module is the same without them (WebAssembly core specification, binary modules: id u8, length LEB128, body).

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        at = end = WASM_HEADER
        while at < size:
            file.seek(at)
            head = file.read(6)
            length = 0
            for used, byte in enumerate(head[1:], 1):
                length |= (byte & 0x7F) << 7 * (used - 1)
                if byte < 0x80:
                    break
            else:
                return size  # no module that is known here: all of it, then
            at += 1 + used + length
            if head[0] != 0:
                end = at
    return end if at == size else size


def _key(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        found = file.stat()
        digest.update(f"{file}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def notebook_in(site: Path) -> Viewer | None:
    """The rerun-notebook of one site-packages directory, if it is there and whole."""
    static = site / "rerun_notebook" / "static"
    script, wasm = static / NOTEBOOK_JS, static / WASM
    versions = [parse_version(entry.name) for entry in site.glob("rerun_notebook-*.dist-info")]
    version = versions[0] if len(versions) == 1 else None
    try:
        if version is None or version < FIRST_NOTEBOOK or not wasm.stat().st_size:
            return None
        files = {NOTEBOOK_JS: script, WASM: wasm}
        return Viewer(version, "notebook", files, f"rerun-notebook in {site}", _key(script, wasm))
    except OSError:
        return None


def executables_in(site: Path) -> Iterator[Path]:
    """The `rerun` executables of one site-packages directory: the binary itself, not the launcher that pip makes."""
    for folder in ("rerun_cli", "rerun_sdk/rerun_cli"):
        binary = site / folder / "rerun"
        if os.access(binary, os.X_OK):
            yield binary


def site_of_process(pid: int) -> Path | None:
    """The site-packages that a running program has its Rerun from, by its mapped files; None if it has none."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as maps:
            for line in maps:
                at = line.find(b"/rerun_bindings/")
                if at > 0:
                    return Path(os.fsdecode(line[line.index(b"/") : at]))
    except (OSError, ValueError):
        return None
    return None


def own_site() -> Path | None:
    """The site-packages that this process would import Rerun from, without importing it."""
    for module in ("rerun_notebook", "rerun_bindings", "rerun_cli"):
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            continue
        if spec is not None and spec.origin:
            return Path(spec.origin).parent.parent
    return None


def sites(pids: Iterable[int], named: Path | None = None) -> list[Path]:
    """Directories to look for a viewer in, best first, each once."""
    found = [named, *(site_of_process(pid) for pid in pids), own_site()]
    return list(dict.fromkeys(site for site in found if site is not None))


@dataclass
class Library:
    """The viewers that were found, and those that are being extracted.

    Attributes:
        named: A directory that comes first: a site-packages, or one with rerun_notebook in it.
    """

    named: Path | None = None
    _by_key: dict[str, Viewer] = field(default_factory=dict)
    _versions: dict[str, Version | None] = field(default_factory=dict)
    _lock: trio.Lock = field(default_factory=trio.Lock)

    def get(self, key: str) -> Viewer | None:
        """A viewer that `find` has returned before."""
        return self._by_key.get(key)

    async def compressed(self, viewer: Viewer, name: str) -> Path:
        """A file of a viewer, gzipped: made once and kept. It takes seconds, and saves more of them off this machine.

        Raises:
            OSError: it cannot be made.
        """
        path = paths.cache_dir() / "web" / "gzip" / f"{viewer.key}-{name}.gz"
        async with self._lock:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                await trio.to_thread.run_sync(_compress, viewer, name, path)
        return path

    async def find(self, pids: Sequence[int] = (), data: Version | None = None) -> Viewer:
        """The viewer to show data with.

        Args:
            pids: Processes that stream what is to be shown.
            data: The newest SDK version in it, if known.

        Raises:
            NoViewer: there is none; the message says what to install.
        """
        async with self._lock:
            viewer = await self._find(sites(pids, self.named), data)
        self._by_key[viewer.key] = viewer
        return viewer

    async def _find(self, places: Sequence[Path], data: Version | None) -> Viewer:
        notebooks = [viewer for site in places if (viewer := notebook_in(site)) is not None]
        for viewer in notebooks:
            if _new_enough(viewer.version, data):
                return viewer
        binaries = [binary for site in places for binary in executables_in(site)]
        on_path = shutil.which("rerun")
        if on_path is not None:
            binaries.append(Path(on_path))
        dated = [(await self._version(binary), binary) for binary in binaries]
        usable = [(version, binary) for version, binary in dated if version is not None and version >= FIRST_NOTEBOOK]
        problem = ""
        for version, binary in sorted(usable, key=lambda one: not _new_enough(one[0], data)):
            if notebooks and not _new_enough(version, data) and version <= max(viewer.version for viewer in notebooks):
                continue
            try:
                return await extracted(binary, version)
            except OSError as error:
                problem = f"{error.strerror}: {error.filename or binary}"
                log.warning("no web viewer from %s: %s", binary, problem)
        if notebooks:
            return max(notebooks, key=lambda viewer: viewer.version)
        wanted = "==" + ".".join(map(str, data)) if data else ""
        raise NoViewer(
            "there is no Rerun web viewer on this machine" + (f" ({problem})" if problem else ""),
            f'`pip install "rerun-sdk[notebook]{wanted}"` where the daemon or the program runs',
        )

    async def _version(self, binary: Path) -> Version | None:
        try:
            found = binary.stat()
        except OSError:
            return None
        identity = f"{binary}\0{found.st_size}\0{found.st_mtime_ns}"
        if identity not in self._versions:
            self._versions[identity] = await _ask_version(binary)
        return self._versions[identity]


def _new_enough(version: Version, data: Version | None) -> bool:
    """Whether a viewer knows all that is in data. Patch releases read each other's; a newer minor brings something."""
    return data is None or version[:2] >= data[:2]


async def _ask_version(binary: Path) -> Version | None:
    """What `rerun --version` says."""
    with trio.move_on_after(VERSION_S):
        try:
            command = [os.fspath(binary), "--version"]
            done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        except OSError:
            return None
        return parse_version(done.stdout.decode(errors="replace"))
    return None


async def extracted(binary: Path, version: Version) -> Viewer:
    """The viewer inside a `rerun` executable: from the cache, else by letting it serve its files once.

    Raises:
        OSError: it serves none, or the cache cannot be written.
    """
    found = binary.stat()
    identity = hashlib.sha256(f"{binary.resolve()}\0{found.st_size}\0{found.st_mtime_ns}".encode()).hexdigest()[:8]
    place = paths.cache_dir() / "web" / f"{'.'.join(map(str, version))}-{identity}"
    files = {EXECUTABLE_JS: place / EXECUTABLE_JS, WASM: place / WASM}
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as work:
            fresh = Path(work) / "files"
            fresh.mkdir()
            await _extract(binary, fresh)
            try:
                fresh.rename(place)  # whole or not at all
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
    return Viewer(version, "executable", files, os.fspath(binary), _key(*files.values()))


async def _extract(binary: Path, into: Path) -> None:
    """Let `rerun` serve its web viewer on a free port, fetch the two files, and end it."""
    # The address leads nowhere: with something to connect to, it serves the viewer's files and opens no data port.
    command = [os.fspath(binary), "--serve-web", "--web-viewer-port", "0", "--bind", "127.0.0.1", "http://127.0.0.1:9/x.rrd"]
    environment = {**os.environ, "NO_COLOR": "1", "RUST_LOG": "info", "BROWSER": "true"}
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        cwd="/",
    )
    try:
        with trio.fail_after(EXTRACT_S):
            port = await _announced_port(process)
            await trio.to_thread.run_sync(_fetch, port, into, abandon_on_cancel=True)
    except trio.TooSlowError as error:
        raise OSError(errno.ETIMEDOUT, "it did not serve its web viewer in time", os.fspath(binary)) from error
    finally:
        await _end(process)


async def _end(process: trio.Process) -> None:
    """End a process and its children: through a launcher (pip's `rerun`), the real one is a child."""
    with trio.CancelScope(shield=True):
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with trio.move_on_after(2.0):
                await process.wait()
                break
        if process.stdout is not None:
            await process.stdout.aclose()


async def _announced_port(process: trio.Process) -> int:
    """The port in `Hosting a web-viewer at http://127.0.0.1:PORT`."""
    seen = b""
    output = process.stdout
    if output is None:
        raise OSError(errno.EIO, "it cannot be listened to")
    while len(seen) < 1 << 16:
        data = await output.receive_some(4096)
        if not data:
            break
        seen += data
        match = re.search(rb"web-viewer at http://[^\s:/]+:(\d+)", seen)
        if match:
            return int(match[1])
    raise OSError(errno.ENOENT, f"it serves no web viewer: {seen[-200:].decode(errors='replace').strip()}")


def _fetch(port: int, into: Path) -> None:
    """Copy the two files. Runs in a thread. No proxies, no redirects: it is a process of ours on this machine."""
    import http.client  # 30 ms to import, seldom needed

    for name in (EXECUTABLE_JS, WASM):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=EXTRACT_S)
        try:
            connection.request("GET", "/" + name)
            response = connection.getresponse()
            length = int(response.headers.get("Content-Length") or response.headers.get("rerun-final-length") or -1)
            if response.status != 200 or not 0 < length < MAX_ASSET:
                raise OSError(errno.ENOENT, f"it answers {response.status} for {name}")
            with open(into / name, "wb") as file:
                shutil.copyfileobj(response, file, 1 << 20)
                file.flush()
                if file.tell() != length or (name == WASM and not _is_wasm(into / name)):
                    raise OSError(errno.EIO, f"it sent {file.tell()} bytes that are not the {length} of {name}")
        except http.client.HTTPException as error:
            raise OSError(errno.EIO, f"it answers no HTTP: {error!r}") from error
        finally:
            connection.close()


def _compress(viewer: Viewer, name: str, target: Path) -> None:
    """Runs in a thread."""
    with tempfile.NamedTemporaryFile(dir=target.parent) as work, open(viewer.files[name], "rb") as file:
        with gzip.open(work, "wb", compresslevel=6) as out:
            left = viewer.length(name)
            while left > 0 and (data := file.read(min(left, 1 << 20))):
                out.write(data)
                left -= len(data)
            out.write(viewer.suffix(name))
        work.flush()
        with contextlib.suppress(FileExistsError):
            os.link(work.name, target)


def _is_wasm(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\0asm"

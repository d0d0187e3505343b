"""Viewers behind TLS: a real server, and in front of it a relay with a certificate that nobody else knows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Home, missing, wait_for
from tests.helpers.programs import Program
from tests.helpers.shim import rows
from tests.helpers.viewers import Server, until

RELAY = """
import ssl, sys, trio

context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(sys.argv[1])
context.set_alpn_protocols(["h2"])

async def pass_on(one, other):
    try:
        async for data in one:
            await other.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    await trio.aclose_forcefully(one)
    await trio.aclose_forcefully(other)

async def relay(plain):
    near = trio.SSLStream(plain, context, server_side=True, https_compatible=True)
    try:
        await near.do_handshake()
    except trio.BrokenResourceError:
        print("refused", flush=True)
        return
    print(near.selected_alpn_protocol(), flush=True)
    far = await trio.open_tcp_stream("127.0.0.1", int(sys.argv[2]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_on, near, far)
        nursery.start_soon(pass_on, far, near)

async def main():
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(relay, listeners)

trio.run(main)
"""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 that is its own authority, and its key, in one file."""
    if shutil.which("openssl") is None:
        missing("openssl")
    key, path = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", path],
        check=True, capture_output=True)
    path.write_bytes(key.read_bytes() + path.read_bytes())
    return path


@pytest.fixture
def server(home: Home, rerun: Path) -> Iterator[Server]:
    with Server(home, rerun, "--save", home.path / "saved.rrd") as one:
        yield one


@pytest.mark.parametrize("scheme", ["rerun+https", "rerun"])
def test_a_server_behind_tls(home: Home, server: Server, certificate: Path, scheme: str) -> None:
    """Its certificate is checked, and what is wrong with it said; with the right authority everything arrives."""
    home.cli("daemon", "start")
    with Program(home, "app", rows=50) as program:
        program.finish()
    words = [sys.executable, "-c", RELAY, certificate, str(server.port)]
    relay = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert relay.stdout is not None
        url = f"{scheme}://127.0.0.1:{int(relay.stdout.readline())}/proxy"
        done = home.cli("connect", url, "app", check=False)
        assert done.returncode == 1
        assert "certificate verify failed" in done.stderr
        assert "hint: rerun+http:// is without TLS; SSL_CERT_FILE" in done.stderr
        assert relay.stdout.readline().strip() == "refused"
        home.stop()
        home.env["SSL_CERT_FILE"] = str(certificate)
        home.cli("daemon", "start")
        name = json.loads(home.cli("connect", url, "app", "--json").stdout)["sink"]["id"]
        until(home, name, lambda found: found["state"] == "complete", "delivery")
        assert relay.stdout.readline().strip() == "h2"
        saved = home.path / "saved.rrd"
        server.stop()
        wait_for(lambda: rows(saved) == list(range(50)), "all rows")
    finally:
        relay.kill()
        relay.communicate()

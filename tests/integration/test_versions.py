"""A client and a daemon that speak different protocols: both say so and how to mend it, and neither ends the other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon import __version__
from daemon.wire import control
from tests.conftest import NEWEST, Home
from tests.helpers.shim import Program, ended, rows, run, warnings

NEWER, OLDER = control.PROTOCOL + 1, control.PROTOCOL - 1
RESTART = "the daemon is older: run `rrd daemon restart` (nothing is lost)"
UPGRADE = "the client is older: upgrade it (pip install -U rrd-cli)"

CLI = """
import sys
from daemon.wire import control
control.PROTOCOL = int(sys.argv.pop(1))
from rrd_cli.app import main
sys.exit(main())
"""
DAEMON = """
from pathlib import Path
file = Path(__file__).with_name("protocol")
if file.exists():
    from daemon.wire import control
    control.PROTOCOL = int(file.read_text())
"""
"""A daemon of another version, until the file is gone: then it has been upgraded."""
LOGS_ON = """
from rrd import _wire
_wire.PROTOCOL = int(sys.argv[1])
rr.init("app", recording_id="theirs")
begin = time.monotonic()
assert not rrd.save("ours.rrd")
assert not rrd.attach()
assert not rrd.flush()
assert time.monotonic() - begin < 10
rr.save("theirs.rrd")
log(0, 100)
rr.disconnect()
"""


def said(client: int, server: int) -> str:
    return f"speaks protocol {client}, the daemon (rrd {__version__}) speaks {server}"


def cli(home: Home, protocol: int, *words: str) -> subprocess.CompletedProcess[str]:
    """`rrd`, of a version that speaks another protocol."""
    return subprocess.run([sys.executable, "-c", CLI, str(protocol), *words], env=home.env, cwd=home.path, text=True,
                          capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)


@pytest.mark.parametrize(("protocol", "mend"), [(NEWER, RESTART), (OLDER, UPGRADE)])
def test_another_client(
    daemon: Home, sdk_python: Callable[[str], Path], protocol: int, mend: str
) -> None:
    """Command and shim say it in one line; the daemon, and who streams into it, do not notice."""
    pid = daemon.daemon_pid()
    with Program(daemon, Path(sys.executable), """
rr.init("app", recording_id="mine")
rrd.save("mine.rrd")
log(0, 50)
say("ready")
wait_for_test()
log(50, 100)
""") as program:
        program.line()
        for words in (["ls"], ["status"], ["save", "x.rrd"]):
            done = cli(daemon, protocol, *words)
            assert done.returncode in (1, 3), words
            assert said(protocol, control.PROTOCOL) in done.stderr
            assert f"hint: {mend}" in done.stderr
            assert done.stdout == ""
        errors = run(daemon, sdk_python(NEWEST), LOGS_ON, protocol)
        (warning,) = warnings(errors)
        assert said(protocol, control.PROTOCOL) in warning
        assert mend in warning
        program.go_on()
        assert warnings(program.finish()) == []
    assert daemon.daemon_pid() == pid
    ended(daemon)
    assert rows(daemon.path / "mine.rrd") == list(range(100))
    assert rows(daemon.path / "theirs.rrd") == list(range(100))
    assert not (daemon.path / "ours.rrd").exists()


@pytest.mark.parametrize(("protocol", "mend"), [(NEWER, UPGRADE), (OLDER, RESTART)])
def test_another_daemon(
    home: Home, sdk_python: Callable[[str], Path], protocol: int, mend: str
) -> None:
    """A daemon of another version runs already: it is not replaced, and what it advises works."""
    site = home.path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(DAEMON)
    (site / "protocol").write_text(str(protocol))
    home.cli("daemon", "start", env=home.env | {"PYTHONPATH": str(site)}, check=False)  # it cannot talk to it either
    keeper = home.keeper_pid()
    assert keeper
    done = home.cli("ls", check=False)
    assert done.returncode in (1, 3)
    assert said(control.PROTOCOL, protocol) in done.stderr
    assert f"hint: {mend}" in done.stderr
    (warning,) = warnings(run(home, sdk_python(NEWEST), LOGS_ON, control.PROTOCOL))
    assert mend in warning
    assert home.keeper_pid() == keeper
    peer = home.client(protocol=protocol)
    assert peer.greeted["protocol"] == protocol
    peer.close()
    (site / "protocol").unlink()
    done = home.cli("daemon", "restart", check=False)
    if mend == RESTART:
        assert "restarted" in done.stdout
        assert home.cli("ls", "--json").stdout == "[]\n"
        run(home, sdk_python(NEWEST), 'rr.init("app")\nrrd.save("ours.rrd")\nlog(0, 10)')
        ended(home)
        assert rows(home.path / "ours.rrd") == list(range(10))
    else:
        assert mend in done.stderr
        assert home.keeper_pid() == keeper

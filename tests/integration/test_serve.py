"""The web viewer in a real browser, fed by a real SDK through a real daemon."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from tests.conftest import Home, missing, wait_for
from tests.helpers.programs import Program, rows
from tests.helpers.shim import Program as Script
from tests.integration.chromium import BINARY, Browser, Tab

BIG = """
import numpy as np, pyarrow as pa
rr.init("big", recording_id="big")
rrd.attach()
log(0, 1)
rr.get_global_data_recording().flush()
wait_for_test()
for number in range(1, 41):
    rr.set_time("frame", sequence=number)
    noise = pa.array([np.random.default_rng(number).bytes(1_000_000)], pa.binary())  # nothing that is drawn
    rr.log("noise", rr.AnyValues(noise=noise))
"""
"""One row, and on a word 40 MB that cannot be compressed."""
PNG = b"\x89PNG"

STATE = "rrdViewer.get_state().then(s => JSON.stringify(s, (k, v) => typeof v === 'bigint' ? Number(v) : v))"
LOGS = "rrdViewer.get_logs().then(l => JSON.stringify(l, (k, v) => typeof v === 'bigint' ? Number(v) : v))"
SAVE = """(async () => {
  const reader = rrdViewer.save_recording().getReader(), parts = [];
  for (;;) { const { done, value } = await reader.read(); if (done) break; parts.push(value); }
  return await new Promise(resolve => {
    const file = new FileReader(); file.onload = () => resolve(file.result.split(",", 2)[1]);
    file.readAsDataURL(new Blob(parts));
  });
})()"""


@pytest.fixture(scope="module")
def browser():
    """One browser for all: it fetches the viewer once. To it, this machine is also another one, named robot."""
    if BINARY is None:
        missing("chromium")
    with Browser("--host-resolver-rules=MAP robot 127.0.0.1") as one:
        yield one


@pytest.fixture
def open_tab(browser: Browser):
    """Opens tabs, and closes them after the test."""
    tabs: list[Tab] = []

    def open_one(url: str) -> Tab:
        tabs.append(browser.tab(url))
        return tabs[-1]

    yield open_one
    for tab in tabs:
        tab.close()


def serve(home: Home, *argv: str) -> str:
    """The address that `rrd serve` prints."""
    return json.loads(home.cli("serve", "--no-open", "--port", "0", "--json", *argv).stdout)["url"]


def frames(tab: Tab, recording: str) -> tuple[int, int] | None:
    """The first and last frame of a recording that a page's viewer has; None before there is any.

    The viewer takes in what it was sent when it draws, which it does in the tab in front.
    """
    tab.command("Page.bringToFront")
    for found in json.loads(tab.eval(STATE))["recordings"]:
        if found["store_id"].endswith(recording):
            for timeline in found["timelines"]:
                if timeline["name"] == "frame" and timeline.get("time_range"):
                    return timeline["time_range"]["start"], timeline["time_range"]["end"]
    return None


def wait_frames(tab: Tab, recording: str, expected: tuple[int, int]) -> None:
    tab.until("window.rrdViewer !== undefined", 90)
    deadline = time.monotonic() + 120
    while (found := frames(tab, recording)) != expected:
        said = "JSON.stringify([rrd.state, rrd.received, rrd.connections, rrd.lag, document.hidden, rrd.error])"
        assert time.monotonic() < deadline, f"{recording} has frames {found}, not {expected}: {tab.eval(said)}"
        time.sleep(0.3)


def press(tab: Tab, key: str, number: int, *, shift: bool = False) -> None:
    """A key, down and up."""
    for kind in ("keyDown", "keyUp"):
        tab.command("Input.dispatchKeyEvent", type=kind, key=key, text=key if len(key) == 1 else "",
                    windowsVirtualKeyCode=number, modifiers=8 if shift else 0)


def walk(tab: Tab, name: str, *, shift: bool = False) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(10):
        press(tab, "Tab", 9, shift=shift)
        if tab.eval("document.activeElement.id") == name:
            return
    raise AssertionError(f"{name} cannot be reached by keyboard")


def saved(tab: Tab, path: Path) -> Path:
    """What the page's viewer holds, as a file."""
    path.write_bytes(base64.b64decode(tab.eval(SAVE, 60)))
    return path


def contents(path: Path) -> Counter[str]:
    """Every row of every entity with all its columns, however chunks divide them: viewers put small ones together."""
    import rerun.chunk

    found: Counter[str] = Counter()
    for chunk in rerun.chunk.RrdReader(str(path)).stream():
        batch = chunk.to_record_batch()
        arrays = [array.cast(pa.int64()) if pa.types.is_temporal(array.type) else array for array in batch.columns]
        for row in pa.table(arrays, names=batch.schema.names).to_pylist():
            known = sorted((name, value) for name, value in row.items() if value is not None)
            found[repr((chunk.entity_path, known))] += 1
    return found


def get(url: str, **headers: str) -> tuple[int, bytes]:
    """A plain request: status and body."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_program_appears_live_also_to_who_comes_late(daemon, open_tab, tmp_path):
    url = serve(daemon)
    first = open_tab(url)
    first.until("window.rrd && rrd.state === 'waiting'", 90)
    with Program(daemon, "app", rows=500, pause=0.02) as program:
        program.wait_row(40)
        wait_for(lambda: (frames(first, "app") or (0, 0))[1] >= 40, "live rows in the first tab", 60)
        late = open_tab(url)
        late.until("window.rrd && rrd.received > 0", 60)
        assert first.eval("rrd.state") == "live"
        program.finish()
    for tab in (first, late):
        wait_frames(tab, "app", (0, 499))
        errors = [entry for entry in json.loads(tab.eval(LOGS)) if entry["level"] == "ERROR"]
        assert not errors
        assert tab.eval("location.search") == "?source=%40live", "the token is not left in the address bar"
    picture = first.screenshot(tmp_path / "live.png")
    assert picture.read_bytes().startswith(PNG)
    assert len(picture.read_bytes()) > 10_000, "more than one colour"


@pytest.mark.parametrize("host", ["127.0.0.1", "robot"])
def test_the_viewer_is_fetched_and_compiled_once(daemon, open_tab, host):
    """Near: early, by the page. Far: by the viewer's own script, with its progress, and without a secure context."""
    with Program(daemon, "app", rows=50) as program:
        program.finish()
    tab = open_tab("about:blank")
    tab.command("Page.addScriptToEvaluateOnNewDocument", source="""
      const { compileStreaming } = WebAssembly;
      window.compiled = [];
      WebAssembly.compileStreaming = source => {
        compiled.push(document.querySelector("#viewer .rerun-progress-text, #viewer canvas") !== null);
        return compileStreaming(source);
      };
    """)
    tab.goto(serve(daemon, "@latest", "--host-name", "robot").replace("127.0.0.1", host))
    wait_frames(tab, "app", (0, 49))
    assert tab.eval("isSecureContext") is (host != "robot")
    assert tab.eval("compiled") == [host == "robot"], "where it is far, the viewer is there first and shows progress"
    assert tab.eval("performance.getEntriesByType('resource').filter(one => one.name.endsWith('.wasm')).length") == 1


def test_what_the_page_saves_of_a_finished_recording_is_what_was_logged(daemon, open_tab, tmp_path, verify):
    with Program(daemon, "app", rows=300, image=2000) as program:
        program.finish()
    tab = open_tab(serve(daemon, "@latest"))
    wait_frames(tab, "app", (0, 299))
    tab.until("rrd.state === 'ended'")
    assert tab.eval("document.getElementById('state').textContent") == "finished"
    daemon.cli("save", "logged.rrd", "--wait")
    verify(daemon.path / "logged.rrd")
    assert contents(saved(tab, tmp_path / "page.rrd")) == contents(daemon.path / "logged.rrd")


def test_a_page_outlives_the_daemon(daemon, open_tab, tmp_path):
    tab = open_tab(serve(daemon))
    with Program(daemon, "app", rows=300, pause=0.02) as program:
        program.wait_row(20)
        tab.until("window.rrd && rrd.received > 0", 90)
        pid = daemon.daemon_pid()
        os.kill(pid, signal.SIGKILL)
        tab.until("rrd.state === 'away' || rrd.connections > 1")
        wait_for(lambda: daemon.daemon_pid() != pid, "another daemon")
        program.finish()
    wait_frames(tab, "app", (0, 299))
    assert tab.eval("rrd.connections") > 1
    assert rows(saved(tab, tmp_path / "page.rrd")) == list(range(300)), "nothing lost, nothing twice"


def test_a_restart_keeps_address_and_token(daemon, open_tab):
    url = serve(daemon)
    tab = open_tab(url)
    tab.until("window.rrd && rrd.state === 'waiting'", 90)
    tab.eval("""new Promise(resolve => {
      const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws");
      socket.onopen = () => { socket.send('{"source": ["@live"]}'); resolve(); };
      socket.onclose = event => window.farewell = [event.code, event.wasClean];
    })""")
    daemon.cli("daemon", "restart")
    assert tab.until("window.farewell") == [1001, True], "going away, and both sides have said so"
    tab.until("rrd.state === 'waiting' && rrd.connections > 1")
    wait_for(lambda: _status(url) == 200, "the same address")
    assert serve(daemon) != url, "--port 0 is another server"
    assert len([sink for sink in daemon.status()["sinks"] if sink["kind"] == "web"]) == 2


def _status(url: str) -> int:
    try:
        return get(url)[0]
    except OSError:
        return 0


PLAYED = """
window.Worker = class {
  constructor() { this.asked = []; window.feeder = this; }
  postMessage(message) { this.asked.push(Object.keys(message)[0]); }
  terminate() { this.ended = true; }
};
"""


class Played:
    """A page with a real viewer and no feed: what it is sent is said by the test."""

    def __init__(self, tab: Tab, url: str) -> None:
        self.tab = tab
        tab.command("Page.addScriptToEvaluateOnNewDocument", source=PLAYED)
        tab.goto(url)
        tab.until("window.rrd && rrd.times.ready && feeder.asked.length === 1", 90)

    def hears(self, message: str) -> None:
        """A message of the feed, in JavaScript."""
        self.tab.eval(f"feeder.onmessage?.({{ data: {message} }})")

    def asks(self, *what: str) -> None:
        """Wait until it has asked for exactly this, since the last time."""
        self.tab.until(f"feeder.asked.length >= {len(what)}")
        assert self.tab.eval("feeder.asked.splice(0)") == list(what)

    @property
    def shows(self) -> tuple[str, str]:
        """Its state, and in words."""
        return tuple(self.tab.eval("[rrd.state, document.getElementById('state').textContent]"))


@pytest.fixture
def played(daemon, open_tab):
    return Played(open_tab("about:blank"), serve(daemon))


def test_what_a_proxy_says_while_the_daemon_is_away_is_no_end(played):
    played.asks("history")
    for answer, shows in (
        ("{ over: 'lost' }", "connection lost, trying again"),
        ("{ over: 'refused', status: 502, problem: { error: 'the server says 502' } }",
         "connection lost, trying again: the server says 502"),
        ("{ over: 'refused', status: 429, problem: null }", "connection lost, trying again"),
    ):
        played.hears(answer)
        played.asks("history")
        assert played.shows == ("away", shows)
    played.hears("{ begun: true }")
    assert played.shows == ("history", "loading")
    played.hears("{ over: 'refused', status: 403, problem: { error: 'no' } }")
    assert played.tab.until("rrd.error") == "the address needs a new token: run `rrd serve`"
    assert played.shows[0] == "failed"


@pytest.mark.parametrize("crash", [
    "rrdViewer.open_channel('x').constructor.prototype.send_rrd = () => { throw new WebAssembly.RuntimeError('no') }",
    "rrdViewer.stop()",  # what the notebook does when it has seen that the viewer panicked
])
def test_a_viewer_that_crashes_is_said(played, crash):
    played.hears("{ begun: true }")
    played.tab.eval(f"{crash}; 1")
    played.hears("{ block: new Uint8Array(16) }")
    assert played.shows == ("failed", "stopped: the viewer has crashed: reload the page")
    played.hears("{ state: { live: 1, caught_up: true }, live: true }")
    assert played.shows[0] == "failed"
    assert played.tab.eval("feeder.ended") is True


def test_what_came_while_a_page_was_paused_shows_when_it_is_visible(played):
    """All of it fits between feed and page: nothing more comes that would tell."""
    hide = "Object.defineProperty(document, 'hidden', { value: %s, configurable: true })"
    played.asks("history")
    played.tab.eval("rrdViewer.open_channel('x').constructor.prototype.send_rrd = () => {}; " + hide % "true" + "; 1")
    played.hears("{ begun: true }")
    played.hears("{ block: new Uint8Array(65 << 20) }")
    assert played.shows == ("paused", "paused while hidden")
    played.hears("{ over: 'done' }")
    played.asks("live")
    played.hears("{ state: { live: 0, caught_up: true, ended: true, lag_bytes: 0, lag_messages: 0 }, live: true }")
    assert played.shows[0] == "paused"
    played.tab.eval(hide % "false" + "; document.dispatchEvent(new Event('visibilitychange'))")
    assert played.shows == ("ended", "finished")
    played.asks("taken")


def test_a_stopped_tab_costs_nobody_anything(daemon, browser, open_tab):
    url = serve(daemon)
    stopped, running = open_tab(url), open_tab(url)
    for tab in (stopped, running):
        tab.until("window.rrd && rrd.state === 'waiting'", 90)
    with Script(daemon, Path(sys.executable), BIG) as program:
        stopped.until("rrd.received > 0")
        stopped.eval("setTimeout(() => alert('nothing runs in this tab until somebody clicks'))")
        program.go_on()
        program.finish()
        running.until("rrd.received > 40e6", 120)
    sink = next(sink for sink in daemon.status()["sinks"] if sink["kind"] == "web")
    assert sink["lag_bytes"] > 10_000_000, "the stopped tab is behind, and nobody else"
    stopped.command("Page.handleJavaScriptDialog", accept=True)
    stopped.until("rrd.received > 40e6", 120)


def test_the_list_opens_and_downloads(daemon, open_tab, tmp_path, verify):
    with Program(daemon, "first", rows=20) as program:
        program.finish()
    url = serve(daemon)
    origin, token = f"http://{urlsplit(url).netloc}", url.split("token=")[1]
    tab = open_tab(f"{origin}/?token={token}")
    tab.until("document.querySelectorAll('#rows tr').length === 1")
    with Program(daemon, "second", rows=400, pause=0.02) as program:
        program.wait_row(20)
        tab.until("document.querySelectorAll('#rows tr').length === 2")
        tab.until("document.querySelector('#rows .state').textContent === 'live'")
        href = tab.eval("document.querySelector('#rows tr td:last-child a').getAttribute('href')")
        status, snapshot = get(f"{origin}{href}&token={token}")
        assert status == 200
        (tmp_path / "snapshot.rrd").write_bytes(snapshot)
        verify(tmp_path / "snapshot.rrd")
        assert rows(tmp_path / "snapshot.rrd")[0] == 0
        for width in (1280, 360):
            tab.command("Emulation.setDeviceMetricsOverride", width=width, height=700, deviceScaleFactor=1,
                        mobile=False)
            tab.until(f"innerWidth === {width}")
            assert tab.eval("document.documentElement.scrollWidth") <= width, "nothing is beside the page"
        tab.command("Emulation.clearDeviceMetricsOverride")
        # By keyboard alone: to the boxes, then back to the button.
        tab.command("Page.bringToFront")
        walk(tab, "select-all")
        press(tab, " ", 32)
        assert tab.eval("document.getElementById('open-selected').textContent") == "Open selected (2)"
        walk(tab, "open-selected", shift=True)
        press(tab, "\r", 13)
        tab.until("location.pathname === '/view'")
        tab.until("window.rrdViewer !== undefined", 90)
        wait_for(lambda: frames(tab, "first") == (0, 19) and frames(tab, "second"), "both recordings", 60)
        program.finish()
    wait_for(lambda: all(found["state"] == "ended" for found in daemon.recordings()), "footers")
    status, whole = get(f"{origin}/recordings/second.rrd?token={token}")
    (tmp_path / "whole.rrd").write_bytes(whole)
    verify(tmp_path / "whole.rrd")
    assert rows(tmp_path / "whole.rrd") == list(range(400))


def test_the_list_says_what_cannot_be(daemon, open_tab):
    """More than one address can hold; no token any more. What the server says is said by the test."""
    tab = open_tab("about:blank")
    tab.command("Page.addScriptToEvaluateOnNewDocument", source="""
      window.fetch = () => new Promise((resolve) => (window.answer = resolve));
      window.list = (count, length) => answer(new Response(JSON.stringify({ seen: 1, total: count, recordings:
        Array.from({ length: count }, (_, n) => ({ name: `${n}`.padEnd(length, "x"), messages: 1, bytes: 1 })) })));
      window.has = (name) => document.getElementById("rows").innerHTML.includes(name);
      window.text = (id) => document.getElementById(id).textContent;
    """)
    url = urlsplit(serve(daemon))
    tab.goto(f"http://{url.netloc}/?{url.query.split('&')[1]}")
    for length, said in ((80, "Open selected (500)"), (100, "Too many selected (500)")):
        tab.until("window.answer !== undefined")
        tab.eval(f"list(500, {length}); answer = undefined")
        tab.until(f"document.querySelectorAll('#rows tr').length === 500 && has('{'x' * (length - 3)}')")
        tab.eval("document.getElementById('select-all').click()")
        assert tab.eval("text('open-selected')") == said
        assert tab.eval("document.getElementById('open-selected').hasAttribute('href')") is said.startswith("Open")
    for status, said in ((403, "the address needs a new token: run `rrd serve`"),
                         (502, "the daemon is away, trying again…")):
        tab.until("window.answer !== undefined")
        tab.eval(f"answer(new Response('', {{ status: {status} }})); answer = undefined")
        tab.until(f"text('summary') === {json.dumps(said)}")


def test_reruns_own_viewers_open_the_address_of_a_recording(daemon, open_tab, rerun, tmp_path, verify):
    with Program(daemon, "app", rows=150, pause=0.02) as program:
        program.wait_row(20)
        page = urlsplit(serve(daemon))
        url = f"http://{page.netloc}/recordings/app.rrd?{page.query.split('&')[1]}"
        env = {**daemon.env, "NO_COLOR": "1", "RUST_LOG": "info"}
        with (open(tmp_path / "log", "w+") as log,
              subprocess.Popen([rerun, "--serve-web", "--web-viewer-port", "0", "--bind", "127.0.0.1", url], env=env,
                               stdout=log, stderr=log) as web):
            try:
                # The native program reads the recording as it grows, until it ends.
                native = subprocess.Popen([rerun, "--save", tmp_path / "native.rrd", url], env=env, stdout=log,
                                          stderr=log)
                said = re.compile(r"connect at (http://\S+)")
                tab = open_tab(wait_for(lambda: said.search((tmp_path / "log").read_text()), "its page")[1])
                program.finish()
                assert native.wait(60) == 0
                tab.until("new TextDecoder().decode(_handle.viewer_state()).includes(':app:app')", 90)
            finally:
                web.terminate()
    verify(tmp_path / "native.rrd")
    assert rows(tmp_path / "native.rrd") == list(range(150))


@pytest.mark.parametrize("version", ["0.31.4", "0.36.3"])
def test_the_viewer_inside_the_executable(home, open_tab, sdk_python, version):
    """An environment without rerun-notebook: its `rerun` executable has a web viewer too. The data's SDK is older."""
    packages = subprocess.run([sdk_python(version), "-c", "import rerun_bindings as b; print(b.__file__)"],
                              capture_output=True, text=True, check=True).stdout
    binary = Path(packages.strip()).parents[1] / "rerun_sdk" / "rerun_cli"
    hidden = home.path / "hidden"  # on the daemon's path before its own environment: no notebook is found there
    for name in ("rerun_notebook", "rerun_bindings", "rerun_cli"):
        (hidden / name).mkdir(parents=True)
        (hidden / name / "__init__.py").touch()
    home.env["PYTHONPATH"] = os.fspath(hidden)
    home.env["PATH"] = f"{binary}:/usr/bin:/bin"
    home.cli("daemon", "start")
    del home.env["PYTHONPATH"]
    with Program(home, "app", rows=50, python=sdk_python(version)) as program:
        program.finish()
    answer = json.loads(home.cli("serve", "--no-open", "--json", "--port", "0", "@latest").stdout)
    assert answer["viewer"]["version"] == version
    tab = open_tab(answer["url"])
    tab.until("window.rrd && rrd.state === 'ended'", 90)
    assert tab.eval("rrd.error") == ""
    assert tab.eval("rrdViewer.handle.has_panicked()") is False
    tab.until("rrdViewer.handle.get_active_recording_id() !== undefined")


@pytest.mark.parametrize("version", ["0.27.3", "0.31.4", "0.36.3"])
def test_the_viewers_of_older_notebooks(home, open_tab, sdk_python, notebook, version):
    """From the first whose wasm is a file of its own. The data's SDK is of the same version."""
    home.env["PYTHONPATH"] = os.fspath(notebook(version))
    home.env["PATH"] = "/usr/bin:/bin"
    home.cli("daemon", "start")
    del home.env["PYTHONPATH"]
    with Program(home, "app", rows=50, python=sdk_python(version)) as program:
        program.finish()
    answer = json.loads(home.cli("serve", "--no-open", "--json", "--port", "0", "@latest").stdout)
    assert answer["viewer"]["version"] == version
    tab = open_tab(answer["url"])
    tab.until("window.rrd && rrd.state === 'ended'", 90)
    assert tab.eval("rrd.error") == ""
    tab.until("rrdViewer.get_active_recording_id() !== null")
    assert tab.eval("rrdViewer.get_time_range(rrdViewer.get_active_recording_id(), 'frame').max") == 49


def test_data_newer_than_the_viewer_is_said_on_the_page(daemon, open_tab):
    with Program(daemon, "app", rows=5) as program:
        program.finish()
    tab = open_tab("about:blank")
    # The page learns its viewer's version from its configuration: here, one that is older than the data.
    tab.command("Page.addScriptToEvaluateOnNewDocument", source="""
      const parse = JSON.parse;
      JSON.parse = text => {
        const found = parse(text);
        if (found?.viewer?.version) found.viewer.version = [0, 40, 0];
        return found;
      };
    """)
    tab.goto(serve(daemon, "@latest"))
    tab.until("window.rrd && rrd.state === 'ended'", 90)
    assert "0.41.0" in tab.eval("document.getElementById('notice').textContent")


def test_refusals(daemon, open_tab):
    url = serve(daemon)
    parts = urlsplit(url)
    tab = open_tab(f"http://{parts.netloc}/view?source=@live")
    tab.until("document.body && document.body.textContent.includes('needs a token')")
    assert get(f"http://{parts.netloc}/?token=wrong")[0] == 403
    assert get(url, Host="evil.example")[0] == 421
    assert get(url, Origin="http://evil.example")[0] == 403
    assert url.split("token=")[1] not in daemon.log
    # Another site's page, here of another port: the browser itself sends cookies and origin.
    other = serve(daemon)
    mine = open_tab(url)
    mine.until("window.rrd && rrd.state === 'waiting'", 90)
    foreign = open_tab(other)
    foreign.until("window.rrd && rrd.state === 'waiting'", 90)
    outcome = foreign.eval(f"""new Promise(resolve => {{
      const socket = new WebSocket("ws://{parts.netloc}/ws");
      socket.onopen = () => resolve("open"); socket.onerror = () => resolve("refused");
    }})""")
    assert outcome == "refused"


def test_what_the_command_says(daemon):
    first = daemon.cli("serve", "--no-open").stdout.splitlines()
    again = daemon.cli("serve", "--no-open").stdout.splitlines()
    assert first == again, "one server, one address"
    assert first[0].startswith("http://127.0.0.1:")
    assert "token=" in first[0]
    session = {"SSH_CONNECTION": "10.0.0.5 4444 10.0.0.9 2222", "USER": "ann"}
    tunnel = daemon.cli("serve", env=daemon.env | session).stdout
    port = urlsplit(first[0]).port
    assert f"ssh -N -L {port}:127.0.0.1:{port} ann@10.0.0.9 -p 2222" in tunnel
    refused = daemon.cli("serve", "--bind", "0.0.0.0", "--no-token", check=False)
    assert refused.returncode == 1
    assert "--allow-anyone" in refused.stderr
    taken = daemon.cli("serve", "--port", port, "--token", "other", check=False)
    assert taken.returncode == 1
    assert "taken" in taken.stderr
    sink = daemon.status()["sinks"][0]
    daemon.cli("detach", sink["id"])
    assert _status(first[0]) == 0


def test_a_file_that_is_a_link_to_a_log_is_what_its_page_shows(daemon):
    with Program(daemon, "app", rows=5) as program:
        program.finish()
    daemon.cli("save", "run.rrd", "--wait")
    assert (daemon.path / "run.rrd").stat().st_nlink == 2
    assert f"source=stream:{next(daemon.spool.glob('*.rrd')).stem}&" in serve(daemon, "run.rrd")
    (daemon.path / "other.rrd").write_bytes((daemon.path / "run.rrd").read_bytes())
    assert f"source=file:{daemon.path}/other.rrd&" in serve(daemon, "other.rrd")


def test_a_program_that_serves_says_where(daemon):
    script = "import rerun as rr, rrd; rr.init('app'); print(rrd.serve(open_browser=False).path)"
    session = {"SSH_CONNECTION": "10.0.0.5 4444 10.0.0.9 22", "USER": "ann"}
    done = subprocess.run([sys.executable, "-c", script], env=daemon.env | session, capture_output=True, text=True,
                          check=True)
    assert f"rrd: {done.stdout}" in done.stderr
    assert "ssh -N -L" in done.stderr


def test_a_browser_is_opened_with_a_ticket_that_is_good_once(daemon):
    seen = daemon.path / "seen"
    script = daemon.path / "browser"
    script.write_text(f'#!/bin/sh\necho "$@" > {seen}.new && mv {seen}.new {seen}\n')
    script.chmod(0o755)
    answer = json.loads(daemon.cli("serve", "--json", env={**daemon.env, "BROWSER": os.fspath(script)}).stdout)
    assert answer["opened"] is True
    opened = wait_for(lambda: seen.exists() and seen.read_text().strip(), "the browser")
    assert answer["url"].split("token=")[1] not in opened
    assert get(opened)[0] == 200
    assert get(opened)[0] == 403

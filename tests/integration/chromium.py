"""A headless Chromium for tests, driven over its DevTools protocol.

Rules: one browser process a `Browser`, with a profile of its own; the protocol goes over two pipes (NUL-terminated
JSON), so that there is no port to find and nothing to install; every wait has a deadline.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-extensions",
    "--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--no-default-browser-check",
]


class BrowserError(Exception):
    """The browser, or a script in it, said no."""


class Browser:
    """A running Chromium.

    Args:
        flags: More command line flags.
        size: Of its windows, pixels.
    """

    def __init__(self, *flags: str, size: tuple[int, int] = (1100, 750)) -> None:
        assert BINARY is not None
        self._profile = tempfile.mkdtemp(prefix="rrd-chromium-")
        to_read, self._to = os.pipe()
        self._from, from_write = os.pipe()
        command = [BINARY, *FLAGS, *flags, f"--window-size={size[0]},{size[1]}", f"--user-data-dir={self._profile}",
                   "--remote-debugging-pipe", "about:blank"]

        def arrange() -> None:  # Chromium reads commands from descriptor 3 and answers on 4
            os.dup2(to_read, 103)
            os.dup2(from_write, 104)
            os.dup2(103, 3)
            os.dup2(104, 4)

        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self.process = subprocess.Popen(command, preexec_fn=arrange, close_fds=False, start_new_session=True,
                                        stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        os.close(to_read)
        os.close(from_write)
        self._buffer = b""
        self._next = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self.tabs: dict[str, Tab] = {}
        self.command("Browser.getVersion", timeout=60)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it and remove its profile."""
        try:
            self.command("Browser.close", timeout=5)
            self.process.wait(5)
        except (BrowserError, OSError, subprocess.TimeoutExpired):
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        os.close(self._to)
        os.close(self._from)
        self._log.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def command(self, method: str, timeout: float = 30, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Say a DevTools command and wait for its answer."""
        self._next += 1
        message: dict[str, Any] = {"id": self._next, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        try:
            os.write(self._to, json.dumps(message).encode() + b"\0")
        except BrokenPipeError as error:
            raise BrowserError(f"the browser is gone: {self._said()}") from error
        wanted, deadline = self._next, time.monotonic() + timeout
        while wanted not in self._answers:
            self._pump(deadline, method)
        answer = self._answers.pop(wanted)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read()[-2000:].decode(errors="replace")

    def _pump(self, deadline: float, what: str) -> None:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._from], [], [], left)[0]:
            raise BrowserError(f"{what}: no answer in time")
        data = os.read(self._from, 1 << 20)
        if not data:
            raise BrowserError(f"the browser is gone: {self._said()}")
        *whole, self._buffer = (self._buffer + data).split(b"\0")
        for raw in whole:
            message = json.loads(raw)
            if "id" in message:
                self._answers[message["id"]] = message
            elif (tab := self.tabs.get(message.get("sessionId", ""))) is not None:
                tab.heard(message["method"], message["params"])

    def tab(self, url: str = "about:blank") -> Tab:
        """A new tab."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self.tabs[session] = Tab(self, target, session)
        tab.command("Page.enable")
        tab.command("Runtime.enable")
        if url != "about:blank":
            tab.goto(url)
        return tab


class Tab:
    """One tab. `errors` collects uncaught exceptions and console errors."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self.browser = browser
        self.target = target
        self.session = session
        self.errors: list[str] = []

    def command(self, method: str, timeout: float = 30, **params: Any) -> dict[str, Any]:
        """Say a DevTools command to this tab."""
        return self.browser.command(method, timeout, self.session, **params)

    def heard(self, method: str, params: dict[str, Any]) -> None:
        """Take note of an event."""
        if method == "Runtime.exceptionThrown":
            detail = params["exceptionDetails"]
            self.errors.append(detail.get("exception", {}).get("description") or detail["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(" ".join(str(arg.get("value") or arg.get("description")) for arg in params["args"]))

    def goto(self, url: str) -> None:
        """Open an address; returns when the browser has begun to."""
        result = self.command("Page.navigate", url=url)
        if result.get("errorText"):
            raise BrowserError(f"{url}: {result['errorText']}")

    def eval(self, expression: str, timeout: float = 30) -> Any:
        """Value of an expression in the page; promises are awaited."""
        result = self.command(
            "Runtime.evaluate", timeout, expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in result:
            detail = result["exceptionDetails"]
            raise BrowserError(detail.get("exception", {}).get("description") or detail["text"])
        return result["result"].get("value")

    def until(self, expression: str, timeout: float = 60) -> Any:
        """Ask until the expression is true; its value."""
        deadline, value = time.monotonic() + timeout, None
        while time.monotonic() < deadline:
            try:
                value = self.eval(expression)
            except BrowserError as error:  # between two pages, or not defined yet
                value, said = None, str(error)
            else:
                said = repr(value)
            if value:
                return value
            time.sleep(0.05)
        raise BrowserError(f"not within {timeout} s: {expression}; last: {said}; errors: {self.errors[-5:]}")

    def screenshot(self, path: Path) -> Path:
        """A picture of the tab as PNG."""
        data = self.command("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def close(self) -> None:
        """Close it."""
        self.browser.tabs.pop(self.session, None)
        self.browser.command("Target.closeTarget", targetId=self.target)

"""A headless Chromium that is told what to do over a pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from pathlib import Path

WAIT_S = 60.0  # for one answer, on a machine that is busy
BROKEN = """(() => {
  const lines = (cell) => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return range.getClientRects().length;
  };
  return [...document.querySelectorAll('td')].filter((cell) => /^[\\w.]{1,15}$/.test(cell.innerText) && !cell.children.length)
    .filter((cell) => lines(cell) > 1).map((cell) => cell.innerText);
})()"""  # the short words in a table that do not stand on one line


class Browser:
    """One page of one browser; every event that it tells of is kept."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",  # which is small in a container
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]
        quoted = f'exec 3<&{to_browser} 4>&{from_browser}; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", quoted, "bash", *command, "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest, self._number, self._session = b"", 0, ""
        self.events: list[dict] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        self._session = ""
        self.ask("Browser.close")
        self._process.wait(30)
        os.close(self._write)
        os.close(self._read)

    def ask(self, method: str, **parameters: object) -> dict:
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def visit(self, url: str) -> None:
        """Load a page and wait until it is there."""
        del self.events[:]
        self.ask("Page.navigate", url=url)
        self.loaded()

    def loaded(self) -> None:
        """Wait for the load that has begun."""
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> object:
        """Return what an expression is worth on the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def resized(self, width: int, *, is_dark: bool = False) -> None:
        """Look through a screen of that width, by day or by night."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self) -> bytes:
        """Return the whole page as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def methods(self, name: str) -> list[dict]:
        """Return the parameters of the events of one kind."""
        return [event["params"] for event in self.events if event.get("method") == name]

    def _next(self) -> dict:
        deadline = time.monotonic() + WAIT_S
        while b"\0" not in self._rest:
            is_there, *_ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert is_there, "the browser does not answer"
            piece = os.read(self._read, 1 << 16)
            assert piece, "the browser is gone"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

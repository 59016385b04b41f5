"""Chromium without a window, driven by its own protocol (CDP) over one WebSocket. Each wait has a deadline.

Keys, sizes and colour schemes are the browser's own (``Input``, ``Emulation``), so that what a test types takes the way
that a person's keys take.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

AXE = Path(__file__).with_name("axe.min.js")
DEADLINE_S = 120.0
_NAVIGATED = (
    "Inspected target navigated or closed",
    "Execution context was destroyed",
    "Cannot find default execution context",
)
_KEYS = {
    "Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38,
    "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip


def find_chromium() -> str | None:
    """Return Debian's Chromium, or another one of that name."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class NavigatedError(AssertionError):
    """The page that was asked is gone, and another one comes."""


class Tab:
    """One page of the browser; what it reported against the content security policy is in ``reports``."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, session: str) -> None:
        self._socket = socket
        self._session = session
        self._numbers = itertools.count(100)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.reports: list[str] = []
        self.faults: list[str] = []

    async def read(self) -> None:
        """Read what the browser sends, until it ends."""
        async for message in self._socket:
            said = json.loads(message.data)
            if (waiting := self._waiting.pop(said.get("id", 0), None)) is not None:
                waiting.set_result(said)
            elif said.get("method") == "Audits.issueAdded":
                issue = said["params"]["issue"]
                if issue["code"] == "ContentSecurityPolicyIssue":
                    self.reports.append(json.dumps(issue["details"]))
            elif said.get("method") == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.faults.append(said["params"]["entry"]["text"])
            elif said.get("method") == "Runtime.exceptionThrown":
                self.faults.append(json.dumps(said["params"]["exceptionDetails"])[:2000])

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "sessionId": self._session, "method": method, "params": parameters})
        async with asyncio.timeout(DEADLINE_S):
            said = await waiting
        if said.get("error", {}).get("message", "").rstrip(".") in _NAVIGATED:
            raise NavigatedError(said)
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    async def run(self, script: str) -> Any:
        """Evaluate an expression in the page; a promise's value."""
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def wait_for(self, script: str) -> None:
        """Wait until an expression is true."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not await self._is_true(script):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"never true: {script}; the page: {await self.text()}; {self.faults}") from None

    async def _is_true(self, script: str) -> bool:
        with suppress(NavigatedError):
            return bool(await self.run(f"Boolean({script})"))
        return False

    async def text(self) -> str:
        """Return the page's text."""
        return str(await self.run("document.body.innerText"))

    async def open(self, url: str, wanted: str) -> None:
        """Load a page and wait for an expression."""
        await self.call("Page.navigate", url="about:blank")
        await self.call("Page.navigate", url=url)
        await self.wait_for(f"location.href !== 'about:blank' && ({wanted})")

    async def press(self, key: str) -> None:
        """Press and release a key."""
        code = _KEYS[key]
        text = {"Enter": "\r", " ": " "}.get(key, "")
        shared = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        await self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **shared)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    async def show_as(self, *, width: int, height: int, scheme: str) -> None:
        """Take a size in CSS pixels, and the light or dark scheme."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def check_access(self) -> list[str]:
        """Run axe on the page; return its serious and critical findings."""
        await self.run(AXE.read_text(encoding="utf-8") + ";0")
        found = await self.run(
            "axe.run(document, {resultTypes: ['violations']}).then((done) => done.violations"
            ".filter((each) => ['serious', 'critical'].includes(each.impact))"
            ".map(({id, nodes}) => id + ': ' + nodes.map((each) => each.target + each.failureSummary).join('; ')))"
        )
        return [str(each) for each in found]

    async def photograph(self) -> bytes:
        """Return the visible part as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])


@asynccontextmanager
async def running_browser(directory: Path) -> AsyncIterator[Tab]:
    """Start Chromium with a profile of its own and yield its only page."""
    program = find_chromium()
    assert program is not None
    options = [
        "--headless", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--remote-debugging-port=0", f"--user-data-dir={directory / 'profile'}",
        # The sandbox doesn't run as root. Only our own page is loaded.
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ]  # fmt: skip
    with (directory / "chromium.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  # Short.
            [program, *options, "about:blank"], stdout=log, stderr=log, start_new_session=True
        )
        try:
            async with (
                aiohttp.ClientSession() as http,
                http.ws_connect(
                    await _find_endpoint(directory / "profile/DevToolsActivePort", process), max_msg_size=0
                ) as socket,
            ):
                tab = await _attach(socket)
                reading = asyncio.ensure_future(tab.read())
                try:
                    for method in ("Page.enable", "Runtime.enable", "Log.enable", "Audits.enable"):
                        await tab.call(method)
                    yield tab
                finally:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with suppress(ProcessLookupError):  # Its helpers, which would otherwise still write into the profile.
                os.killpg(process.pid, signal.SIGKILL)


async def _find_endpoint(file: Path, process: subprocess.Popen[bytes]) -> str:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            assert process.poll() is None, "Chromium ended"
            with suppress(FileNotFoundError, ValueError):
                port, path = file.read_text(encoding="utf-8").split()
                return f"ws://127.0.0.1:{port}{path}"
            await asyncio.sleep(0.05)


async def _attach(socket: aiohttp.ClientWebSocketResponse) -> Tab:
    async def ask(number: int, method: str, **parameters: Any) -> dict[str, Any]:
        await socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(DEADLINE_S):
            while True:
                said = await socket.receive_json()
                if said.get("id") == number:
                    result: dict[str, Any] = said["result"]
                    return result

    targets = (await ask(1, "Target.getTargets"))["targetInfos"]
    target = next(each["targetId"] for each in targets if each["type"] == "page")
    session = (await ask(2, "Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
    return Tab(socket, session)

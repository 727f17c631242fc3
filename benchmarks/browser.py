"""Control a headless Chromium with real input events, by the DevTools protocol over pipes."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Without a network, looking for updates would delay the start until a timeout.
FLAGS = [
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]


def program() -> str | None:
    """Return the path of Chromium, or None if it is not installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """Control one page.

    Attributes:
        errors: errors of the console and violations of the security policy.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._buffer = commands, answers, b""
        self._numbers, self._session, self.errors = itertools.count(1), None, []
        self._fingers: dict[int, dict[str, float]] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Run a command of the protocol and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while True:
            answer = self._next(deadline)
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(answer["params"])

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select(
                [self._answers], [], [], max(0, deadline - time.monotonic())
            )
            assert ready, "the browser does not respond"
            part = os.read(self._answers, 2**20)
            assert part, "the browser has ended"
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def open(self, file: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Open a page and wait until it is ready."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=file.resolve().as_uri())
        self.wait("document.body && document.body.dataset.ready === 'yes'")

    def run(self, code: str) -> Any:
        """Run JavaScript and return its value. A promise is awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + 30
        while not self.run(condition):
            assert time.monotonic() < deadline, condition
            time.sleep(0.02)

    def mouse(self, kind: str, x: float, y: float, button: str = "left") -> None:
        """Move the mouse to a point (`Moved`), or press or release a button (`Pressed`, ...)."""
        self.call(
            "Input.dispatchMouseEvent",
            type=f"mouse{kind}",
            x=x,
            y=y,
            button=button,
            buttons={"left": 1, "right": 2}[button],
            clickCount=1,
        )

    def touch(self, finger: int, kind: str, x: float = 0, y: float = 0) -> None:
        """Put a finger down on a point, move it, or lift it: `Down`, `Move`, `Up`."""
        self._fingers.pop(finger, None)
        if kind != "Up":
            self._fingers[finger] = {"x": x, "y": y, "id": finger}
        points = list(self._fingers.values())
        # DevTools expects touchEnd without points. While other fingers touch, an event without this
        # finger lifts it.
        event = {
            "Down": "touchStart",
            "Move": "touchMove",
            "Up": "touchMove" if points else "touchEnd",
        }[kind]
        self.call("Input.dispatchTouchEvent", type=event, touchPoints=points)

    def key(self, key: str, modifiers: int = 0, times: int = 1) -> None:
        """Press a key, hold it until it has repeated `times - 1` times, and release it.

        `modifiers` is a sum of 1 for Alt, 2 for Ctrl, 4 for Meta and 8 for Shift.
        """
        for n in range(times):
            self.call(
                "Input.dispatchKeyEvent",
                type="keyDown",
                key=key,
                modifiers=modifiers,
                autoRepeat=n > 0,
            )
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, modifiers=modifiers)

    def screenshot(self, file: Path) -> None:
        """Write a PNG picture of the page."""
        file.write_bytes(
            base64.b64decode(
                self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
            )
        )


@contextmanager
def started(profile: Path) -> Iterator[Browser]:
    """Start Chromium with an empty profile folder."""
    (their_input, commands), (answers, their_output) = os.pipe(), os.pipe()
    flags = [*FLAGS, f"--user-data-dir={profile}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]

    # Chromium reads from 3 and writes to 4.
    shell = [
        "bash",
        "-c",
        f'exec "$0" "$@" 3<&{their_input} 4>&{their_output}',
        program() or NAMES[0],
        *flags,
    ]
    process = subprocess.Popen(
        shell, pass_fds=(their_input, their_output), stderr=subprocess.DEVNULL
    )
    os.close(their_input)
    os.close(their_output)
    try:
        yield Browser(commands, answers)
    finally:
        process.kill()
        process.wait()
        os.close(commands)
        os.close(answers)

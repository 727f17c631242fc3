"""Control a headless Firefox like `benchmarks.browser` controls Chromium, by WebDriver BiDi."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("firefox-esr", "firefox")
START = 120  # seconds that Firefox may take to start
ANSWER = 60  # seconds that a command may take
SPECIAL_KEYS = {
    "ArrowLeft": "\ue012",
    "ArrowUp": "\ue013",
    "ArrowRight": "\ue014",
    "ArrowDown": "\ue015",
    "Enter": "\ue007",
}
MODIFIER_KEYS = {
    1: "\ue00a",
    2: "\ue009",
    4: "\ue03d",
    8: "\ue008",
}  # Alt, Ctrl, Meta, Shift, as in DevTools
BUTTONS = {"left": 0, "right": 2}


def program() -> str | None:
    """Return the path of Firefox, or None if it is not installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Firefox:
    """Control one page. `errors` holds the errors that its console received."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._number, self.errors = socket, 0, []
        self.call("session.new", capabilities={})
        self.call("session.subscribe", events=["log.entryAdded"])
        self._context = self.call("browsingContext.getTree")["contexts"][0]["context"]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Run a command of the protocol and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        deadline = time.monotonic() + ANSWER
        while True:
            message = json.loads(self._socket.recv(max(0, deadline - time.monotonic())))
            if message.get("id") == self._number:
                assert message["type"] == "success", message
                return message["result"]
            if message.get("method") == "log.entryAdded" and message["params"]["level"] == "error":
                self.errors.append(message["params"])

    def open(self, file: Path, width: int = 1200, height: int = 900) -> None:
        """Open a page and wait until it is ready."""
        viewport = {"width": width, "height": height}
        self.call("browsingContext.setViewport", context=self._context, viewport=viewport)
        self.call(
            "browsingContext.navigate",
            context=self._context,
            url=file.resolve().as_uri(),
            wait="complete",
        )
        self.wait("document.body.dataset.ready === 'yes'")

    def run(self, code: str) -> Any:
        """Run JavaScript and return its value. A promise is awaited."""
        answer = self.call(
            "script.evaluate",
            expression=f"(async () => JSON.stringify(await ({code}) ?? null))()",
            target={"context": self._context},
            awaitPromise=True,
            userActivation=True,
        )
        assert answer["type"] == "success", answer
        return json.loads(answer["result"]["value"])

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + ANSWER
        while not self.run(condition):
            assert time.monotonic() < deadline, condition
            time.sleep(0.02)

    def mouse(self, kind: str, x: float, y: float, button: str = "left") -> None:
        """Move the mouse to a point (`Moved`), or press or release a button (`Pressed`, ...)."""
        actions = [{"type": "pointerMove", "x": round(x), "y": round(y)}]
        if kind != "Moved":
            actions.append(
                {
                    "type": {"Pressed": "pointerDown", "Released": "pointerUp"}[kind],
                    "button": BUTTONS[button],
                }
            )
        self._act("pointer", "mouse", actions, parameters={"pointerType": "mouse"})

    def touch(self, finger: int, kind: str, x: float = 0, y: float = 0) -> None:
        """Put a finger down on a point, move it, or lift it: `Down`, `Move`, `Up`."""
        actions = [{"type": "pointerMove", "x": round(x), "y": round(y)}] if kind != "Up" else []
        actions += [{"type": f"pointer{kind}", "button": 0}] if kind != "Move" else []
        self._act("pointer", f"finger {finger}", actions, parameters={"pointerType": "touch"})

    def key(self, key: str, modifiers: int = 0, times: int = 1) -> None:
        """Press a key, hold it until it has repeated `times - 1` times, and release it.

        `modifiers` is a sum of 1 for Alt, 2 for Ctrl, 4 for Meta and 8 for Shift.
        """
        held = [value for bit, value in MODIFIER_KEYS.items() if modifiers & bit]
        value = SPECIAL_KEYS.get(key, key)
        down = [{"type": "keyDown", "value": each} for each in [*held, *times * [value]]]
        up = [{"type": "keyUp", "value": each} for each in [value, *reversed(held)]]
        self._act("key", "keyboard", down + up)

    def _act(self, kind: str, name: str, actions: list[dict[str, Any]], **more: Any) -> None:
        source = {"type": kind, "id": name, "actions": actions, **more}
        self.call("input.performActions", context=self._context, actions=[source])

    def screenshot(self, file: Path) -> None:
        """Write a PNG picture of the page."""
        data = self.call(
            "browsingContext.captureScreenshot", context=self._context, origin="document"
        )["data"]
        file.write_bytes(base64.b64decode(data))


@contextmanager
def started(profile: Path, preferences: Mapping[str, bool]) -> Iterator[Firefox]:
    """Start Firefox with an empty profile folder and with preferences."""
    lines = [
        f"user_pref({json.dumps(name)}, {json.dumps(value)});\n"
        for name, value in preferences.items()
    ]
    profile.joinpath("user.js").write_text("".join(lines))
    command = [
        program() or NAMES[0],
        "--headless",
        "--no-remote",
        "--profile",
        f"{profile}",
        "--remote-debugging-port=0",
    ]
    process = subprocess.Popen(
        [*command, "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HOME": f"{profile}", "MOZ_CRASHREPORTER_DISABLE": "1"},
    )
    try:
        address = profile / "WebDriverBiDiServer.json"  # Firefox writes the port that it chose.
        deadline = time.monotonic() + START
        while not address.exists() or not address.read_text():
            assert process.poll() is None, "Firefox has ended"
            assert time.monotonic() < deadline, "Firefox does not start"
            time.sleep(0.05)
        server = json.loads(address.read_text())
        url = f"ws://{server['ws_host']}:{server['ws_port']}/session"
        with connect(
            url, max_size=None, open_timeout=START, ping_interval=None, proxy=None
        ) as socket:
            yield Firefox(socket)
    finally:
        process.kill()
        process.wait()

"""A real browser for the tests of pages, and a mitigator that fails."""

import base64
import itertools
import json
import os
import shutil
import subprocess

import pytest

from fairlearn_bridge import Reweighing
from fairlearn_bridge.catalogue import OTHERS, Other

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Browser:
    """Headless Chromium, told what to do over a pipe in its DevTools protocol: that needs no driver and no port."""

    def __init__(self, profile):
        (commands, self._write), (self._read, answers) = os.pipe(), os.pipe()

        def connect():
            # It reads commands from descriptor 3 and answers on 4. Copies out of the way first: they may be 3 and 4.
            copies = os.dup(commands), os.dup(answers)
            os.dup2(copies[0], 3)
            os.dup2(copies[1], 4)

        options = ["--headless", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
        options += ["--disable-component-update", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # without which it does not start for root, as in containers
        self._process = subprocess.Popen(
            [CHROMIUM, *options, "about:blank"],
            preexec_fn=connect,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._numbers = itertools.count(1)
        self._buffer = b""
        self.events = []
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _next(self):
        while b"\0" not in self._buffer:
            received = os.read(self._read, 1 << 20)
            assert received, "the browser has ended"
            self._buffer += received
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def show(self, path, width=1200, height=900, theme="light", media="screen"):
        """Open a page as a screen of that size, or a printer, would."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression):
        """Return the value of a JavaScript expression, once it has one."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def press(self, key, code):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, path):
        height = self.evaluate("document.documentElement.scrollHeight")
        width = self.evaluate("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    @property
    def complaints(self):
        """What the console was told since the page was opened, and exceptions that nothing caught."""
        self.evaluate("new Promise(done => setTimeout(done, 50))")  # by when all has been reported
        told = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event["params"] for event in self.events if event.get("method") in told]

    @property
    def requests(self):
        """The addresses asked for since the page was opened."""
        asked = (event for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in asked]

    def close(self):
        self._session = None
        self.call("Browser.close")
        self._process.wait(timeout=300)
        os.close(self._write)
        os.close(self._read)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("needs chromium, chromium-browser, google-chrome or chrome")
    if os.name != "posix":
        pytest.skip("needs descriptors to be passed on, which Windows does not do this way")
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


class FailsWithSeed1(Reweighing):
    """Fails with seed 1, as long as a file is there."""

    def __init__(self, estimator, *, flag, random_state=None):
        super().__init__(estimator)
        self.flag = flag
        self.random_state = random_state

    def fit(self, X, y, *, sensitive_features):
        if self.random_state == 1 and self.flag.exists():
            raise KeyError("oops")
        return super().fit(X, y, sensitive_features=sensitive_features)


@pytest.fixture
def fails_with_seed_1(tmp_path, monkeypatch):
    """Have the commands take ``--others broken``, which fails with seed 1 until the file returned is removed."""
    flag = tmp_path / "flag"
    flag.touch()
    other = Other(lambda base: FailsWithSeed1(base, flag=flag), "Fails with one seed.")
    monkeypatch.setitem(OTHERS, "broken", other)
    return flag

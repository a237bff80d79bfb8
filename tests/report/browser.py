"""A small WebDriver client for Debian's chromedriver; the standard library only."""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

CHARTS = "return document.documentElement.dataset.charts"
_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


class Browser:
    """One headless window."""

    def __init__(self, url, session):
        self._session = f"{url}/session/{session}"

    def open(self, path, width=1440, height=1000, scheme="light", script=True, ready=CHARTS):
        """Show a file in a window of this size and color scheme, and wait until it is ready."""
        device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._devtools("Emulation.setDeviceMetricsOverride", device)
        self._devtools("Emulation.setScriptExecutionDisabled", {"value": not script})
        self.prefer(scheme)
        _call(f"{self._session}/url", {"url": path.as_uri()})
        if script:
            self.wait(ready)

    def prefer(self, scheme):
        """Change the color scheme of the page that is open."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._devtools("Emulation.setEmulatedMedia", {"features": [feature]})

    def wait(self, script, seconds=60):
        """Wait until a script returns something true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            if time.monotonic() > end:
                raise TimeoutError(f"still false after {seconds} s: {script}")
            time.sleep(0.1)

    def run(self, script):
        """Run JavaScript in the page and return its value."""
        return _call(f"{self._session}/execute/sync", {"script": script, "args": []})

    def errors(self):
        """Fetch what the console has to complain about."""
        entries = _call(f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, path, whole=False):
        """Take a picture of the window, or of the whole page."""
        options = {"captureBeyondViewport": whole}
        if whole:
            size = self._devtools("Page.getLayoutMetrics", {})["cssContentSize"]
            options["clip"] = {**size, "scale": 1}
        picture = self._devtools("Page.captureScreenshot", options)["data"]
        path.write_bytes(base64.b64decode(picture))

    def close(self):
        """End the browser."""
        _call(self._session, method="DELETE")

    def _devtools(self, command, parameters):
        content = {"cmd": command, "params": parameters}
        return _call(f"{self._session}/goog/cdp/execute", content)


@contextlib.contextmanager
def browser(folder: Path):
    """Start a browser with a profile of its own, and end it with its driver."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [DRIVER, f"--port={port}", "--silent"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        try:
            url = f"http://127.0.0.1:{port}"
            window = Browser(url, _start(url, folder))
            try:
                yield window
            finally:
                window.close()
        finally:
            driver.terminate()


def _start(url, folder):
    options = {"binary": BROWSER, "args": [*_ARGUMENTS, f"--user-data-dir={folder}"]}
    wanted = {
        "browserName": "chrome",
        "goog:chromeOptions": options,
        "goog:loggingPrefs": {"browser": "ALL"},
    }
    for _ in range(100):
        with contextlib.suppress(urllib.error.URLError):
            if _call(f"{url}/status")["ready"]:
                break
        time.sleep(0.1)
    return _call(f"{url}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]


def _call(url, content=None, method=None):
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with _without_proxy.open(request, timeout=120) as answer:
        return json.load(answer)["value"]


_without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))

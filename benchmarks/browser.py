"""Headless Chromium by Selenium: pages as users see them, and every request that they make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from common.errors import UserError

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

BROWSERS, DRIVERS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)
SCHEMES = ("http", "https", "ws", "wss")  # what leaves the browser: not data:, blob: and its own chrome:
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-quic"]
FLAGS += ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def find_browser() -> tuple[str, str] | None:
    """Paths of Chromium and of its driver; None without one of them."""
    browser, driver = (next(filter(None, map(shutil.which, names)), None) for names in (BROWSERS, DRIVERS))
    return (browser, driver) if browser and driver else None


@contextmanager
def open_browser(url: str, width: int = 1280, height: int = 900) -> Iterator[Chrome]:
    """Context with a browser of its own, without a history, that has opened `url`, `width` x `height` CSS pixels large.

    Raises:
        UserError: Selenium, Chromium or its driver is missing.
    """
    try:
        from selenium import webdriver
    except ImportError as error:
        raise UserError('the browser needs Selenium: run `pip install "lightning-capstones[dev]"`') from error
    paths = find_browser()
    if paths is None:
        raise UserError("Chromium or its driver is missing: on Debian run `apt install chromium chromium-driver`")
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = paths[0]
        for flag in [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        browser = webdriver.Chrome(options, webdriver.ChromeService(paths[1]))
        try:
            resize(browser, width, height)
            browser.get(url)
            yield browser
        finally:
            browser.quit()


def resize(browser: Chrome, width: int, height: int) -> None:
    """Sets the size of the page in CSS pixels, also below the smallest window; one narrower than 600 is a phone's."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def requested_hosts(browser: Chrome) -> set[str]:
    """Hosts, with their ports, of all requests that the page has made since the last call."""
    hosts = set()
    for entry in browser.get_log("performance"):
        message: dict[str, Any] = json.loads(entry["message"])["message"]
        if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            url = message["params"].get("url") or message["params"]["request"]["url"]
            parts = urlsplit(url)
            if parts.scheme in SCHEMES:
                hosts.add(parts.netloc)
    return hosts

"""The browser that the tests of pages share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --enable-unsafe-swiftshader "
    "--window-size=1400,1000"
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Chromium for all tests, and a folder that it downloads into."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium or no chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    home = tmp_path_factory.mktemp("browser")
    for flag in (*FLAGS.split(), f"--user-data-dir={home / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    actual = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    actual.downloads = home / "downloads"
    downloads = {"behavior": "allow", "downloadPath": str(actual.downloads)}
    actual.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
    yield actual
    actual.quit()

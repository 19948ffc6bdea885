"""Chromium, in which tests open pages."""

import shutil
from contextlib import contextmanager

import pytest

from tests import reference

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
OPTIONS = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
)


@contextmanager
def driven(profile):
    """A driver of Chromium with a profile in that folder; without the programs the test is skipped, or fails where it
    must not be.
    """
    if not (CHROMIUM and DRIVER):
        lacks = "no chromium with chromedriver on this machine"
        pytest.fail(lacks) if reference.REQUIRED else pytest.skip(lacks)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"user-data-dir={profile}"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()

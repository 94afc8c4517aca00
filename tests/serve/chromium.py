"""Chromium as tests drive it: found on the path, started by Playwright."""

import contextlib
import shutil

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)


def needed():
    """Leave out what needs a browser where there is none."""
    if BROWSER is None:
        pytest.skip(f"no {' or '.join(BROWSERS)} on the path: apt-get install chromium")


@contextlib.contextmanager
def driven():
    """A running Chromium, for the thread that asks."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Tests may run as root, where Chromium's own sandbox does not start.
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()

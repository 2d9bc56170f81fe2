"""A real browser: Chromium from the system's packages, driven by Playwright, cut off from every network."""

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str | None:
    """The program that MIL_TUTORIAL_BROWSER names, else the first Chromium on the PATH."""
    return os.environ.get("MIL_TUTORIAL_BROWSER") or next((p for n in NAMES if (p := shutil.which(n))), None)


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[site]' brings Playwright")
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium here: install it (Debian: apt install chromium), or name it in MIL_TUTORIAL_BROWSER")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Open an address in a fresh window. `page.faults` collects what the console and the network complain of."""
    contexts = []

    def open_(address, width=1500, height=1000, allow=("file:", "data:", "blob:"), **more):
        context = browser.new_context(viewport={"width": width, "height": height}, **more)
        contexts.append(context)
        page = context.new_page()
        page.faults = []
        page.on("console", lambda m: page.faults.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: page.faults.append(str(e)))

        def route(request):
            if request.request.url.startswith(tuple(allow)):
                return request.continue_()
            page.faults.append(f"asks the network for {request.request.url}")
            return request.abort()

        page.route("**/*", route)
        page.goto(str(address))
        return page

    yield open_
    for context in contexts:
        context.close()

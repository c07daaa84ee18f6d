"""The product and a browser, for tests that use both as a person does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from tests.conftest import missing
from tests.e2e.product import CHECKOUT, Product

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

LEAVING = ("htmx:afterRequest", "htmx:sendAbort")
"""What htmx logs when one leaves a page during its request; one that failed is logged as `htmx:sendError` or `htmx:responseError`."""


def chromium() -> str:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        missing("chromium")
    return str(program)


@pytest.fixture(scope="module")
def product(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The product, started once for a module; the module's DEVICES say which simulated devices it has."""
    with Product(tmp_path_factory.mktemp("product"), devices=getattr(request.module, "DEVICES", "sim:2x24GiB")) as started:
        shutil.copy(CHECKOUT / "mock_train.py", started.work)
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Module-scoped: while Playwright runs, Django takes the main thread for an asynchronous one."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=QUIET)
        yield started
        started.close()


@pytest.fixture(scope="module")
def cookies(browser: Browser, product: Product) -> list[Any]:
    """Of an administrator who came in by the link that `manage.py signin` prints; signing in is throttled, so once is enough."""
    context = browser.new_context()
    window = context.new_page()
    window.goto(product.sign_in_link())
    window.get_by_role("link", name="New job").first.wait_for()
    found = context.cookies()
    context.close()
    return list(found)


@pytest.fixture
def signed_in(page: Page, cookies: list[Any]) -> Page:
    page.context.add_cookies(cookies)
    return page


@pytest.fixture
def page(browser: Browser, product: Product) -> Iterator[Page]:
    """A fresh window; at the end nothing was wrong in its console, and it asked no other host for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
    window, wrong = context.new_page(), list[str]()

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(LEAVING):
            wrong.append(f"console: {message.text} ({message.location})")

    def asked(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob", "about") and parts.netloc != urlsplit(product.url).netloc:
            wrong.append(f"request to another host: {request.url}")

    window.on("console", heard)
    window.on("pageerror", lambda error: wrong.append(f"page error: {error}"))
    window.on("request", asked)
    window.set_default_timeout(15_000)
    yield window
    _keep_picture(window, os.environ.get("AT_PICTURES", ""))
    context.close()
    assert wrong == []


def _keep_picture(window: Page, folder: str) -> None:
    """For whoever wants to see what a test saw: AT_PICTURES names a folder."""
    if folder:
        name = os.environ.get("PYTEST_CURRENT_TEST", "page").partition("::")[2].partition(" ")[0]
        window.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """A failure shows what the product said."""
    report = yield
    started = getattr(item, "funcargs", {}).get("product")
    if report.failed and isinstance(started, Product):
        report.sections.append(("what the product said", started.told()))
    return report

"""What axe-core finds on the pages, light and dark, at a desk and on a phone: nothing serious.

tests/e2e/vendor/axe.min.js is axe-core 4.14.1 by Deque Systems, under the Mozilla Public License 2.0, as it was published.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page

from tests.e2e.product import Product

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
DESK, PHONE = (1280, 900), (390, 844)
FAILS = """python3 -c "
import sys
print('Epoch 3/10 loss: 0.3')
print('\\033[31mred\\033[0m')
d = {}
d['lr']
" """

ASK = """async () => (await axe.run(document, {resultTypes: ['violations']})).violations
    .filter(found => ['serious', 'critical'].includes(found.impact))
    .map(({id, nodes}) => [id, ...nodes.slice(0, 3).map(n => `${n.html.slice(0, 160)} ${n.failureSummary}`)].join(' | '))"""


@pytest.fixture(scope="module")
def pages(product: Product) -> dict[str, str]:
    """Name -> address of each page, with jobs in several states."""
    running = product.submit("echo 'Epoch 1/10'; sleep 600", name="runs", max_retries=1)["id"]
    failed = product.submit(FAILS, name="fails")["id"]
    product.submit("true", name="waits", min_gpus=2, max_gpus=2)
    product.wait(running, "running")
    product.wait(failed, "failed")
    paths = {
        "overview": "",
        "jobs": "jobs/?whose=all&state=",
        "new": "jobs/new/",
        "running": f"jobs/{running}/",
        "failed": f"jobs/{failed}/",
    }
    paths |= {"tokens": "account/tokens/", "password": "account/password/", "notifications": "account/notifications/"}
    return {name: f"{product.url}/{path}" for name, path in paths.items()}


@pytest.fixture(scope="module")
def looker(browser: Browser, cookies: list[Any]) -> Iterator[Page]:
    """One window for all: axe is not ours, so it does not go through our policy for scripts."""
    context = browser.new_context(bypass_csp=True, locale="en-US")
    context.add_cookies(cookies)
    context.add_init_script(path=AXE)
    yield context.new_page()
    context.close()


def seen(page: Page, address: str) -> list[str]:
    page.goto(address)
    page.wait_for_function("!document.querySelector('.htmx-request')")
    return [f"{address}: {found}" for found in page.evaluate(ASK)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing_serious(looker: Page, pages: dict[str, str], size: tuple[int, int], scheme: Literal["light", "dark"]) -> None:
    looker.set_viewport_size({"width": size[0], "height": size[1]})
    looker.emulate_media(color_scheme=scheme)
    assert [found for address in pages.values() for found in seen(looker, address)] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_where_one_signs_in(browser: Browser, product: Product, scheme: Literal["light", "dark"]) -> None:
    context = browser.new_context(bypass_csp=True, locale="en-US", color_scheme=scheme)
    context.add_init_script(path=AXE)
    found = seen(context.new_page(), f"{product.url}/signin/")
    context.close()
    assert found == []

"""What axe-core finds on the pages and in the admin, light and dark, at a desk and on a phone, in both languages: nothing serious.

What the admin's own frame (unfold) has that axe calls moderate stays: no main landmark, parts outside of landmarks, two that
are called alike (`landmark-one-main`, `region`, `landmark-unique`). Its templates would have to be copied to mend them.

tests/e2e/vendor/axe.min.js is axe-core 4.14.1 by Deque Systems, under the Mozilla Public License 2.0, as it was published.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page

from tests.e2e.product import Product

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
Scheme = Literal["light", "dark"]
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
    waiting = product.submit("true", name="waits", min_gpus=2, max_gpus=2)["id"]
    (product.work / "loss.py").write_text("old\n")
    swapped = product.submit("cat loss.py", name="swaps", min_gpus=0, max_gpus=0, swaps=[{"target": "loss.py", "content": "new\n"}])["id"]
    product.api("POST", "templates/", {"name": "kept", "fields": {"command": "true", "swaps": [{"target": "a", "source": "/b"}]}})
    product.wait(running, "running")
    product.wait(failed, "failed")
    product.wait(swapped, "completed")
    paths = {
        "overview": "",
        "jobs": "jobs/?whose=all&state=",
        "new": "jobs/new/",
        "running": f"jobs/{running}/",
        "failed": f"jobs/{failed}/",
        "waiting": f"jobs/{waiting}/",
        "swapped": f"jobs/{swapped}/",
        "templates": "jobs/templates/",
        "filled": "jobs/new/?template=kept&hosts=nowhere",
        "nothing": "nowhere/",
    }
    paths |= {f"admin {name}": path for name, path in admin_paths(waiting).items()}
    paths |= {
        "tokens": "account/tokens/",
        "password": "account/password/",
        "notifications": "account/notifications/",
        "chats": "account/chat/",
    }
    return {name: f"{product.url}/{path}" for name, path in paths.items()}


def admin_paths(job: int) -> dict[str, str]:
    """Lists, forms to change and forms to add; the job's has all fields, since it waits."""
    lists = ("job", "host", "device", "user", "notification", "auditentry", "personaltoken")
    forms = ("job/add", "user/add", f"job/{job}/change", "host/1/change", "user/1/change", "auditentry/1/change")
    return {"index": "admin/", "usage": "admin/jobs/job/usage/"} | {each: f"admin/jobs/{each}/" for each in (*lists, *forms)}


@contextmanager
def looking(browser: Browser, **how: Any) -> Iterator[Page]:
    """A window with axe in it, which is not ours and so does not go through our policy for scripts."""
    context = browser.new_context(bypass_csp=True, **how)
    context.add_init_script(path=AXE)
    yield context.new_page()
    context.close()


def seen(page: Page, address: str) -> list[str]:
    page.goto(address)
    page.wait_for_function("!document.querySelector('.htmx-request')")
    return [f"{address}: {found}" for found in page.evaluate(ASK)]


LOOKS = [
    ("en-US", DESK, "light", ""),
    ("zh-CN", PHONE, "dark", ""),
    ("en-US", PHONE, "light", "admin"),
    ("zh-CN", DESK, "dark", "admin"),
]
"""Language, size, scheme, and which pages are left out where the others have shown enough of them."""


@pytest.mark.parametrize(("language", "size", "scheme", "but"), LOOKS, ids=["desk", "phone, dark", "phone", "desk, dark"])
def test_axe_finds_nothing_serious(
    browser: Browser, cookies: list[Any], pages: dict[str, str], language: str, size: tuple[int, int], scheme: Scheme, but: str
) -> None:
    with looking(browser, locale=language, color_scheme=scheme, viewport={"width": size[0], "height": size[1]}) as window:
        window.context.add_cookies(cookies)
        looked_at = [address for name, address in pages.items() if not but or not name.startswith(but)]
        assert [found for address in looked_at for found in seen(window, address)] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_where_one_signs_in(browser: Browser, product: Product, scheme: Scheme) -> None:
    with looking(browser, locale="en-US", color_scheme=scheme) as window:
        assert seen(window, f"{product.url}/signin/") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_question_before_what_cannot_be_undone_can_be_read(
    browser: Browser, cookies: list[Any], pages: dict[str, str], scheme: Scheme
) -> None:
    with looking(browser, locale="en-US", color_scheme=scheme) as window:
        window.context.add_cookies(cookies)
        window.goto(pages["running"])
        window.get_by_role("button", name="Cancel").first.click()
        window.locator("#sure[open]").wait_for()
        assert window.evaluate(ASK) == []
        colours = "button => [getComputedStyle(button).color, getComputedStyle(button).backgroundColor]"
        ink, ground = window.locator("#sure [value=yes]").evaluate(colours)
        assert ink != ground  # which axe takes for text that is meant to be hidden

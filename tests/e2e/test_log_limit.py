"""A log that is longer than its limit, as a person reads it on the job's page and a program over REST."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.product import Product

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

LINES = "python3 -c 'for i in range({}): print(\"line %07d\" % i)'"
CUT = re.compile(r"^\[… [\d,]+ bytes of the log were cut out here: it is longer than AUTOTRAINER_LOG_LIMIT …\]$")


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with Product(tmp_path_factory.mktemp("product"), environ={"AUTOTRAINER_LOG_LIMIT": "64KiB"}) as started:
        yield started


def ended(product: Product, lines: int) -> tuple[int, list[str]]:
    """A job that has printed so many lines, and its log as text."""
    job = product.submit(LINES.format(lines), name=f"{lines} lines", min_gpus=0, max_gpus=0)["id"]
    product.wait(job, "completed")
    text = product.request("GET", f"jobs/{job}/log/?format=text")[1].decode()
    return job, text.rstrip("\n").split("\n")


def shown(page: Page) -> list[tuple[str, str]]:
    """(number, text) of each line in the page."""
    found = page.locator("#log .l").evaluate_all("rows => rows.map(row => [row.id, row.textContent])")
    return [(number, text) for number, text in found if number]


def numbered(lines: list[str]) -> list[tuple[str, str]]:
    return [(f"L{number}", line) for number, line in enumerate(lines, 1) if line]


def test_page_shows_the_cut_as_one_line_with_the_numbers_of_the_text(signed_in: Page, product: Product) -> None:
    job, lines = ended(product, 7000)  # 91 kB: all that is left is loaded at once
    assert [bool(CUT.match(line)) for line in lines].count(True) == 1
    signed_in.goto(f"{product.url}/jobs/{job}/")
    expect(signed_in.get_by_text("line 0006999")).to_be_visible()
    assert [row for row in shown(signed_in) if row[1]] == numbered(lines)


def test_page_leads_over_the_cut_to_the_beginning(signed_in: Page, product: Product) -> None:
    job, lines = ended(product, 60_000)
    signed_in.goto(f"{product.url}/jobs/{job}/")
    expect(signed_in.get_by_text("line 0059999")).to_be_visible()
    assert not [text for _, text in shown(signed_in) if CUT.match(text)]
    signed_in.locator("#log").evaluate("pane => { pane.scrollTop = 0; }")
    signed_in.get_by_role("button", name="Show earlier lines").click()
    expect(signed_in.get_by_text("line 0000000")).to_be_attached()
    assert [row for row in shown(signed_in) if row[1]] == numbered(lines)


def test_page_goes_on_live_behind_a_cut(signed_in: Page, product: Product) -> None:
    gate = product.work / "go-on"
    command = f"echo first; until test -e {gate}; do sleep 0.1; done; {LINES.format(200_000)}; echo last"
    job = product.submit(command, name="live", min_gpus=0, max_gpus=0)["id"]
    product.wait(job, "running")
    signed_in.goto(f"{product.url}/jobs/{job}/")
    expect(signed_in.get_by_text("first", exact=True)).to_be_visible()
    gate.touch()
    expect(signed_in.get_by_text("last", exact=True)).to_be_visible(timeout=60_000)
    assert [text for _, text in shown(signed_in) if CUT.match(text)]

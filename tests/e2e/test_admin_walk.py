"""The admin in a real browser, on the way that the README tells: its scripts run under our policy and ask no other host."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.product import Product

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

DEVICES = "sim:1x24GiB"


def test_job_is_submitted_watched_and_cancelled_in_the_admin(signed_in: Page, product: Product) -> None:
    signed_in.goto(f"{product.url}/admin/")
    signed_in.get_by_role("link", name="Jobs", exact=True).last.click()
    signed_in.locator("a[href$='/admin/jobs/job/add/']").first.click()
    signed_in.get_by_label("Command").fill("sleep 600")
    signed_in.get_by_label("Time limit").fill("soon")
    signed_in.get_by_role("button", name="Save", exact=True).click()
    expect(signed_in.get_by_text("Write a time such as 30m")).to_be_visible()
    signed_in.get_by_label("Time limit").fill("1h")
    signed_in.get_by_role("button", name="Save", exact=True).click()
    expect(signed_in.get_by_text("was added successfully")).to_be_visible()
    (job,) = product.api("GET", "jobs/")["results"]
    assert (job["command"], job["time_limit_s"]) == ("sleep 600", 3600)
    product.wait(job["id"], "running")
    signed_in.get_by_role("link", name=f"#{job['id']}", exact=True).click()
    expect(signed_in.get_by_text(re.compile("^Running on .*, GPU 0"))).to_be_visible()
    signed_in.get_by_role("link", name=re.compile("Cancel$")).click()
    signed_in.get_by_role("button", name="Yes, cancel the job").click()
    expect(signed_in.get_by_text(f"#{job['id']}: Stopping.")).to_be_visible()
    product.wait(job["id"], "cancelled")


def test_host_is_drained_with_a_reason_and_resumed_in_the_admin(signed_in: Page, product: Product) -> None:
    signed_in.goto(f"{product.url}/admin/jobs/host/")
    signed_in.locator("table").get_by_role("link").last.click()
    signed_in.get_by_role("link", name=re.compile("Drain$")).click()
    signed_in.get_by_label("Reason").fill("new fan")
    signed_in.get_by_role("button", name="Drain it").click()
    expect(signed_in.get_by_text("drained by admin: new fan").first).to_be_visible()
    signed_in.get_by_role("link", name=re.compile("Resume$")).click()
    signed_in.get_by_role("button", name="Resume it").click()
    expect(signed_in.get_by_text("Up", exact=True)).to_be_visible()
    assert product.api("GET", "hosts/")["results"][0]["state"] == "up"

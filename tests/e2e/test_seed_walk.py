"""The walk that the first manual of the project describes, in a real browser: submit the sample script, watch it, see what it left."""

from __future__ import annotations

import base64
import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.product import Product
from tests.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

DEVICES = "sim:1x24GiB"
SEED = 'python mock_train.py --name "Mock_Test_V1" --mode normal --mem 2.0'


def sign_in(page: Page, product: Product) -> None:
    page.goto(product.url)
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(product.password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("GPU 0").first).to_be_visible()


def submit(page: Page, product: Product, *, name: str, command: str, retries: int = 0) -> int:
    """Fill in the form as a person does; returns the job's number."""
    page.goto(product.url)
    page.get_by_role("link", name="New job").first.click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Command").fill(command)
    page.get_by_label("Working directory").fill(str(product.work))
    page.get_by_label("GPUs, at least").fill("1")
    page.get_by_label("GPUs, at most").fill("1")
    page.get_by_label("Retries", exact=True).fill(str(retries))
    page.get_by_role("button", name="Submit", exact=True).click()
    page.wait_for_url(re.compile(r"/jobs/\d+/"))
    return int(re.findall(r"/jobs/(\d+)/", page.url)[0])


def yellow_pixels(browser: Browser, picture: bytes) -> int:
    """How many pixels of a PNG are yellow, by the browser's own decoder."""
    blank = browser.new_page()
    count = blank.evaluate(
        """async source => {
            const image = new Image();
            image.src = source;
            await image.decode();
            const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
            canvas.drawImage(image, 0, 0);
            const pixels = canvas.getImageData(0, 0, image.width, image.height).data;
            let count = 0;
            for (let i = 0; i < pixels.length; i += 4) count += pixels[i] > 180 && pixels[i + 1] > 160 && pixels[i + 2] < 120;
            return count;
        }""",
        "data:image/png;base64," + base64.b64encode(picture).decode(),
    )
    blank.close()
    return int(count)


def test_sample_script_is_submitted_watched_and_leaves_its_picture(page: Page, product: Product, browser: Browser) -> None:
    sign_in(page, product)
    job = submit(page, product, name="Mock_Test_V1", command=SEED)
    expect(page.get_by_text("Running").first).to_be_visible()
    expect(page.get_by_text("Task Name: Mock_Test_V1").first).to_be_visible()
    expect(page.get_by_text("Completed").first).to_be_visible(timeout=60_000)
    ended = product.wait(job)
    assert (ended["state"], ended["exit_code"]) == ("completed", 0)
    assert b"Task Name: Mock_Test_V1" in product.log(job)
    assert (product.home / "logs" / str(job) / "1.log").read_bytes() == product.log(job)
    assert yellow_pixels(browser, (product.work / "result_Mock_Test_V1.png").read_bytes()) >= 100


@pytest.mark.parametrize(("mode", "oom"), [("oom", True), ("error", False)])
def test_failing_script_is_retried_and_the_page_says_why_it_failed(signed_in: Page, product: Product, mode: str, oom: bool) -> None:
    command = f"python mock_train.py --name Fails_{mode} --mode {mode} --mem 2.0 --seconds 1"
    job = product.submit(command, name=f"Fails_{mode}", max_retries=2, retry_delay_s=0.2)
    ended = product.wait(job["id"], "failed", timeout_s=60)
    assert [a["outcome"] for a in ended["attempts"]] == ["failed"] * 3
    assert {a["exit_code"] for a in ended["attempts"]} == {1}
    assert [a["oom_detected"] for a in ended["attempts"]] == [oom] * 3
    assert ended["oom_detected"] is oom
    signed_in.goto(f"{product.url}/jobs/{job['id']}/")
    expect(signed_in.get_by_text("Failed").first).to_be_visible()
    expect(signed_in.get_by_text(f"Task Name: Fails_{mode}").first).to_be_visible()
    if oom:
        expect(signed_in.get_by_text(re.compile("out of (GPU )?memory", re.IGNORECASE)).first).to_be_visible()


def test_second_job_waits_for_the_first_by_name_and_starts_when_it_ends(signed_in: Page, product: Product) -> None:
    gate = product.work / "first-may-end"
    first = product.submit(f"until test -e {gate}; do sleep 0.05; done", name="holds-the-card")
    product.wait(first["id"], "running")
    second = submit(signed_in, product, name="waits-for-the-card", command="echo it is my turn")
    waiting = wait_until(lambda: product.job(second)["wait_reason"], 10, "the second job says why it waits")
    assert waiting["code"] == "Resources"
    assert f"#{first['id']}" in waiting["message"] or "holds-the-card" in waiting["message"]
    signed_in.goto(product.url)
    expect(signed_in.get_by_text(waiting["message"]).first).to_be_visible()
    gate.touch()
    ended = product.wait(second, "completed")
    assert b"it is my turn" in product.log(second)
    assert ended["started_at"] >= product.job(first["id"])["ended_at"]
    expect(signed_in.get_by_text("waits-for-the-card").first).to_be_visible()


def test_cancel_on_the_page_ends_every_process(signed_in: Page, product: Product) -> None:
    job = product.submit("sleep 600 & sleep 600", name="to-be-cancelled")
    product.wait(job["id"], "running")
    assert product.trainings(job["id"])
    signed_in.goto(f"{product.url}/jobs/{job['id']}/")
    signed_in.get_by_role("button", name="Cancel").click()
    signed_in.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    ended = product.wait(job["id"], "cancelled")
    assert [a["outcome"] for a in ended["attempts"]] == ["cancelled"]
    assert product.trainings(job["id"]) == []
    expect(signed_in.get_by_text("Cancelled").first).to_be_visible()


def test_charts_show_what_a_training_uses_and_prints(signed_in: Page, product: Product) -> None:
    gate = product.work / "charts-may-end"
    prints = "for i in 1 2 3 4 5; do echo epoch $i train_loss: 0.$((9 - i)); done"
    job = product.submit(f"{prints}; until test -e {gate}; do sleep 0.05; done", name="draws-charts")
    product.wait(job["id"], "running")
    wait_until(lambda: len(_samples(product, job["id"])) >= 2, 40, "its samples are told")
    signed_in.goto(f"{product.url}/jobs/{job['id']}/")
    charts = signed_in.locator("#charts")
    expect(charts.get_by_text("GPU memory")).to_be_visible()
    expect(charts.get_by_text("GPU utilisation")).to_be_visible()
    expect(charts.get_by_text("train_loss")).to_be_visible()
    expect(charts.get_by_text("last 0.4 · at least 0.4 · at most 0.8")).to_be_visible()
    expect(charts.locator("canvas")).to_have_count(3)
    gate.touch()
    product.wait(job["id"])


def _samples(product: Product, job: int) -> list[int | None]:
    series = product.api("GET", f"jobs/{job}/samples/")["series"]
    return series[0]["memory_mib"] if series else []


def test_log_is_searched_and_a_hit_leads_to_its_line(signed_in: Page, product: Product) -> None:
    job = product.submit("seq 1 3000 | sed 's/^/line /'; echo the NEEDLE is here; seq 1 3000", name="to-be-searched")
    product.wait(job["id"])
    signed_in.goto(f"{product.url}/jobs/{job['id']}/")
    signed_in.get_by_label("Search the log").fill("needle")
    signed_in.get_by_label("Search the log").press("Enter")
    hit = signed_in.locator("#log-found a")
    expect(hit).to_have_count(1)
    expect(hit).to_contain_text("the NEEDLE is here")
    hit.click()
    expect(signed_in.locator("#L3001")).to_be_in_viewport()
    expect(signed_in.locator("#L3001")).to_contain_text("the NEEDLE is here")
    signed_in.get_by_label("Search the log").fill("nowhere to be found")
    signed_in.get_by_label("Search the log").press("Enter")
    expect(signed_in.get_by_text("Nothing in the log is like that.")).to_be_visible()


def test_form_is_kept_as_a_template_with_the_enter_key_and_filled_again(signed_in: Page, product: Product) -> None:
    clock = signed_in.context.new_cdp_session(signed_in)
    clock.send("Emulation.setTimezoneOverride", {"timezoneId": "America/New_York"})
    signed_in.goto(f"{product.url}/jobs/new/")
    signed_in.get_by_label("Command").fill("echo kept")
    signed_in.locator("details:has(#id_begin_at)").evaluate("it => { it.open = true }")
    signed_in.get_by_label("Not before").fill("2031-05-06T07:08")
    signed_in.get_by_text("Save as template").first.click()
    signed_in.get_by_label("Name of the template").fill("my own")
    signed_in.get_by_label("Name of the template").press("Enter")
    expect(signed_in.get_by_text("Kept as the template “my own”.")).to_be_visible()
    assert [job for job in product.api("GET", "jobs/")["results"] if job["command"] == "echo kept"] == []
    clock.send("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Shanghai"})
    signed_in.goto(f"{product.url}/jobs/new/")
    signed_in.get_by_role("button", name="Fill the form").click()
    expect(signed_in.get_by_label("Command")).to_have_value("echo kept")
    expect(signed_in.get_by_label("Not before")).to_have_value("2031-05-06T19:08")


def test_empty_log_says_that_nothing_more_will_come_when_the_job_is_over(signed_in: Page, product: Product) -> None:
    job = product.submit("sleep 600", name="silent", min_gpus=0, max_gpus=0)["id"]
    product.wait(job, "running")
    signed_in.goto(f"{product.url}/jobs/{job}/")
    expect(signed_in.get_by_text("Nothing has been printed yet.")).to_be_visible()
    product.api("POST", f"jobs/{job}/cancel/")
    expect(signed_in.get_by_text("Nothing was printed.")).to_be_visible()

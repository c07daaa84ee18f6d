"""Letters as a mail program draws them, in both languages, light and dark, wide and on a phone.

The pictures lie in tests/output/letters/, to be looked at.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone, translation
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, sync_playwright

from gpuworker.protocol import EndReason
from jobs import artifacts, dispatch, lifecycle, quiet
from jobs.ingest import Ingest
from jobs.models import Attempt, Job, User
from jobs.notifications.compose import compose, digest
from jobs.notifications.letter import Letter
from jobs.notifications.occasions import Occasion
from tests.conftest import missing
from tests.integration.fakehost import FakeHost

OUTPUT = Path(__file__).parent.parent / "output" / "letters"
SHAPES = {"wide": {"width": 600, "height": 600}, "phone": {"width": 360, "height": 700}}
LOOKS = [("en", "wide", "light"), ("en", "phone", "dark"), ("zh-hans", "wide", "dark"), ("zh-hans", "phone", "light")]
"""Language, window, colours: each language in both colours and both windows."""
EPOCHS = b"".join(b"Epoch %d/30 | loss %.4f | accuracy %.3f\n" % (n, 2.3 * 0.9**n, 0.97 - 0.6 * 0.9**n) for n in range(1, 31))
KEY_ERROR = b"""Traceback (most recent call last):
  File "/home/ada/vision/train.py", line 120, in <module>
    main()
  File "/home/ada/vision/train.py", line 88, in main
    rate = config["lr"]
           ~~~~~~^^^^^^
KeyError: 'lr'
"""
MEMORY = b"""Traceback (most recent call last):
  File "/home/ada/vision/train.py", line 61, in step
    loss.backward()
  File "/opt/venv/lib/python3.11/site-packages/torch/_tensor.py", line 522, in backward
    torch.autograd.backward(
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.69 GiB of which 1.12 GiB is free.
"""
BAR = b"\rtrain:  45%|####5     | 450/1000 [00:31<00:40, 13.1it/s]"
STACK = """Process 4711: python train.py
Python v3.11.7 (/opt/venv/bin/python3.11)

Thread 4711 (idle): "MainThread"
    all_reduce (torch/distributed/distributed_c10d.py:2501)
    average_gradients (train.py:88)
    main (train.py:120)
    <module> (train.py:131)"""
OWN = "Best accuracy 92.4 % after epoch 17; the rest did not help.\n\nNext: a smaller learning rate, and colour jitter."
HOSTILE = b"x" * 700 + b"\n</pre><script>document.title = 'taken'</script>\n" + "训练损失不收敛 🙂\n".encode()
LEAST_CONTRAST = 4.5
DIMMEST = """() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number)
  const light = ([r, g, b]) => [r, g, b].map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0)
  const ground = one => {
    const [r, g, b, a = 1] = numbers(getComputedStyle(one).backgroundColor)
    return a ? [r, g, b] : ground(one.parentElement)
  }
  const texts = [...document.querySelectorAll("body *")].filter(one => one.getClientRects().length &&
    [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
  return Math.min(...texts.map(one => {
    const [a, b] = [light(numbers(getComputedStyle(one).color)), light(ground(one))].sort((x, y) => y - x)
    return (a + 0.05) / (b + 0.05)
  }))
}"""
"""The lowest contrast of a text with what lies behind it."""

Ended = Callable[..., tuple[Job, Attempt]]
Case = tuple[Occasion, Job, Attempt | None, str]


@pytest.fixture
def ended(host: FakeHost, submit: Callable[..., Job]) -> Ended:
    ingest = Ingest()

    def end(exit_code: int | None = 0, log: bytes = EPOCHS, *, report: dict[str, Any] | None = None, **fields: Any) -> tuple[Job, Attempt]:
        job = submit(**fields)
        dispatch.run_pass(timezone.now())
        (spec,) = host.offers()
        host.started(spec)
        host.log(spec, log)
        host.ended(spec, exit_code, log_bytes=len(log), peak_memory_mib=19_900, **(report or {}))
        while ingest.turn(block_ms=1):
            pass
        return Job.objects.get(pk=job.pk), job.attempts.get()

    return end


def written(case: Case) -> Letter:
    """`message`: what its event says, where its letter goes by that."""
    occasion, job, attempt, message = case
    if message and attempt:
        job.events.create(type="told", at=timezone.now(), attempt=attempt.number, message=message)
    event = job.events.order_by("id").last()
    assert event
    return compose(occasion, event, attempt)


def curve(name: str) -> bytes:
    picture = Image.new("RGB", (900, 420), "white")
    draw = ImageDraw.Draw(picture)
    draw.line([(40 + 9 * x, 370 - int(320 * (1 - 0.96**x))) for x in range(90)], fill="#0a62bd", width=4)
    draw.text((60, 30), name, fill="#171c24")
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def cases(ended: Ended, submit: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> dict[str, Case]:
    """One of each kind, and those that are hard to lay out."""
    left = artifacts.Left((artifacts.File("accuracy.png", 1, 1.0), artifacts.File("loss.png", 1, 1.0)))
    monkeypatch.setattr(artifacts, "left_by", lambda job, *_, **__: left if job.artifacts else artifacts.Left())
    monkeypatch.setattr(artifacts, "content", lambda _job, _attempt, name: curve(name))
    monkeypatch.setattr(quiet, "stack_of", lambda _: STACK)
    failed = ended(1, EPOCHS + BAR * 20 + b"\n" + KEY_ERROR, name="resnet50-imagenet", command="python train.py --config configs/base.yaml")
    memory = ended(1, EPOCHS + MEMORY, report={"oom_detected": True}, retry_on_oom=False, max_retries=2, name="vit-large")
    late = ended(None, report={"reason": EndReason.TIMED_OUT}, time_limit_s=3600, name="llama-finetune")
    hard = ended(1, HOSTILE, name="很长的名字_" * 8, command="python " + "--flag=" + "y" * 300, environment="/opt/" + "e" * 80)
    cancelled = submit(name="vit-large-sweep-12", command="python sweep.py --trial 12", hold=True)
    assert lifecycle.cancel(cancelled, actor=User.objects.create_user("olga"))
    own = ended(report={"mail": json.dumps({"text": OWN})}, name="vit-small", artifacts=["*.png"])
    return {
        "completed": (Occasion.COMPLETED, *ended(name="resnet50-imagenet", artifacts=["*.png"]), ""),
        "failed": (Occasion.FAILED, *failed, ""),
        "oom": (Occasion.OOM, *memory, ""),
        "timed_out": (Occasion.TIMED_OUT, *late, ""),
        "cancelled": (Occasion.CANCELLED, Job.objects.get(pk=cancelled.pk), None, ""),
        "host_lost": (Occasion.HOST_LOST, *late, "An operator said that gpu-a is lost. The job waits for another host."),
        "held": (Occasion.HELD, *late, "Held after 5 faults of hosts: gpu-a was restarted meanwhile."),
        "quiet": (Occasion.QUIET, *late, "Its GPU has shown 0 % for 1 hour. It was not stopped."),
        "started": (Occasion.STARTED, *late, "Attempt 1 is running on gpu-a, GPU 0."),
        "retried": (Occasion.RETRIED, *failed, "Attempt 1 failed with exit code 1. Retry 1 of 3 in 30 s."),
        "own": (Occasion.COMPLETED, *own, ""),
        "wrong": (Occasion.COMPLETED, *ended(report={"mail": '{"subject": 92.4}'}, name="vit-small"), ""),
        "hard": (Occasion.FAILED, *hard, ""),
        "silent": (Occasion.COMPLETED, *ended(0, b"", name="nothing printed"), ""),
    }


@pytest.fixture
def letters(cases: dict[str, Case]) -> dict[tuple[str, str], Letter]:
    """By name and language."""
    found = {}
    for language in ("en", "zh-hans"):
        with translation.override(language):
            found |= {(name, language): written(case) for name, case in cases.items()}
            found["digest", language] = digest([cases[name][:3] for name in ("failed", "oom", "hard")] * 6, ended=20)
    return found


@pytest.fixture
def browser(letters: dict[tuple[str, str], Letter]) -> Iterator[Browser]:
    """After the letters: while Playwright runs, Django takes this thread for an asynchronous one."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        missing("chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


def with_pictures(letter: Letter) -> str:
    """As a mail program shows it: what is attached under an id stands where the HTML names it."""
    html = letter.html
    for one in letter.attachments:
        if one.inline_id:
            html = html.replace(f"cid:{one.inline_id}", f"data:{one.content_type};base64,{base64.b64encode(one.data).decode()}")
    return html


@pytest.mark.timeout(120)
def test_each_letter_fits_its_window_and_follows_the_readers_colours(letters: dict[tuple[str, str], Letter], browser: Browser) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    assert {str(occasion) for occasion in Occasion} <= {name for name, _ in letters}
    for language, shape, colours in LOOKS:
        page = browser.new_context(viewport=SHAPES[shape], color_scheme=colours).new_page()  # type: ignore[arg-type]
        for name, letter in ((name, letter) for (name, spoken), letter in letters.items() if spoken == language):
            page.set_content(with_pictures(letter))
            shown = f"{name}-{language}-{shape}-{colours}"
            page.screenshot(path=OUTPUT / f"{shown}.png", full_page=True)
            wide, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert wide <= window, f"{shown} is wider than its window"
            assert page.title() != "taken", shown
            red, green, blue = map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3])
            assert (max(red, green, blue) < 64) == (colours == "dark"), shown
            assert page.locator("img").evaluate_all("all => all.every(one => one.naturalWidth > 0)"), shown
            assert page.evaluate(DIMMEST) >= LEAST_CONTRAST, shown

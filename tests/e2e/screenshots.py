"""`python -m tests.e2e.screenshots [OUT]`: every page as people see it, in English and Chinese, at a desk and on a phone, light and dark.

`--readme` makes the pictures that the READMEs show instead, into docs/pictures/. Both start the product with simulated devices and
let real trainings run on them (scene.py). What is wider than a phone's screen is told at the end.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.e2e import scene as scenes
from tests.e2e.conftest import QUIET, chromium
from tests.e2e.product import CHECKOUT, Product
from tests.e2e.scene import Scene
from tests.waiting import wait_until

OUT = CHECKOUT / "tests" / "output" / "screenshots"
README = CHECKOUT / "docs" / "pictures"
LANGUAGES = {"en": "en-US", "zh": "zh-CN"}
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
SCHEMES = ("light", "dark")
PAGES = {
    "overview": "/",
    "jobs": "/jobs/?whose=all&state=",
    "job-running": "/jobs/{running}/",
    "job-waiting": "/jobs/{waiting}/",
    "job-held": "/jobs/{held}/",
    "job-backoff": "/jobs/{backoff}/",
    "job-failed": "/jobs/{failed}/",
    "job-oom": "/jobs/{oom}/",
    "job-timed-out": "/jobs/{timed out}/",
    "job-completed": "/jobs/{completed}/",
    "job-swapped": "/jobs/{swapped}/",
    "new": "/jobs/new/",
    "new-filled": "/jobs/new/?template=resnet, 4 GPUs",
    "new-errors": "/jobs/new/?template=resnet, 4 GPUs&min_gpus=9&time_limit_s=soon&hosts=gpu-z",
    "templates": "/jobs/templates/",
    "tokens": "/account/tokens/",
    "password": "/account/password/",
    "notifications": "/account/notifications/",
    "chats": "/account/chat/",
    "missing": "/jobs/999999/",
}
ADMIN = {
    "admin": "/admin/",
    "admin-jobs": "/admin/jobs/job/",
    "admin-job": "/admin/jobs/job/{running}/change/",
    "admin-job-waiting": "/admin/jobs/job/{held}/change/",
    "admin-job-add": "/admin/jobs/job/add/",
    "admin-hosts": "/admin/jobs/host/",
    "admin-host": "/admin/jobs/host/1/change/",
    "admin-devices": "/admin/jobs/device/",
    "admin-users": "/admin/jobs/user/",
    "admin-user": "/admin/jobs/user/1/change/",
    "admin-user-add": "/admin/jobs/user/add/",
    "admin-groups": "/admin/auth/group/",
    "admin-tokens": "/admin/jobs/personaltoken/",
    "admin-notifications": "/admin/jobs/notification/",
    "admin-audit": "/admin/jobs/auditentry/",
    "admin-usage": "/admin/jobs/job/usage/",
}
EMPTY = {"empty-overview": "/", "empty-jobs": "/jobs/", "empty-templates": "/jobs/templates/", "empty-tokens": "/account/tokens/"}
SIGNIN = {"signin": "/signin/"}
SHOWN = {
    "overview": "/",
    "job": "/jobs/{running}/",
    "new": "/jobs/new/?name=vit-large&command=python train.py --name vit --epochs 90&working_dir={work}&max_gpus=4&max_retries=2",
}
LARGEST_SHOWN = 200_000  # bytes
Scheme = Literal["light", "dark"]
COUNT = """const ask = fetch; window.pending = 0;
window.fetch = async (...what) => { pending += 1; try { return await ask(...what) } finally { setTimeout(() => pending -= 1, 50) } };"""
SETTLED = """() => !pending && !document.querySelector('.htmx-request')
    && [...document.querySelectorAll('#log .quiet')].every(told => !told.textContent.endsWith('…'))"""
"""Nothing that a page asks for by itself is still on its way; `COUNT` counts what its scripts ask for."""
AS_A_WHOLE = """html { scrollbar-gutter: auto !important } /* no bar is drawn, so its place would stay empty */
.log .chunk { content-visibility: visible !important } /* what is below the window is drawn too */"""
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@dataclass(frozen=True, slots=True)
class Look:
    """One way of looking."""

    language: str
    size: str
    scheme: Scheme

    def __str__(self) -> str:
        return f"{self.language}.{self.size}.{self.scheme}"


ALL_LOOKS = tuple(Look(language, size, scheme) for language in LANGUAGES for size in SIZES for scheme in SCHEMES)  # type: ignore[arg-type]


class Photographer:
    """Takes pictures of pages into a folder; `too_wide` is what it found that people would have to push sideways."""

    def __init__(self, browser: Browser, product: Product, out: Path) -> None:
        self.browser, self.product, self.out = browser, product, out
        self.cookies: list[Any] = []
        self.too_wide: list[str] = []
        out.mkdir(parents=True, exist_ok=True)

    def sign_in(self, link: str) -> None:
        context = self.browser.new_context()
        window = context.new_page()
        window.goto(link)
        self.cookies = list(context.cookies())
        context.close()

    @contextmanager
    def looking(self, look: Look, *, signed_in: bool = True) -> Iterator[Page]:
        width, height = SIZES[look.size]
        context: BrowserContext = self.browser.new_context(
            viewport={"width": width, "height": height},
            locale=LANGUAGES[look.language],
            color_scheme=look.scheme,
            timezone_id="Asia/Shanghai",
            reduced_motion="reduce",
            bypass_csp=True,  # for what we ask of the pages, not for what they do
            is_mobile=look.size == "phone",
            has_touch=look.size == "phone",
        )
        context.add_init_script(COUNT)
        context.add_cookies(self.cookies if signed_in else [])
        yield context.new_page()
        context.close()

    def take(self, looks: Sequence[Look], pages: dict[str, str], names: dict[str, int], *, signed_in: bool = True) -> None:
        for look in looks:
            with self.looking(look, signed_in=signed_in) as window:
                for name, path in pages.items():
                    self.show(window, path.format_map(names))
                    if (wide := window.evaluate(TOO_WIDE)) > 0:
                        self.too_wide.append(f"{name}.{look}: {wide} px")
                    window.screenshot(path=self.out / f"{name}.{look}.png", full_page=True)

    def show(self, window: Page, path: str) -> None:
        """The page with everything that it asks for by itself."""
        window.goto(self.product.url + path)
        window.add_style_tag(content=AS_A_WHOLE)
        window.wait_for_function(SETTLED)


@contextmanager
def photographer(out: Path) -> Iterator[tuple[Photographer, Scene]]:
    """The product, empty but for its people, and a browser."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-")))
        scene = stack.enter_context(scenes.playing(root))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium(), args=QUIET)
        stack.callback(browser.close)
        camera = Photographer(browser, scene.product, out)
        camera.sign_in(scene.link)
        yield camera, scene


def everything(out: Path) -> int:
    with photographer(out) as (camera, scene):
        camera.take(ALL_LOOKS, SIGNIN, {}, signed_in=False)
        camera.take(ALL_LOOKS, EMPTY, {})
        with scenes.outsider(scene.product):
            scenes.fill(scene)
            scenes.keep_templates(scene)
            camera.take(ALL_LOOKS, PAGES | ADMIN, scene.jobs)
    print(f"{len(list(out.glob('*.png')))} pictures in {out}")
    for told in camera.too_wide:
        print(f"wider than the screen: {told}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=OUT, help="where they go (%(default)s)")
    parser.add_argument("--readme", action="store_true", help="only those that the READMEs show, into docs/pictures/")
    asked = parser.parse_args()
    return for_readme() if asked.readme else everything(asked.out)


def for_readme() -> int:
    """Of a moment when much goes on, in each README's language."""
    with photographer(README) as (camera, scene), scenes.outsider(scene.product):
        scenes.fill(scene)
        running = scene.jobs["running"]
        wait_until(lambda: (scene.product.job(running)["progress"] or 0) > 0.2, 60, "the training has got somewhere", every_s=0.5)
        for language in LANGUAGES:
            with camera.looking(Look(language, "desktop", "light")) as window:
                for name, path in SHOWN.items():
                    camera.show(window, path.format_map(scene.jobs | {"work": scene.product.work}))
                    if name == "new":
                        window.locator("#findings li").first.wait_for()
                    window.screenshot(path=README / f"{name}.{language}.png", full_page=name == "job")
    large = [f"{path.name}: {path.stat().st_size}" for path in README.glob("*.png") if path.stat().st_size > LARGEST_SHOWN]
    print(f"too large for a README: {', '.join(large)}" if large else f"They lie in {README}.")
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main())

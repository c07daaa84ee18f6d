"""Pictures of the pages in both languages, to be looked at after each run (tests/output/screenshots/), and none is too wide."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e import scene as scenes
from tests.e2e.scene import Scene
from tests.e2e.screenshots import ADMIN, EMPTY, OUT, PAGES, Look, Photographer, photographer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

DESK = [Look("en", "desktop", "light"), Look("zh", "desktop", "light")]
SEEN = ("overview", "jobs", "job-running", "job-swapped", "new-errors", "templates")
SEEN_BY_OPERATORS = ("admin-jobs", "admin-host")


@pytest.fixture(scope="module")
def lab() -> Iterator[tuple[Photographer, Scene]]:
    with photographer(OUT) as (camera, scene):
        camera.take(DESK, {"empty-overview": EMPTY["empty-overview"]}, {})
        scenes.fill(scene)
        scenes.keep_templates(scene)
        yield camera, scene


def test_pages_are_pictured_in_both_languages_and_fit_the_screen(lab: tuple[Photographer, Scene]) -> None:
    camera, scene = lab
    pages = {name: path for name, path in (PAGES | ADMIN).items() if name in SEEN + SEEN_BY_OPERATORS}
    camera.take(DESK, pages, scene.jobs)
    assert camera.too_wide == []
    assert {path.name for path in OUT.glob("*.png")} >= {f"{name}.{look}.png" for name in pages for look in DESK}


def test_pages_fit_a_phone(lab: tuple[Photographer, Scene]) -> None:
    camera, scene = lab
    camera.take([Look("zh", "phone", "dark")], {name: PAGES[name] for name in SEEN}, scene.jobs)
    assert camera.too_wide == []

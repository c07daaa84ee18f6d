"""What README and docs point at exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.sources import CHECKOUT

PAGES = [*sorted(CHECKOUT.glob("*.md")), *sorted((CHECKOUT / "docs").glob("*.md"))]


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in headings(linked)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documents_name_only_files_that_exist(page: Path) -> None:
    named = re.findall(r"`((?:jobs|gpuworker|autotrainer_site|tests|docs|benchmarks)/[\w./-]+)`", page.read_text())
    assert sorted({name for name in named if not (CHECKOUT / name).exists()}) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name.endswith(".zh-CN.md")], ids=lambda page: page.name)
def test_chinese_documents_have_what_the_english_ones_have(page: Path) -> None:
    """The settings and the commands of all tables; and as many headings, and the same code, where the page is a whole translation."""
    english = page.with_name(page.name.replace(".zh-CN", ""))
    rows = [set(re.findall(r"(?m)^\| (`[A-Z][A-Z_]+`|`[a-z]+`)", text.read_text())) for text in (english, page)]
    assert rows[0] - rows[1] == set()
    assert set(re.findall(r"AUTOTRAINER_[A-Z_]+", english.read_text())) - set(re.findall(r"AUTOTRAINER_[A-Z_]+", page.read_text())) == set()
    if page.parent.name == "docs":
        code = [re.findall(r"(?s)```\w*\n.*?```", text.read_text()) for text in (english, page)]
        assert code[0] == code[1]
        assert len(headings(english)) == len(headings(page))


def test_documents_are_all_there() -> None:
    pages = ("how-it-works", "reliability", "benchmarks", "scheduling", "training-scripts")
    wanted = ["README.md", "LICENSE", "CHANGELOG.md", *(f"docs/{page}.md" for page in pages)]
    assert [name for name in wanted if not (CHECKOUT / name).is_file()] == []

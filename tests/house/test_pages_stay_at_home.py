"""No page, style or script of ours loads anything from another host: labs work behind closed doors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.sources import CHECKOUT, shown

_ELSEWHERE = re.compile(
    r"""(?:\b(?:src|href|action|srcset|poster|hx-(?:get|post|put|patch|delete))\s*=\s*["']?\s*  # an attribute
        |\burl\(\s*["']?\s*                                                                      # a style
        |@import\s+["']                                                                          # a style sheet
        |\b(?:fetch|EventSource|WebSocket|importScripts|import)\(\s*["'`]                        # a script
        )(?:[a-z]+:)?//[^\s"'`)>]+""",
    re.VERBOSE | re.IGNORECASE,
)


def parts_of_pages() -> list[Path]:
    folders = [CHECKOUT / "jobs" / "templates", CHECKOUT / "jobs" / "static"]
    kinds = {".html", ".css", ".js", ".svg", ".txt"}
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in kinds]


def test_pages_load_nothing_from_other_hosts() -> None:
    found = {shown(path): match[0] for path in parts_of_pages() if (match := _ELSEWHERE.search(path.read_text()))}
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/htmx.js">',
        "<link rel=stylesheet href=//fonts.example/css>",
        "background: url(http://example/x.png)",
        '@import "https://example/x.css"',
        "fetch('https://example/api')",
    ],
)
def test_search_for_other_hosts_finds_one(text: str) -> None:
    assert _ELSEWHERE.search(text)


@pytest.mark.parametrize("text", ['<a href="/jobs/">', '<svg xmlns="http://www.w3.org/2000/svg">', "url(#clip)", 'fetch("/api/v1/jobs/")'])
def test_search_for_other_hosts_leaves_our_own_alone(text: str) -> None:
    assert not _ELSEWHERE.search(text)

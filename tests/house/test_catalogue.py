"""Everything that people read on a page has its Chinese, and what is compiled is what was translated."""

from __future__ import annotations

import ast
import gettext
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.house.sources import CHECKOUT

CATALOGUE = CHECKOUT / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po"
_ENTRY = re.compile(r'^msgid ((?:".*"\n?)+)(?:msgid_plural ((?:".*"\n?)+))?msgstr(?:\[0\])? ((?:".*"\n?)+)', re.MULTILINE)
_PLACE = re.compile(r"%\((\w+)\)[sd]|\{(\w+)\}")


def entries(path: Path) -> dict[str, str]:
    def text(quoted: str) -> str:
        return "".join(ast.literal_eval(line) for line in quoted.splitlines())

    return {text(match[1]): text(match[3]) for match in _ENTRY.finditer(path.read_text())}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What the sources ask to be translated, by Django's own search."""
    if not shutil.which("xgettext"):
        missing("gettext")
    folder = tmp_path_factory.mktemp("sources")
    for name in ("jobs", "autotrainer_site"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "static", "migrations"))
    (folder / "locale").mkdir()
    command = [sys.executable, "-m", "django", "makemessages", "-l", "zh_Hans", "--no-location", "--no-wrap", "-e", "html,txt,py"]
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)
    return set(entries(folder / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po")) - {""}


def test_every_sentence_is_translated(wanted: set[str]) -> None:
    known = entries(CATALOGUE)
    assert sorted(sentence for sentence in wanted if not known.get(sentence)) == []
    assert sorted(known.keys() - wanted - {""}) == []
    assert "#, fuzzy" not in CATALOGUE.read_text()


def test_translations_have_the_places_of_their_sentences() -> None:
    wrong = []
    for match in _ENTRY.finditer(CATALOGUE.read_text()):
        one, many, zh = (set(_PLACE.findall(part or "")) for part in match.groups())
        if match[1].strip() != '""' and zh != (many or one):
            wrong.append(match[1])
    assert wrong == []


def test_compiled_catalogue_is_the_present_one() -> None:
    with CATALOGUE.with_suffix(".mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    assert {s for s, zh in entries(CATALOGUE).items() if s and zh not in (compiled.gettext(s), compiled.ngettext(s, s, 1))} == set()

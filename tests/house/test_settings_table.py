"""README's settings table and gpuworker.settings.TABLE say the same."""

from __future__ import annotations

import re

from gpuworker.settings import SECRETS, TABLE
from tests.house.sources import CHECKOUT

_ROW = re.compile(r"^\| (`[A-Z][^|]*) \| ([^|]*) \| ([^|]+) \|$", re.MULTILINE)


def rows() -> dict[str, tuple[str, str]]:
    """Name -> (default, meaning) of README's settings table; a row may name two settings and give two defaults."""
    section = (CHECKOUT / "README.md").read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    found = {}
    for names, default, meaning in _ROW.findall(section):
        for name in re.findall(r"`([A-Z_]+)`", names):
            found[name] = (default, meaning)
    return found


def test_settings_have_a_row_in_the_readme_each() -> None:
    assert sorted(set(TABLE) - set(rows())) == []


def test_readme_names_no_setting_that_is_none() -> None:
    assert sorted(set(rows()) - set(TABLE)) == []


def test_readme_tells_the_defaults_that_the_code_has() -> None:
    told = rows()
    wrong = {name: default for name, (_, default, _) in TABLE.items() if default and f"`{default}`" not in told[name][0]}
    assert wrong == {}


def test_readme_says_which_settings_may_come_from_a_file() -> None:
    section = (CHECKOUT / "README.md").read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    sentence = next(line for line in section.splitlines() if "_FILE" in line)
    assert sorted(name for name in SECRETS if f"`{name}`" not in sentence) == []

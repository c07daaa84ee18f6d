"""What the house tests look at: our own source files, and the files that the pages are made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("autotrainer_site", "jobs", "gpuworker", "starter")


def python_files(*folders: str) -> Iterator[Path]:
    """The Python files in these folders of the checkout, without migrations."""
    for folder in folders:
        for path in sorted((CHECKOUT / folder).rglob("*.py")):
            if "migrations" not in path.parts:
                yield path


def shown(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))

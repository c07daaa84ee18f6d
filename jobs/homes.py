"""Which AUTOTRAINER_HOME goes with a database on the network: whoever serves the one must have the other.

Logs and keys lie in the home. Two web processes or control workers with homes of their own would each know half of the logs,
and hosts that the other one never heard of. The home has a name, in a file, and the database remembers it.
"""

from __future__ import annotations

from pathlib import Path

from django.utils import timezone

from jobs.leader import ROW
from jobs.models import Leader

FILE = "home_id"


def wrong(home: Path) -> str:
    """One sentence and its mend where the database goes with another home; empty where it goes with this one, or with none yet."""
    kept = Leader.objects.filter(pk=ROW).values_list("home", flat=True).first()
    if not kept or kept == _name(home):
        return ""
    return (
        f"The database goes with another AUTOTRAINER_HOME than {home}: keys and logs of this control plane lie elsewhere. All its "
        "machines share that folder: mount it here, or correct AUTOTRAINER_HOME (or DATABASE_URL). If this folder shall take its "
        "place for good: `manage.py prepare --new-home`."
    )


def take(name: str) -> None:
    """From now on the database goes with the home of this name, which lies there in FILE."""
    Leader.objects.get_or_create(pk=ROW, defaults={"renewed_at": timezone.now()})
    Leader.objects.filter(pk=ROW).update(home=name)


def _name(home: Path) -> str:
    try:
        return (home / FILE).read_text().strip()
    except OSError:
        return ""

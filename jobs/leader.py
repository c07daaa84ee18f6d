"""Who schedules: a lease in the database, held by one control worker at a time, and a term in each of its writes.

A leader that was stopped for a while and goes on cannot know that another one leads by now; the database does. So a write
of the scheduler happens inside `Leadership.writing()`, which looks at the row in the same transaction.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from jobs.models import Leader

log = logging.getLogger(__name__)

LEASE_S = 8.0
"""A holder that has not renewed for this long is replaced: within 10 s, with the second between two looks. On PostgreSQL its
open transactions end before that (idle_in_transaction_session_timeout, autotrainer_site/settings.py)."""
RENEW_EVERY_S = 2.0
ROW = 1
_AWAY = " away"
"""Behind a holder that offers its place: it cannot reach Redis, so whoever can may take over."""


class Deposed(Exception):
    """Another control worker leads: nothing was written."""


class Leadership:
    """This process's part in it. `keep` is called by one thread, everything else by any."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.holder = _identity()
        self._clock = clock
        self._lock = threading.Lock()
        self._term = 0
        self._renewed = 0.0
        self._seen: tuple[tuple[int, str, datetime], float] | None = None
        self._offers = False

    @property
    def held(self) -> bool:
        """Whether this process leads, as far as it can know without asking; writes are checked by the database."""
        return self._term > 0 and self._clock() - self._renewed < LEASE_S

    def keep(self, *, connected: bool = True) -> bool:
        """Renew the lease, or take it where nobody holds it; `connected`: or where its holder offers it. Call each second or two."""
        if self._term and self._clock() - self._renewed < RENEW_EVERY_S:
            return True
        asked, now = self._clock(), timezone.now()
        if self._term:
            if self._mine().update(renewed_at=now) == 1:
                self._renewed = asked
                return True
            self._lost()
        return self._take(asked, now, connected=connected)

    def offer(self, *, away: bool) -> None:
        """Go on leading, and let another one take over that can reach Redis; or take that back."""
        if self._term and away != self._offers and self._mine().update(holder=self.holder + _AWAY * away) == 1:
            self._offers = away

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction of the leader; raises Deposed where this process leads no longer."""
        with transaction.atomic():
            leads = self._mine().select_for_update().values_list("pk").first()
            if not self._term or leads is None:
                self._lost()
                raise Deposed
            yield

    def resign(self) -> None:
        """Let another one lead at once."""
        term, self._term = self._term, 0
        if term:
            self._mine(term).update(holder="")

    def _mine(self, term: int | None = None) -> QuerySet[Leader]:
        return Leader.objects.filter(pk=ROW, term=self._term if term is None else term, holder__startswith=self.holder)

    def _take(self, asked: float, now: datetime, *, connected: bool) -> bool:
        row, _ = Leader.objects.get_or_create(pk=ROW, defaults={"renewed_at": now})
        if not self._vacant(row, now) and not (connected and row.holder.endswith(_AWAY)):
            return False
        mine = Leader.objects.filter(pk=ROW, term=row.term, holder=row.holder, renewed_at=row.renewed_at)
        if mine.update(term=row.term + 1, holder=self.holder, renewed_at=now) != 1:
            return False
        self._renewed, self._term, self._offers = asked, row.term + 1, False
        log.info("leads with term %d", self._term, extra={"action": "leader_taken"})
        return True

    def _vacant(self, row: Leader, now: datetime) -> bool:
        """Nobody holds it, its holder's process is gone, or it was not renewed for the lease, by the row or by our own clock."""
        if not row.holder or _is_dead(row.holder) or now - row.renewed_at > timedelta(seconds=LEASE_S):
            return True
        last = (row.term, row.holder, row.renewed_at)
        if self._seen is None or self._seen[0] != last:
            self._seen = (last, self._clock())
        return self._clock() - self._seen[1] > LEASE_S  # its clock may run ahead of ours

    def _lost(self) -> None:
        with self._lock:
            if self._term:
                log.warning("leads no longer (term %d)", self._term, extra={"action": "leader_lost"})
            self._term = 0


# --- processes on this machine ------------------------------------------------------------------------------------------


def _identity() -> str:
    return f"{_machine()} {os.getpid()} {_start_ticks(os.getpid())} {secrets.token_hex(4)}"


def _machine() -> str:
    """This boot of this machine, and what its process numbers mean: containers number their own."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"


def _is_dead(holder: str) -> bool:
    """Whether a holder's process provably runs no more; False for one elsewhere."""
    machine, _, rest = holder.partition(" ")
    pid, _, rest = rest.partition(" ")
    ticks = rest.partition(" ")[0]
    if machine != _machine() or not pid.isdigit() or not ticks.isdigit():
        return False
    return _start_ticks(int(pid)) != int(ticks)


def _start_ticks(pid: int) -> int | None:
    """The start time that makes a process number unique; None where there is no such process, or only a zombie."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(fields[18])

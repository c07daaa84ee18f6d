"""What operators say about processes outside the queue: when one uses a device of a host, and which ones never do.

The rows are the truth. A host gets them sealed, with a serial that only grows, and says in its heartbeat which ones it goes
by; until that is the present one they are laid out for it again. It keeps the last ones on its disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from gpuworker import protocol
from gpuworker.protocol import Beat, IgnoredProcess, ProcessReading, Rules
from jobs import eventphrases, hostlink
from jobs.capacity import stale_after_s
from jobs.drains import HostRefused, by, told
from jobs.hostlink import Heard
from jobs.models import Host, User
from jobs.models.audit import About, Act

log = logging.getLogger(__name__)

LARGEST_MIB, LONGEST_IDLE_MIN = 2**24, 60 * 24 * 30
MOST_IGNORED = 200
AGAIN_S = 5.0
_CREDIBLE_SERIAL = 2**53
"""No host of ours comes here: serials are milliseconds."""


@transaction.atomic
def set_rule(name: str, actor: User, *, memory_mib: int | None, idle_min: int | None, reason: str = "") -> bool:
    """From now on this counts as use of the host's devices; None: the default. False if there is no such host."""
    host = _locked(name)
    if host is None:
        return False
    signed = {"rule_by": by(actor, reason), "rule_at": timezone.now()}
    _change(host, use_memory_mib=memory_mib, use_idle_min=idle_min, **signed)
    mib, minutes = _effective(memory_mib, idle_min)
    what = eventphrases.RULE % {"mib": mib, "n": minutes}
    return told(Act.RULE_SET, About.HOST, name, actor=actor, changed=1, what=what, reason=reason)


def ignore(name: str, actor: User, pid: int, reason: str = "") -> None:
    """This process of the host does not count as use any more; a later one with its pid does. Raises HostRefused."""
    with transaction.atomic():
        if (host := _locked(name)) is None:
            raise HostRefused(_("There is no host %(name)s.") % {"name": name})
        beat, process = _process_now(name, pid)
        if len(host.ignored) >= MOST_IGNORED:
            raise HostRefused(
                _("%(most)s processes of %(name)s are ignored already: take some back, or change its rule.")
                % {"most": MOST_IGNORED, "name": name}
            )
        kept = [one for one in host.ignored if one["boot_id"] == beat.boot_id and _key(one) != (pid, process.start_ticks)]
        entry = {
            "pid": pid,
            "start_ticks": process.start_ticks,
            "boot_id": beat.boot_id,
            "user": process.user,
            "command": process.command,
            "by": by(actor, reason),
            "at": timezone.now().isoformat(timespec="seconds").replace("+00:00", "Z"),
        }
        _change(host, ignored=[*kept, entry])
        told(Act.IGNORED, About.HOST, name, actor=actor, changed=1, what=eventphrases.IGNORES % {"pid": pid}, reason=reason)


def heed(name: str, actor: User, pid: int) -> None:
    """Take `ignore` back. Raises HostRefused."""
    with transaction.atomic():
        if (host := _locked(name)) is None:
            raise HostRefused(_("There is no host %(name)s.") % {"name": name})
        kept = [one for one in host.ignored if one["pid"] != pid]
        if len(kept) == len(host.ignored):
            raise HostRefused(_("No process with pid %(pid)s is ignored on %(name)s.") % {"pid": pid, "name": name})
        _change(host, ignored=kept)
        told(Act.HEEDED, About.HOST, name, actor=actor, changed=1, what=eventphrases.HEEDS % {"pid": pid})


def _locked(name: str) -> Host | None:
    return Host.objects.select_for_update().filter(name=name).first()


def _change(host: Host, **fields: Any) -> None:
    serial = next_serial(host.rules_serial)
    Host.objects.filter(pk=host.pk).update(rules_serial=serial, **fields)
    transaction.on_commit(lambda: bool(send(host.name)), robust=True)


def next_serial(old: int) -> int:
    """Milliseconds, so that it grows over a restored backup too."""
    return max(old + 1, round(time.time() * 1000))


def _process_now(name: str, pid: int) -> tuple[Beat, ProcessReading]:
    """The process outside the queue that the host shows with this pid. Raises HostRefused."""
    try:
        heard = hostlink.heard([name]).get(name)
    except (redis.RedisError, OSError) as exc:
        raise HostRefused(_("Redis does not answer, so what runs there cannot be told.")) from exc
    if heard is None or heard.age_s > stale_after_s():
        raise HostRefused(_("%(name)s is silent, so what runs there cannot be told.") % {"name": name})
    found = [p for device in heard.beat.devices for p in device.processes if p.pid == pid and not p.ours]
    if not found:
        raise HostRefused(_("No process outside the queue with pid %(pid)s is on a device of %(name)s now.") % {"pid": pid, "name": name})
    if found[0].start_ticks is None:
        raise HostRefused(
            _("When pid %(pid)s was started cannot be seen on %(name)s, so it cannot be told from a later one with its pid.")
            % {"pid": pid, "name": name}
        )
    return heard.beat, found[0]


def _key(entry: Mapping[str, Any]) -> tuple[int, int]:
    return entry["pid"], entry["start_ticks"]


def _effective(memory_mib: int | None, idle_min: int | None) -> tuple[int, int]:
    mib = protocol.IN_USE_MEMORY_MIB if memory_mib is None else memory_mib
    return mib, protocol.IN_USE_IDLE_MIN if idle_min is None else idle_min


# --- to the hosts -------------------------------------------------------------------------------------------------------


def send(name: str) -> bool:
    host = Host.objects.filter(name=name).first()
    return host is not None and hostlink.put_rules(name, rules_of(host))


def rules_of(host: Host) -> Rules:
    ignored = tuple(IgnoredProcess(boot_id=one["boot_id"], pid=one["pid"], start_ticks=one["start_ticks"]) for one in host.ignored)
    return Rules(serial=host.rules_serial, memory_mib=host.use_memory_mib, idle_min=host.use_idle_min, ignored=ignored)


class Sender:
    """The leader's: lays rules out again for hosts that do not go by the present ones yet."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sent_at: dict[str, float] = {}

    def look(self, rows: Mapping[str, Host], heard: Mapping[str, Heard]) -> None:
        for name, host in heard.items():
            row, serial = rows.get(name), host.beat.rules_serial
            if row is None or serial == row.rules_serial or serial > _CREDIBLE_SERIAL:
                continue
            if self._clock() - self._sent_at.get(name, float("-inf")) < AGAIN_S:
                continue
            self._sent_at[name] = self._clock()
            if serial > row.rules_serial:
                # It goes by what an operator said after the backup that was restored here: what the rows say holds again.
                Host.objects.filter(pk=row.pk, rules_serial=row.rules_serial).update(rules_serial=next_serial(serial))
            send(name)

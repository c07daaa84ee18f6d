"""Who may see and do what: one place for REST, pages and admin.

Whoever is signed in sees the whole queue; what a job runs, and what it prints, only its owner and operators see.
"""

from __future__ import annotations

import threading
import time

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.core.cache import cache
from django.db.models import QuerySet

from jobs import hostlink
from jobs.models import Job, User
from jobs.states import Role, WaitReason

TESTS_PER_MINUTE = 6
LOGINS_PER_MINUTE = 5

HIDDEN_FROM_OTHERS = ("command", "working_dir", "env", "swaps", "artifacts", "notify")
"""Fields of a job that are null for whoever may not see its details."""


def is_operator(user: User | AnonymousUser) -> bool:
    return isinstance(user, User) and user.is_operator


def may_submit(user: User | AnonymousUser) -> bool:
    return isinstance(user, User) and user.may_submit


def manages_people(user: User | AnonymousUser) -> bool:
    return isinstance(user, User) and (user.is_superuser or user.role == Role.ADMIN)


def may_change_person(user: User | AnonymousUser, person: User) -> bool:
    """Superusers are changed by superusers only: else an administrator could become one with a new password of theirs."""
    return manages_people(user) and (user.is_superuser or not person.is_superuser)


def sees_all_details(user: User | AnonymousUser) -> bool:
    return isinstance(user, User) and bool(user.is_operator or settings.AUTOTRAINER.open_lab)


def may_see_details(user: User | AnonymousUser, job: Job) -> bool:
    """The command, the environment, the log, the events."""
    return isinstance(user, User) and (job.owner_id == user.pk or sees_all_details(user))


def veiled(user: User | AnonymousUser, job: Job) -> Job:
    """The job as this person may see it in a list: why it waits names a swapped file to those who may see its swaps only."""
    if job.wait_code == WaitReason.FILE_IN_USE and not may_see_details(user, job):
        job.wait_message = "Waits for a file that another job has swapped."
    return job


def may_change(user: User | AnonymousUser, job: Job) -> bool:
    """Edit, cancel, hold, release. Details that an open lab shows are still not to be touched."""
    return isinstance(user, User) and (user.is_operator or (job.owner_id == user.pk and user.may_submit))


def visible_jobs(user: User | AnonymousUser) -> QuerySet[Job]:
    """The whole queue for everyone who is signed in, nothing for anybody else."""
    return Job.objects.all() if isinstance(user, User) else Job.objects.none()


def login_wait_s(address: str, username: str) -> float:
    """0 where this address may try this user name now (the try is counted), else the seconds until it may."""
    return _wait_s(f"login-tries {address} {username.casefold()[:150]}", LOGINS_PER_MINUTE)


def test_wait_s(user: User) -> float:
    """The same for a person's test messages, which leave the house."""
    return _wait_s(f"test-messages {user.pk}", TESTS_PER_MINUTE)


def _wait_s(name: str, most: int) -> float:
    """Counted in this process, and in Redis for all of several web processes; while Redis is away in this process alone."""
    key, now = name.encode("unicode_escape").hex()[:240], time.time()
    with _counting:
        tries = [at for at in cache.get(key, []) if at > now - 60]
        if len(tries) >= most:
            return float(max(1.0, tries[0] + 60 - now))
        cache.set(key, [*tries, now], 60)
    number, left_s = hostlink.count(name, for_s=60)
    return float(max(1, left_s)) if number > most else 0.0


_counting = threading.Lock()
"""Requests run in threads of their own: without it many at once would each see none of the others."""

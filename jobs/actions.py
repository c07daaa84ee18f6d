"""What people do to a job, by one word or by an edit: the same in REST, pages and admin."""

from __future__ import annotations

from collections.abc import Callable

from django.core.exceptions import PermissionDenied
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from jobs import access, lifecycle, swaps
from jobs.models import Job, User
from jobs.states import TERMINAL, WAITING, JobState
from jobs.submission import Submission

ACTIONS = ("cancel", "hold", "release", "resubmit")

_POSSIBLE: dict[str, frozenset[JobState]] = {
    "cancel": frozenset(set(JobState) - TERMINAL),
    "hold": frozenset({JobState.QUEUED}),
    "release": frozenset({JobState.HELD}),
    "resubmit": frozenset(JobState),
}
_ONLY = {
    "cancel": gettext_noop("a job that is over cannot be cancelled"),
    "hold": gettext_noop("only queued jobs can be held"),
    "release": gettext_noop("only held jobs can be released"),
}
gettext_noop("stopping"), gettext_noop("cancelled")  # the other states are marked in jobs.scheduling.phrases and eventphrases
_CHANGES: dict[str, Callable[..., bool]] = {"cancel": lifecycle.cancel, "hold": lifecycle.hold, "release": lifecycle.release}


class ActionRefused(Exception):
    """The job's present state does not allow it; the text is a sentence for the person who asked."""


def allowed(user: User, job: Job, name: str) -> bool:
    """Whether this person may do this to this job at all, whatever its state."""
    if name == "resubmit":
        return access.may_submit(user) and access.may_see_details(user, job)
    return access.may_change(user, job)


def available(user: User, job: Job) -> list[str]:
    """The actions that make sense now, for buttons."""
    return [name for name in ACTIONS if JobState(job.state) in _POSSIBLE[name] and allowed(user, job, name)]


def perform(name: str, job: Job, actor: User) -> Job:
    """Do it and answer with the job as it is now (resubmit: the new one). Raises ActionRefused, PermissionDenied."""
    if not allowed(actor, job, name):
        raise PermissionDenied
    if name == "resubmit":
        return _resubmit(job, actor)
    done = _CHANGES[name](job, actor=actor)
    job.refresh_from_db()
    if not done:
        raise ActionRefused(_("Job %(job)s is %(state)s; %(only)s.") % {"job": job.pk, "state": _(job.state), "only": _(_ONLY[name])})
    return job


def _resubmit(job: Job, actor: User) -> Job:
    if gone := swaps.gone(job.swaps):
        files = ", ".join(sorted(gone))
        raise ActionRefused(
            _(
                "What was handed in for %(files)s was removed, because job %(job)s had ended long ago (AUTOTRAINER_RETENTION_DAYS): "
                "submit it anew with the file."
            )
            % {"files": files, "job": job.pk}
        )
    return lifecycle.resubmit(job, actor=actor)


def editable(job: Job) -> bool:
    """Whether it has not started, so that an edit is possible now."""
    return JobState(job.state) in WAITING and not job.attempts.all()


def edit(job: Job, changes: Submission, actor: User) -> None:
    """Change what has not started. Raises ActionRefused, PermissionDenied."""
    if not access.may_change(actor, job):
        raise PermissionDenied
    if (changes.fields or changes.after is not None) and not lifecycle.edit(job, changes.fields, after=changes.after, actor=actor):
        raise ActionRefused(started(job))


def started(job: Job) -> str:
    """Why it cannot be edited any more, for whoever tries."""
    told = _("Job %(job)s is %(state)s and has been started before: resubmit it, or submit a changed copy.")
    return told % {"job": job.pk, "state": _(job.state)}

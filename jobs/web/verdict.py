"""The sentence on top of a job's page: how it stands or how it ended, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from jobs.models import Attempt, Job
from jobs.phrases import said as in_words
from jobs.phrases import said_of_attempt
from jobs.states import JobState, Outcome
from jobs.web.words import JOB_LABELS, duration, gib, place, tone

NOT_EXECUTABLE, NOT_FOUND = 126, 127
LAST_SIGNAL = 160


@dataclass(frozen=True, slots=True)
class Verdict:
    """`word` is the state, `said` goes on from it in the same sentence, `next` is advice. Plain text, all three."""

    tone: str
    word: str
    said: str
    next: str = ""

    @property
    def goes_on(self) -> str:
        """`said` as it follows the word: with a space where words have one between them."""
        return self.said if self.said[:1] in ".,:" or not self.said[:1].isascii() else f" {self.said}"


def verdict(job: Job, attempts: Sequence[Attempt], *, position: int | None, silent: str, private: bool, now: datetime) -> Verdict:
    """`attempts` oldest first. `silent` says why the host of the open attempt is not heard, empty where it is.

    `private` leaves out what only people with access may read: paths in the host's words.
    """
    last = attempts[-1] if attempts else None
    said, advice = "", ""
    match JobState(job.state):
        case JobState.QUEUED:
            said, advice = _waiting(job, position), ""
        case JobState.HELD:
            said, advice = _held(job, private=private), _("Release it to let it wait for its turn.")
        case JobState.STARTING if last:
            said = _("on %(place)s.") % {"place": place(last.host, last.devices)}
        case JobState.RUNNING if last:
            said, advice = _running(job, last, now), silent
        case JobState.STOPPING:
            said, advice = _(": its processes are being ended, the GPUs are free when the last one is gone."), silent
        case JobState.COMPLETED if last:
            said = _completed(last, len(attempts), now)
        case JobState.FAILED:
            said, advice = _failed(job, last, len(attempts), private=private)
        case JobState.CANCELLED:
            said = _cancelled(last, now)
    return Verdict(tone(job.state), str(JOB_LABELS[job.state]), said, advice)


def _waiting(job: Job, position: int | None) -> str:
    where = _sentence("")
    if position == 1:
        where = _(", next in line.")
    elif position:
        where = _(", number %(position)d in line.") % {"position": position}
    return f"{where} {in_words(job.wait_message)}" if job.wait_message else where


def _held(job: Job, *, private: bool) -> str:
    return _sentence("") if private or not job.wait_message else f"{_sentence('')} {in_words(job.wait_message)}"


def _running(job: Job, last: Attempt, now: datetime) -> str:
    where = place(last.host, last.devices)
    if not last.started_at:
        return _("on %(place)s.") % {"place": where}
    ran = now - last.started_at
    said = _("on %(place)s for %(time)s.") % {"place": where, "time": duration(ran)}
    if job.time_limit_s:
        left = job.time_limit_s - ran.total_seconds()
        said += " " + _("Its time limit ends it in %(time)s.") % {"time": duration(left)}
    return said


def _completed(last: Attempt, count: int, now: datetime) -> str:
    said = _("after %(time)s on %(place)s") % {"time": _ran(last, now), "place": place(last.host, last.devices)}
    return _sentence(said) if count == 1 else said + _(", in attempt %(number)d.") % {"number": last.number}


def _cancelled(last: Attempt | None, now: datetime) -> str:
    if last is None or last.started_at is None:
        return _("before it started.")
    return _("after it had run for %(time)s.") % {"time": _ran(last, now)}


def _failed(job: Job, last: Attempt | None, count: int, *, private: bool) -> tuple[str, str]:
    if last is None:
        return (_sentence("") if private or not job.wait_message else f": {in_words(job.wait_message)}"), ""
    tries = "" if count == 1 else ngettext(" after %(count)d attempt", " after %(count)d attempts", count) % {"count": count}
    how, advice = _ending(last)
    detail = f": {said_of_attempt(last.message.rstrip('.'))}" if last.message and not private else ""
    if last.oom_detected:
        said = _("%(how)s%(tries)s: the log says that the GPU ran out of memory.") % {"how": how, "tries": tries}
        held = "" if last.peak_memory_mib is None else " " + _("It held %(size)s GiB at its peak.") % {"size": gib(last.peak_memory_mib)}
        return said + held, _oom_advice()
    return _sentence(f"{how}{tries}{detail}"), advice


def _oom_advice() -> str:
    return _("Lower the batch size, or run it again with more free memory for each GPU.")


def _ending(last: Attempt) -> tuple[str, str]:
    """How the last attempt failed, and the first thing to look at."""
    match last.outcome:
        case Outcome.TIMED_OUT:
            return _("at its time limit"), _("Run it again with a longer one, or from its last checkpoint.")
        case Outcome.LAUNCH_FAILED:
            return _("before it could start"), _("Mend what is named here, then run it again.")
        case Outcome.EXIT_LOST:
            return _("with its exit code lost"), ""
        case Outcome.HOST_LOST:
            return _("with its host"), ""
    if last.signal:
        return _("by signal %(number)d") % {"number": last.signal}, ""
    code = last.exit_code or 0
    how = _("with exit code %(code)d") % {"code": code}
    if code == NOT_FOUND:
        return how, _("The shell did not find a program: the last lines of the log name it.")
    if code == NOT_EXECUTABLE:
        return how, _("The shell found the program but may not run it: is it executable?")
    if 128 < code < LAST_SIGNAL:
        return how + _(" (probably signal %(number)d)") % {"number": code - 128}, ""
    return how, ""


def _sentence(said: str) -> str:
    """With its full stop, which is another one in Chinese."""
    return _("%(said)s.") % {"said": said}


def _ran(attempt: Attempt, now: datetime) -> str:
    return duration((attempt.ended_at or now) - attempt.started_at) if attempt.started_at else duration(0)

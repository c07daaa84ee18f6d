"""Makes the letter about how a job went: a sentence, the facts, what the log says last, the log, the pictures."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from django.conf import settings
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.safestring import mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from jobs import artifacts, quiet
from jobs.models import Attempt, Job, JobEvent
from jobs.notifications import ownmail
from jobs.notifications.excerpt import Excerpt, excerpt, packed
from jobs.notifications.letter import Attachment, Letter
from jobs.notifications.occasions import FAILURES, Occasion, asked_to_end
from jobs.notifications.ownmail import OwnMail
from jobs.phrases import said as in_words
from jobs.web.verdict import verdict
from jobs.web.words import duration, gib, place

MOST_PICTURES = 5
LONGEST_NAME = 120
DIGEST_ROWS = 50
STACK_LINES = 80
CHAT_LINES = 10
MONO = mark_safe("ui-monospace,Menlo,Consolas,'DejaVu Sans Mono','Noto Sans Mono CJK SC',monospace")
ATTACHED_TYPES = {
    ".csv": "text/csv",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".log": "text/plain",
    ".md": "text/plain",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".txt": "text/plain",
    ".zip": "application/zip",
}
"""Of what a training attaches to its own letter; a mail program shall draw nothing else."""


def compose(occasion: Occasion, event: JobEvent, attempt: Attempt | None, *, files: bool = True) -> Letter:
    """In the language that is active. Without `files` nothing is attached, and no log is packed."""
    job = event.job
    sentence, advice = _sentence(occasion, event)
    shown = excerpt(attempt) if attempt else Excerpt((), None, "")
    own = ownmail.of(job, event.attempt, occasion)
    attachments, cut = _attachments(job, attempt) if files and occasion is not Occasion.STARTED else ([], "")
    added, remarks = _own_files(job, attempt, own) if files else ([], [])
    attachments += added
    pictures = [one for one in attachments if one.inline_id]
    context = {
        "job": job,
        "title": f"#{job.pk} {one_line(job.name)}",
        "sentence": sentence,
        "advice": advice,
        "name": one_line(job.name),
        **_look(occasion),
        "facts": _facts(job, attempt),
        "excerpt": shown,
        "highlight": [] if occasion is Occasion.QUIET else _highlight(shown),
        "stack": _stack(attempt) if occasion is Occasion.QUIET and attempt else [],
        "own": own.text.strip(),
        "remarks": remarks,
        "pictures": pictures,
        "cut": cut,
        "url": job_url(job),
        "bar": "─" * 60,
    }
    return Letter(
        subject=subject(occasion, job, attempt, name=own.subject),
        text=render_to_string("jobs/mail/letter.txt", context),
        html=render_to_string("jobs/mail/letter.html", context),
        markdown=_markdown(context),
        attachments=tuple(attachments),
        chat=_chat(context),
    )


def _sentence(occasion: Occasion, event: JobEvent) -> tuple[str, str]:
    """What happened, and advice. A job that has ended is told as on its page; one that goes on by what its event says."""
    if occasion is Occasion.QUIET:
        return one_line(in_words(event.message), most=1000), _("If it hangs, cancel it: its GPUs stay taken until it ends.")
    if occasion in (Occasion.HOST_LOST, Occasion.HELD, Occasion.STARTED, Occasion.RETRIED):
        return one_line(in_words(event.message), most=1000), ""
    attempts = list(event.job.attempts.order_by("number"))
    said = verdict(event.job, attempts, position=None, silent="", private=False, now=timezone.now())
    ended = one_line(f"{said.word}{said.goes_on}", most=1000)
    return ended, _who_cancelled(event.job) if occasion is Occasion.CANCELLED else said.next


def _who_cancelled(job: Job) -> str:
    asked = asked_to_end(job)
    if asked is None or asked.actor is None:
        return one_line(in_words(asked.message), most=1000) if asked else ""
    return _("%(person)s cancelled it.") % {"person": asked.actor.get_username()}


def digest(failed: Sequence[tuple[Occasion, Job, Attempt | None]], *, ended: int) -> Letter:
    """Many failures as one: `37 of 40 failed: KeyError 'lr'`."""
    found = [_headline(attempt) for _occasion, _job, attempt in failed]
    heads = [head or _words(occasion) for head, (occasion, _job, _attempt) in zip(found, failed, strict=True)]
    most = one_line(max(found, key=lambda head: (found.count(head), bool(head))))
    rows = [
        {"job": job, "name": one_line(job.name), "url": job_url(job), "how": head}
        for (_occasion, job, _attempt), head in zip(failed[:DIGEST_ROWS], heads, strict=False)
    ]
    count = len(failed)
    said = ngettext("%(count)d of %(ended)d job failed", "%(count)d of %(ended)d jobs failed", ended) % {"count": count, "ended": ended}
    title = f"{said}: {most}" if most else said
    context = {
        "title": title,
        "said": said,
        "most": most,
        "rows": rows,
        "more": count - len(rows),
        "url": settings.AUTOTRAINER.url.rstrip("/") + "/jobs/",
        "mono": MONO,
    }
    text = render_to_string("jobs/mail/digest.txt", context)
    told = [f"#{job.pk} {one_line(job.name)}" for _occasion, job, _attempt in failed[:CHAT_LINES]]
    return Letter(
        subject=f"[AutoTrainer] {title}"[:200],
        text=text,
        html=render_to_string("jobs/mail/digest.html", context),
        markdown=fenced(text),
        chat="\n".join([title, *told, str(context["url"])]),
    )


def _headline(attempt: Attempt | None) -> str:
    """Of its traceback; empty where it has none."""
    traceback = excerpt(attempt).traceback if attempt else None
    return traceback.headline if traceback else ""


def subject(occasion: Occasion, job: Job, attempt: Attempt | None, *, name: str = "") -> str:
    """`[AutoTrainer] FAILED #42 name (OOM, attempt 2/3)`; `name`: what a training says instead of its job's."""
    notes = [_("OOM")] if occasion is Occasion.OOM else []
    if attempt and (job.max_retries or attempt.number > 1):
        notes.append(_("attempt %(number)d/%(all)d") % {"number": attempt.number, "all": max(job.max_retries + 1, attempt.number)})
    behind = f" ({', '.join(notes)})" if notes else ""
    return f"[AutoTrainer] {_words(occasion)} #{job.pk} {one_line(name or job.name)}{behind}"


def _words(occasion: Occasion) -> str:
    return {
        Occasion.COMPLETED: _("COMPLETED"),
        Occasion.FAILED: _("FAILED"),
        Occasion.OOM: _("FAILED"),
        Occasion.TIMED_OUT: _("TIME LIMIT"),
        Occasion.HOST_LOST: _("HOST LOST"),
        Occasion.CANCELLED: _("CANCELLED"),
        Occasion.HELD: _("HELD"),
        Occasion.QUIET: _("QUIET"),
        Occasion.STARTED: _("STARTED"),
        Occasion.RETRIED: _("RETRY"),
    }[occasion]


def one_line(text: str, most: int = LONGEST_NAME) -> str:
    """What people wrote, as it may stand in a header: no line break, control or direction mark, and not without end."""
    plain = "".join(c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else " " for c in text)
    short = " ".join(plain.split())
    return short if len(short) <= most else short[: most - 1] + "…"


def job_url(job: Job) -> str:
    return f"{settings.AUTOTRAINER.url.rstrip('/')}/jobs/{job.pk}/"


def _facts(job: Job, attempt: Attempt | None) -> list[tuple[str, str]]:
    rows: list[tuple[Any, str]] = [(_("Owner"), job.owner.get_username()), (_("Command"), one_line(job.command))]
    if attempt:
        rows += [
            (_("Ran on"), place(attempt.host, attempt.devices)),
            (_("Started"), _clock(attempt.started_at)),
            (_("Ended"), _clock(attempt.ended_at)),
            (_("Ran for"), _ran(attempt)),
            (_("Peak GPU memory"), "" if attempt.peak_memory_mib is None else f"{gib(attempt.peak_memory_mib)} GiB"),
            (_("Exit code"), "" if attempt.exit_code is None else str(attempt.exit_code)),
            (_("Signal"), "" if attempt.signal is None else str(attempt.signal)),
        ]
    return [(str(name), value) for name, value in rows if value]


def _clock(at: Any) -> str:
    return f"{timezone.localtime(at):%Y-%m-%d %H:%M:%S %Z}" if at else ""


def _ran(attempt: Attempt) -> str:
    if not (attempt.started_at and attempt.ended_at):
        return ""
    return str(duration((attempt.ended_at - attempt.started_at).total_seconds()))


def _highlight(shown: Excerpt) -> tuple[str, ...]:
    """What to read first: the traceback, else the line about memory."""
    if shown.traceback:
        return tuple(line[:400] for line in shown.traceback.lines[-30:])
    return (shown.oom,) if shown.oom else ()


def _look(occasion: Occasion) -> dict[str, Any]:
    """The colours of the site: good, bad, or neither, where a job goes on or somebody ended it."""
    tone = "good" if occasion is Occasion.COMPLETED else "bad" if occasion in FAILURES else "odd"
    line, ground = {"good": ("#0f7040", "#e4f5ec"), "bad": ("#c11f2d", "#fdeaeb"), "odd": ("#8f5000", "#fcf0dd")}[tone]
    return {"tone": tone, "colours": {"line": line, "ground": ground}, "mono": MONO}


def _stack(attempt: Attempt) -> list[str]:
    return [line[:400] for line in quiet.stack_of(attempt).splitlines()[:STACK_LINES]]


def _attachments(job: Job, attempt: Attempt | None) -> tuple[list[Attachment], str]:
    """The log and the pictures; and what was left out of the log."""
    if attempt is None or attempt.started_at is None:
        return [], ""
    log, cut = packed(attempt)
    found = [Attachment(f"job-{job.pk}-attempt-{attempt.number}.log.gz", "application/gzip", log)]
    for number, (name, data) in enumerate(artifacts.pictures(job, attempt, most=MOST_PICTURES), 1):
        kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
        stem = _plain(PurePosixPath(name).stem)[:40] or "picture"
        found.append(Attachment(f"{stem}-{number}.{kind}", f"image/{kind}", data, inline_id=f"picture-{number}@autotrainer"))
    return found, cut


def _own_files(job: Job, attempt: Attempt | None, own: OwnMail) -> tuple[list[Attachment], list[str]]:
    """What its training attached; and what was wrong with the letter that it wrote, as sentences."""
    if own.fault:
        return [], [_("What the training wrote into AUTOTRAINER_MAIL could not be used: %(why)s.") % {"why": own.fault}]
    found, remarks = [], []
    for number, one in enumerate(ownmail.attached(job, attempt, own.attachments) if attempt else (), 1):
        if one.error:
            said = {"name": one_line(one.name, 200), "why": one_line(one.error, 400).rstrip(".")}
            remarks.append(_("“%(name)s” is not attached: %(why)s.") % said)
            continue
        path = PurePosixPath(one.name)
        ending = _plain(path.suffix)[:10]
        kind = ATTACHED_TYPES.get(path.suffix.lower(), "application/octet-stream")
        found.append(Attachment(f"{_plain(path.stem)[:40] or 'file'}-{number}{ending}", kind, one.data))
    return found, remarks


def _plain(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)


def _markdown(context: dict[str, Any]) -> str:
    """For those who render Markdown, with or without escaping: what a program printed stands in a fence."""
    rows = [f"- **{name}**: `{value.replace('`', chr(39))}`" for name, value in context["facts"]]
    parts = [fenced("\n".join(filter(None, (context["sentence"], context["advice"]))))]
    if context["own"]:
        parts.append(fenced(context["own"]))
    parts.append("\n".join(rows))
    parts += [fenced(remark) for remark in context["remarks"]]
    if context["highlight"]:
        parts.append(fenced("\n".join(context["highlight"])))
    if context["stack"]:
        parts.append(fenced("\n".join(context["stack"])))
    if context["excerpt"].lines:
        parts.append(fenced("\n".join(context["excerpt"].lines)))
    return "\n\n".join([*parts, context["url"]])


def _chat(context: dict[str, Any]) -> str:
    """What fits onto a phone: what happened, where it went wrong, the last lines, where to look."""
    lines = context["highlight"][-CHAT_LINES:] or context["excerpt"].lines[-CHAT_LINES:]
    parts = [context["sentence"], context["advice"], one_line(context["own"], most=500), "\n".join(line[:200] for line in lines)]
    return "\n\n".join([*filter(None, parts), context["url"]])


def fenced(text: str) -> str:
    """In a code fence that nothing in the text can end."""
    longest, run = 2, 0
    for char in text:
        run = run + 1 if char == "`" else 0
        longest = max(longest, run)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text}\n{fence}"

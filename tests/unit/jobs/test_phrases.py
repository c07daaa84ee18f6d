"""Sentences made in English, said in another language."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
from django.utils import translation

from jobs import eventphrases, phrases
from jobs.phrases import PARTS, SENTENCES
from jobs.scheduling import phrases as reason_phrases
from jobs.scheduling import reasons
from jobs.scheduling.phrases import MORE
from jobs.scheduling.reasons import LastEnd, Reason
from jobs.scheduling.request import Request, Waiting
from tests.unit.jobs.inventories import GIB, NOON
from tests.unit.jobs.test_reasons import NO_ROOM

SHANGHAI = ZoneInfo("Asia/Shanghai")
TEMPLATES = {*SENTENCES, *(part for parts in PARTS.values() for part in parts)}
ENDS = [LastEnd(), LastEnd(1), LastEnd(1, None, True), LastEnd(None, 9), LastEnd(None, 9, True), LastEnd(None, None, True)]
MOMENTS = [NOON + timedelta(seconds=after) for after in (40, 3 * 3600, 86400, 9 * 86400)]
REQUESTS = [Request(0, 0), Request(1, 1), Request(2, 2), Request(2, 2, 20 * GIB), Request(1, 1, 20 * GIB, shared=True)]


def _retry(last: LastEnd) -> Reason:
    return reasons.backoff(MOMENTS[1], retry=1, max_retries=3, attempt=2, last=last, now=NOON, zone=SHANGHAI)


def _of_no_fault(attempt: int) -> Reason:
    return reasons.backoff(MOMENTS[0], retry=0, max_retries=3, attempt=attempt, now=NOON, zone=SHANGHAI)


def _behind(asked: Request, priority: int) -> Reason:
    first, job = Waiting(id=1, request=asked, priority=priority, owner="mei"), Waiting(id=2, request=Request(1, 1), priority=0, owner="mei")
    return reasons.behind(first, job, until=MOMENTS[1], now=NOON, zone=SHANGHAI)


TOLD = [
    *(_retry(last) for last in ENDS),
    *(_of_no_fault(attempt) for attempt in (1, 3)),
    *(reasons.begin_time(when, now=NOON, zone=SHANGHAI) for when in MOMENTS),
    *(_behind(asked, priority) for asked in REQUESTS for priority in (0, 5)),
    *(reasons.far_behind(asked, 200, owners) for asked in REQUESTS for owners in ([], ["lin"], ["lin", "mei"])),
    reasons.no_room(Request(1, 1), [], now=NOON, zone=SHANGHAI),
]


def _marked(template: str) -> str:
    """Another language: of the English one only numbers are left."""
    pieces = re.split(r"(%\(\w+\)s)", template)
    return "".join(part if at % 2 else f"语{''.join(re.findall(r'[0-9]+', part))}" for at, part in enumerate(pieces))


@pytest.mark.parametrize("message", [told.message for told in TOLD])
def test_each_reason_is_found_again_with_its_numbers_and_names(message: str) -> None:
    assert phrases.say(message, str) == message
    other = phrases.say(message, _marked)
    assert sorted(re.findall(r"\d+", other)) == sorted(re.findall(r"\d+", message))
    assert re.sub(r"\d+ (s|m|h|d|GiB|GPUs?)\b|lin|mei", "", other).isascii() is False
    assert not re.search(r"[A-Za-z]{3,}", re.sub(r"GPUs?|GiB|lin|mei", "", other)), other


@pytest.mark.parametrize("message", [*(told for *_, told in NO_ROOM.values()), "Waits for #4 a; b, which is held; #5 c, which is running."])
def test_what_hosts_and_jobs_before_it_do_keeps_its_numbers(message: str) -> None:
    assert phrases.say(message, str) == message
    assert sorted(re.findall(r"\d+", phrases.say(message, _marked))) == sorted(re.findall(r"\d+", message))


def test_hosts_and_devices_are_said_one_by_one() -> None:
    said = phrases.say("Needs 2 GPUs; a has 1 of 3: GPU 0 and 1 run #412 of lin, GPU 2 has 3 GiB free; b was declared lost.", _marked)
    assert not re.search(r"[a-z]{3,}", said.replace("lin", "")), said


@pytest.mark.parametrize("message", ["", "Was hit by a comet.", "Begins", "100 % of it: %(when)s", "Held by 100 %s"])
def test_what_no_template_fits_stays(message: str) -> None:
    assert phrases.say(message, _marked) == message


@pytest.mark.parametrize("name", ["%(when)s", "100 %", "a <b>", "until somebody", "at 14:31"])
def test_a_name_is_left_as_it_is(name: str) -> None:
    assert phrases.say(f"Held by {name} until somebody releases it.", lambda _: "由 %(person)s 保留") == f"由 {name} 保留"


def test_english_readers_get_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    translate: Callable[[str], str] = {"No host has joined yet.": "还没有主机加入。"}.get  # type: ignore[assignment]
    monkeypatch.setattr(phrases, "gettext", translate)
    with translation.override("zh-hans"):
        assert phrases.said("No host has joined yet.") == "还没有主机加入。"
    with translation.override("en"):
        assert phrases.said("No host has joined yet.") == "No host has joined yet."


SAMPLES = {
    "job": "41",
    "free": "1",
    "all": "4",
    "index": "0, 1 and 2",
    "attempt": "2",
    "signal": "9",
    "code": "-7",
    "n": "3",
    "hours": "4",
    "days": "5",
    "pid": "4711",
    "size": "19.5 GiB",
    "host": "gpu-a",
    "device": "GPU 1",
    "holders": "#41 of ada, #42 of ada",
}
"""What stands at a placeholder where no part of its own does; elsewhere a name."""


def _filled(template: str, deep: int = 3) -> Iterator[str]:
    """With each part that may stand at each placeholder, one after the other."""
    names = re.findall(r"%\((\w+)\)s", template)
    plain = {name: next(_parts(name, deep, template)) for name in names}
    yield template % plain
    for name in names:
        for part in _parts(name, deep, template):
            yield template % {**plain, name: part}


def _parts(name: str, deep: int, template: str) -> Iterator[str]:
    parts = [part for part in PARTS.get(name, ()) if part not in (MORE, template)]
    if not deep or not parts or name in SAMPLES:
        yield SAMPLES.get(name, "ada")
    else:
        for part in parts:
            yield from _filled(part, deep - 1)


@pytest.mark.parametrize("template", [*SENTENCES, *eventphrases.WHYS])
def test_each_sentence_is_found_again_with_all_its_parts(template: str) -> None:
    for text in _filled(template):
        say = phrases.say if template in SENTENCES else lambda text, translate: phrases._say(text, eventphrases.WHYS, translate)
        assert say(text, str) == text
        other = say(text, _marked)
        left = re.sub(r"ada|gpu-a|[GM]iB|GPU(?= \d|-)", "", other)
        assert not re.search("[A-Za-z]", left), f"{text!r} -> {other!r}"
        assert sorted(re.findall(r"\d+", other)) == sorted(re.findall(r"\d+", text))


def test_sentences_that_follow_on_each_other_are_said_one_by_one() -> None:
    message = (
        "Attempt 1 failed with exit code 1 after running out of GPU memory. It held 20 GiB at its peak; GPU 0 of gpu-a had 24 GiB for it. "
        "Retry 1 of 3 in 30 s. Nobody wrote a template for this one. Attempt 2 waits for a GPU with at least 25 GiB free, as gpu-b has: "
        "more than it had."
    )
    said = phrases.say(message, _marked)
    assert re.findall(r"[A-Za-z][A-Za-z ]{3,}", re.sub("gpu-|GiB", "", said)) == ["Nobody wrote a template for this one"], said


def test_no_placeholder_comes_twice() -> None:
    for template in TEMPLATES:
        names = re.findall(r"%\((\w+)\)s", template)
        assert len(names) == len(set(names)), template


@pytest.mark.parametrize("rest", ["hums a tune", "is on fire: call ada"])
def test_a_part_that_no_template_fits_stays_whole(rest: str) -> None:
    assert rest in phrases.say(f"Needs 1 GPU; gpu-a has 0 of 1: GPU 0 {rest}.", _marked)


def test_a_job_that_never_fits_is_not_taken_for_one_that_waits_for_room() -> None:
    message = "Needs 3 GPUs on one host; the best of 2 hosts, gpu-a, has 2."
    assert phrases.say(message, lambda template: "永不" if template == reason_phrases.NEVER else template) == "永不"

"""The few shapes that all pages are made of: states, moments, bars, amounts."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from jobs import phrases
from jobs.scheduling import words as scheduling
from jobs.web import words

register = template.Library()
_BAR = '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label="{}"><title>{}</title>{}</svg>'

register.filter("duration", words.duration)
register.filter("gib", words.gib)
register.filter("process", words.process)
register.filter("said", phrases.said)
register.filter("said_of_device", phrases.said_of_device)
register.filter("said_of_host", phrases.said_of_host)
register.filter("size", words.size)
register.filter("tone", words.tone)


@register.filter
def span(seconds: float) -> str:
    return phrases.said_of_span(scheduling.span(seconds))


@register.filter
def job_label(state: str) -> words.Label:
    return words.JOB_LABELS.get(state, state)


@register.filter
def outcome_label(outcome: str) -> words.Label:
    return words.OUTCOME_LABELS.get(outcome, outcome)


@register.filter
def device_label(state: str) -> words.Label:
    return words.DEVICE_LABELS.get(state, state)


@register.filter
def host_label(state: str) -> words.Label:
    return words.HOST_LABELS.get(state, state)


@register.simple_tag
def state(word: str, label: words.Label) -> SafeString:
    """A coloured dot and the word: colour is never alone."""
    return format_html('<span class="state is-{}">{}</span>', words.tone(word), label)


@register.simple_tag
def moment(at: datetime | None, style: str = "short") -> str | SafeString:
    """A time in the server's zone that the script turns into the viewer's; whole with its zone on hover.

    Styles: "short" is the time of today or the date, "seconds" has seconds, "day" both, always.
    """
    if at is None:
        return ""
    local, today = timezone.localtime(at), timezone.localdate()
    clock = "H:i:s" if style == "seconds" else "H:i"
    if style == "day" or (local.date() != today and style == "seconds"):
        text = date_format(local, f"j M {clock}")
    elif local.date() == today:
        text = date_format(local, clock)
    else:
        text = date_format(local, "j M H:i" if local.year == today.year else "j M Y")
    whole = date_format(local, "Y-m-d H:i:s T")
    return format_html('<time datetime="{}" data-style="{}" title="{}">{}</time>', at.isoformat(), style, whole, text)


@register.simple_tag
def elapsed(start: datetime | None, end: datetime | None = None) -> str:
    return words.elapsed(start, end, timezone.now())


@register.simple_tag
def gpus(low: int, high: int) -> str:
    return words.gpus(low, high)


@register.simple_tag
def place(host: str, devices: list[dict[str, object]]) -> str:
    return words.place(host, devices)


@register.simple_tag
def bar(label: str, *parts: float | None) -> SafeString:
    """Shares of 100 side by side: ours, used outside, the rest. Drawn as SVG, since the policy allows no inline style.

    Written here and not in a template of its own: a page has hundreds.
    """
    drawn, start = [], 0.0
    for kind, part in zip(("ours", "external", "rest"), parts, strict=False):
        width = round(min(max(part or 0.0, 0.0), 100.0 - start), 1)
        drawn.append((kind, round(start, 1), width))
        start += width
    shares = format_html_join("", '<rect class="{}" x="{}" width="{}" height="6"/>', drawn)
    return format_html(_BAR, label, label, shares)

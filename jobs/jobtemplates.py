"""Templates of jobs: what a person keeps of the submit form under a name; the same for page, REST and command line.

Kept are the fields as `POST jobs/` takes them, each readable by itself. What they say together, and whether the hosts have it,
is asked when a job is submitted: a template may be kept before its host has joined. Contents of swapped files are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from jobs import audit, fields
from jobs.models import JobTemplate, User
from jobs.models.audit import About, Act
from jobs.submission import FIELDS

VERSION = 1
"""Of the fields: a later version that renames one reads the older ones by it."""
LONGEST_NAME, MOST = 80, 50


class TemplateRefused(ValueError):
    """What is wrong, as sentences under the field's name; `name` is the template's own where `of_fields` is false."""

    def __init__(self, errors: dict[str, list[str]], *, of_fields: bool = False) -> None:
        super().__init__(" ".join(text for texts in errors.values() for text in texts))
        self.errors, self.of_fields = errors, of_fields


def of(owner: User) -> QuerySet[JobTemplate]:
    return JobTemplate.objects.filter(owner=owner).order_by("name")


def found(owner: User, wanted: str) -> JobTemplate | None:
    """By its name, else by its number."""
    if fields.unfit(wanted):
        return None
    number = fields.searched_number(wanted)
    return of(owner).filter(name=wanted).first() or (of(owner).filter(pk=number).first() if number else None)


def make(owner: User, *, name: str, given: Mapping[str, Any]) -> JobTemplate:
    """A new one; raises TemplateRefused, also where the name is taken."""
    name, kept, now = read_name(name), read_fields(given), timezone.now()
    with transaction.atomic():
        mine = locked(owner)
        _check_name(mine, name)
        if mine.count() >= MOST:
            raise TemplateRefused({"name": [_("You have %(count)d templates: delete one first.") % {"count": MOST}]})
        made = JobTemplate.objects.create(owner=owner, name=name, fields=kept, version=VERSION, created_at=now, changed_at=now)
        audit.record(owner, Act.MADE, About.TEMPLATE, target=name)
        return made


def keep(owner: User, *, name: str, given: Mapping[str, Any]) -> tuple[JobTemplate, bool]:
    """Under this name, in the place of what had it; and whether something had."""
    with transaction.atomic():
        old = locked(owner).filter(name=read_name(name)).first()
        if old is None:
            return make(owner, name=name, given=given), False
        return change(old, given=given), True


def change(template: JobTemplate, *, name: str | None = None, given: Mapping[str, Any] | None = None) -> JobTemplate:
    """Another name, other fields in the place of all that it had, or both; raises TemplateRefused."""
    with transaction.atomic():
        mine = locked(template.owner)
        before = template.name
        if name is not None:
            template.name = read_name(name)
            _check_name(mine.exclude(pk=template.pk), template.name)
        if given is not None:
            template.fields, template.version = read_fields(given), VERSION
        template.changed_at = timezone.now()
        template.save(update_fields=["name", "fields", "version", "changed_at"])
        audit.record(template.owner, Act.CHANGED, About.TEMPLATE, target=template.name, detail=_told(before, template.name, given))
        return template


def delete(owner: User, number: int) -> bool:
    """False where this person has none with this number."""
    with transaction.atomic():
        template = of(owner).filter(pk=number).first()
        if template is None:
            return False
        template.delete()
        audit.record(owner, Act.DELETED, About.TEMPLATE, target=template.name)
        return True


def read_name(text: str) -> str:
    name = " ".join(text.split())
    if not name or len(name) > LONGEST_NAME:
        raise TemplateRefused(
            {"name": [_("Give it a name of at most %(count)d characters, so that you find it again.") % {"count": LONGEST_NAME}]}
        )
    try:
        return str(fields.name(name))
    except ValueError as exc:
        raise TemplateRefused({"name": [str(exc)]}) from exc


def read_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of them, where each can be read; raises TemplateRefused."""
    kept, errors = dict[str, Any](), dict[str, list[str]]()
    for name, value in given.items():
        try:
            kept[name] = _read(name, value)
        except ValueError as exc:
            errors[name] = [str(exc)]
    if errors:
        raise TemplateRefused(errors, of_fields=True)
    return kept


def _read(name: str, value: Any) -> Any:
    """Numbers as such; all else as it was given: a relative path is one for whoever installs this elsewhere, too."""
    if name not in FIELDS:
        raise ValueError(_("There is no such field: mend its name or leave it out."))
    if name == "swaps" and isinstance(value, list) and any(isinstance(row, dict) and row.keys() & {"content", "sha256"} for row in value):
        raise ValueError(_("A template keeps no contents of files: name a path on the host in source, or leave this one out."))
    read = FIELDS[name].read(value)
    return read if isinstance(read, int | float) or name == "after" else value


def locked(owner: User) -> QuerySet[JobTemplate]:
    """This person's templates, which nobody else changes until the transaction ends."""
    User.objects.select_for_update().filter(pk=owner.pk).first()
    return of(owner)


def _check_name(others: QuerySet[JobTemplate], name: str) -> None:
    if others.filter(name=name).exists():
        raise TemplateRefused(
            {"name": [_("You have a template called “%(name)s”: change that one, or take another name.") % {"name": name}]}
        )


def _told(before: str, name: str, given: Mapping[str, Any] | None) -> str:
    said = [f"It was called {before}."] if before != name else []
    return " ".join([*said, "Its fields were replaced."] if given is not None else said)

"""The form of a job in the admin: the fields and the words of the page that submits, checked by the same jobs.submission."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from jobs import submission
from jobs.models import Job, User
from jobs.submission import Submission
from jobs.web import forms as page

if TYPE_CHECKING:
    _ModelForm = forms.ModelForm[Job]
else:
    _ModelForm = forms.ModelForm


_HASHED = "sha256:"
"""Before the hash of a content, in the place of a source."""


class JobForm(_ModelForm):
    """A new job, or a change of one that has not started. It writes nothing: `submission` is for lifecycle to write."""

    actor: User
    """Who asks; the admin makes a subclass for each request."""
    submission: Submission

    class Meta:
        model = Job
        fields = ()
        labels = {field.name: field.label for field in page.ALL}

    def __init__(self, data: Any = None, files: Any = None, *, instance: Job | None = None, initial: dict[str, str] | None = None) -> None:
        known = typed(instance) if instance else page.initial()
        super().__init__(data, files, instance=instance, initial=known | (initial or {}))
        self._editing = instance is not None
        self.fields = {field.name: _field(field) for field in page.ALL if field.name in known or not self._editing}
        self.fields["swaps"] = _swaps_field()
        self.fields["begin_at"].help_text = _("In the time of %(zone)s.") % {"zone": timezone.get_default_timezone_name()}

    @cached_property
    def changed_data(self) -> list[str]:
        """Fields whose text is another one; browsers change the line ends of what they only send back."""
        return [name for name in self.fields if page.lines(self._text(name)) != page.lines(self.initial.get(name, ""))]

    def clean(self) -> dict[str, Any]:
        """Empty, so that nothing of it gets into the row by Django's own way."""
        data, errors = page.read({name: self._text(name) for name in self.fields if name != "swaps"})
        data["swaps"] = _swaps(self._text("swaps"))
        if self._editing:
            data = {name: data[name] if name in data else _default(name) for name in self.changed_data}
            errors = {name: said for name, said in errors.items() if name in self.changed_data}
        owner, instance = (self.instance.owner, self.instance) if self._editing else (self.actor, None)
        try:
            self.submission = submission.validate(data, owner=owner, partial=self._editing, instance=instance)
        except submission.SubmissionErrors as exc:
            errors = exc.errors | errors
        for name, said in errors.items():
            if name not in self.errors:
                self.add_error(name if name in self.fields else None, list(map(page.in_labels, said)))
        return {}

    def _post_clean(self) -> None:
        """Django would check the row as a model, by other rules."""

    def _text(self, name: str) -> str:
        """What was sent; what was not stays as it is, but for a box, which browsers send only where it is checked."""
        unsent = "" if isinstance(self.fields[name], forms.BooleanField) else self.initial.get(name, "")
        return str(self.data.get(name, unsent))


def typed(job: Job) -> dict[str, str]:
    """A job's fields as they would have been typed into the form."""
    begin_at = timezone.localtime(job.begin_at).replace(tzinfo=None).isoformat(timespec="seconds") if job.begin_at else ""
    after = ", ".join(str(number) for number in job.after.order_by("id").values_list("id", flat=True))
    return page.of_job(job) | {"begin_at": begin_at, "after": after, "swaps": "\n".join(map(_typed_swap, job.swaps))}


def _typed_swap(row: dict[str, Any]) -> str:
    return f"{row['target']}={row['source'] if 'source' in row else _HASHED + row['sha256']}"


def _swaps(text: str) -> list[dict[str, str]]:
    """What jobs.submission reads, which says what is wrong with it."""
    found = []
    for line in filter(str.strip, text.splitlines()):
        target, _equals, source = (part.strip() for part in line.partition("="))
        found.append({"target": target} | ({"sha256": source.removeprefix(_HASHED)} if source.startswith(_HASHED) else {"source": source}))
    return found


def _swaps_field() -> forms.Field:
    widget = UnfoldAdminTextareaWidget(
        attrs={"placeholder": "loss.py=/home/me/new_loss.py", "spellcheck": "false", "rows": 3, "class": "font-mono"}
    )
    told = _(
        "One TARGET=SOURCE a line: the job sees the source, a path on the host, in the place of the target in its working directory. "
        "A file that was handed in is named by its hash; the page for new jobs takes such files."
    )
    return forms.CharField(widget=widget, strip=False, label=_("Swap files for this job"), help_text=told, required=False)


def _default(name: str) -> Any:
    """What a field that was emptied means: what it is in a job that does not give it."""
    return [] if name == "after" else getattr(Job(), name)


def _field(field: page.Input) -> forms.Field:
    if field.kind == "check":
        return forms.BooleanField(widget=UnfoldBooleanSwitchWidget(), label=str(field.label), help_text=str(field.help), required=False)
    attrs = {"placeholder": field.placeholder, "type": field.kind, "spellcheck": "false", "autocomplete": "off"}
    if field.kind == "area":
        widget = UnfoldAdminTextareaWidget(attrs=attrs | {"rows": 3, "class": "font-mono"})
    elif field.kind == "number":
        widget = UnfoldAdminIntegerFieldWidget(attrs=attrs)
    else:
        widget = UnfoldAdminTextInputWidget(attrs=attrs)
    return forms.CharField(widget=widget, strip=False, label=str(field.label), help_text=str(field.help), required=False)

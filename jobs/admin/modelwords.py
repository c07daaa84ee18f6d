"""Our models' names, columns and choices in the reader's language: here, and not in the models, so that no migration hangs on them."""

from __future__ import annotations

from django.apps import apps
from django.db.models import Model
from django.utils.translation import gettext_lazy
from django.utils.translation import gettext_noop as _

WORDS = (
    _("about"),
    _("act"),
    _("address"),
    _("agent version"),
    _("at"),
    _("attempt"),
    _("attempts"),
    _("audit entry"),
    _("audit entries"),
    _("begin at"),
    _("channel"),
    _("command"),
    _("created at"),
    _("detail"),
    _("device"),
    _("devices"),
    _("device source"),
    _("ended at"),
    _("error"),
    _("exit code"),
    _("expires at"),
    _("host"),
    _("hosts"),
    _("index"),
    _("job"),
    _("jobs"),
    _("job event"),
    _("job events"),
    _("job slots"),
    _("last used at"),
    _("log bytes"),
    _("memory total mib"),
    _("message"),
    _("message id"),
    _("name"),
    _("next at"),
    _("notification"),
    _("notifications"),
    _("number"),
    _("occasion"),
    _("outcome"),
    _("owner"),
    _("personal token"),
    _("personal tokens"),
    _("priority"),
    _("recipient"),
    _("role"),
    _("scope"),
    _("sent at"),
    _("signal"),
    _("started at"),
    _("state"),
    _("target"),
    _("tries"),
    _("type"),
    _("uid"),
    _("updated at"),
    _("uuid"),
    _("via"),
    _("working dir"),
)
CHOICES = (
    _("viewer: sees the queue"),
    _("submitter: runs own jobs"),
    _("operator: sees and manages all jobs, hosts and devices"),
    _("administrator: manages people too"),
    _("submitted"),
    _("edited"),
    _("released"),
    _("drained"),
    _("resumed"),
    _("declared_lost"),
    _("kept"),
    _("given_back"),
    _("rule_set"),
    _("ignored"),
    _("heeded"),
    _("orphan_ended"),
    _("made"),
    _("changed"),
    _("deleted"),
    _("taken_back"),
    _("signed_in"),
    _("link_made"),
    _("password_changed"),
    _("sent_again"),
    _("key_replaced"),
    _("person"),
    _("token"),
    _("template"),
    _("letter"),
    _("group"),
    _("page"),
    _("command"),
    _("device"),
    _("job"),
    _("host"),
    _("pending"),
    _("sending"),
    _("sent"),
    _("dead"),
)


def translate() -> None:
    apps.get_app_config("jobs").verbose_name = gettext_lazy("Jobs")
    for model in apps.get_app_config("jobs").get_models():
        _name(model)


def _name(model: type[Model]) -> None:
    meta = model._meta
    if meta.label != "jobs.User":  # Django has words for its own
        meta.verbose_name, meta.verbose_name_plural = gettext_lazy(str(meta.verbose_name)), gettext_lazy(str(meta.verbose_name_plural))
    for field in meta.get_fields():
        name = getattr(field, "verbose_name", "")
        if isinstance(name, str) and name in WORDS:
            field.verbose_name = gettext_lazy(name)  # type: ignore[union-attr]
        if choices := getattr(field, "choices", None):
            field.choices = [(value, gettext_lazy(str(label))) for value, label in choices]  # type: ignore[union-attr]

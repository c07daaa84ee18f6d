"""Addresses of chats, as apprise writes them: which ones people may give, and what is kept of them."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from jobs import audit, eventphrases
from jobs.fields import unfit
from jobs.models import ChatAddress, User
from jobs.models.audit import About, Act
from jobs.notifications.letter import NotSent

MOST = 10
LONGEST_NAME, LONGEST_URL = 60, 2000
MOST_TARGETS = 5
"""Rooms of one address: apprise writes to one after the other, and rests in between."""
SERVICES = frozenset(
    [
        "bark",
        "barks",
        "dingtalk",
        "discord",
        "feishu",
        "flock",
        "gchat",
        "gotify",
        "gotifys",
        "guilded",
        "lark",
        "line",
        "matrix",
        "matrixs",
        "mmost",
        "mmosts",
        "nctalk",
        "nctalks",
        "ntfy",
        "ntfys",
        "pbul",
        "pover",
        "prowl",
        "pushdeer",
        "pushdeers",
        "pushplus",
        "revolt",
        "rocket",
        "rockets",
        "ryver",
        "schan",
        "signal",
        "signals",
        "slack",
        "synology",
        "synologys",
        "tgram",
        "twist",
        "webex",
        "wecombot",
        "workflow",
        "workflows",
        "wxteams",
        "zulip",
    ]
)
"""Plain chat services: what they are sent is shown to people, and nothing else."""
WEBHOOKS = frozenset(["form", "forms", "json", "jsons", "xml", "xmls"])
"""They post to any address, so that only administrators may give them."""
UNWANTED = frozenset(["attach", "cto", "format", "overflow", "retry", "rto", "store", "template", "wait"])
"""Options of apprise that read files, or that hold the sender up."""


class ChatRefused(Exception):
    """The text is a sentence for whoever wrote it; `field` is name or url."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def of(user: User) -> QuerySet[ChatAddress]:
    return ChatAddress.objects.filter(owner=user)


def add(user: User, *, name: str, url: str) -> ChatAddress:
    """Raises ChatRefused."""
    name, url = " ".join(name.split()), url.strip()
    if not name or len(name) > LONGEST_NAME or unfit(name):
        raise ChatRefused("name", _("Give it a name of at most %(most)s characters, so that you know it again.") % {"most": LONGEST_NAME})
    if of(user).count() >= MOST:
        raise ChatRefused("name", _("You have %(most)s chats: delete one first.") % {"most": MOST})
    service = _checked(user, url)
    given = {"service": _shown(service), "url": url, "created_at": timezone.now()}
    try:
        with transaction.atomic():
            chat = ChatAddress.objects.create(owner=user, name=name, **given)
            audit.record(user, Act.MADE, About.CHAT, target=name, detail=eventphrases.AT_SERVICE % {"service": chat.service})
    except IntegrityError:
        raise ChatRefused("name", _("You have a chat of this name already: take another name, or delete that one.")) from None
    return chat


@transaction.atomic
def delete(user: User, number: int) -> bool:
    """What waits to go there is dead from now on; False where it is not this person's."""
    chat = of(user).filter(pk=number).first()
    if chat is None:
        return False
    audit.record(user, Act.DELETED, About.CHAT, target=chat.name, detail=eventphrases.AT_SERVICE % {"service": chat.service})
    chat.delete()
    return True


def opened(url: str) -> Any:
    """The apprise service behind an address. Raises NotSent, which does not hold it."""
    service = _parsed(url)
    if service is None:
        raise NotSent(_("This address is none that this version can write to: delete it, and add it anew."), for_good=True)
    return service


def _checked(user: User, url: str) -> Any:
    if not url or len(url) > LONGEST_URL or unfit(url) or not url.isprintable():
        raise ChatRefused(
            "url", _("Write an address such as ntfy://ntfy.sh/my-topic, of at most %(most)s characters.") % {"most": LONGEST_URL}
        )
    schema = url.partition(":")[0].lower()
    if schema in WEBHOOKS and not (user.is_superuser or user.role == "admin"):
        raise ChatRefused("url", _("Only administrators may name a webhook of any kind: take one of the chat services."))
    if schema not in SERVICES | WEBHOOKS:
        known = ", ".join(sorted(name for name in SERVICES if name[:-1] not in SERVICES))
        raise ChatRefused("url", _("It must begin with one of these, and “://”: %(known)s.") % {"known": known})
    if unwanted := sorted({key.lower() for key, _value in parse_qsl(urlsplit(url).query, keep_blank_values=True)} & UNWANTED):
        raise ChatRefused("url", _("Leave out %(options)s: it is not possible here.") % {"options": ", ".join(unwanted)})
    service = _parsed(url)
    if service is None:
        raise ChatRefused(
            "url", _("This is not how such an address is written. apprise's page about %(schema)s says how.") % {"schema": schema}
        )
    if len(service) > MOST_TARGETS:
        raise ChatRefused("url", _("At most %(most)s rooms in one address: add it once for each group of them.") % {"most": MOST_TARGETS})
    return service


def _parsed(url: str) -> Any:
    import apprise  # late: it takes longer to load than most requests take

    asset = apprise.AppriseAsset(async_mode=False, secure_logging=True, storage_mode="memory")
    return apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)


def _shown(service: Any) -> str:
    """The service, and its host where it is one that somebody runs: elsewhere what stands there is a secret."""
    host = str(getattr(service, "host", None) or "") if "host" in service.template_tokens else ""
    name = str(service.service_name)[:40]
    return f"{name}: {host[:36]}" if "." in host else name

"""Chats that one is told in: a page of one's own. An address is a secret, and comes back to nobody."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from jobs import access
from jobs.notifications import chat
from jobs.notifications.chat import addresses
from jobs.notifications.chat.addresses import ChatRefused
from jobs.notifications.letter import NotSent
from jobs.web.people import UserRequest, signed_in


@never_cache
@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def my_chats(request: UserRequest) -> HttpResponse:
    wrong, given = "", {}
    if request.method == "POST" and (number := request.POST.get("test") or request.POST.get("delete")):
        (_test if request.POST.get("test") else _delete)(request, number)
        return redirect("chats")
    if request.method == "POST":
        given = {"name": request.POST.get("name", ""), "url": request.POST.get("url", "")}
        try:
            chat = addresses.add(request.user, **given)
        except ChatRefused as exc:
            wrong, given["field"] = str(exc), exc.field
        else:
            messages.success(request, _("Added: %(chat)s. Send a test to see whether it arrives.") % {"chat": chat})
            return redirect("chats")
    services = sorted({name.removesuffix("s") if name.removesuffix("s") in addresses.SERVICES else name for name in addresses.SERVICES})
    context = {"chats": addresses.of(request.user), "wrong": wrong, "given": given, "services": services}
    return render(request, "jobs/chats.html", context, status=400 if wrong else 200)


def _test(request: UserRequest, number: str) -> None:
    found = addresses.of(request.user).filter(pk=_number(number)).first()
    if found is None:
        return
    wait_s = access.test_wait_s(request.user)
    if wait_s:
        messages.error(request, _("Too many tests. Wait %(count)d s, then try again.") % {"count": wait_s})
        return
    try:
        messages.success(request, chat.send_test(found))
    except NotSent as exc:
        messages.error(request, str(exc))


def _delete(request: UserRequest, number: str) -> None:
    if addresses.delete(request.user, _number(number)):
        messages.success(request, _("The chat is deleted: nothing goes there any more."))


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0

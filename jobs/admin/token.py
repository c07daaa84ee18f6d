"""Personal tokens in the admin: whose they are and when they were last used; taken back, never made here nor shown."""

from __future__ import annotations

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.forms import BaseDialogForm

from jobs import access, tokens
from jobs.admin.base import OperatorsAdmin, asking, for_each, go_to
from jobs.admin.people import PersonRefused
from jobs.models import PersonalToken
from jobs.web.people import UserRequest


@admin.register(PersonalToken)
class TokenAdmin(OperatorsAdmin):
    list_display = ("name", "owner", "scope", "created_at", "expires_at", "last_used_at")
    list_display_links = ("name",)
    list_filter = ("scope", ("owner", admin.RelatedOnlyFieldListFilter))
    search_fields = ("name", "owner__username")
    ordering = ("-created_at", "-id")
    fields = ("name", "owner", "scope", "created_at", "expires_at", "last_used_at")
    actions = ("take_back_chosen",)
    actions_detail = ("take_back_one",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[PersonalToken]:
        return PersonalToken.objects.select_related("owner")

    def has_view_permission(self, request: HttpRequest, obj: PersonalToken | None = None) -> bool:
        return access.manages_people(request.user)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return access.manages_people(request.user)

    @action(
        description=_("Take back"),
        url_path="take-back",
        icon="key_off",
        variant=ActionVariant.DANGER,
        dialog=asking(_("Take this token back?"), _("What uses it is refused from now on."), _("Take it back")),
    )
    def take_back_one(self, request: UserRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        if not access.manages_people(request.user):
            raise PermissionDenied
        try:
            self._take_back(request, self.found(request, object_id))
            messages.success(request, _("The token is taken back: it opens nothing any more."))
        except PersonRefused as exc:
            messages.error(request, str(exc))
        return go_to(request, "admin:jobs_personaltoken_changelist")

    @admin.action(description=_("Take back"))
    def take_back_chosen(self, request: UserRequest, queryset: QuerySet[PersonalToken]) -> None:
        for_each(request, queryset, lambda token: self._take_back(request, token), PersonRefused)

    def _take_back(self, request: UserRequest, token: PersonalToken) -> None:
        if not access.may_change_person(request.user, token.owner):
            raise PersonRefused(_("%(name)s is a superuser: only superusers change that account.") % {"name": token.owner})
        tokens.end(token, actor=request.user)

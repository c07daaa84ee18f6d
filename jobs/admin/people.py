"""People in the admin, for administrators only. Their role decides what they may do; nobody is lifted above who lifts him."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from jobs import access
from jobs.admin.audit import Audited
from jobs.admin.base import WhateverIsSent, for_each
from jobs.models import User
from jobs.models.audit import About
from jobs.web.people import UserRequest

if TYPE_CHECKING:
    _UserAdmin = UserAdmin[User]
else:
    _UserAdmin = UserAdmin


class PersonRefused(Exception):
    """What an administrator must not do to this person; the text is for the administrator."""


@admin.register(User)
class PeopleAdmin(Audited, WhateverIsSent, _UserAdmin, ModelAdmin):  # type: ignore[misc] # a mixin without types
    """Passwords go through Django's forms. Who has jobs stays: an account is closed, not deleted."""

    about = About.PERSON
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "role", "is_active", "is_superuser", "email", "last_login")
    list_filter = ("role", "is_active")
    list_fullwidth = True
    filter_horizontal = ()
    readonly_fields = ("last_login", "date_joined")
    add_fieldsets = ((None, {"fields": ("username", "role", "email", "password1", "password2")}),)
    actions = ("close", "reopen")

    def get_fieldsets(self, request: HttpRequest, obj: User | None = None) -> Any:
        if obj is None:
            return self.add_fieldsets
        return (
            (None, {"fields": ("username", "password")}),
            (_("Who it is"), {"fields": ("first_name", "last_name", "email")}),
            (_("What they may do"), {"fields": ("role", "is_active", "is_superuser")}),
            (_("When"), {"fields": ("last_login", "date_joined")}),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        """Only superusers make superusers; and nobody takes the last administrator's rights by taking his own."""
        mine = ("role", "is_active", "is_superuser") if obj == request.user else ()
        above = () if getattr(request.user, "is_superuser", False) else ("is_superuser",)
        return (*self.readonly_fields, *dict.fromkeys((*mine, *above)))

    # --- who may ---

    def has_module_permission(self, request: HttpRequest) -> bool:
        return access.manages_people(request.user)

    def has_view_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return access.manages_people(request.user)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return access.manages_people(request.user)

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return access.manages_people(request.user) if obj is None else access.may_change_person(request.user, obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """One at a time, and only who has never had a job and is somebody else."""
        return obj is not None and obj != request.user and access.may_change_person(request.user, obj) and not obj.jobs.exists()

    # --- writing ---

    def stands(self, obj: User) -> str:
        words = [f"Now {obj.role}", "superuser" if obj.is_superuser else "", "" if obj.is_active else "closed"]
        return f"{', '.join(filter(None, words))}."

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        """What was changed and no more: a password or a role that somebody else changes meanwhile stays."""
        if change:
            obj.save(update_fields=[*form.changed_data, "is_staff"])
        else:
            super().save_model(request, obj, form, change)

    @admin.action(description=_("Close the account: no more signing in; jobs go on"))
    def close(self, request: UserRequest, queryset: QuerySet[User]) -> None:
        for_each(request, queryset, lambda person: self._set_active(request, person, False), PersonRefused)

    @admin.action(description=_("Open the account again"))
    def reopen(self, request: UserRequest, queryset: QuerySet[User]) -> None:
        for_each(request, queryset, lambda person: self._set_active(request, person, True), PersonRefused)

    def _set_active(self, request: UserRequest, person: User, active: bool) -> None:
        if person == request.user:
            raise PersonRefused(_("Your own account stays as it is: ask another administrator."))
        if not access.may_change_person(request.user, person):
            raise PersonRefused(_("%(name)s is a superuser: only superusers change that account.") % {"name": person})
        User.objects.filter(pk=person.pk).update(is_active=active)
        person.is_active = active
        self.log_change(request, person, "Account opened again." if active else "Account closed.")

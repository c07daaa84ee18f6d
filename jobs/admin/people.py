"""People in the admin, for administrators only. Their role decides what they may do; nobody is lifted above who lifts him."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.forms import AdminPasswordChangeForm, BaseDialogForm, UserChangeForm, UserCreationForm

from jobs import access, invitations, tokens
from jobs.admin.audit import Audited
from jobs.admin.base import WhateverIsSent, asking, for_each, go_to
from jobs.models import User
from jobs.models.audit import About
from jobs.notifications.letter import NotSent
from jobs.web.people import UserRequest

LINK = _("With it they choose a password of their own. The old one works until they do.")

if TYPE_CHECKING:
    _UserAdmin = UserAdmin[User]
else:
    _UserAdmin = UserAdmin


class InviteForm(UserCreationForm):
    """Without a password the person is invited: a link is shown with which they choose one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("password1", "password2"):
            self.fields[name].required = False
        self.fields["password1"].help_text = _("Leave both empty to invite them: you get a link with which they choose one.")

    def clean(self) -> Any:
        if not self.data.get("password1") and not self.data.get("password2"):
            self.cleaned_data["usable_password"] = "false"  # noqa: S105 - Django's own word for it
        return super().clean()


class PersonRefused(Exception):
    """What an administrator must not do to this person; the text is for the administrator."""


@admin.register(User)
class PeopleAdmin(Audited, WhateverIsSent, _UserAdmin, ModelAdmin):  # type: ignore[misc] # a mixin without types
    """Passwords go through Django's forms. Who has jobs stays: an account is closed, not deleted."""

    about = About.PERSON
    form = UserChangeForm
    add_form = InviteForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "role", "is_active", "is_superuser", "email", "last_login")
    list_filter = ("role", "is_active", "groups")
    list_fullwidth = True
    filter_horizontal = ()
    readonly_fields = ("last_login", "date_joined")
    add_fieldsets = ((None, {"fields": ("username", "role", "email", "password1", "password2")}),)
    actions = ("close", "reopen", "end_tokens")
    actions_detail = ("link_one", "mail_one", "end_tokens_one")

    def get_fieldsets(self, request: HttpRequest, obj: User | None = None) -> Any:
        if obj is None:
            return self.add_fieldsets
        return (
            (None, {"fields": ("username", "password")}),
            (_("Who it is"), {"fields": ("first_name", "last_name", "email")}),
            (_("What they may do"), {"fields": ("role", "is_active", "is_superuser", "groups")}),
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

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Django's own words would say that groups grant permissions."""
        field = super().formfield_for_manytomany(db_field, request, **kwargs)
        if field is not None:
            field.help_text = _("For the table of GPU-hours; groups grant nothing.")
        return field

    def stands(self, obj: User) -> str:
        words = [f"Now {obj.role}", "superuser" if obj.is_superuser else "", "" if obj.is_active else "closed"]
        return f"{', '.join(filter(None, words))}."

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        """What was changed and no more: a password or a role that somebody else changes meanwhile stays."""
        if change:
            obj.save(update_fields=[*(name for name in form.changed_data if name != "groups"), "is_staff"])
            return
        super().save_model(request, obj, form, change)
        if not obj.has_usable_password():
            self._show_link(request, obj)

    @admin.action(description=_("Close the account: no more signing in; jobs go on"))
    def close(self, request: UserRequest, queryset: QuerySet[User]) -> None:
        for_each(request, queryset, lambda person: self._set_active(request, person, False), PersonRefused)

    @admin.action(description=_("Open the account again"))
    def reopen(self, request: UserRequest, queryset: QuerySet[User]) -> None:
        for_each(request, queryset, lambda person: self._set_active(request, person, True), PersonRefused)

    @admin.action(description=_("Take back all tokens"))
    def end_tokens(self, request: UserRequest, queryset: QuerySet[User]) -> None:
        for_each(request, queryset, lambda person: self._end_tokens(request, person), PersonRefused)

    @action(
        description=_("Link for a password"),
        url_path="password-link",
        icon="link",
        dialog=asking(_("Make a link for a new password?"), LINK, _("Make the link")),
    )
    def link_one(self, request: UserRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        person = self._person(request, object_id)
        self._show_link(request, person)
        return go_to(request, "admin:jobs_user_change", object_id)

    @action(
        description=_("Mail a link for a password"),
        url_path="mail-password-link",
        icon="mail",
        dialog=asking(_("Mail a link for a new password?"), LINK, _("Mail it")),
    )
    def mail_one(self, request: UserRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        try:
            to = invitations.mail_link(self._person(request, object_id), actor=request.user)
            messages.success(request, _("The link was mailed to %(address)s.") % {"address": to})
        except NotSent as exc:
            messages.error(request, str(exc))
        return go_to(request, "admin:jobs_user_change", object_id)

    @action(
        description=_("Take back all tokens"),
        url_path="end-tokens",
        icon="key_off",
        variant=ActionVariant.DANGER,
        dialog=asking(
            _("Take back all tokens of this person?"), _("Their scripts and command lines are refused from now on."), _("Take them back")
        ),
    )
    def end_tokens_one(self, request: UserRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        count = self._end_tokens(request, self._person(request, object_id))
        messages.success(request, _("Tokens that were taken back: %(count)d.") % {"count": count})
        return go_to(request, "admin:jobs_user_change", object_id)

    def _person(self, request: UserRequest, object_id: str) -> User:
        """Whom a button is about; raises PermissionDenied, Http404."""
        person = self.get_object(request, object_id) if access.manages_people(request.user) else None
        if person is None:
            raise Http404
        if not access.may_change_person(request.user, person):
            raise PermissionDenied
        return person

    def _show_link(self, request: HttpRequest, person: User) -> None:
        """Shown once, to whoever may change the person."""
        if not isinstance(request.user, User):
            raise PermissionDenied
        said = {"name": person, "days": invitations.LIFETIME.days, "link": invitations.make_link(person, actor=request.user)}
        messages.success(request, _("Hand this to %(name)s within %(days)d days; it works once: %(link)s") % said)

    def _end_tokens(self, request: UserRequest, person: User) -> int:
        if not access.may_change_person(request.user, person):
            raise PersonRefused(_("%(name)s is a superuser: only superusers change that account.") % {"name": person})
        return tokens.end_all(person, actor=request.user)

    def _set_active(self, request: UserRequest, person: User, active: bool) -> None:
        if person == request.user:
            raise PersonRefused(_("Your own account stays as it is: ask another administrator."))
        if not access.may_change_person(request.user, person):
            raise PersonRefused(_("%(name)s is a superuser: only superusers change that account.") % {"name": person})
        User.objects.filter(pk=person.pk).update(is_active=active)
        person.is_active = active
        self.log_change(request, person, "Account opened again." if active else "Account closed.")

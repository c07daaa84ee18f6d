"""Groups in the admin: who belongs together, for the table of GPU-hours. They grant nothing: roles do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.contrib.auth.models import Group
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminSelectMultipleWidget

from jobs import access
from jobs.admin.audit import Audited
from jobs.admin.base import WhateverIsSent
from jobs.models import User
from jobs.models.audit import About

if TYPE_CHECKING:
    _GroupForm = forms.ModelForm[Group]
else:
    _GroupForm = forms.ModelForm

admin.site.unregister(Group)


class GroupForm(_GroupForm):
    members = forms.ModelMultipleChoiceField(
        User.objects.order_by("username"), label=_("Members"), required=False, widget=UnfoldAdminSelectMultipleWidget
    )

    class Meta:
        model = Group
        fields = ("name",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["members"] = list(self.instance.user_set.values_list("pk", flat=True))


@admin.register(Group)
class GroupAdmin(Audited, WhateverIsSent, ModelAdmin):
    about = About.GROUP
    form = GroupForm
    list_display = ("name", "people")
    search_fields = ("name",)

    @admin.display(description=_("Members"))
    def people(self, group: Group) -> str:
        return ", ".join(sorted(user.get_username() for user in group.user_set.all()))

    def get_queryset(self, request: HttpRequest) -> Any:
        return Group.objects.prefetch_related("user_set").order_by("name")

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        form.instance.user_set.set(form.cleaned_data["members"])

    def stands(self, obj: Group) -> str:
        return f"Now {', '.join(sorted(obj.user_set.values_list('username', flat=True))) or 'nobody'}."

    # --- who may ---

    def has_module_permission(self, request: HttpRequest) -> bool:
        return access.manages_people(request.user)

    def has_view_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return access.manages_people(request.user)

    has_change_permission = has_delete_permission = has_view_permission

    def has_add_permission(self, request: HttpRequest) -> bool:
        return access.manages_people(request.user)

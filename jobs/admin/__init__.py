"""The admin: every job, host and device for operators, people for administrators.

Nothing else has a place here. Tokens and sign-in links are secrets, the scheduler's rows are its own, and Django's groups
would grant what roles decide.
"""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.models import Group
from knox.models import AuthToken

from jobs.admin import audit, device, host, job, notification, people

__all__ = ["audit", "device", "host", "job", "notification", "people"]

admin.site.unregister([Group, AuthToken])

"""The admin: every job, host and device, the audit log and GPU-hours for operators; people, groups and tokens for administrators.

Nothing else has a place here. The tokens themselves and sign-in links are secrets, the scheduler's rows are its own. Groups
grant nothing: roles do.
"""

from __future__ import annotations

from django.contrib import admin
from knox.models import AuthToken

from jobs.admin import audit, device, group, host, job, modelwords, notification, people, token

__all__ = ["audit", "device", "group", "host", "job", "notification", "people", "token"]

admin.site.unregister(AuthToken)
modelwords.translate()

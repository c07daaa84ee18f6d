"""The data model. Jobs and attempts change state only through jobs.lifecycle."""

from __future__ import annotations

from jobs.models.audit import AuditEntry
from jobs.models.chat import ChatAddress
from jobs.models.content import Content
from jobs.models.drops import DroppedMessages
from jobs.models.host import Device, Host
from jobs.models.job import Attempt, Dispatch, IdempotencyKey, Job, JobEvent
from jobs.models.leader import Leader
from jobs.models.notification import Notification
from jobs.models.preference import Preference
from jobs.models.share import Share
from jobs.models.signin import OneTimeLink
from jobs.models.template import JobTemplate
from jobs.models.token import PersonalToken
from jobs.models.user import User

__all__ = [
    "Attempt",
    "AuditEntry",
    "ChatAddress",
    "Content",
    "Device",
    "Dispatch",
    "DroppedMessages",
    "Host",
    "IdempotencyKey",
    "Job",
    "JobEvent",
    "JobTemplate",
    "Leader",
    "Notification",
    "OneTimeLink",
    "PersonalToken",
    "Preference",
    "Share",
    "User",
]

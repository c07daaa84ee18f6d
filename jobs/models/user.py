"""People and what they may do."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AbstractUser
from django.db import models

from jobs.states import Role


class User(AbstractUser):
    """A person. Superusers are administrators whatever their role says; the role decides for everybody else."""

    role = models.CharField(
        max_length=16,
        choices=[
            (Role.VIEWER, "viewer: sees the queue"),
            (Role.SUBMITTER, "submitter: runs own jobs"),
            (Role.OPERATOR, "operator: sees and manages all jobs, hosts and devices"),
            (Role.ADMIN, "administrator: manages people too"),
        ],
        default=Role.SUBMITTER,
    )

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Administrators and operators get into the admin; nobody else does."""
        self.is_staff = self.is_superuser or self.role in (Role.OPERATOR, Role.ADMIN)
        super().save(*args, **kwargs)

    @property
    def is_operator(self) -> bool:
        """Sees and manages everybody's jobs, hosts and devices."""
        return self.is_superuser or self.role in (Role.OPERATOR, Role.ADMIN)

    @property
    def may_submit(self) -> bool:
        return self.is_superuser or self.role != Role.VIEWER

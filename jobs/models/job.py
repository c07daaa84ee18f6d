"""Jobs, their attempts and dispatches, and what happened to them."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q

from jobs.states import JobState, Line, OnHostLoss, Outcome, WaitReason


class Job(models.Model):
    """What a user submitted. `id` is its number for people, `uid` its name for machines: numbers repeat after a restore."""

    uid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="jobs")
    name = models.CharField(max_length=200)
    command = models.TextField()
    working_dir = models.TextField()
    min_gpus = models.PositiveIntegerField(default=1)
    max_gpus = models.PositiveIntegerField(default=1)
    gpu_memory_mib = models.PositiveIntegerField(default=0)
    shared = models.BooleanField(default=False)
    max_retries = models.PositiveIntegerField(default=0)
    retry_delay_s = models.FloatField(default=30)
    retry_on_oom = models.BooleanField(default=True)
    time_limit_s = models.PositiveIntegerField(null=True, blank=True)
    priority = models.IntegerField(default=0)
    begin_at = models.DateTimeField(null=True, blank=True)
    after = models.ManyToManyField("self", symmetrical=False, related_name="dependents", blank=True)
    hosts = models.JSONField(default=list, blank=True)
    env = models.JSONField(default=dict, blank=True)
    swaps = models.JSONField(default=list, blank=True)
    artifacts = models.JSONField(default=list, blank=True)
    notify = models.JSONField(default=list, blank=True)
    on_host_loss = models.CharField(max_length=16, choices=[(w, w) for w in OnHostLoss], default=OnHostLoss.WAIT)
    environment = models.TextField(blank=True, default="")

    state = models.CharField(max_length=16, choices=[(s, s) for s in JobState], default=JobState.QUEUED)
    wait_code = models.CharField(max_length=16, choices=[(w, w) for w in WaitReason], blank=True, default="")
    wait_message = models.TextField(blank=True, default="")
    not_before = models.DateTimeField(null=True, blank=True)
    """No attempt starts before: the backoff after a failed one."""
    line = models.PositiveSmallIntegerField(choices=[(p.value, p.name) for p in Line], default=Line.NEW)
    """Means something while the job is queued; jobs.lifecycle says NEW, jobs.line the rest."""
    ready_at = models.DateTimeField(null=True, blank=True)
    """While it waits for a moment: that moment."""
    request_key = models.BigIntegerField(default=0)
    """jobs.scheduling.request.Request.key of what it asks for; right for those in line."""
    next_attempt = models.PositiveIntegerField(default=1)
    retries_spent = models.PositiveIntegerField(default=0)
    """Ended starts that the job is to blame for, beyond the first: Celery's retry counter."""
    faults = models.PositiveIntegerField(default=0)
    """Ended starts that the infrastructure is to blame for; past jobs.lifecycle.FAULT_BUDGET the job is held."""
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    exit_code = models.IntegerField(null=True, blank=True)
    oom_detected = models.BooleanField(default=False)
    progress = models.FloatField(null=True, blank=True)
    """0…1, of the present or the last attempt; jobs.progress writes it."""
    progress_at = models.DateTimeField(null=True, blank=True)
    """When it got there."""
    oom_floor_mib = models.PositiveIntegerField(null=True, blank=True)
    """An attempt ran out of this much memory on a device: the next one looks for more."""
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["state", "line", "owner", "-priority", "id"], name="job_line_by_owner"),
            models.Index(fields=["state", "line", "request_key", "owner", "-priority", "id"], name="job_line_by_request"),
            models.Index(fields=["state", "line", "ready_at"], name="job_line_ready"),
            models.Index(fields=["state", "line", "wait_code"], name="job_line_told"),
            models.Index(fields=["owner", "state"], name="job_owner_state"),
            models.Index(fields=["ended_at"], name="job_ended_at"),
            models.Index(
                fields=["state", "id", "owner", "name", "priority", "created_at", "started_at", "ended_at"], name="job_listing"
            ),  # jobs.listing says why
        ]

    def __str__(self) -> str:
        return f"#{self.pk} {self.name}"

    @property
    def wait_reason(self) -> dict[str, str] | None:
        return {"code": self.wait_code, "message": self.wait_message} if self.wait_code else None


class Attempt(models.Model):
    """One execution of a job on one host with fixed devices. Open while `outcome` is empty; its log is named by its number."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    fence = models.BigIntegerField(unique=True)
    """The dispatch that may report about it; reports of older ones change nothing."""
    host = models.CharField(max_length=63)
    devices = models.JSONField(default=list)
    """[{uuid, index}]: planned at the dispatch, confirmed by the host's report."""
    outcome = models.CharField(max_length=16, choices=[(o, o) for o in Outcome], blank=True, default="")
    exit_code = models.IntegerField(null=True, blank=True)
    signal = models.PositiveIntegerField(null=True, blank=True)
    oom_detected = models.BooleanField(default=False)
    peak_memory_mib = models.PositiveIntegerField(null=True, blank=True)
    """The most that its processes had on one of its devices, as the host saw it."""
    git = models.JSONField(null=True, blank=True)
    """{commit, branch, dirty} of its working directory when it began (jobs/provenance.py); empty: no repository; None: not asked."""
    failure = models.CharField(max_length=300, blank=True, default="")
    """What its log says of the failure, in a line (jobs/failures.py); `-`: nothing; empty: nobody has looked."""
    own_fault = models.BooleanField(default=True)
    """False where it could not be launched and its job is not to blame."""
    message = models.TextField(blank=True, default="")
    log_bytes = models.BigIntegerField(default=0)
    log_removed_at = models.DateTimeField(null=True, blank=True)
    """When jobs.retention removed the stored log."""
    boot_id = models.CharField(max_length=64, blank=True, default="")
    pid = models.PositiveIntegerField(null=True, blank=True)
    start_ticks = models.BigIntegerField(null=True, blank=True)
    offer_expires_at = models.DateTimeField()
    """The spec of the last offer cannot start anything after this."""
    gone_after_s = models.FloatField(null=True, blank=True)
    """Its host has ended it this long after its last contact, whatever becomes of the host; null: it goes on without any."""
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["job_id", "number"]
        constraints = [
            models.UniqueConstraint(fields=["job", "number"], name="attempt_number"),
            models.UniqueConstraint(fields=["job"], condition=Q(outcome=""), name="one_open_attempt"),
        ]
        indexes = [
            models.Index(fields=["outcome", "host"], name="attempt_open"),
            models.Index(fields=["ended_at"], name="attempt_ended_at"),
        ]

    def __str__(self) -> str:
        return f"#{self.job_id}, attempt {self.number}"


class Dispatch(models.Model):
    """One offer of an attempt to a host. Its id is the fence: a number that only grows and that only the database issues."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="dispatches")
    attempt_number = models.PositiveIntegerField()
    host = models.CharField(max_length=63)
    created_at = models.DateTimeField()
    refusal = models.TextField(blank=True, default="")

    def __str__(self) -> str:
        return f"fence {self.pk}"


class JobEvent(models.Model):
    """One thing that happened to a job, past tense. Rows are only ever added; they are also the outbox of notifications."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    type = models.CharField(max_length=40)
    at = models.DateTimeField()
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    attempt = models.PositiveIntegerField(null=True, blank=True)
    message = models.TextField()
    """A sentence for people."""
    data = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["job_id", "id"]

    def __str__(self) -> str:
        return self.message


class IdempotencyKey(models.Model):
    """A submission that may be repeated: the same owner and key answer with the same job."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=200)
    fingerprint = models.CharField(max_length=64)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["owner", "key"], name="idempotency_owner_key")]

    def __str__(self) -> str:
        return self.key

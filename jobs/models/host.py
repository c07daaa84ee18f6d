"""Hosts and their devices, as the database remembers them. What they do right now is in their heartbeats (Redis)."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from jobs.states import HostState


class Host(models.Model):
    """A machine with devices. The row is made when the host is allowed to join; its agent fills the rest."""

    name = models.CharField(max_length=63, unique=True)
    state = models.CharField(max_length=16, choices=[(s, s) for s in HostState], default=HostState.UNREACHABLE)
    reason = models.CharField(max_length=500, blank=True, default="has not been heard yet")
    """Why the state is not `up`, in words."""
    drain = models.BooleanField(default=False)
    """An operator wants nothing new started here."""
    drain_reason = models.CharField(max_length=500, blank=True)
    last_seen_at = models.DateTimeField(null=True, blank=True)
    boot_id = models.CharField(max_length=64, blank=True)
    agent_version = models.CharField(max_length=32, blank=True)
    device_source = models.CharField(max_length=16, blank=True)
    device_error = models.CharField(max_length=500, blank=True)
    device_count = models.PositiveIntegerField(default=0)
    job_slots = models.PositiveIntegerField(default=0)
    inventory_known = models.BooleanField(default=False)
    """A heartbeat has told the devices at least once; before that nothing can be refused for not fitting."""
    created_at = models.DateTimeField(auto_now_add=True)
    use_memory_mib = models.PositiveIntegerField(null=True, blank=True)
    """From how much memory on a process outside the queue uses a device (jobs.rules); null: the default."""
    use_idle_min = models.PositiveIntegerField(null=True, blank=True)
    """For how many minutes after it computed; null: the default."""
    ignored = models.JSONField(default=list, blank=True)
    """Processes that do not count: jobs.rules.ignore says what is in an entry."""
    rule_by = models.CharField(max_length=500, blank=True, default="")
    rule_at = models.DateTimeField(null=True, blank=True)
    rules_serial = models.BigIntegerField(default=0)
    """Grows with each change; the host says which one it goes by."""
    resumed_at = models.DateTimeField(null=True, blank=True)
    """What failed before is no evidence against it any more (jobs.sickness)."""
    key_generation = models.BigIntegerField(default=0, editable=False)
    """Of its key (jobs.hostkeys)."""
    key_generation_before = models.BigIntegerField(null=True, editable=False)
    """Of the key before, where that is valid still."""

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def key_generations(self) -> tuple[int, ...]:
        """Those whose keys are valid, the newest first."""
        before = self.key_generation_before
        return (self.key_generation,) if before is None else (self.key_generation, before)


class Device(models.Model):
    """A GPU or MIG slice. Its UUID is its identity; the index is for display and for the mask and may change."""

    uuid = models.CharField(max_length=96, unique=True)
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="devices")
    index = models.PositiveIntegerField()
    name = models.CharField(max_length=128, blank=True)
    memory_total_mib = models.PositiveIntegerField(null=True, blank=True)
    parent = models.CharField(max_length=96, blank=True)
    allocatable = models.BooleanField(default=True)
    simulated = models.BooleanField(default=False)
    present = models.BooleanField(default=True)
    """The last heartbeat listed it."""
    drain = models.BooleanField(default=False)
    drain_reason = models.CharField(max_length=500, blank=True)
    drained_by_system = models.BooleanField(default=False)
    """Nobody decided it: once the device has been seen clean often enough it is resumed (jobs.drains.Probe)."""
    kept_for = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    """Only this person's jobs are placed here, until `kept_until`."""
    kept_until = models.DateTimeField(null=True, blank=True)
    kept_by = models.CharField(max_length=500, blank=True, default="")
    resumed_at = models.DateTimeField(null=True, blank=True)
    """What failed before is no evidence against it any more (jobs.sickness)."""
    updated_at = models.DateTimeField()

    class Meta:
        ordering = ["host__name", "index", "uuid"]

    def __str__(self) -> str:
        return f"{self.host.name}:{self.index}"

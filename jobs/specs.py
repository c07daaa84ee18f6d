"""What the control plane tells a host about an attempt."""

from __future__ import annotations

from django.conf import settings

from gpuworker import protocol
from jobs.models import Attempt, Job


def spec_of(job: Job, attempt: Attempt) -> protocol.Spec:
    """What the host gets to know about an attempt. `env` and `command` are exactly the job's."""
    return protocol.Spec(
        job=str(job.uid),
        number=job.pk,
        name=job.name,
        attempt=attempt.number,
        fence=attempt.fence,
        expires_at=attempt.offer_expires_at.timestamp(),
        command=job.command,
        working_dir=job.working_dir,
        device_count=len(attempt.devices),
        devices=tuple(d["uuid"] for d in attempt.devices),
        env=job.env,
        environment=job.environment,
        time_limit_s=job.time_limit_s,
        kill_grace_s=settings.AUTOTRAINER.kill_grace_s,
        max_retries=job.max_retries,
        retries_spent=job.retries_spent,
        retry_delay_s=job.retry_delay_s,
        retry_on_oom=job.retry_on_oom,
        log_limit_bytes=settings.AUTOTRAINER.log_limit_bytes,
        swaps=tuple(protocol.Swap(**swap) for swap in job.swaps),
        shared=job.shared,
        gpu_memory_mib=job.gpu_memory_mib,
        gone_after_s=attempt.gone_after_s,
    )

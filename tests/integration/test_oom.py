"""After an attempt ran out of GPU memory: the next one goes where there is more, and the job says what was changed and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from gpuworker.protocol import Spec
from jobs import dispatch
from jobs.ingest import Ingest
from jobs.models import Job, JobEvent, User
from jobs.states import JobState, Line
from tests.integration.fakehost import FakeHost
from tests.integration.rest import Rest

Submit = Callable[..., Job]
GIB = 1024
SMALL, OTHER, LARGE = "GPU-gpu-a-0", "GPU-gpu-a-1", "GPU-gpu-a-2"


def place(host: FakeHost) -> list[Spec]:
    """Place what waits, no matter how long it is to wait before a retry."""
    host.beat()
    Job.objects.filter(state=JobState.QUEUED).update(not_before=None, line=Line.NEW)
    dispatch.run_pass(timezone.now())
    return host.offers()


def runs_out(host: FakeHost, spec: Spec, **more: Any) -> None:
    host.started(spec)
    host.ended(spec, exit_code=1, oom_detected=True, **({"peak_memory_mib": 23 * GIB} | more))
    Ingest().turn(block_ms=1)


def last_event(job: Job) -> JobEvent:
    return JobEvent.objects.filter(job=job).order_by("pk").last() or JobEvent()


@pytest.fixture
def uneven(host: FakeHost) -> FakeHost:
    """Two devices of 24 GiB and one of 48."""
    host.devices.append(host.device(2, 48 * GIB))
    host.beat()
    return host


def test_retry_after_out_of_memory_goes_to_the_device_with_more(uneven: FakeHost, submit: Submit) -> None:
    job = submit(max_retries=2)
    (spec,) = place(uneven)
    assert spec.devices == (SMALL,)
    runs_out(uneven, spec)
    event = last_event(job)
    assert event.type == "retry_scheduled"
    assert "It held 23 GiB at its peak; GPU 0 of gpu-a had 24 GiB for it." in event.message
    assert event.message.endswith("Attempt 2 waits for a GPU with at least 25.5 GiB free, as gpu-a has: more than it had.")
    assert event.data["had_memory_mib"] == 24 * GIB
    (again,) = place(uneven)
    assert (again.attempt, again.devices) == (2, (LARGE,))
    runs_out(uneven, again, peak_memory_mib=47 * GIB)
    assert last_event(job).message.endswith("No GPU that it may use has more, so that attempt 3 meets the same.")
    (last,) = place(uneven)
    assert last.devices[0] in (SMALL, OTHER, LARGE)


def test_retry_waits_for_more_and_says_so_while_others_take_what_it_does_not_want(uneven: FakeHost, submit: Submit) -> None:
    job = submit(max_retries=1)
    (spec,) = place(uneven)
    large = submit(gpu_memory_mib=40 * GIB)
    (on_large,) = place(uneven)
    runs_out(uneven, spec)
    small = submit()
    assert [s.job for s in place(uneven)] == [str(small.uid)]
    job.refresh_from_db()
    assert job.wait_message.startswith("Needs 1 GPU with 25.5 GiB free; gpu-a has 0 of 3")
    uneven.started(on_large)
    uneven.ended(on_large)
    Ingest().turn(block_ms=1)
    assert [(s.job, s.devices) for s in place(uneven)] == [(str(job.uid), (LARGE,))]
    assert Job.objects.get(pk=large.pk).state == JobState.COMPLETED


def test_retry_does_not_wait_for_a_device_that_has_gone(uneven: FakeHost, submit: Submit) -> None:
    submit(max_retries=1)
    (spec,) = place(uneven)
    runs_out(uneven, spec)
    uneven.devices.pop()
    (again,) = place(uneven)
    assert again.devices == (SMALL,)


def test_sharer_that_ran_out_of_memory_gets_a_device_of_its_own(host: FakeHost, submit: Submit) -> None:
    both = [submit(shared=True, gpu_memory_mib=8 * GIB, max_retries=1) for _ in range(2)]
    first, second = place(host)
    assert first.devices == second.devices == (SMALL,)
    runs_out(host, first, peak_memory_mib=12 * GIB)
    assert "gets a GPU with at least 12.8 GiB free that it does not share" in last_event(both[0]).message
    (again,) = place(host)
    assert (again.devices, again.shared) == ((OTHER,), False)
    third = submit(shared=True, gpu_memory_mib=1 * GIB)
    assert [(s.job, s.devices) for s in place(host)] == [(str(third.uid), (SMALL,))]


def test_job_that_is_not_to_be_tried_again_stops_with_the_numbers(uneven: FakeHost, submit: Submit, ada: User) -> None:
    job = submit(max_retries=3, retry_on_oom=False)
    (spec,) = place(uneven)
    runs_out(uneven, spec)
    assert Job.objects.get(pk=job.pk).state == JobState.FAILED
    assert last_event(job).message == (
        "Attempt 1 failed with exit code 1 after running out of GPU memory. It held 23 GiB at its peak; GPU 0 of gpu-a had 24 GiB for it. "
        "Not tried again after that, as its owner asked (retry_on_oom)."
    )
    (attempt,) = Rest(ada)("GET", f"jobs/{job.pk}/").json()["attempts"]
    assert (attempt["oom_detected"], attempt["peak_memory_mib"]) == (True, 23 * GIB)


def test_job_without_a_device_that_says_out_of_memory_is_simply_tried_again(uneven: FakeHost, submit: Submit) -> None:
    job = submit(min_gpus=0, max_gpus=0, max_retries=1)
    (spec,) = place(uneven)
    runs_out(uneven, spec, peak_memory_mib=None)
    assert "Retry 1 of 1" in last_event(job).message
    assert len(place(uneven)) == 1

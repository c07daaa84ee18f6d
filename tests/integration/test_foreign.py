"""Processes outside the queue: what operators say about them, what everybody sees, and devices kept for a person."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from gpuworker.protocol import AttemptReading, DeviceReading, IgnoredProcess, ProcessReading, Spec
from jobs import capacity, dispatch, drains, keeping, rules
from jobs.api import schemas
from jobs.hosts import Watch
from jobs.ingest import Ingest
from jobs.models import Attempt, Device, Host, Job, JobEvent, User
from jobs.reconcile import Reconciler
from jobs.states import Role, WaitReason
from tests.integration.fakehost import FakeHost
from tests.integration.rest import GIB, Rest, errors, person

Submit = Callable[..., Job]
ALICES = ProcessReading(
    pid=4711, user="alice", command="python", memory_mib=23 * GIB, utilization_pct=97.0, age_s=3 * 3600.0, start_ticks=99
)


@pytest.fixture
def operator(ada: User) -> Rest:
    return Rest(person("olga", Role.OPERATOR))


def on(host: FakeHost, index: int, *processes: ProcessReading, **more: Any) -> DeviceReading:
    """Show these processes on a device from the next heartbeat on."""
    host.devices[index] = dataclasses.replace(host.devices[index], processes=processes, **more)
    host.beat()
    return host.devices[index]


def placed(job: Job) -> set[str]:
    return {device["uuid"] for attempt in Attempt.objects.filter(job=job) for device in attempt.devices}


# --- what is shown ------------------------------------------------------------------------------------------------------


def test_process_outside_is_told_with_age_and_utilisation_over_rest_and_null_where_unknown(host: FakeHost, operator: Rest) -> None:
    on(host, 0, ALICES, ProcessReading(pid=7, ours=True), in_use_outside=True)
    first, _ = operator("GET", "devices/").json()["results"]
    assert first["state"] == "busy_external"
    hers, ours = first["processes"]
    assert (hers["user"], hers["command"], hers["memory_mib"]) == ("alice", "python", 23 * GIB)
    assert (hers["utilization_pct"], hers["age_s"], hers["ours"], hers["ignored"]) == (97.0, 10800.0, False, False)
    assert (ours["utilization_pct"], ours["age_s"], ours["memory_mib"]) == (None, None, None)


def test_card_tells_how_much_and_for_how_long_a_stranger_uses_it_and_for_whom_it_is_kept(host: FakeHost, ada: User) -> None:
    on(host, 0, ALICES, in_use_outside=True)
    Watch().look(timezone.now())
    keep("GPU-gpu-a-1", ada, person("lin").username)
    browser = Client()
    browser.force_login(ada)
    page = browser.get(reverse("overview")).content.decode()
    assert 'title="alice&#x27;s python (pid 4711), 23 GiB, 97 %, for 3 h 0 m"' in page
    assert "Is kept for lin until " in page


# --- the rule of a host -------------------------------------------------------------------------------------------------


def test_answers_about_hosts_and_devices_have_the_fields_that_the_schema_tells(host: FakeHost, operator: Rest) -> None:
    on(host, 0, ALICES)
    told = operator("POST", "hosts/gpu-a/ignore/", {"pid": 4711}).json()
    device = operator("GET", "devices/").json()["results"][0]
    for body, kind in (
        (told, schemas.HostBody),
        (told["rule"], schemas.UseRuleBody),
        (told["rule"]["ignored"][0], schemas.IgnoredBody),
        (device, schemas.DeviceBody),
        (device["processes"][0], schemas.ProcessBody),
    ):
        assert set(body) == set(kind().fields), kind


def test_rule_goes_to_the_host_and_is_shown_with_who_and_whether_it_holds(host: FakeHost, operator: Rest) -> None:
    rule = operator("GET", "hosts/").json()["results"][0]["rule"]
    assert rule == {"memory_mib": 1024, "idle_min": 30, "by": "", "at": None, "in_force": True, "ignored": []}
    rule = operator("POST", "hosts/gpu-a/rule/", {"memory_mib": 4096, "idle_min": 5, "reason": "demo day"}).json()["rule"]
    assert (rule["memory_mib"], rule["idle_min"], rule["by"], rule["in_force"]) == (4096, 5, "olga: demo day", False)
    assert rule["at"].endswith("Z")
    told = host.goes_by_its_rules()
    assert told is not None
    assert (told.memory_mib, told.idle_min) == (4096, 5)
    host.beat()
    assert operator("GET", "hosts/").json()["results"][0]["rule"]["in_force"]
    rule = operator("POST", "hosts/gpu-a/rule/", {}).json()["rule"]
    assert (rule["memory_mib"], rule["idle_min"]) == (1024, 30)
    later = host.goes_by_its_rules()
    assert later is not None
    assert later.serial > told.serial


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("hosts/gpu-a/rule/", {"memory_mib": 0}, "memory_mib"),
        ("hosts/gpu-a/rule/", {"idle_min": -1}, "idle_min"),
        ("hosts/gpu-a/rule/", {"idle_min": "soon"}, "idle_min"),
        ("hosts/gpu-a/rule/", {"idle": 5}, "idle"),
        ("hosts/gpu-a/rule/", {"reason": "x" * 501}, "reason"),
        ("hosts/gpu-a/ignore/", {}, "pid"),
        ("hosts/gpu-a/ignore/", {"pid": 0}, "pid"),
        ("devices/GPU-gpu-a-0/keep/", {"user": "lin", "until": "yesterday"}, "until"),
        ("devices/GPU-gpu-a-0/keep/", {"user": "lin", "until": "2020-01-01"}, "until"),
        ("devices/GPU-gpu-a-0/keep/", {"user": "lin"}, "until"),
        ("devices/GPU-gpu-a-0/keep/", {"user": "nobody", "until": "2099-01-01"}, "user"),
        ("devices/GPU-gpu-a-0/keep/", {"until": "2099-01-01"}, "user"),
    ],
)
def test_wishes_that_make_no_sense_are_refused_with_the_field(
    host: FakeHost, operator: Rest, path: str, body: dict[str, Any], field: str
) -> None:
    Watch().look(timezone.now())
    person("lin")
    answer = operator("POST", path, body)
    assert answer.status_code == 400
    assert field in errors(answer)


@pytest.mark.parametrize("path", ["hosts/gpu-a/rule/", "hosts/gpu-a/ignore/", "hosts/gpu-a/heed/"])
def test_rules_are_for_operators_and_known_hosts(host: FakeHost, ada: User, operator: Rest, path: str) -> None:
    assert Rest(ada)("POST", path, {}).status_code == 403
    assert operator("POST", path.replace("gpu-a", "gpu-x"), {}).status_code == 404
    assert Host.objects.get().rules_serial == 0


def test_rules_are_laid_out_again_until_the_host_goes_by_them(host: FakeHost, ada: User) -> None:
    watch = Watch()
    rules.set_rule("gpu-a", ada, memory_mib=4096, idle_min=None)
    host.redis.flushall()
    host.beat()
    watch.look(timezone.now())
    assert host.goes_by_its_rules() is not None
    host.redis.flushall()
    host.beat()
    Watch().look(timezone.now())
    assert host.goes_by_its_rules() is None  # it has said that it has them


def test_rules_of_a_restored_backup_hold_again(host: FakeHost, ada: User) -> None:
    rules.set_rule("gpu-a", ada, memory_mib=4096, idle_min=None)
    Host.objects.update(rules_serial=7, use_memory_mib=2048)
    host.rules_serial = 2**45
    host.beat()
    Watch().look(timezone.now())
    told = host.goes_by_its_rules()
    assert told is not None
    assert (told.memory_mib, told.serial) == (2048, 2**45 + 1)


# --- one process --------------------------------------------------------------------------------------------------------


def test_ignored_process_is_named_by_its_start_and_boot_and_taken_back(database: str, host: FakeHost, operator: Rest) -> None:
    on(host, 0, ALICES, in_use_outside=True)
    rule = operator("POST", "hosts/gpu-a/ignore/", {"pid": 4711, "reason": "a viewer"}).json()["rule"]
    assert [(one["pid"], one["user"], one["by"]) for one in rule["ignored"]] == [(4711, "alice", "olga: a viewer")]
    told = host.goes_by_its_rules()
    assert told is not None
    assert told.ignored == (IgnoredProcess(boot_id="boot-1", pid=4711, start_ticks=99),)
    assert operator("POST", "hosts/gpu-a/heed/", {"pid": 4711}).json()["rule"]["ignored"] == []
    told = host.goes_by_its_rules()
    assert told is not None
    assert told.ignored == ()
    assert operator("POST", "hosts/gpu-a/heed/", {"pid": 4711}).status_code == 409


@pytest.mark.parametrize(
    ("process", "told"),
    [
        (dataclasses.replace(ALICES, pid=4712), "No process outside the queue with pid 4711"),
        (dataclasses.replace(ALICES, ours=True), "No process outside the queue with pid 4711"),
        (dataclasses.replace(ALICES, start_ticks=None), "When pid 4711 was started cannot be seen"),
    ],
)
def test_process_that_is_not_there_ours_or_of_unknown_start_cannot_be_ignored(
    host: FakeHost, operator: Rest, process: ProcessReading, told: str
) -> None:
    on(host, 0, process)
    answer = operator("POST", "hosts/gpu-a/ignore/", {"pid": 4711})
    assert answer.status_code == 409
    assert told in errors(answer)[None]


def test_processes_ignored_before_a_reboot_are_forgotten(host: FakeHost, ada: User) -> None:
    on(host, 0, ALICES)
    rules.ignore("gpu-a", ada, 4711)
    host.boot_id = "boot-2"
    on(host, 0, dataclasses.replace(ALICES, pid=5))
    rules.ignore("gpu-a", ada, 5)
    assert [one["pid"] for one in Host.objects.get().ignored] == [5]
    with pytest.raises(drains.HostRefused, match="no host"):
        rules.ignore("gpu-x", ada, 5)


# --- a device that is kept for a person ---------------------------------------------------------------------------------


def keep(uuid: str, actor: User, who: str, hours: float = 2) -> None:
    assert keeping.keep(uuid, actor, person=who, until=timezone.now() + timedelta(hours=hours), reason="demo")


def test_device_is_kept_for_a_person_and_the_others_are_told(database: str, host: FakeHost, submit: Submit, ada: User) -> None:
    Watch().look(timezone.now())
    lin = person("lin")
    keep("GPU-gpu-a-0", ada, "lin")
    blocked, adas, lins = submit(min_gpus=2), submit(), submit(lin)
    dispatch.run_pass(timezone.now())
    assert (placed(blocked), placed(adas), placed(lins)) == (set(), {"GPU-gpu-a-1"}, {"GPU-gpu-a-0"})
    keep("GPU-gpu-a-1", ada, "lin")
    Attempt.objects.all().delete()
    Job.objects.exclude(pk=blocked.pk).delete()
    dispatch.run_pass(timezone.now())
    blocked.refresh_from_db()
    assert blocked.wait_code == WaitReason.RESOURCES
    assert "Needs 2 GPUs; gpu-a has 0 of 2: GPU 0 and 1 are kept for lin until 2" in blocked.wait_message
    assert "by ada: demo" in blocked.wait_message


def test_kept_device_takes_everybodys_jobs_when_the_time_is_over_or_it_is_given_back(host: FakeHost, submit: Submit, ada: User) -> None:
    Watch().look(timezone.now())
    person("lin")
    job = submit(min_gpus=2)
    keep("GPU-gpu-a-0", ada, "lin")
    dispatch.run_pass(timezone.now())
    assert not placed(job)
    Device.objects.update(kept_until=timezone.now() - timedelta(seconds=1))
    dispatch.run_pass(timezone.now())
    assert len(placed(job)) == 2


def test_whose_device_it_is_takes_several_with_those_that_are_kept(host: FakeHost, submit: Submit, ada: User) -> None:
    Watch().look(timezone.now())
    keep("GPU-gpu-a-0", ada, "ada")
    job, more = submit(min_gpus=1, max_gpus=2), submit(person("lin"))
    dispatch.run_pass(timezone.now())
    assert (placed(job), placed(more)) == ({"GPU-gpu-a-0"}, {"GPU-gpu-a-1"}) or len(placed(job)) == 2
    Attempt.objects.all().delete()
    Job.objects.all().delete()
    both = submit(min_gpus=1, max_gpus=2)
    dispatch.run_pass(timezone.now())
    assert len(placed(both)) == 2


def test_keep_is_shown_with_who_and_until_when_and_is_undone(host: FakeHost, operator: Rest) -> None:
    Watch().look(timezone.now())
    person("lin")
    device = operator("POST", "devices/GPU-gpu-a-0/keep/", {"user": "lin", "until": "2099-03-09T14:31:00Z", "reason": "demo"}).json()
    assert (device["kept_for"], device["kept_until"], device["kept_by"]) == ("lin", "2099-03-09T14:31:00Z", "olga: demo")
    assert device["reason"].startswith("Is kept for lin until 2099-03-09 ")
    device = operator("POST", "devices/GPU-gpu-a-0/unkeep/", {}).json()
    assert (device["kept_for"], device["kept_until"], device["reason"]) == (None, None, "")
    assert operator("POST", "devices/GPU-gone/keep/", {"user": "lin", "until": "2099-01-01"}).status_code == 404
    assert not [d for h in capacity.hosts_now() for d in h.devices if d.kept_for]


# --- a stranger on a device that a job has ------------------------------------------------------------------------------


def running(host: FakeHost, job: Job) -> Spec:
    dispatch.run_pass(timezone.now())
    (spec,) = host.offers()
    host.started(spec)
    Ingest().turn()
    return spec


def told_of_strangers(job: Job) -> list[str]:
    return list(JobEvent.objects.filter(job=job, type="foreign_process").values_list("message", flat=True))


def look(reconciler: Reconciler, host: FakeHost, spec: Spec, *processes: ProcessReading) -> None:
    """A reconcile round while these are on GPU 0."""
    host.devices[0] = dataclasses.replace(host.devices[0], processes=processes)
    host.beat(attempts=(AttemptReading(job=spec.job, attempt=spec.attempt, fence=spec.fence, running=True),))
    reconciler.round(timezone.now())


def test_stranger_on_a_device_of_a_job_is_said_once_for_each_process(database: str, host: FakeHost, submit: Submit) -> None:
    job = submit()
    spec = running(host, job)
    reconciler = Reconciler()
    look(reconciler, host, spec, ALICES)
    assert told_of_strangers(job) == []  # it may be one of ours that is just being started
    for _ in range(3):
        look(reconciler, host, spec, ALICES)
    said = "On GPU 0 of gpu-a, beside attempt 1, is now alice's python (pid 4711) from outside the queue, with 23 GiB."
    assert told_of_strangers(job) == [said]
    event = JobEvent.objects.get(job=job, type="foreign_process")
    assert (event.attempt, event.data["user"], event.data["pid"], event.data["memory_mib"]) == (1, "alice", 4711, 23 * GIB)
    another = Reconciler()  # of the next leader
    look(another, host, spec, ALICES)
    look(another, host, spec, ALICES)
    assert told_of_strangers(job) == [said]
    later = dataclasses.replace(ALICES, start_ticks=100, memory_mib=None)
    look(another, host, spec, later)
    look(another, host, spec, later)
    assert told_of_strangers(job) == [said, said.removesuffix(", with 23 GiB.") + "."]


@pytest.mark.parametrize("other", [{"ours": True}, {"graphics": True}, {"ignored": True}, {"start_ticks": None}])
def test_who_is_ours_draws_is_ignored_or_cannot_be_named_is_no_stranger(host: FakeHost, submit: Submit, other: dict[str, Any]) -> None:
    job = submit()
    spec, reconciler = running(host, job), Reconciler()
    for _ in range(3):
        look(reconciler, host, spec, dataclasses.replace(ALICES, **other))
    assert told_of_strangers(job) == []


def test_stranger_on_somebody_elses_device_is_none_of_the_jobs_business(host: FakeHost, submit: Submit) -> None:
    job = submit()
    spec, reconciler = running(host, job), Reconciler()
    for _ in range(3):
        on(host, 1, ALICES)
        look(reconciler, host, spec)
    assert told_of_strangers(job) == []

"""What answers look like, for the OpenAPI document. The answers themselves are made in representation.py: a test compares."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers as s

from jobs.states import DeviceState, HostState, JobState, OnHostLoss, Outcome, Role, WaitReason
from jobs.submission import FIELDS


class Body(s.Serializer[Any]):
    """A description only: nothing is read or written through it."""


class OneErrorBody(Body):
    code = s.CharField()
    detail = s.CharField(help_text="A sentence with the mend.")
    attr = s.CharField(allow_null=True, help_text="The field that it is about.")


class ErrorBody(Body):
    type = s.CharField()
    errors = OneErrorBody(many=True)  # type: ignore[assignment] # a field, not the base's property


class WaitReasonBody(Body):
    code = s.ChoiceField(choices=[str(w) for w in WaitReason])
    message = s.CharField()


class DeviceRefBody(Body):
    uuid = s.CharField()
    index = s.IntegerField()


class GitBody(Body):
    commit = s.CharField()
    branch = s.CharField(help_text="Empty: none.")
    dirty = s.BooleanField(allow_null=True, help_text="Whether tracked files had changes; null: not known.")


class AttemptBody(Body):
    number = s.IntegerField()
    host = s.CharField()
    devices = DeviceRefBody(many=True)
    outcome = s.ChoiceField(choices=[str(o) for o in Outcome], allow_null=True)
    exit_code = s.IntegerField(allow_null=True)
    signal = s.IntegerField(allow_null=True)
    oom_detected = s.BooleanField()
    peak_memory_mib = s.IntegerField(allow_null=True, help_text="the most that its processes had on one of its devices")
    message = s.CharField(allow_null=True, help_text="Why it could not be launched; null in others' jobs.")
    git = GitBody(allow_null=True, help_text="Of its working directory when it began; null: no repository, or not known.")
    started_at = s.DateTimeField(allow_null=True)
    ended_at = s.DateTimeField(allow_null=True)
    log_bytes = s.IntegerField()
    log_removed_at = s.DateTimeField(
        allow_null=True, help_text="When the stored log was removed, AUTOTRAINER_RETENTION_DAYS after the end."
    )


class SwapBody(Body):
    target = s.CharField(help_text="Relative to the working directory.")
    source = s.CharField(required=False, help_text="A path on the host.")  # type: ignore[assignment] # a field, not the base's
    sha256 = s.CharField(required=False, help_text="Of a content that was handed in; jobs/{id}/swaps/{number}/ has it.")
    size = s.IntegerField(required=False, help_text="Bytes of that content.")


class JobBody(Body):
    id = s.IntegerField()
    uid = s.UUIDField()
    owner = s.CharField()
    name = s.CharField()
    state = s.ChoiceField(choices=[str(state) for state in JobState])
    wait_reason = WaitReasonBody(allow_null=True)
    queue_position = s.IntegerField(allow_null=True)
    host = s.CharField(allow_null=True)
    devices = DeviceRefBody(many=True)
    exit_code = s.IntegerField(allow_null=True)
    oom_detected = s.BooleanField()
    progress = s.FloatField(allow_null=True, help_text="0 to 1, as the log tells; null where it does not")
    remaining_s = s.FloatField(allow_null=True, help_text="seconds left, estimated from the progress; null where nobody can tell")
    created_at = s.DateTimeField()
    started_at = s.DateTimeField(allow_null=True)
    ended_at = s.DateTimeField(allow_null=True)
    command = s.CharField(allow_null=True, help_text="null in others' jobs")
    working_dir = s.CharField(allow_null=True, help_text="null in others' jobs")
    min_gpus = s.IntegerField()
    max_gpus = s.IntegerField()
    gpu_memory_mib = s.IntegerField()
    shared = s.BooleanField()
    max_retries = s.IntegerField()
    retry_delay_s = s.FloatField()
    retry_on_oom = s.BooleanField()
    time_limit_s = s.IntegerField(allow_null=True)
    priority = s.IntegerField()
    begin_at = s.DateTimeField(allow_null=True)
    after = s.ListField(child=s.IntegerField())
    hosts = s.ListField(child=s.CharField())
    env = s.DictField(child=s.CharField(), allow_null=True, help_text="null in others' jobs")
    swaps = SwapBody(many=True, allow_null=True)
    artifacts = s.ListField(child=s.CharField(), allow_null=True)
    notify = s.ListField(child=s.CharField(), allow_null=True)
    on_host_loss = s.ChoiceField(choices=[str(each) for each in OnHostLoss])
    environment = s.CharField(allow_blank=True)
    hold = s.BooleanField()
    attempts = AttemptBody(many=True)


class EventBody(Body):
    id = s.IntegerField()
    type = s.CharField()
    at = s.DateTimeField()
    actor = s.CharField(allow_null=True)
    attempt = s.IntegerField(allow_null=True)
    message = s.CharField()
    data = s.DictField()  # type: ignore[assignment] # a field, not the base's property


class OrphanBody(Body):
    key = s.CharField(help_text="What `manage.py orphans --end` takes.")
    job = s.UUIDField()
    attempt = s.IntegerField()
    name = s.CharField(allow_blank=True)
    devices = s.ListField(child=s.CharField())


class IgnoredBody(Body):
    pid = s.IntegerField()
    user = s.CharField(allow_blank=True)
    command = s.CharField(allow_blank=True)
    by = s.CharField()
    at = s.DateTimeField()


class UseRuleBody(Body):
    memory_mib = s.IntegerField(help_text="From so much memory on a process uses the device.")
    idle_min = s.IntegerField(help_text="For so many minutes after it computed.")
    by = s.CharField(allow_blank=True, help_text="Who said so, and why; empty for the defaults.")
    at = s.DateTimeField(allow_null=True)
    in_force = s.BooleanField(help_text="The host has said that it goes by this.")
    ignored = IgnoredBody(many=True, help_text="Processes that do not count.")


class HostBody(Body):
    name = s.CharField()
    state = s.ChoiceField(choices=[str(state) for state in HostState])
    reason = s.CharField(allow_blank=True)
    last_seen_at = s.DateTimeField(allow_null=True)
    agent_version = s.CharField(allow_blank=True)
    device_count = s.IntegerField()
    device_source = s.CharField(allow_blank=True)
    device_error = s.CharField(allow_blank=True)
    disk_free_bytes = s.IntegerField(allow_null=True)
    disk_least_bytes = s.IntegerField(allow_null=True, help_text="With less than this free nothing new starts there.")
    job_slots = s.IntegerField()
    used_slots = s.IntegerField()
    rule = UseRuleBody(allow_null=True, help_text="When a process outside the queue uses a device there.")
    orphans = OrphanBody(many=True, help_text="Attempts that it runs and the database does not know.")


class ProcessBody(Body):
    pid = s.IntegerField()
    user = s.CharField(allow_blank=True)
    command = s.CharField(allow_blank=True, help_text="Its program, without arguments.")
    memory_mib = s.IntegerField(allow_null=True)
    utilization_pct = s.FloatField(allow_null=True, help_text="Its own; null where the driver does not say.")
    age_s = s.FloatField(allow_null=True, help_text="Seconds since it was started.")
    ours = s.BooleanField()
    graphics = s.BooleanField()
    ignored = s.BooleanField(help_text="An operator said that it does not count as use.")


class DeviceBody(Body):
    uuid = s.CharField()
    index = s.IntegerField()
    host = s.CharField()
    name = s.CharField(allow_blank=True)
    memory_total_mib = s.IntegerField(allow_null=True)
    memory_used_mib = s.IntegerField(allow_null=True)
    utilization_pct = s.FloatField(allow_null=True)
    temperature_c = s.FloatField(allow_null=True)
    power_w = s.FloatField(allow_null=True)
    power_limit_w = s.FloatField(allow_null=True)
    state = s.ChoiceField(choices=[str(state) for state in DeviceState])
    reason = s.CharField(allow_blank=True, help_text="Who uses it, why it is drained or not known.")
    job = s.IntegerField(allow_null=True)
    jobs = s.ListField(child=s.IntegerField(), help_text="All that have it; several where they share it.")
    simulated = s.BooleanField()
    allocatable = s.BooleanField()
    kept_for = s.CharField(allow_null=True, help_text="Only this person's jobs are placed there.")
    kept_until = s.DateTimeField(allow_null=True)
    kept_by = s.CharField(allow_blank=True)
    processes = ProcessBody(many=True)
    updated_at = s.DateTimeField(allow_null=True)


class LoginBody(Body):
    username = s.CharField()
    password = s.CharField(write_only=True)


class TokenBody(Body):
    token = s.CharField()
    expires_at = s.DateTimeField(allow_null=True)


class MeBody(Body):
    username = s.CharField()
    role = s.ChoiceField(choices=[str(role) for role in Role])


class ReasonBody(Body):
    reason = s.CharField(required=False, allow_blank=True, max_length=500)


class RuleFields(ReasonBody):
    memory_mib = s.IntegerField(required=False, allow_null=True, help_text="null: the default, 1024.")
    idle_min = s.IntegerField(required=False, allow_null=True, help_text="null: the default, 30.")


class PidFields(ReasonBody):
    pid = s.IntegerField()


class KeepFields(ReasonBody):
    user = s.CharField()
    until = s.DateTimeField(help_text="Without a zone it is meant in the lab's.")


def _properties(names: list[str]) -> dict[str, Any]:
    return {name: {**FIELDS[name].schema, "description": FIELDS[name].help} for name in names}


SUBMIT_SCHEMA = {"type": "object", "required": ["command"], "additionalProperties": False, "properties": _properties(list(FIELDS))}
EDIT_SCHEMA = {"type": "object", "additionalProperties": False, "properties": _properties([n for n in FIELDS if n != "hold"])}
NOTHING_SCHEMA = {"type": "object", "additionalProperties": False, "properties": {}}


class SeriesBody(Body):
    uuid = s.CharField()
    index = s.IntegerField()
    began_at = s.DateTimeField()
    step_s = s.FloatField(help_text="Point i is the highest of what was seen from began_at + i * step_s on, for step_s.")
    memory_mib = s.ListField(child=s.IntegerField(allow_null=True), help_text="Of the attempt's own processes; null: not seen.")
    utilization_pct = s.ListField(child=s.FloatField(allow_null=True), help_text="Of the whole device; null: not seen.")


class SamplesBody(Body):
    attempt = s.IntegerField(allow_null=True)
    open = s.BooleanField(help_text="It goes on, so that more will come.")
    series = SeriesBody(many=True)


class CurveBody(Body):
    name = s.CharField()
    every = s.IntegerField(help_text="How many readings make a point, which is their mean.")
    points = s.ListField(child=s.FloatField(allow_null=True))
    last = s.FloatField(allow_null=True)
    min = s.FloatField(allow_null=True)
    max = s.FloatField(allow_null=True)


class CurvesBody(Body):
    attempt = s.IntegerField(allow_null=True)
    open = s.BooleanField(help_text="It goes on, so that more will come.")
    complete = s.BooleanField(help_text="False: the log is long and was not read to its end yet; ask again.")
    curves = CurveBody(many=True)


class HourBody(Body):
    uuid = s.CharField()
    utilization_pct = s.ListField(child=s.FloatField(allow_null=True))
    memory_used_mib = s.ListField(child=s.IntegerField(allow_null=True))


class HistoryBody(Body):
    step_s = s.IntegerField()
    results = HourBody(many=True)


class ArtifactBody(Body):
    name = s.CharField(help_text="Relative to the working directory.")
    size = s.IntegerField()
    modified_at = s.DateTimeField()
    picture = s.BooleanField(help_text="By its name; `size` shows it.")


class ArtifactsBody(Body):
    attempt = s.IntegerField(allow_null=True)
    error = s.CharField(help_text="Why nothing can be told now; empty: all is well.")
    results = ArtifactBody(many=True)


class NotificationBody(Body):
    id = s.IntegerField()
    occasion = s.CharField()
    channel = s.CharField()
    recipient = s.CharField()
    state = s.ChoiceField(choices=["pending", "sending", "sent", "dead"])
    tries = s.IntegerField()
    error = s.CharField(help_text="Why the last try failed.")
    created_at = s.DateTimeField()
    next_at = s.DateTimeField(allow_null=True)
    sent_at = s.DateTimeField(allow_null=True)


class PersonalTokenBody(Body):
    id = s.IntegerField()
    name = s.CharField()
    scope = s.ChoiceField(choices=["read", "all"], help_text="read: changes nothing; all: whatever you may.")
    created_at = s.DateTimeField()
    expires_at = s.DateTimeField()
    last_used_at = s.DateTimeField(allow_null=True, help_text="To the minute.")


class MadeTokenBody(PersonalTokenBody):
    token = s.CharField(help_text="The secret: it is not shown again.")


class MakeTokenBody(Body):
    name = s.CharField(max_length=80)
    scope = s.ChoiceField(choices=["read", "all"], required=False)
    days = s.IntegerField(min_value=1, max_value=3650, required=False, help_text="How long it works; 90.")


class TemplateBody(Body):
    id = s.IntegerField()
    name = s.CharField()
    fields = s.DictField(help_text="As POST jobs/ takes them; what a later version or your hosts refuse is said when they are submitted.")  # type: ignore[assignment] # a field, not the base's
    created_at = s.DateTimeField()
    changed_at = s.DateTimeField()


_TEMPLATE = {
    "name": {"type": "string", "minLength": 1, "maxLength": 80},
    "fields": {"type": "object", "additionalProperties": False, "properties": _properties(list(FIELDS))},
}
MAKE_TEMPLATE_SCHEMA = {"type": "object", "required": ["name", "fields"], "additionalProperties": False, "properties": _TEMPLATE}
CHANGE_TEMPLATE_SCHEMA = {"type": "object", "additionalProperties": False, "properties": _TEMPLATE}

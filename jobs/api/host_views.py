"""Hosts and devices over REST, and what operators do to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import capacity, drains, fields, keeping, rules
from jobs.api import schemas
from jobs.api.base import ApiView, LongPages, body_of, no_fields, operator
from jobs.api.errors import Conflict
from jobs.api.representation import device_body, host_body
from jobs.models import Device, Host, User


class HostsView(ApiView, GenericAPIView[Host]):
    """All hosts."""

    pagination_class = LongPages

    @extend_schema(operation_id="hosts_list", responses=schemas.HostBody(many=True))
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(capacity.hosts_now()) or []
        return self.get_paginated_response([host_body(host) for host in page])


class DevicesView(ApiView, GenericAPIView[Device]):
    """All devices of all hosts."""

    pagination_class = LongPages

    @extend_schema(operation_id="devices_list", responses=schemas.DeviceBody(many=True))
    def get(self, request: Request) -> Response:
        devices = [device for host in capacity.hosts_now() for device in host.devices]
        page = self.paginate_queryset(devices) or []
        return self.get_paginated_response([device_body(device) for device in page])


class HostActionView(ApiView):
    """An operator drains a host, resumes it, or states that it is dead."""

    action = ""

    @extend_schema(request=schemas.ReasonBody, responses={200: schemas.HostBody, 409: schemas.ErrorBody})
    def post(self, request: Request, name: str) -> Response:
        actor = operator(request)
        if not Host.objects.filter(name=name).exists():
            raise Http404
        try:
            _HOST_ACTIONS[self.action](name, actor, _reason(request))
        except drains.HostRefused as exc:
            raise Conflict(str(exc)) from exc
        return _host(name)


class HostRuleView(ApiView):
    """An operator says when a process outside the queue uses a device of this host."""

    @extend_schema(request=schemas.RuleFields, responses=schemas.HostBody)
    def post(self, request: Request, name: str) -> Response:
        actor, body = operator(request), body_of(request)
        no_fields(body, "memory_mib", "idle_min", "reason")
        memory_mib = _read(body, "memory_mib", fields.optional(fields.integer(1, rules.LARGEST_MIB)))
        idle_min = _read(body, "idle_min", fields.optional(fields.integer(0, rules.LONGEST_IDLE_MIN)))
        if not rules.set_rule(name, actor, memory_mib=memory_mib, idle_min=idle_min, reason=_read_reason(body)):
            raise Http404
        return _host(name)


class IgnoreView(ApiView):
    """An operator says that one process of this host does not count as use of its devices, or takes that back."""

    ignored = True

    @extend_schema(request=schemas.PidFields, responses={200: schemas.HostBody, 409: schemas.ErrorBody})
    def post(self, request: Request, name: str) -> Response:
        actor, body = operator(request), body_of(request)
        no_fields(body, "pid", "reason")
        if not Host.objects.filter(name=name).exists():
            raise Http404
        pid, reason = _read(body, "pid", fields.integer(1)), _read_reason(body)
        try:
            rules.ignore(name, actor, pid, reason) if self.ignored else rules.heed(name, actor, pid)
        except drains.HostRefused as exc:
            raise Conflict(str(exc)) from exc
        return _host(name)


class KeepView(ApiView):
    """An operator keeps one device for a person until a time."""

    @extend_schema(request=schemas.KeepFields, responses=schemas.DeviceBody)
    def post(self, request: Request, uuid: str) -> Response:
        actor, body = operator(request), body_of(request)
        no_fields(body, "user", "until", "reason")
        person, until = _read(body, "user", fields.text), _read(body, "until", fields.moment)
        try:
            if not keeping.keep(uuid, actor, person=person, until=until, reason=_read_reason(body)):
                raise Http404
        except keeping.KeepRefused as exc:
            raise ValidationError({exc.field: [str(exc)]}) from exc
        return _device(uuid)


class DeviceActionView(ApiView):
    """An operator drains one device, resumes it, or keeps it for nobody any more."""

    action = ""

    @extend_schema(request=schemas.ReasonBody, responses=schemas.DeviceBody)
    def post(self, request: Request, uuid: str) -> Response:
        actor = operator(request)
        if not Device.objects.filter(uuid=uuid).exists():
            raise Http404
        _DEVICE_ACTIONS[self.action](uuid, actor, _reason(request))
        return _device(uuid)


def _host(name: str) -> Response:
    return Response(next(host_body(host) for host in capacity.hosts_now() if host.name == name))


def _device(uuid: str) -> Response:
    found = (device for host in capacity.hosts_now() for device in host.devices if device.uuid == uuid)
    if (device := next(found, None)) is None:
        raise Http404
    return Response(device_body(device))


def _reason(request: Request) -> str:
    body = body_of(request)
    no_fields(body, "reason")
    return _read_reason(body)


def _read_reason(body: dict[str, Any]) -> str:
    return str(_read({"reason": ""} | body, "reason", fields.reason))


def _read(body: dict[str, Any], name: str, read: fields.Reader) -> Any:
    try:
        return read(body.get(name))
    except ValueError as exc:
        raise ValidationError({name: [str(exc)]}) from exc


_Action = Callable[[str, User, str], Any]

_HOST_ACTIONS: dict[str, _Action] = {
    "drain": lambda name, actor, reason: drains.drain_host(name, actor, reason),
    "resume": lambda name, actor, _: drains.resume_host(name, actor),
    "lost": lambda name, actor, _: drains.declare_lost(name, actor),
}
_DEVICE_ACTIONS: dict[str, _Action] = {
    "drain": lambda uuid, actor, reason: drains.drain_device(uuid, actor, reason),
    "resume": lambda uuid, actor, _: drains.resume_device(uuid, actor),
    "unkeep": lambda uuid, actor, _: keeping.give_back(uuid, actor),
}

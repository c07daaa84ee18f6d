"""The one shape of a refusal below /api/: `{"type", "errors": [{"code", "detail", "attr"}]}`, outside REST framework too."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views import defaults
from rest_framework import exceptions, status

from jobs.submission import SubmissionErrors

PREFIX = "/api/"


class Conflict(exceptions.APIException):
    """The present state does not allow it; the text says why."""

    status_code = status.HTTP_409_CONFLICT
    default_code = "conflict"


class Gone(exceptions.APIException):
    """It was there and will not be again; the text says why."""

    status_code = status.HTTP_410_GONE
    default_code = "log_removed"


class Changed(exceptions.APIException):
    """It is not what the asker has read any more; the text says what to do."""

    status_code = status.HTTP_412_PRECONDITION_FAILED
    default_code = "changed"


class LengthRequired(exceptions.APIException):
    status_code = status.HTTP_411_LENGTH_REQUIRED
    default_code = "length_required"
    default_detail = "Send the body with a Content-Length."


def invalid(errors: SubmissionErrors) -> exceptions.ValidationError:
    return exceptions.ValidationError({name or "non_field_errors": list(said) for name, said in errors.errors.items()})


def refusal(status_code: int, code: str, detail: str, attr: str | None = None) -> JsonResponse:
    kind = "server_error" if status_code >= 500 else "validation_error" if attr else "client_error"
    return JsonResponse({"type": kind, "errors": [{"code": code, "detail": detail, "attr": attr}]}, status=status_code)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if request.path.startswith(PREFIX):
        return refusal(400, "bad_request", "This request cannot be read.")
    return defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if request.path.startswith(PREFIX):
        return refusal(403, "permission_denied", "You may not do this.")
    return defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if request.path.startswith(PREFIX):
        return refusal(404, "not_found", "There is nothing at this address: /api/v1/docs/ lists what there is.")
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest, *args: Any) -> HttpResponseBase:
    if request.path.startswith(PREFIX):
        return refusal(500, "error", "Something went wrong here; the server's log says what.")
    return defaults.server_error(request)

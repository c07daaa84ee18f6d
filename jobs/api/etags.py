"""ETag and If-Match: so that nobody overwrites an edit that he has not seen.

The tag is of what PATCH changes, and of nothing that changes by itself: with progress, position and wait reason in it an edit
would hardly ever meet the job that was read. It is keyed, and only for those who may see all of it: a plain hash would let
others try what a command or a variable is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from django.utils.crypto import salted_hmac
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from jobs.api.errors import Changed
from jobs.api.representation import job_body
from jobs.models import Job, User
from jobs.submission import EDITABLE

LONGEST = 1000
_ONE = r'(?:W/)?"[\x21\x23-\x7e]*"'
_LIST = re.compile(rf"{_ONE}(?:[ \t]*,[ \t]*{_ONE})*")

HEADER = OpenApiParameter(
    "ETag",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    response=[200],
    required=False,
    description="Of the fields that PATCH changes, where you may see them: send it as If-Match.",
)
IF_MATCH = OpenApiParameter(
    "If-Match",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="The ETag as you have read it: an edit on top of somebody else's is refused with 412.",
)


def headers(body: dict[str, Any]) -> dict[str, str]:
    """For an answer with this job; nothing where the viewer may not see all of it."""
    return {"ETag": etag(body)} if body["command"] is not None else {}


def etag(body: dict[str, Any]) -> str:
    return tag_of([body["uid"], *((name, body[name]) for name in EDITABLE)])


def tag_of(what: Any) -> str:
    text = json.dumps(what, sort_keys=True)
    return f'"{salted_hmac("jobs.api.etags", text, algorithm="sha256").hexdigest()[:32]}"'


def check(request: Request, job: Job, actor: User) -> None:
    """Raises Changed where If-Match names none of what the job is now, ValidationError where it cannot be read."""
    if not matches(request, lambda: etag(job_body(job, actor))):
        raise Changed(f"Job {job.pk} was changed after you read it: read it again, then send your change with its new ETag.")


def matches(request: Request, present: Callable[[], str]) -> bool:
    """Whether If-Match is absent, or names the present tag; raises ValidationError where it cannot be read."""
    given = request.headers.get("If-Match", "").strip()
    if not given or given == "*":
        return True
    if len(given) > LONGEST or not _LIST.fullmatch(given):
        raise ValidationError({"If-Match": ['Send the ETag as you have read it, with its quotes, such as "0f3a".']})
    return present() in re.findall(_ONE, given)  # weak ones match nothing here (RFC 9110)

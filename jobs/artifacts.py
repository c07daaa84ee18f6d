"""Files that a job's attempts leave behind (its `artifacts` patterns): listed and fetched from the host, and kept beside the log.

What an ended attempt left is fetched once, soon after its end (`collect`), since the next job may write over it; it goes
with the log. Pictures are decoded and encoded anew before anybody's browser or mail program sees them.
"""

from __future__ import annotations

import base64
import glob
import hashlib
import io
import json
import logging
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from gpuworker.protocol import attempt_key
from gpuworker.questions import MOST_ARTIFACTS, PIECE_BYTES, Ask
from jobs import asking, logs, wholefile
from jobs.models import Attempt, Job

log = logging.getLogger(__name__)

LARGEST_BYTES = 64 * 2**20
"""Of one file: larger ones stay on the host."""
LARGEST_COLLECTED_BYTES = 64 * 2**20
"""Of all files of an attempt together that are fetched without being asked for."""
COLLECT_FOR = timedelta(hours=1)
COLLECT_S, FETCH_S = 120.0, 30.0
"""For all that an attempt left, and for one file of it: its letter waits for that, and the letter's lease runs."""
SLACK_S = 2.0
"""What was written before an attempt began is not what it left; both moments are by its host's clock."""
MOST_PIXELS = 50_000_000
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP"}
THUMBNAIL, FULL = 320, 2000
"""The longest side, in pixels."""
_NAME_BYTES = 1024
_under_way = [threading.Lock() for _ in range(64)]
"""By attempt: its letter waits for what is being collected already, and nothing is fetched twice at once."""


@dataclass(frozen=True, slots=True)
class File:
    name: str
    """Relative to the working directory."""
    size: int
    modified_at: float

    @property
    def is_picture(self) -> bool:
        return Path(self.name).suffix.lower() in PICTURES


@dataclass(frozen=True, slots=True)
class Left:
    """What an attempt left; `error` is a sentence where that cannot be seen now."""

    files: tuple[File, ...] = ()
    error: str = ""


class NotToBeHad(Exception):
    """A file that is not there, is too large or cannot be fetched now; the text is a sentence."""


def left_by(job: Job, attempt: Attempt, *, wait_s: float = asking.WAIT_S) -> Left:
    if not job.artifacts or attempt.started_at is None:
        return Left()
    if (kept := _kept_list(attempt)) is not None:
        return Left(kept)
    asked = asking.ask(attempt.host, Ask.ARTIFACTS, _args(job, attempt), patterns=job.artifacts, wait_s=wait_s)
    if asked.error:
        return Left(error=asked.error)
    try:
        since = attempt.started_at.timestamp() - SLACK_S
        return Left(tuple(file for file in _files(asked.told) if file.modified_at >= since))
    except (ValueError, TypeError, KeyError):
        return Left(error=f"{attempt.host} has given no list that can be read.")


def content(job: Job, attempt: Attempt, name: str) -> bytes:
    """Raises NotToBeHad."""
    path = _content_path(attempt, name)
    if path.exists():
        return path.read_bytes()
    if (kept := _kept_list(attempt)) is not None and name not in {file.name for file in kept}:
        raise NotToBeHad(f"{name[:200]} is none of the files that this attempt left.")
    return _fetched(job, attempt, name)


def beside(job: Job, attempt: Attempt, name: str, *, most: int) -> bytes:
    """A file beneath the working directory, whatever the job's patterns are: the host gives no other. Fetched once and kept.

    `most`: bytes that it may have. Raises NotToBeHad.
    """
    path = _content_path(attempt, name)
    if not path.exists():
        data = _fetched(job, attempt, name, patterns=[glob.escape(name)], most=most)
        wholefile.write(path, data)
    elif len(data := path.read_bytes()) > most:
        raise _too_large(attempt, name, most)
    return data


def collect(job: Job, attempt: Attempt) -> Left:
    """Fetch what an ended attempt left and keep it; small files first, until there is enough."""
    with _under_way[attempt.pk % len(_under_way)]:
        return _collect(job, attempt)


def _collect(job: Job, attempt: Attempt) -> Left:
    left = left_by(job, attempt, wait_s=5.0)
    if left.error or _kept_list(attempt) is not None:
        return left
    room, until = LARGEST_COLLECTED_BYTES, time.monotonic() + COLLECT_S
    for file in sorted(left.files, key=lambda one: one.size):
        room -= file.size
        if room < 0 or time.monotonic() > until:
            break  # what is not kept here is asked of the host when somebody wants it
        try:
            wholefile.write(_content_path(attempt, file.name), _fetched(job, attempt, file.name))
        except NotToBeHad as exc:
            log.info("artifact: %s", exc, extra={"action": "artifact", "job_id": job.pk})
    wholefile.write(_list_path(attempt), json.dumps([asdict(file) for file in left.files]).encode())
    return left


def to_collect(now: datetime) -> Iterator[Attempt]:
    """Attempts that have ended lately, of jobs that leave something, and that were not collected."""
    ended = Attempt.objects.filter(ended_at__gt=now - COLLECT_FOR, started_at__isnull=False, log_removed_at=None).exclude(outcome="")
    for attempt in ended.exclude(job__artifacts=[]).select_related("job").order_by("ended_at"):
        if not _list_path(attempt).exists():
            yield attempt


def pictures(job: Job, attempt: Attempt, *, most: int) -> list[tuple[str, bytes]]:
    """The first pictures that an attempt left, as PNG or JPEG of a modest size: (name, data)."""
    found: list[tuple[str, bytes]] = []
    for file in left_by(job, attempt).files:
        if len(found) >= most:
            break
        if file.is_picture:
            try:
                found.append((file.name, picture(content(job, attempt, file.name), longest=FULL // 2)[0]))
            except NotToBeHad:
                continue
    return found


def picture(data: bytes, *, longest: int) -> tuple[bytes, str]:
    """A picture as somebody else may see it: decoded, scaled down, encoded anew; with its content type. Raises NotToBeHad."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=list(set(PICTURES.values()))) as opened:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if opened.width * opened.height > MOST_PIXELS:
                raise NotToBeHad("The picture is too large to be shown.")
            upright = ImageOps.exif_transpose(opened)
            upright.thumbnail((longest, longest))
            opaque = upright.mode in ("RGB", "L", "CMYK", "YCbCr") and opened.format == "JPEG"
            out = io.BytesIO()
            upright.convert("RGB" if opaque else "RGBA").save(out, "JPEG" if opaque else "PNG", optimize=True)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise NotToBeHad("The file is no picture that can be shown.") from exc
    return out.getvalue(), "image/jpeg" if opaque else "image/png"


# --- the host -----------------------------------------------------------------------------------------------------------


def _args(job: Job, attempt: Attempt, **more: str) -> dict[str, str]:
    return {"attempt": attempt_key(str(job.uid), attempt.number, attempt.fence), **more}


def _too_large(attempt: Attempt, name: str, most: int) -> NotToBeHad:
    return NotToBeHad(f"{name[:200]} is larger than {most / 2**20:.3g} MiB: it is on {attempt.host}.")


def _fetched(job: Job, attempt: Attempt, name: str, *, patterns: Sequence[str] = (), most: int = LARGEST_BYTES) -> bytes:
    """`patterns`: instead of the job's own. A file that grows meanwhile comes with what it had when it was asked for last."""
    data, until = b"", time.monotonic() + FETCH_S
    while True:
        if time.monotonic() > until:
            raise NotToBeHad(f"{attempt.host} takes too long to give {name[:200]}: it is there.")
        args = _args(job, attempt, name=name, offset=str(len(data)))
        asked = asking.ask(attempt.host, Ask.ARTIFACT, args, patterns=patterns or job.artifacts, wait_s=10.0)
        if asked.error:
            raise NotToBeHad(asked.error)
        try:
            piece, size = base64.b64decode(asked.told["data"]), int(asked.told["size"])
        except (ValueError, TypeError, KeyError):
            raise NotToBeHad(f"{attempt.host} has given no file that can be read.") from None
        if size > most:
            raise _too_large(attempt, name, most)
        data += piece
        if len(piece) < PIECE_BYTES or len(data) > most:
            return data[:most]


def _files(told: Any) -> tuple[File, ...]:
    """Raises ValueError, TypeError or KeyError."""
    return tuple(File(str(one["name"])[:_NAME_BYTES], int(one["size"]), float(one["modified_at"])) for one in list(told)[:MOST_ARTIFACTS])


# --- what is kept -------------------------------------------------------------------------------------------------------


def _list_path(attempt: Attempt) -> Path:
    return logs.log_path(attempt.job_id, attempt.number).with_suffix(".artifacts.json")


def _content_path(attempt: Attempt, name: str) -> Path:
    hashed = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
    return logs.log_path(attempt.job_id, attempt.number).with_suffix(f".artifact-{hashed}")


def _kept_list(attempt: Attempt) -> tuple[File, ...] | None:
    try:
        return _files(json.loads(_list_path(attempt).read_text()))
    except (OSError, ValueError, TypeError, KeyError):
        return None

"""Sentences that tell why a job waits, as templates: their makers fill them in, and pages find them again to translate them."""

from __future__ import annotations


def gettext_noop(template: str) -> str:
    """Marks a template for the catalogue. Django's own does the same, but the scheduling core knows no Django."""
    return template


OFFERED_AGAIN = gettext_noop("It is offered again %(when)s: hosts have refused it several times.")
NO_FAULT = gettext_noop("Attempt %(attempt)s starts %(when)s: the one before was ended by no fault of the job.")
RETRY = gettext_noop("Retry %(retry)s of %(most)s starts %(when)s; attempt %(attempt)s %(ended)s.")
BEGINS = gettext_noop("Begins %(when)s, as its owner asked.")
HELD = gettext_noop("Held by %(person)s until somebody releases it.")
FIRST_BY_PRIORITY = gettext_noop("#%(job)s%(of)s goes first (priority %(theirs)s, this job has %(ours)s); it needs %(what)s.%(slips)s")
FIRST_BY_AGE = gettext_noop("#%(job)s%(of)s goes first (submitted earlier); it needs %(what)s.%(slips)s")
FAR_BEHIND = gettext_noop(
    "At least %(count)s jobs%(of)s go first (by priority, then by who has used least lately, then by age). It needs %(what)s."
)
WAITS_FOR = gettext_noop("Waits for %(parents)s.")
NO_ROOM = gettext_noop("Needs %(what)s; %(hosts)s.")
NO_HOST_NOW = gettext_noop("No host can take it now: %(hosts)s.")
LOW_DISK = gettext_noop("Waits for room on a disk: %(hosts)s.")
NO_HOST = gettext_noop("No host has joined yet.")

MOMENT = gettext_noop("%(clock)s, in %(span)s")
TODAY = gettext_noop("at %(time)s")
TOMORROW = gettext_noop("tomorrow at %(time)s")
ON_DAY = gettext_noop("on %(date)s at %(time)s")

OF = gettext_noop(" of %(owner)s")
SLIPS = gettext_noop(" What ends %(before)s may start before it.")
BEFORE = gettext_noop("before %(time)s")
SLOT = gettext_noop("a job slot")
GPUS_FREE_TO_SHARE = gettext_noop("%(gpus)s with %(size)s free to share")
GPUS_FREE = gettext_noop("%(gpus)s with %(size)s free")
GPUS_TO_SHARE = gettext_noop("%(gpus)s to share")

PARENT = gettext_noop("#%(job)s %(name)s, which is %(state)s")
HAS_AND = gettext_noop("%(host)s has %(free)s of %(all)s: %(devices)s")
HAS = gettext_noop("%(host)s has %(free)s of %(all)s")
LOST = gettext_noop("%(host)s was declared lost")
NEVER_HEARD = gettext_noop("%(host)s has not been heard from yet")
SILENT = gettext_noop("%(host)s has not been heard from since %(since)s")
DEVICE = gettext_noop("GPU %(index)s %(doing)s")
RUNS = gettext_noop("runs #%(job)s of %(user)s")
RUN = gettext_noop("run #%(job)s of %(user)s")
HAS_FREE = gettext_noop("has %(size)s free")
HAVE_FREE = gettext_noop("have %(size)s free")
IS_DRAINED = gettext_noop("is drained by %(person)s")
ARE_DRAINED = gettext_noop("are drained by %(person)s")
AND = gettext_noop("%(some)s and %(last)s")
OTHERS = gettext_noop("others")
BEING_STOPPED = gettext_noop("being stopped")
MORE = gettext_noop("and %(count)s more")

KILLED_OOM = gettext_noop("was killed by signal %(signal)s after running out of GPU memory")
KILLED = gettext_noop("was killed by signal %(signal)s")
FAILED_CODE_OOM = gettext_noop("failed with exit code %(code)s after running out of GPU memory")
FAILED_CODE = gettext_noop("failed with exit code %(code)s")
FAILED_OOM = gettext_noop("failed after running out of GPU memory")
FAILED = gettext_noop("failed")

SENTENCES = (
    OFFERED_AGAIN,
    NO_FAULT,
    RETRY,
    BEGINS,
    HELD,
    FIRST_BY_PRIORITY,
    FIRST_BY_AGE,
    FAR_BEHIND,
    LOW_DISK,
    WAITS_FOR,
    NO_ROOM,
    NO_HOST_NOW,
    NO_HOST,
)

PARTS = {
    "when": (MOMENT,),
    "clock": (TOMORROW, TODAY, ON_DAY),
    "of": (OF,),
    "slips": (SLIPS,),
    "before": (BEFORE,),
    "what": (SLOT, GPUS_FREE_TO_SHARE, GPUS_FREE, GPUS_TO_SHARE),
    "parents": (PARENT, MORE),
    "hosts": (LOST, NEVER_HEARD, SILENT, HAS_AND, HAS, MORE),
    "devices": (DEVICE, MORE),
    "index": (AND,),
    "owner": (AND,),
    "last": (OTHERS,),
    "state": (BEING_STOPPED, gettext_noop("queued"), gettext_noop("held"), gettext_noop("starting"), gettext_noop("running")),
    "doing": (RUNS, RUN, HAS_FREE, HAVE_FREE, IS_DRAINED, ARE_DRAINED),
    "ended": (KILLED_OOM, KILLED, FAILED_CODE_OOM, FAILED_CODE, FAILED_OOM, FAILED),
}
"""By placeholder: what may stand there and is translated too, the longer before the shorter. All else is a name or a number."""

BETWEEN = {"parents": r"; ", "hosts": r"; ", "devices": r", (?=GPU \d|and \d)"}
"""By placeholder: what stands between the parts, where several may stand there."""

SHAPES = {
    "index": r"\d+(?:, \d+)*(?: and \d+)?",
    "job": r"\d+",
    "free": r"\d+",
    "all": r"\d+",
    "user": r"[^,]+",
    "what": r"a job slot|\d+ GPUs?(?: with [^;]+? free)?(?: to share)?",
}
"""By placeholder: what alone may stand there."""

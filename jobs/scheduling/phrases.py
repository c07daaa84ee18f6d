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
FIRST_BY_PRIORITY = gettext_noop("#%(job)s%(of)s goes first (priority %(theirs)s, this job has %(ours)s); it needs %(what)s.")
FIRST_BY_AGE = gettext_noop("#%(job)s%(of)s goes first (submitted earlier); it needs %(what)s.")
IN_TURN = gettext_noop("%(behind)s; #%(job)s is the first, it needs %(what)s.")
HAS_USED_LESS = gettext_noop("Behind %(jobs)s of %(user)s, who has used less lately (%(theirs)s GPU-hours against %(ours)s of %(person)s)")
HAS_FEWER = gettext_noop("Behind %(jobs)s of %(user)s, who has fewer jobs that run or wait before it: people take turns")
FAR_BEHIND = gettext_noop(
    "At least %(count)s jobs%(of)s go first (by priority, then by who has used least lately, then by age). It needs %(what)s."
)
WAITS_FOR = gettext_noop("Waits for %(parents)s.")
NO_ROOM = gettext_noop("Needs %(what)s; %(hosts)s.")
NO_HOST_NOW = gettext_noop("No host can take it now: %(hosts)s.")
LOW_DISK = gettext_noop("Waits for room on a disk: %(hosts)s.")
NO_HOST = gettext_noop("No host has joined yet.")
NO_HOST_OF_NAME = gettext_noop("It may only run on %(names)s, and no host of that name has joined.")
NEVER = gettext_noop("Needs %(what)s on one host; %(among)s, %(host)s, has %(has)s.")
ONLY_HOST = gettext_noop("the only host that it may use")
BEST_HOST = gettext_noop("the best of %(all)s hosts")

MOMENT = gettext_noop("%(clock)s, in %(span)s")
SPAN_SECONDS = gettext_noop("%(n)s s")
SPAN_MINUTES = gettext_noop("%(n)s m")
SPAN_HOURS = gettext_noop("%(hours)s h %(n)s m")
SPAN_DAYS = gettext_noop("%(days)s d %(hours)s h")
TODAY = gettext_noop("at %(time)s")
TOMORROW = gettext_noop("tomorrow at %(time)s")
ON_DAY = gettext_noop("on %(date)s at %(time)s")

OF = gettext_noop(" of %(owner)s")
SLIPS = gettext_noop("What ends %(before)s may start before it.")
BEFORE = gettext_noop("before %(time)s")
SLOT = gettext_noop("a job slot")
ONE_GPU = gettext_noop("1 GPU")
SOME_GPUS = gettext_noop("%(n)s GPUs")
ONE_JOB = gettext_noop("1 job")
SOME_JOBS = gettext_noop("%(n)s jobs")
ONE_SLOT = gettext_noop("1 job slot")
SOME_SLOTS = gettext_noop("%(n)s job slots")
GPUS_OF_SIZE = gettext_noop("%(gpus)s of at least %(size)s")
GPUS_FREE_TO_SHARE = gettext_noop("%(gpus)s with %(size)s free to share")
GPUS_FREE = gettext_noop("%(gpus)s with %(size)s free")
GPUS_TO_SHARE = gettext_noop("%(gpus)s to share")

PARENT = gettext_noop("#%(job)s %(name)s, which is %(state)s")
HAS_AND = gettext_noop("%(host)s has %(free)s of %(all)s: %(devices)s")
HAS = gettext_noop("%(host)s has %(free)s of %(all)s")
FULL = gettext_noop("%(host)s runs %(jobs)s, as many as it may")
SLOTS_FREE = gettext_noop("%(host)s has %(slots)s free")
CANNOT_READ = gettext_noop("%(host)s cannot read its GPUs (%(why)s)")
CANNOT_READ_YET = gettext_noop("%(host)s cannot read its GPUs yet")
CANNOT_READ_NOW = gettext_noop("%(host)s cannot read its GPUs: %(why)s")
HOST_DRAINED = gettext_noop("%(host)s is drained")
HOST_DRAINED_BY = gettext_noop("%(host)s is drained by %(reason)s")
HOST_DRAINING = gettext_noop("%(host)s is being drained")
HOST_DRAINING_BY = gettext_noop("%(host)s is being drained by %(reason)s")
DEAF = gettext_noop("%(host)s is deaf: its queue has brought it nothing for %(span)s, and its agent starts over by itself")
OUTDATED = gettext_noop(
    "%(host)s speaks version %(theirs)s of the protocol, the control plane %(ours)s: upgrade it, what runs there goes on meanwhile"
)
FULL_DISK = gettext_noop("%(host)s has %(size)s of disk free, and starts nothing new with less than %(least)s")
STOPPED = gettext_noop("%(host)s has taken its leave: its agent was stopped %(clock)s, and what runs there goes on")
HAS_ORPHANS = gettext_noop("%(host)s runs %(orphans)s")
LOST = gettext_noop("%(host)s was declared lost")
LOST_BY = gettext_noop("%(host)s was declared lost by %(person)s")
NEVER_HEARD = gettext_noop("%(host)s has not been heard from yet")
SILENT = gettext_noop("%(host)s has not been heard from since %(since)s")
DEVICE = gettext_noop("GPU %(index)s %(doing)s")
RUNS_AND_LEAVES = gettext_noop("runs %(holders)s, which leaves %(size)s to share")
RUNS_AND_LEAVE = gettext_noop("runs %(holders)s, which leave %(size)s to share")
RUNS = gettext_noop("runs %(holders)s")
RUN = gettext_noop("run %(holders)s")
HOLDER = gettext_noop("#%(job)s of %(user)s")
ORPHAN = gettext_noop("%(name)s (%(key)s, attempt %(attempt)s), which the database does not know")
AN_ATTEMPT = gettext_noop("an attempt")
IS_USED = gettext_noop("is used outside the queue")
ARE_USED = gettext_noop("are used outside the queue")
IS_USED_BY = gettext_noop("is used by %(processes)s outside the queue")
ARE_USED_BY = gettext_noop("are used by %(processes)s outside the queue")
PROCESS = gettext_noop("%(user)s's %(program)s (pid %(pid)s)")
CANNOT_BE_READ_NOW = gettext_noop("cannot be read: %(why)s")
CANNOT_BE_READ = gettext_noop("cannot be read")
IS_UNKNOWN = gettext_noop("is unknown: its host is silent")
IS_KEPT = gettext_noop("is kept for %(user)s until %(until)s by %(person)s")
ARE_KEPT = gettext_noop("are kept for %(user)s until %(until)s by %(person)s")
IS_CUT = gettext_noop("is cut into MIG slices")
ARE_CUT = gettext_noop("are cut into MIG slices")
HAS_UNKNOWN = gettext_noop("has unknown free memory")
HAVE_UNKNOWN = gettext_noop("have unknown free memory")
DRAINED = gettext_noop("is drained")
DRAINED_ALL = gettext_noop("are drained")
NOT_CLEAN = gettext_noop("#%(job)s did not give it back clean (%(why)s)")
DOES_NOT_END = gettext_noop("%(processes)s of #%(job)s does not end")
SICK = gettext_noop("%(n)s different jobs in a row failed here within seconds (%(failures)s): resume it when it is well")
FORGETFUL = gettext_noop("it knows nothing any more of %(attempt)s, which it ran: is its disk or its home another one?")
BY_SYSTEM = gettext_noop("AutoTrainer: %(cause)s")
FAILURE = gettext_noop("#%(job)s (%(how)s)")
HOW_CODE_AFTER = gettext_noop("exit code %(code)s after %(seconds)s s")
HOW_SIGNAL_AFTER = gettext_noop("signal %(signal)s after %(seconds)s s")
HOW_CODE = gettext_noop("exit code %(code)s")
HOW_SIGNAL = gettext_noop("signal %(signal)s")
NOT_LAUNCHED = gettext_noop("could not be launched")
HAS_FREE = gettext_noop("has %(size)s free")
HAVE_FREE = gettext_noop("have %(size)s free")
IS_DRAINED = gettext_noop("is drained by %(reason)s")
ARE_DRAINED = gettext_noop("are drained by %(reason)s")
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

HELD_AND_HAD = gettext_noop("It held %(held)s at its peak; %(place)s had %(size)s for it.")
HELD_AND_HAD_EACH = gettext_noop("It held %(held)s at its peak; %(place)s had %(size)s each for it.")
HELD_MEMORY = gettext_noop("It held %(held)s at its peak.")
HAD_MEMORY = gettext_noop("%(place)s had %(size)s for it.")
HAD_MEMORY_EACH = gettext_noop("%(place)s had %(size)s each for it.")
PLACE = gettext_noop("GPU %(index)s of %(host)s")
GETS_ALONE = gettext_noop("Attempt %(attempt)s gets %(gpu)s that it does not share: others may have used the memory.")
WAITS_FOR_MORE = gettext_noop("Attempt %(attempt)s waits for %(gpu)s, as %(host)s has: more than it had.")
HAD_UNKNOWN = gettext_noop("How much memory it had is not known, so that attempt %(attempt)s may meet the same.")
NONE_HAS_MORE = gettext_noop("No GPU that it may use has more, so that attempt %(attempt)s meets the same.")
A_GPU = gettext_noop("a GPU")
GPUS = gettext_noop("GPUs")
A_GPU_WITH = gettext_noop("a GPU with at least %(size)s free")
GPUS_WITH = gettext_noop("GPUs with at least %(size)s free")

SENTENCES = (
    OFFERED_AGAIN,
    NO_FAULT,
    RETRY,
    BEGINS,
    HELD,
    FIRST_BY_PRIORITY,
    FIRST_BY_AGE,
    IN_TURN,
    SLIPS,
    FAR_BEHIND,
    LOW_DISK,
    WAITS_FOR,
    NEVER,
    NO_ROOM,
    NO_HOST_NOW,
    NO_HOST_OF_NAME,
    NO_HOST,
)

PARTS = {
    "when": (MOMENT,),
    "span": (SPAN_DAYS, SPAN_HOURS, SPAN_MINUTES, SPAN_SECONDS),
    "clock": (TOMORROW, TODAY, ON_DAY),
    "of": (OF,),
    "before": (BEFORE,),
    "what": (SLOT, GPUS_FREE_TO_SHARE, GPUS_FREE, GPUS_TO_SHARE, GPUS_OF_SIZE, ONE_GPU, SOME_GPUS),
    "gpus": (ONE_GPU, SOME_GPUS),
    "jobs": (ONE_JOB, SOME_JOBS),
    "slots": (ONE_SLOT, SOME_SLOTS),
    "behind": (HAS_USED_LESS, HAS_FEWER),
    "among": (ONLY_HOST, BEST_HOST),
    "parents": (PARENT, MORE),
    "hosts": (
        HOST_DRAINING_BY,
        HOST_DRAINING,
        HOST_DRAINED_BY,
        HOST_DRAINED,
        LOST_BY,
        LOST,
        NEVER_HEARD,
        SILENT,
        DEAF,
        OUTDATED,
        FULL_DISK,
        STOPPED,
        FULL,
        SLOTS_FREE,
        CANNOT_READ_YET,
        CANNOT_READ_NOW,
        CANNOT_READ,
        HAS_AND,
        HAS,
        HAS_ORPHANS,
        MORE,
    ),
    "names": (MORE,),
    "orphans": (ORPHAN, MORE),
    "name": (AN_ATTEMPT,),
    "processes": (PROCESS, MORE),
    "reason": (BY_SYSTEM,),
    "cause": (NOT_CLEAN, DOES_NOT_END, SICK, FORGETFUL),
    "failures": (FAILURE,),
    "how": (HOW_CODE_AFTER, HOW_SIGNAL_AFTER, HOW_CODE, HOW_SIGNAL, NOT_LAUNCHED),
    "holders": (ORPHAN, HOLDER, MORE),
    "devices": (DEVICE, MORE),
    "index": (AND,),
    "owner": (AND,),
    "last": (OTHERS,),
    "state": (BEING_STOPPED, gettext_noop("queued"), gettext_noop("held"), gettext_noop("starting"), gettext_noop("running")),
    "doing": (
        RUNS_AND_LEAVES,
        RUNS_AND_LEAVE,
        RUNS,
        RUN,
        HAS_FREE,
        HAVE_FREE,
        IS_DRAINED,
        ARE_DRAINED,
        DRAINED,
        DRAINED_ALL,
        IS_USED,
        ARE_USED,
        IS_USED_BY,
        ARE_USED_BY,
        CANNOT_BE_READ_NOW,
        CANNOT_BE_READ,
        IS_UNKNOWN,
        IS_KEPT,
        ARE_KEPT,
        IS_CUT,
        ARE_CUT,
        HAS_UNKNOWN,
        HAVE_UNKNOWN,
    ),
    "ended": (KILLED_OOM, KILLED, FAILED_CODE_OOM, FAILED_CODE, FAILED_OOM, FAILED),
}
"""By placeholder: what may stand there and is translated too, the longer before the shorter. All else is a name or a number."""

BETWEEN = {
    "parents": r"; ",
    "hosts": r"; ",
    "orphans": r"; ",
    "devices": r", (?=GPU \d|and \d)",
    "holders": r", (?=#\d|and \d)",
    "processes": r", ",
    "failures": r", (?=#\d)",
    "names": r" or ",
}
"""By placeholder: what stands between the parts, where several may stand there."""

SHAPES = {
    "index": r"\d+(?:, \d+)*(?: and \d+)?",
    "job": r"\d+",
    "free": r"\d+",
    "all": r"\d+",
    "user": r"[^,]+",
    "what": r"a job slot|\d+ GPUs?(?: with [^;]+? free)?(?: to share)?(?: of at least [^;]+? [GM]iB)?",
    "n": r"\d+",
    "hours": r"\d+",
    "days": r"\d+",
    "jobs": r"\d+ jobs?",
    "slots": r"\d+ job slots?",
    "gpus": r"\d+ GPUs?",
    "size": r"[\d.]+ [MG]iB",
    "host": r"\S*",
    "behind": r"Behind .*?",
}
"""By placeholder: what alone may stand there."""

OR = gettext_noop(" or ")


def counted(count: int, one: str, some: str) -> str:
    """`1 job`, `3 jobs`."""
    return one if count == 1 else some % {"n": count}

"""Sentences of events and of the audit log, as templates.

Their makers fill them in, and pages find them again to translate them (phrases.py).
"""

from __future__ import annotations

from jobs.scheduling import phrases
from jobs.scheduling.phrases import gettext_noop

SUBMITTED = gettext_noop("Submitted by %(person)s.")
SUBMITTED_HELD = gettext_noop("Submitted by %(person)s and held.")
EDITED = gettext_noop("%(person)s changed %(fields)s.")
COPIED = gettext_noop("Copied from #%(job)s.")
HELD = gettext_noop("Held by %(person)s.")
HELD_BECAUSE = gettext_noop("Held: %(cause)s.")
RELEASED = gettext_noop("Released by %(person)s.")
CANCELLED = gettext_noop("Cancelled by %(person)s.")
BEING_CANCELLED = gettext_noop("%(person)s cancelled it; its processes are being ended.")
NOTHING_LEFT = gettext_noop("Cancelled; nothing of it was left to end.")
NEVER_STARTED = gettext_noop("Cancelled before it started.")
PARENT_FAILED = gettext_noop("Cancelled: #%(job)s %(name)s, which it waits for, failed.")
PARENT_CANCELLED = gettext_noop("Cancelled: #%(job)s %(name)s, which it waits for, was cancelled.")

STARTING = gettext_noop("Attempt %(attempt)s is starting on %(where)s.")
RUNNING = gettext_noop("Attempt %(attempt)s is running on %(where)s.")
BACK = gettext_noop("Back in the queue: %(cause)s.")
REFUSED = gettext_noop("%(host)s refused it: %(why)s")
TOO_LATE = gettext_noop("%(host)s did not start it within %(seconds)s s")
FELL_SILENT = gettext_noop("%(host)s fell silent before it took it")
RESTORED_OFFER = gettext_noop("A backup was restored: what became of this offer is not known")
TAKEN_BACK = gettext_noop("Taken back %(n)s times; offered again in %(span)s.")
RESTORED = gettext_noop("The database was restored from a backup of %(until)s: it may have run since")
LOOK = gettext_noop("Look, and release it.")
UNKNOWN_ATTEMPT = gettext_noop("%(host)s runs an attempt of it that the database does not know (manage.py orphans lists it)")
ONCE_OVER = gettext_noop("Release it once that is over.")

ENDED = gettext_noop("Attempt %(attempt)s %(ended)s.")
COMPLETED = gettext_noop("completed")
FAILED_SIGNAL_OOM = gettext_noop("failed with exit code %(code)s (probably signal %(signal)s) after running out of GPU memory")
FAILED_SIGNAL = gettext_noop("failed with exit code %(code)s (probably signal %(signal)s)")
ENDED_BECAUSE = gettext_noop("%(ended)s: %(why)s")
WAS_CANCELLED = gettext_noop("was cancelled")
TIMED_OUT = gettext_noop("reached its time limit and was ended")
LAUNCH_FAILED = gettext_noop("could not be launched")
EXIT_LOST = gettext_noop("ended, but its exit code is lost")
HOST_LOST = gettext_noop("was lost with its host")
DECLARED_LOST = gettext_noop("%(person)s declared %(host)s lost")
STARTED_AGAIN = gettext_noop("%(host)s was started again meanwhile")
KNOWS_NOTHING = gettext_noop("%(host)s knows nothing of it any more")
RETRY = gettext_noop("Retry %(n)s of %(most)s in %(span)s.")
RETRY_AFTER = gettext_noop("Retry %(n)s of %(most)s in %(span)s, after attempt %(attempt)s ended.")
NOT_AGAIN = gettext_noop("Not tried again after that, as its owner asked (retry_on_oom).")
SPOILED = gettext_noop("Held after %(n)s starts that the infrastructure spoiled; the last one: attempt %(attempt)s %(ended)s.")
REQUEUED = gettext_noop("Requeued without spending a retry.")
LOG_TRUNCATED = gettext_noop(
    "The command of attempt %(attempt)s truncated its own log: what had been read before is kept, what came next follows on it."
)
LOG_CUT = gettext_noop("The log of attempt %(attempt)s was longer than AUTOTRAINER_LOG_LIMIT: %(bytes)s bytes of its middle were cut out.")

UNCLEAN = gettext_noop("%(device)s did not come back clean: %(why)s")
DRAINED_UNTIL_CLEAN = gettext_noop("It is drained until it is clean, or an operator resumes it.")
STUCK = gettext_noop("Attempt %(attempt)s cannot be ended: SIGKILL does nothing to %(processes)s.")
DRAINED_FOR_STUCK = gettext_noop("Its devices are drained, and not free before.")
STRANGER = gettext_noop("On %(place)s, beside attempt %(attempt)s, is now %(process)s from outside the queue.")
STRANGER_WITH = gettext_noop("On %(place)s, beside attempt %(attempt)s, is now %(process)s from outside the queue, with %(size)s.")
SILENT = gettext_noop("It has printed nothing for %(long)s; before, it never was silent for more than %(longest)s.")
IDLE = gettext_noop("Its GPU has shown 0 %% for %(long)s.")
IDLE_ALL = gettext_noop("Its GPUs have shown 0 %% for %(long)s.")
NOT_STOPPED = gettext_noop("It was not stopped.")
SECONDS = gettext_noop("%(n)s seconds")
ONE_MINUTE = gettext_noop("1 minute")
MINUTES = gettext_noop("%(n)s minutes")
ONE_HOUR = gettext_noop("1 hour")
HOURS = gettext_noop("%(n)s hours")
TOGETHER = gettext_noop(" and ")

OVERLAY_ENDED = gettext_noop(
    "%(target)s was replaced by somebody while attempt %(attempt)s runs: it sees the file itself now, not the swapped one."
)
SWAPPED = gettext_noop("Attempt %(attempt)s has swapped %(swapped)s.")
BY_MOUNT = gettext_noop("%(targets)s for this job alone (mount namespace)")
BY_JOURNAL = gettext_noop("%(targets)s by putting the new file in its place until the job ends (journal)")
WAS_ABSENT = gettext_noop("%(targets)s was not there before: is the name right?")
WERE_ABSENT = gettext_noop("%(targets)s were not there before: is the name right?")
PUT_BACK = gettext_noop("Attempt %(attempt)s: %(results)s.")
UNTOUCHED = gettext_noop("%(targets)s was never touched")
UNTOUCHED_ALL = gettext_noop("%(targets)s were never touched")
AS_BEFORE = gettext_noop("%(targets)s is as it was before")
AS_BEFORE_ALL = gettext_noop("%(targets)s are as they were before")
GONE = gettext_noop("%(targets)s is gone again")
GONE_ALL = gettext_noop("%(targets)s are gone again")
BOTH_KEPT = gettext_noop("%(targets)s was edited while it was swapped")
BOTH_ARE = gettext_noop("Both are kept: the edited file is %(path)s, the original is %(kept)s.")
NEW_KEPT = gettext_noop("%(targets)s, which was not there before, was edited while it was swapped in")
LEFT_THERE = gettext_noop("It was left where it is: %(path)s.")
NOT_PUT_BACK_BECAUSE = gettext_noop("%(targets)s could not be put back at %(path)s: %(why)s")
NOT_PUT_BACK = gettext_noop("%(targets)s could not be put back at %(path)s")
ORIGINAL = gettext_noop("The original is %(kept)s.")

MAY = gettext_noop("May %(scope)s, for %(n)s days.")
READ = gettext_noop("read")
ALL = gettext_noop("all")
OF_PERSON = gettext_noop("Of %(person)s.")
ALL_TOKENS = gettext_noop("All %(n)s tokens.")
WITH_PASSWORD = gettext_noop("With the password.")
WITH_OLD_PASSWORD = gettext_noop("With the old one.")
WITH_PASSWORD_FOR_TOKEN = gettext_noop("With the password, for a token.")
WITH_LINK = gettext_noop("With a link that works once.")
KEY_BEING_REPLACED = gettext_noop("The key before is valid until the new one is heard.")
KEY_OUTDATED = gettext_noop("The key before is valid no more.")
HOW_TOLD = gettext_noop("How they are told.")
SETS_PASSWORD = gettext_noop("It sets a password.")
MAILED = gettext_noop("It sets a password, and was mailed to %(address)s.")
RULE = gettext_noop("counts as used from %(mib)s MiB or %(n)s min after computing on")
IGNORES = gettext_noop("ignores pid %(pid)s")
HEEDS = gettext_noop("ignores pid %(pid)s no more")
KEPT_FOR = gettext_noop("kept for %(user)s until %(until)s")
AT_SERVICE = gettext_noop("At %(service)s.")
KEPT_NO_MORE = gettext_noop("kept for nobody any more")
CHANGED_BECAUSE = gettext_noop("%(changed)s: %(why)s")
AUDITED = (
    MAY,
    OF_PERSON,
    ALL_TOKENS,
    WITH_PASSWORD,
    WITH_OLD_PASSWORD,
    WITH_PASSWORD_FOR_TOKEN,
    WITH_LINK,
    KEY_BEING_REPLACED,
    KEY_OUTDATED,
    HOW_TOLD,
    SETS_PASSWORD,
    MAILED,
    RULE,
    HEEDS,
    IGNORES,
    KEPT_FOR,
    KEPT_NO_MORE,
    AT_SERVICE,
    CHANGED_BECAUSE,
)
"""What the audit log says beside the sentences of events."""

WHYS = (DECLARED_LOST, STARTED_AGAIN, KNOWS_NOTHING)
"""What is said of an attempt itself."""

SENTENCES = (
    SUBMITTED_HELD,
    SUBMITTED,
    COPIED,
    BEING_CANCELLED,
    NOTHING_LEFT,
    NEVER_STARTED,
    PARENT_FAILED,
    PARENT_CANCELLED,
    RELEASED,
    CANCELLED,
    STARTING,
    RUNNING,
    BACK,
    TAKEN_BACK,
    LOOK,
    ONCE_OVER,
    RETRY_AFTER,
    RETRY,
    NOT_AGAIN,
    SPOILED,
    REQUEUED,
    LOG_TRUNCATED,
    LOG_CUT,
    phrases.HELD_AND_HAD_EACH,
    phrases.HELD_AND_HAD,
    phrases.HELD_MEMORY,
    phrases.HAD_MEMORY_EACH,
    phrases.HAD_MEMORY,
    phrases.GETS_ALONE,
    phrases.WAITS_FOR_MORE,
    phrases.HAD_UNKNOWN,
    phrases.NONE_HAS_MORE,
    DRAINED_UNTIL_CLEAN,
    STUCK,
    DRAINED_FOR_STUCK,
    STRANGER_WITH,
    STRANGER,
    SILENT,
    IDLE,
    IDLE_ALL,
    NOT_STOPPED,
    OVERLAY_ENDED,
    SWAPPED,
    WAS_ABSENT,
    WERE_ABSENT,
    BOTH_ARE,
    LEFT_THERE,
    ORIGINAL,
    PUT_BACK,
    ENDED,
    HELD_BECAUSE,
    HELD,
    UNCLEAN,
    EDITED,
)

PARTS = {
    "cause": (REFUSED, TOO_LATE, FELL_SILENT, RESTORED_OFFER, RESTORED, UNKNOWN_ATTEMPT),
    "ended": (ENDED_BECAUSE, COMPLETED, FAILED_SIGNAL_OOM, FAILED_SIGNAL, WAS_CANCELLED, TIMED_OUT, LAUNCH_FAILED, EXIT_LOST, HOST_LOST),
    "why": WHYS,
    "scope": (READ, ALL),
    "changed": (RULE, HEEDS, IGNORES, KEPT_FOR),
    "gpu": (phrases.A_GPU_WITH, phrases.GPUS_WITH, phrases.A_GPU, phrases.GPUS),
    "place": (phrases.PLACE,),
    "process": (phrases.PROCESS,),
    "long": (SECONDS, ONE_MINUTE, MINUTES, ONE_HOUR, HOURS),
    "longest": (SECONDS, ONE_MINUTE, MINUTES, ONE_HOUR, HOURS),
    "swapped": (BY_MOUNT, BY_JOURNAL),
    "targets": (phrases.MORE,),
    "results": (
        UNTOUCHED,
        UNTOUCHED_ALL,
        AS_BEFORE,
        AS_BEFORE_ALL,
        GONE,
        GONE_ALL,
        NEW_KEPT,
        BOTH_KEPT,
        NOT_PUT_BACK_BECAUSE,
        NOT_PUT_BACK,
    ),
}
"""By placeholder, beside those of jobs.scheduling.phrases."""

BETWEEN = {"long": " and ", "longest": " and ", "swapped": r"(?<=\)) and ", "targets": r", | (?=and \d+ more)", "results": "; "}

SHAPES = {
    "ended": r"(?:was killed by|failed|completed|was cancelled|reached its|could not be|ended, but|was lost with).*?",
    "attempt": r"\d+|#\d+, attempt \d+",
    "pid": r"\d+",
    "changed": r"(?:counts as|ignores pid|kept for) .*?",
    "device": r"GPU[ -]\S+",
    "signal": r"\d+",
    "code": r"-?\d+",
}

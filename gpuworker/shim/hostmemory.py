"""When a machine has no memory left the kernel ends somebody: better a training than what keeps all of them."""

from __future__ import annotations

from gpuworker.shim.cgroup import read_file

_OFFERED, _KEPT = 500, -500


def keep() -> None:
    """Make this process, and those it forks, unlikely to be chosen. Only root may; a user's agent stays as it is."""
    _write(_KEPT)


def offer() -> None:
    """Make this process, and those it forks, more likely to be chosen than ours and the machine's own."""
    if _read() < _OFFERED:
        _write(_OFFERED)


def machine_kills() -> int:
    """How many processes the kernel has ended for lack of memory on this machine since it was started."""
    try:
        _, _, rest = read_file("/proc/vmstat").partition("\noom_kill ")
        return int(rest.split(maxsplit=1)[0]) if rest else 0
    except OSError:
        return 0


def _read() -> int:
    try:
        return int(read_file("/proc/self/oom_score_adj"))
    except (OSError, ValueError):
        return 0


def _write(score: int) -> None:
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(score))
    except OSError:
        pass

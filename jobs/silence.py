"""Since when hosts have said nothing new, seen by one process and by its own clock.

Redis tells the age of a heartbeat too, but by a clock that somebody may set; who starts a job a second time believes neither alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from jobs.hostlink import Heard


class Silences:
    """Knows nothing of what was before the first look: whoever leads anew waits anew."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: dict[str, tuple[object, float]] = {}

    def look(self, hosts: Iterable[str], heard: Mapping[str, Heard]) -> None:
        now = self._clock()
        for host in hosts:
            said = (heard[host].beat.at, heard[host].beat.instance) if host in heard else None
            if host not in self._last or self._last[host][0] != said:
                self._last[host] = (said, now)

    def seconds(self, host: str) -> float:
        """How long this host has said nothing new; 0 for one that was not looked at."""
        return self._clock() - self._last[host][1] if host in self._last else 0.0

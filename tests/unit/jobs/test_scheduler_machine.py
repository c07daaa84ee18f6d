"""No device is held twice and no job is starved, whatever happens: random histories of a cluster against a model of it.

`SCHEDULER_RUNS=10000 python -m pytest tests/unit/jobs/test_scheduler_machine.py --timeout=0` tries that many.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from jobs.scheduling import keeping, order
from jobs.scheduling.inventory import DeviceView, Holder, HostView
from jobs.scheduling.order import Standing
from jobs.scheduling.placement import Placement, Planner
from jobs.scheduling.request import Waiting, request_of
from jobs.states import DeviceState, HostState
from tests.unit.jobs.cluster_model import FOREVER, Cluster, Dev, Job
from tests.unit.jobs.inventories import NOON, device, host

RUNS = int(os.environ.get("SCHEDULER_RUNS", "120"))
SLOTS = 6
OWNERS = ["ada", "lin", "mia"]
GIB = 1024


class Machine(RuleBasedStateMachine):
    @initialize(sizes=st.lists(st.lists(st.sampled_from([8, 24]), max_size=4), min_size=1, max_size=3), whom=st.sampled_from(["", *OWNERS]))
    def begin(self, sizes: list[list[int]], whom: str) -> None:
        devices = [Dev(f"h{n}-{i}", f"h{n}", gib * GIB) for n, row in enumerate(sizes) for i, gib in enumerate(row)]
        for each in devices[:1]:
            each.kept_for = whom
        names = [f"h{n}" for n in range(len(sizes))]
        self.cluster = Cluster(devices, dict.fromkeys(names, SLOTS), dict.fromkeys(names, True))
        self.number = 0

    # --- what happens -------------------------------------------------------------------------------------------------

    @rule(
        owner=st.sampled_from(OWNERS),
        priority=st.sampled_from([0, 0, 0, 1]),
        least=st.integers(0, 3),
        more=st.integers(0, 2),
        gib=st.sampled_from([0, 4, 7, 20]),
        shared=st.booleans(),
        limit=st.sampled_from([None, 60, 600, 4000]),
        only=st.booleans(),
    )
    def submit(self, owner: str, priority: int, least: int, more: int, gib: int, shared: bool, limit: int | None, only: bool) -> None:
        self.number += 1
        shared = shared and least > 0 and gib > 0
        hosts = ("h0",) if only else ()
        self.cluster.jobs[self.number] = Job(self.number, owner, priority, least, least + more, gib * GIB, shared, limit, hosts)

    @rule(refuse=st.sets(st.integers(0, 3), max_size=2))
    def schedule(self, refuse: set[int]) -> None:
        """A pass; hosts refuse some of its claims."""
        cluster = self.cluster
        line = cluster.order()
        views = self.views()
        planner, people = Planner(views, self.moment(), overrun_s=15), keeping.keepers(views)
        for waiting in self.waiting(line):
            planner.ask(keeping.asked_by(waiting, people))
        placements = {placement.job_id: placement for placement in planner.placements()}
        first = next((job for job in line if job.id not in placements), None)
        taken: list[tuple[Job, list[Dev]]] = []
        before: dict[str, int | None] = {}
        for number, job in enumerate(line):
            if job is first:
                before, taken = {name: cluster.latest_start(job, name) for name in cluster.up}, []
            elif job.id in placements and number not in refuse:
                taken.append((job, self.start(job, placements[job.id])))
        if first:
            self.not_put_off(first, before, taken)

    @rule(which=st.integers(0, 20))
    def job_ends(self, which: int) -> None:
        if running := self.cluster.running():
            self.end(running[which % len(running)])

    @rule(seconds=st.sampled_from([1, 30, 60, 600, 5000]))
    def time_passes(self, seconds: int) -> None:
        self.cluster.now += seconds
        for job in self.cluster.running():
            if job.end() <= self.cluster.now:
                self.end(job)

    @rule(name=st.sampled_from(["h0", "h1", "h2"]), lost=st.booleans())
    def host_goes_or_comes(self, name: str, lost: bool) -> None:
        """Silent: its jobs go on. Lost: they are over, and wait again."""
        if name not in self.cluster.up:
            return
        self.cluster.up[name] = not self.cluster.up[name]
        if lost and not self.cluster.up[name]:
            for job in self.cluster.running():
                if job.host == name:
                    job.started, job.host, job.devices = None, "", []

    @precondition(lambda self: self.cluster.devices)
    @rule(which=st.integers(0, 11), what=st.sampled_from(["there", "drained", "busy_outside", "outside"]))
    def device_changes(self, which: int, what: str) -> None:
        """It vanishes, comes back, is drained; a stranger uses it, or has a little of its memory."""
        changed = self.cluster.devices[which % len(self.cluster.devices)]
        if what == "outside":
            changed.outside = 0 if changed.outside else 3 * GIB
        else:
            setattr(changed, what, not getattr(changed, what))

    @precondition(lambda self: self.cluster.devices)
    @rule(which=st.integers(0, 11), whom=st.sampled_from(["", *OWNERS]))
    def device_is_kept(self, which: int, whom: str) -> None:
        self.cluster.devices[which % len(self.cluster.devices)].kept_for = whom

    @rule(which=st.integers(0, 20), priority=st.sampled_from([0, 1, 2]))
    def reprioritise(self, which: int, priority: int) -> None:
        if waiting := self.cluster.order():
            waiting[which % len(waiting)].priority = priority

    @rule(which=st.integers(0, 20))
    def hold_or_release(self, which: int) -> None:
        if waiting := [job for job in self.cluster.jobs.values() if job.started is None]:
            chosen = waiting[which % len(waiting)]
            chosen.on_hold = not chosen.on_hold

    @rule(which=st.integers(0, 20))
    def cancel(self, which: int) -> None:
        if waiting := self.cluster.order():
            del self.cluster.jobs[waiting[which % len(waiting)].id]

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def nobody_has_what_another_has(self) -> None:
        assert not hasattr(self, "cluster") or self.cluster.wrongs() == []

    def not_put_off(self, first: Job, before: dict[str, int | None], later: list[tuple[Job, list[Dev]]]) -> None:
        """Who slipped past the first that waits puts it off nowhere."""
        for name, was in before.items():
            now = self.cluster.latest_start(first, name)
            if was is not None and was < FOREVER:
                assert now is not None
                assert now <= was, f"job {first.id} could start on {name} by {was}, now by {now}"
            elif was is not None:
                suiting = [d for _, devices in later for d in devices if d.host == name and self.cluster.may_ever_take(first, d)]
                alone = [d.uuid for d in suiting if len(self.cluster.on(d)) == 1]
                assert not alone, f"job {first.id} waits for {alone}, which others got"

    def teardown(self) -> None:
        """Everything is mended and small jobs go on coming: whatever waits and fits somewhere starts after a while."""
        if not hasattr(self, "cluster"):
            return
        cluster = self.cluster
        for each in cluster.devices:
            each.there, each.drained, each.busy_outside, each.outside, each.kept_for = True, False, False, 0, ""
        for job in cluster.jobs.values():
            job.on_hold = False
        cluster.up = dict.fromkeys(cluster.up, True)
        waiting = [
            job for job in cluster.order() if not job.least or any(cluster.latest_start(job, name) is not None for name in cluster.up)
        ]
        for _ in range(60 + 12 * len(cluster.jobs)):
            waiting = [job for job in waiting if job.id in cluster.jobs and job.started is None]
            if not waiting:
                return
            self.submit("zoe", 0, 1, 0, 4, True, None, False)
            self.schedule(set())
            if running := cluster.running():
                self.end(min(running, key=lambda job: (job.started or 0, job.id)))
            cluster.now += 1
        raise AssertionError(f"starved: {[job.id for job in waiting]}")

    # --- between the two ----------------------------------------------------------------------------------------------

    def start(self, job: Job, placement: Placement) -> list[Dev]:
        by_uuid = {each.uuid: each for each in self.cluster.devices}
        given = [by_uuid[d.uuid] for d in placement.devices]
        assert self.cluster.wrong_start(job, placement.host, given) == ""
        job.started, job.host, job.devices = self.cluster.now, placement.host, given
        assert self.cluster.wrongs() == []
        return given

    def end(self, job: Job) -> None:
        self.cluster.used[job.owner] = self.cluster.used.get(job.owner, 0) + 20 * len(job.devices)
        del self.cluster.jobs[job.id]

    def moment(self) -> datetime:
        return NOON + timedelta(seconds=self.cluster.now)

    def waiting(self, line: list[Job]) -> list[Waiting]:
        """The line as the scheduler orders it, which must be as the model does."""
        cluster = self.cluster
        found = []
        for job in line:
            runs = [r.id for r in cluster.running() if r.owner == job.owner]
            alike = sorted(w.id for w in line if (w.owner, w.priority) == (job.owner, job.priority))
            standing = Standing(cluster.used.get(job.owner, 0), len(runs), min(runs, default=None))
            asked = {"min_gpus": job.least, "max_gpus": job.most, "gpu_memory_mib": job.memory, "hosts": job.hosts}
            request = request_of(**asked, shared=job.shared, time_limit_s=job.limit)
            turn = order.turn(standing, alike.index(job.id), alike[0])
            found.append(Waiting(job.id, job.priority, request, job.owner, standing.used, turn))
        found.sort(key=lambda waiting: waiting.order)
        assert [waiting.id for waiting in found] == [job.id for job in line]
        return found

    def views(self) -> list[HostView]:
        return [self.view(name) for name in self.cluster.up]

    def view(self, name: str) -> HostView:
        cluster = self.cluster
        mine = [d for d in cluster.devices if d.host == name]
        seen = [self.seen(d, index) for index, d in enumerate(mine)]
        slots = sum(job.host == name for job in cluster.running())
        state = HostState.UP if cluster.up[name] else HostState.UNREACHABLE
        return host(*seen, name=name, state=state, job_slots=cluster.slots[name], used_slots=slots)

    def seen(self, dev: Dev, index: int) -> DeviceView:
        holders = tuple(self.holder(job) for job in sorted(self.cluster.on(dev), key=lambda job: job.id))
        state = DeviceState.CLAIMED if holders else DeviceState.UNKNOWN if not dev.there else DeviceState.FREE
        if not holders and dev.there and not dev.usable:
            state = DeviceState.DRAINED if dev.drained else DeviceState.BUSY_EXTERNAL
        free = dev.total - dev.outside
        sharing = holders and all(holder.shared for holder in holders) and dev.usable
        left = max(0, free - sum(holder.memory_mib for holder in holders)) if sharing else None
        told = {
            "memory_total_mib": dev.total,
            "free_memory_mib": free,
            "holders": holders,
            "shared_left_mib": left,
            "kept_for": dev.kept_for,
        }
        return device(index, state, host=dev.host, uuid=dev.uuid, drained=dev.drained, readable=dev.there, **told)

    def holder(self, job: Job) -> Holder:
        ends_at = None if job.limit is None else NOON + timedelta(seconds=job.end())
        return Holder(job.id, "", job.owner, job.shared, job.memory, ends_at)


def test_no_device_is_held_twice_and_no_job_is_starved_in_random_histories() -> None:
    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=RUNS, stateful_step_count=30, deadline=None, suppress_health_check=slow, print_blob=True)
    )

"""Who stands before whom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobs.scheduling import order
from jobs.scheduling.order import Group, Standing


def sequence(groups: list[tuple[Group, Standing, list[int]]]) -> list[int]:
    """All jobs (their numbers) in order, by sorting them all."""
    keyed = [
        (order.turn(standing, before, group.first), job) for group, standing, jobs in groups for before, job in enumerate(sorted(jobs))
    ]
    return [job for _, job in sorted(keyed)]


def people(**jobs: tuple[Standing, list[int]]) -> list[tuple[Group, Standing, list[int]]]:
    return [(Group(n, 0, len(ids), min(ids)), standing, ids) for n, (standing, ids) in enumerate(jobs.values())]


def test_people_who_have_used_alike_take_turns() -> None:
    assert sequence(people(lin=(Standing(), [1, 2, 3, 4]), ada=(Standing(), [5, 6]))) == [1, 5, 2, 6, 3, 4]


def test_who_has_used_less_goes_first_until_turns_have_made_up_for_it() -> None:
    assert sequence(people(lin=(Standing(used=400), [1, 2]), ada=(Standing(used=380), [3, 4, 5, 6, 7]))) == [3, 4, 1, 5, 2, 6, 7]


def test_what_runs_counts_as_a_turn() -> None:
    assert sequence(people(lin=(Standing(running=2, oldest=1), [3, 4]), ada=(Standing(), [5, 6, 7]))) == [5, 6, 3, 7, 4]


def test_start_of_a_job_leaves_the_order_of_the_others_as_it_was_shown() -> None:
    waiting = {"lin": [1, 2, 10], "ada": [5, 6, 7], "mia": [8]}
    running: dict[str, list[int]] = {name: [] for name in waiting}
    used = {"lin": 3, "ada": 0, "mia": 11}
    shown: list[int] = []
    while any(waiting.values()):
        standings = {name: Standing(used[name], len(running[name]), min(running[name], default=None)) for name in waiting}
        now = sequence(people(**{name: (standings[name], ids) for name, ids in waiting.items() if ids}))
        assert not shown or now == shown[1:]
        owner = next(name for name in waiting if now[0] in waiting[name])
        waiting[owner].remove(now[0])
        running[owner].append(now[0])
        shown = now


standings = st.builds(Standing, st.integers(0, 1200), st.integers(0, 3), st.none())


@given(st.lists(st.tuples(standings, st.integers(1, 130)), min_size=1, max_size=4), st.data())
def test_number_of_those_before_is_what_counting_them_gives(owners: list[tuple[Standing, int]], data: st.DataObject) -> None:
    total = sum(count for _, count in owners)
    numbers = data.draw(st.permutations(range(1, total + 1))) if total < 40 else list(range(1, total + 1))
    groups = []
    for n, (standing, count) in enumerate(owners):
        ids, numbers = sorted(numbers[:count]), numbers[count:]
        groups.append((Group(n, 0, count, ids[0]), standing, ids))
    ordered = sequence(groups)
    for group, standing, ids in groups:
        for before, job in enumerate(ids):
            mine = order.turn(standing, before, group.first)
            others = sum(order.ahead(g, s, of=mine) for g, s, _ in groups if g.owner != group.owner)
            assert ordered.index(job) == others + before

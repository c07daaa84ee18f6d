"""The claim scripts against a real Redis: a table of races, and a race."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from gpuworker import protocol
from gpuworker.attempts import AttemptDir, TakenDevice
from gpuworker.claims.store import ClaimRefused, ClaimStore, Held
from gpuworker.roster import Roster, Supervised
from gpuworker.watch import Parts, Watcher

HOST = "gpu-a"
A1, A2, B1 = "job-a.1.10", "job-a.1.11", "job-b.1.12"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def store(client: redis.Redis) -> ClaimStore:
    return ClaimStore(client, HOST)


def take(store: ClaimStore, key: str, count: int, *allowed: str) -> tuple[str, ...] | ClaimRefused:
    job, _, fence = key.rsplit(".", 2)
    return store.acquire(key, job=job, fence=int(fence), count=count, allowed=allowed)


def refusal(answer: tuple[str, ...] | ClaimRefused) -> ClaimRefused:
    assert isinstance(answer, ClaimRefused), answer
    return answer


def test_claim_takes_the_first_free_ones_in_order(store: ClaimStore) -> None:
    assert take(store, A1, 2, "u3", "u1", "u2") == ("u3", "u1")
    assert take(store, B1, 1, "u1", "u3", "u2") == ("u2",)


def test_claim_takes_nothing_when_it_cannot_have_all(store: ClaimStore, client: redis.Redis) -> None:
    take(store, A1, 1, "u1")
    answer = refusal(take(store, B1, 2, "u1", "u2"))
    assert (answer.code, A1 in answer.message, "u1" in answer.message) == ("device_busy", True, True)
    assert client.hkeys(protocol.claims_key(HOST)) == [b"u1"]


def test_claim_answers_the_same_when_the_same_attempt_asks_again(store: ClaimStore) -> None:
    assert take(store, A1, 2, "u1", "u2", "u3") == take(store, A1, 2, "u1", "u2", "u3") == ("u1", "u2")


def test_claim_is_refused_when_a_newer_dispatch_was_here(store: ClaimStore) -> None:
    take(store, A2, 1, "u1")
    store.release(A2)
    assert refusal(take(store, A1, 1, "u1")).code == "stale"
    assert take(store, B1, 1, "u1") == ("u1",)


def test_claim_of_no_device_still_counts_its_fence(store: ClaimStore) -> None:
    assert take(store, A2, 0) == ()
    assert refusal(take(store, A1, 0)).code == "stale"


def test_claim_says_so_when_too_few_devices_were_allowed(store: ClaimStore) -> None:
    assert "only 1" in refusal(take(store, A1, 2, "u1")).message


def test_release_gives_back_only_what_the_attempt_has(store: ClaimStore) -> None:
    take(store, A1, 2, "u1", "u2")
    take(store, B1, 1, "u3")
    assert sorted(store.release(A1)) == ["u1", "u2"]
    assert store.release(A1) == ()
    assert refusal(take(store, "job-c.1.13", 1, "u3")).code == "device_busy"


SHARER, SHARER_2 = "job-s.1.20", "job-t.1.21"


def share(store: ClaimStore, key: str, mib: int, *allowed: str, room: int = 100) -> tuple[str, ...] | ClaimRefused:
    job, _, fence = key.rsplit(".", 2)
    room_mib = dict.fromkeys(allowed, room)
    return store.acquire(key, job=job, fence=int(fence), count=1, allowed=allowed, shared_mib=mib, room_mib=room_mib)


def test_claims_that_share_a_device_fit_into_its_memory(store: ClaimStore) -> None:
    assert share(store, SHARER, 60, "u1") == ("u1",)
    assert share(store, SHARER_2, 50, "u1", "u2") == ("u2",)
    assert share(store, "job-v.1.22", 40, "u1") == ("u1",)
    assert refusal(share(store, "job-w.1.23", 1, "u1")).code == "device_busy"
    assert share(store, SHARER, 60, "u1") == ("u1",)  # it has it already


def test_claim_that_shares_is_never_beside_one_that_does_not(store: ClaimStore) -> None:
    take(store, A1, 1, "u1")
    share(store, SHARER, 10, "u2")
    assert A1 in refusal(share(store, SHARER_2, 10, "u1")).message
    assert SHARER in refusal(take(store, B1, 1, "u2")).message


def test_release_leaves_those_who_share_the_device(store: ClaimStore) -> None:
    share(store, SHARER, 60, "u1")
    share(store, SHARER_2, 40, "u1")
    assert store.release(SHARER) == ("u1",)
    assert refusal(take(store, B1, 1, "u1")).code == "device_busy"
    assert store.release(SHARER_2) == ("u1",)
    assert take(store, B1, 1, "u1") == ("u1",)


def test_renewal_says_all_who_share_a_device_again(store: ClaimStore, client: redis.Redis) -> None:
    sharing = [Held(SHARER, 20, ("u1",), 60), Held(SHARER_2, 21, ("u1",), 30)]
    assert store.renew(sharing) == {}
    assert store.renew([*sharing, Held(A1, 10, ("u1",))]) == {"u1": SHARER_2}
    assert refusal(share(store, "job-v.1.22", 11, "u1")).code == "device_busy"
    assert share(store, "job-v.1.22", 10, "u1") == ("u1",)
    store.renew(sharing[:1], left_over_after_s=-1)
    assert refusal(share(store, SHARER_2, 41, "u1")).code == "device_busy"
    assert share(store, SHARER_2, 40, "u1") == ("u1",)


def test_renewal_refills_an_emptied_redis(store: ClaimStore, client: redis.Redis) -> None:
    take(store, A1, 2, "u1", "u2")
    client.flushall()
    assert store.renew([Held(A1, 10, ("u1", "u2"))]) == {}
    assert refusal(take(store, B1, 1, "u2")).code == "device_busy"


def test_renewal_overwrites_nobody_and_names_the_holder(store: ClaimStore, client: redis.Redis) -> None:
    take(store, B1, 1, "u1")
    assert store.renew([Held(A1, 10, ("u1", "u2")), Held(B1, 12, ("u1",))]) == {"u1": B1}
    held = client.hgetall(protocol.claims_key(HOST))
    assert {k.decode(): v.split()[0].decode() for k, v in held.items()} == {"u1": B1, "u2": A1}


def test_renewal_drops_what_the_host_does_not_name_but_not_what_is_being_made(store: ClaimStore) -> None:
    take(store, A1, 1, "u1")
    store.renew([])
    assert refusal(take(store, B1, 1, "u1")).code == "device_busy"
    store.renew([], left_over_after_s=-1)
    assert take(store, B1, 1, "u1") == ("u1",)


def test_old_fences_are_swept_out_when_new_ones_come(store: ClaimStore, client: redis.Redis) -> None:
    client.hset(protocol.fences_key(HOST), mapping={f"old-{n}": "1 1000" for n in range(50)})
    fences = itertools.count(100)

    def old_ones() -> list[bytes]:
        take(store, f"job-{next(fences)}.1.{next(fences)}", 0)
        return [name for name in client.hkeys(protocol.fences_key(HOST)) if name.startswith(b"old")]

    assert any(not old_ones() for _ in range(1000))  # a few are drawn by lot each time


def test_no_device_has_two_holders_when_many_claim_at_once(store: ClaimStore) -> None:
    holders: dict[str, str] = {}
    broken: list[str] = []
    lock = threading.Lock()

    def worker(number: int) -> None:
        for turn in range(60):
            key = f"job-{number}.1.{1000 * (turn + 1) + number}"
            answer = take(store, key, 1 + number % 3, "u1", "u2", "u3", "u4")
            if isinstance(answer, ClaimRefused):
                continue
            with lock:
                broken.extend(uuid for uuid in answer if uuid in holders)
                holders.update(dict.fromkeys(answer, key))
            with lock:
                for uuid in answer:
                    holders.pop(uuid, None)
                store.release(key)

    threads = [threading.Thread(target=worker, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not broken


def test_claim_that_ends_while_it_is_renewed_is_given_back(client: redis.Redis, tmp_path: Path) -> None:
    store, roster = ClaimStore(client, HOST), Roster(tmp_path)
    parts = Parts(cast(Any, None), store, cast(Any, None), cast(Any, None), roster, lambda: None)
    ended, living = (Supervised(key, cast(Any, Named(fence)), AttemptDir(tmp_path / key)) for key, fence in ((A1, 10), (B1, 12)))
    for one, device in ((ended, "g0"), (living, "g1")):
        one.taken = (TakenDevice(device, 0, "0"),)
        roster.enter(one)
    said = roster.held()
    ended.tree_empty = True
    store.release(A1)
    store.renew(said)
    assert set(client.hkeys(protocol.claims_key(HOST))) == {b"g0", b"g1"}
    Watcher(parts).release_ended(said)
    assert set(client.hkeys(protocol.claims_key(HOST))) == {b"g1"}


@dataclass
class Named:
    """As much of a spec as a claim needs."""

    fence: int
    shared: bool = False

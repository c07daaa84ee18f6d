from __future__ import annotations

import json

import pytest

from gpuworker import protocol
from gpuworker.protocol import BadEnvelope, BadMessage, Ended, EndReason, Kind, LogChunk, Spec

KEY, OTHER = b"k" * 32, b"o" * 32


def a_spec(**changes: object) -> Spec:
    fields = {
        "job": "uid",
        "number": 1,
        "name": "n",
        "attempt": 1,
        "fence": 3,
        "expires_at": 1.5,
        "command": "true",
        "working_dir": "/",
        "device_count": 1,
        "devices": ("GPU-a",),
        "env": {"A": "b"},
    }
    return Spec(**(fields | changes))  # type: ignore[arg-type]


def test_seal_opens_to_the_same_message():
    text = protocol.seal(Kind.SPEC, "gpu-a", a_spec().body(), KEY)
    assert Spec.read(protocol.unseal(Kind.SPEC, "gpu-a", text, [OTHER, KEY])) == a_spec()


@pytest.mark.parametrize(
    ("kind", "host", "keys", "why"),
    [
        (Kind.STOP, "gpu-a", [KEY], "not a 'stop' message"),
        (Kind.SPEC, "gpu-b", [KEY], "for host 'gpu-a'"),
        (Kind.SPEC, "gpu-a", [OTHER], "signature"),
        (Kind.SPEC, "gpu-a", [], "signature"),
    ],
)
def test_unseal_refuses_what_is_not_meant_so(kind, host, keys, why):
    text = protocol.seal(Kind.SPEC, "gpu-a", a_spec().body(), KEY)
    with pytest.raises(BadEnvelope, match=why):
        protocol.unseal(kind, host, text, keys)


@pytest.mark.parametrize("field", ["v", "k", "h", "b", "m"])
def test_unseal_refuses_an_altered_field(field):
    outer = json.loads(protocol.seal(Kind.SPEC, "gpu-a", a_spec().body(), KEY))
    outer[field] = 1 if field == "v" else outer[field].replace("a", "b", 1) + "0"
    with pytest.raises(BadEnvelope):
        protocol.unseal(Kind.SPEC, "gpu-a", json.dumps(outer), [KEY])


def outer(**changes: object) -> str:
    return json.dumps({"v": 1, "k": "spec", "h": "gpu-a", "b": "{}", "m": "x"} | changes)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "null", '{"v":1}', "\x00", "[" * 100_000),
        *(b"\xff", b"\xef\xbb\xbf{}", b'{"v":' + b"9" * 5000 + b"}"),
        outer(b=7),
        outer(b="\ud800"),  # half a surrogate pair is good JSON and no text
        outer(m="\ud800"),
        outer(m=None),
        outer(v=True),
        outer(v=float("inf")),
        outer(v=[]),
    ],
    ids=lambda text: str(text)[:40],
)
def test_unseal_refuses_what_is_no_envelope(text):
    with pytest.raises(BadEnvelope):
        protocol.unseal(Kind.SPEC, "gpu-a", text, [KEY])


@pytest.mark.parametrize("field", ["k", "h", "v"])
def test_unseal_tells_little_of_what_strangers_write(field):
    with pytest.raises(BadEnvelope) as refused:
        protocol.unseal(Kind.SPEC, "gpu-a", outer(**{field: "line one\nline two" + "x" * 10**6}), [KEY])
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {b"h": b"[" * 100_000, b"d": b"", b"m": b""},
        {b"h": b"[" * 4000, b"d": b"", b"m": b""},
        {b"h": b'{"v": 1e999}', b"d": b"", b"m": b""},
        {b"h": b'{"v": 1, "attempt": 1, "fence": 1, "offset": 1e999, "job": "x"}', b"d": b"", b"m": b""},
        {b"h": b'{"v": 9, "attempt": 1, "fence": 1, "offset": 0, "job": "x"}', b"d": b"", b"m": b""},
        {b"h": b'{"v": 1, "attempt": 1, "fence": 1, "offset": 0, "job": "x"}', b"d": b"", b"m": b"\xff"},
        {b"h": b"7", b"d": b"", b"m": b""},
    ],
    ids=lambda fields: str(fields)[:40],
)
def test_unseal_refuses_what_is_no_log_chunk(fields):
    with pytest.raises(BadEnvelope):
        protocol.unseal_chunk("gpu-a", fields, [KEY])


@pytest.mark.parametrize("cut_from", [None, 0, 5])
def test_log_chunk_carries_raw_bytes_and_refuses_altered_ones(cut_from):
    chunk = LogChunk(job="u", attempt=1, fence=2, offset=7, data=b"\xff\x00\r\n", cut_from=cut_from)
    fields = {k.encode(): v for k, v in protocol.seal_chunk("gpu-a", chunk, KEY).items()}
    assert protocol.unseal_chunk("gpu-a", fields, [KEY]) == chunk
    with pytest.raises(BadEnvelope):
        protocol.unseal_chunk("gpu-a", fields | {b"d": b"other"}, [KEY])
    with pytest.raises(BadEnvelope):
        protocol.unseal_chunk("gpu-b", fields, [KEY])
    header = json.loads(fields[b"h"]) | {"cut_from": 3}
    with pytest.raises(BadEnvelope):
        protocol.unseal_chunk("gpu-a", fields | {b"h": json.dumps(header).encode()}, [KEY])


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"job": 1}, "Spec.job"),
        ({"fence": True}, "Spec.fence"),
        ({"devices": [1]}, r"Spec.devices\[0\]"),
        ({"env": {"A": 1}}, "Spec.env.A"),
    ],
)
def test_read_names_the_wrong_field(change, path):
    with pytest.raises(BadMessage, match=path):
        Spec.read(json.loads(json.dumps(a_spec().body())) | change)


def test_read_names_the_missing_field_and_ignores_unknown_ones():
    body = json.loads(json.dumps(a_spec().body())) | {"later_version": 1}
    assert Spec.read(body) == a_spec()
    del body["command"]
    with pytest.raises(BadMessage, match="command"):
        Spec.read(body)


def ended(**changes: object) -> Ended:
    fields = {"job": "u", "attempt": 1, "fence": 1, "reason": EndReason.EXITED, "exit_code": 1, "ended_at": 0.0}
    return Ended(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("report", "policy", "retried"),
    [
        (ended(), {}, True),
        (ended(exit_code=None, signal=9), {}, True),
        (ended(exit_code=0), {}, False),
        (ended(), {"retries_spent": 2}, False),
        (ended(oom_detected=True), {}, True),
        (ended(oom_detected=True), {"retry_on_oom": False}, False),
        (ended(reason=EndReason.TIMED_OUT), {}, False),
        (ended(reason=EndReason.CANCELLED), {}, False),
        (ended(reason=EndReason.LAUNCH_FAILED), {}, True),
        (ended(reason=EndReason.LAUNCH_FAILED, own_fault=False), {}, False),
        (ended(reason=EndReason.HOST_LOST), {}, False),
    ],
)
def test_retry_is_for_ends_that_the_job_is_to_blame_for(report, policy, retried):
    limits = {"max_retries": 2, "retries_spent": 0, "retry_delay_s": 10.0, "retry_on_oom": True} | policy
    assert (protocol.retry_in_s(report, **limits) is not None) is retried


def test_backoff_doubles_within_its_jitter_and_ends_at_an_hour():
    for retries in range(30):
        wait = protocol.backoff_s(10, retries, seed=f"x{retries}")
        assert min(3600.0, 10 * 2**retries * 0.75) <= wait <= min(3600.0, 10 * 2**retries * 1.25)
    assert protocol.backoff_s(10, 1, seed="same") == protocol.backoff_s(10, 1, seed="same")

"""The submit form: what people type, and an old job as it would have been typed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.fields import searched_number
from jobs.models import Job
from jobs.submission import FIELDS
from jobs.web import forms


@pytest.mark.parametrize(
    ("text", "mib"),
    [("20", 20_480), (" 20 GiB ", 20_480), ("20g", 20_480), ("0.5", 512), ("512 MiB", 512), ("512mb", 512), ("1 T", 1_048_576), ("0", 0)],
)
def test_memory_is_gib_when_it_has_no_unit(text: str, mib: int) -> None:
    assert forms.memory(text) == mib


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("30m", 1800),
        ("12 h", 43_200),
        ("1d 6h", 108_000),
        ("1D6H", 108_000),
        ("1.5h", 5400),
        ("1.6s", 2),
        (" 5 ", 5),
    ],
)
def test_span_is_seconds_when_it_has_no_unit(text: str, seconds: int) -> None:
    assert forms.span(text) == seconds


def test_pause_keeps_parts_of_a_second() -> None:
    assert (forms.pause("1.5s"), forms.pause("0.2"), forms.pause("1m 0.5s")) == (1.5, 0.2, 60.5)


BAD = ["", "much", "-1", "1,5", "1e9", "²", "١", "9" * 400, "1.", ".5", "5 x", "nan", "inf", "20 GiB each", "\0", "1" + "0" * 13 + "d"]


@pytest.mark.parametrize("read", [forms.memory, forms.span, forms.pause], ids=lambda read: read.__name__)
@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_amounts_and_times_are_refused_with_an_example_when_they_are_none(read: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        read(text)


@given(st.text(max_size=40))
@settings(deadline=None)
def test_readers_take_or_refuse_whatever_is_typed(text: str) -> None:
    _, errors = forms.read({field.name: text for field in forms.ALL})
    assert set(errors) <= {"gpu_memory_mib", "time_limit_s", "retry_delay_s", "env"}


def test_numbers_and_words_are_parted_by_blanks_and_commas() -> None:
    assert forms.numbers(" #41, 42;43\n44 ") == ["41", "42", "43", "44"]
    assert forms.words("gpu-a, gpu-b  gpu-c") == ["gpu-a", "gpu-b", "gpu-c"]
    assert forms.numbers("") == forms.words(" , ") == []


def test_variables_go_on_to_the_end_of_their_line() -> None:
    text = 'A=1\r\n\n  B = x=y "z" \nexport C=\n'
    assert forms.variables(text) == {"A": "1", "B": ' x=y "z" ', "C": ""}


def test_variables_are_refused_with_the_line_when_one_has_no_value() -> None:
    with pytest.raises(ValueError, match="Line 3"):
        forms.variables("A=1\n\nnothing")


def test_lines_end_as_the_shell_wants_them() -> None:
    assert forms.lines("a\r\nb\rc\n") == "a\nb\rc\n"


def test_read_leaves_to_the_default_what_is_empty_but_for_boxes_and_the_command() -> None:
    data, errors = forms.read({"name": " ", "min_gpus": "", "env": "\n", "hold": "on"})
    assert forms.read({"command": "x", "on_host_loss": "on"})[0]["on_host_loss"] == "requeue"
    assert (data, errors) == ({"command": "", "retry_on_oom": False, "shared": False, "on_host_loss": "wait", "hold": True}, {})


def test_read_passes_on_text_that_is_no_number_for_the_rules_to_refuse() -> None:
    data, errors = forms.read({"command": "x", "min_gpus": "many", "after": "x"})
    assert (data["min_gpus"], data["after"], errors) == ("many", ["x"], {})


@pytest.mark.parametrize(
    ("text", "zone", "read"),
    [
        ("2031-05-06T07:08", "Asia/Tokyo", datetime(2031, 5, 6, 7, 8, tzinfo=ZoneInfo("Asia/Tokyo"))),
        ("2031-05-06T07:08+02:00", "Asia/Tokyo", datetime.fromisoformat("2031-05-06T07:08+02:00")),
        ("2031-05-06T07:08", "", "2031-05-06T07:08"),
        ("2031-05-06T07:08", "No/Where", "2031-05-06T07:08"),
        ("2031-05-06T07:08", "../../etc/passwd", "2031-05-06T07:08"),
        ("2031-05-06T07:08", "\0", "2031-05-06T07:08"),
        ("tomorrow", "Asia/Tokyo", "tomorrow"),
    ],
)
def test_read_takes_times_in_the_zone_that_the_browser_told(text: str, zone: str, read: Any) -> None:
    assert forms.read({"command": "x", "begin_at": text, "zone": zone})[0]["begin_at"] == read


def test_inputs_are_fields_of_a_submission_each_once() -> None:
    names = [field.name for field in forms.ALL]
    assert len(names) == len(set(names))
    assert set(names) <= set(FIELDS)
    assert set(forms.initial()) == set(names)


def test_bound_inputs_have_what_was_typed_and_what_is_wrong() -> None:
    bound = {each.input.name: each for each in forms.bind(forms.INPUTS, {"name": "x"}, {"command": ["It is empty."], "env": ["no"]})}
    assert (bound["name"].value, bound["name"].errors) == ("x", ())
    assert (bound["command"].value, bound["command"].errors) == ("", ("It is empty.",))


jobs = st.builds(
    Job,
    name=st.text(min_size=1),
    command=st.text(alphabet="ab \n$'é", min_size=1).filter(str.strip),
    working_dir=st.just("/data"),
    min_gpus=st.integers(0, 9),
    max_gpus=st.integers(0, 9),
    max_retries=st.integers(0, 9),
    gpu_memory_mib=st.integers(0, 2**20),
    time_limit_s=st.none() | st.integers(1, 10**6),
    priority=st.integers(-9, 9),
    retry_delay_s=st.integers(0, 7200).map(lambda half: half / 2),
    hosts=st.lists(st.sampled_from(["gpu-a", "gpu-b"]), unique=True),
    env=st.dictionaries(st.sampled_from(["A", "B"]), st.text(alphabet="x =é'")),
    environment=st.sampled_from(["", "/envs/torch"]),
    retry_on_oom=st.booleans(),
)


@given(jobs)
@settings(deadline=None)
def test_old_job_reads_as_itself_when_nothing_is_changed(job: Job) -> None:
    data, errors = forms.read(forms.of_job(job))
    assert errors == {}
    model = Job()
    for name in forms.of_job(job):
        wanted = getattr(job, name)
        if name == "name" and not wanted.strip():
            continue
        read = data.get(name, getattr(model, name))
        assert read == (str(wanted) if isinstance(read, str) else wanted), name


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("42", 42),
        (" #42 ", 42),
        ("##42", None),
        ("", None),
        ("-1", None),
        ("²", None),
        ("٤", None),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), None),
    ],
)
def test_searched_number_is_one_that_a_job_can_have(words: str, number: int | None) -> None:
    assert searched_number(words) == number

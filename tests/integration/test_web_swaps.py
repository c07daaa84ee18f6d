"""Swaps on the pages: typed, pasted, uploaded, shown with their difference."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from gpuworker.protocol import PutBack, Swapped
from jobs import swaps
from jobs.models import Job, JobEvent, User
from tests.integration.rest import make_attempt, make_job, person

pytestmark = pytest.mark.django_db


@pytest.fixture
def page(ann: User) -> Client:
    return signed_in(ann)


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def send(page: Client, **typed: Any) -> Any:
    return page.post("/jobs/new/", {"command": "true", "min_gpus": "0", "max_gpus": "0", **typed})


def test_form_takes_a_path_a_pasted_and_an_uploaded_file(page: Client) -> None:
    answer = send(
        page,
        swap_target_1="a.py",
        swap_source_1="/data/a.py",
        swap_target_2="b.py",
        swap_content_2="x = 1\r\ny = 2\r\n",
        swap_target_3="c.py",
        swap_file_3=SimpleUploadedFile("mine.py", "é = 3\n".encode()),
        swap_target_4="",
    )
    assert answer.status_code == 302
    rows = Job.objects.get().swaps
    assert rows[0] == {"target": "a.py", "source": "/data/a.py"}
    assert [swaps.content_of(row) for row in rows[1:]] == [b"x = 1\ny = 2\n", "é = 3\n".encode()]


def test_form_asks_for_one_row_more_and_keeps_what_was_typed(page: Client) -> None:
    answer = send(page, swap_target_1="a.py", swap_content_1="<b>\n", more_swaps="1")
    text = answer.content.decode()
    assert (answer.status_code, Job.objects.count()) == (200, 0)
    assert 'name="swap_target_2"' in text
    assert "&lt;b&gt;" in text
    assert 'value="a.py"' in text


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"swap_target_1": "../a", "swap_content_1": "x"}, "lead out"),
        ({"swap_target_1": "", "swap_content_1": "x"}, "name the target"),
        ({"swap_target_1": "a", "swap_source_1": "/b", "swap_content_1": "x"}, "either source"),
        ({"swap_target_1": "a", "swap_file_1": SimpleUploadedFile("pic.png", b"\x89PNG\xff")}, "pic.png is not text"),
        ({"swap_target_1": "a", "swap_file_1": SimpleUploadedFile("big.py", b"x" * (2**20 + 1))}, "larger than 1 MiB"),
    ],
)
def test_form_says_what_is_wrong_with_a_swap(page: Client, typed: dict[str, Any], said: str) -> None:
    answer = send(page, **typed)
    assert answer.status_code == 400
    assert said in answer.content.decode()
    assert "<details open>" in answer.content.decode()


def test_form_of_a_copied_job_holds_its_files(page: Client, ann: User) -> None:
    job = make_job(ann, swaps=[{"target": "a.py", "content": "x = 1\n"}, {"target": "b.py", "source": "/b"}])
    text = page.get(f"/jobs/new/?from={job.pk}").content.decode()
    assert "x = 1" in text
    assert 'value="/b"' in text


def told(job: Job, kind: str, message: str, data: dict[str, Any]) -> None:
    JobEvent.objects.create(job=job, type=kind, at=job.created_at, attempt=1, message=message, data=data)


def test_job_page_shows_each_swap_with_its_difference_and_its_end(page: Client, ann: User) -> None:
    job = make_job(ann, swaps=[{"target": "a.py", "content": "<i>\n"}, {"target": "b.py", "source": "/data/b.py"}])
    make_attempt(job)
    told(job, "files_swapped", *swaps.told_swapped(1, [Swapped(target="a.py", way="mount", diff="--- a\n+++ a\n@@ -1 +1 @@\n-x\n+<i>\n")]))
    conflict = PutBack(target="b.py", way="journal", result="conflict", path="/c/b.py", kept="/c/b.py.original-of-job-1")
    told(job, *swaps.told_put_back(1, [conflict])[0])
    text = page.get(f"/jobs/{job.pk}/").content.decode()
    assert '<span class="added">+&lt;i&gt;</span>' in text
    assert '<span class="where">--- a</span>' in text
    assert "Only this job sees it" in text
    assert "/c/b.py.original-of-job-1" in text
    assert f"/api/v1/jobs/{job.pk}/swaps/1/" in text
    assert "/data/b.py" in text
    others = signed_in(person("bob")).get(f"/jobs/{job.pk}/").content.decode()
    assert "a.py" not in others
    assert "b.py" not in others

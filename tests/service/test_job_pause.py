"""Pause and resume through the SDK."""

from typing import Any

import openai
import pytest

from rootstock import interruptions, jobs
from rootstock.records import JobStatus
from tests.service.conftest import Api


def stop(api: Api, claimed: Any) -> None:
    """What a worker does that heard of the pause."""
    with api.database.transaction() as tx:
        assert interruptions.hand_back(tx, claimed.id, claimed.fence)


def test_a_running_job_is_paused_and_goes_on(api: Api):
    job = api.job()
    claimed = api.claim()
    with api.database.transaction() as tx:
        soon = claimed.created_at + 10_000
        jobs.renew(tx, claimed.id, claimed.fence, lease_seconds=60, step=1, total_steps=9, estimated_finish=soon)
    paused: Any = api.client.fine_tuning.jobs.pause(job.id)  # the SDK's type lacks the status
    assert paused.status == "paused" and paused.estimated_finish is None and paused.finished_at is None
    name = api.checkpoint(claimed, 4)
    stop(api, claimed)
    resting: Any = api.client.fine_tuning.jobs.retrieve(job.id)
    assert resting.status == "paused"
    saved = api.client.fine_tuning.jobs.checkpoints.list(job.id).data[0]
    assert (saved.step_number, saved.fine_tuned_model_checkpoint) == (4, name)
    assert api.client.models.retrieve(name).id == name
    assert api.client.chat.completions.create(model=name, messages=[{"role": "user", "content": "hi"}]).model == name
    api.bell.rung.clear()
    assert api.client.fine_tuning.jobs.resume(job.id).status == "queued"
    assert api.bell.rung == [job.id], "a trainer is woken at once"
    assert api.claim().id == job.id
    assert api.client.fine_tuning.jobs.retrieve(job.id).status == "running"


def test_until_the_worker_has_stopped_the_owners_wish_is_shown(api: Api):
    job = api.job()
    claimed = api.claim()
    calls = api.client.fine_tuning.jobs
    shown = [calls.pause(job.id).status, calls.pause(job.id).status, calls.resume(job.id).status]
    assert shown == ["paused", "paused", "queued"]
    assert calls.retrieve(job.id).status == "queued"
    stop(api, claimed)
    assert calls.retrieve(job.id).status == "queued"
    assert calls.cancel(calls.pause(job.id).id).status == "cancelled"


@pytest.mark.parametrize("status", sorted(set(JobStatus) - {JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED}))
def test_other_jobs_cannot_be_paused_and_no_job_resumed_that_is_not(
    api: Api, status: JobStatus, monkeypatch: pytest.MonkeyPatch
):
    if status is JobStatus.VALIDATING_FILES:
        monkeypatch.setattr("rootstock.sweep.Sweep.judge", lambda *_: False)
    if status is JobStatus.SUCCEEDED:
        job = api.succeed()
    else:
        job = api.job()
        if status is JobStatus.FINALIZING:
            api.finalize(api.claim())
        if status is JobStatus.CANCELLED:
            api.client.fine_tuning.jobs.cancel(job.id)
        if status is JobStatus.FAILED:
            bad = api.client.files.create(file=("bad.jsonl", b"not json\n" * 3), purpose="fine-tune")
            job = api.client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=bad.id)
    before = api.client.fine_tuning.jobs.retrieve(job.id)
    for call in (api.client.fine_tuning.jobs.pause, api.client.fine_tuning.jobs.resume):
        with pytest.raises(openai.BadRequestError) as caught:
            call(job.id)
        assert caught.value.type == "invalid_request_error"
    assert api.client.fine_tuning.jobs.retrieve(job.id) == before


@pytest.mark.parametrize("call", ["pause", "resume"])
@pytest.mark.parametrize("body", [{}, {"content": b"{}"}, {"content": b"not json"}])
def test_they_take_no_body_and_ignore_any(api: Api, call: str, body: Any):
    job = api.job()
    if call == "resume":
        api.client.fine_tuning.jobs.pause(job.id)
    answer = api.post(f"/v1/fine_tuning/jobs/{job.id}/{call}", **body)
    assert answer.json()["status"] == {"pause": "paused", "resume": "queued"}[call]


@pytest.mark.parametrize("call", ["pause", "resume"])
def test_jobs_of_nobody_and_of_others_are_404(api: Api, call: str):
    job = api.job()
    for client, job_id in ((api.client, "None"), (api.other, job.id)):
        with pytest.raises(openai.NotFoundError) as caught:
            getattr(client.fine_tuning.jobs, call)(job_id)
        assert caught.value.code == "fine_tune_not_found"

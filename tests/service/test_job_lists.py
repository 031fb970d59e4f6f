"""Lists of jobs, events and checkpoints through the SDK: order, cursors, metadata filters."""

import openai
import pytest

from tests.service.conftest import Api


def test_jobs_are_listed_newest_first_and_completely(api: Api):
    training = api.upload()
    ids = [api.job(training_file=training).id for _ in range(5)]
    assert [job.id for job in api.client.fine_tuning.jobs.list(limit=2)] == ids[::-1]
    page = api.get("/v1/fine_tuning/jobs?limit=2").json()
    assert set(page) == {"object", "data", "has_more"} and page["has_more"] is True
    assert api.client.fine_tuning.jobs.list(limit=1).data[0].id == ids[-1]
    with pytest.raises(openai.BadRequestError) as caught:
        api.client.fine_tuning.jobs.list(after="ftjob-absent")
    assert caught.value.param == "after"


def test_metadata_filters_in_every_form_that_clients_send(api: Api):
    training = api.upload()
    plain = api.job(training_file=training)
    one = api.job(training_file=training, metadata={"a b": "v&1"})
    two = api.job(training_file=training, metadata={"a b": "v&1", "team": "x"})
    listed = api.client.fine_tuning.jobs.list
    assert [job.id for job in listed(metadata={"a b": "v&1"})] == [two.id, one.id]
    assert [job.id for job in listed(metadata={"a b": "v&1", "team": "x"})] == [two.id]
    assert [job.id for job in listed(metadata={"a b": "other"})] == []
    assert len(listed(metadata=None).data) == 3

    def found(query: str) -> list[str]:
        return [job["id"] for job in api.get(f"/v1/fine_tuning/jobs?{query}").json()["data"]]

    assert found("metadata%5Ba+b%5D=v%261") == found("metadata%5Ba%20b%5D=v%261") == [two.id, one.id]
    assert found("metadata=") == found("metadata=null") == [plain.id]
    assert api.get("/v1/fine_tuning/jobs?metadata=x").status_code == 400
    assert api.get("/v1/fine_tuning/jobs?metadata%5Ba%5D=%00").status_code == 400


def test_events_are_newest_first_and_pages_make_progress(api: Api):
    job = api.succeed()
    events = list(api.client.fine_tuning.jobs.list_events(job.id, limit=2))
    messages = [event.message for event in reversed(events)]
    assert messages == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {job.training_file}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        f"New fine-tuned model created: {job.fine_tuned_model}",
        "The job has successfully completed",
    ]
    first = api.get(f"/v1/fine_tuning/jobs/{job.id}/events?limit=1000").json()
    assert first["has_more"] is False and len(first["data"]) == 6
    assert set(first["data"][0]) == {"id", "object", "created_at", "level", "message", "type", "data"}
    newest = api.client.fine_tuning.jobs.list_events(job.id, limit=1).data[0]
    assert newest.message == "The job has successfully completed"


def test_checkpoints_are_newest_first_with_both_cursors(api: Api):
    job = api.job()
    claimed = api.claim()
    names = [api.checkpoint(claimed, step) for step in (3, 6)]
    api.finalize(claimed)
    page = api.get(f"/v1/fine_tuning/jobs/{job.id}/checkpoints").json()
    assert [item["step_number"] for item in page["data"]] == [9, 6, 3]
    assert page["first_id"] == page["data"][0]["id"] and page["last_id"] == page["data"][2]["id"]
    assert page["has_more"] is False and page["data"][1]["fine_tuned_model_checkpoint"] == names[1]
    assert set(page["data"][0]) == {
        "id",
        "object",
        "created_at",
        "fine_tuning_job_id",
        "fine_tuned_model_checkpoint",
        "step_number",
        "metrics",
    }
    assert page["data"][1]["metrics"] == {"step": 6.0, "train_loss": 1.5}
    walked = api.client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)
    assert [checkpoint.step_number for checkpoint in walked] == [9, 6, 3]

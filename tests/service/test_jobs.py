"""`/v1/fine_tuning/jobs` through the SDK: shapes, checks, lists, cancel in every state."""

from typing import Any

import openai
import pytest

from rootstock import jobs
from rootstock.errors import JobFailure, LeaseLost
from rootstock.records import JobStatus
from tests.service.conftest import Api, chat_rows

JOB_KEYS = {
    "id",
    "object",
    "created_at",
    "finished_at",
    "model",
    "fine_tuned_model",
    "organization_id",
    "status",
    "training_file",
    "validation_file",
    "result_files",
    "hyperparameters",
    "method",
    "trained_tokens",
    "error",
    "seed",
    "estimated_finish",
    "integrations",
    "metadata",
    "user_provided_suffix",
    "usage_metrics",
    "shared_with_openai",
    "eval_id",
    "rootstock",
}
AUTO = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}


def create(api: Api, body: Any) -> Any:
    return api.post("/v1/fine_tuning/jobs", json=body)


def test_a_new_job_has_every_documented_key(api: Api):
    training = api.upload()
    job = create(api, {"model": "gpt-4o-mini", "training_file": training, "suffix": "My_Tune"}).json()
    assert set(job) == JOB_KEYS
    assert isinstance(job.pop("seed"), int) and job.pop("id").startswith("ftjob-") and job.pop("created_at") > 0
    assert job == {
        "object": "fine_tuning.job",
        "finished_at": None,
        "model": "gpt-4o-mini-2024-07-18",
        "fine_tuned_model": None,
        "organization_id": "rootstock",
        "status": "validating_files",
        "training_file": training,
        "validation_file": None,
        "result_files": [],
        "hyperparameters": AUTO,
        "method": {"type": "supervised", "supervised": {"hyperparameters": AUTO}},
        "trained_tokens": None,
        "error": {"code": None, "message": None, "param": None},
        "estimated_finish": None,
        "integrations": [],
        "metadata": None,
        "user_provided_suffix": "My_Tune",
        "usage_metrics": None,
        "shared_with_openai": False,
        "eval_id": None,
        "rootstock": {
            "adapter": {"type": "lora", "rank": "auto", "alpha": "auto", "rslora": False},
            "early_stopping": None,
            "budget": None,
            "split": None,
            "measure": None,
            "sampling": None,
            "replay": None,
            "engine": None,
            "sharing": None,
            "start_model": None,
            "attempts": 0,
            "step": 0,
            "total_steps": None,
            "stopped_early": None,
            "best_step": None,
            "tokens_saved": None,
            "release": None,
        },
    }


def test_the_files_are_judged_after_the_answer_and_the_bell_is_rung(api: Api):
    job = api.job()
    assert job.status == "validating_files"
    assert api.client.fine_tuning.jobs.retrieve(job.id).status == "queued"
    assert api.bell.rung == [job.id]


def test_a_lost_bell_does_not_lose_the_job(api: Api):
    api.bell.heard = False
    job = api.job()
    assert api.client.fine_tuning.jobs.retrieve(job.id).status == "queued"


def test_what_the_files_hold_never_fails_the_request(api: Api):
    bad = api.client.files.create(file=("bad.jsonl", b"not json\n" * 3), purpose="fine-tune")
    job = api.client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=bad.id)
    failed = api.client.fine_tuning.jobs.retrieve(job.id)
    assert failed.status == "failed" and failed.fine_tuned_model is None and failed.result_files == []
    assert failed.error is not None and failed.error.code and failed.error.param == "training_file"
    assert failed.hyperparameters.n_epochs == "auto"
    event = api.client.fine_tuning.jobs.list_events(job.id, limit=1).data[0]
    assert (event.level, event.message) == ("error", failed.error.message)


def test_nulls_and_empty_objects_count_as_absent(api: Api):
    body = {"model": "gpt-4o-mini", "training_file": api.upload()}
    body |= dict.fromkeys(["suffix", "seed", "validation_file", "metadata", "integrations", "method"])
    assert create(api, body | {"hyperparameters": {}}).status_code == 200
    assert create(api, body | {"method": {"type": "supervised", "supervised": {"hyperparameters": {}}}}).is_success
    assert create(api, body | {"method": {"type": "supervised", "dpo": None}, "integrations": []}).is_success


@pytest.mark.parametrize("place", ["top", "method", "both"])
def test_hyperparameters_are_echoed_in_both_places(api: Api, place: str):
    asked = {"n_epochs": 3.0, "batch_size": 8, "learning_rate_multiplier": 2}
    body: dict[str, Any] = {"model": "gpt-4o-mini", "training_file": api.upload()}
    if place != "method":
        body["hyperparameters"] = asked
    if place != "top":
        body["method"] = {"type": "supervised", "supervised": {"hyperparameters": asked}}
    job = create(api, body).json()
    assert job["hyperparameters"] == {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 2.0}
    assert job["method"]["supervised"]["hyperparameters"] == job["hyperparameters"]
    assert isinstance(job["hyperparameters"]["n_epochs"], int)


VALID = {"model": "gpt-4o-mini", "training_file": "FILE"}


def supervised(**hyperparameters: Any) -> dict[str, Any]:
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}}


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"training_file": None}, "training_file", "missing_required_parameter"),
        ({"model": "llama"}, "model", "model_not_available"),
        ({"model": "../../etc"}, "model", "model_not_available"),
        ({"model": ["gpt-4o"]}, "model", "invalid_type"),
        ({"training_file": "file-absent"}, "training_file", None),
        ({"training_file": "data/train.jsonl"}, "training_file", None),
        ({"validation_file": "file-absent"}, "validation_file", None),
        ({"training_file": "a\0b"}, None, "invalid_value"),
        ({"hyperparameter": {}}, "hyperparameter", "unknown_parameter"),
        ({"n_epochs": 3}, "n_epochs", "unknown_parameter"),
        ({"suffix": ""}, "suffix", "string_below_min_length"),
        ({"suffix": "x" * 65}, "suffix", "string_above_max_length"),
        ({"suffix": "a\nb"}, "suffix", "invalid_value"),
        ({"seed": -1}, "seed", "integer_below_min_value"),
        ({"seed": 2**31}, "seed", "integer_above_max_value"),
        ({"seed": 1.5}, "seed", "invalid_type"),
        ({"seed": True}, "seed", "invalid_type"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "object_above_max_properties"),
        ({"metadata": {"k": "x" * 513}}, "metadata.k", "string_above_max_length"),
        ({"metadata": {"k": {"nested": 1}}}, "metadata.k", "invalid_type"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations", "unsupported_value"),
        ({"integrations": [{}] * 6}, "integrations", "array_above_max_length"),
        ({"method": {"type": "magic"}}, "method.type", "invalid_value"),
        ({"method": {"supervised": {"x": 1}}}, "method.supervised.x", "unknown_parameter"),
        ({"method": {"type": "supervised", "dpo": {"x": 1}}}, "method.dpo.x", "unknown_parameter"),
        ({"hyperparameters": {"epochs": 3}}, "hyperparameters.epochs", "unknown_parameter"),
        ({"hyperparameters": {"n_epochs": 1}} | supervised(n_epochs=2), "hyperparameters", "invalid_value"),
        *[
            (supervised(**{name: value}), f"method.supervised.hyperparameters.{name}", code)
            for name, value, code in [
                ("n_epochs", 0, "integer_below_min_value"),
                ("n_epochs", -1, "integer_below_min_value"),
                ("n_epochs", 51, "integer_above_max_value"),
                ("n_epochs", 1.5, "invalid_value"),
                ("n_epochs", "many", "invalid_value"),
                ("n_epochs", True, "invalid_value"),
                ("batch_size", 257, "integer_above_max_value"),
                ("learning_rate_multiplier", 0, "decimal_below_min_value"),
                ("learning_rate_multiplier", "fast", "invalid_value"),
            ]
        ],
    ],
)
def test_a_job_that_cannot_be_run_is_refused_at_once(api: Api, change: dict[str, Any], param: str, code: str | None):
    body = VALID | {"training_file": api.upload()} | change
    answer = create(api, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert api.client.fine_tuning.jobs.list().data == []


def test_an_unknown_file_is_named_as_the_live_service_does(api: Api):
    with pytest.raises(openai.BadRequestError, match=r"invalid training_file: data/train\.jsonl"):
        api.client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file="data/train.jsonl")


def test_a_file_of_another_purpose_or_project_is_refused(api: Api):
    wrong = api.upload(purpose="user_data")
    with pytest.raises(openai.BadRequestError) as caught:
        api.client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=wrong)
    assert caught.value.param == "training_file" and "user_data" in str(caught.value)
    mine = api.upload()
    with pytest.raises(openai.BadRequestError, match=f"invalid training_file: {mine}"):
        api.other.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=mine)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"seed": NaN}', b'{"seed": 1e999}', b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_a_400(api: Api, body: bytes):
    assert api.post("/v1/fine_tuning/jobs", content=body).status_code == 400


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"a\\u0000b"', b'"\xff"', b'"\xed\xa0\x80"'])
def test_text_that_cannot_be_stored_is_a_400(api: Api, text: bytes):
    body = b'{"model": "gpt-4o-mini", "training_file": "f", "suffix": ' + text + b"}"
    assert api.post("/v1/fine_tuning/jobs", content=body).status_code == 400


def test_the_content_type_does_not_matter_but_compression_and_size_do(make_api: Any):
    api = make_api(max_body_bytes=2048)
    body = b'{"model": "gpt-4o-mini", "training_file": "%s"}' % api.upload().encode()
    assert api.post("/v1/fine_tuning/jobs", content=body, headers={"content-type": "text/plain"}).is_success
    assert api.post("/v1/fine_tuning/jobs", content=body + b" " * 2048).status_code == 413
    assert api.post("/v1/fine_tuning/jobs", content=iter([body, b" " * 2048])).status_code == 413
    zipped = api.post("/v1/fine_tuning/jobs", content=body, headers={"content-encoding": "gzip"})
    assert zipped.status_code == 415 and zipped.json()["error"]["type"] == "invalid_request_error"


def test_a_repeated_request_makes_no_second_job(api: Api):
    body = {"model": "gpt-4o-mini", "training_file": api.upload(), "metadata": {"a": "b"}}
    again = {"x-stainless-retry-count": "1"}

    def ask(headers: dict[str, str], **change: Any) -> str:
        return str(api.post("/v1/fine_tuning/jobs", json=body | change, headers=headers).json()["id"])

    first = ask({})
    assert ask(again) == first
    assert ask(again, suffix="other") != first
    assert ask(again, metadata={"a": "c"}) != first
    assert ask({"x-stainless-retry-count": "0"}) != first
    assert len(api.client.fine_tuning.jobs.list().data) == 4


def test_a_succeeded_job_shows_what_it_made(api: Api):
    job = api.succeed(suffix="My Tune")
    assert job.status == "succeeded" and job.trained_tokens == 1234 and job.finished_at >= job.created_at
    assert job.fine_tuned_model.startswith("ft:gpt-4o-mini-2024-07-18:rootstock:my-tune:")
    assert job.fine_tuned_model.count(":") == 4 and len(job.result_files) == 1
    assert job.error.code is None and job.error.message is None


def test_a_finalizing_job_reads_running_and_shows_nothing_yet(api: Api):
    job = api.job()
    api.finalize(api.claim())
    seen = api.client.fine_tuning.jobs.retrieve(job.id)
    assert seen.status == "running" and seen.fine_tuned_model is None
    assert seen.result_files == [] and seen.trained_tokens is None and seen.finished_at is None


def test_the_estimate_is_shown_only_while_it_lies_ahead(api: Api):
    job = api.job()
    claimed = api.claim()
    for estimate, shown in ((claimed.created_at + 10_000, True), (claimed.created_at - 10, False)):
        with api.database.transaction() as tx:
            jobs.renew(tx, claimed.id, claimed.fence, lease_seconds=60, step=1, estimated_finish=estimate)
        assert (api.client.fine_tuning.jobs.retrieve(job.id).estimated_finish == int(estimate)) is shown


@pytest.mark.parametrize("state", ["validating_files", "queued", "running", "finalizing"])
def test_a_living_job_can_be_cancelled(api: Api, state: str, monkeypatch: pytest.MonkeyPatch):
    if state == "validating_files":
        monkeypatch.setattr("rootstock.sweep.Sweep.judge", lambda *_: False)
    job = api.job()
    claimed = api.claim() if state in ("running", "finalizing") else None
    if state == "finalizing" and claimed:
        api.finalize(claimed)
    cancelled = api.client.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == "cancelled" and cancelled.finished_at is not None
    assert cancelled.fine_tuned_model is None and cancelled.result_files == []
    if claimed:
        with api.database.transaction() as tx, pytest.raises(LeaseLost):
            jobs.renew(tx, claimed.id, claimed.fence, lease_seconds=60)
    with pytest.raises(openai.BadRequestError):
        api.client.fine_tuning.jobs.cancel(job.id)


def test_a_finished_job_cannot_be_cancelled(api: Api):
    succeeded = api.succeed()
    failed = api.job()
    claimed = api.claim()
    with api.database.transaction() as tx:
        jobs.fail(tx, claimed.id, claimed.fence, JobFailure("server_error", "broken"))
    for job in (succeeded, failed):
        with pytest.raises(openai.BadRequestError):
            api.client.fine_tuning.jobs.cancel(job.id)
    seen = api.client.fine_tuning.jobs.retrieve(failed.id)
    assert (seen.status, seen.error.code) == (JobStatus.FAILED, "server_error")  # type: ignore[union-attr]


@pytest.mark.parametrize("body", [{}, {"content": b"{}"}, {"content": b"not json"}, {"json": {"x": 1}}])
def test_cancel_takes_no_body_and_ignores_any(api: Api, body: Any):
    assert api.post(f"/v1/fine_tuning/jobs/{api.job().id}/cancel", **body).json()["status"] == "cancelled"


@pytest.mark.parametrize("job_id", ["None", "ftjob-absent", "a b", "é", "%00", "x" * 3000])
def test_jobs_that_never_were_are_404(api: Api, job_id: str):
    for path in (job_id, f"{job_id}/events", f"{job_id}/checkpoints"):
        assert api.get(f"/v1/fine_tuning/jobs/{path}").status_code == 404
    assert api.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").status_code == 404


def test_another_projects_job_reads_like_no_job(api: Api):
    job = api.job()
    theirs = api.other.fine_tuning.jobs
    for call in (theirs.retrieve, theirs.cancel, theirs.list_events, theirs.checkpoints.list):
        with pytest.raises(openai.NotFoundError) as caught:
            call(job.id)
        assert caught.value.body == {
            "message": f"Could not find fine tune: {job.id}",
            "type": "invalid_request_error",
            "param": "fine_tune_id",
            "code": "fine_tune_not_found",
        }
    assert theirs.list().data == []


def test_a_deleted_training_file_does_not_disturb_its_job(api: Api):
    training = api.upload()
    job = api.job(training_file=training)
    api.client.files.delete(training)
    claimed = api.claim()
    stored = api.app.state.parts.store.get_bytes(claimed.training_object)
    assert claimed.id == job.id and stored == chat_rows(12)


def test_a_job_survives_strict_clients(api: Api):
    # litellm and instructor re-validate or index the job without null checks.
    job = api.job(hyperparameters={"n_epochs": 2})
    assert job.hyperparameters.n_epochs == 2 and job.hyperparameters.batch_size == "auto"
    type(job).model_validate(job.model_dump() | {"error": None})  # litellm reads an all-null error as none

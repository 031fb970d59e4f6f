"""`/v1/models` through the SDK: names with colons and slashes, visibility, deletion."""

import openai
import pytest

from tests.service.conftest import OTHER_PROJECT, Api


def test_everything_that_may_be_called_is_listed(api: Api):
    job = api.succeed()
    body = api.get("/v1/models").json()
    assert set(body) == {"object", "data"}
    listed = {model["id"]: model for model in body["data"]}
    assert {"rootstock-tiny", "gpt-4o-mini", "gpt-4o-mini-2024-07-18", job.fine_tuned_model} <= set(listed)
    assert len(listed) == len(body["data"])
    assert set(listed["rootstock-tiny"]) == {"id", "object", "created", "owned_by", "shutdown_date"}
    assert listed["rootstock-tiny"]["owned_by"] == "system"
    assert listed[job.fine_tuned_model]["owned_by"] == "rootstock" and listed[job.fine_tuned_model]["created"] > 0


def test_aliases_and_tuned_models_are_found_by_name(api: Api):
    name = api.succeed().fine_tuned_model
    for known in ("gpt-4o-mini", "rootstock-tiny", name):
        assert api.client.models.retrieve(known).id == known


def test_a_checkpoint_is_a_model(api: Api):
    api.job()
    name = api.checkpoint(api.claim(), 3)
    assert name.endswith(":ckpt-step-3") and api.client.models.retrieve(name).id == name


def test_names_with_slashes_and_colons_arrive_whole(api: Api):
    name = api.model("ft:Qwen/X:org:s:id", "adapter-slashes")
    assert api.client.models.retrieve(name).id == name  # the SDK sends %2F
    assert api.get(f"/v1/models/{name}").json()["id"] == name
    assert api.client.models.delete(name).deleted


def test_a_model_that_was_not_seen_answering_is_not_there(api: Api):
    api.job()
    job = api.finalize(api.claim())
    name = api.client.fine_tuning.jobs.checkpoints.list(job.id).data[0].fine_tuned_model_checkpoint
    with pytest.raises(openai.NotFoundError):
        api.client.models.retrieve(name)
    with pytest.raises(openai.NotFoundError):
        api.client.models.delete(name)
    assert name not in [model.id for model in api.client.models.list()]


@pytest.mark.parametrize("name", ["None", "ft:x:y:z:q", "../x", "/etc/passwd", "a b", "é", "x" * 5000, "%00"])
def test_a_model_that_never_was_is_404(api: Api, name: str):
    assert api.get(f"/v1/models/{name}").status_code == 404


def test_the_404_has_the_live_text(api: Api):
    with pytest.raises(openai.NotFoundError) as caught:
        api.client.models.retrieve("ft:x")
    assert caught.value.body == {
        "message": "The model 'ft:x' does not exist",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_another_projects_model_reads_like_no_model(api: Api):
    name = api.model("ft:a:b::theirs", "adapter-theirs", project=OTHER_PROJECT)
    for call in (api.client.models.retrieve, api.client.models.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            call(name)
        assert caught.value.body["message"] == f"The model '{name}' does not exist"  # type: ignore[index]
    assert api.other.models.retrieve(name).id == name
    assert name not in [model.id for model in api.client.models.list()]


def test_deleting_is_final_and_leaves_the_job_alone(api: Api):
    job = api.succeed()
    name = job.fine_tuned_model
    deleted = api.client.models.delete(name)
    assert (deleted.id, deleted.object, deleted.deleted) == (name, "model", True)
    with pytest.raises(openai.NotFoundError):
        api.client.models.delete(name)
    with pytest.raises(openai.NotFoundError):
        api.client.models.retrieve(name)
    assert api.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model == name


@pytest.mark.parametrize("name", ["rootstock-tiny", "gpt-4o"])
def test_a_base_model_cannot_be_deleted(api: Api, name: str):
    with pytest.raises(openai.PermissionDeniedError):
        api.client.models.delete(name)

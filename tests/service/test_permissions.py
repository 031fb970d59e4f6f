"""Roles, and letting other projects use a model, through the official SDK."""

from typing import Any

import httpx
import openai
import pytest
from openai.types.fine_tuning.checkpoints import (
    PermissionCreateResponse,
    PermissionDeleteResponse,
    PermissionRetrieveResponse,
)
from pydantic import TypeAdapter

from rootstock import keys
from tests.service.conftest import OTHER_PROJECT, Api, sdk

NAME = "ft:Qwen/X:org:s:id123456:ckpt-step-10"


@pytest.fixture
def name(api: Api) -> str:
    return api.model(NAME, "adapter-shared")


@pytest.fixture
def member(api: Api) -> Any:
    with api.database.transaction() as tx:
        key = keys.create(tx, keys.DEFAULT_PROJECT, "m", keys.MEMBER)
    return sdk(key, api.http._transport)


def path(name: str, more: str = "") -> str:
    return f"/v1/fine_tuning/checkpoints/{name.replace('/', '%2F')}/permissions{more}"


def grant(api: Api, name: str, *projects: str) -> list[Any]:
    made = api.client.fine_tuning.checkpoints.permissions.create(name, project_ids=list(projects or [OTHER_PROJECT]))
    return list(made)


def ask(client: openai.OpenAI, name: str) -> Any:
    return client.chat.completions.create(model=name, messages=[{"role": "user", "content": "hi"}])


def test_a_granted_project_may_list_retrieve_and_call(api: Api, name: str):
    with pytest.raises(openai.NotFoundError):
        ask(api.other, name)
    (granted,) = grant(api, name)
    assert granted.project_id == OTHER_PROJECT and granted.id.startswith("cp_")
    assert name in [model.id for model in api.other.models.list()]
    assert api.other.models.retrieve(name).id == name
    assert ask(api.other, name).model == name
    with pytest.raises(openai.PermissionDeniedError):
        api.other.models.delete(name)
    with pytest.raises(openai.NotFoundError):  # it may use the model, not pass it on
        api.other.fine_tuning.checkpoints.permissions.create(name, project_ids=[OTHER_PROJECT])


@pytest.mark.parametrize("end", ["revoke", "delete"])
def test_revoking_and_deleting_end_it_at_once(api: Api, name: str, end: str):
    (granted,) = grant(api, name)
    ask(api.other, name)
    if end == "revoke":
        permissions = api.client.fine_tuning.checkpoints.permissions
        assert permissions.delete(granted.id, fine_tuned_model_checkpoint=name).deleted
        assert ask(api.client, name).model == name
        with pytest.raises(openai.NotFoundError):
            permissions.delete(granted.id, fine_tuned_model_checkpoint=name)
    else:
        api.client.models.delete(name)
        with pytest.raises(openai.NotFoundError):
            ask(api.client, name)
        assert api.get(path(name)).status_code == 404
    with pytest.raises(openai.NotFoundError):
        ask(api.other, name)
    with pytest.raises(openai.NotFoundError):
        api.other.models.retrieve(name)
    assert name not in [model.id for model in api.other.models.list()]


def test_the_list_is_paged_by_last_id_in_both_orders(api: Api, name: str):
    projects = [OTHER_PROJECT, "proj_a", "proj_b", "proj_c"]
    with api.database.transaction() as tx:
        for project in projects:
            keys.ensure_project(tx, project, "rootstock")
    grant(api, name, *projects)
    permissions = api.client.fine_tuning.checkpoints.permissions
    for order, expected in (("ascending", projects), ("descending", projects[::-1])):
        listed = permissions.list(name, limit=1, order=order)
        assert [one.project_id for one in listed] == expected
    assert [one.project_id for one in permissions.list(name, project_id="proj_b")] == ["proj_b"]
    assert [one.project_id for one in permissions.list(name, project_id="nobody")] == []
    assert [one.project_id for one in grant(api, name, "proj_b", "proj_b")] == ["proj_b"]
    assert len(list(permissions.list(name))) == 4, "granting again grants nothing new"


def test_the_bodies_are_the_documented_ones(api: Api, name: str):
    empty: dict[str, Any] = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert api.get(path(name)).json() == empty
    made = api.post(path(name), json={"project_ids": [OTHER_PROJECT]}).json()
    assert made == api.get(path(name)).json()
    TypeAdapter(PermissionRetrieveResponse).validate_python(made, strict=True)
    (one,) = made["data"]
    TypeAdapter(PermissionCreateResponse).validate_python(one, strict=True)
    assert set(one) == {"id", "object", "created_at", "project_id"} and made["first_id"] == one["id"] == made["last_id"]
    gone = api.http.delete(path(name, f"/{one['id']}")).json()
    TypeAdapter(PermissionDeleteResponse).validate_python(gone, strict=True)
    assert gone == {"id": one["id"], "object": "checkpoint.permission", "deleted": True}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"project_ids": ["proj_nobody"]}, "project_ids[0]"),
        ({"project_ids": [OTHER_PROJECT, "x" * 500]}, "project_ids[1]"),
        ({"project_ids": []}, "project_ids"),
        ({"project_ids": ["p"] * 101}, "project_ids"),
        ({"project_ids": "proj_other"}, "project_ids"),
        ({}, "project_ids"),
        ({"project_ids": [OTHER_PROJECT], "x": 1}, "x"),
    ],
)
def test_a_wrong_body_is_refused_by_name(api: Api, name: str, body: Any, param: str):
    answer = api.post(path(name), json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param
    assert api.get(path(name)).json()["data"] == []


@pytest.mark.parametrize("query", ["order=asc", "after=cp_x", "limit=x"])
def test_a_wrong_query_is_refused(api: Api, name: str, query: str):
    assert api.get(path(name, f"?{query}")).status_code == 400


@pytest.mark.parametrize("model", ["None", "rootstock-tiny", "ft:a:b::c", "%00", "x" * 900])
def test_only_own_tuned_models_have_permissions(api: Api, model: str):
    assert api.get(f"/v1/fine_tuning/checkpoints/{model}/permissions").status_code == 404
    assert api.http.delete(f"/v1/fine_tuning/checkpoints/{model}/permissions/cp_x").status_code == 404


def denied(answer: httpx.Response) -> None:
    assert answer.status_code == 403
    error = answer.json()["error"]
    assert error["message"].startswith("You have insufficient permissions for this operation. Missing scopes: ")
    assert set(error) == {"message", "type", "param", "code"}


def test_a_member_may_use_but_not_decide(api: Api, name: str, member: openai.OpenAI):
    assert ask(member, name).model == name and member.models.retrieve(name).id == name
    key = {"Authorization": f"Bearer {member.api_key}"}
    denied(api.http.delete(f"/v1/models/{name}", headers=key))
    denied(api.http.delete("/v1/models/None", headers=key))
    denied(api.get(path(name), headers=key))
    denied(api.post(path(name), headers=key, json={"project_ids": [OTHER_PROJECT]}))
    denied(api.http.delete(path(name, "/cp_x"), headers=key))
    for prefix in ("/v1/webhook_endpoints", "/v1/rootstock/webhooks"):
        denied(api.get(prefix, headers=key))
        denied(api.post(prefix, headers=key, json={"url": "https://hooks.test/"}))
        denied(api.http.delete(f"{prefix}/we_x", headers=key))
    with pytest.raises(openai.PermissionDeniedError):
        member.models.delete(name)
    assert api.client.models.delete(name).deleted

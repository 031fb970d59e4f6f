"""Aliases over HTTP: who may move them, what answers under them, what they keep from being deleted."""

import json
from typing import Any

import openai
import pytest

from rootstock import keys
from tests.service.conftest import Api, sdk
from tests.service.fake_vllm import FakeVllm

OLD, NEW = "ft:tiny:org:old:aaaaaaaa", "ft:tiny:org:new:bbbbbbbb"
PATH = "/v1/rootstock/aliases"


@pytest.fixture
def tuned(api: Api) -> Api:
    api.model(OLD, "lora-" + "a" * 24)
    api.model(NEW, "lora-" + "b" * 24)
    return api


def put(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.post(PATH, json={"name": "acme-support"} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ask(api: Api, model: str = "acme-support", **more: Any) -> Any:
    return api.client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}], **more)


def asked(vllm: FakeVllm) -> list[str]:
    return [body["model"] for body in vllm.received]


def test_the_model_behind_the_name_answers_and_says_so(tuned: Api, vllm: FakeVllm):
    made = put(tuned, model=OLD)
    assert made["object"] == "rootstock.alias" and made["revision"] == 1 and made["canary"] is None
    assert ask(tuned).model == OLD
    put(tuned, model=NEW)
    assert ask(tuned).model == NEW
    assert {chunk.model for chunk in ask(tuned, stream=True)} == {NEW}
    assert asked(vllm)[-3:] == ["lora-" + letter * 24 for letter in "abb"]
    assert tuned.client.completions.create(model="acme-support", prompt="x").model == NEW
    assert tuned.client.models.retrieve("acme-support").owned_by == tuned.client.models.retrieve(NEW).owned_by
    assert [model.id for model in tuned.client.models.list()][-1] == "acme-support"


def test_another_project_does_not_know_the_name(tuned: Api):
    put(tuned, model=OLD)
    with pytest.raises(openai.NotFoundError):
        tuned.other.chat.completions.create(model="acme-support", messages=[{"role": "user", "content": "hi"}])
    assert tuned.other.get(PATH[3:], cast_to=object)["data"] == []  # type: ignore[index]


def test_users_stick_to_their_side_of_a_canary(tuned: Api):
    put(tuned, model=OLD, canary={"model": NEW, "percent": 50})
    first = {user: ask(tuned, user=user).model for user in map(str, range(24))}
    assert set(first.values()) == {OLD, NEW}
    assert {user: ask(tuned, user=user).model for user in first} == first
    assert {ask(tuned, safety_identifier="7").model for _ in range(3)} == {first["7"]}


def test_history_and_rollback(tuned: Api):
    put(tuned, model=OLD)
    put(tuned, model=NEW, note="March")
    back = tuned.post(f"{PATH}/acme-support/rollback", json={})
    assert back.json()["model"] == OLD
    assert ask(tuned).model == OLD
    moves = tuned.get(f"{PATH}/acme-support/history").json()["data"]
    assert [(move["revision"], move["to"]["model"]) for move in moves] == [(3, OLD), (2, NEW), (1, OLD)]
    assert moves[-1]["from"] is None and moves[1]["note"] == "March" and moves[0]["moved_by"].startswith("key_")
    assert tuned.get(f"{PATH}/acme-support").json()["revision"] == 3


def test_moving_is_for_owners_and_not_for_the_late(tuned: Api):
    put(tuned, model=OLD)
    late = tuned.post(PATH, json={"name": "acme-support", "model": NEW, "expected_revision": 7})
    assert late.status_code == 409 and late.json()["error"]["code"] == "alias_moved"
    assert late.headers["x-should-retry"] == "false"
    with tuned.database.transaction() as tx:
        key = keys.create(tx, keys.DEFAULT_PROJECT, "m", keys.MEMBER)
    member = sdk(key, tuned.http._transport)
    with pytest.raises(openai.PermissionDeniedError):
        member.post(PATH[3:], body={"name": "acme-support", "model": NEW}, cast_to=object)
    assert member.get(f"{PATH[3:]}/acme-support", cast_to=object)["model"] == OLD  # type: ignore[index]


def test_a_model_that_answers_for_an_alias_is_not_deleted(tuned: Api):
    put(tuned, model=OLD, canary={"model": NEW, "percent": 5})
    for name in (OLD, NEW):
        with pytest.raises(openai.ConflictError) as caught:
            tuned.client.models.delete(name)
        assert "acme-support" in caught.value.message and caught.value.code == "model_in_use"
    assert tuned.client.delete(f"{PATH[3:]}/acme-support", cast_to=object)["deleted"]  # type: ignore[index]
    assert tuned.client.models.delete(OLD).deleted
    with pytest.raises(openai.NotFoundError) as missing:
        ask(tuned)
    assert missing.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "a:b", "model": OLD}, "name"),
        ({"name": "gpt-4o", "model": OLD}, "name"),
        ({"name": "x", "model": "nobody"}, "model"),
        ({"name": "x"}, "model"),
        ({"name": "x", "model": OLD, "canary": {"model": NEW, "percent": 100}}, "canary.percent"),
        ({"name": "x", "model": OLD, "canary": {"model": "nobody", "percent": 10}}, "canary.model"),
        ({"name": "x", "model": OLD, "expected_revision": -1}, "expected_revision"),
        ({"name": "x", "model": OLD, "weight": 1}, "weight"),
    ],
)
def test_refusals_name_the_field(tuned: Api, body: dict[str, Any], param: str):
    answer = tuned.post(PATH, json=body)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param
    assert tuned.get(f"{PATH}/x").json()["error"]["code"] == "alias_not_found"


def test_a_job_goes_on_from_the_model_behind_the_name(tuned: Api):
    put(tuned, model=OLD)
    job = tuned.job(model="acme-support")
    assert json.loads(json.dumps(job.rootstock))["start_model"] == OLD

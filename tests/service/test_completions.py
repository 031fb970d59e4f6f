"""Stored chat completions through the official SDK: kept whole or streamed, found again, relabelled, forgotten."""

import time
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionDeleted, ChatCompletionStoreMessage
from pydantic import TypeAdapter

from rootstock import completions, db, tables
from rootstock.errors import Unavailable
from service import keeper
from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm

PATH = "/v1/chat/completions"
EXTRAS = (
    "request_id tool_choice seed top_p temperature presence_penalty frequency_penalty input_user tools metadata "
    "response_format"
).split()


def ask(api: Api, vllm: FakeVllm, answer_id: str = "chatcmpl-1", **more: Any) -> Any:
    vllm.answer_id = answer_id
    given: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "store": True}
    return api.client.chat.completions.create(**given | more)


def stored(api: Api, **query: Any) -> list[str]:
    return [one.id for one in api.client.chat.completions.list(**query)]


def test_a_stored_answer_is_the_answer_that_was_given(api: Api, vllm: FakeVllm):
    tools: Any = [{"type": "function", "function": {"name": "look"}}]
    answer = ask(api, vllm, metadata={"a b": "c"}, seed=7, temperature=0.5, user="u-1", tools=tools, tool_choice="none")
    assert not {"store", "metadata", "user"} & set(vllm.received[-1])
    body = api.get(f"{PATH}/{answer.id}").json()
    TypeAdapter(ChatCompletion).validate_python(body)
    assert {key: body[key] for key in ("id", "created", "model", "choices", "usage", "system_fingerprint")} == {
        key: value for key, value in answer.to_dict().items() if key != "object"
    }
    assert set(EXTRAS) <= set(body) and body["object"] == "chat.completion"
    assert body["request_id"] == answer._request_id and body["metadata"] == {"a b": "c"}
    assert (body["seed"], body["temperature"], body["top_p"], body["input_user"]) == (7, 0.5, 1.0, "u-1")
    assert body["tools"] == tools and body["tool_choice"] == "none" and body["response_format"] is None
    assert api.client.chat.completions.retrieve(answer.id).choices[0].message.content == "Hello wörld"


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_is_stored_as_the_whole_answer(api: Api, vllm: FakeVllm, usage: bool):
    options: Any = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = list(ask(api, vllm, stream=True, metadata={"k": "v"}, **options))
    body = api.get(f"{PATH}/{chunks[0].id}").json()
    TypeAdapter(ChatCompletion).validate_python(body)
    assert body["choices"] == [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "message": {"role": "assistant", "content": "Hello wörld", "refusal": None},
        }
    ]
    assert body["usage"]["completion_tokens"] == 3 and body["metadata"] == {"k": "v"} and body["request_id"]


@pytest.mark.parametrize("store", [False, None])
def test_nothing_is_kept_that_nobody_asked_to_keep(api: Api, vllm: FakeVllm, store: bool | None):
    ask(api, vllm, store=store)
    list(ask(api, vllm, store=store, stream=True))
    assert stored(api) == []


def test_what_the_model_never_saw_is_not_kept(api: Api, vllm: FakeVllm):
    messages = [{"role": "assistant", "content": "a", "refusal": None, "audio": {"id": "x"}, "annotations": ["x"]}]
    ignored = {"prediction": {"content": "x"}, "safety_identifier": "x", "prompt_cache_key": "x"}
    ask(api, vllm, user="u-1", extra_body=ignored | {"messages": messages})
    with api.database.read() as tx:
        (row,) = tx.execute(tables.stored_completions.select()).all()
    assert row.request == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "assistant", "content": "a"}],
        "user": "u-1",
    }


def test_what_is_too_large_for_a_list_is_answered_and_not_kept(
    api: Api, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
):
    for number, size in enumerate((500, 2000)):
        with monkeypatch.context() as patched:
            patched.setattr(keeper, "MAX_CHARS", 1500)
            answer = ask(api, vllm, f"chatcmpl-{number}", messages=[{"role": "user", "content": "x" * size}])
        assert answer.choices
    assert stored(api) == ["chatcmpl-0"]


def test_a_page_is_clamped(api: Api, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(completions, "MAX_LIMIT", 2)
    for number in range(3):
        ask(api, vllm, f"chatcmpl-{number}")
    page = api.get(f"{PATH}?limit=10000").json()
    assert len(page["data"]) == 2 and page["has_more"]


def test_an_answer_that_broke_off_is_not_stored(api: Api, vllm: FakeVllm):
    vllm.error_after = 2
    with pytest.raises(openai.APIError):
        list(ask(api, vllm, stream=True))
    assert stored(api) == []


def test_the_list_is_oldest_first_paged_and_filtered(api: Api, vllm: FakeVllm):
    labels: list[Any] = [{"team": "a", "run": "1"}, {"team": "a", "run": "2"}, {"team": "b"}, None]
    for number, metadata in enumerate(labels):
        ask(api, vllm, f"chatcmpl-{number}", metadata=metadata, model="gpt-4o" if number == 3 else "gpt-4o-mini")
    everything = [f"chatcmpl-{number}" for number in range(4)]
    assert stored(api) == stored(api, limit=1) == everything
    assert stored(api, order="desc", limit=3) == everything[::-1]
    assert stored(api, model="gpt-4o") == ["chatcmpl-3"] and stored(api, model="no such") == []
    assert stored(api, metadata={"team": "a"}) == everything[:2]
    assert stored(api, metadata={"team": "a", "run": "2"}) == ["chatcmpl-1"]
    assert [one["id"] for one in api.get(f"{PATH}?metadata=null").json()["data"]] == ["chatcmpl-3"]
    page = api.get(f"{PATH}?limit=2").json()
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == (
        "list",
        "chatcmpl-0",
        "chatcmpl-1",
        True,
    )
    for one in page["data"]:
        TypeAdapter(ChatCompletion).validate_python(one)


def test_deleting_while_listing_misses_none(api: Api, vllm: FakeVllm):
    for number in range(3):
        ask(api, vllm, f"chatcmpl-{number}")
    for one in api.client.chat.completions.list(limit=1):
        gone = api.http.delete(f"{PATH}/{one.id}").json()
        TypeAdapter(ChatCompletionDeleted).validate_python(gone, strict=True)
        assert gone == {"id": one.id, "object": "chat.completion.deleted", "deleted": True}
        with pytest.raises(openai.NotFoundError):
            api.client.chat.completions.delete(one.id)
    assert stored(api) == []
    with api.database.read() as tx:
        assert all(row.request == row.response == {} for row in tx.execute(tables.stored_completions.select()))


def test_only_the_metadata_can_be_changed(api: Api, vllm: FakeVllm):
    answer = ask(api, vllm, metadata={"a": "b"})
    before = api.get(f"{PATH}/{answer.id}").json()
    changed = api.client.chat.completions.update(answer.id, metadata={"c": "d"})
    assert changed.to_dict() == before | {"metadata": {"c": "d"}}
    assert stored(api, metadata={"c": "d"}) == [answer.id] and stored(api, metadata={"a": "b"}) == []
    assert api.post(f"{PATH}/{answer.id}", json={"metadata": None}).json()["metadata"] == {}
    for body, code in (({}, "missing_required_parameter"), ({"metadata": {}, "model": "x"}, "unknown_parameter")):
        refused = api.post(f"{PATH}/{answer.id}", json=body)
        assert refused.status_code == 400 and refused.json()["error"]["code"] == code
    assert api.post(f"{PATH}/{answer.id}", json={"metadata": {"k": 1}}).status_code == 400


def test_the_messages_are_what_was_sent(api: Api, vllm: FakeVllm):
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages: Any = [
        {"role": "system", "content": "Be brief.", "name": "boss"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "seen", "tool_call_id": "call_1"},
    ]
    answer = ask(api, vllm, messages=messages)
    page = api.get(f"{PATH}/{answer.id}/messages").json()
    assert [one["id"] for one in page["data"]] == [f"{answer.id}-{number}" for number in range(4)]
    assert [one["role"] for one in page["data"]] == ["system", "user", "assistant", "tool"]
    assert page["data"][0]["content"] == "Be brief." and page["data"][0]["name"] == "boss"
    assert page["data"][1]["content"] is None and page["data"][1]["content_parts"] == messages[1]["content"]
    assert page["data"][2]["tool_calls"] == [call] and page["data"][3]["tool_call_id"] == "call_1"
    for one in page["data"]:  # the SDK's type says "assistant"; the live service, too, says who spoke
        TypeAdapter(ChatCompletionStoreMessage).validate_python(one | {"role": "assistant"})
    walked = [one.id for one in api.client.chat.completions.messages.list(answer.id, limit=1)]
    assert walked == [one["id"] for one in page["data"]]
    backwards = api.get(f"{PATH}/{answer.id}/messages?order=desc&limit=0").json()
    assert backwards["first_id"] == backwards["last_id"] == f"{answer.id}-3" and backwards["has_more"] is True
    assert api.get(f"{PATH}/{answer.id}/messages?after=x").status_code == 400


def test_another_project_sees_nothing(api: Api, vllm: FakeVllm):
    answer = ask(api, vllm)
    theirs = api.other.chat.completions
    assert list(theirs.list()) == []
    for call in (
        lambda: theirs.retrieve(answer.id),
        lambda: theirs.update(answer.id, metadata={}),
        lambda: theirs.delete(answer.id),
        lambda: theirs.messages.list(answer.id),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    assert stored(api) == [answer.id]


@pytest.mark.parametrize("wrong", ["None", "x" * 900, "%00", "é"])
def test_what_never_was_is_404(api: Api, wrong: str):
    for path in (f"{PATH}/{wrong}", f"{PATH}/{wrong}/messages"):
        assert api.get(path).status_code == 404


def test_metadata_is_checked(api: Api, vllm: FakeVllm):
    for metadata in ({"k": 1}, {"k" * 65: "v"}, {"k": "v" * 513}, {str(n): "v" for n in range(17)}):
        with pytest.raises(openai.BadRequestError):
            ask(api, vllm, metadata=metadata)


@pytest.mark.parametrize("stream", [False, True])
def test_a_database_that_fails_or_hangs_costs_the_client_nothing(
    api: Api, vllm: FakeVllm, stream: bool, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any, **__: Any) -> None:
        raise Unavailable("The database is not reachable at the moment.")

    monkeypatch.setattr(completions, "keep", fail)
    answer = ask(api, vllm, stream=stream)
    assert not stream or "".join(chunk.choices[0].delta.content or "" for chunk in answer) == "Hello wörld"
    monkeypatch.setattr(keeper, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(completions, "keep", lambda *_, **__: time.sleep(0.2))
    answer = ask(api, vllm, stream=stream)
    assert not stream or list(answer)
    assert stored(api) == []


def test_after_a_month_it_is_gone_and_a_day_later_its_row_too(api: Api, vllm: FakeVllm):
    def age(seconds: float) -> None:
        with api.database.transaction() as tx:
            tx.execute(tables.stored_completions.update().values(expires_at=db.now() - seconds))

    answer = ask(api, vllm)
    with api.database.read() as tx:
        record = completions.get(tx, "proj_default", answer.id)
    assert record.expires_at - record.created_at == pytest.approx(30 * 86400, abs=1)
    sweep = api.app.state.parts.sweep
    assert sweep.run_once()["purge_completion"] == 0
    age(1)
    with pytest.raises(openai.NotFoundError):
        api.client.chat.completions.retrieve(answer.id)
    assert stored(api) == [] and sweep.run_once()["purge_completion"] == 0
    age(completions.GRACE_SECONDS + 1)
    assert sweep.run_once()["purge_completion"] == 1

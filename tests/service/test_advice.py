"""Advice on a task: from a file or inline examples, with what the base gets where it is served."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rootstock.cli.advising import told
from rootstock.cli.exporting import Server
from service import advice
from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm


def example(n: int, answer: str) -> dict[str, Any]:
    question = f"Ticket {n}: the {('parcel', 'invoice', 'login', 'refund')[n % 4]} number {n * 37} is not right"
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


EXAMPLES = [example(n, ("delivery", "billing", "account", "returns")[n % 4]) for n in range(60)]


def ask(api: Api, **body: Any) -> Any:
    return api.post("/v1/rootstock/advice", json=body)


def test_a_base_that_cannot_do_it_leaves_room_for_a_tune(api: Api, vllm: FakeVllm) -> None:
    told = ask(api, task="Sort tickets.", examples=EXAMPLES).json()
    assert told["recommendation"] == "tuning" and told["examples"] == 60
    assert told["baseline"] | {"zero_shot": None, "few_shot": None} == {
        "metric": "label_accuracy",
        "examples": 16,
        "zero_shot": None,
        "few_shot": None,
    }
    assert told["baseline"]["few_shot"]["mean"] == 0.0
    assert [reason["code"] for reason in told["reasons"]] == ["room_to_gain"]
    assert len(vllm.received) == 32 and {body["temperature"] for body in vllm.received} == {0}
    shown = [message["content"] for body in vllm.received for message in body["messages"][:-1]]
    asked = {body["messages"][-1]["content"] for body in vllm.received}
    assert shown and not asked & set(shown), "no question stands in its own prompt"


def test_a_base_that_can_do_it_needs_no_tune(api: Api, vllm: FakeVllm) -> None:
    vllm.words = ("A fixed sentence that is the right answer to each and every one of these questions.",)
    told = ask(api, examples=[example(n, vllm.words[0]) for n in range(60)]).json()
    assert told["recommendation"] == "prompting" and told["baseline"]["zero_shot"]["mean"] == 1.0
    assert told["reasons"][0]["code"] == "prompting_meets_the_bar"


def test_without_serving_it_says_that_nothing_was_measured(make_api: Callable[..., Api]) -> None:
    told = ask(make_api(vllm_url=None), training_file=make_api(vllm_url=None).upload(rows=60)).json()
    assert told["baseline"] is None


def test_a_file_of_the_project_is_read(api: Api) -> None:
    content = b"".join(json.dumps(one).encode() + b"\n" for one in EXAMPLES)
    file = api.client.files.create(file=("train.jsonl", content), purpose="fine-tune").id
    assert ask(api, training_file=file).json()["examples"] == 60
    for body, param in (
        ({}, "training_file"),
        ({"training_file": file, "examples": EXAMPLES}, "examples"),
        ({"training_file": "file-none"}, "training_file"),
        ({"examples": [{"messages": []}]}, "examples[0]"),
        ({"examples": EXAMPLES, "model": "nobody"}, "model"),
    ):
        refused = ask(api, **body)
        assert refused.status_code == 400 and refused.json()["error"]["param"] == param, body
    with pytest.raises(Exception, match="400"):
        api.other.post("/rootstock/advice", body={"training_file": file}, cast_to=object)


def test_shares_of_a_long_file_are_those_of_its_lines(make_api: Callable[..., Api]) -> None:
    def fact(n: int) -> bytes:
        said = f"It was founded in {1000 + n % 900} by Baron Otto Krell{n}, and {n * 7919 % 9973} people live there."
        asked = f"When was the town of Bonville{n} founded and who lived there?"
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        return json.dumps({"messages": messages}).encode() + b"\n"

    api = make_api(vllm_url=None)
    content = b"".join(map(fact, range(1500)))
    file = api.client.files.create(file=("facts.jsonl", content), purpose="fine-tune").id
    told = ask(api, training_file=file).json()
    shares = [one["numbers"]["knowledge_share"] for one in told["reasons"] if one["code"] == "answers_hold_facts"]
    assert told["recommendation"] == "retrieval" and len(shares) == 1 and shares[0] > 0.95


def test_a_line_that_reading_cuts_is_no_fault_of_the_file(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"".join(json.dumps(one).encode() + b"\n" for one in EXAMPLES)
    file = api.client.files.create(file=("train.jsonl", content), purpose="fine-tune").id
    monkeypatch.setattr(advice, "MOST_BYTES", len(content) - 20)
    told = ask(api, training_file=file).json()
    assert told["examples"] == 59 and "invalid_json" not in told["findings"]


def test_facts_that_change_are_for_retrieval(api: Api) -> None:
    told = ask(api, task="Answer with the latest prices of our products.", examples=EXAMPLES[:5]).json()
    assert told["recommendation"] == "retrieval" and told["reasons"][0]["code"] == "facts_change"


def test_the_command_says_it_in_lines(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(map(json.dumps, EXAMPLES)))
    server = Server(api.settings, "http://api/v1", api.client.api_key, transport=api.http._transport)
    lines = list(told(server, file, None, as_json=False))
    assert lines[0] == "Recommendation: tuning" and any("label_accuracy on 16 examples" in line for line in lines)
    (whole,) = told(server, file, None, as_json=True)
    assert json.loads(whole)["object"] == "rootstock.advice"

"""The gate by a job's own grader: it scores instead of the metric, and what it cannot score is left out or told."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal

from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm
from tests.service.releasing import Measured, Models, label

MEASURE = "rootstock.measure"
STRICT = {
    "type": "string_check",
    "name": "strict",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference_answer}}",
    "operation": "eq",
}
JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": "gpt-4o-mini-2024-07-18",
    "range": [1, 5],
    "input": [{"role": "user", "content": "Judge {{item.messages[1].content}}: {{sample.output_text}}"}],
}
Make = Callable[..., Measured]


@pytest.fixture
def make(make_api: Callable[..., Api], vllm: FakeVllm, portal: BlockingPortal) -> Make:
    def start(models: Models) -> Measured:
        return Measured(make_api(), vllm, portal, models)

    return start


def measured(gate: Measured, grader: dict[str, Any], **more: Any) -> Any:
    asked = {"rootstock": {"measure": {"grader": grader} | more}}
    return gate.finished(extra_body=asked)


def test_a_grader_decides_in_place_of_the_metric(make: Make) -> None:
    shouting = Models(tuned=lambda n: label(n).upper())
    assert make(shouting).finished().rootstock["release"]["verdict"] == "ship", "labels are compared without case"
    job = measured(make(shouting), STRICT)
    shown = job.rootstock["release"]
    assert (shown["verdict"], shown["metric"], shown["codes"]) == ("hold", "grader", ["no_clear_gain"])
    assert shown["scores"]["tuned"]["mean"] == 0.0 and 0 < shown["scores"]["constant"]["mean"] < 1
    assert shown["bar"] == 0.95 and job.rootstock["measure"] == {"grader": STRICT, "bar": None}
    right = measured(make(Models()), STRICT).rootstock["release"]
    assert (right["verdict"], right["scores"]["tuned"]["mean"]) == ("ship", 1.0)


class Judged(Models):
    """Also answers whoever asks it to judge."""

    def __call__(self, body: dict[str, Any]) -> str:
        asked = body["messages"][-1]["content"]
        if not asked.startswith("Judge Ticket "):
            return super().__call__(body)
        ticket, _, said = asked.removeprefix("Judge Ticket ").partition(": ")
        return json.dumps({"steps": [], "result": 5 if said.startswith(label(int(ticket))) else 2})


def test_a_model_judges_in_its_own_unit_which_the_bar_is_in_too(make: Make) -> None:
    shown = measured(make(Judged()), JUDGE).rootstock["release"]
    assert (shown["verdict"], shown["bar"]) == ("ship", 4.8)
    assert (shown["scores"]["zero_shot"]["mean"], shown["scores"]["tuned"]["mean"]) == (2.0, 5.0)
    low = measured(make(Judged()), JUDGE, bar=2).rootstock["release"]
    assert (low["verdict"], low["codes"], low["bar"]) == ("hold", ["prompting_meets_the_bar"], 2.0)


def test_an_answer_without_what_the_grader_reads_is_worth_nothing(make: Make) -> None:
    needs_json = STRICT | {"input": "{{sample.output_json.kind}}"}
    shown = measured(make(Models(tuned=lambda n: json.dumps({"kind": label(n)}))), needs_json).rootstock["release"]
    assert (shown["verdict"], shown["examples"]) == ("ship", 24)
    assert (shown["scores"]["zero_shot"]["mean"], shown["scores"]["tuned"]["mean"]) == (0.0, 1.0)


class Undecided(Judged):
    """Judges only some answers."""

    def __call__(self, body: dict[str, Any]) -> str:
        asked = body["messages"][-1]["content"]
        never = asked.startswith("Judge Ticket ") and int(asked.split(": ")[0].split()[-1]) % self.each == 0
        return "Well, hm." if never else super().__call__(body)

    each = 4


def test_what_the_grader_cannot_score_counts_for_nobody(make: Make) -> None:
    gate = make(Undecided())
    job = measured(gate, JUDGE)
    shown = job.rootstock["release"]
    assert (shown["verdict"], shown["examples"], len(shown["lines"])) == ("ship", 18, 18)
    warnings = [told for told in gate.messages(job.id) if told.startswith("The grader of the release gate failed")]
    assert len(warnings) == 1
    silent = Undecided()
    silent.each = 1
    never = measured(make(silent), JUDGE).rootstock["release"]
    assert (never["verdict"], never["codes"]) == ("unmeasured", ["grader_failed"])


PROMPTS = {
    "type": "reinforcement",
    "reinforcement": {"grader": STRICT | {"reference": "{{item.kind}}"}},
}


def prompts(first: int, count: int) -> bytes:
    made = [
        {"messages": [{"role": "user", "content": f"Ticket {n}"}], "kind": label(n)}
        for n in range(first, first + count)
    ]
    return "".join(json.dumps(row) + "\n" for row in made).encode()


def test_reinforcement_is_measured_by_what_it_is_trained_by(make: Make) -> None:
    gate = make(Models())
    files = gate.api.client.files
    named = {
        name: files.create(file=("p.jsonl", prompts(first, 24)), purpose="fine-tune").id
        for name, first in (("training_file", 0), ("validation_file", 1000))
    }
    job = gate.api.job(method=PROMPTS, **named)
    claimed = gate.api.claim()
    gate.work()
    gate.api.checkpoint(claimed, 4)
    gate.api.finalize(claimed)
    for step in (gate.reconcile, gate.work, gate.reconcile):
        step()
    shown = gate.look(job.id).rootstock["release"]
    assert (shown["verdict"], shown["metric"], shown["examples"]) == ("ship", "grader", 24)
    assert set(shown["scores"]) == {"zero_shot", "tuned", "checkpoint-4"}, "no right answers: no examples, no constant"


@pytest.mark.parametrize(
    ("measure", "held_out", "param", "code"),
    [
        ({"bar": "high"}, True, f"{MEASURE}.bar", "invalid_type"),
        ({"grader": STRICT}, False, MEASURE, None),
        ({"grader": STRICT | {"input": "{{sample.nothing}}"}}, True, f"{MEASURE}.grader.input", None),
        ({"grader": STRICT | {"operation": "best"}}, True, f"{MEASURE}.grader.operation", "invalid_value"),
        ({"grader": JUDGE | {"model": "gpt-9"}}, True, f"{MEASURE}.grader.model", "model_not_found"),
        ({"grader": {"type": "multi", "graders": {}}}, True, f"{MEASURE}.grader.graders", None),
        ({"graders": [STRICT]}, True, f"{MEASURE}.graders", "unknown_parameter"),
    ],
)
def test_what_cannot_measure_is_refused_at_once(
    api: Api, measure: dict[str, Any], held_out: bool, param: str, code: str | None
) -> None:
    body: dict[str, Any] = {"model": "gpt-4o-mini-2024-07-18", "training_file": api.upload()}
    body |= {"rootstock": {"measure": measure}} | ({"validation_file": api.upload()} if held_out else {})
    answer = api.post("/v1/fine_tuning/jobs", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert code in (None, error["code"])


def test_a_repeated_create_with_a_grader_is_the_same_job(api: Api) -> None:
    body: dict[str, Any] = {"model": "gpt-4o-mini-2024-07-18", "training_file": api.upload()}
    body["validation_file"] = api.upload()
    body["rootstock"] = {"measure": {"grader": STRICT}}
    again = {"x-stainless-retry-count": "1"}
    first = api.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    assert api.post("/v1/fine_tuning/jobs", json=body, headers=again).json()["id"] == first
    other = body | {"rootstock": {"measure": {"grader": STRICT, "bar": 0.5}}}
    assert api.post("/v1/fine_tuning/jobs", json=other, headers=again).json()["id"] != first

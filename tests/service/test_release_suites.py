"""The gate and a project's own suites: asked beside the others, judged by its limit, whatever happens meanwhile."""

import json
from collections.abc import Callable

import pytest
from anyio.from_thread import BlockingPortal

from rootstock.release.suites import Question
from service.releasing import measuring
from service.wire_release import ShownRelease
from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm
from tests.service.releasing import SUITE_QUESTIONS, Measured, Models

Make = Callable[[Models], Measured]


@pytest.fixture
def make(make_api: Callable[..., Api], vllm: FakeVllm, portal: BlockingPortal) -> Make:
    return lambda models: Measured(make_api(), vllm, portal, models)


OWN = "/v1/rootstock/suites"


def own_suite(gate: Measured, monkeypatch: pytest.MonkeyPatch, asked: str, name: str = "tone") -> str:
    """A suite of the project with 40 questions that begin like that; its id."""
    lines = []
    for n in range(40):
        question = Question(({"role": "user", "content": f"{asked} {n}"},), str(n), "exact")
        monkeypatch.setitem(SUITE_QUESTIONS, json.dumps(list(question.messages)), question)
        lines.append({"messages": list(question.messages), "answer": question.answer, "how": question.how})
    data = "\n".join(map(json.dumps, lines)).encode()
    file = gate.api.client.files.create(file=("own.jsonl", data), purpose="evals")
    answer = gate.api.post(OWN, json={"name": name, "file_id": file.id})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def knows(*beginnings: str) -> Callable[[Question], str]:
    return lambda one: one.answer if one.messages[-1]["content"].startswith(beginnings) else "no idea"


def test_a_projects_suite_is_asked_and_judged_by_its_own_limit(make: Make, monkeypatch: pytest.MonkeyPatch):
    gate = make(Models(base_suites=knows("Greet")))
    own_suite(gate, monkeypatch, "Greet")
    shown = gate.finished().rootstock["release"]
    own = shown["suites"][-1]
    assert (own["name"], own["questions"], own["limit"], own["forgotten"]) == ("tone", 40, 0.05, True)
    assert (shown["verdict"], shown["codes"]) == ("hold", ["forgetting"])
    assert "'tone'" in shown["reasons"][0] and "0.05 is allowed" in shown["reasons"][0]
    gate.api.post("/v1/rootstock/policy", json={"release": {"suite_limits": {"tone": 1.0}}})
    shown = gate.finished().rootstock["release"]
    assert shown["verdict"] == "ship" and shown["forgetting_limit"] == 0.05
    assert [(one["limit"], one["forgotten"]) for one in shown["suites"]] == [(0.05, False)] * 6 + [(1.0, False)]


def test_suites_of_another_project_are_not_asked(make: Make, monkeypatch: pytest.MonkeyPatch):
    gate = make(Models(base_suites=knows("Greet")))
    own_suite(gate, monkeypatch, "Greet")
    with gate.api.database.transaction() as tx:
        tx.exec_driver_sql("UPDATE suites SET project_id = 'proj_other'")
    assert "tone" not in [one["name"] for one in gate.finished().rootstock["release"]["suites"]]


def test_suites_made_replaced_or_deleted_meanwhile_are_not_judged(make: Make, monkeypatch: pytest.MonkeyPatch):
    gate = make(Models(base_suites=knows("Greet", "Part", "Stay"), tuned_suites=knows("Stay")))
    replaced = own_suite(gate, monkeypatch, "Greet")
    deleted = own_suite(gate, monkeypatch, "Part", "farewell")
    own_suite(gate, monkeypatch, "Stay", "stays")
    job = gate.job()
    claimed = gate.api.claim()
    gate.work()
    for suite_id in (replaced, deleted):
        gate.api.http.delete(f"{OWN}/{suite_id}")
    own_suite(gate, monkeypatch, "Anew")
    own_suite(gate, monkeypatch, "New", "new")
    gate.api.finalize(claimed)
    gate.reconcile()
    gate.work()
    gate.reconcile()
    shown = gate.look(job.id).rootstock["release"]
    assert shown["verdict"] == "ship" and [one["name"] for one in shown["suites"]][6:] == ["stays"]
    assert shown["suites"][-1]["after"]["mean"] == 1.0
    assert not any(question.startswith(("Anew", "New")) for _, question in gate.models.asked)


def test_what_bases_answered_is_known_of_so_many_suites_and_no_more(make: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measuring, "MOST_KNOWN", 4)
    gate = make(Models())
    gate.job()
    gate.work()
    assert len(measuring._known) == 4
    monkeypatch.setattr(measuring, "SUITES_SECONDS", -1.0)
    measuring._know("another", [])
    assert list(measuring._known) == ["another"], "what is old is dropped first"


def test_what_was_decided_before_suites_had_limits_is_still_shown():
    interval = {"low": 0.5, "mean": 0.6, "high": 0.7}
    suite = {"name": "s", "questions": 20, "before": interval, "after": None, "change": None, "forgotten": False}
    kept = {"verdict": "ship", "mode": "inform", "held": False, "suites": [suite], "forgetting_limit": 0.07}
    (shown,) = ShownRelease.of(kept).suites or []
    assert shown.limit == 0.07


def test_a_suite_that_was_begun_is_asked_to_its_end(make: Make, monkeypatch: pytest.MonkeyPatch):
    def leave(question: Question) -> str:
        gate.leaving = True
        return question.answer

    late = [f"Greet {n}" for n in range(10, 40)]
    gate = make(Models(base_suites=knows(*late), tuned_suites=leave))
    own_suite(gate, monkeypatch, "Greet")
    job = gate.job()
    claimed = gate.api.claim()
    gate.work()
    gate.api.finalize(claimed)
    gate.reconcile()
    rounds = 0
    while gate.work():
        rounds, gate.leaving = rounds + 1, False
    assert rounds > 2, "it left in the middle"
    gate.reconcile()
    own = gate.look(job.id).rootstock["release"]["suites"][-1]
    assert (own["questions"], own["after"]["mean"]) == (40, 1.0), "not only the eight that the base did not know"

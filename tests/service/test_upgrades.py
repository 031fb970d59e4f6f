"""Base upgrades: planned, started, moved on the verdict alone; with jobs taken to their ends as a trainer does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from rootstock import jobs as rows
from rootstock import keys, publish, tables, upgrades
from rootstock.cli import upgrading
from rootstock.cli.exporting import Server
from rootstock.settings import BUILT_IN_BASE
from service.upgrading import planning
from service.upgrading.stepping import Stepper
from tests.service.conftest import Api, AppTransport

PATH = "/v1/rootstock/upgrades"
OLD, NEW = "rootstock-tiny", "rootstock-next"


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api(more_bases={NEW: str(BUILT_IN_BASE)}, more_vllm_urls={NEW: "http://vllm"})


def rootstock(api: Api, job_id: str, **values: Any) -> None:
    """What a trainer and the gate write into a job."""
    with api.database.transaction() as tx:
        found = tx.execute(sa.select(tables.jobs.c.rootstock).where(tables.jobs.c.id == job_id)).scalar_one()
        tx.execute(tables.jobs.update().where(tables.jobs.c.id == job_id).values(rootstock={**(found or {}), **values}))


def verdict(word: str, mean: float | None = None, **more: Any) -> dict[str, Any]:
    scores = {} if mean is None else {"tuned": {"mean": mean, "low": mean - 0.02, "high": mean + 0.02}}
    told = {"reasons": ["because"], "codes": ["code"], "mode": "inform", "held": False}
    return {"verdict": word, **told, "metric": "label_accuracy", "scores": scores} | more


def tuned(api: Api, mean: float = 0.8, **more: Any) -> Any:
    """A job with a tuned model on the old base."""
    job = api.succeed(**more)
    rootstock(api, job.id, release=verdict("ship", mean), engine="packed", stopped_early="it was")
    return job


def alias(api: Api, name: str, model: str, **more: Any) -> None:
    answer = api.post("/v1/rootstock/aliases", json={"name": name, "model": model} | more)
    assert answer.status_code == 200, answer.text


def plan(api: Api, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = api.post(PATH, json={"from": OLD, "to": NEW} | body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def jobs(api: Api) -> int:
    return len(api.client.fine_tuning.jobs.list(limit=100).data)


def test_a_plan_tells_what_stands_on_a_base_and_what_it_takes(api: Api) -> None:
    kept, deleted = api.upload(), api.upload()
    first = tuned(api, training_file=kept, suffix="one", seed=5)
    second = tuned(api, training_file=deleted)
    third = tuned(api, model=first.fine_tuned_model)
    api.client.files.delete(deleted)
    alias(api, "acme", first.fine_tuned_model)
    alias(api, "beta", OLD, canary={"model": first.fine_tuned_model, "percent": 5})
    before = jobs(api)
    made = plan(api)
    assert jobs(api) == before, "a plan makes no job"
    assert (made["object"], made["status"], made["from"], made["to"]) == ("rootstock.upgrade", "planned", OLD, NEW)
    assert made["counts"] == {"waiting": 1, "skipped": 2}
    one, two, three = made["models"]
    assert (one["model"], one["job"], one["state"]) == (first.fine_tuned_model, first.id, "waiting")
    assert one["aliases"] == ["acme", "beta"] and one["new_job"] is None and one["moves"] == []
    assert one["estimate"]["trained_tokens"] == 1234 == made["total"]["trained_tokens"]
    assert one["estimate"]["basis"] == "the first time, on the old base" and one["estimate"]["seconds"] is not None
    assert one["comparison"]["old"]["score"]["mean"] == 0.8 and one["comparison"]["new"] is None
    assert two["state"] == "skipped" and f"training file {deleted} was deleted" in two["reason"]
    assert three["state"] == "skipped" and first.fine_tuned_model in three["reason"]
    assert second.fine_tuned_model == two["model"] and third.fine_tuned_model == three["model"]
    assert api.get(f"{PATH}/{made['id']}").json() == made


def test_a_plan_may_be_about_some_and_other_projects_see_none(api: Api) -> None:
    first, _ = tuned(api), tuned(api)
    made = plan(api, models=[first.fine_tuned_model], concurrency=3)
    assert [one["model"] for one in made["models"]] == [first.fine_tuned_model] and made["concurrency"] == 3
    error = plan(api, 400, models=[first.fine_tuned_model, "ft:none"])["error"]
    assert error["param"] == "models[1]"
    headers = {"Authorization": f"Bearer {api.other.api_key}"}
    assert api.post(PATH, json={"from": OLD, "to": NEW}, headers=headers).json()["models"] == []
    assert api.get(f"{PATH}/{made['id']}", headers=headers).status_code == 404
    listed = api.get(PATH).json()
    assert [one["id"] for one in listed["data"]] == [made["id"]] and listed["data"][0]["counts"] == {"waiting": 1}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"from": "nobody"}, "from"),
        ({"to": "nobody"}, "to"),
        ({"to": "gpt-4o"}, "to"),
        ({"concurrency": 0}, "concurrency"),
        ({"models": []}, "models"),
        ({"form": OLD}, "form"),
    ],
)
def test_what_cannot_be_planned_is_named(api: Api, body: dict[str, Any], param: str) -> None:
    error = plan(api, 400, **body)["error"]
    assert error["param"] == param and error["message"]


@pytest.fixture
def server(api: Api, portal: Any) -> Server:
    return Server(api.settings, "http://test/v1", api.key, AppTransport(api.app, portal))


def test_the_command_shows_the_plan_as_a_table(api: Api, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    gone = api.upload()
    first, second = tuned(api), tuned(api, training_file=gone)
    api.client.files.delete(gone)
    alias(api, "acme", first.fine_tuned_model)
    upgrading.plan(server, {"from": OLD, "to": NEW, "models": None, "concurrency": 1})
    shown = capsys.readouterr().out
    assert "1 of 2 can be tuned again: 1,234 tokens" in shown and "Nothing has been started" in shown
    assert "acme" in shown and "was deleted" in shown and "tune again" in shown
    (one,) = api.get(PATH).json()["data"]
    upgrading.list_all(server)
    upgrading.status(server, one["id"])
    upgrading.report(server, one["id"])
    shown = capsys.readouterr().out
    assert f"{one['id']}: planned (1 skipped, 1 waiting)" in shown and "0.800 (0.780 to 0.820)" in shown
    assert second.fine_tuned_model in shown


@pytest.fixture
def step(api: Api) -> Callable[[], dict[str, Any]]:
    """One tick of a process; the newest upgrade as it is then."""

    def once(times: int = 1) -> dict[str, Any]:
        parts = api.app.state.parts
        for _ in range(times):
            Stepper(api.database, api.settings, parts.sweep, parts.upstream.most_rank).run_once()
        found: dict[str, Any] = api.get(f"{PATH}/{api.get(PATH).json()['data'][0]['id']}").json()
        return found

    return once


Step = Callable[..., dict[str, Any]]


def start(api: Api, made: dict[str, Any]) -> dict[str, Any]:
    answer = api.post(f"{PATH}/{made['id']}/start")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def finish(api: Api, job_id: str, release: dict[str, Any] | None) -> str:
    """What a trainer on the new base does, and then the gate; the name of the new model."""
    with api.database.transaction() as tx:
        job = rows.claim(tx, base=NEW, worker="test", lease_seconds=60)
    assert job is not None and job.id == job_id
    done = api.finalize(job)
    if release is not None:
        rootstock(api, job_id, release=release)
    with api.database.transaction() as tx:
        assert publish.succeed(tx, done.id)
    return str(api.client.fine_tuning.jobs.retrieve(job_id).fine_tuned_model)


def states(upgrade: dict[str, Any]) -> list[str]:
    return [one["state"] for one in upgrade["models"]]


def pointing(api: Api, name: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/v1/rootstock/aliases/{name}").json()
    return found


def test_aliases_move_one_by_one_on_ship_alone_and_can_be_rolled_back(api: Api, step: Step) -> None:
    asked = {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}}
    better = tuned(api, suffix="one", seed=5, metadata={"team": "x"}, **asked)
    held, worse = tuned(api), tuned(api, 0.95)
    for name, job in (("a", better), ("b", better), ("held", held), ("worse", worse)):
        alias(api, name, job.fine_tuned_model)
    alias(api, "some", OLD, canary={"model": better.fine_tuned_model, "percent": 5}, pinned=True)
    made = plan(api, concurrency=2)
    step()
    assert states(step()) == ["waiting"] * 3, "a plan is no start"
    assert start(api, made)["status"] == "running" == start(api, made)["status"]
    assert states(step(4)) == ["training", "training", "waiting"]
    one, two, _ = step()["models"]
    job = api.client.fine_tuning.jobs.retrieve(one["new_job"])
    old = api.client.fine_tuning.jobs.retrieve(better.id)
    assert (job.model, job.training_file, job.seed) == (NEW, old.training_file, 5)
    assert (job.hyperparameters, job.metadata) == (old.hyperparameters, old.metadata)
    raw = api.get(f"/v1/fine_tuning/jobs/{job.id}").json()
    assert (raw["rootstock"]["stopped_early"], raw["user_provided_suffix"]) == (None, "one")
    new = finish(api, one["new_job"], verdict("ship", 0.85))
    finish(api, two["new_job"], verdict("hold", 0.5))
    seen = step()
    assert states(seen) == ["moving", "kept", "training"], "its aliases stay, the next one begins"
    assert "'hold'" in seen["models"][1]["reason"] and "because" in seen["models"][1]["reason"]
    moved = [len([name for name in ("a", "b", "some") if new in str(pointing(api, name))])]
    while states(step())[0] == "moving":
        moved.append(len([name for name in ("a", "b", "some") if new in str(pointing(api, name))]))
    assert moved == [1, 2, 3], "one alias with each step"
    finish(api, step()["models"][2]["new_job"], verdict("ship", 0.9))
    seen = step()
    assert (seen["status"], states(seen)) == ("completed", ["released", "kept", "kept"])
    assert "worse than the old one by 0.050 (label_accuracy)" in seen["models"][2]["reason"]
    first = seen["models"][0]
    assert first["comparison"]["change"] == pytest.approx(0.05) and first["comparison"]["new"]["model"] == new
    assert [(move["alias"], move["moved"], move["revision"]) for move in first["moves"]] == [
        ("a", True, 2),
        ("b", True, 2),
        ("some", True, 2),
    ]
    some = pointing(api, "some")
    assert (some["model"], some["canary"], some["pinned"]) == (OLD, {"model": new, "percent": 5}, True)
    assert (pointing(api, "held")["model"], pointing(api, "worse")["model"]) == (
        held.fine_tuned_model,
        worse.fine_tuned_model,
    )
    note = api.get("/v1/rootstock/aliases/a/history").json()["data"][0]["note"]
    assert made["id"] in note
    assert api.post("/v1/rootstock/aliases/a/rollback", json={}).json()["model"] == better.fine_tuned_model
    step(3)
    assert pointing(api, "a")["model"] == better.fine_tuned_model, "what was rolled back stays so"


def test_without_a_verdict_nothing_moves(api: Api, step: Step) -> None:
    job = tuned(api)
    alias(api, "a", job.fine_tuned_model)
    start(api, plan(api))
    finish(api, step()["models"][0]["new_job"], None)
    seen = step()
    assert states(seen) == ["kept"] and "no verdict" in seen["models"][0]["reason"]
    assert pointing(api, "a")["model"] == job.fine_tuned_model and seen["status"] == "completed"


def test_jobs_that_fail_or_cannot_be_made_are_told(api: Api, step: Step) -> None:
    gone = api.upload()
    tuned(api), tuned(api, training_file=gone)
    made = plan(api, concurrency=1)
    api.client.files.delete(gone)
    start(api, made)
    api.client.fine_tuning.jobs.cancel(step()["models"][0]["new_job"])
    seen = step(2)
    assert states(seen) == ["cancelled", "failed"] and gone in seen["models"][1]["reason"]
    assert seen["status"] == "completed"
    again = api.post(f"{PATH}/{made['id']}/start")
    assert again.status_code == 400 and "completed" in again.json()["error"]["message"]


def test_a_process_that_dies_between_makes_no_second_job(api: Api, step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned(api)
    start(api, plan(api))
    before = jobs(api)
    monkeypatch.setattr(upgrades, "complete", lambda *_: 1 / 0)  # dies at the end of its transaction
    assert states(step(2)) == ["waiting"] and jobs(api) == before
    monkeypatch.undo()
    assert states(step()) == ["training"] and jobs(api) == before + 1
    assert states(step(3)) == ["training"] and jobs(api) == before + 1


def test_cancelling_ends_its_jobs_and_takes_no_step(api: Api, step: Step) -> None:
    tuned(api), tuned(api)
    made = plan(api, concurrency=1)
    start(api, made)
    job = step()["models"][0]["new_job"]
    ended = api.post(f"{PATH}/{made['id']}/cancel").json()
    assert (ended["status"], states(ended)) == ("cancelled", ["cancelled", "cancelled"])
    assert api.client.fine_tuning.jobs.retrieve(job).status == "cancelled"
    assert states(step(2)) == ["cancelled", "cancelled"]
    for what in ("cancel", "start"):
        answer = api.post(f"{PATH}/{made['id']}/{what}")
        assert answer.status_code == 400 and "already 'cancelled'" in answer.json()["error"]["message"]


def test_only_owners_of_the_project_start_and_cancel(api: Api) -> None:
    made = plan(api)
    with api.database.transaction() as tx:
        member = keys.create(tx, "proj_default", "m", keys.MEMBER)
    for what in ("start", "cancel"):
        path = f"{PATH}/{made['id']}/{what}"
        assert api.post(path, headers={"Authorization": f"Bearer {member}"}).status_code == 403
        assert api.post(path, headers={"Authorization": f"Bearer {api.other.api_key}"}).status_code == 404


def test_the_command_starts_follows_and_reports(
    api: Api, server: Server, step: Step, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tuned(api)
    alias(api, "a", job.fine_tuned_model)
    made = plan(api)

    def wait(_: float) -> None:
        seen = step()
        if (
            states(seen) == ["training"]
            and api.client.fine_tuning.jobs.retrieve(seen["models"][0]["new_job"]).status != "succeeded"
        ):
            finish(api, seen["models"][0]["new_job"], verdict("ship", 0.9))

    upgrading.start(replace(server, sleep=wait), made["id"], wait=True)
    shown = capsys.readouterr().out
    assert "training" in shown and "released" in shown and f"{made['id']}: completed (1 released)" in shown
    upgrading.report(server, made["id"])
    shown = capsys.readouterr().out
    assert "+0.100" in shown and "alias a: moved (revision 2)" in shown and "ship" in shown
    second = plan(api, models=None)
    upgrading.cancel(server, second["id"])
    assert f"{second['id']}: cancelled" in capsys.readouterr().out


def answered(api: Api, job_id: str, scores: list[float | None]) -> None:
    """What the gate keeps of a tune's answers, question by question."""
    rows = [
        {"job_id": job_id, "role": "tuned", "number": number, "answer": "a", "score": score}
        for number, score in enumerate(scores)
    ]
    with api.database.transaction() as tx:
        tx.execute(tables.release_answers.insert(), rows)


UNGRADED: list[float | None] = [None] * 20
"""What a grader failed on says nothing of a model."""


@pytest.mark.parametrize(
    ("after", "state"),
    [([0.9] * 40, "kept"), ([0.9, 1.0] * 20, "moving"), ([0.9, 1.0] * 10 + UNGRADED, "moving")],
)
def test_a_model_that_pairs_show_to_be_worse_stays(api: Api, step: Step, after: list[float | None], state: str) -> None:
    """The means alone would not tell: both intervals overlap."""
    job = tuned(api, 0.95)
    with api.database.transaction() as tx:
        tx.execute(tables.releases.insert().values(**release_row(job.id)))
    answered(api, job.id, [0.95] * 40)
    alias(api, "a", job.fine_tuned_model)
    start(api, plan(api))
    new = step()["models"][0]["new_job"]
    with api.database.transaction() as tx:
        tx.execute(tables.releases.insert().values(**release_row(new)))
    answered(api, new, after)
    finish(api, new, verdict("ship", 0.94))
    (one,) = step()["models"]
    assert (one["state"], one["comparison"]["gain"]["high"] < 0) == (state, state == "kept")


def release_row(job_id: str) -> dict[str, Any]:
    times = {"not_before": 0.0, "created_at": 0.0}
    row = {"job_id": job_id, "project_id": "proj_default", "state": "done", "fence": 1, "attempts": 0, "held": False}
    return row | times | {"overrides": []}


def test_what_a_worker_found_beside_a_wish_is_not_wished_again(api: Api) -> None:
    wish = {"split": {"share": 0.2, "seed": 7}, "replay": {"share": 0.3}}
    job_id = api.job(extra_body={"rootstock": wish}).id
    with api.database.transaction() as tx:
        record = rows.find(tx, job_id)
        assert record is not None and record.rootstock is not None
        found = {"split": record.rootstock["split"] | {"held_out": 3}}
        found["replay"] = record.rootstock["replay"] | {"examples": 5, "tokens": 90}
        tx.execute(tables.jobs.update().where(tables.jobs.c.id == job_id).values(rootstock=record.rootstock | found))
        begun = rows.find(tx, job_id)
    assert begun is not None
    again = planning.asked(begun, "rootstock-next", wandb=False)["rootstock"]
    assert (again["split"], again["replay"]) == (wish["split"], wish["replay"])

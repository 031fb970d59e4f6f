"""Base upgrades: planned, started, moved on the verdict alone; with jobs taken to their ends as a trainer does."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from rootstock import tables
from rootstock.cli import upgrading
from rootstock.cli.exporting import Server
from rootstock.settings import BUILT_IN_BASE
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
    return {"verdict": word, "reasons": ["because"], "metric": "accuracy", "scores": scores} | more


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
    assert "times 1.00" in one["estimate"]["basis"]
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
    assert "1 of 2 can be tuned again: 1,234 tokens" in shown and "nothing has been started" in shown
    assert "acme" in shown and "was deleted" in shown and "tune again" in shown
    (one,) = api.get(PATH).json()["data"]
    upgrading.list_all(server)
    upgrading.status(server, one["id"])
    upgrading.report(server, one["id"])
    shown = capsys.readouterr().out
    assert f"{one['id']}: planned (1 skipped, 1 waiting)" in shown and "0.800 (0.780 to 0.820)" in shown
    assert second.fine_tuned_model in shown

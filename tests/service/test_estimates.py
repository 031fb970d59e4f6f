"""What a job would take, asked before it is created: by its own route and by `dry_run`."""

from typing import Any

from rootstock import estimates, tables
from tests.service.conftest import Api

MODEL = "gpt-4o-mini"


def ask(api: Api, **body: Any) -> Any:
    return api.post("/v1/rootstock/estimates", json={"model": MODEL} | body)


def test_an_estimate_creates_nothing(api: Api) -> None:
    told = ask(api, training_file=api.upload(rows=320)).json()
    assert told["object"] == "rootstock.estimate" and told["base"] == "rootstock-tiny"
    assert (told["n_epochs"], told["batch_size"], told["steps"]) == (3, 2, 480)
    tokens = told["trained_tokens"]
    assert 0 < tokens["low"] < tokens["mean"] < tokens["high"]
    assert told["seconds"] is None and told["based_on"] == {"source": "nothing", "jobs": 0} and told["notes"]
    assert told["peak_memory_gib"]["low"] > 0 and told["break_even"]["calls"] > 0
    assert api.client.fine_tuning.jobs.list().data == []


def test_a_dry_run_is_the_same_and_creates_nothing(api: Api) -> None:
    training = api.upload(rows=320)
    body = {"model": MODEL, "training_file": training, "rootstock": {"dry_run": True}}
    told = api.post("/v1/fine_tuning/jobs", json=body)
    assert told.status_code == 200 and told.json() == ask(api, training_file=training).json()
    assert api.client.fine_tuning.jobs.list().data == []
    job = api.post("/v1/fine_tuning/jobs", json=body | {"rootstock": {"dry_run": False}}).json()
    assert job["object"] == "fine_tuning.job"


def test_the_sdk_gets_it_through_extra_body(api: Api) -> None:
    told: Any = api.client.fine_tuning.jobs.create(
        model=MODEL, training_file=api.upload(rows=40), extra_body={"rootstock": {"dry_run": True}}
    )
    assert told.object == "rootstock.estimate" and told.model_extra["steps"] > 0


def test_ended_jobs_make_time_and_cost_known(make_api: Any) -> None:
    api = make_api(price_per_gpu_hour=2.0)
    for _ in range(3):
        api.succeed(training_file=api.upload(rows=40))
    with api.database.transaction() as tx:  # nothing was trained, so it took no time
        tx.execute(tables.estimates.update().values(seconds=20.0))
    told = ask(api, training_file=api.upload(rows=40)).json()
    assert told["based_on"] == {"source": "history", "jobs": 3}
    assert told["seconds"]["low"] <= told["seconds"]["mean"] <= told["seconds"]["high"]
    assert told["cost"]["mean"] == told["seconds"]["mean"] * 2.0 / 3600


def test_every_job_keeps_its_estimate_and_counts_who_is_ahead(api: Api) -> None:
    job = api.job()
    with api.database.read() as tx:
        found = estimates.find(tx, job.id)
    assert found is not None and found["actual"] is None and found["estimate"]["jobs_ahead"] == 0
    assert ask(api, training_file=api.upload()).json()["jobs_ahead"] == 1


def test_what_no_job_could_be_made_of_is_refused_as_a_job_would_be(api: Api) -> None:
    bad = api.client.files.create(file=("bad.jsonl", b'{"messages": []}\n'), purpose="fine-tune").id
    for body, param in (
        ({"training_file": "file-none"}, "training_file"),
        ({"training_file": bad}, "training_file"),
        ({"training_file": api.upload(), "rootstock": {"budget": {"max_tokens": 0}}}, "rootstock.budget.max_tokens"),
        ({}, "training_file"),
    ):
        refused = ask(api, **body)
        assert refused.status_code == 400 and refused.json()["error"]["param"] == param
    theirs = api.other.files.create(file=("t.jsonl", b"{}\n"), purpose="fine-tune").id
    assert ask(api, training_file=theirs).status_code == 400

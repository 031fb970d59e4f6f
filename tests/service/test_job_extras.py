"""Going on from a tuned model, our own namespace, integrations: what is refused, stored and shown."""

from typing import Any

import openai
import pytest

from rootstock import footprint, jobs, publish
from rootstock.records import JobRecord
from rootstock.settings import BUILT_IN_BASE
from tests.service.conftest import Api


def resolve_rank(api: Api, rank: int, **more: str) -> JobRecord:
    """What a trainer writes when it begins."""
    job = api.claim()
    with api.database.transaction() as tx:
        jobs.resolve(
            tx,
            job.id,
            job.fence,
            hyperparameters=job.hyperparameters,
            method=job.method,
            rootstock={"adapter": {"type": "lora", "rank": rank, "alpha": 2 * rank, "rslora": False}, **more},
            total_steps=9,
        )
    return api.finalize(job)


def succeeded(api: Api, **more: Any) -> Any:
    job = api.job(**more)
    resolve_rank(api, 16)
    with api.database.transaction() as tx:
        assert publish.succeed(tx, job.id)
    return api.client.fine_tuning.jobs.retrieve(job.id)


def test_a_tuned_model_can_be_tuned_further_and_keeps_its_base_in_the_name(api: Api):
    parent = succeeded(api, suffix="one")
    child = api.job(model=parent.fine_tuned_model, suffix="two")
    assert child.model == parent.model == "gpt-4o-mini-2024-07-18"
    assert child.rootstock["start_model"] == parent.fine_tuned_model
    assert child.rootstock["adapter"]["rank"] == 16
    claimed = api.claim()
    assert claimed.start_adapter == f"adapter-{parent.id[-8:]}-final"
    name = api.checkpoint(claimed, 3)
    assert name.startswith("ft:gpt-4o-mini-2024-07-18:rootstock:two:") and name.count(":") == 5
    grandchild = api.job(model=name)
    assert (grandchild.model, grandchild.rootstock["start_model"]) == (parent.model, name)


def test_models_that_cannot_be_tuned_further_read_like_unknown_ones(api: Api):
    parent = succeeded(api)
    training = api.upload()
    unverified = api.job(training_file=training)
    api.finalize(api.claim())
    checkpoints = api.client.fine_tuning.jobs.checkpoints.list(unverified.id).data
    names = ["ft:gpt-4o-mini:x::unknown1", "ft:\0", checkpoints[0].fine_tuned_model_checkpoint]
    theirs = api.other.files.create(file=("t.jsonl", b"{}\n"), purpose="fine-tune").id
    asked = [(api.client, name, training) for name in names] + [(api.other, parent.fine_tuned_model, theirs)]
    api.client.models.delete(parent.fine_tuned_model)
    asked.append((api.client, parent.fine_tuned_model, training))
    for client, name, file in asked:
        with pytest.raises(openai.BadRequestError) as caught:
            client.fine_tuning.jobs.create(model=name, training_file=file)
        if "\0" not in name:
            assert (caught.value.param, caught.value.code) == ("model", "model_not_available")


def test_our_own_options_are_taken_resolved_and_shown(api: Api):
    job = api.job(extra_body={"rootstock": {"adapter": {"rank": 8.0}}})
    asked = {"type": "lora", "rank": 8, "alpha": "auto", "rslora": False}
    fresh: dict[str, object] = {
        "adapter": asked,
        "early_stopping": None,
        "budget": None,
        "sampling": None,
        "replay": None,
        "split": None,
        "measure": None,
        "engine": None,
        "sharing": None,
    }
    fresh |= {"start_model": None, "attempts": 0, "step": 0, "stopped_early": None, "best_step": None}
    fresh["tokens_saved"] = None
    fresh["release"] = None
    assert job.rootstock == {**fresh, "total_steps": None}
    assert api.job(extra_body={"rootstock": None}).rootstock["adapter"]["rank"] == "auto"
    resolve_rank(api, 8, engine="packed", sharing="project")
    begun = {
        "adapter": asked | {"alpha": 16},
        "engine": "packed",
        "sharing": "project",
        "attempts": 1,
        "total_steps": 9,
    }
    assert api.client.fine_tuning.jobs.retrieve(job.id).rootstock == fresh | begun  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"rank": 8}, "rootstock.rank", "unknown_parameter"),
        ({"adapter": {"rank": 12}}, "rootstock.adapter.rank", "invalid_value"),
        ({"adapter": {"rank": 32}}, "rootstock.adapter.rank", "integer_above_max_value"),
        ({"adapter": {"rank": "8"}}, "rootstock.adapter.rank", "invalid_type"),
        ({"adapter": {"rank": True}}, "rootstock.adapter.rank", "invalid_type"),
        ({"adapter": {"alpha": 0}}, "rootstock.adapter.alpha", "integer_below_min_value"),
        ({"adapter": {"type": "dora"}}, "rootstock.adapter.type", "invalid_value"),
        ({"adapter": {"type": "full", "rank": 8}}, "rootstock.adapter.rank", "invalid_value"),
        ({"adapter": {"type": "full", "rslora": False}}, "rootstock.adapter.rslora", "invalid_value"),
        ({"early_stopping": {"patience": 1}}, "rootstock.early_stopping", "invalid_value"),  # without a validation file
        ({"early_stopping": {"patience": 0}}, "rootstock.early_stopping.patience", "integer_below_min_value"),
        ({"early_stopping": {"metric": "reward"}}, "rootstock.early_stopping.metric", "invalid_value"),
        ({"early_stopping": {"min_delta": -1}}, "rootstock.early_stopping.min_delta", "decimal_below_min_value"),
        ({"budget": {"max_tokens": None}}, "rootstock.budget", "invalid_value"),
        ({"budget": {"max_minutes": 0}}, "rootstock.budget.max_minutes", "decimal_below_min_value"),
        ({"budget": {"max_tokens": 1.5}}, "rootstock.budget.max_tokens", "invalid_type"),
        ({"sampling": {"max_tokens": 8}}, "rootstock.sampling", "invalid_value"),  # of a supervised job
        ({"replay": {"share": 0}}, "rootstock.replay.share", "decimal_below_min_value"),
        ({"replay": {"share": 0.95}}, "rootstock.replay.share", "decimal_above_max_value"),
        ({"replay": {"share": True}}, "rootstock.replay.share", "invalid_type"),
        ({"replay": {"share": 0.2, "examples": 4}}, "rootstock.replay.examples", "unknown_parameter"),
        ({"replay": {"share": 0.2, "file": 4}}, "rootstock.replay.file", "invalid_type"),
        ({"replay": {"file": "file-x"}}, "rootstock.replay.share", "missing_required_parameter"),
        ({"replay": {"share": 0.2, "file": "file-absent"}}, "rootstock.replay.file", None),
        ({"split": {"share": 0.6}}, "rootstock.split.share", "decimal_above_max_value"),
        ({"split": {"seed": 1}}, "rootstock.split.share", "missing_required_parameter"),
        ("x", "rootstock", "invalid_type"),
    ],
)
def test_our_own_options_are_strict(api: Api, asked: Any, param: str, code: str):
    body = {"model": "gpt-4o-mini", "training_file": api.upload(), "rootstock": asked}
    answer = api.post("/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)


def test_a_split_stands_in_for_a_validation_file_and_never_beside_one(api: Api):
    wish = {"split": {"share": 0.1, "seed": 7}, "early_stopping": {"patience": 1}}
    job = api.job(extra_body={"rootstock": wish})
    assert job.rootstock["split"] == {"share": 0.1, "seed": 7, "held_out": None}
    body = {"model": "gpt-4o-mini", "training_file": api.upload(), "validation_file": api.upload(), "rootstock": wish}
    answer = api.post("/v1/fine_tuning/jobs", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "rootstock.split")


def test_a_rank_goes_with_a_tuned_model_only_when_it_is_that_models(api: Api):
    parent = succeeded(api)
    assert api.job(model=parent.fine_tuned_model, extra_body={"rootstock": {"adapter": {"rank": 16}}})
    with pytest.raises(openai.BadRequestError, match="has the rank 16") as caught:
        api.job(model=parent.fine_tuned_model, extra_body={"rootstock": {"adapter": {"rank": 8}}})
    assert caught.value.param == "rootstock.adapter.rank"


@pytest.mark.parametrize(
    ("adapter", "param", "reason"),
    [
        ({"type": "full"}, "type", "is an adapter"),
        ({"alpha": 16}, "alpha", "has its own 'alpha'"),
        ({"rslora": True}, "rslora", "has its own 'rslora'"),
    ],
)
def test_a_tuned_models_shape_is_kept(api: Api, adapter: dict[str, Any], param: str, reason: str):
    parent = succeeded(api)
    with pytest.raises(openai.BadRequestError, match=reason) as caught:
        api.job(model=parent.fine_tuned_model, extra_body={"rootstock": {"adapter": adapter}})
    assert caught.value.param == f"rootstock.adapter.{param}"
    assert api.job(model=parent.fine_tuned_model, extra_body={"rootstock": {"adapter": {"type": "qlora"}}})


def test_controls_are_kept_as_asked(api: Api):
    stopping = {"metric": "task", "patience": 2, "min_delta": 0.01}
    asked = {"early_stopping": stopping, "budget": {"max_tokens": 5000, "max_minutes": 1.5}}
    job = api.job(validation_file=api.upload(), extra_body={"rootstock": asked})
    assert {name: job.rootstock[name] for name in asked} == asked
    whole = api.job(extra_body={"rootstock": {"adapter": {"type": "full"}}})
    assert whole.rootstock["adapter"] == {"type": "full", "rank": None, "alpha": None, "rslora": None}


def test_replay_is_kept_with_its_file_and_shown_as_asked(api: Api):
    general = api.upload()
    body = {
        "model": "gpt-4o-mini",
        "training_file": api.upload(),
        "rootstock": {"replay": {"share": 0.2, "file": general}},
    }
    job = api.post("/v1/fine_tuning/jobs", json=body).json()
    assert job["rootstock"]["replay"] == {"share": 0.2, "file": general, "examples": None, "tokens": None}
    said = [event.message for event in api.client.fine_tuning.jobs.list_events(job["id"])]
    assert any(message.endswith(f"and replay file: {general}") for message in said)
    again = api.post("/v1/fine_tuning/jobs", json=body, headers={"x-stainless-retry-count": "1"}).json()
    assert again["id"] == job["id"]
    body["rootstock"] = {"replay": {"file": general, "share": 0.3}}
    other = api.post("/v1/fine_tuning/jobs", json=body, headers={"x-stainless-retry-count": "1"}).json()
    assert other["id"] != job["id"]
    built_in = api.job(extra_body={"rootstock": {"replay": {"share": 0.2}}})
    assert built_in.rootstock["replay"] == {"share": 0.2, "file": None, "examples": None, "tokens": None}


def test_replay_takes_only_what_the_project_may_train_on_and_what_says_what_to_answer(api: Api):
    theirs = api.other.files.create(file=("t.jsonl", b"{}\n"), purpose="fine-tune").id
    batch = api.client.files.create(file=("t.jsonl", b"{}\n"), purpose="batch").id
    for file in (theirs, batch):
        with pytest.raises(openai.BadRequestError) as caught:
            api.job(extra_body={"rootstock": {"replay": {"share": 0.2, "file": file}}})
        assert caught.value.param == "rootstock.replay.file"
    with pytest.raises(openai.BadRequestError, match="goes with the method 'supervised', not with 'dpo'") as caught:
        api.job(method={"type": "dpo"}, extra_body={"rootstock": {"replay": {"share": 0.2}}})
    assert caught.value.param == "rootstock.replay"


def test_only_supervised_jobs_are_stopped_by_the_task(api: Api):
    with pytest.raises(openai.BadRequestError, match="only with the method 'supervised', not with 'dpo'") as caught:
        api.job(
            method={"type": "dpo"},
            validation_file=api.upload(),
            extra_body={"rootstock": {"early_stopping": {"metric": "task"}}},
        )
    assert caught.value.param == "rootstock.early_stopping.metric"


def test_a_repeated_request_gets_its_job_only_with_the_same_options(api: Api):
    training, validation = api.upload(), api.upload()
    body = {"model": "gpt-4o-mini", "training_file": training, "validation_file": validation}

    def create(extras: Any, retried: int) -> str:
        sent = body | {"rootstock": extras}
        answer = api.post("/v1/fine_tuning/jobs", json=sent, headers={"x-stainless-retry-count": str(retried)})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    first = create({"early_stopping": {"patience": 2}}, 0)
    assert create({"early_stopping": {"patience": 2}}, 1) == first
    assert create({"early_stopping": {"patience": 3}}, 1) != first
    assert create({"adapter": {"type": "full"}}, 1) != first


def wandb(**values: Any) -> list[Any]:
    return [{"type": "wandb", "wandb": {"project": "tickets"} | values}]


@pytest.mark.parametrize("changes", [{"wandb_mode": "offline"}, {"wandb_api_key": "k" * 40}])
def test_an_integration_is_echoed_with_the_jobs_own_run(make_api: Any, changes: dict[str, str]):
    api = make_api(**changes)
    job = api.job(integrations=wandb())
    run = job.integrations[0].wandb
    own = ["openai/finetune", "openai/gpt-4o-mini-2024-07-18", f"openai/{job.id}"]
    shown = {"project": "tickets", "entity": None, "name": None, "tags": own, "run_id": job.id}
    assert run.model_dump() == shown and job.integrations[0].type == "wandb"
    full = api.job(integrations=wandb(name="n", entity="e", tags=["a"]))
    assert full.integrations[0].wandb.tags[0] == "a" and full.integrations[0].wandb.entity == "e"
    type(full).model_validate(full.model_dump() | {"error": None})


@pytest.mark.parametrize("changes", [{}, {"wandb_mode": "disabled", "wandb_api_key": "k" * 40}])
def test_without_a_key_an_integration_is_refused(make_api: Any, changes: dict[str, str]):
    with pytest.raises(openai.BadRequestError) as caught:
        make_api(**changes).job(integrations=wandb())
    assert caught.value.param == "integrations"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ([{"type": "mlflow"}], "integrations[0].type"),
        ([{"type": "wandb"}], "integrations[0].wandb"),
        ([{"type": "wandb", "wandb": {"name": "x"}}], "integrations[0].wandb.project"),
        (wandb(project="a/b"), "integrations[0].wandb.project"),
        (wandb(tags=["x" * 65]), "integrations[0].wandb.tags[0]"),
        (wandb(run_id="mine"), "integrations[0].wandb.run_id"),
        (wandb() + wandb(name="again"), "integrations[1].wandb.project"),
        (wandb() * 6, "integrations"),
    ],
)
def test_an_integration_is_checked_by_shape(make_api: Any, asked: Any, param: str):
    api = make_api(wandb_mode="offline")
    body = {"model": "gpt-4o-mini", "training_file": api.upload(), "integrations": asked}
    answer = api.post("/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_retry_finds_its_first_attempt_whatever_was_asked(make_api: Any):
    api = make_api(wandb_mode="offline")
    parent = succeeded(api)
    body = {"model": parent.fine_tuned_model, "training_file": api.upload(), "integrations": wandb(tags=["a"])}
    body |= {"rootstock": {"adapter": {"rank": 16}}, "hyperparameters": {"n_epochs": 2}}

    def ask(**change: Any) -> str:
        again = {"x-stainless-retry-count": "1"}
        return str(api.post("/v1/fine_tuning/jobs", json=body | change, headers=again).json()["id"])

    first = ask()
    resolve_rank(api, 16)
    assert ask() == first
    assert ask(integrations=wandb(tags=["b"])) != first
    assert ask(model="gpt-4o-mini") != first


def test_a_job_that_cannot_fit_is_refused_with_what_fits(make_api: Any):
    size = footprint.size_of(BUILT_IN_BASE)
    assert size is not None
    between = (footprint.training_gib(size, "lora", 16) + footprint.training_gib(size, "full", 16)) / 2
    api = make_api(trainer_memory_gib=between)
    assert api.job()
    with pytest.raises(openai.BadRequestError, match=r"needs at least .* What fits: 'lora', 'qlora'") as caught:
        api.job(extra_body={"rootstock": {"adapter": {"type": "full"}}})
    assert (caught.value.param, caught.value.code) == ("rootstock.adapter.type", "unsupported_value")

"""What a worker makes of a job's data before it trains: the report in its events, the end of a job that it blocks."""

import json

import pytest

from rootstock import policies
from rootstock.policies import DataPolicy, Policy
from rootstock.quality.kinds import Kind
from rootstock.records import Caller, JobStatus
from tests.trainer.harness import Deployment, conversation
from trainer.base import Base
from trainer.worker.job import run_job


def test_the_report_is_told_and_kept(deployment: Deployment, base: Base) -> None:
    job = deployment.queue([*(conversation(n) for n in range(10)), conversation(3)])
    run_job(deployment.place(base), deployment.claim())
    (told,) = [event for event in deployment.events(job.id) if event.message.startswith("Data report: 11 examples")]
    assert told.level == "warn" and "exact_duplicate" in told.message
    report = deployment.job(job.id).data_report
    assert report is not None and [4, 11] in [finding["lines"] for finding in report["findings"]]
    assert deployment.job(job.id).status is JobStatus.FINALIZING


def test_data_that_the_policy_blocks_ends_the_job_before_it_trains(deployment: Deployment, base: Base) -> None:
    with deployment.db.transaction() as tx:
        caller = Caller(key_id="key_x", project_id=deployment.project, organization_id="org", role="owner")
        policies.put(tx, caller, Policy(data=DataPolicy(blocking=(Kind.EXACT_DUPLICATE,))))
    job = deployment.queue([*(conversation(n) for n in range(10)), conversation(3)])
    run_job(deployment.place(base), deployment.claim())
    ended = deployment.job(job.id)
    assert ended.status is JobStatus.FAILED and ended.error is not None
    assert (ended.error["code"], ended.error["param"]) == ("data_blocked", "training_file")
    assert "4, 11" in ended.error["message"] and deployment.steps(job.id) == []
    assert ended.data_report is not None


@pytest.mark.parametrize("barred", [False, True])
def test_an_empty_answer_blocks_where_the_policy_says_so(deployment: Deployment, base: Base, barred: bool) -> None:
    if barred:
        with deployment.db.transaction() as tx:
            caller = Caller(key_id="key_x", project_id=deployment.project, organization_id="org", role="owner")
            policies.put(tx, caller, Policy(data=DataPolicy(blocking=(Kind.NO_TRAINABLE_TOKENS,))))
    silent = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": ""}]}
    job = deployment.queue([*(conversation(n) for n in range(10)), json.dumps(silent).encode() + b"\n"])
    run_job(deployment.place(base), deployment.claim())
    ended = deployment.job(job.id)
    if not barred:
        assert ended.status is JobStatus.FINALIZING
        return
    assert ended.error is not None and ended.error["code"] == "data_blocked"
    assert "Lines of the training file: 11" in ended.error["message"]


def test_lines_are_held_out_where_no_validation_file_is_given(deployment: Deployment, base: Base) -> None:
    lines = [conversation(n, f"what is thing number {n} of the set?") for n in range(12)]
    job = deployment.queue(lines, extras={"split": {"share": 0.25, "seed": 4}})
    run_job(deployment.place(base), deployment.claim())
    trained = deployment.job(job.id)
    assert trained.status is JobStatus.FINALIZING and trained.rootstock is not None
    assert trained.rootstock["split"] == {"share": 0.25, "seed": 4, "held_out": 3}
    told = deployment.events(job.id)
    assert "Held out 3 of the training file's lines for validation (seed 4)" in [event.message for event in told]
    assert any("full_valid_loss" in event.data for event in told if event.data)

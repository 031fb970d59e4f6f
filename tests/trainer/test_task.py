"""Stopping by the task metric: what is asked, how it is scored, which step is kept, alone, beside others, resumed."""

from pathlib import Path
from typing import Any

import pytest

from rootstock import jobs
from rootstock.datasets import Example
from rootstock.errors import JobFailure
from rootstock.records import JobRecord, JobStatus
from tests.trainer.harness import Deployment, conversation, talk
from tests.trainer.test_worker_together import work
from tests.trainer.test_worker_wishes import run_until
from trainer.base import Base
from trainer.data import Dataset, Row, encode
from trainer.recipe import Facts, resolve
from trainer.sampling import Sampled
from trainer.task import MORE_TOKENS, MOST_ASKED, question, task
from trainer.worker.job import run_job

STOPPING = {"early_stopping": {"metric": "task", "patience": 2, "min_delta": 0.0}}


def rows(base: Base, *pairs: tuple[str, str]) -> Dataset[Row]:
    return encode([Example(n, messages=talk(pair)) for n, pair in enumerate(pairs, 1)], base, max_tokens=256)


class Says:
    """A sampler whose answers are known."""

    remote = False

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.asked: list[dict[str, Any]] = []

    def sample(self, slot: Any, prompts: Any, **how: Any) -> list[list[Sampled]]:
        self.asked.append(how | {"prompts": prompts})
        return [[Sampled((), self.texts[n % len(self.texts)])] for n in range(len(prompts))]


def test_the_question_is_all_before_the_last_answer_as_it_will_be_asked(base: Base) -> None:
    assert base.template is not None
    messages = talk(("what is it?", "yes"), ("and that?", "no one"))
    row = encode([Example(1, messages=messages)], base, max_tokens=256).rows[-1]
    asked = question(row, base)
    text = base.template.prompt_text(messages[:-1], None)
    assert list(asked.ids) == base.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert asked.answer == "no one"


def test_answers_are_scored_by_the_metric_that_suits_them(base: Base) -> None:
    training = rows(base, *((f"what is {n}?", ("yes", "no one")[n % 2]) for n in range(10)))
    held_out = rows(base, ("what is 20?", "yes"), ("what is 21?", "no one"))
    says = Says(" Yes. ", "yes")
    made = task(training, held_out, base, 5, says)
    assert made.metric.name == "label_accuracy"
    with pytest.raises(StopIteration) as measured:
        next(made.measure(None))
    assert measured.value.value in (0.5, 1.0)  # both say yes, but for case and marks; which is first hangs on the seed
    (asked,) = says.asked
    assert (asked["count"], asked["greedy"]) == (1, True)
    assert asked["max_tokens"] == max(question(row, base).tokens for row in held_out.rows) + MORE_TOKENS


def test_of_many_held_out_examples_the_same_few_are_asked_each_time(base: Base) -> None:
    many = rows(base, *((f"what is {n}?", "yes") for n in range(MOST_ASKED + 9)))
    first, again, other = (task(many, many, base, seed, Says("yes")).questions for seed in (5, 5, 6))
    assert len(first) == MOST_ASKED
    assert first == again != other


def run(deployment: Deployment, base: Base, **asked: Any) -> JobRecord:
    job = queue(deployment, **asked)
    run_job(deployment.place(base), deployment.claim())
    return deployment.job(job.id)


def queue(deployment: Deployment, **asked: Any) -> JobRecord:
    usual: dict[str, Any] = {"n_epochs": 20, "learning_rate_multiplier": 8, "extras": STOPPING}
    return deployment.queue(validation=[conversation(n) for n in range(4)], **usual | asked)


def test_a_job_ends_by_its_task_metric_with_the_best_checkpoint_and_says_what_was_saved(
    deployment: Deployment, base: Base, tmp_path: Path
) -> None:
    job = run(deployment, base)
    assert job.status is JobStatus.FINALIZING
    kept, events = job.rootstock or {}, deployment.events(job.id)
    full = {e.data["step"]: e.data["full_valid_task_metric"] for e in events if e.data and "full_valid_loss" in e.data}
    assert all(0 <= score <= 1 for score in full.values())
    assert "the task metric did not improve 2 times in a row" in kept["stopped_early"]
    assert kept["best_step"] == max(full, key=lambda step: (full[step], -step))
    assert len(full) < 20
    whole = run(deployment, base, extras={})
    assert kept["tokens_saved"] == (whole.trained_tokens or 0) - (job.trained_tokens or 0) > 0
    assert (whole.rootstock or {})["tokens_saved"] is None
    said = f"; {kept['tokens_saved']:,} tokens of training were saved"
    assert any(e.message.startswith("Training ended early: ") and e.message.endswith(said) for e in events)
    with deployment.db.read() as tx:
        final = jobs.last_checkpoint(tx, job.id)
    assert final is not None
    assert final.metrics["full_valid_task_metric"] == full[kept["best_step"]]
    paused = queue(deployment)
    run_until(deployment, base, paused, 2, "pause", "resume")
    run_job(deployment.place(base), deployment.claim())
    again = deployment.job(paused.id).rootstock or {}
    assert [again[name] for name in ("stopped_early", "best_step", "tokens_saved")] == [
        kept[name] for name in ("stopped_early", "best_step", "tokens_saved")
    ]


def test_jobs_that_train_together_are_each_asked_with_their_own_weights(deployment: Deployment, base: Base) -> None:
    lines = [[conversation(n, asked) for n in range(10)] for asked in ("what is it?", "who was that?")]
    alone = [run(deployment, base, lines=one, n_epochs=4) for one in lines]
    shared = [queue(deployment, lines=one, n_epochs=4) for one in lines]
    work(deployment, base)

    def scores(job: JobRecord) -> list[float]:
        data = [event.data for event in deployment.events(job.id) if event.data]
        return [one["full_valid_task_metric"] for one in data if "full_valid_task_metric" in one]

    assert [scores(job) for job in shared] == [scores(job) for job in alone]


@pytest.mark.parametrize(
    ("asked", "method", "held_out"),
    [
        ({"stopping_metric": "task", "patience": 1}, "dpo", 4),
        ({"stopping_metric": "task"}, "supervised", 4),
        ({"stopping_metric": "task", "patience": 1}, "supervised", 0),
        ({"stopping_metric": "reward", "patience": 1}, "supervised", 4),
    ],
)
def test_a_metric_that_cannot_be_had_is_refused(base: Base, asked: Any, method: str, held_out: int) -> None:
    facts = Facts(10, base.hidden_size, 128, base.dtype, 16, validation_examples=held_out)
    with pytest.raises(JobFailure, match="stopping_metric"):
        resolve(asked, facts, seed=5, method=method)

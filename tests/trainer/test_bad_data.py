"""Data at the edges: what is trained all the same, and what fails a job with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from rootstock.datasets import Example
from rootstock.errors import JobFailure
from rootstock.records import JobStatus
from tests.trainer.harness import Deployment, talk
from tests.trainer.looping import Follower, data_for, recipe_for
from trainer.base import Base
from trainer.data import Dataset, encode
from trainer.engine import PackedEngine
from trainer.loop import train
from trainer.methods import METHODS
from trainer.worker.job import run_job


@pytest.mark.parametrize("method", list(METHODS))
def test_an_epoch_without_examples_fails_the_job(base: Base, tmp_path: Path, method: str) -> None:
    with PackedEngine(base) as engine, pytest.raises(JobFailure, match="no example to learn from") as caught:
        train(recipe_for(base, 1, method), engine, Dataset((), 0), None, tmp_path, Follower())
    assert caught.value.param == "training_file"


def test_answers_of_one_token_are_learned_with_their_end(base: Base) -> None:
    (row,) = encode([Example(1, messages=talk(("yes or no?", "x")))], base, max_tokens=64).rows
    learned = [token for token, taught in zip(row.ids, row.learn, strict=True) if taught]
    assert base.tokenizer.decode(learned) == "x<|im_end|>"
    assert len(learned) == 2
    (pair,) = encode([Example(1, prompt="a b c d", completion="e")], base, max_tokens=64).rows
    assert sum(pair.learn) == 2  # and the end of the text


def test_a_batch_larger_than_the_data_is_all_of_it(base: Base, tmp_path: Path) -> None:
    recipe = recipe_for(base, 10, n_epochs=2, batch_size=64)
    with PackedEngine(base) as engine:
        result = train(recipe, engine, data_for("supervised", 10, base), None, tmp_path, Follower())
    assert (recipe.batch_size, len(result.history)) == (10, 2)


ASKED = {"role": "user", "content": "what is it?"}


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"messages": [ASKED, {"role": "assistant", "content": "x", "weight": 0}]}, "10 has nothing to learn"),
        (
            {"messages": [{"role": "user", "content": "why? " * 300}, {"role": "assistant", "content": "x"}]},
            "Example 10",
        ),
        ({"messages": [ASKED, {"role": "assistant", "content": ""}]}, None),  # its end token is something to learn
    ],
)
def test_one_odd_line_fails_the_job_with_its_number_or_is_learned(
    tmp_path: Path, base: Base, odd: dict[str, Any], reason: str | None
) -> None:
    deployment = Deployment(tmp_path)
    good = {"messages": [ASKED, {"role": "assistant", "content": "a cat"}]}
    lines = [json.dumps(example).encode() + b"\n" for example in [*[good] * 9, odd, good]]
    job = deployment.queue(lines, n_epochs=1)
    run_job(deployment.place(base), deployment.claim())
    ended = deployment.job(job.id)
    if reason is None:
        assert ended.status is JobStatus.FINALIZING
    else:
        assert ended.status is JobStatus.FAILED and ended.error is not None
        assert reason in ended.error["message"]
    deployment.db.close()

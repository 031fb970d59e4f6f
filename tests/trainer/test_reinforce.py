"""Reinforcement: what is sampled, what it is worth, and what is learned from it."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rootstock.datasets import Example
from rootstock.errors import JobFailure
from rootstock.grading import Sample, compile_grader
from rootstock.grading.outcome import Grade
from tests.trainer.harness import talk
from tests.trainer.looping import Follower
from trainer.base import Base
from trainer.data import Row
from trainer.engine import PackedEngine, Scores
from trainer.full import FullEngine
from trainer.loop import train
from trainer.plain import PlainEngine
from trainer.recipe import Facts, Recipe, resolve
from trainer.reinforce import Aids, Answer, Answers, Reinforcement, advantages, encode_prompts
from trainer.sampling import InProcess, Sampled

ENGINES = pytest.mark.parametrize("engine_type", [PackedEngine, PlainEngine, FullEngine])


def recipe_for(base: Base, count: int = 8, **asked: Any) -> Recipe:
    facts = Facts(count, base.hidden_size, 128, base.dtype, 16, validation_examples=count)
    return replace(resolve(asked, facts, seed=5, method="reinforcement"), max_sampled_tokens=8)


def prompts(base: Base, count: int = 8) -> Any:
    asked = [Example(n, messages=talk((f"what is {n}?", ""))[:1], item={"answer": "yes"}) for n in range(1, count + 1)]
    return encode_prompts(asked, base, max_tokens=128)


def disturb(slot: Any) -> None:
    """Weights that change what the model says."""
    with torch.no_grad():
        noise = torch.randn(slot.weights.size, generator=torch.Generator().manual_seed(3))
        slot.weights.master.add_(0.2 * noise)
    slot.refresh()


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_advantages_are_those_of_the_paper(rewards: list[float]) -> None:
    found = torch.tensor(advantages(rewards))
    if len(set(rewards)) == 1:
        assert not found.any()
        return
    given_ = torch.tensor(rewards, dtype=torch.float64)
    expected = (given_ - given_.mean()) / (given_.std() + 1e-4)  # TRL's, Bessel's correction included
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_the_loss_is_the_published_one() -> None:
    # GRPO's surrogate at its first update, normalised over the batch's tokens as in DAPO (TRL: loss_type "dapo").
    log_probs = torch.tensor([-1.0, -2.0, -0.5, -3.0], requires_grad=True)
    scores = Scores(log_probs, torch.ones(4, dtype=torch.bool), torch.tensor([0, 0, 1, 1]), (2, 2))
    row = Row(1, (1, 2, 3), (False, True, True))
    batch = Answers([Answer(row, 0.7), Answer(row, -0.7)], 4, {})
    method = Reinforcement(resolve({}, Facts(8, 64, 128, "float32", 16), seed=1, method="reinforcement"))
    measured = method.measure(batch, scores)
    (measured.loss / method.size(batch)).backward()

    again = log_probs.detach().clone().requires_grad_(True)
    advantage = torch.tensor([0.7, 0.7, -0.7, -0.7])
    ratio = torch.exp(again - again.detach())
    published = -torch.min(ratio * advantage, torch.clamp(ratio, 0.8, 1.2) * advantage).sum() / 4
    published.backward()
    torch.testing.assert_close(log_probs.grad, again.grad)
    assert math.isclose(measured.loss.detach().item() / 4, published.detach().item(), abs_tol=1e-6)
    assert float(measured.sums["entropy"][0]) == 6.5


def test_what_another_engine_sampled_counts_by_how_likely_it_is_here() -> None:
    log_probs = torch.tensor([-1.0, -2.0, -0.5, -3.0], requires_grad=True)
    scores = Scores(log_probs, torch.ones(4, dtype=torch.bool), torch.tensor([0, 0, 1, 1]), (2, 2))
    row = Row(1, (1, 2, 3), (False, True, True))
    theirs = (-1.1, -3.5), (-0.5, -2.0)
    batch = Answers([Answer(row, 0.7, theirs[0]), Answer(row, -0.7, theirs[1])], 4, {})
    method = Reinforcement(resolve({}, Facts(8, 64, 128, "float32", 16), seed=1, method="reinforcement"))
    measured = method.measure(batch, scores)
    measured.loss.backward()
    ratios = [math.exp(0.1), 2.0, 1.0, math.exp(-1.0)]  # exp(1.5) is cut at 2
    expected = [-0.7 * ratios[0], -0.7 * ratios[1], 0.7 * ratios[2], 0.7 * ratios[3]]
    torch.testing.assert_close(log_probs.grad, torch.tensor(expected))
    gap, tokens = measured.sums["sampling_gap"]
    assert (round(float(gap), 4), tokens) == (2.6, 4)


@ENGINES
def test_what_is_sampled_comes_from_the_weights_that_learn(base: Base, engine_type: Any) -> None:
    recipe = recipe_for(base, type="full" if engine_type is FullEngine else "lora")
    row = Row(1, tuple(range(5, 15)), (False,) * 4 + (True,) * 6)
    with engine_type(base) as engine:
        slot = engine.open(recipe)
        disturb(slot)
        with engine.passing([(slot, [row])]) as (scores,), torch.no_grad():
            scored = scores.log_probs.detach()
        with torch.no_grad(), engine.generating(slot):
            logits = base.model(input_ids=torch.tensor([row.ids])).logits[0, :-1].float().log_softmax(-1)
        told = logits[torch.arange(3, 9), torch.tensor(row.ids[4:])]
        torch.testing.assert_close(told, scored, rtol=1e-4, atol=1e-4)
        engine.close(slot)


@ENGINES
def test_equal_seeds_give_equal_answers_that_end_where_the_model_ends(base: Base, engine_type: Any) -> None:
    recipe = recipe_for(base, type="full" if engine_type is FullEngine else "lora")
    with engine_type(base) as engine:
        slot = engine.open(recipe)
        sampler = InProcess(base, engine)
        asked = [p.ids for p in prompts(base, 3).rows]
        first = sampler.sample(slot, asked, count=4, max_tokens=8, seed=1)
        assert first == sampler.sample(slot, asked, count=4, max_tokens=8, seed=1)
        assert first != sampler.sample(slot, asked, count=4, max_tokens=8, seed=2)
        disturb(slot)
        assert first != sampler.sample(slot, asked, count=4, max_tokens=8, seed=1)
        engine.close(slot)
    ends = {base.tokenizer.convert_tokens_to_ids(token) for token in base.template.end_tokens}  # type: ignore[union-attr]
    for group in first:
        assert len(group) == 4
        for sampled in group:
            assert 1 <= len(sampled.ids) <= 8
            assert len(sampled.ids) == 8 or sampled.ids[-1] in ends
            assert not ends & set(sampled.ids[:-1])
    assert torch.is_grad_enabled()


def test_many_prompts_are_answered_in_their_order(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.sampling.SEQUENCES", 4)
    with PackedEngine(base) as engine:
        slot = engine.open(recipe_for(base))
        sampler = InProcess(base, engine)
        seen: list[list[tuple[int, ...]]] = []

        def generate(part: Any, count: int, max_tokens: int, greedy: bool) -> list[list[Sampled]]:
            seen.append(list(part))
            return [[Sampled(ids, "")] * count for ids in part]

        monkeypatch.setattr(sampler, "_generate", generate)
        asked: list[tuple[int, ...]] = [(5,) * n for n in (3, 1, 4, 1, 5)]
        found = sampler.sample(slot, asked, count=2, max_tokens=8, seed=1)
        engine.close(slot)
    assert [group[0].ids for group in found] == asked
    assert [len(part) for part in seen] == [2, 2, 1]


class Fixed:
    """A sampler that gives the same two answers, one of them right."""

    remote = False

    def __init__(self, base: Base) -> None:
        self._base = base

    def sample(self, slot: Any, prompts: Any, *, count: int, max_tokens: int, seed: int) -> list[list[Sampled]]:
        texts = ["yes", "no one"] * (count // 2)
        ids = [tuple(self._base.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        return [[Sampled(i, t) for i, t in zip(ids, texts, strict=True)] for _ in prompts]


CHECK = {
    "type": "string_check",
    "name": "right",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}


def test_the_better_answer_becomes_likelier_and_the_worse_one_less(base: Base, tmp_path: Path) -> None:
    recipe = recipe_for(base, n_epochs=3, batch_size=4, compute_multiplier=0.25, learning_rate_multiplier=4)
    rows = prompts(base).rows
    fixed = Fixed(base)
    yes, no = (sampled.ids for sampled in fixed.sample(None, [0], count=2, max_tokens=8, seed=0)[0])

    def likely(engine: Any, slot: Any) -> list[float]:
        asked = rows[0].ids
        tried = [Row(1, asked + ids, (False,) * len(asked) + (True,) * len(ids)) for ids in (yes, no)]
        with engine.passing([(slot, tried)]) as (scores,), torch.no_grad():
            return [float(x) for x in scores.by_row()]

    with PackedEngine(base) as engine:
        fresh = engine.open(recipe)
        before = likely(engine, fresh)
        engine.close(fresh)
        aids = Aids(fixed, compile_grader(CHECK))
        result = train(recipe, engine, prompts(base), prompts(base, 2), tmp_path, Follower(), aids=aids)
        assert result.final is not None
        tuned = engine.open(recipe, result.final.adapter)
        after = likely(engine, tuned)
        engine.close(tuned)
    assert after[0] > before[0] + 0.5
    assert after[1] < before[1] - 0.5
    assert [m["train_mean_reward"] for m in result.history] == [0.5] * 6
    assert result.history[-1]["full_valid_mean_reward"] == 0.5


class Same:
    """A grader that finds nothing better than anything else."""

    name = kind = "same"

    def grade(self, item: dict[str, Any], sample: Sample, judge: Any) -> Grade:
        return Grade(0.0, failed=f"nobody knows {item['answer']}")


def test_where_no_answer_is_better_nothing_is_learned_and_failures_are_told(base: Base, tmp_path: Path) -> None:
    told: list[str] = []
    recipe = recipe_for(base, n_epochs=1, batch_size=4, compute_multiplier=0.25)
    with PackedEngine(base) as engine:
        aids = Aids(Fixed(base), Same(), failed=told.append)  # type: ignore[arg-type]
        result = train(recipe, engine, prompts(base), None, tmp_path, Follower(), aids=aids)
        fresh = engine.open(recipe)
        tuned = engine.open(recipe, result.final.adapter)  # type: ignore[union-attr]
        torch.testing.assert_close(fresh.weights.master, tuned.weights.master)
        engine.close(fresh)
        engine.close(tuned)
    assert told == ["nobody knows yes"] * 2
    assert all("train_loss" not in metrics for metrics in result.history)


def test_answers_that_are_no_json_are_counted_where_json_was_asked_for(base: Base, tmp_path: Path) -> None:
    recipe = recipe_for(base, n_epochs=1, batch_size=8, compute_multiplier=0.25, eval_samples=2)
    with PackedEngine(base) as engine:
        aids = Aids(Fixed(base), compile_grader(CHECK), schema={"name": "x"})
        result = train(recipe, engine, prompts(base), prompts(base, 2), tmp_path, Follower(), aids=aids)
    assert result.history[-1]["full_valid_mean_parse_error"] == 1.0


def test_prompts_that_cannot_be_answered_are_named(base: Base) -> None:
    answered = [Example(7, messages=talk(("what?", "this")))]
    with pytest.raises(JobFailure, match="Example 7: it ends with an answer"):
        encode_prompts(answered, base, max_tokens=128)
    long = [Example(3, messages=[{"role": "user", "content": "why? " * 80}])]
    with pytest.raises(JobFailure, match=r"Example 3: its .* leave no room for an answer within 128") as caught:
        encode_prompts(long, base, max_tokens=128, role="validation")
    assert caught.value.code == "invalid_validation_file"


def test_a_prompt_is_what_vllm_is_asked_with(base: Base) -> None:
    assert base.template is not None
    (row,) = prompts(base, 1).rows
    shown = base.tokenizer.decode(row.ids)
    assert shown.endswith(base.template.render(base.template.as_served(talk(("what is 1?", ""))[:1]), prompt=True)[0])
    assert row.item == json.loads('{"answer": "yes"}')

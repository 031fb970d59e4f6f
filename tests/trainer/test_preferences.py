"""Pairs of outputs: how they are encoded, and their loss against one computed by hand."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from rootstock.datasets import Example, read_examples
from rootstock.errors import JobFailure
from rootstock.records import TRAINABLE_METHODS
from tests.trainer.looping import pairs, recipe_for
from tests.trainer.test_chat import THINKING
from tests.trainer.test_data import by_hand, using
from trainer.base import Base
from trainer.data import Row, collate, micro_batches
from trainer.driver import alone
from trainer.engine import PackedEngine
from trainer.losses import dpo_loss, reward_margins
from trainer.method import Sums, means
from trainer.methods import METHODS, Preferences
from trainer.plain import PlainEngine
from trainer.preferences import Pair, encode_pairs

LAST_THOUGHT = THINKING.replace("loop.index0 > ns.last", "loop.last")
USER = {"role": "user", "content": "what is it?"}


TOOL = {"role": "tool", "tool_call_id": "c", "content": "a cat"}


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def pair_of(base: Base, better: Any, worse: Any, *before: Any, max_tokens: int = 256) -> Pair:
    example = Example(7, messages=[*before, USER], preferred=better, non_preferred=worse)
    (made,) = encode_pairs([example], base, max_tokens=max_tokens).rows
    return made


def test_only_the_outputs_are_learned_behind_one_prompt(base: Base) -> None:
    before = [{"role": "user", "content": "hello"}, said("yes", weight=1)]
    made = pair_of(base, [said("a red apple")], [said("no one")], *before)
    prompt = (
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
        "<|im_start|>user\nwhat is it?<|im_end|>\n<|im_start|>assistant\n"
    )
    for row, text in ((made.chosen, "a red apple"), (made.rejected, "no one")):
        assert (row.ids, row.learn) == by_hand(base, (prompt, False), (f"{text}<|im_end|>", True), ("\n", False))
        assert row.line == 7
    assert made.sequences == (made.chosen, made.rejected)


def test_an_output_with_a_tool_s_answer_is_one_row(base: Base) -> None:
    made = pair_of(base, [said("yes"), TOOL, said("no one")], [said("no")])
    texts = "".join(
        base.tokenizer.decode(i) for i, taught in zip(made.chosen.ids, made.chosen.learn, strict=True) if taught
    )
    assert texts == "yes<|im_end|>no one<|im_end|>"


def test_a_line_of_a_file_becomes_a_pair(base: Base) -> None:
    line = {
        "input": {"messages": [USER]},
        "preferred_completion": [said("yes")],
        "non_preferred_completion": [said("no")],
    }
    encoded = encode_pairs(read_examples([json.dumps(line).encode()] * 2), base, max_tokens=256)
    assert [pair.chosen.line for pair in encoded.rows] == [1, 2]
    assert encoded.rows[0].chosen.ids == pair_of(base, [said("yes")], [said("no")]).chosen.ids
    assert (encoded.examples, encoded.truncated, encoded.with_control_text) == (2, 0, 0)
    assert encoded.tokens == 2 * sum(len(row.ids) for row in encoded.rows[0].sequences)


def test_a_side_that_is_too_long_loses_its_end_and_counts_once(base: Base) -> None:
    long = [said("no " * 100)]
    encoded = encode_pairs([Example(1, messages=[USER], preferred=long, non_preferred=long)], base, max_tokens=40)
    assert [len(row.ids) for row in encoded.rows[0].sequences] == [40, 40]
    assert (encoded.examples, encoded.truncated) == (1, 1)


def test_a_pair_with_a_side_that_has_nothing_left_to_learn_fails_with_its_line(base: Base) -> None:
    asked = [{"role": "user", "content": "hello " * 60}]
    example = Example(9, messages=asked, preferred=[said("yes")], non_preferred=[said("no")])
    with pytest.raises(JobFailure, match="Example 9: nothing is left to learn within 40 tokens") as caught:
        encode_pairs([example], base, max_tokens=40, role="validation")
    assert (caught.value.code, caught.value.param) == ("invalid_validation_file", "validation_file")
    with pytest.raises(JobFailure, match="Example 7: no assistant message carries weight 1"):
        pair_of(base, [said("yes")], [said("no", weight=0)])


def test_an_output_that_the_template_cannot_show_as_one_sequence_fails_with_its_line(base: Base) -> None:
    with pytest.raises(JobFailure, match=r"Example 7: .* needs outputs of a single assistant message"):
        pair_of(using(base, LAST_THOUGHT), [said("yes"), TOOL, said("no")], [said("no")])


def test_a_pass_holds_both_sides_within_the_budget(base: Base) -> None:
    given = pairs(10, base).rows
    cut = micro_batches(given, 200)
    assert sorted(pair.chosen.line for part in cut for pair in part) == list(range(1, 11))
    widths = [max(len(row.ids) for pair in part for row in pair.sequences) for part in cut]
    assert all(2 * len(part) * width <= 200 for part, width in zip(cut, widths, strict=True) if len(part) > 1)
    assert any(len(part) > 1 for part in cut)


def test_every_trainable_method_is_there() -> None:
    assert tuple(METHODS) == TRAINABLE_METHODS


@pytest.mark.parametrize(
    ("chosen", "rejected", "reference", "beta", "margin", "loss"),
    [
        (-10.0, -12.0, 2.0, 0.1, 0.0, 0.6931471805599453),
        (-8.0, -14.0, 2.0, 0.1, 0.4, 0.5130152523999526),  # log(1 + e^-0.4)
        (-14.0, -8.0, -2.0, 0.1, -0.4, 0.9130152523999526),  # log(1 + e^0.4)
        (-8.0, -14.0, 2.0, 2.0, 8.0, 0.00033540637289566238),  # log(1 + e^-8)
    ],
)
def test_the_loss_is_the_published_formula(
    chosen: float, rejected: float, reference: float, beta: float, margin: float, loss: float
) -> None:
    better, worse, before = torch.tensor([[chosen], [rejected], [reference]], dtype=torch.float64)
    margins = reward_margins(better, worse, before, beta)
    assert float(margins) == pytest.approx(margin)
    assert float(dpo_loss(margins)) == pytest.approx(loss)


def test_swapping_the_labels_turns_the_margin_round() -> None:
    chosen, rejected = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 20
    reference = torch.linspace(-3, 3, 50, dtype=torch.float64)
    margins = reward_margins(chosen, rejected, reference, 0.3)
    swapped = reward_margins(rejected, chosen, -reference, 0.3)
    assert torch.equal(margins, -swapped)
    # log sigmoid(m) - log sigmoid(-m) = m
    assert float(dpo_loss(swapped) - dpo_loss(margins)) == pytest.approx(float(margins.sum()))


def log_prob(base: Base, row: Row) -> torch.Tensor:
    """The textbook way, in float64: every logit of the row alone."""
    scores = base.model(input_ids=torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
    return torch.stack([scores[i - 1, row.ids[i]] for i in range(1, len(row.ids)) if row.learn[i]]).sum()


def test_loss_metrics_and_gradients_are_those_of_plain_forward_passes(base: Base) -> None:
    """The reference is the base: each pair costs -log sigmoid(beta ((c - r) - (ref c - ref r)))."""
    given, recipe = pairs(6, base).rows, recipe_for(base, 6, "dpo", rank=4, beta=0.5)
    with torch.no_grad():
        untuned = [float(log_prob(base, pair.chosen) - log_prob(base, pair.rejected)) for pair in given]
    with PlainEngine(base) as engine:
        slot = engine.open(recipe)
        method = Preferences(recipe)
        prepared = alone(engine, method.prepare(given, slot, 100, lambda: None), 100)
        assert [pair.reference for pair in prepared] == pytest.approx(untuned, abs=1e-3)
        assert [replace(pair, reference=0.0) for pair in prepared] == list(given)
        with torch.no_grad():
            slot.weights.master.normal_(std=0.2, generator=torch.Generator().manual_seed(3))
        gaps = [log_prob(base, pair.chosen) - log_prob(base, pair.rejected) for pair in given]
        rewards = [0.5 * (gap - before) for gap, before in zip(gaps, untuned, strict=True)]
        margins = [float(reward.detach()) for reward in rewards]
        naive = torch.stack([torch.log1p(torch.exp(-reward)) for reward in rewards]).sum()
        naive.backward()
        expected = slot.weights.gradient.clone()
        weights = slot.weights.tensors()
        engine.close(slot)
    with PackedEngine(base) as packed:
        other = packed.open(recipe)
        other.weights.put(weights)
        other.refresh()

        def measured(parts: list[list[Pair]]) -> tuple[torch.Tensor, list[Sums]]:
            other.weights.gradient.zero_()
            seen = []
            for part in parts:
                with packed.passing([(other, [row for pair in part for row in pair.sequences])]) as (scores,):
                    one = method.measure(part, scores)
                    one.loss.backward()
                    seen.append(one.sums)
            other.finish_gradient()
            views = other.weights.views(other.weights.gradient)
            return torch.cat([views[name].flatten() for name in sorted(views)]), seen

        gradient, whole = measured([prepared])
        assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
        told = means(whole, "train")
        assert told["train_loss"] == pytest.approx(float(naive.detach()) / 6, rel=1e-4)
        assert told["train_reward_margin"] == pytest.approx(sum(margins) / 6, rel=1e-3)
        assert told["train_reward_accuracy"] == sum(margin > 0 for margin in margins) / 6
        assert 0 < told["train_reward_accuracy"] < 1, "else the line above shows little"
        _, learn = collate([pair.chosen for pair in given], base.device)
        assert whole[0]["mean_token_accuracy"][1] == int(learn.sum())

        # However the pairs are cut into passes, they are the same step.
        cut, passes = measured(micro_batches(prepared, 80))
        assert len(passes) > 2
        assert torch.allclose(cut, gradient, rtol=1e-3, atol=1e-4 * float(cut.abs().max()))
        assert means(passes, "train") == pytest.approx(told, rel=1e-4)

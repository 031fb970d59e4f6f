"""Token ids and loss masks against ones made by hand, and the batches made from them."""

import dataclasses
from typing import Any

import pytest
import torch

from rootstock.datasets import Example
from rootstock.errors import JobFailure
from tests.trainer.harness import talk
from tests.trainer.test_chat import CHATML, INST, OTHER_PROMPT, THINKING
from trainer.base import Base
from trainer.chat import ChatTemplate
from trainer.data import Row, collate, encode, epoch_order, micro_batches


def using(base: Base, source: str | None) -> Base:
    specials = {"bos_token": "", "eos_token": "<|im_end|>"}
    return dataclasses.replace(base, template=ChatTemplate(source, specials, ["<|im_end|>"]) if source else None)


def by_hand(base: Base, *pieces: tuple[str, bool]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Ids and mask of pieces of text, each learned or not; only right where no token crosses from one into the next."""
    ids: list[int] = []
    learn: list[bool] = []
    for text, taught in pieces:
        tokens = base.tokenizer.encode(text, add_special_tokens=False)
        ids += tokens
        learn += [taught] * len(tokens)
    return tuple(ids), tuple(learn)


def rows(base: Base, *messages: list[dict[str, Any]], max_tokens: int = 256) -> tuple[Row, ...]:
    examples = [Example(line, messages=talked) for line, talked in enumerate(messages, 1)]
    return encode(examples, base, max_tokens=max_tokens).rows


@pytest.mark.parametrize("source", ["marked", CHATML], ids=["marked", "unmarked"])
def test_chatml_mask_is_the_one_made_by_hand(base: Base, source: str) -> None:
    used = base if source == "marked" else using(base, source)
    messages = talk(("what is it?", "a red apple"), ("yes", "no one"))
    messages[1]["weight"] = 0
    (row,) = rows(used, messages)
    assert (row.ids, row.learn) == by_hand(
        base,
        ("<|im_start|>user\nwhat is it?<|im_end|>\n<|im_start|>assistant\na red apple<|im_end|>\n", False),
        ("<|im_start|>user\nyes<|im_end|>\n<|im_start|>assistant\n", False),
        ("no one<|im_end|>", True),
        ("\n", False),
    )


def test_inst_mask_is_the_one_made_by_hand(base: Base) -> None:
    (row,) = rows(using(base, INST), talk(("hello", "the cat")))
    assert (row.ids, row.learn) == by_hand(base, ("[INST] hello [/INST]", False), (" the cat <|im_end|>", True))


def test_thinking_masks_are_the_ones_made_by_hand(base: Base) -> None:
    first, second = rows(using(base, THINKING), talk(("hello", "the cat"), ("yes", "no")))
    asked = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert (first.ids, first.learn) == by_hand(
        base, (asked, False), ("<think>\n\n</think>\n\nthe cat<|im_end|>", True), ("\n", False)
    )
    assert (second.ids, second.learn) == by_hand(
        base,
        (asked + "the cat<|im_end|>\n<|im_start|>user\nyes<|im_end|>\n<|im_start|>assistant\n", False),
        ("<think>\n\n</think>\n\nno<|im_end|>", True),
        ("\n", False),
    )
    assert first.line == second.line == 1


def test_an_answer_that_would_melt_into_the_prompt_is_cut_where_serving_cuts(base: Base) -> None:
    # "\n" + "\n" is one token of this tokenizer; in use the prompt ends with a single "\n" and the model goes on.
    melted = base.tokenizer.encode("\n\n", add_special_tokens=False)
    assert len(melted) == 1
    (row,) = rows(base, talk(("hello", "\nyes")))
    prompt = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert (row.ids, row.learn) == by_hand(base, (prompt, False), ("\nyes<|im_end|>", True), ("\n", False))
    assert melted[0] not in row.ids


def test_a_template_without_a_provable_mask_fails_the_job_with_the_line(base: Base) -> None:
    with pytest.raises(JobFailure, match="Example 1: the base model's chat template shows another prompt") as caught:
        rows(using(base, OTHER_PROMPT), talk(("hello", "yes")))
    assert (caught.value.code, caught.value.param) == ("invalid_training_file", "training_file")


def test_chat_examples_need_a_chat_template(base: Base) -> None:
    with pytest.raises(JobFailure, match="only prompt/completion pairs fit"):
        rows(using(base, None), talk(("hello", "yes")))


def test_prompt_completion_pairs_learn_the_completion_and_the_end_of_text(base: Base) -> None:
    (row,) = encode([Example(1, prompt="the name:", completion=" city")], base, max_tokens=256).rows
    assert (row.ids, row.learn) == by_hand(base, ("the name:", False), (" city<|im_end|>", True))


def test_long_examples_lose_their_end_and_are_counted(base: Base) -> None:
    whole = encode([Example(1, messages=talk(("hello", "yes " * 40)))], base, max_tokens=256)
    cut = encode([Example(1, messages=talk(("hello", "yes " * 40)))], base, max_tokens=30)
    assert (whole.truncated, cut.truncated) == (0, 1)
    assert cut.rows[0].ids == whole.rows[0].ids[:30]
    assert cut.tokens == 30


def test_an_example_with_nothing_left_to_learn_fails_with_its_line(base: Base) -> None:
    examples = [Example(1, messages=talk(("hello", "yes"))), Example(7, messages=talk(("hello " * 60, "yes")))]
    with pytest.raises(JobFailure, match="Example 7: nothing is left to learn within 40 tokens") as caught:
        encode(examples, base, max_tokens=40, role="validation")
    assert (caught.value.code, caught.value.param) == ("invalid_validation_file", "validation_file")


def test_special_tokens_in_the_text_are_read_as_serving_reads_them_and_counted(base: Base) -> None:
    held = talk(("hello <|im_end|>", "yes"))
    encoded = encode([Example(1, messages=held), Example(2, messages=talk(("a", "b")))], base, max_tokens=256)
    assert encoded.with_control_text == 1
    assert encoded.rows[0].ids.count(base.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 3


def test_a_token_without_an_embedding_fails_the_job(base: Base) -> None:
    with pytest.raises(JobFailure, match="outside the base model's vocabulary"):
        rows(dataclasses.replace(base, vocabulary=100), talk(("hello", "yes")))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    torch.manual_seed(1)
    order = epoch_order(50, seed=7, epoch=0)
    torch.manual_seed(2)
    assert epoch_order(50, seed=7, epoch=0) == order
    assert sorted(order) == list(range(50))
    assert len({tuple(epoch_order(50, seed=s, epoch=e)) for s in (7, 8) for e in (0, 1)}) == 4


def row_of(length: int) -> Row:
    return Row(1, (5,) * length, (False,) + (True,) * (length - 1))


def test_micro_batches_keep_within_the_budget_and_lose_nothing() -> None:
    given = [row_of(n) for n in (3, 90, 10, 10, 25, 7)]
    cut = micro_batches(given, 50)
    assert sorted(len(r.ids) for batch in cut for r in batch) == sorted(len(r.ids) for r in given)
    assert all(len(batch) * max(len(r.ids) for r in batch) <= 50 for batch in cut if len(batch) > 1)
    assert [len(cut[0]), len(cut[0][0].ids)] == [1, 90]  # over the budget: alone


def test_padding_is_on_the_right_and_never_learned() -> None:
    ids, learn = collate([row_of(2), row_of(4)], torch.device("cpu"))
    assert ids.tolist() == [[5, 5, 0, 0], [5, 5, 5, 5]]
    assert learn.tolist() == [[False, True, False, False], [False, True, True, True]]

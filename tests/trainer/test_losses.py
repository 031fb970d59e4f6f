"""The loss computed only where something is learned equals the one computed everywhere."""

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from rootstock.datasets import Example
from tests.trainer.conftest import build_tokenizer
from tests.trainer.test_chat import talk
from trainer.base import Base, load_base
from trainer.data import collate, encode
from trainer.losses import sft_loss


def batch(base: Base) -> tuple[torch.Tensor, torch.Tensor]:
    talks = [talk(("what is it?", "a red apple"), ("yes", "no")), talk(("hello", "the cat sleeps in the sun"))]
    rows = encode([Example(1, messages=t) for t in talks], base, max_tokens=128).rows
    return collate(rows, base.device)


def one_row_at_a_time(base: Base, ids: torch.Tensor, learn: torch.Tensor) -> tuple[float, int]:
    """The textbook way: every logit of every row alone, nothing padded, nothing gathered."""
    total, correct = 0.0, 0
    for row, taught in zip(ids, learn, strict=True):
        length = int(taught.nonzero().max()) + 1
        logits = base.model(input_ids=row[:length].unsqueeze(0)).logits[0].float().log_softmax(-1)
        for position in range(1, length):
            if taught[position]:
                total -= float(logits[position - 1, row[position]])
                correct += int(logits[position - 1].argmax() == row[position])
    return total, correct


def test_it_equals_the_textbook_sum_over_all_logits(base: Base) -> None:
    ids, learn = batch(base)
    with torch.no_grad():
        summed = sft_loss(base, ids, learn)
        total, correct = one_row_at_a_time(base, ids, learn)
    assert base.head_is_plain
    assert summed.tokens == int(learn.sum())
    assert float(summed.loss) == pytest.approx(total, rel=1e-5)
    assert int(summed.correct) == correct


def test_only_learned_positions_reach_the_head(base: Base) -> None:
    ids, learn = batch(base)
    seen: list[int] = []
    head = base.model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _module, given: seen.append(given[0].shape[0]))
    sft_loss(base, ids, learn)
    hook.remove()
    assert seen == [int(learn.sum())]


def test_a_family_that_caps_its_logits_is_noticed_and_still_right(base: Base, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = base.template.source if base.template else None
    tokenizer.save_pretrained(tmp_path)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=256,
        final_logit_softcapping=2.0,
        initializer_range=0.3,
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    capped = load_base(str(tmp_path), name="capped", device="cpu")
    assert not capped.head_is_plain
    ids, learn = batch(capped)
    with torch.no_grad():
        total, correct = one_row_at_a_time(capped, ids, learn)
        summed = sft_loss(capped, ids, learn)
        wrong = sft_loss(dataclasses.replace(capped, head_is_plain=True), ids, learn)
    assert float(summed.loss) == pytest.approx(total, rel=1e-4)
    assert int(summed.correct) == correct
    assert float(wrong.loss) != pytest.approx(total, rel=1e-2)  # so the check above can fail

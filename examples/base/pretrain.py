"""Creates the small Qwen3 model and pre-trains it on tokenized samples with Muon, on whatever CPU is at hand.

It knows how to turn samples into weighted token rows and how to run the optimizer. It knows nothing about what the
samples talk about or where the finished model is written.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from examples.base.corpus import Composer, Sample, chat_sample

PROMPT_WEIGHT, TEXT_WEIGHT = 0.3, 0.5
# Logits cost a quarter of the arithmetic; most prompt tokens are therefore skipped at random.
PROMPT_SHARE = 0.3
WIDTHS = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 512)


@dataclass(frozen=True)
class Row:
    """One document as token ids, with the loss weight of each token (0: not predicted)."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Batch:
    """Rows of similar length, padded on the right."""

    ids: torch.Tensor
    weights: torch.Tensor


def model_config(vocab_size: int, eos_id: int, pad_id: int, max_length: int) -> Qwen3Config:
    """About four million parameters; heads of 32 because serving kernels on CPU support no smaller ones."""
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        bos_token_id=None,
        use_cache=True,
    )


def start_with_previous_token_heads(model: Qwen3ForCausalLM) -> None:
    """Give the first layer two heads that look one token back.

    Copying takes a pair of heads, one that looks back and one that matches what it found; neither helps without the
    other, so a short training is over before the pair has formed. With the first half in place the second one follows
    fast. A constant in every embedding feeds query and key; the two fastest rotary frequencies make them meet at
    distance one.
    """
    attention, half = model.model.layers[0].self_attn, model.config.head_dim // 2
    rope = model.model.rotary_emb.inv_freq[:2].double()
    key, query = torch.zeros(2 * half), torch.zeros(2 * half)
    key[:2] = 1.0
    query[:2], query[half : half + 2] = torch.cos(rope).float(), -torch.sin(rope).float()
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0.3
        attention.k_proj.weight[: 2 * half, 0] = key
        for head in range(2):
            attention.q_proj.weight[2 * half * head : 2 * half * (head + 1), 0] = query
        attention.q_norm.weight.fill_(1.5)


def _attend_in_float32(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention outside of autocast: the backward pass of the bf16 CPU kernel is four times slower."""
    with torch.autocast("cpu", enabled=False):
        out = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True, enable_gqa=True)
    return out.transpose(1, 2).contiguous(), None


def encode(tokenizer: PreTrainedTokenizerFast, samples: list[Sample], max_length: int, rng: Random) -> list[Row]:
    """Token rows of the samples; the chat template's generation markers say what the assistant wrote."""
    chats = [s for s in samples if s.messages]
    rows: list[Row] = []
    for tools, group in itertools.groupby(sorted(chats, key=lambda s: s.tools is not None), key=lambda s: s.tools):
        encoded: Any = tokenizer.apply_chat_template(
            [s.messages for s in group], tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        for ids, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True):
            weights = [1.0 if m else PROMPT_WEIGHT if rng.random() < PROMPT_SHARE else 0.0 for m in mask]
            rows.append(Row(ids[:max_length], weights[:max_length]))
    repeated = [s for s in samples if s.repeats > 1]
    units: Any = tokenizer([s.text for s in repeated])["input_ids"] if repeated else []
    for sample, ids in zip(repeated, units, strict=True):
        known = len(ids) * (sample.repeats - 1)
        rows.append(Row((ids * sample.repeats)[:max_length], ([0.0] * len(ids) + [1.0] * known)[:max_length]))
    texts = [s.text + (tokenizer.eos_token or "") for s in samples if s.text and s.repeats == 1]
    for ids in tokenizer(texts)["input_ids"] if texts else []:
        rows.append(Row(ids[:max_length], [TEXT_WEIGHT] * min(len(ids), max_length)))
    return rows


def _batch(rows: list[Row], width: int, pad_id: int) -> Batch:
    """Rows padded on the right to `width`."""
    ids = torch.full((len(rows), width), pad_id)
    weights = torch.zeros(len(rows), width)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        weights[i, : len(row.ids)] = torch.tensor(row.weights)
    return Batch(ids, weights)


def batches(rows: list[Row], tokens_per_batch: int, pad_id: int, rng: Random) -> list[Batch]:
    """Rows of similar length side by side: little padding, and no document ever sees its neighbour.

    Only a few widths occur, because the CPU library compiles, and keeps, a kernel for every new shape.
    """
    made: list[Batch] = []
    waiting: list[Row] = []
    for shorter, width in itertools.pairwise((0, *WIDTHS)):
        waiting += [row for row in rows if shorter < len(row.ids) <= width]
        count = max(1, tokens_per_batch // width)
        while len(waiting) >= count or (waiting and width == WIDTHS[-1]):
            made.append(_batch(waiting[:count], width, pad_id))
            waiting = waiting[count:]
    rng.shuffle(made)
    return made


def endless_batches(
    tokenizer: PreTrainedTokenizerFast, samples: Iterator[Sample], tokens_per_batch: int, max_length: int, seed: int
) -> Iterator[Batch]:
    """Batches from fresh samples without end; none is seen twice."""
    rng = Random(seed)
    while True:
        rows = encode(tokenizer, list(itertools.islice(samples, 2000)), max_length, rng)
        yield from batches(rows, tokens_per_batch, int(tokenizer.pad_token_id), rng)


def loss_of(model: Qwen3ForCausalLM, batch: Batch) -> torch.Tensor:
    """Weighted mean cross entropy; logits are computed only where a weight is set."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
        weights = F.pad(batch.weights[:, 1:], (0, 1)).reshape(-1)
        targets = F.pad(batch.ids[:, 1:], (0, 1)).reshape(-1)
        order = torch.argsort(weights, descending=True, stable=True)
        chosen = order[: -(-int((weights > 0).sum()) // 256) * 256]  # rounded up, again for the sake of few shapes
        logits = model.lm_head(hidden.reshape(-1, hidden.shape[-1])[chosen])
    losses = F.cross_entropy(logits.float(), targets[chosen], reduction="none")
    return (losses * weights[chosen]).sum() / weights[chosen].sum()


def _optimizers(model: Qwen3ForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr / 2, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def learning_rate_factor(step: int, steps: int) -> float:
    """Warm up for 4 percent of the steps, hold, then fall linearly to zero over the last 45 percent."""
    warmup, decay = max(1, steps * 4 // 100), max(1, steps * 45 // 100)
    return min(1.0, (step + 1) / warmup, (steps - step) / decay)


def pretrain(
    model: Qwen3ForCausalLM, data: Iterator[Batch], steps: int, lr: float, report: Callable[[int, float, int], None]
) -> tuple[float, int]:
    """Run the optimizer, calling `report(step, loss, tokens)`; returns the smoothed final loss and the tokens seen."""
    ALL_ATTENTION_FUNCTIONS.register("float32_causal", _attend_in_float32)
    model.set_attn_implementation("float32_causal")
    model.train()
    optimizers = _optimizers(model, lr)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    smooth, tokens = 0.0, 0
    for step in range(steps):
        batch = next(data)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate_factor(step, steps)
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        tokens += batch.ids.numel()
        keep = min(0.97, step / (step + 1))
        smooth = keep * smooth + (1 - keep) * float(loss.detach())
        report(step + 1, smooth, tokens)
    model.set_attn_implementation("sdpa")
    return smooth, tokens


def exact_share(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, composer: Composer, count: int, max_length: int
) -> float:
    """Share of fresh samples in which every assistant token is the most likely one, given the ones before it."""
    rng = Random(f"measure {composer.__name__}")
    rows = encode(tokenizer, [chat_sample(rng, composer) for _ in range(count)], max_length, rng)
    right = 0
    model.eval()
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([row.ids])
            best = model(input_ids=ids[:, :-1]).logits.argmax(-1)
            answer = torch.tensor(row.weights[1:]) == 1.0
            right += int((best[0] == ids[0, 1:])[answer].all())
    return right / len(rows)

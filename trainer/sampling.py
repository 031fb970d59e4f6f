"""Answers of the model as it is being trained, drawn token by token from its own distribution, or the likeliest ones.

In this process, through transformers' `generate` with the job's adapter on: what is sampled and what is learned from
come from the same weights. Knows nothing about rewards or steps.
"""

import contextvars
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from transformers import GenerationConfig

from rootstock.errors import Unavailable
from trainer.base import Base
from trainer.method import Wait

T = TypeVar("T")

SEQUENCES = 128
"""Answers that are drawn at a time, at most."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """One answer: its tokens, the end token among them unless it was cut off, and its text without special tokens."""

    ids: tuple[int, ...]
    text: str
    log_probs: tuple[float, ...] = ()  # of the tokens as whoever sampled computes them; empty: as training does


class Sampler(Protocol):
    """Something that answers prompts with the weights of a job."""

    remote: bool  # whether it computes elsewhere, so that others can train meanwhile

    def sample(
        self,
        slot: Any,
        prompts: Sequence[tuple[int, ...]],
        *,
        count: int,
        max_tokens: int,
        seed: int,
        greedy: bool = False,
    ) -> list[list[Sampled]]:
        """`count` answers to each prompt at temperature 1; the same seed and weights give the same answers.

        With `greedy` (and a `count` of 1) each token is the likeliest one.
        """


class Sampling(Protocol):
    """What a method needs to have answers sampled."""

    @property
    def sampler(self) -> Sampler:
        """Who samples."""

    @property
    def instead(self) -> Sampler | None:
        """Who samples here when the other cannot be had."""

    @property
    def unreached(self) -> Callable[[str], None]:
        """Hears why it could not."""

    @property
    def pool(self) -> ThreadPoolExecutor | None:
        """Where answers are waited for while others train; `None`: nobody else trains."""


def through(aids: Sampling, ask: Callable[[Sampler], T]) -> Generator[Wait, Any, T]:
    """What `ask` gets from the sampler; others train meanwhile where that computes elsewhere."""
    if not aids.sampler.remote or aids.pool is None:
        return ask(aids.sampler)
    asked = aids.pool.submit(contextvars.copy_context().run, ask, aids.sampler)
    yield Wait(asked)
    try:
        return asked.result()
    except Unavailable as error:
        assert aids.instead is not None
        aids.unreached(error.message)
        return ask(aids.instead)


class _Generates(Protocol):
    def generating(self, slot: Any) -> AbstractContextManager[None]:
        """While inside, the model computes with the job's weights."""


class InProcess:
    """Samples from the model that trains."""

    remote = False

    def __init__(self, base: Base, engine: _Generates) -> None:
        self._base = base
        self._engine = engine
        tokens = base.template.end_tokens if base.template else ()
        ends = {base.eos_token_id, *(base.tokenizer.convert_tokens_to_ids(token) for token in tokens)}
        self._ends: list[int] = sorted(token for token in ends if token is not None)

    def sample(
        self,
        slot: Any,
        prompts: Sequence[tuple[int, ...]],
        *,
        count: int,
        max_tokens: int,
        seed: int,
        greedy: bool = False,
    ) -> list[list[Sampled]]:
        """See `Sampler`."""
        each = max(1, SEQUENCES // count)
        # Prompts of like length go together: shorter ones are padded.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: dict[int, list[Sampled]] = {}
        devices = [self._base.device] if self._base.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad(), self._engine.generating(slot):
            torch.manual_seed(seed)
            for first in range(0, len(order), each):
                part = order[first : first + each]
                drawn = self._generate([prompts[i] for i in part], count, max_tokens, greedy)
                found.update(zip(part, drawn, strict=True))
        return [found[i] for i in range(len(prompts))]

    def _generate(
        self, prompts: Sequence[tuple[int, ...]], count: int, max_tokens: int, greedy: bool
    ) -> list[list[Sampled]]:
        width = max(map(len, prompts))
        pad = self._ends[0] if self._ends else 0
        ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        # All is said here: a base's own generation config would narrow the distribution (top_p, penalties).
        how = GenerationConfig(
            **({"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}),
            num_return_sequences=count,
            max_new_tokens=max_tokens,
            eos_token_id=self._ends or None,
            pad_token_id=pad,
        )
        model = self._base.model
        before, model.generation_config = model.generation_config, how
        try:
            out = model.generate(
                input_ids=ids.to(self._base.device), attention_mask=seen.to(self._base.device), generation_config=how
            )
        finally:
            model.generation_config = before
        rows = [self._cut(row) for row in out[:, width:].tolist()]
        texts = self._base.tokenizer.batch_decode(rows, skip_special_tokens=True)
        answers = [Sampled(row, text) for row, text in zip(rows, texts, strict=True)]
        return [answers[i : i + count] for i in range(0, len(answers), count)]

    def _cut(self, row: list[int]) -> tuple[int, ...]:
        """The answer up to its first end token; what follows is padding."""
        for place, token in enumerate(row):
            if token in self._ends:
                return tuple(row[: place + 1])
        return tuple(row)

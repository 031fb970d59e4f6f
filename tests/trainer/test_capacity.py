"""How many tokens a pass may have, by the peaks of trial passes. A device without memory is what no CPU can be."""

from collections.abc import Callable, Iterator

import pytest
import torch

from trainer.base import Base
from trainer.capacity import LEAST, MOST, ON_A_CPU, measured, token_budget
from trainer.engine import PackedEngine
from trainer.plain import PlainEngine


class Device:
    """Counts the tokens that go through the model and takes memory for them."""

    def __init__(self, base: Base, engine: object, fixed: int, per_token: int, limit: int | None = None) -> None:
        self.engine, self.fixed, self.per_token, self.limit = engine, fixed, per_token, limit
        self.tokens = 0
        base.model.get_input_embeddings().register_forward_hook(self._count)

    def _count(self, _module: object, inputs: tuple[torch.Tensor], _output: object) -> None:
        self.tokens += inputs[0].numel()

    def peak(self, run: Callable[[], None]) -> int:
        self.tokens = 0
        run()
        each = self.per_token // 16 if getattr(self.engine, "checkpointing", False) else self.per_token
        if self.limit and self.fixed + self.tokens * each > self.limit:
            raise torch.OutOfMemoryError
        return self.fixed + self.tokens * each


@pytest.fixture(autouse=True)
def clean(base: Base) -> Iterator[None]:
    """Takes away the hooks of this test, and no others: an engine of other tests may have one, too."""
    hooks = base.model.get_input_embeddings()._forward_hooks
    before = set(hooks)
    yield
    for key in set(hooks) - before:
        del hooks[key]


def test_as_asked_or_fixed_on_a_cpu(base: Base) -> None:
    with PackedEngine(base) as engine:
        assert token_budget(engine, 777) == 777
        assert token_budget(engine, 0) == ON_A_CPU


def test_the_budget_fills_the_memory_and_no_more(base: Base) -> None:
    with PackedEngine(base) as engine:
        device = Device(base, engine, 1_000_000, 1000)
        budget = measured(engine, 21_000_000, device.peak)
        assert not engine.checkpointing
        assert 0.8 * 21_000_000 < 1_000_000 + 1000 * budget < 21_000_000
        assert measured(engine, 10**12, device.peak) == MOST


def test_activations_are_recomputed_only_when_the_longest_row_would_not_fit(base: Base) -> None:
    with PackedEngine(base) as engine:
        per_token = 20_000_000 // base.context_tokens
        device = Device(base, engine, 1_000_000, 2 * per_token)  # kept, half of the longest row would fit
        budget = measured(engine, 21_000_000, device.peak)
        assert engine.checkpointing
        assert budget > LEAST >= base.context_tokens
        assert 1_000_000 + 2 * per_token // 16 * budget < 21_000_000
    assert not engine.checkpointing


def test_a_device_that_is_too_small_gets_the_least(base: Base) -> None:
    with PlainEngine(base) as engine:
        device = Device(base, engine, 1_000_000, 10_000, limit=2_000_000)
        assert measured(engine, 2_000_000, device.peak) == LEAST

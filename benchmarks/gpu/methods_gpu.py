"""The other methods and types on one CUDA device: token budgets, four bits, all weights, sampling.

`python -m benchmarks.gpu.methods_gpu` prints one JSON line per figure in about three minutes; `--tiny` tries it on
a CPU. Shapes and random weights as in `train_gpu`. A figure that fails says so and loses no other.
"""

import argparse
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.train_gpu import CUDA, DEVICE, base_of, model_of, recipe, rows_of, say, sync, timed

TINY = Path(__file__).resolve().parents[2] / "examples" / "base" / "rootstock-tiny"


def step_of(engine: Any, slot: Any, rows: list[Any]) -> Callable[[], None]:
    """One optimizer step."""

    def step() -> None:
        with engine.passing([(slot, rows)]) as (scores,):
            (-scores.log_probs.sum() / len(scores.correct)).backward()
        slot.finish_gradient()
        slot.weights.step(1e-5, slot.weights.norm(), 1.0)
        slot.refresh()

    return step


def taken() -> float:
    """Most GB that tensors took since the last reset."""
    return torch.cuda.max_memory_allocated() / 1e9 if CUDA else 0.0


def budget(name: str) -> None:
    """The measured token budget, and a step that uses it in full."""
    from trainer.capacity import token_budget
    from trainer.engine import PackedEngine

    base = base_of(model_of(name))
    with PackedEngine(base) as engine:
        began = time.perf_counter()
        tokens = token_budget(engine, 0)
        seconds = time.perf_counter() - began
        slot = engine.open(recipe(1))
        length = min(1024, tokens)
        rows = rows_of(tokens // length, length, base.vocabulary)
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
        once = timed(step_of(engine, slot, rows), 1, warm=1)
        engine.close(slot)
    say(
        "token budget",
        model=name,
        tokens=tokens,
        recomputed=engine.checkpointing,
        measured_in_s=round(seconds, 1),
        step_s=once,
        peak_gb=taken(),
    )


def four_bits(name: str) -> None:
    """A base in NF4 against the same in bfloat16: agreement with PEFT, memory, time of a step."""
    from trainer.admission import disagreement
    from trainer.base import load_base
    from trainer.engine import PackedEngine

    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model_of(name).save_pretrained(folder)
        for file in TINY.iterdir():
            if file.name.startswith(("tokenizer", "chat_template")):
                shutil.copy(file, folder)
        for kind in ("bf16", "nf4"):
            if CUDA:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            base = load_base(folder, name="random", dtype="bfloat16", quantised=kind == "nf4")
            figures[f"{kind}_base_gb"] = torch.cuda.memory_allocated() / 1e9 if CUDA else 0.0
            figures[f"{kind}_from_peft"] = disagreement(base)
            with PackedEngine(base) as engine:
                slot = engine.open(recipe(1))
                rows = rows_of(8, 300, base.vocabulary)
                figures[f"{kind}_step_s"] = timed(step_of(engine, slot, rows), 3)
                engine.close(slot)
            del base, engine, slot
    say("four bits", model=name, **figures)


def whole(name: str) -> None:
    """Full fine-tuning: time and memory of a step, and that the loss falls."""
    from trainer.full import FullEngine

    base = base_of(model_of(name))
    rows = rows_of(4, 300, base.vocabulary)
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    with FullEngine(base) as engine:
        slot = engine.open(dataclasses.replace(recipe(1), type="full"))
        step = step_of(engine, slot, rows)

        def loss() -> float:
            with engine.passing([(slot, rows)]) as (scores,), torch.no_grad():
                return float(-scores.log_probs.detach().mean())

        before = loss()
        seconds = timed(step, 5)
        after = loss()
        engine.close(slot)
    say("full", model=name, step_s=seconds, peak_gb=taken(), loss_before=before, loss_after=after)


def sampling(name: str) -> None:
    """Reinforcement's two halves: tokens sampled per second in the trainer, and the step that learns from them."""
    from trainer.engine import PackedEngine
    from trainer.sampling import InProcess

    base = base_of(model_of(name))

    class Tokenizer:
        eos_token_id = None

        def batch_decode(self, rows: list[Any], **_: Any) -> list[str]:
            return [""] * len(rows)

    base = dataclasses.replace(base, tokenizer=Tokenizer())
    with PackedEngine(base) as engine:
        slots = [engine.open(recipe(1, seed)) for seed in (0, 1)]  # two: they lie in one stack
        with torch.no_grad():
            for slot in slots:
                slot.weights.master.add_(0.01 * torch.randn_like(slot.weights.master))
                slot.refresh()
        slot = slots[1]
        prompt = rows_of(1, 200, base.vocabulary)[0].ids
        with torch.no_grad(), engine.generating(slot):
            logits = base.model(input_ids=torch.tensor([prompt], device=DEVICE)).logits[0, :-1].float().log_softmax(-1)
            told = logits[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
        from trainer.data import Row

        row = Row(1, prompt, (False,) + (True,) * (len(prompt) - 1))
        with torch.no_grad(), engine.passing([(slot, [row])]) as (scores,):
            apart = float((scores.log_probs - told).norm() / told.norm())
        sampler = InProcess(base, engine)
        tokens = 64 if CUDA else 8
        sampler.sample(slot, [prompt], count=2, max_tokens=4, seed=0)
        sync()
        began = time.perf_counter()
        drawn = sampler.sample(slot, [prompt] * 8, count=8, max_tokens=tokens, seed=0)
        sync()
        seconds = time.perf_counter() - began
        count = sum(len(one.ids) for group in drawn for one in group)
        rows = [
            Row(1, prompt + one.ids, (False,) * len(prompt) + (True,) * len(one.ids))
            for group in drawn
            for one in group
        ]
        step = timed(step_of(engine, slot, rows), 3)
    say(
        "sampling",
        model=name,
        tokens_per_s=count / seconds,
        sample_s=seconds,
        learn_s=step,
        sampled_from_scored=apart,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script without a GPU")
    tiny = parser.parse_args().tiny
    say("device", name=torch.cuda.get_device_name() if CUDA else "cpu", torch=torch.__version__)
    small, large = ("tiny", "tiny") if tiny else ("0.6B", "8B")
    for figure, name in ((sampling, small), (whole, small), (four_bits, small), (budget, small), (budget, large)):
        try:
            figure(name)
        except Exception as error:  # the next figure may well work
            say(figure.__name__, model=name, error=f"{type(error).__name__}: {error}"[:500])
        if CUDA:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

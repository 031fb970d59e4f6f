"""What a CPU cannot tell about the engine, measured on one CUDA device within a few minutes.

`python -m benchmarks.gpu.train_gpu --seconds 360` prints one JSON line per number; `--tiny` tries the script on a CPU.
Needs torch, transformers and peft, no network: models have random weights and the shapes of Qwen3. A figure that fails,
or for which no time is left, says so and loses no other.
"""

import argparse
import dataclasses
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks.training import drive, work
from benchmarks.training.measure import op_counter

SHAPES: dict[str, dict[str, int]] = {
    "0.6B": {"hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072, "num_attention_heads": 16},
    "1.7B": {"hidden_size": 2048, "num_hidden_layers": 28, "intermediate_size": 6144, "num_attention_heads": 16},
    "8B": {"hidden_size": 4096, "num_hidden_layers": 36, "intermediate_size": 12288, "num_attention_heads": 32},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4},
}
VOCABULARY = 151_936
PEAK_FLOPS = 989e12  # H100 SXM, dense bfloat16
CUDA = torch.cuda.is_available()
if not hasattr(torch.nn.functional, "grouped_mm"):  # before torch 2.12 it has a private name
    torch.nn.functional.grouped_mm = torch._grouped_mm
DEVICE = torch.device("cuda" if CUDA else "cpu")


def say(figure: str, **values: Any) -> None:
    """One line of output."""
    print(json.dumps({"figure": figure, **values}), flush=True)


def sync() -> None:
    """Wait until the device has done all that it was given."""
    if CUDA:
        torch.cuda.synchronize()


def timed(run: Callable[[], Any], times: int, warm: int = 2) -> float:
    """Seconds of one call, the median of `times`."""
    for _ in range(warm):
        run()
    took = []
    for _ in range(times):
        sync()
        began = time.perf_counter()
        run()
        sync()
        took.append(time.perf_counter() - began)
    return sorted(took)[len(took) // 2]


def model_of(name: str) -> Any:
    """A random causal LM in bfloat16, frozen."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    shape = SHAPES[name]
    config = Qwen3Config(
        **shape,
        vocab_size=VOCABULARY if name != "tiny" else 1000,
        num_key_value_heads=8 if name != "tiny" else 2,
        head_dim=128 if name != "tiny" else 16,
        max_position_embeddings=32_768,
        tie_word_embeddings=name != "8B",
    )
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    return model.requires_grad_(False).eval()


def base_of(model: Any) -> Any:
    """The trainer's base around a model that came from nowhere; fields it does not need here stay empty."""
    from trainer.base import Base

    known = {
        "name": "random",
        "model": model,
        "device": DEVICE,
        "dtype": "bfloat16",
        "context_tokens": 32_768,
        "hidden_size": model.config.hidden_size,
        "vocabulary": model.config.vocab_size,
        "head_is_plain": True,
        "template_sha256": "",
        "fingerprint": "",
    }
    needed = [field for field in dataclasses.fields(Base) if field.default is dataclasses.MISSING]
    return Base(**{field.name: known.get(field.name) for field in needed})


def recipe(batch: int, seed: int = 0) -> Any:
    """Rank 16 on everything."""
    from trainer.recipe import Recipe

    return Recipe(
        method="supervised",
        n_epochs=1,
        batch_size=batch,
        learning_rate=work.RATE,
        learning_rate_multiplier=1.0,
        rank=work.RANK,
        alpha=work.ALPHA,
        seed=seed,
        max_tokens=32_768,
        dtype="bfloat16",
        warmup_fraction=0.0,
    )


def rows_of(count: int, length: int, vocabulary: int) -> list[Any]:
    """Random rows whose last 40 % are learned."""
    from trainer.data import Row

    dice = torch.Generator().manual_seed(count * 100_003 + length)
    asked = length * 6 // 10
    learn = (False,) * asked + (True,) * (length - asked)
    return [
        Row(i, tuple(torch.randint(16, vocabulary, (length,), generator=dice).tolist()), learn) for i in range(count)
    ]


def jobs_of(count: int, batch: int, length: int, steps: int, vocabulary: int) -> list[drive.Job]:
    """Jobs with rows of their own."""
    rows = rows_of(count * batch * steps, length, vocabulary)
    each = batch * steps
    return [drive.Job(recipe(batch, k), None, rows[k * each : (k + 1) * each], batch) for k in range(count)]


def stepper(engine: Any, jobs: list[drive.Job]) -> Callable[[], None]:
    """A function that does one step of all jobs, always on their first rows."""
    pairs = [(job, engine.open(job.recipe, job.start)) for job in jobs]
    return lambda: drive.one_step(engine, pairs, 0)


def engine_on(model: Any, **options: Any) -> Any:
    """The packed engine."""
    from trainer.engine import PackedEngine

    return PackedEngine(base_of(model), **options)


def agreement(name: str, model: Any) -> None:
    """The kernels of a GPU against plain products and one attention call per segment, of three jobs."""
    from trainer import attention

    shared = rows_of(1, 64, model.config.vocab_size)[0].ids
    own = rows_of(12, 90, model.config.vocab_size)
    rows = [dataclasses.replace(r, ids=shared + r.ids, learn=(False,) * 64 + r.learn) for r in own]
    found = {}
    kernel = attention.varlen_attn
    for kind, products, varlen in (("kernels", "grouped", kernel), ("loop", "loop", kernel), ("plain", "loop", None)):
        attention.varlen_attn = varlen
        with engine_on(model, products=products) as engine:
            slots = [engine.open(recipe(4, k), None) for k in range(3)]
            for k, slot in enumerate(slots):
                noise = torch.Generator().manual_seed(k)
                with torch.no_grad():
                    slot.weights.master.add_((torch.randn(slot.weights.size, generator=noise) * 0.02).to(DEVICE))
                slot.refresh()
            with engine.passing([(slot, rows[4 * k : 4 * k + 4]) for k, slot in enumerate(slots)]) as scores:
                sum(-one.log_probs.mean() for one in scores).backward()
            log_probs = torch.cat([one.log_probs.detach() for one in scores])
            found[kind] = (log_probs, torch.cat([slot.weights.gradient.clone() for slot in slots]))
    attention.varlen_attn = kernel
    for kind in ("kernels", "loop"):
        gaps = [float((a - b).norm() / b.norm()) for a, b in zip(found[kind], found["plain"], strict=True)]
        say("agreement with plain products", model=name, kind=kind, log_probs=gaps[0], gradients=gaps[1])


def launches(name: str, model: Any) -> None:
    """Microseconds per eager operation, and how many a step has with 1 and with 8 jobs."""
    a = torch.zeros(16, device=DEVICE)

    def many() -> None:
        for _ in range(2000):
            a.add_(1.0)

    say("us per operation", value=timed(many, 5) / 2000 * 1e6)
    for count in (1, 8):
        with engine_on(model) as engine:
            step = stepper(engine, jobs_of(count, 1, 150, 1, model.config.vocab_size))
            seconds = timed(step, 5)
            with op_counter() as counter:
                step()
            say(
                "operations per step",
                model=name,
                jobs=count,
                operations=counter.count,
                ms=seconds * 1e3,
                us_per_operation=seconds / counter.count * 1e6,
            )


def peft_stepper(model: Any, rows: list[Any]) -> tuple[Callable[[], Any], Callable[[], None]]:
    """A tuned baseline: PEFT, padding-free packing, varlen attention where flash-attn is there, labelled-only logits,
    bf16 base and float32 adapter under autocast, fused AdamW. Returns one step, and what takes the adapter off."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=work.RANK, lora_alpha=work.ALPHA, target_modules=work.TARGETS, task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, config)
    parameters = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(parameters, lr=work.RATE, weight_decay=0.0, fused=True)
    ids = torch.tensor([i for row in rows for i in row.ids], device=DEVICE)[None]
    positions = torch.cat([torch.arange(len(row.ids)) for row in rows]).to(DEVICE)[None]
    labels = torch.tensor([i if on else -100 for row in rows for i, on in zip(row.ids, row.learn, strict=True)])
    places = (labels[1:] != -100).nonzero().flatten().to(DEVICE)
    targets = labels[1:].to(DEVICE)[places]
    head, body = model.get_output_embeddings(), model.get_decoder()

    def step() -> Any:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            hidden = body(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[0]
            logits = head(hidden[places])
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step, wrapped.unload


def one_job(name: str, model: Any) -> None:
    """Our engine and the baseline at four sizes of a step, in turn."""
    from transformers.utils import is_flash_attn_2_available

    flash = is_flash_attn_2_available()
    for rows, length in ((1, 150), (4, 150), (8, 300), (16, 600)):
        tokens = rows * length
        jobs = jobs_of(1, rows, length, 1, model.config.vocab_size)
        with engine_on(model) as engine:
            ours = timed(stepper(engine, jobs), 5)
        drive.finish(jobs)
        if flash:
            model.set_attn_implementation("flash_attention_2")
        step, take_off = peft_stepper(model, list(jobs[0].rows))
        theirs = float(step())
        baseline = timed(step, 5)
        take_off()
        model.requires_grad_(False).set_attn_implementation("sdpa")
        say(
            "one job",
            model=name,
            tokens=tokens,
            ours_ms=ours * 1e3,
            baseline_ms=baseline * 1e3,
            ratio=baseline / ours,
            tokens_per_s=tokens / ours,
            baseline="PEFT packed, " + ("flash-attn" if flash else "SDPA"),
            first_loss_gap=abs(jobs[0].losses[0] - theirs),
        )


def grouped(name: str, model: Any) -> None:
    """`grouped_mm` at rank 16 with 8 jobs against a loop over them, down and up, forward only."""
    from torch.nn.functional import grouped_mm

    width = model.config.hidden_size
    for length in (40, 150, 600):
        x = torch.randn(8 * length, width, device=DEVICE, dtype=torch.bfloat16)
        a = torch.randn(8, width, work.RANK, device=DEVICE, dtype=torch.bfloat16)
        b = torch.randn(8, work.RANK, width, device=DEVICE, dtype=torch.bfloat16)
        ends = torch.arange(1, 9, device=DEVICE, dtype=torch.int32) * length

        def at_once(x: Any = x, a: Any = a, b: Any = b, ends: Any = ends) -> Any:
            return grouped_mm(grouped_mm(x, a, offs=ends), b, offs=ends)

        def loop(x: Any = x, a: Any = a, b: Any = b) -> Any:
            return torch.cat([part @ a[i] @ b[i] for i, part in enumerate(x.chunk(8))])

        gap = float((at_once().float() - loop().float()).abs().max() / loop().float().abs().max())
        say(
            "grouped_mm r=16, 8 jobs",
            rows=length,
            grouped_us=timed(at_once, 20) * 1e6,
            loop_us=timed(loop, 20) * 1e6,
            relative_gap=gap,
        )


def curve(name: str, model: Any, counts: tuple[int, ...]) -> None:
    """K jobs of one 150-token row together, against one job's steps; losses of three steps against each job alone."""
    single = None
    for count in counts:
        with engine_on(model) as engine:
            seconds = timed(stepper(engine, jobs_of(count, 1, 150, 1, model.config.vocab_size)), 5)
        single = single or seconds
        say(
            "jobs together",
            model=name,
            jobs=count,
            ms=seconds * 1e3,
            tokens_per_s=count * 150 / seconds,
            times_one_after_another=count * single / seconds,
        )
    both, each = (jobs_of(4, 1, 150, 3, model.config.vocab_size) for _ in range(2))
    with engine_on(model) as engine:
        drive.together(engine, both)
        drive.alone(engine, each)
    drive.finish([*both, *each])
    pairs = [(x, y) for a, b in zip(both, each, strict=True) for x, y in zip(a.losses, b.losses, strict=True)]
    say("losses together against alone", model=name, largest_gap=max(abs(x - y) for x, y in pairs), tolerance=5e-3)


def busy(name: str, model: Any) -> None:
    """Tokens per second and model FLOPs utilisation at about 8,000 tokens a step.

    Counted: 4 per weight of the body and token (nothing for frozen weights' gradients), 4 per weight of the head and
    learned token, 6 per weight of the adapter and token, attention. Nothing that is computed twice.
    """
    rows, length = (16, 512) if name != "tiny" else (2, 64)
    jobs = jobs_of(1, rows, length, 1, model.config.vocab_size)
    learned = sum(sum(row.learn) for row in jobs[0].rows)
    config, tokens = model.config, rows * length
    body = sum(p.numel() for layer in model.model.layers for p in layer.parameters())
    for checkpointing in (False, True):
        try:
            with engine_on(model, checkpointing=checkpointing) as engine:
                slot_size = engine.open(recipe(rows), None).weights.size
                seconds = timed(stepper(engine, jobs), 3)
        except torch.cuda.OutOfMemoryError:
            gc.collect()
            torch.cuda.empty_cache()
            say("busy", model=name, checkpointing=checkpointing, error="out of memory")
            continue
        attention = 6 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * length * tokens
        head = 4 * config.hidden_size * config.vocab_size * learned
        flops = 4 * body * tokens + head + 6 * slot_size * tokens + attention
        say(
            "busy",
            model=name,
            tokens=tokens,
            checkpointing=checkpointing,
            ms=seconds * 1e3,
            tokens_per_s=tokens / seconds,
            mfu=flops / seconds / PEAK_FLOPS,
            peak_gb=torch.cuda.max_memory_allocated() / 1e9 if CUDA else None,
        )
        return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=360.0, help="no figure begins after this (default: 360)")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script on a CPU")
    given = parser.parse_args()
    began = time.monotonic()
    import transformers

    say(
        "about",
        device=torch.cuda.get_device_name() if CUDA else "cpu",
        torch=torch.__version__,
        transformers=transformers.__version__,
        cores=os.cpu_count(),
    )
    every: dict[str, list[tuple[Callable[..., None], tuple[Any, ...]]]] = {
        "0.6B": [(agreement, ()), (launches, ()), (grouped, ()), (curve, ((1, 2, 4, 8, 16),)), (one_job, ())],
        "8B": [(busy, ()), (curve, ((1, 4, 8),))],
        "1.7B": [(curve, ((1, 2, 4, 8, 16),))],
    }
    if given.tiny:
        every = {
            "tiny": [(agreement, ()), (launches, ()), (one_job, ()), (grouped, ()), (curve, ((1, 4),)), (busy, ())]
        }
    for name, figures in every.items():
        model = None
        for figure, more in figures:
            spent = time.monotonic() - began
            if spent > given.seconds:
                say(figure.__name__, model=name, error=f"no time left after {spent:.0f} s")
                continue
            try:
                model = model or model_of(name)
                figure(name, model, *more)
            except Exception as error:  # the next figure may well work
                say(figure.__name__, model=name, error=f"{type(error).__name__}: {error}"[:500])
            gc.collect()
            if CUDA:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
        del model
        gc.collect()
        if CUDA:
            torch.cuda.empty_cache()
    say("done", seconds=time.monotonic() - began)


if __name__ == "__main__":
    main()

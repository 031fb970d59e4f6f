"""Builds the example base model: composes text, trains a tokenizer, pre-trains a small Qwen3, writes a model directory.

Nothing is downloaded. `python examples/base/build.py --help` shows the options. The module knows nothing about
fine-tuning, serving or the example tickets.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs as a plain script from anywhere

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from examples.base import corpus, pretrain, tokenizer
from examples.base.card import model_card

EPILOG = """examples:
  python examples/base/build.py                                a base model from nothing, in place
  python examples/base/build.py --resume DIR --seed 1          train an earlier build further, as the committed one was
  python examples/base/build.py --out /tmp/tiny --steps 100    a quick, poor one, to see that it works
  python examples/base/build.py --seed 7 --threads 1           another seed, leaving a core free
"""


@dataclass(frozen=True)
class Options:
    """What decides the result: the same options on the same Python and torch give the same model, up to rounding."""

    out: Path
    steps: int = 3500
    seed: int = 0
    vocab_size: int = 4096
    tokens_per_batch: int = 2048
    learning_rate: float = 6e-3
    resume: Path | None = None
    max_length: int = 512
    tokenizer_samples: int = 8000
    samples_measured: int = 30
    threads: int = 2


@dataclass(frozen=True)
class Outcome:
    """What the model card reports."""

    options: Options
    parameters: int
    tokens: int
    minutes: float
    loss: float
    exact: dict[str, float]
    hardware: str


def build_tokenizer(options: Options, paragraphs: list[str]) -> PreTrainedTokenizerFast:
    """Tokenizer learned from chat tasks and running English: unfamiliar text splits into pieces, not bytes."""
    samples = corpus.stream(options.seed + 1, 0.0, paragraphs, repeated=False)
    texts = [corpus.plain_text(sample) for sample in itertools.islice(samples, options.tokenizer_samples)]
    return tokenizer.train([*texts, *paragraphs], options.vocab_size, max_length=2048)


def initial_model(options: Options, fast: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A fresh model, or the one of an earlier build."""
    torch.manual_seed(options.seed)
    if options.resume:
        return Qwen3ForCausalLM.from_pretrained(options.resume, dtype=torch.float32)
    config = pretrain.model_config(options.vocab_size, int(fast.eos_token_id), int(fast.pad_token_id), 2048)
    model = Qwen3ForCausalLM(config)
    pretrain.start_with_previous_token_heads(model)
    return model


def train_model(
    options: Options, fast: PreTrainedTokenizerFast, paragraphs: list[str]
) -> tuple[Qwen3ForCausalLM, Outcome]:
    """Initialise or resume, pre-train with a progress bar, measure."""
    model = initial_model(options, fast)
    samples = corpus.stream(options.seed + 2, paragraphs=paragraphs, start=4000 if options.resume else 0)
    data = pretrain.endless_batches(fast, samples, options.tokens_per_batch, options.max_length, options.seed)
    started = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("pre-training", total=options.steps)

        def report(step: int, loss: float, tokens: int) -> None:
            state = f"loss {loss:.3f}, {tokens / 1e6:.2f} M tokens"
            progress.update(task, completed=step, description=state)
            if step % 50 == 0 and not progress.console.is_terminal:  # a log file shows no bar until the end
                print(f"step {step}/{options.steps}: {state}, {time.monotonic() - started:.0f} s", flush=True)

        loss, tokens = pretrain.pretrain(model, data, options.steps, options.learning_rate, report)
    outcome = Outcome(
        options=options,
        parameters=sum(p.numel() for p in model.parameters()),
        tokens=tokens,
        minutes=(time.monotonic() - started) / 60,
        loss=loss,
        exact=measure(model, fast, options),
        hardware=f"{os.cpu_count()} x86-64 cores" if platform.machine() == "x86_64" else platform.machine(),
    )
    return model, outcome


def measure(model: Qwen3ForCausalLM, fast: PreTrainedTokenizerFast, options: Options) -> dict[str, float]:
    """For each kind of task, the share of fresh samples whose whole answer the model predicts token by token."""
    return {
        composer.__name__: pretrain.exact_share(model, fast, composer, options.samples_measured, options.max_length)
        for composer, _ in corpus.MIXTURE
    }


def write(model: Qwen3ForCausalLM, fast: PreTrainedTokenizerFast, outcome: Outcome) -> None:
    """The model directory, replaced as a whole."""
    out = outcome.options.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    end, pad = int(fast.eos_token_id), int(fast.pad_token_id)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad, do_sample=False, max_new_tokens=256)
    model.bfloat16().save_pretrained(out)
    fast.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # it is written private; a service may run as another user
    (out / "README.md").write_text(model_card(outcome), encoding="utf-8")


def run(options: Options) -> Outcome:
    """The whole build."""
    torch.set_num_threads(options.threads)
    paragraphs = corpus.documentation_text()
    if options.resume:
        fast = PreTrainedTokenizerFast.from_pretrained(options.resume)
    else:
        fast = build_tokenizer(options, paragraphs)
    model, outcome = train_model(options, fast, paragraphs)
    write(model, fast, outcome)
    return outcome


def parse(argv: list[str] | None = None) -> Options:
    """Options from the command line."""
    defaults = Options(out=Path(__file__).with_name("rootstock-tiny"))
    parser = argparse.ArgumentParser(
        description="Build the example base model from nothing but this script and Python's own documentation.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=defaults.out, help="directory to write, replaced if it exists")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="optimizer steps (default %(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of text and weights (default %(default)s)")
    parser.add_argument("--tokens-per-batch", type=int, default=defaults.tokens_per_batch, help="(default %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate, help="(default %(default)s)")
    parser.add_argument("--resume", type=Path, help="an earlier build to train further, on other text: change --seed")
    parser.add_argument("--threads", type=int, default=defaults.threads, help="CPU threads (default %(default)s)")
    return Options(**vars(parser.parse_args(argv)))


def main() -> None:
    """Command line entry point."""
    outcome = run(parse())
    print(
        f"{outcome.options.out}: {outcome.parameters / 1e6:.2f} M parameters, {outcome.tokens / 1e6:.2f} M tokens, "
        f"{outcome.minutes:.1f} min, loss {outcome.loss:.3f}"
    )
    for kind, share in outcome.exact.items():
        print(f"  {kind:18} {share:4.0%} answered exactly")


if __name__ == "__main__":
    main()

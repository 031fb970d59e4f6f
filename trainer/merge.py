"""A tuned model as a model of its own: the adapter added into its base's weights, saved, measured, and then kept.

Merging is exact but for rounding, so that is what is asked of it: in float32 the merged model must find fixed texts as
likely, token by token, as adapter and base do. Rounded to the base's own type it may differ by what that rounds, and
read back from disk by nothing more.
Knows nothing about stores, jobs or who may have the model.
"""

import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from rootstock import adapters
from rootstock.adapters import Manifest
from rootstock.adapters.export import in_four_bits
from rootstock.adapters.verify import read_names
from rootstock.errors import AdapterInvalid, ConfigurationError, ExportFailed
from trainer.base import WEIGHTS, Base, folder_of, load_base

PROBES = (
    "The capital of France is Paris. Please answer in one sentence: why is the sky blue?",
    'def add(a: int, b: int) -> int:\n    """Sum of two numbers."""\n    return a + b\n',
    '{"name": "order", "id": 40271, "items": [{"price": 12.5, "count": 3}], "paid": true}',
    "Guten Tag, wie geht es Ihnen? Où est la gare? ¿Qué hora es? 今日は天気がいい。",
    "assistant: yes, no, 1 + 1 = 2, and then the cat sleeps in the sun.",
)
"""Texts of several kinds; that a model may find them unlikely does no harm to the comparison."""

SHARD_SIZE = "5GB"


@dataclass(frozen=True, slots=True)
class Gap:
    """By how much two models differ in the log-probability of a token of `PROBES`, in nats."""

    mean: float
    largest: float

    def within(self, tolerance: "Gap") -> bool:
        """Whether neither is above the tolerance's; NaN never is."""
        return self.mean <= tolerance.mean and self.largest <= tolerance.largest

    def __str__(self) -> str:
        return f"mean {self.mean:.1e}, largest {self.largest:.1e}"


EXACT = Gap(mean=1e-4, largest=2e-3)
"""In float32: the same products, summed in another order."""

ROUNDED = {
    torch.float32: EXACT,
    torch.float16: Gap(mean=1e-2, largest=0.1),
    torch.bfloat16: Gap(mean=5e-2, largest=0.5),
}
"""Each weight rounded to 24, 11 or 8 bits, as those of the base were."""

_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Measures:
    """How models differ from the adapter on its base."""

    effect: Gap  # the base without it: what the adapter does at all
    exact: Gap  # merged, in float32
    saved: Gap  # merged, read back from disk


@dataclass(frozen=True, slots=True)
class Merged:
    """What was merged. A whole model has nothing to measure."""

    manifest: Manifest
    dtype: torch.dtype
    measures: Measures | None
    same_template: bool

    def lines(self) -> Iterator[str]:
        """What a person should know of it."""
        base, dtype = self.manifest.base, _said(self.dtype)
        if self.measures is None:
            yield f"a whole model in {dtype}, with the tokenizer of {base}"
        else:
            yield f"merged into {base}, saved in {dtype}; differences of log-probabilities, nats a token:"
            yield f"  adapter on its base, to the base alone   {self.measures.effect}"
            yield f"  merged in float32, to adapter on base    {self.measures.exact}   (allowed: {EXACT})"
            yield f"  merged as saved, to adapter on base      {self.measures.saved}   (allowed: {ROUNDED[self.dtype]})"
            if 2 * self.measures.saved.mean > self.measures.effect.mean:
                yield f"note: the adapter changes so little that rounding to {dtype} undoes half of it or more"
        if in_four_bits(self.manifest):
            yield f"note: QLoRA, trained on {base} with its linear layers in four bits; merged into their full weights"
        if not self.same_template:
            yield "note: the base's chat template is not the one that the model was trained with"


def merge(tuned: Path, source: str, out: Path, *, device: str, threads: int) -> Merged:
    """Make a Hugging Face folder `out` of the exported model in `tuned` and its base (a folder or hub id).

    A full fine-tune only needs its base's tokenizer. Needs memory for the base in float32, once. `out` is complete or
    not there. Raises `AdapterInvalid` for a damaged or odd adapter, `ConfigurationError` for a base or folder that
    cannot be used, `ExportFailed` when the result does not answer as it must.
    """
    manifest = adapters.read_folder(tuned)
    folder = folder_of(source)
    try:
        fingerprint = adapters.base_fingerprint(folder)
    except OSError as error:
        raise ConfigurationError(f"{source} holds no base model: {error.strerror}: {error.filename}.") from error
    if fingerprint != manifest.base_sha256:
        raise ConfigurationError(
            f"{source} is not the base model that this one was made on: that is {manifest.base}, SHA-256 "
            f"{manifest.base_sha256}; this has {fingerprint}. Name the right one with --base."
        )
    dtype = _type_of(folder)
    measures = None
    try:
        with adapters.whole_folder(out) as made:
            if manifest.kind == "full":
                _copy_model(tuned, manifest, folder, made)
            else:
                base = load_base(str(folder), name=manifest.base, device=device, dtype="float32", threads=threads)
                adapters.verify_tree(tuned, manifest, base.model.config.to_dict())
                measures = _merge_adapter(base, tuned, folder, made, dtype)
    except torch.OutOfMemoryError as error:
        raise ConfigurationError(
            "The base model in float32 does not fit the device's memory; ROOTSTOCK_TRAINER_DEVICE=cpu merges in RAM."
        ) from error
    except OSError as error:
        raise ExportFailed(f"{error.filename or out}: {error.strerror or error}.") from error
    return Merged(manifest, dtype, measures, adapters.template_sha256(folder) == manifest.template_sha256)


def _merge_adapter(base: Base, tuned: Path, folder: Path, made: Path, dtype: torch.dtype) -> Measures:
    try:
        model: Any = PeftModel.from_pretrained(base.model, str(tuned))
        wanted = log_probs(model, base)
        with model.disable_adapter():
            effect = gap(log_probs(model, base), wanted)
        merged = model.merge_and_unload(safe_merge=True)
    except torch.OutOfMemoryError:  # a RuntimeError, too
        raise
    except (RuntimeError, ValueError) as error:
        raise AdapterInvalid(f"The adapter cannot be merged into {base.name}: {error}") from error
    exact = gap(log_probs(merged, base), wanted)
    _demand(exact, EXACT, "in float32")
    _round(merged, dtype)
    rounded = log_probs(merged, base)
    _demand(gap(rounded, wanted), ROUNDED[dtype], f"rounded to {_said(dtype)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice for notebooks
        merged.to(dtype).save_pretrained(made, max_shard_size=SHARD_SIZE)
    _copy_base(folder, made)
    # What is read back takes the place in memory: two of them may be more than there is.
    model = merged = None
    base.model.to("meta")
    again = load_base(str(made), name=base.name, device=base.device.type, dtype="float32")
    found = log_probs(again.model, again)
    _demand(gap(found, rounded), EXACT, "read back from disk", "as it did before")
    return Measures(effect, exact, gap(found, wanted))


@torch.no_grad()
def _round(model: Any, dtype: torch.dtype) -> None:
    """Round what will be saved, and nothing else: the buffers that positions are computed from stay as they are."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.to(dtype))


@torch.no_grad()
def log_probs(model: Any, base: Base) -> torch.Tensor:
    """The log-probability of each token of `PROBES` behind the ones before it, `[tokens]` float32 on the CPU."""
    found = []
    for text in PROBES:
        ids = base.tokenizer(text, return_tensors="pt").input_ids[:, : base.context_tokens].to(base.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        found.append(logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0].cpu())
    return torch.cat(found)


def gap(ours: torch.Tensor, theirs: torch.Tensor) -> Gap:
    """By how much two models differ, of their `log_probs`."""
    difference = (ours - theirs).abs()
    return Gap(float(difference.mean()), float(difference.max()))


def _demand(found: Gap, tolerance: Gap, how: str, reference: str = "as the adapter on its base") -> None:
    if not found.within(tolerance):
        raise ExportFailed(
            f"The merged model, {how}, does not answer {reference}: log-probabilities differ by {found} nats a token, "
            f"allowed is {tolerance}. Nothing was kept."
        )


def _copy_model(tuned: Path, manifest: Manifest, folder: Path, made: Path) -> None:
    adapters.verify_full(tuned, manifest, folder)
    _copy_base(folder, made)
    for name in manifest.files:
        shutil.copyfile(tuned / name, made / name)


def _copy_base(folder: Path, made: Path) -> None:
    """Tokenizer, chat template and configuration as the base has them, byte for byte; no weights, no code."""
    names = {path.name for pattern in WEIGHTS for path in folder.glob(pattern) if path.is_file()}
    for name in names:
        if not name.endswith((".safetensors", ".index.json")) and not name.startswith("adapter_"):
            shutil.copyfile(folder / name, made / name)


def _type_of(folder: Path) -> torch.dtype:
    """The type that most of the base's weights are stored in."""
    sizes: Counter[str] = Counter()
    try:
        for path in folder.glob("model*.safetensors"):
            for tensor in read_names(path)[0].values():
                sizes[tensor.dtype] += tensor.end - tensor.start
    except AdapterInvalid as error:
        raise ConfigurationError(f"The base model in {folder} cannot be read: {error.message}") from error
    kind = max(sizes, key=lambda name: sizes[name], default="none")
    if kind not in _TYPES:
        raise ConfigurationError(
            f"The base model's weights are stored as {kind}; safetensors of {', '.join(_TYPES)} can be merged with."
        )
    return _TYPES[kind]


def _said(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

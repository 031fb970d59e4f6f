"""The engine for models that the fast one does not know: PEFT's own layers, padded batches, one job at a time.

Slower and the same result. Knows nothing about steps or jobs' lives.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch.nn import functional

from trainer.base import Base
from trainer.data import Row, collate
from trainer.engine import WEIGHTS, Scores, must_fit, save_peft
from trainer.recipe import Recipe
from trainer.sites import linear_layers
from trainer.weights import Weights


class PeftSlot:
    """PEFT's layers in the model; their parameters and gradients are views of the job's vectors."""

    def __init__(self, base: Base, recipe: Recipe, start: Path | None) -> None:
        before = LoraConfig.from_pretrained(str(start)) if start else None
        self.rslora: bool = before.use_rslora if before else recipe.rslora
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # imported ones may have a fraction
            lora_dropout=0.0,
            target_modules=before.target_modules if before else linear_layers(base.model),
            use_rslora=self.rslora,
            bias="none",
            task_type="CAUSAL_LM",
        )
        devices = [base.device] if base.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice for notebooks
            torch.manual_seed(recipe.seed)
            self._model: Any = get_peft_model(base.model, config)
        self._base = base
        self.targets = sorted(config.target_modules or ())
        parameters = _by_file_name(self._model)
        self.weights = Weights({name: p.shape for name, p in parameters.items()}, base.device)
        if start is None:
            self.weights.put({name: p.detach() for name, p in parameters.items()})
        else:
            tensors = load_file(start / WEIGHTS)
            must_fit(tensors, self.weights)
            self.weights.put(tensors)
        views, gradients = self.weights.views(self.weights.master.detach()), self.weights.views(self.weights.gradient)
        for name, parameter in parameters.items():
            parameter.data, parameter.grad = views[name], gradients[name]

    def refresh(self) -> None:
        """The layers read the vector itself."""

    def finish_gradient(self) -> None:
        """It is complete."""

    def remove(self) -> None:
        """Take the layers out of the model again."""
        self._model.unload()
        self._base.model.requires_grad_(False)
        vars(self._base.model).pop("peft_config", None)


class PlainEngine:
    """Any causal LM of transformers, as PEFT trains it. Use as a context manager."""

    name = "peft"
    together = False
    worth_sharing = 0

    def __init__(self, base: Base) -> None:
        self.base = base
        self.device = base.device

    def __enter__(self) -> "PlainEngine":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def open(self, recipe: Recipe, start: Path | None = None) -> PeftSlot:
        """Put PEFT's layers in. Raises `AdapterInvalid` for a `start` that does not fit."""
        return PeftSlot(self.base, recipe, start)

    def close(self, slot: PeftSlot) -> None:
        """Take them out."""
        slot.remove()

    @contextlib.contextmanager
    def passing(self, work: Sequence[tuple[PeftSlot, Sequence[Row]]]) -> Iterator[list[Scores]]:
        """One pass over padded rows."""
        ((_, rows),) = work
        ids, learn = collate(rows, self.device)
        wanted = learn[:, 1:]
        targets = ids[:, 1:][wanted]
        logits = self._logits_at(ids, wanted).float()
        log_probs = -functional.cross_entropy(logits, targets, reduction="none")
        row_of = wanted.nonzero()[:, 0]
        counts = tuple(sum(row.learn[1:]) for row in rows)
        yield [Scores(log_probs, logits.detach().argmax(-1) == targets, row_of, counts)]

    def generating(self, slot: PeftSlot) -> contextlib.AbstractContextManager[None]:
        """The layers are in the model as long as the job is open."""
        return contextlib.nullcontext()

    def save(self, folder: Path, slot: PeftSlot, recipe: Recipe, weights: Mapping[str, torch.Tensor]) -> list[str]:
        """Write a standard PEFT folder; returns the names of the layers with an adapter."""
        save_peft(folder, self.base.name, recipe, slot.targets, slot.rslora, weights)
        return slot.targets

    def _logits_at(self, ids: torch.Tensor, wanted: torch.Tensor) -> Any:
        # The head over a whole vocabulary is a large part of a step; most positions carry no loss.
        model = self.base.model
        if not self.base.head_is_plain:
            return model(input_ids=ids, use_cache=False).logits[:, :-1][wanted]
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        return model.get_output_embeddings()(hidden[:, :-1][wanted])


def _by_file_name(peft_model: Any) -> dict[str, torch.nn.Parameter]:
    found = {name.replace(".default", ""): p for name, p in peft_model.named_parameters() if p.requires_grad}
    saved = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    assert found.keys() == saved.keys(), "every trained parameter must be saved, and nothing else"
    return dict(sorted(found.items()))

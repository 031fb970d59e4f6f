"""The fast engine: rows of several jobs through an unmodified transformers model at once, each with its own adapter.

Knows nothing about steps, losses or jobs' lives; it turns rows into log-probabilities whose gradient lands in the slots
that the rows belong to.
"""

import contextlib
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from rootstock.errors import AdapterInvalid
from trainer.attention import packed
from trainer.base import Base
from trainer.data import Row
from trainer.head import Head
from trainer.lora import GROUP_ALIGNMENT, Adapters, Group, Plan, Site, Slot, SpanViews
from trainer.norms import Norms
from trainer.packing import Packed, pack
from trainer.recipe import Recipe
from trainer.sites import sites_of
from trainer.weights import Weights

log = logging.getLogger(__name__)

WEIGHTS = "adapter_model.safetensors"

WORTH_SHARING = {"cpu": 512, "cuda": 16384}
"""Tokens from which a pass keeps the device busy: jobs that have as many gain nothing by sharing it."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How likely the model finds the learned tokens of some rows, row after row."""

    log_probs: torch.Tensor  # [labels] float32, with gradient
    correct: torch.Tensor  # [labels] bool: the likeliest token was the right one
    row_of: torch.Tensor  # [labels] int64
    counts: tuple[int, ...]  # labels of each row

    def by_row(self) -> torch.Tensor:
        """Log-probability of all that is learned in each row, `[rows]`, with gradient."""
        return self.log_probs.new_zeros(len(self.counts)).index_add(0, self.row_of, self.log_probs)


class Trained(Protocol):
    """What an engine trains for one job."""

    @property
    def weights(self) -> Weights:
        """Its vectors."""

    def refresh(self) -> None:
        """Compute with the weights as they are now."""

    def finish_gradient(self) -> None:
        """Complete the gradient of a step."""


class Engine(Protocol):
    """A model that can train; the loop knows nothing else of it."""

    name: str  # packed | peft | full
    together: bool  # may several jobs be open at once
    worth_sharing: int  # tokens up to which several jobs share a pass
    device: torch.device

    def open(self, recipe: Recipe, start: Path | None) -> Trained:
        """Begin a job: fresh weights by the recipe's seed, or those of the adapter in `start`."""

    def close(self, slot: Any) -> None:
        """Forget a job."""

    def passing(self, work: Sequence[tuple[Any, Sequence[Row]]]) -> contextlib.AbstractContextManager[list[Scores]]:
        """One forward pass; the backward pass belongs into the block. Scores are in the order of `work`."""

    def generating(self, slot: Any) -> contextlib.AbstractContextManager[None]:
        """While inside, whatever the model computes is computed with the job's weights."""

    def save(self, folder: Path, slot: Any, recipe: Recipe, weights: Mapping[str, torch.Tensor]) -> list[str]:
        """Write what serves these weights; returns the names of the layers that were trained."""


@dataclass(slots=True)
class _Stack:
    """The jobs of one rank with their copies and gradients in two matrices, so that one product serves all of them."""

    slots: list[Slot]
    work: dict[str, torch.Tensor] = field(default_factory=dict)
    gradient: dict[str, torch.Tensor] = field(default_factory=dict)

    def gather(self) -> None:
        works = torch.stack([slot.work for slot in self.slots])
        gradients = torch.stack([slot.weights.gradient for slot in self.slots])
        for slot, work, gradient in zip(self.slots, works, gradients, strict=True):
            slot.work, slot.weights.gradient = work, gradient
        start = 0
        for name, (rows, columns) in self.slots[0].weights.shapes.items():
            size = rows * columns
            self.work[name] = works[:, start : start + size].unflatten(1, (rows, columns))
            self.gradient[name] = gradients[:, start : start + size].unflatten(1, (rows, columns))
            start += size


class PackedEngine:
    """Packs, shares beginnings, and applies all jobs' adapters in one pass. Use as a context manager."""

    name = "packed"
    together = True

    def __init__(
        self,
        base: Base,
        *,
        share_prefixes: bool = True,
        products: Literal["grouped", "loop"] | None = None,
        checkpointing: bool = False,
    ) -> None:
        self.base = base
        self.device = base.device
        self._dtype = base.activations
        self._sites = sites_of(base)
        self._share = share_prefixes
        # One kernel for all jobs pays where starting kernels is what takes the time.
        self._grouped = (products or ("grouped" if base.device.type == "cuda" else "loop")) == "grouped"
        self.worth_sharing = WORTH_SHARING["cuda" if self._grouped else base.device.type]
        self._adapters = Adapters(base.model, self._sites)
        self._norms = Norms(base.model)
        self._head = Head.of(base.model)
        self._slots: list[Slot] = []
        self._stacks: dict[int, _Stack] = {}
        self._alone: dict[int, SpanViews] = {}
        self.checkpointing = checkpointing

    def __enter__(self) -> "PackedEngine":
        self._norms.install()
        self._adapters.install()
        return self

    def __exit__(self, *_: object) -> None:
        self._adapters.remove()
        self._norms.remove()
        self.checkpointing = False

    @property
    def checkpointing(self) -> bool:
        """Whether activations are computed again in the backward pass instead of being kept."""
        return self._checkpointing

    @checkpointing.setter
    def checkpointing(self, on: bool) -> None:
        self._checkpointing = on
        model = self.base.model
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        elif model.is_gradient_checkpointing:
            model.gradient_checkpointing_disable()
        # Layers are computed again only in training mode, in which dropout would be on: it is made zero.
        model.train(on)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0

    def open(self, recipe: Recipe, start: Path | None = None) -> Slot:
        """A slot with fresh weights, or with those of the PEFT folder `start`, on the layers that it has.

        Raises `AdapterInvalid` for a folder that does not fit.
        """
        if start is None:
            slot = self._slot(recipe, list(self._sites.values()), rslora=recipe.rslora)
            slot.initialise(recipe.seed)
        else:
            tensors = load_file(start / WEIGHTS)
            carried = [site for site in self._sites.values() if site.names[0] in tensors]
            slot = self._slot(recipe, carried, rslora=LoraConfig.from_pretrained(str(start)).use_rslora)
            must_fit(tensors, slot.weights)
            slot.weights.put(tensors)
            slot.refresh()
        self._slots.append(slot)
        self._arrange()
        return slot

    def close(self, slot: Slot) -> None:
        """Forget the slot."""
        self._slots.remove(slot)
        self._arrange()

    @contextlib.contextmanager
    def passing(self, work: Sequence[tuple[Slot, Sequence[Row]]]) -> Iterator[list[Scores]]:
        """One pass over the rows of each slot; gradients of a backward pass in the block land in the slots."""
        order = sorted(range(len(work)), key=lambda i: self._place(work[i][0]))
        row = pack([work[i][1] for i in order], share=self._share)
        plan = self._plan([work[i][0] for i in order], row)
        with packed(self.base.model, row, self.device), self._adapters.planned(plan):
            scores = self._scores(row)
            yield [scores[order.index(i)] for i in range(len(work))]

    @contextlib.contextmanager
    def generating(self, slot: Slot) -> Iterator[None]:
        """While inside, all tokens of any pass through the model are the slot's."""
        with self._adapters.planned(Plan([self._span(slot, 0, sys.maxsize)])):
            yield

    def _scores(self, row: Packed) -> list[Scores]:
        def here(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(self.device, non_blocking=True)

        hidden = self.base.model.get_decoder()(
            input_ids=here(row.ids).unsqueeze(0), position_ids=here(row.positions).unsqueeze(0), use_cache=False
        ).last_hidden_state[0]
        learned = hidden.index_select(0, here(row.sources))
        log_probs, correct = self._head.log_probs(learned, here(row.targets))
        sizes = [part.labels for part in row.parts]
        pieces = zip(row.parts, log_probs.split(sizes), correct.split(sizes), strict=True)
        return [Scores(score, hit, here(part.row_of), part.counts) for part, score, hit in pieces]

    def save(self, folder: Path, slot: Slot, recipe: Recipe, weights: Mapping[str, torch.Tensor]) -> list[str]:
        """Write a standard PEFT folder; returns the names of the layers with an adapter, as PEFT matches them."""
        targets = sorted({name.rpartition(".")[2] for name in slot.sites})
        save_peft(folder, self.base.name, recipe, targets, slot.rslora, weights)
        return targets

    def _slot(self, recipe: Recipe, sites: list[Site], *, rslora: bool = False) -> Slot:
        # Rank-stabilised LoRA (Kalajdzievski 2023) divides by the root of the rank.
        scale = recipe.alpha / math.sqrt(recipe.rank) if rslora else recipe.alpha / recipe.rank
        return Slot(sites, recipe.rank, scale, rslora, self.device, self._dtype)

    def _place(self, slot: Slot) -> tuple[int, int]:
        """Where a slot's tokens go in a packed row: those of one stack lie together, in its order."""
        stack = self._stacks.get(slot.rank)
        if stack is None or slot not in stack.slots:
            return 0, 0
        return slot.rank, stack.slots.index(slot)

    def _arrange(self) -> None:
        """Sort the slots into stacks anew."""
        self._stacks.clear()
        self._alone.clear()
        if not self._grouped:
            return
        everywhere = frozenset(self._sites)
        for rank in {slot.rank for slot in self._slots}:
            slots = [slot for slot in self._slots if slot.rank == rank and slot.sites == everywhere]
            if len(slots) > 1 and rank % GROUP_ALIGNMENT == 0:
                self._stacks[rank] = stack = _Stack(slots)
                stack.gather()

    def _plan(self, slots: Sequence[Slot], row: Packed) -> Plan:
        spans, found = [], dict(zip(map(id, slots), row.parts, strict=True))
        stacked = {id(slot) for stack in self._stacks.values() for slot in stack.slots}
        for slot, part in zip(slots, row.parts, strict=True):
            if id(slot) not in stacked:
                spans.append(self._span(slot, part.start, part.end))
        groups = []
        for stack in self._stacks.values():
            parts = [found.get(id(slot)) for slot in stack.slots]
            present = [part for part in parts if part is not None]
            if present:
                groups.append(
                    self._group(stack, present[0].start, [part.end - part.start if part else 0 for part in parts])
                )
        return Plan(spans, groups)

    def _span(self, slot: Slot, start: int, end: int) -> SpanViews:
        views = self._alone.get(id(slot))
        if views is None:
            work, gradient = slot.weights.views(slot.work), slot.weights.views(slot.weights.gradient)
            sites = [self._sites[name] for name in slot.sites]
            a, b = ({site.name: work[site.names[i]] for site in sites} for i in (0, 1))
            da, db = ({site.name: gradient[site.names[i]] for site in sites} for i in (0, 1))
            self._alone[id(slot)] = views = SpanViews(0, 0, a, b, da, db)
        return SpanViews(start, end, views.a, views.b, views.a_gradient, views.b_gradient)

    def _group(self, stack: _Stack, start: int, lengths: Sequence[int]) -> Group:
        ends = torch.tensor(lengths).cumsum(0)
        offsets = ends.to(self.device, torch.int32, non_blocking=True)
        names = {site.name: site.names for site in self._sites.values()}
        a, b = ({name: stack.work[pair[i]] for name, pair in names.items()} for i in (0, 1))
        da, db = ({name: stack.gradient[pair[i]] for name, pair in names.items()} for i in (0, 1))
        return Group(start, start + int(ends[-1]), offsets, a, b, da, db)


def save_peft(
    folder: Path,
    base_name: str,
    recipe: Recipe,
    targets: list[str],
    rslora: bool,
    weights: Mapping[str, torch.Tensor],
) -> None:
    """Write a standard PEFT folder with the weights given by the names of its file."""
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # imported ones may have a fraction
        lora_dropout=0.0,
        target_modules=targets,
        use_rslora=rslora,
        bias="none",
        task_type="CAUSAL_LM",
    )
    # vLLM compares the recorded base with the name it serves, so it is the public name, never a local path.
    config.base_model_name_or_path = base_name
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(dict(sorted(weights.items())), folder / WEIGHTS, metadata={"format": "pt"})


def must_fit(tensors: Mapping[str, torch.Tensor], weights: Weights) -> None:
    """Raise `AdapterInvalid` for tensors that are not exactly those of `weights`."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wanted = {name: tuple(shape) for name, shape in weights.shapes.items()}
    if found != wanted:
        odd = min(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise AdapterInvalid(f"The adapter to start from does not fit the base model at {odd}.")
